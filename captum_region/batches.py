"""Batches of images from arrays, memory maps and tensors alike: uint8 stays uint8 until it reaches a model."""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from captum_region.datasets.conversion import from_dataset, is_dataset
from captum_region.datasets.images import AttributeImages
from captum_region.progress import progress_bar
from captum_region.validation import check_count

ImageData = NDArray[np.uint8] | NDArray[np.floating[Any]] | Tensor
# Of what `check_images` makes ImageData; Any: torch's and Hugging Face's data sets.
ImageSource = ImageData | AttributeImages | Any


@dataclass(frozen=True, eq=False)
class Checked:
    """Images known to lie in [0, 1], such as `check_images` returned: it does not look through them again."""

    images: ImageData

    def __len__(self) -> int:
        return len(self.images)


def check_images(
    images: Any,
    *,
    name: str = "images",
    image_size: tuple[int, int] | None = None,
    channels: int | None = None,
    beyond: float = 0.0,
) -> ImageData:
    """Return `images` as an array or tensor of N x C x H x W, uint8 or float in [0, 1].

    They may also be `AttributeImages`, or a data set, which `from_dataset` reads and resizes to `image_size`. Images of
    another size with at most 4 columns, but more than 4 rows and "channels", have their channels last: ValueError.

    Parameters
    ----------
    images : images
    name : str
        The name of `images` in messages.
    image_size : (int, int), optional
        The height and width that they must have.
    channels : int, optional
        The number of channels of the classifier.
    beyond : float, default=0
        How far floats may leave [0, 1].

    Raises
    ------
    TypeError, ValueError
        If they have another type, shape, size or number of channels, or float images leave [0, 1] or hold NaN.
    """
    is_checked = isinstance(images, Checked)
    if is_dataset(images):
        images = from_dataset(images, size=image_size)
    if isinstance(images, AttributeImages | Checked):
        images = images.images
    # A memory map stays one: what is read of it can then be let go of.
    images = images if isinstance(images, Tensor | np.ndarray) else np.asarray(images)
    floating = images.is_floating_point() if isinstance(images, Tensor) else images.dtype.kind == "f"
    if not floating and images.dtype not in (torch.uint8, np.dtype(np.uint8)):
        raise TypeError(f"{name} must be uint8 or float in [0, 1], got {images.dtype}")
    if floating and isinstance(images, np.ndarray) and images.dtype not in (np.float16, np.float32, np.float64):
        images = images.astype(np.float64)  # of another byte order, or longer, which torch does not know
    shape = tuple(images.shape)
    if len(shape) != 4:
        raise ValueError(f"{name} must have shape (N, channels, height, width), got {shape}")
    if shape[2:] != image_size:
        if shape[3] <= 4 < min(shape[1:3]):
            raise ValueError(f"{name} must have shape (N, channels, height, width), channels first, got {shape}")
        if image_size is not None:
            raise ValueError(f"{name} must be {image_size[0]} x {image_size[1]} pixels, got {shape[2:]}")
    if channels is not None and shape[1] != channels:
        raise ValueError(f"{name} must have {channels} channels, as the classifier has; got {shape[1]}")
    checked: ImageData = images
    if floating and all(shape) and not is_checked:
        lows, highs = zip(*(batch.detach().aminmax() for batch in batches(checked, 256)), strict=True)
        low, high = float(torch.stack(lows).min()), float(torch.stack(highs).max())
        if not (low >= -beyond and high <= 1 + beyond):  # also when NaN
            within = "in [0, 1]" if not beyond else f"within {beyond:g} of [0, 1]"
            raise ValueError(f"{name} of float type must lie {within}, got {low} to {high}")
    return checked


def check_weights(sample_weight: Any, count: int) -> NDArray[np.float64]:
    """Return the images' weights as floats, all 1 if there are none.

    Raises
    ------
    ValueError
        If they are not `count` finite numbers of at least 0, or all 0.
    """
    if sample_weight is None:
        return np.ones(count)
    if isinstance(sample_weight, str):
        raise ValueError(f"sample_weight must hold {count} numbers, got {sample_weight!r}")
    weight: NDArray[np.float64] = np.asarray(sample_weight, dtype=float)
    if weight.shape != (count,) or not (np.isfinite(weight).all() and (weight >= 0).all() and weight.any()):
        raise ValueError(f"sample_weight must hold {count} finite weights of at least 0, not all zero")
    return weight


def take(images: ImageData, index: NDArray[np.intp] | slice) -> Tensor:
    """Return the images at `index` as a tensor of their own dtype; those of an array as a copy."""
    if isinstance(images, Tensor):
        return images[index if isinstance(index, slice) else torch.as_tensor(index, device=images.device)]
    # A copy, for a slice too: torch warns of read-only memory, which a memory map is.
    return torch.from_numpy(np.array(images[index]))


def as_bytes(images: ImageData) -> NDArray[np.uint8]:
    """Return images, uint8 or float in [0, 1], as an array of uint8, floats rounded to the nearest.

    Examples
    --------
    >>> as_bytes(torch.tensor([0.0, 0.5, 1.0]))
    array([  0, 128, 255], dtype=uint8)
    """
    tensor = images if isinstance(images, Tensor) else torch.from_numpy(images.copy())
    tensor = tensor if tensor.dtype == torch.uint8 else tensor.double().mul(255).round().byte()
    return tensor.numpy(force=True)


def as_floats(images: Tensor) -> Tensor:
    """Return uint8 images as floats in [0, 1], and floats as float32.

    Examples
    --------
    >>> as_floats(torch.tensor([0, 255], dtype=torch.uint8))
    tensor([0., 1.])
    """
    return images.float() / 255 if images.dtype == torch.uint8 else images.float()


def batches(
    images: ImageData, batch_size: int, *, start: int = 0, show_progress: bool = False, desc: str = ""
) -> Iterator[Tensor]:
    """Yield `images` in order from `start` on, `batch_size` at a time, with a progress bar on stderr if asked.

    Raises
    ------
    ValueError
        If `batch_size` is below 1.
    """
    check_count("batch_size", batch_size)
    with progress_bar(total=len(images), initial=start, desc=desc, unit="img", disable=not show_progress) as bar:
        for first in range(start, len(images), batch_size):
            batch = take(images, slice(first, first + batch_size))
            _release(images)
            yield batch
            bar.update(len(batch))


def _release(images: ImageData) -> None:
    """Free what was read of a read-only memory map, which would stay in memory until the process ends."""
    if isinstance(images, np.memmap) and images.mode == "r" and hasattr(mmap, "MADV_DONTNEED"):
        images._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]

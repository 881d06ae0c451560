"""Batches of images from arrays, memory maps and tensors alike: uint8 stays uint8 until it reaches a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    ImageData = NDArray[np.uint8] | NDArray[np.floating[Any]] | Tensor


def check_images(images: Any, *, name: str = "images", image_size: tuple[int, int] | None = None) -> ImageData:
    """Return `images` as an array or tensor of N x C x H x W, uint8 or float in [0, 1], if that is what they are.

    Raises
    ------
    TypeError, ValueError
        If they have another type, shape or size, or float images leave [0, 1] or hold NaN.
    """
    images = images if isinstance(images, Tensor) else np.asarray(images)
    floating = images.is_floating_point() if isinstance(images, Tensor) else images.dtype.kind == "f"
    if not floating and images.dtype not in (torch.uint8, np.dtype(np.uint8)):
        raise TypeError(f"{name} must be uint8 or float in [0, 1], got {images.dtype}")
    if images.ndim != 4:
        raise ValueError(f"{name} must have shape (N, channels, height, width), got {tuple(images.shape)}")
    if image_size is not None and tuple(images.shape[2:]) != image_size:
        raise ValueError(f"{name} must be {image_size[0]} x {image_size[1]} pixels, got {tuple(images.shape[2:])}")
    if floating and len(images):
        low, high = float(images.min()), float(images.max())
        if not (low >= 0 and high <= 1):  # also when NaN
            raise ValueError(f"{name} of float type must lie in [0, 1], got {low} to {high}")
    checked: ImageData = images
    return checked


def take(images: ImageData, index: NDArray[np.intp] | slice) -> Tensor:
    """Return the images at `index` as a tensor of their own dtype; those of an array as a copy."""
    if isinstance(images, Tensor):
        return images[index if isinstance(index, slice) else torch.as_tensor(index, device=images.device)]
    # A copy, for a slice too: torch warns of read-only memory, which a memory map is.
    return torch.from_numpy(np.array(images[index]))


def batches(images: ImageData, batch_size: int, *, show_progress: bool = False, desc: str = "") -> Iterator[Tensor]:
    """Yield `images` in order, `batch_size` at a time, with a progress bar on stderr if asked.

    Raises
    ------
    ValueError
        If `batch_size` is below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    with tqdm(total=len(images), desc=desc, unit="img", disable=not show_progress) as bar:
        for start in range(0, len(images), batch_size):
            batch = take(images, slice(start, start + batch_size))
            yield batch
            bar.update(len(batch))

"""Windows of slices, or other images, in batches, and as a model takes them; from arrays, data sets and iterables."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from captum_region.batches import batches
from captum_region.channels.segmentation import SegmentationEvidence
from captum_region.datasets.conversion import items_of
from captum_region.progress import progress_bar
from captum_region.validation import check_count


def window_batches(
    stacks: Any, batch_size: int, *, show_progress: bool = False, desc: str = ""
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield windows in batches, with their labels if they come as pairs.

    Parameters
    ----------
    stacks : ndarray, memmap or Tensor of shape (N, C, height, width), data set, DataLoader or iterable
        The items of the latter are windows of shape (C, height, width), or tuples that start with one.
    batch_size : int
    show_progress : bool, default=False
        A progress bar on stderr.
    desc : str
        Its description.

    Yields
    ------
    Tensor, shape (n, C, height, width)
    Tensor, shape (n, ...), or None
        The second parts of the pairs.

    Raises
    ------
    TypeError, ValueError
        If an item is not a window, or `batch_size` is below 1.
    """
    if isinstance(stacks, Tensor | np.ndarray):
        if stacks.ndim not in (4, 5):
            raise ValueError(f"stacks must have shape (N, slices, height, width), got {tuple(stacks.shape)}")
        images: Any = stacks
        for batch in batches(images, batch_size, show_progress=show_progress, desc=desc):
            yield batch, None
        return
    check_count("batch_size", batch_size)
    source = stacks.dataset if isinstance(stacks, DataLoader) else stacks
    total = len(source) if hasattr(source, "__len__") else None
    items = map(_pair, items_of(stacks))
    with progress_bar(total=total, desc=desc, unit="img", disable=not show_progress) as bar:
        while some := list(islice(items, batch_size)):
            windows, labels = zip(*some, strict=True)
            yield _stacked(windows), None if labels[0] is None else _stacked(labels)
            bar.update(len(some))


def _pair(item: Any) -> tuple[Any, Any]:
    window, *rest = item if isinstance(item, tuple | list) else (item,)
    if not isinstance(window, Tensor | np.ndarray):
        raise TypeError(f"stacks must hold arrays or tensors, or tuples that start with one, got {type(item).__name__}")
    return window, rest[0] if rest else None


def _stacked(parts: tuple[Any, ...]) -> Tensor:
    shapes = {np.shape(part) for part in parts}
    if len(shapes) > 1:
        raise ValueError(f"stacks must hold windows and labels of one size, got {sorted(shapes)}")
    return torch.stack([torch.as_tensor(part) for part in parts])


def model_of(function: Any) -> nn.Module | None:
    """Return a function's model: itself, or what it keeps under this name; None if there is none."""
    is_evidence = isinstance(function, SegmentationEvidence)  # whose own mode says nothing of its model's
    model = function if isinstance(function, nn.Module) and not is_evidence else getattr(function, "model", None)
    return model if isinstance(model, nn.Module) else None


def as_inputs(windows: Tensor, model: nn.Module | None, device: str | torch.device | None = None) -> Tensor:
    """Return windows on a model's device (or `device`) and in its type; uint8 becomes floats in [0, 1].

    Raises
    ------
    TypeError
        If they are neither uint8 nor floats.
    """
    if windows.dtype != torch.uint8 and not windows.is_floating_point():
        raise TypeError(f"stacks must be uint8, or float as the model takes it, got {windows.dtype}")
    weight = None if model is None else next((each for each in model.parameters() if each.is_floating_point()), None)
    if weight is not None:
        device, dtype = weight.device if device is None else device, weight.dtype
    else:
        dtype = windows.dtype if windows.is_floating_point() else torch.get_default_dtype()
    moved = windows.detach().to(device).to(dtype)
    return moved / 255 if windows.dtype == torch.uint8 else moved

"""How a network treats the slices of its windows: shares, asymmetry, swap test, kernels; and a window as a picture."""

import inspect
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from captum.attr import Attribution
from numpy.typing import NDArray
from torch import Tensor, nn

from captum_region.channels import (
    ChannelAttribution,
    ChannelShares,
    channel_mask,
    kernel_asymmetry,
    segmentation_evidence,
    swap_test,
)
from captum_region.channels.segmentation import prediction_of
from captum_region.channels.shares import channel_names
from captum_region.channels.windows import as_inputs
from captum_region.randomness import seeded
from captum_region.stacks import SliceWindows, Stack
from captum_region.stacks.windows import as_windows

Method = Callable[[nn.Module], Attribution]
# Of a picture, in pixels.
_SIDE = 192


@dataclass(frozen=True)
class How:
    """How attention is measured."""

    attribution: Method
    class_index: int = 1
    region: str = "prediction"
    batch_size: int = 4


def stacks_of(stacks: Any, name: str) -> list[Stack]:
    """Return stacks as a list; TypeError or ValueError if they are something else, or two have one name."""
    found = [stacks] if isinstance(stacks, Stack) else list(stacks) if isinstance(stacks, Sequence) else []
    if not found or not all(isinstance(each, Stack) for each in found):
        raise TypeError(f"{name} must be a Stack or a sequence of Stacks, got {type(stacks).__name__}")
    names = [each.name for each in found]
    if len(set(names)) < len(names):
        raise ValueError(f"{name} must hold stacks of different names, got {', '.join(names)}")
    return found


def windows_of(stacks: Any, window: int, border: str, name: str) -> list[SliceWindows]:
    """Return the windows of stacks with labels."""
    found = stacks_of(stacks, name)
    try:
        windows = [SliceWindows(each, window=window, border=border) for each in found]
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    return as_windows(windows, name=name)


def attention(
    model: nn.Module, windows: Sequence[SliceWindows], how: How, layer: str | None = None
) -> dict[str, float]:
    """Return shares, asymmetry, the results of the swap test and the asymmetry of the kernels.

    Parameters
    ----------
    model : nn.Module
        In eval mode, on the device to compute on.
    windows : sequence of SliceWindows
        One of each volume; volumes count alike.
    how : How
    layer : str, optional
        The first convolution, if it is not the first that is found.

    Returns
    -------
    dict of str to float
        ``share_previous`` ... for each slice, ``asymmetry`` of the pair next to the centre, ``asymmetry_2`` ... of the
        others, ``swap_change``, ``swap_dice`` and ``kernel_asymmetry``. NaN where the model predicts the class nowhere,
        or a pair of slices holds too little.
    """
    swaps = [swap_test(model, each, how.class_index, batch_size=how.batch_size) for each in windows]
    dices = np.array([swap.dice for swap in swaps])
    names = channel_names(windows[0].window)
    with warnings.catch_warnings():
        # NaN says it.
        warnings.filterwarnings("ignore", message=".*(asymmetry is NaN|shares are NaN)", category=RuntimeWarning)
        found = shares(model, windows, how)
        kernels = kernel_asymmetry(model, layer).asymmetry
    mean = np.full(len(names), np.nan) if found is None else found.mean
    pairs = np.full(len(names) // 2, np.nan) if found is None else found.asymmetry
    measured = {f"share_{name}": value for name, value in zip(names, mean, strict=True)}
    measured |= {"asymmetry" if pair == 0 else f"asymmetry_{pair + 1}": value for pair, value in enumerate(pairs)}
    measured["swap_change"] = np.mean([swap.change for swap in swaps])
    measured["swap_dice"] = np.nan if np.isnan(dices).all() else np.nanmean(dices)
    measured["kernel_asymmetry"] = kernels[0]
    return {name: float(value) for name, value in measured.items()}


def shares(model: nn.Module, windows: Sequence[SliceWindows], how: How) -> ChannelShares | None:
    """Return the shares of slices over windows, by volume; None if there is no mask, or no attribution, anywhere."""
    method = ChannelAttribution(how.attribution(segmentation_evidence(model, how.class_index, how.region)))
    options: Any = {"skip_empty": True, "batch_size": how.batch_size, "random_state": 0}
    parts = [method.image_shares(each, **options) for each in windows]
    groups = [each.stack.name for each in windows for _ in range(len(each))]
    of_images = np.concatenate(parts)
    return None if np.isnan(of_images).all() else ChannelShares.from_shares(of_images, groups)


@dataclass(frozen=True)
class Example:
    """One window as an arm sees it, cut to a square in its middle.

    Attributes
    ----------
    images : ndarray, shape (W, height, width)
    label, prediction : ndarray, shape (height, width)
    saliency : ndarray, shape (W, height, width)
        Absolute values; 0 where the class is predicted nowhere.
    """

    images: NDArray[np.float32]
    label: NDArray[np.bool_]
    prediction: NDArray[np.bool_]
    saliency: NDArray[np.float32]


def example(model: nn.Module, windows: SliceWindows, how: How) -> Example:
    """Return the window in the middle of a volume."""
    item = windows[len(windows) // 2]
    images, label = item if isinstance(item, tuple) else (item, torch.zeros(item.shape[1:]))
    inputs = as_inputs(images[None], model)
    with torch.no_grad():
        predicted = prediction_of(model(inputs))[0] == how.class_index
    evidence = segmentation_evidence(model, how.class_index, how.region)
    masks = evidence.masks(inputs, label[None] if how.region == "label" else None, check=False)
    values = torch.zeros_like(inputs)
    if masks.any():
        method: Any = how.attribution(evidence)
        options = {}
        if "feature_mask" in inspect.signature(getattr(method, "attribution_method", method).attribute).parameters:
            options["feature_mask"] = channel_mask(inputs)
        with seeded(0, numpy=True):
            values = method.attribute(inputs.requires_grad_(), additional_forward_args=(masks,), **options)
    return Example(
        _cut(images).numpy(),
        (_cut(label) == how.class_index).numpy(),
        _cut(predicted).cpu().numpy(),
        _cut(values[0].detach().abs()).cpu().numpy(),
    )


def _cut(values: Tensor) -> Tensor:
    height, width = values.shape[-2:]
    top, left = max(0, height - _SIDE) // 2, max(0, width - _SIDE) // 2
    return values[..., top : top + _SIDE, left : left + _SIDE]

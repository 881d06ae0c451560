"""Whether a network treats the slices before and after the centre alike: what it answers when they change places."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from captum_region.channels.segmentation import logits_of, prediction_of
from captum_region.channels.shares import slice_asymmetry
from captum_region.channels.windows import as_inputs, window_batches
from captum_region.evaluation import check_evaluating
from captum_region.first_layer import find_first_layer


@dataclass(frozen=True, eq=False)
class SwapTest:
    """How a model's answer changes when the slices before and after the centre change places.

    Attributes
    ----------
    change : float
        Mean absolute change of the probability, in [0, 1]; 0 if the model does not tell the two sides apart.
    dice : float
        Dice coefficient of the two predictions, over all windows together; 1 if they are the same. NaN if neither
        contains the class.
    changes : ndarray, shape (N,)
        The change of each window, mean over its pixels.
    """

    change: float
    dice: float
    changes: NDArray[np.float64] = field(repr=False)


def swap_test(
    model: nn.Module,
    stacks: Any,
    class_index: int | None = None,
    *,
    batch_size: int = 16,
    device: str | torch.device | None = None,
    show_progress: bool = False,
) -> SwapTest:
    """Exchange the slices before and after the centre, and measure how the model's answer changes.

    In windows of more than three slices all pairs change places: the order is reversed.

    Parameters
    ----------
    model : nn.Module
        In eval mode; windows to logits of shape (N, classes, height, width), or (N, classes). One logit is that of
        class 1 against class 0.
    stacks : ndarray, memmap or Tensor of shape (N, slices, height, width), data set, DataLoader or iterable
        Windows of an odd number of slices, uint8 or float as the model takes it, see `ChannelAttribution.attribute`.
    class_index : int, optional
        The class whose Dice coefficient is taken; by default the mean over all classes but 0, the background.
    batch_size : int, default=16
        Windows at a time.
    device : str or torch.device, optional
        Where the windows are moved; by default to the model's device.
    show_progress : bool, default=False
        A progress bar on stderr.

    Returns
    -------
    SwapTest
        The change of probability is half the sum over classes of the absolute changes (the total variation distance);
        with two classes, the change of either.

    Raises
    ------
    TypeError, ValueError
        If the model is in train mode or gives no logits, there is no window, or an argument does not fit.

    See Also
    --------
    ChannelAttribution : Which slices the model attends to.

    Examples
    --------
    >>> network = nn.Conv2d(3, 2, 1).eval()
    >>> stacks = torch.rand(4, 3, 8, 8)
    >>> swap_test(network, stacks).change > 0
    True
    >>> from captum_region.first_layer import neutralize_first_layer
    >>> found = swap_test(neutralize_first_layer(network, "reflect").eval(), stacks)
    >>> found.change < 1e-6
    True
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    check_evaluating(model, "model")
    changes, overlap, sizes = [], np.zeros(0), np.zeros(0)
    batches = window_batches(stacks, batch_size, show_progress=show_progress, desc="swap test")
    for windows, _ in batches:
        if (slices := windows.shape[1]) < 3 or slices % 2 == 0:
            raise ValueError(f"stacks must have an odd number of slices, at least 3, got {slices}")
        inputs = as_inputs(windows, model, device)
        with torch.no_grad():
            both = [logits_of(model, each) for each in (inputs, inputs.flip(1))]
        if class_index is not None and not 0 <= class_index < max(2, both[0].shape[1]):
            raise ValueError(f"class_index must be a class of the model's logits, got {class_index}")
        changes.append(_change(*both))
        common, size = _counts(*both)
        overlap, sizes = (common, size) if not len(sizes) else (overlap + common, sizes + size)
    if not changes:
        raise ValueError("stacks must hold at least one window, got none")
    of_windows = np.concatenate(changes)
    dice = np.divide(2 * overlap, sizes, out=np.full_like(sizes, np.nan), where=sizes > 0)
    chosen = dice[1:] if class_index is None else dice[class_index : class_index + 1]
    mean = np.nan if np.isnan(chosen).all() else float(np.nanmean(chosen))
    return SwapTest(float(of_windows.mean()), mean, of_windows)


def _change(first: Tensor, second: Tensor) -> NDArray[np.float64]:
    """Return the mean change of the probabilities of each image."""
    first, second = (logits.float() if logits.dtype.itemsize < 4 else logits for logits in (first, second))
    if first.shape[1] == 1:
        change = (first.sigmoid() - second.sigmoid()).abs()
    else:
        change = (first.softmax(1) - second.softmax(1)).abs().sum(1) / 2
    return change.view(len(change), -1).mean(1).double().cpu().numpy()


def _counts(first: Tensor, second: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return, for each class, how many pixels both predictions give it, and the sum of how many each does."""
    classes = max(2, first.shape[1])
    one, other = (prediction_of(logits).flatten() for logits in (first, second))
    common = torch.bincount(one[one == other], minlength=classes)
    size = torch.bincount(one, minlength=classes) + torch.bincount(other, minlength=classes)
    return common.double().cpu().numpy(), size.double().cpu().numpy()


@dataclass(frozen=True, eq=False)
class KernelAsymmetry:
    """How strongly the kernels of a first convolution weigh its channels.

    Attributes
    ----------
    layer : str
        The convolution's name.
    norms : ndarray, shape (C,)
        The L2 norm of each channel's kernels.
    shares : ndarray, shape (C,)
        Norms over their sum.
    asymmetry : ndarray, shape ((C - 1) / 2,)
        `slice_asymmetry` of the shares.
    """

    layer: str
    norms: NDArray[np.float64]
    shares: NDArray[np.float64]
    asymmetry: NDArray[np.float64]


def kernel_asymmetry(model: nn.Module, layer: str | None = None) -> KernelAsymmetry:
    """Return how a network's first convolution weighs its channels, from the weights alone.

    Parameters
    ----------
    model : nn.Module
    layer : str, optional
        The convolution's name; by default `captum_region.first_layer.find_first_layer` finds it.

    Returns
    -------
    KernelAsymmetry
        An asymmetry of 0 means equal norms, not equal kernels: `swap_test` tells.

    Raises
    ------
    TypeError, ValueError
        If there is no such layer, it cannot be treated, or its number of channels is even or below 3.

    Examples
    --------
    >>> network = nn.Conv2d(3, 1, 1)
    >>> _ = network.weight.data.copy_(torch.tensor([1.0, 2.0, 3.0])[:, None, None])
    >>> found = kernel_asymmetry(network)
    >>> found.norms, found.asymmetry
    (array([1., 2., 3.]), array([0.5]))
    """
    name, convolution = find_first_layer(model, layer)
    norms = convolution.weight.detach().cpu().double().movedim(1, 0).flatten(1).norm(dim=1).numpy()
    if not norms.any():
        raise ValueError(f"layer {name!r} must have a weight that is not 0 everywhere")
    shares = norms / norms.sum()
    return KernelAsymmetry(name, norms, shares, slice_asymmetry(shares))

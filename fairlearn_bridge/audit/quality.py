"""PSNR and SSIM of each image of a batch."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

# Wang et al. 2004: a Gaussian window of 11 pixels with a standard deviation of 1.5, and two constants.
_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2
# ITU-R BT.601: brightness of red, green and blue.
_LUMA = (0.299, 0.587, 0.114)
# Of the images that are compared at a time: a map of them fits the processor's cache.
_PIXELS = 2**17


def psnr(images: Tensor, others: Tensor) -> NDArray[np.float64]:
    """Return the peak signal-to-noise ratio of each image in dB, infinite for equal ones.

    Parameters
    ----------
    images, others : Tensor of uint8, shape (N, C, height, width)

    Returns
    -------
    ndarray, shape (N,)

    Examples
    --------
    >>> import torch
    >>> grey = torch.full((1, 3, 8, 8), 100, dtype=torch.uint8)
    >>> psnr(grey, grey + 5).round(3)
    array([34.151])
    """
    error = _by_parts(_squared_error, images, others)
    with np.errstate(divide="ignore"):
        found: NDArray[np.float64] = 10 * np.log10(255**2 / error)
    return found


def ssim(images: Tensor, others: Tensor) -> NDArray[np.float64]:
    """Return the structural similarity of the luma of each image, 1 for equal ones.

    The mean over all positions of the window that lie inside the image, as in the paper. For an image that is smaller
    than the window of 11 x 11 pixels it is not defined: NaN.

    Parameters
    ----------
    images, others : Tensor of uint8, shape (N, C, height, width)
        With C = 3, red, green and blue; of any other number of channels their mean is compared.

    Returns
    -------
    ndarray, shape (N,)
        In [-1, 1].

    References
    ----------
    Z. Wang, A. C. Bovik, H. R. Sheikh, E. P. Simoncelli, "Image quality assessment: from error visibility to structural
    similarity", IEEE Transactions on Image Processing 13(4), 2004.

    Examples
    --------
    >>> import torch
    >>> image = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    >>> ssim(image, image)
    array([1.])
    """
    if min(images.shape[2:]) < _WINDOW:
        return np.full(len(images), np.nan)
    return _by_parts(_ssim, images, others)


def _by_parts(function: Callable[[Tensor, Tensor], Tensor], images: Tensor, others: Tensor) -> NDArray[np.float64]:
    """Return what a function gives of a few images at a time, whose floats fit the processor's cache."""
    count = max(1, _PIXELS // (images.shape[2] * images.shape[3]))
    parts = zip(images.split(count), others.split(count), strict=True)
    return np.concatenate([function(*pair).double().numpy(force=True) for pair in parts])


def _squared_error(images: Tensor, others: Tensor) -> Tensor:
    difference = images.float().sub_(others).flatten(1)
    norm: Tensor = torch.linalg.vector_norm(difference, dim=1)
    return norm.square() / difference.shape[1]


def _ssim(images: Tensor, others: Tensor) -> Tensor:
    x, y = _luma(images), _luma(others)
    # One map at a time: several together do not fit the cache.
    mean_x, mean_y, squares, product = map(_averaged, (x, y, x.square().add_(y.square()), x * y))
    means = mean_x * mean_y
    square_means = mean_x.square_().add_(mean_y.square_())
    luminance = (means * 2).add_(_C1).div_(square_means + _C1)
    structure = product.sub_(means).mul_(2).add_(_C2).div_(squares.sub_(square_means).add_(_C2))
    return luminance.mul_(structure).mean((1, 2))


@cache
def _weights() -> list[float]:
    """Return the weights of the window along an axis."""
    offset = torch.arange(_WINDOW) - _WINDOW // 2
    weights = torch.exp(-offset.square() / (2 * _SIGMA**2))
    return (weights / weights.sum()).tolist()


def _averaged(values: Tensor) -> Tensor:
    """Return the weighted mean of the window at each position of maps, N x height x width."""
    first, *rest = _weights()
    for axis in (1, 2):
        size = values.shape[axis] - _WINDOW + 1
        # Sums of shifted maps: some ten times as fast as a convolution of one channel.
        average = values.narrow(axis, 0, size) * first
        for shift, weight in enumerate(rest, 1):
            average.add_(values.narrow(axis, shift, size), alpha=weight)
        values = average
    return values


def _luma(images: Tensor) -> Tensor:
    """Return the brightness in [0, 1], N x height x width."""
    channels = images.unbind(1)
    weights = _LUMA if len(channels) == 3 else (1 / len(channels),) * len(channels)
    luma = channels[0] * (weights[0] / 255)
    for channel, weight in zip(channels[1:], weights[1:], strict=True):
        luma.add_(channel, alpha=weight / 255)
    return luma

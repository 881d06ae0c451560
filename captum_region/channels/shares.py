"""Shares of attribution by channel, their asymmetry about the centre, and both with intervals."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from captum_region.intervals import jackknife_interval
from captum_region.plotting import LINE_COLORS, add_legend, add_title, figure_of, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike, NDArray

# Below this share of the whole, the ratio of a pair's two sides is noise.
LEAST_SHARE = 0.05


def channel_shares(attributions: ArrayLike | Tensor, *, allow_equal: bool = False) -> NDArray[np.float64]:
    """Return the share of each channel in the attributions of images.

    The share of a channel is the mean over its pixels of the absolute attribution, divided by the sum over channels.

    Parameters
    ----------
    attributions : Tensor or array-like, shape (N, C, height, width) or (N, C, depth, height, width)
        With a value for each channel, such as those of Captum's Saliency or IntegratedGradients; at least 2 channels.
    allow_equal : bool, default=False
        Accept attributions that are the same in all channels to the last bit. Those of a network whose first layer
        treats all channels alike can be, and shares of 1/C are then a result.

    Returns
    -------
    ndarray of float64, shape (N, C)
        In [0, 1], with sum 1; NaN for an image whose attribution is 0 everywhere.

    Raises
    ------
    ValueError
        If the shape is another, a value is not finite, or all channels are the same by construction, as those of
        `captum_region.RegionAttribution`, or of a map of one channel (Captum's LayerGradCam) that was expanded: they
        say nothing about channels.

    Warns
    -----
    RuntimeWarning
        If the attribution of an image is 0 everywhere.

    See Also
    --------
    ChannelAttribution : Attributes and takes the shares, for any number of images.
    slice_asymmetry : How the shares differ between the two sides of a stack.

    Examples
    --------
    >>> attributions = torch.zeros(1, 3, 2, 2)
    >>> attributions[0, 0], attributions[0, 1, 0, 0] = -1.0, 4.0
    >>> channel_shares(attributions)
    array([[0.5, 0.5, 0. ]])
    """
    values = attributions.detach() if isinstance(attributions, Tensor) else torch.as_tensor(np.asarray(attributions))
    if values.ndim not in (4, 5):
        raise ValueError(
            "attributions must have shape (N, C, height, width) or (N, C, depth, height, width), "
            f"got {tuple(values.shape)}"
        )
    if (
        values.shape[1] > 1
        and not allow_equal
        and torch.equal(values, values[:, :1].expand_as(values))
        and values.any()
    ):
        raise ValueError(
            "attributions must have a map for each channel, got the same in all channels, as RegionAttribution and "
            "an expanded LayerGradCam give; allow_equal=True accepts them, for a network that treats all channels alike"
        )
    shares = shares_of(values)
    warn_of_zeros(np.flatnonzero(np.isnan(shares[:, 0])))
    return shares


def shares_of(values: Tensor) -> NDArray[np.float64]:
    """Return the shares of attributions of shape (N, C, ...), NaN where all are 0."""
    if values.shape[1] < 2 or not all(values.shape[1:]):
        raise ValueError(f"attributions must have at least 2 channels, and pixels; got shape {tuple(values.shape)}")
    if values.stride(1) == 0:  # a view of one map
        raise ValueError("attributions must have a map for each channel, got one map expanded to all channels")
    if not values.is_floating_point() or values.dtype.itemsize < 4:
        values = values.float()
    # In the values' own type, which torch sums pairwise: in float64 it takes several times as long.
    means: NDArray[np.float64] = values.abs().flatten(2).mean(2).cpu().double().numpy()
    if len(wrong := np.flatnonzero(~np.isfinite(means).all(1))):
        raise ValueError(f"attributions must be finite, got NaN or infinity for image {_some(wrong)}")
    whole = means.sum(1, keepdims=True)
    return np.divide(means, whole, out=np.full_like(means, np.nan), where=whole > 0)


def warn_of_zeros(images: NDArray[np.intp]) -> None:
    """Warn that images have an attribution of 0 everywhere, if there are any."""
    if len(images):
        text = f"the attribution of image {_some(images)} is 0 everywhere, so its shares are NaN"
        warnings.warn(text, RuntimeWarning, stacklevel=3)


def _some(numbers: NDArray[np.intp]) -> str:
    more = f" and {len(numbers) - 5} more" if len(numbers) > 5 else ""
    return ", ".join(map(str, numbers[:5].tolist())) + more


def slice_asymmetry(shares: ArrayLike | Tensor, *, least: float = LEAST_SHARE) -> NDArray[np.float64]:
    """Return by how much the slices after the centre outweigh those before it, for each pair at +-k.

    The asymmetry of a pair is (next - previous) / (next + previous). This definition is ours: the paper's own is not
    published in the text that we have.

    Parameters
    ----------
    shares : Tensor or array-like, shape (..., C)
        From `channel_shares`, in the order of the slices; C is odd and at least 3.
    least : float, default=0.05
        The share of the whole that a pair must hold: of less, the ratio is noise.

    Returns
    -------
    ndarray of float64, shape (..., (C - 1) / 2)
        In [-1, 1], from the pair next to the centre outwards: -1 if only the slice before counts, 1 if only the slice
        after, 0 if both count alike. NaN where the pair holds less than `least`, or the shares are NaN.

    Raises
    ------
    ValueError
        If the number of slices is even or below 3, a share is negative, or `least` does not lie in [0, 1).

    Warns
    -----
    RuntimeWarning
        If a pair holds less than `least`.

    References
    ----------
    Molnar, Szabo, Horvath, "Unintended Bias in 2D+ Image Segmentation and Its Effect on Attention Asymmetry", arXiv
    2505.14105.

    Examples
    --------
    >>> slice_asymmetry([0.3, 0.6, 0.1])
    array([-0.5])
    >>> slice_asymmetry([[0.1, 0.1, 0.4, 0.3, 0.1]])
    array([[0.5, 0. ]])
    """
    values = np.asarray(shares.detach().cpu() if isinstance(shares, Tensor) else shares, dtype=float)
    slices = values.shape[-1] if values.ndim else 0
    if slices < 3 or slices % 2 == 0:
        raise ValueError(f"shares must be those of an odd number of slices, at least 3, got {slices}")
    if (values < 0).any():
        raise ValueError(f"shares must be at least 0, got {np.nanmin(values):g}")
    if not 0 <= least < 1:
        raise ValueError(f"least must lie in [0, 1), got {least}")
    small = pair_shares(values) < least
    for pair in np.flatnonzero(small.reshape(-1, slices // 2).any(0)):
        rows = small[..., pair]
        which = f" in {rows.sum()} of {rows.size} rows" if rows.size > 1 else ""
        warnings.warn(
            f"the slices at +-{pair + 1} hold less than {least:g} of the whole{which}, so their asymmetry is NaN",
            RuntimeWarning,
            stacklevel=2,
        )
    return np.where(small, np.nan, raw_asymmetry(values))


def raw_asymmetry(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the asymmetry of each pair however little it holds; NaN if that is nothing."""
    half = shares.shape[-1] // 2
    before, after = shares[..., :half][..., ::-1], shares[..., half + 1 :]
    both = before + after
    return np.divide(after - before, both, out=np.full_like(both, np.nan), where=both > 0)


def pair_shares(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the share of the whole that each pair holds, from the centre outwards."""
    half = shares.shape[-1] // 2
    both, whole = shares[..., :half][..., ::-1] + shares[..., half + 1 :], shares.sum(-1, keepdims=True)
    return np.divide(both, whole, out=np.zeros_like(both), where=~(whole == 0))


@dataclass(frozen=True, eq=False)
class ChannelShares:
    """The shares of channels over many images, their asymmetry, and intervals of both.

    Attributes
    ----------
    shares : ndarray, shape (N, C)
        Of each image; NaN where the attribution is 0 everywhere or was skipped.
    groups : ndarray, shape (N,), or None
        The volume, or seed, of each image.
    mean : ndarray, shape (C,)
        The mean over images; with groups, the mean of the groups' means.
    mean_interval : ndarray, shape (2, C)
        Its lower and upper end; NaN with fewer than two groups.
    asymmetry : ndarray, shape ((C - 1) / 2,)
        `slice_asymmetry` of the mean; empty if C is even.
    asymmetry_interval : ndarray, shape (2, (C - 1) / 2)

    See Also
    --------
    ChannelAttribution : Measures them.

    Examples
    --------
    >>> found = ChannelShares.from_shares([[0.3, 0.6, 0.1], [0.3, 0.4, 0.3]], groups=["a", "b"])
    >>> print(found.table().round(2).to_string(index=False))
      measure    slice  value  low  high
        share previous    0.3  0.3   0.3
        share   centre    0.5  0.0   1.0
        share     next    0.2  0.0   1.0
    asymmetry      +-1   -0.2 -1.0   1.0
    """

    shares: NDArray[np.float64] = field(repr=False)
    groups: NDArray[Any] | None = field(repr=False)
    mean: NDArray[np.float64]
    mean_interval: NDArray[np.float64]
    asymmetry: NDArray[np.float64]
    asymmetry_interval: NDArray[np.float64]

    @classmethod
    def from_shares(
        cls,
        shares: ArrayLike,
        groups: ArrayLike | None = None,
        *,
        confidence_level: float = 0.95,
    ) -> ChannelShares:
        """Return the summary of shares, for example of those of several seeds together.

        Parameters
        ----------
        shares : array-like, shape (N, C)
            From `channel_shares`.
        groups : array-like, shape (N,), optional
            The volume, or the seed of the training, of each image. Intervals are over groups, never over images or
            pixels: neighbouring slices are nearly the same. See `captum_region.intervals.jackknife_interval`; of two or
            three groups they are wide.
        confidence_level : float, default=0.95

        Returns
        -------
        ChannelShares

        Raises
        ------
        ValueError
            If shapes do not fit, no image has a share, or a number is out of range.
        """
        check_level(confidence_level)
        values, names = np.asarray(shares, dtype=float), None if groups is None else np.asarray(groups)
        if values.ndim != 2 or values.shape[1] < 2:
            raise ValueError(f"shares must have shape (N, C) with 2 channels or more, got {values.shape}")
        if names is not None and names.shape != values.shape[:1]:
            raise ValueError(f"groups must have shape ({len(values)},), one for each image, got {names.shape}")
        known = ~np.isnan(values).any(1)
        if not known.any():
            raise ValueError(
                "shares must hold those of at least one image whose attribution is not 0, got none; a class that is "
                "predicted nowhere has none: see class_index, and how the images are normalised"
            )
        codes = np.arange(known.sum()) if names is None else np.unique(names[known], return_inverse=True)[1]
        sizes = np.bincount(codes)
        means = np.stack([np.bincount(codes, column) for column in values[known].T], axis=1) / sizes[:, None]
        mean = means.mean(0)
        asymmetry = slice_asymmetry(mean) if len(mean) % 2 and len(mean) > 2 else np.empty(0)
        mean_ends, asymmetry_ends = np.full((2, len(mean)), np.nan), np.full((2, len(asymmetry)), np.nan)
        if names is not None and len(means) > 1:  # no interval of what is not known to be independent
            mean_ends = np.clip(jackknife_interval(means, lambda of_groups: of_groups, confidence_level), 0, 1)
            if len(asymmetry):
                asymmetry_ends = np.clip(jackknife_interval(means, raw_asymmetry, confidence_level), -1, 1)
                asymmetry_ends[:, np.isnan(asymmetry)] = np.nan
        return cls(values, names, mean, mean_ends, asymmetry, asymmetry_ends)

    def table(self) -> pd.DataFrame:
        """Return the shares and asymmetries with their intervals.

        Returns
        -------
        DataFrame
            Columns ``measure`` ("share" or "asymmetry"), ``slice``, ``value``, ``low`` and ``high``.
        """
        names = channel_names(len(self.mean))
        pairs = [f"+-{pair + 1}" for pair in range(len(self.asymmetry))]
        parts = [
            ("share", names, self.mean, self.mean_interval),
            ("asymmetry", pairs, self.asymmetry, self.asymmetry_interval),
        ]
        rows = [
            (measure, *row) for measure, labels, value, ends in parts for row in zip(labels, value, *ends, strict=True)
        ]
        return pd.DataFrame(rows, columns=["measure", "slice", "value", "low", "high"])

    def plot(self, ax: Axes | None = None, *, title: str | None = None) -> Figure:
        """Draw the share of each channel, with its interval if there is one.

        Parameters
        ----------
        ax : Axes, optional
            Where to draw; by default in a new pyplot figure.
        title : str, optional
            By default the asymmetry of each pair.

        Returns
        -------
        Figure
        """
        ax = new_axes(1)[0] if ax is None else ax
        names, (low, high) = channel_names(len(self.mean)), self.mean_interval
        # Of equal values, the mean may lie outside by rounding.
        spread = None if np.isnan(low).any() else np.maximum([self.mean - low, high - self.mean], 0)
        style: Any = {"color": LINE_COLORS[0], "width": 0.6, "ecolor": "#333333", "capsize": 3}
        ax.bar(names, self.mean, yerr=spread, **style)
        ax.axhline(1 / len(names), color="#767676", linestyle="--", linewidth=1, label="equal shares")
        ax.grid(visible=False, axis="x")
        ax.set_ylim(0, 1.2 * max(float(self.mean.max()), float(np.nanmax([*high, 0]))))
        ax.set_ylabel("share of the attribution")
        add_legend(ax, loc="upper right")
        if title is None and len(self.asymmetry):
            title = "asymmetry " + ", ".join(f"{value:+.2f}" for value in self.asymmetry)
        if title is not None:
            add_title(ax, title)
        return figure_of(ax)


def check_level(confidence_level: float) -> None:
    """Raise ValueError if the level of an interval is out of range."""
    if not 0 < confidence_level < 1:
        raise ValueError(f"confidence_level must lie in (0, 1), got {confidence_level}")


def channel_names(count: int) -> list[str]:
    """Return names of channels: those of slices if their number is odd and so has a centre.

    Examples
    --------
    >>> channel_names(3), channel_names(5), channel_names(4)
    (['previous', 'centre', 'next'], ['-2', '-1', 'centre', '+1', '+2'], ['0', '1', '2', '3'])
    """
    if count % 2 == 0:
        return [str(channel) for channel in range(count)]
    if count == 3:
        return ["previous", "centre", "next"]
    return ["centre" if place == 0 else f"{place:+d}" for place in range(-(count // 2), count // 2 + 1)]

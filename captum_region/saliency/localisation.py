"""How well a map finds a region that is known: one value an image, NaN where it is undefined."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.metrics import roc_auc_score

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray


def pointing_game(maps: ArrayLike, truth: ArrayLike) -> NDArray[np.float64]:
    """Return 1 where a map's highest pixel lies inside the truth, else 0.

    Zhang, Bargal, Lin, Brandt, Shen, Sclaroff, "Top-Down Neural Attention by Excitation Backprop", IJCV 126, 2018;
    without their tolerance of 15 pixels. Where several pixels are highest, the share of them that lies inside.

    Parameters
    ----------
    maps : array-like, shape (N, height, width)
    truth : array-like of bool, shape (N, height, width)

    Returns
    -------
    ndarray of shape (N,)
        In [0, 1]; NaN, with a warning, where the truth is empty or everything or the map is constant.
    """
    return _of_each(maps, truth, lambda values, inside: inside[values == values.max()].mean())


def rank_accuracy(maps: ArrayLike, truth: ArrayLike) -> NDArray[np.float64]:
    """Return the share of a map's top pixels that lie inside the truth, as many as the truth has pixels.

    Relevance rank accuracy (Arras, Osman, Samek, "CLEVR-XAI", Information Fusion 81, 2022). Where the map ties, pixels
    are taken in reading order. Parameters, range and undefined cases are as in `pointing_game`.
    """
    return _of_each(maps, truth, lambda values, inside: _top(values, inside).mean())


def intersection_over_union(maps: ArrayLike, truth: ArrayLike) -> NDArray[np.float64]:
    """Return the intersection over the union of the truth and of as many top pixels of the map.

    Parameters, range and undefined cases are as in `pointing_game`.
    """

    def iou(values: NDArray[Any], inside: NDArray[np.bool_]) -> float:
        both = int(_top(values, inside).sum())
        return both / (2 * int(inside.sum()) - both)

    return _of_each(maps, truth, iou)


def mass_accuracy(maps: ArrayLike, truth: ArrayLike) -> NDArray[np.float64]:
    """Return the share of a map's positive values that lies inside the truth.

    Relevance mass accuracy (Arras, Osman, Samek, "CLEVR-XAI", Information Fusion 81, 2022). Parameters, range and
    undefined cases are as in `pointing_game`; it is undefined also where no value is positive.
    """

    def mass(values: NDArray[Any], inside: NDArray[np.bool_]) -> float:
        positive = values.clip(min=0)
        return float(positive[inside].sum() / positive.sum()) if positive.any() else np.nan

    return _of_each(maps, truth, mass)


def pixel_auc(maps: ArrayLike, truth: ArrayLike) -> NDArray[np.float64]:
    """Return the area under the ROC curve of a map as a detector of the truth's pixels.

    Parameters, range and undefined cases are as in `pointing_game`; 0.5 is a map that tells nothing.
    """
    return _of_each(maps, truth, lambda values, inside: roc_auc_score(inside, values))


def _top(values: NDArray[Any], inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return inside[np.argsort(-values, kind="stable")[: inside.sum()]]


def _of_each(
    maps: ArrayLike, truth: ArrayLike, measure: Callable[[NDArray[Any], NDArray[np.bool_]], float]
) -> NDArray[np.float64]:
    values, inside = np.asarray(maps), np.asarray(truth, dtype=bool)
    if values.ndim != 3 or values.shape != inside.shape:
        raise ValueError(f"maps and truth must be of one shape (N, height, width), got {values.shape}, {inside.shape}")
    values, inside = values.reshape(len(values), -1).astype(float), inside.reshape(len(inside), -1)
    result = np.array(
        [
            measure(row, mask) if mask.any() and not mask.all() and row.min() < row.max() else np.nan
            for row, mask in zip(values, inside, strict=True)
        ],
        dtype=float,
    )
    if undefined := int(np.isnan(result).sum()):
        warnings.warn(
            f"undefined for {undefined} of {len(result)} images, whose truth or map has no two values; they are NaN",
            RuntimeWarning,
            stacklevel=3,
        )
    return result

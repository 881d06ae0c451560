"""How well a map finds a region that is known: one value per image, NaN where it is undefined."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import roc_auc_score


def pointing_game(maps: ArrayLike, truth: ArrayLike) -> NDArray[np.float64]:
    """Return 1 where a map's highest pixel lies inside the truth, else 0.

    The tolerance of 15 pixels of the paper is left out. Where several pixels are highest, the result is the share of
    them that lies inside.

    Parameters
    ----------
    maps : array-like, shape (N, height, width)
    truth : array-like of bool, shape (N, height, width)

    Returns
    -------
    ndarray of shape (N,)
        In [0, 1]; NaN, with a warning, where the truth is empty or everything or the map is constant.

    References
    ----------
    Zhang, Bargal, Lin, Brandt, Shen, Sclaroff, "Top-Down Neural Attention by Excitation Backprop", IJCV 126, 2018.
    """
    return _of_each(maps, truth, lambda values, inside: inside[values == values.max()].mean())


def rank_accuracy(maps: ArrayLike, truth: ArrayLike) -> NDArray[np.float64]:
    """Return the relevance rank accuracy: of as many top pixels as the truth has, the share that lies inside it.

    Pixels of equal value are ranked in reading order. Parameters, range and undefined cases are as in `pointing_game`.

    See Also
    --------
    intersection_over_union : The same top pixels, scored against the truth in another way.

    References
    ----------
    Arras, Osman, Samek, "CLEVR-XAI", Information Fusion 81, 2022.
    """
    return _of_each(maps, truth, _share_of_top)


def intersection_over_union(maps: ArrayLike, truth: ArrayLike) -> NDArray[np.float64]:
    """Return the intersection over union of the truth and as many top pixels of the map.

    Parameters, range and undefined cases are as in `pointing_game`.

    See Also
    --------
    rank_accuracy : The share of these top pixels that lies inside the truth.
    """

    def iou(values: NDArray[Any], inside: NDArray[np.bool_]) -> float:
        share = _share_of_top(values, inside)
        return share / (2 - share)  # both sets have the same size

    return _of_each(maps, truth, iou)


def mass_accuracy(maps: ArrayLike, truth: ArrayLike) -> NDArray[np.float64]:
    """Return the relevance mass accuracy: the share of a map's positive values that lies inside the truth.

    Parameters, range and undefined cases are as in `pointing_game`; it is also undefined where no value is positive.

    References
    ----------
    Arras, Osman, Samek, "CLEVR-XAI", Information Fusion 81, 2022.
    """

    def mass(values: NDArray[Any], inside: NDArray[np.bool_]) -> float:
        positive = values.clip(min=0)
        return float(positive[inside].sum() / positive.sum()) if positive.any() else np.nan

    return _of_each(maps, truth, mass)


def pixel_auc(maps: ArrayLike, truth: ArrayLike) -> NDArray[np.float64]:
    """Return the area under the ROC curve of a map as a detector of the truth's pixels.

    Parameters, range and undefined cases are as in `pointing_game`; 0.5 is a map without information.
    """
    return _of_each(maps, truth, lambda values, inside: roc_auc_score(inside, values))


def _share_of_top(values: NDArray[Any], inside: NDArray[np.bool_]) -> float:
    return float(inside[np.argsort(-values, kind="stable")[: inside.sum()]].mean())


def _of_each(
    maps: ArrayLike, truth: ArrayLike, measure: Callable[[NDArray[Any], NDArray[np.bool_]], float]
) -> NDArray[np.float64]:
    values, inside = np.asarray(maps, dtype=float), np.asarray(truth, dtype=bool)
    if values.ndim != 3 or values.shape != inside.shape:
        raise ValueError(f"maps and truth must be of one shape (N, height, width), got {values.shape}, {inside.shape}")
    result = np.full(len(values), np.nan)
    for number, (row, mask) in enumerate(zip(values, inside, strict=True)):
        if mask.any() and not mask.all() and row.min() < row.max():
            result[number] = measure(row.ravel(), mask.ravel())
    if undefined := int(np.isnan(result).sum()):
        words = f"undefined for {undefined} of {len(result)} images, whose map or truth is constant; they are NaN"
        warnings.warn(words, RuntimeWarning, stacklevel=3)
    return result


MEASURES = {
    "pointing_game": pointing_game,
    "rank_accuracy": rank_accuracy,
    "mass_accuracy": mass_accuracy,
    "pixel_auc": pixel_auc,
    "iou": intersection_over_union,
}

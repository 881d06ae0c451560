"""How well a map finds a region that is known: measures of each image, NaN where they are undefined."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.metrics import roc_auc_score

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def rank_accuracy(maps: ArrayLike, truth: ArrayLike) -> NDArray[np.float64]:
    """Return the share of a map's top pixels that lie inside the truth, as many as the truth has pixels.

    Relevance rank accuracy (Arras, Osman, Samek, "CLEVR-XAI", Information Fusion 81, 2022). Where the map ties,
    pixels are taken in reading order.

    Parameters
    ----------
    maps : array-like, shape (N, height, width)
    truth : array-like of bool, shape (N, height, width)

    Returns
    -------
    ndarray of shape (N,)
        In [0, 1]; NaN where the truth is empty.
    """
    values, inside = _flat(maps, truth)
    result = np.full(len(values), np.nan)
    for number, (row, mask) in enumerate(zip(values, inside, strict=True)):
        if count := int(mask.sum()):
            result[number] = mask[np.argsort(-row, kind="stable")[:count]].mean()
    return result


def pixel_auc(maps: ArrayLike, truth: ArrayLike) -> NDArray[np.float64]:
    """Return the area under the ROC curve of a map as a detector of the truth's pixels.

    Parameters
    ----------
    maps : array-like, shape (N, height, width)
    truth : array-like of bool, shape (N, height, width)

    Returns
    -------
    ndarray of shape (N,)
        In [0, 1], 0.5 for a constant map; NaN where the truth is empty or everything.
    """
    values, inside = _flat(maps, truth)
    result = np.full(len(values), np.nan)
    for number, (row, mask) in enumerate(zip(values, inside, strict=True)):
        if mask.any() and not mask.all():
            result[number] = roc_auc_score(mask, row)
    return result


def _flat(maps: ArrayLike, truth: ArrayLike) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    values, inside = np.asarray(maps), np.asarray(truth, dtype=bool)
    if values.ndim != 3 or values.shape != inside.shape:
        raise ValueError(f"maps and truth must be of one shape (N, height, width), got {values.shape}, {inside.shape}")
    return values.reshape(len(values), -1), inside.reshape(len(inside), -1)

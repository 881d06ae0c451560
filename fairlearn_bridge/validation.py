"""What the estimators take: X as images or as rows of features, labels and sensitive features of any kind."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from sklearn.preprocessing import MinMaxScaler
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d, validate_data
from torch import Tensor

from captum_region.batches import check_images
from captum_region.datasets import AttributeImages, from_dataset
from captum_region.datasets.conversion import is_dataset

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from captum_region.batches import ImageData


def from_names(X: Any, *labels: Any) -> tuple[Any, ...]:
    """Return X and `labels`; of `AttributeImages` or a data set its images, and labels given by their name."""
    X = from_dataset(X) if is_dataset(X) else X
    if not isinstance(X, AttributeImages):
        return X, *labels
    return X.images, *(X.labels(value) if isinstance(value, str) else value for value in labels)


def check_rows_or_images(estimator: Any, X: Any, image_shape: Sequence[int] | None, *, reset: bool) -> ImageData:
    """Return X as images N x C x H x W, uint8 or float in [0, 1].

    Float rows of any range are scaled to [0, 1], each column from the range it had in `fit`, and clipped; [0, 1] always
    belongs to that range, so that images in it stay as they are.

    Parameters
    ----------
    estimator : estimator
        Keeps what it was fitted on: ``n_features_in_``, of float rows ``row_scaler_``, of a data frame
        ``feature_names_in_``.
    X : array-like or Tensor, shape (N, C, height, width) or (N, n_features)
        Images, or rows that are flattened images: uint8, or anything that becomes finite float32. Or `AttributeImages`,
        or what `captum_region.datasets.from_dataset` reads.
    image_shape : (int, int, int) or None
        Channels, height and width that X must have. None takes all, and a row as an image of one channel and one
        pixel's height.
    reset : bool
        Whether `estimator` is being fitted on X; else X is compared with what it was fitted on.

    Raises
    ------
    TypeError, ValueError
        If X has another type or shape, or misses values.
    """
    if image_shape is not None and (np.shape(image_shape) != (3,) or min(image_shape) < 1):
        raise ValueError(f"image_shape must be (channels, height, width), got {image_shape!r}")
    if reset:
        for stale in ("feature_names_in_", "row_scaler_"):
            vars(estimator).pop(stale, None)
    (X,) = from_names(X)
    if (X if hasattr(X, "ndim") else np.asarray(X)).ndim > 2:
        images = check_images(X, name="X")
        shape = tuple(images.shape[1:])
        if image_shape is not None and shape != tuple(image_shape):
            raise ValueError(f"X must hold images of shape {tuple(image_shape)}, got {shape}")
        if reset:
            estimator.n_features_in_ = math.prod(shape)
        return images
    X = X.numpy(force=True) if isinstance(X, Tensor) else X
    rows: NDArray[Any] = validate_data(estimator, X, dtype=(np.float32, np.uint8), reset=reset)
    shape = (1, 1, rows.shape[1]) if image_shape is None else tuple(image_shape)
    if math.prod(shape) != rows.shape[1]:
        raise ValueError(f"X must have {math.prod(shape)} features for images of {shape}, got {rows.shape[1]}")
    if reset and rows.dtype != np.uint8:
        ends = np.stack([rows.min(0).clip(max=0), rows.max(0).clip(min=1)])
        estimator.row_scaler_ = MinMaxScaler(clip=True).fit(ends)
    if hasattr(estimator, "row_scaler_"):
        if rows.dtype == np.uint8:  # 7 as a brightness, 7/255, or as the number that it was in fit?
            raise TypeError("X must hold rows of the type they had in fit, not uint8")
        rows = estimator.row_scaler_.transform(rows)
    return check_images(rows.reshape(-1, *shape), name="X")


def check_labels(values: Any, count: int, *, name: str) -> NDArray[Any]:
    """Return labels or sensitive features, an array-like or Tensor, as an array of shape (`count`,).

    Raises
    ------
    ValueError
        If they are not `count`, or some are missing or infinite.
    """
    values = values.numpy(force=True) if isinstance(values, Tensor) else values
    shape = np.asarray(values).shape
    if shape not in ((count,), (count, 1)):
        raise ValueError(f"{name} should be a 1d array of shape ({count},), one an image, got {shape}")
    labels: NDArray[Any] = column_or_1d(values, warn=name == "y")  # fairlearn takes a frame of one column
    lacking = ~np.isfinite(labels) if labels.dtype.kind == "f" else pd.isna(labels)
    if lacking.any():
        raise ValueError(f"{name} must not miss values, got {lacking.sum()} missing or infinite")
    return labels


def check_sensitive(values: Any, count: int) -> NDArray[Any]:
    """Return sensitive features as `check_labels` does; of several columns, a value is a combination of theirs.

    Merged as fairlearn merges them, to strings such as "True,indoor".

    Raises
    ------
    ValueError
        If they are not `count`, or some are missing or infinite.
    """
    values = values.numpy(force=True) if isinstance(values, Tensor) else values
    columns = np.asarray(values)
    if columns.ndim != 2 or columns.shape[1] == 1:
        return check_labels(values, count, name="sensitive_features")
    texts = [check_labels(column, count, name="sensitive_features").astype(str) for column in columns.T]
    # A comma within a value is not one between two: "a,b" with "c" is another combination than "a" with "b,c".
    escaped = ([text.replace("\\", "\\\\").replace(",", "\\,") for text in column] for column in texts)
    merged: NDArray[Any] = np.array([",".join(row) for row in zip(*escaped, strict=True)])
    return merged


def check_classes(y: Any, count: int, *, weight: NDArray[np.float64] | None = None) -> NDArray[Any]:
    """Return the labels of a classification as `check_labels` does.

    Raises
    ------
    ValueError
        If fewer than two classes have a weight above 0, or y is continuous.
    """
    labels = check_labels(y, count, name="y")
    check_classification_targets(labels)
    classes = np.unique(labels if weight is None else labels[weight > 0])
    if len(classes) < 2:
        raise ValueError(f"y must hold at least two classes, got {len(classes)} class: {classes.tolist()}")
    return labels

"""What the estimators accept: X as images or as rows of features, labels and sensitive features of any kind."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse
from sklearn.preprocessing import MinMaxScaler
from sklearn.utils.validation import validate_data
from torch import Tensor

from captum_region.batches import Checked, ImageData, check_images
from captum_region.datasets import AttributeImages, from_dataset
from captum_region.datasets.conversion import is_dataset
from captum_region.labels import as_plain, check_classes


def class_positions(classifier: Any, labels: ArrayLike) -> NDArray[np.intp]:
    """Return the position of each label in a fitted classifier's ``classes_``, which need not be sorted.

    Raises
    ------
    ValueError
        If a label is none of them.
    """
    return positions_in(classifier.classes_, labels, "labels")


def positions_in(classes: ArrayLike, labels: ArrayLike, name: str) -> NDArray[np.intp]:
    """Return the position of each label in `classes`; True and False are those of 1 and 0, to which they are equal."""
    known, given = as_plain(classes), as_plain(labels)
    indexes = (pd.Index(each.astype(np.int8) if each.dtype == bool else each) for each in (known, given))
    found = next(indexes).get_indexer(next(indexes))
    if unknown := set(given[found < 0].tolist()):
        raise ValueError(
            f"{name} must be of the classifier's classes, {known.tolist()}, got {sorted(unknown, key=str)} too"
        )
    return found


def check_number(name: str, value: Any, low: float, high: float = math.inf, *, inside: bool = False) -> None:
    """Raise ValueError if a parameter is not a finite number from `low` to `high`, or between them with `inside`."""
    is_number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not (is_number and math.isfinite(value) and (low < value < high if inside else low <= value <= high)):
        interval = f"{'(' if inside else '['}{low}, {high}{')' if inside or high == math.inf else ']'}"
        raise ValueError(f"{name} must be a number in {interval}, got {value!r}")


def check_identities(identities: ArrayLike, count: int) -> NDArray[Any]:
    """Return who each of `count` images shows; ValueError if they are not so many, or one is missing."""
    persons = np.asarray(identities)
    if persons.shape != (count,):
        raise ValueError(f"identities must have shape ({count},), got {persons.shape}")
    if unknown := int(pd.isna(persons).sum()):
        raise ValueError(f"identities must be known of all images, {unknown} of {count} are missing")
    return persons


def from_names(X: Any, *labels: Any) -> tuple[Any, ...]:
    """Return X and `labels`; of `AttributeImages` or a data set its images, and labels given by their name.

    Raises
    ------
    TypeError
        If X is sparse, which has no length.
    """
    if issparse(X):
        raise TypeError("Sparse data was passed for X, but dense data is required. Use X.toarray()")
    X = from_dataset(X) if is_dataset(X) else X if hasattr(X, "__len__") else np.asarray(X)
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
        # Images of the shape that is asked for are not mistaken for others with their channels last.
        is_wanted = image_shape is not None and tuple(np.shape(X)[1:]) == tuple(image_shape)
        images = check_images(X, name="X", image_size=np.shape(X)[2:] if is_wanted else None)
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
        return check_images(Checked(estimator.row_scaler_.transform(rows).reshape(-1, *shape)), name="X")
    # Without a scaler they are uint8, or were in fit: then floats must lie in [0, 1], as images do.
    return check_images(rows.reshape(-1, *shape), name="X")


def check_sensitive(values: Any, count: int, *, least: int = 1) -> NDArray[Any]:
    """Return sensitive features as `check_classes` does; of several columns, a value is a combination of theirs.

    Merged as fairlearn merges them, to strings such as "True,indoor".

    Raises
    ------
    ValueError
        If they are not `count`, some are missing or infinite, or they are not classes.
    """
    name = "sensitive_features"
    values = values.numpy(force=True) if isinstance(values, Tensor) else values
    columns = np.asarray(values)
    if columns.ndim != 2 or columns.shape[1] == 1:
        return check_classes(values, count, name=name, least=least)
    texts = [check_classes(column, count, name=name).astype(str) for column in columns.T]
    # A comma within a value is not one between two: "a,b" with "c" is another combination than "a" with "b,c".
    escaped = ([text.replace("\\", "\\\\").replace(",", "\\,") for text in column] for column in texts)
    return check_classes([",".join(row) for row in zip(*escaped, strict=True)], count, name=name, least=least)

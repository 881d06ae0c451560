"""Labels of images: check_classes, which takes any container, and hold_out, which keeps some of each kind apart."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from pandas.api.extensions import ExtensionDtype
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.validation import column_or_1d
from torch import Tensor

from captum_region.randomness import RandomState, draw_seed

# With more images than this, there must not be more classes than half as many: scikit-learn warns of the same.
_FEW = 20


def check_classes(
    values: Any, count: int, *, name: str, least: int = 1, weight: NDArray[np.float64] | None = None
) -> NDArray[Any]:
    """Return the classes of `count` images, an array-like or Tensor of any kind that sorts, as an array.

    Parameters
    ----------
    values : array-like or Tensor, shape (`count`,)
        The labels of a target, the values of a spurious attribute, ... Intervals and periods become text.
    count : int
    name : str
        The argument's name, for messages.
    least : int, default=1
        How many different classes there must be among the images with a weight above 0.
    weight : ndarray of shape (`count`,), optional
        The images' weights.

    Raises
    ------
    TypeError
        If they are of kinds that do not sort, such as numbers and strings.
    ValueError
        If there are not `count` values, some are missing or infinite, or they are not classes: numbers with a fraction,
        or, of more than 20 values, more than half different, such as ages.

    Examples
    --------
    >>> check_classes(["woman", "man"], 2, name="labels")
    array(['woman', 'man'], dtype='<U5')
    >>> check_classes([61.5, 20.0], 2, name="labels")
    Traceback (most recent call last):
    ValueError: labels must be classes, got 61.5 ... (Unknown label type: continuous); group them first
    """
    values = values.numpy(force=True) if isinstance(values, Tensor) else values
    if isinstance(values, pd.DataFrame) and values.shape[1] == 1:
        values = values.iloc[:, 0]
    if isinstance(getattr(values, "dtype", None), ExtensionDtype) and not values.isna().any():
        values = values.to_numpy()  # pandas' Int64 and boolean would become floats, of classes such as 1.0
    shape = np.asarray(values).shape
    if shape not in ((count,), (count, 1)):
        raise ValueError(f"{name} should be a 1d array of shape ({count},), one per image, got {shape}")
    labels: NDArray[Any] = column_or_1d(values, warn=name == "y")  # fairlearn takes a frame of one column
    missing = ~np.isfinite(labels) if labels.dtype.kind == "f" else pd.isna(labels)
    if missing.any():
        raise ValueError(f"{name} must not have missing values, got {missing.sum()} missing or infinite")
    labels = as_plain(labels)
    if labels.dtype.kind == "O":
        try:
            np.unique(labels)
        except TypeError as error:
            kinds = ", ".join(sorted({type(label).__name__ for label in labels}))
            raise TypeError(f"{name} must be of one kind, which sorts, got {kinds}") from error
    is_continuous = labels.dtype.kind == "f" and bool((labels % 1).any())
    different = len(pd.unique(labels))
    if count > _FEW and different > count / 2 and not is_continuous:
        raise ValueError(f"{name} must be classes, got {different} different ones in {count} images; group them first")
    kind = "continuous" if is_continuous else type_of_target(labels, input_name=name)
    if kind not in ("binary", "multiclass"):
        raise ValueError(f"{name} must be classes, got {labels[0]} ... (Unknown label type: {kind}); group them first")
    classes = np.unique(labels if weight is None else labels[weight > 0]).tolist()
    if len(classes) < least:
        words = "class" if len(classes) == 1 else "classes"
        raise ValueError(f"{name} must hold at least {least} classes, got {len(classes)} {words}: {classes}")
    return labels


def as_plain(labels: ArrayLike) -> NDArray[Any]:
    """Return labels as an array, of Python's objects as what these are; intervals and periods become text.

    Examples
    --------
    >>> as_plain(np.array([True, False], object)).dtype, as_plain(pd.cut([5, 40], [0, 30, 60])).tolist()
    (dtype('bool'), ['(0, 30]', '(30, 60]'])
    """
    found = np.asarray(labels)
    if found.dtype.kind != "O" or found.ndim != 1:
        return found
    found = pd.Series(found).infer_objects().to_numpy()
    return found.astype(str) if pd.api.types.infer_dtype(found) in ("interval", "period") else found


def class_codes(labels: ArrayLike, *, name: str) -> tuple[NDArray[Any], NDArray[np.intp]]:
    """Return the different labels, sorted, and the place of each image's among them.

    Raises
    ------
    TypeError, ValueError
        If labels are missing, or of kinds that do not sort.
    """
    given = np.asarray(labels)
    if missing := int(pd.isna(given).sum()):
        raise ValueError(f"{name} must not have missing values, got {missing} missing")
    try:
        names, codes = np.unique(given, return_inverse=True)
    except TypeError as error:
        raise TypeError(f"{name} must be of one kind, which sorts: {error}") from error
    return names, codes


def hold_out(labels: ArrayLike, confounder: ArrayLike, fraction: float, random_state: RandomState) -> NDArray[np.bool_]:
    """Return which images to hold out: of each cell of label and spurious attribute the given share, rounded down.

    Examples
    --------
    >>> hold_out([0, 0, 0, 0, 1], [0, 0, 0, 0, 1], 0.5, random_state=0).sum()
    np.int64(2)
    """
    cells = pd.DataFrame({"label": np.asarray(labels), "confounder": np.asarray(confounder)})
    shuffled = cells.sample(frac=1, random_state=draw_seed(random_state))
    of_cell = shuffled.groupby(["label", "confounder"])
    is_held = of_cell.cumcount() < np.floor(fraction * of_cell["label"].transform("size") + 1e-9)
    return np.asarray(is_held.sort_index())

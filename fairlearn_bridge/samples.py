"""Samples: images with their target, spurious attribute and groups."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.utils.multiclass import type_of_target

from captum_region.batches import ImageData
from captum_region.datasets import AttributeImages
from captum_region.io.digest import digest
from captum_region.labels import as_plain


@dataclass(frozen=True, eq=False)
class Samples:
    """Images with their target and spurious attribute, and the groups to report by.

    Attributes
    ----------
    X : ndarray or Tensor, shape (N, C, height, width)
    y : array-like of shape (N,)
        The target's labels.
    confounder : array-like of shape (N,)
        The spurious attribute.
    groups : array-like of shape (N,), optional
        The groups of the report (gender); by default `y`, as in De Coninck et al. 2024, where gender is the target.
    twins : ndarray or Tensor like X, optional
        The counterfactuals of X: the same images with only the spurious attribute toggled.

    Raises
    ------
    TypeError
        If X or the twins are no array.
    ValueError
        If the lengths differ, or labels, confounder or groups are continuous, or some are missing.

    See Also
    --------
    compare_mitigators : Takes them.
    confounded_split : Draws positions for them.
    """

    X: ImageData
    y: NDArray[Any]
    confounder: NDArray[Any]
    groups: NDArray[Any] | None = None
    twins: ImageData | None = None

    def __post_init__(self) -> None:
        for name in ("X", "twins"):
            given = getattr(self, name)
            if not (hasattr(given, "shape") or (name == "twins" and given is None)):
                raise TypeError(f"{name} must be an array or Tensor, got {type(given).__name__}")
        object.__setattr__(self, "groups", self.y if self.groups is None else self.groups)
        for name in ("y", "confounder", "groups"):
            values = as_plain(getattr(self, name))
            if values.shape != (len(self.X),):
                raise ValueError(f"{name} must have shape ({len(self.X)},), one an image, got {values.shape}")
            if (missing := pd.isna(values)).any():
                raise ValueError(f"{name} must not have missing values, got {missing.sum()} missing")
            if values.dtype.kind == "f" and type_of_target(values) == "continuous":
                raise ValueError(
                    f"{name} must hold classes, got a continuous variable; pandas.cut makes classes of one"
                )
            object.__setattr__(self, name, values)
        if self.twins is not None and self.twins.shape != self.X.shape:
            raise ValueError(f"twins must have the shape of X, {tuple(self.X.shape)}, got {tuple(self.twins.shape)}")

    @classmethod
    def joined(cls, parts: Iterable["Samples"]) -> Self:
        """Return samples one after the other, grouped by their target."""
        parts = list(parts)
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("X", "y", "confounder")))


def check_samples(train: Samples, test: Samples, others: Mapping[str, Samples]) -> None:
    """Raise TypeError if one is something else, ValueError if test images have other labels than training images."""
    for name, samples in {"train": train, "test": test, **others}.items():
        if not isinstance(samples, Samples):
            raise TypeError(f"{name} must be Samples, got {type(samples).__name__}")
    if unknown := {*test.y.tolist()} - {*train.y.tolist()}:
        raise ValueError(f"test.y must be of the classes of train.y, got {sorted(unknown, key=str)} too")
    if not {*test.confounder.tolist()} & {*train.confounder.tolist()}:
        raise ValueError(
            "test.confounder must have values of train.confounder, got "
            f"{np.unique(test.confounder).tolist()} and {np.unique(train.confounder).tolist()}"
        )


def fingerprints(sets: Mapping[str, AttributeImages]) -> dict[str, str]:
    """Return a digest of the images of each set, with their attributes."""
    return {name: digest((digest(images.images), images.attributes.to_csv())) for name, images in sets.items()}


def groups_of(images: AttributeImages, names: Sequence[str]) -> NDArray[np.str_]:
    """Return the group of each image in words: of a binary attribute its name, or its name after "not".

    Examples
    --------
    >>> import pandas as pd
    >>> from captum_region.datasets import AttributeImages
    >>> table = pd.DataFrame({"Male": [True, False], "race": ["White", "Black"]})
    >>> groups_of(AttributeImages(np.zeros((2, 3, 8, 8), np.uint8), table), ("Male", "race")).tolist()
    ['Male, White', 'not Male, Black']
    """
    columns = []
    for name in names:
        labels = images.labels(name)
        columns.append(np.where(labels, name, f"not {name}") if labels.dtype == bool else labels.astype(str))
    return np.array([", ".join(row) for row in zip(*columns, strict=True)])

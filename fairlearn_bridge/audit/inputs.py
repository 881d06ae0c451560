"""What an audit is given, checked once: images with a target and groups, and images to train on."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from captum_region.batches import check_images
from captum_region.datasets import AttributeImages
from captum_region.labels import check_classes
from fairlearn_bridge.samples import Samples
from fairlearn_bridge.validation import from_names

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from captum_region.batches import ImageData

# Below the first number of images a group is refused, below the second its intervals are wide: a warning.
REFUSED, WIDE = 30, 200


@dataclass(frozen=True)
class Audited:
    """Checked images with their target, and groups.

    Attributes
    ----------
    images : ndarray or Tensor, shape (N, C, height, width)
    target : ndarray of shape (N,)
    groups : ndarray of shape (N,)
    names : ndarray of shape (G,)
        The groups in sorted order.
    codes : ndarray of shape (N,)
        The number of each image's group in the order in which groups first appear: draws must not depend on names.
    order : ndarray of shape (G,)
        ``codes`` of the groups in sorted order.
    """

    images: ImageData
    target: NDArray[Any]
    groups: NDArray[Any]
    names: NDArray[Any]
    codes: NDArray[np.intp]
    order: NDArray[np.intp]

    @property
    def ranks(self) -> NDArray[np.intp]:
        """The number of each image within its group."""
        return np.asarray(pd.Series(self.codes).groupby(self.codes).cumcount(), dtype=np.intp)


def audited(data: Any, groups: Any, target: str | ArrayLike | None) -> Audited:
    """Check what is to be audited.

    Raises
    ------
    TypeError, ValueError
        If images, target or groups do not fit, there are fewer than two groups, or one has fewer than 30 images.
    """
    _, y = _with_target(data, target, "data")
    images, labels = grouped(data, groups)
    codes, seen = pd.factorize(labels)
    order = np.argsort(np.asarray(seen))
    found = Audited(images, check_classes(y, len(images), name="target"), labels, np.asarray(seen)[order], codes, order)
    _check_sizes(found)
    return found


def grouped(data: Any, groups: Any) -> tuple[ImageData, NDArray[Any]]:
    """Return checked images and the group of each.

    Raises
    ------
    TypeError, ValueError
        If images or groups do not fit, or there are fewer than two groups.
    """
    if groups is None:
        if not isinstance(data, Samples):
            raise ValueError("groups must be given, one an image or the name of an attribute, unless data is Samples")
        groups = data.groups
    (X,) = (data.X,) if isinstance(data, Samples) else from_names(data)
    images = check_images(X, name="data")
    return images, check_classes(_groups_of(data, groups), len(images), name="groups", least=2)


def _with_target(data: Any, target: Any, name: str) -> tuple[Any, Any]:
    """Return the images of `data` and their labels."""
    if isinstance(data, Samples):
        if target is not None and name == "data":
            raise ValueError("target must be left out where data is Samples, which has it as y")
        return data.X, data.y
    if target is None:
        raise ValueError(f"target must be given, one an image or the name of an attribute, unless {name} is Samples")
    X, y = from_names(data, target)
    if isinstance(y, str):
        raise ValueError(f"target must be one label an image where {name} has no attributes, got {y!r}")
    return X, y


def _groups_of(data: Any, groups: Any) -> Any:
    if isinstance(groups, str):
        if not isinstance(data, AttributeImages):
            raise ValueError(f"groups must be one an image where data has no attributes, got {groups!r}")
        return data.labels(groups)
    is_list = isinstance(groups, list | tuple) and all(isinstance(name, str) for name in groups)
    # Names of attributes, unless there is one an image.
    if is_list and isinstance(data, AttributeImages) and 0 < len(groups) < len(data):
        columns = [data.labels(name).astype(str) for name in groups]
        return [", ".join(row) for row in zip(*columns, strict=True)]
    return groups


def _check_sizes(data: Audited) -> None:
    sizes = dict(zip(*(part.tolist() for part in np.unique(data.groups, return_counts=True)), strict=True))
    if small := {name: size for name, size in sizes.items() if size < REFUSED}:
        raise ValueError(f"groups must have at least {REFUSED} images each, got {_listed(small)}")
    if few := {name: size for name, size in sizes.items() if size < WIDE}:
        _warn(f"groups of fewer than {WIDE} images have wide intervals: {_listed(few)}")
    cells = pd.crosstab(data.groups, data.target).to_numpy() > 0
    if cells.shape[1] > 1 and ((cells.sum(1) == 1).all() or (cells.sum(0) == 1).all()):
        _warn(
            "target and groups coincide: accuracy by group is then recall by class, and whatever moves predictions "
            "from one class to another looks like bias; audit a target whose classes occur in every group"
        )


def _listed(sizes: dict[Any, int]) -> str:
    return ", ".join(f"{name}: {size}" for name, size in sizes.items())


def _warn(message: str) -> None:
    warnings.warn(message, UserWarning, stacklevel=5)  # the caller of `audit`


@dataclass(frozen=True)
class Training:
    """Checked images to train on, their target and, for mitigators, confounder."""

    images: ImageData
    target: NDArray[Any]
    confounder: NDArray[Any] | None


def training(train: Any, target: str | ArrayLike | None, shape: tuple[int, ...]) -> Training:
    """Check images to train on: `Samples`, (images, labels), or images with attributes, one of which is `target`.

    Raises
    ------
    TypeError, ValueError
        If they do not fit, or are not of `shape`, (C, height, width), as those that are audited.
    """
    if isinstance(train, tuple):
        if len(train) != 2:
            raise ValueError(f"train must be (images, labels), Samples or images with attributes, got {len(train)}")
        X, y = _with_target(*train, "train")
    else:
        if not isinstance(train, Samples) and not isinstance(target, str):
            raise ValueError("train must be Samples or (images, labels), unless target is the name of an attribute")
        X, y = _with_target(train, target, "train")
    images = check_images(X, name="train")
    if tuple(images.shape[1:]) != shape:
        raise ValueError(f"train must hold images of the shape of data, {shape}, got {tuple(images.shape[1:])}")
    labels = check_classes(y, len(images), name="the target of train", least=2)
    return Training(images, labels, train.confounder if isinstance(train, Samples) else None)

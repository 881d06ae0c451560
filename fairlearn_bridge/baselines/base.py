"""What the mitigators share: cells of class and sensitive feature, and prediction by a trained classifier."""

from dataclasses import dataclass
from operator import attrgetter
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin, clone
from sklearn.utils.validation import check_is_fitted
from torch import Generator, Tensor, nn

from captum_region.batches import ImageData
from captum_region.labels import check_classes
from fairlearn_bridge.classifier import BatchTransform
from fairlearn_bridge.validation import check_rows_or_images, check_sensitive, from_names


class NotApplicableError(ValueError):
    """A mitigator cannot work with these training data; the message says why."""


def labels_of(X: ImageData, y: ArrayLike, *, name: str = "y") -> tuple[ImageData, NDArray[Any]]:
    """Return X and its labels, checked."""
    X, y = from_names(X, y)
    return X, check_classes(y, len(X), name=name, least=2)


def cells_of(X: ImageData, y: ArrayLike, sensitive_features: ArrayLike) -> tuple[ImageData, pd.DataFrame]:
    """Return X, its labels and sensitive features, checked, and the number of each image's cell, by which they sort."""
    X, y, sensitive_features = from_names(X, y, sensitive_features)
    X, labels = labels_of(X, y)
    cells = pd.DataFrame({"y": labels, "sensitive_features": check_sensitive(sensitive_features, len(X))})
    return X, cells.assign(cell=cells.groupby(["y", "sensitive_features"]).ngroup())


def need_all_cells(cells: pd.DataFrame, what: str) -> None:
    """Raise NotApplicableError if a class has no image with one of the sensitive feature's values."""
    counts = pd.crosstab(cells["y"], cells["sensitive_features"]).stack()
    for label, value in counts.index[counts.to_numpy() == 0]:
        raise NotApplicableError(f"no training image of class {label} has the sensitive feature {value}: {what}")


def need_no_reduction(mitigator: Any) -> None:
    """Raise ValueError if a mitigator has an estimator with a ``loss_reduction``: one of both would have no effect."""
    if (given := getattr(mitigator.estimator, "loss_reduction", None)) is not None:
        raise ValueError(f"estimator must leave loss_reduction to {type(mitigator).__name__}, got {given!r}")


def images_of(estimator: Any, X: ImageData) -> ImageData:
    """Return X as the images that an `ImageClassifier` is to be trained on, or a frozen one was trained on."""
    if hasattr(estimator, "image_shape_"):
        return check_rows_or_images(estimator, X, estimator.image_shape_, reset=False)
    return check_rows_or_images(clone(estimator), X, estimator.image_shape, reset=True)


def need_layer(estimator: Any, images: ImageData, labels: NDArray[Any], kind: type[nn.Module]) -> None:
    """Raise ValueError, before a training of hours, if an `ImageClassifier`'s module has no layer of a kind."""
    classifier = clone(estimator)
    if not hasattr(classifier, "module_"):  # as a frozen one has
        classes = np.unique(labels) if classifier.classes is None else classifier.classes
        classifier.set_params(image_shape=tuple(images.shape[1:]), classes=classes).initialize()
    if not any(isinstance(layer, kind) for layer in classifier.module_.modules()):
        raise ValueError(f"estimator must have a module with an nn.{kind.__name__}, it has none")


def then(first: BatchTransform, second: BatchTransform, images: Tensor, index: Tensor, generator: Generator) -> Tensor:
    """Apply one transform of a batch after another."""
    return second(first(images, index, generator), index, generator)


def restore(fitted: Any, given: Any, *names: str) -> None:
    """Give a fitted classifier the parameters back that were changed for its training alone."""
    for name in names:
        if hasattr(given, name):
            setattr(fitted, name, getattr(given, name))


@dataclass(eq=False, repr=False)
class Trainer(MetaEstimatorMixin, ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A mitigator that trains an image classifier in its own way, and predicts with it."""

    estimator: Any

    # Of what `fit` has found, that which predictions need: `save_mitigator` keeps it.
    _predicts_with: ClassVar[tuple[str, ...]] = ("estimator_",)

    def predict_proba(self, X: ImageData) -> NDArray[np.float64]:
        """Return the probability of each class of ``classes_``, N x classes."""
        check_is_fitted(self, "estimator_")
        return np.asarray(self.estimator_.predict_proba(X))

    def predict(self, X: ImageData) -> NDArray[Any]:
        """Return the likeliest label of each image, shape (N,)."""
        likeliest = self.predict_proba(X).argmax(1)  # first: it raises where there has been no fit
        return np.asarray(self.classes_[likeliest])

    def score(self, X: ImageData, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Return the accuracy on images and their labels, given as in `fit`."""
        X, y = from_names(X, y)
        return float(super().score(X, y, sample_weight))


class Mitigator(Trainer):
    """A mitigator that leaves the images to its classifier."""

    # Whether it sees training images only as its classifier does, in the batches of one training.
    _only_trains: ClassVar[bool] = False
    # Of those that need images of every cell: what it means if there are none.
    _of_empty_cells: ClassVar[str | None] = None

    def _check_parameters(self) -> None:
        """Raise ValueError if a parameter does not fit; `fit` calls it before anything is trained."""

    def _cells_of(self, X: ImageData, y: ArrayLike, sensitive_features: ArrayLike) -> tuple[ImageData, pd.DataFrame]:
        """Return what `cells_of` does; raise NotApplicableError if a cell is empty of which images are needed."""
        X, cells = cells_of(X, y, sensitive_features)
        if self._of_empty_cells is not None:
            need_all_cells(cells, self._of_empty_cells)
        return X, cells

    classes_ = property(attrgetter("estimator_.classes_"), doc="The sorted labels.")
    n_features_in_ = property(attrgetter("estimator_.n_features_in_"), doc="Channels x height x width.")
    feature_names_in_ = property(
        attrgetter("estimator_.feature_names_in_"), doc="Names of the columns, if X was a data frame of rows."
    )

"""What the mitigators share: cells of class and sensitive feature, and prediction by a trained classifier."""

from dataclasses import dataclass
from operator import attrgetter
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin
from sklearn.utils.validation import check_is_fitted

from captum_region.batches import ImageData
from captum_region.labels import check_classes
from fairlearn_bridge.validation import check_sensitive, from_names


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
    """Raise ValueError if a mitigator has an estimator with a ``loss_reduction``, which it would replace."""
    if (given := getattr(mitigator.estimator, "loss_reduction", None)) is not None:
        raise ValueError(f"estimator must leave loss_reduction to {type(mitigator).__name__}, got {given!r}")


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


class Mitigator(Trainer):
    """A mitigator that leaves the images to its classifier."""

    # Whether it sees training images only as its classifier does, in the batches of one training.
    _only_trains: ClassVar[bool] = False
    classes_ = property(attrgetter("estimator_.classes_"), doc="The sorted labels.")
    n_features_in_ = property(attrgetter("estimator_.n_features_in_"), doc="Channels x height x width.")
    feature_names_in_ = property(
        attrgetter("estimator_.feature_names_in_"), doc="Names of the columns, if X was a data frame of rows."
    )

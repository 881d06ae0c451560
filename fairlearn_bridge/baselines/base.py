"""What the mitigators share: cells of class and sensitive feature, and prediction by a trained classifier."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin
from sklearn.utils.validation import check_is_fitted

from captum_region.labels import check_classes
from fairlearn_bridge.validation import check_sensitive, from_names

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    from captum_region.batches import ImageData


class NotApplicableError(ValueError):
    """A mitigator cannot do anything with these training data; the message says why."""


def cells_of(X: ImageData, y: ArrayLike, sensitive_features: ArrayLike) -> tuple[ImageData, pd.DataFrame]:
    """Return X, its labels and sensitive features, checked, and the number of each image's cell, by which they sort."""
    X, y, sensitive_features = from_names(X, y, sensitive_features)
    table = {
        "y": check_classes(y, len(X), name="y", least=2),
        "sensitive_features": check_sensitive(sensitive_features, len(X)),
    }
    cells = pd.DataFrame(table)
    return X, cells.assign(cell=cells.groupby(["y", "sensitive_features"]).ngroup())


def need_all_cells(cells: pd.DataFrame, what: str) -> None:
    """Raise NotApplicableError if a class has no image with one of the sensitive feature's values."""
    counts = pd.crosstab(cells["y"], cells["sensitive_features"])
    for label, row in counts.iterrows():
        for value in row.index[row == 0]:
            raise NotApplicableError(f"no training image of class {label} has the sensitive feature {value}: {what}")


class Mitigator(MetaEstimatorMixin, ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """What has trained an image classifier in its own way, and predicts by it."""

    estimator_: Any

    @property
    def classes_(self) -> NDArray[Any]:
        """The sorted labels."""
        classes: NDArray[Any] = self.estimator_.classes_
        return classes

    @property
    def n_features_in_(self) -> int:
        """Channels x height x width, as the classifier has it."""
        count: int = self.estimator_.n_features_in_
        return count

    @property
    def feature_names_in_(self) -> NDArray[Any]:
        """Names of the columns, if X was a data frame of rows."""
        names: NDArray[Any] = self.estimator_.feature_names_in_
        return names

    def predict_proba(self, X: ImageData) -> NDArray[np.float64]:
        """Return the probability of each class of ``classes_``, N x classes."""
        check_is_fitted(self, "estimator_")
        probability: NDArray[np.float64] = self.estimator_.predict_proba(X)
        return probability

    def predict(self, X: ImageData) -> NDArray[Any]:
        """Return the likeliest label of each image, shape (N,)."""
        likeliest = self.predict_proba(X).argmax(1)  # first: it tells that there has been no fit
        predicted: NDArray[Any] = self.classes_[likeliest]
        return predicted

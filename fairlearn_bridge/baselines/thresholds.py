"""ThresholdShift: the control that moves the threshold alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin, clone
from sklearn.metrics import make_scorer, recall_score
from sklearn.model_selection import TunedThresholdClassifierCV
from sklearn.utils.validation import check_is_fitted

from fairlearn_bridge.validation import from_names

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from captum_region.batches import ImageData


def _recall_gap(y_true: NDArray[Any], y_pred: NDArray[Any]) -> float:
    recalls = recall_score(y_true, y_pred, average=None, zero_division=0.0)
    return float(recalls.max() - recalls.min())


class ThresholdShift(MetaEstimatorMixin, ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A binary classifier, not mitigated, whose threshold is moved until both classes are recognised equally well.

    The control for every claim of a smaller gap: accuracy by class can be equalised by the threshold alone, with no
    less use of the confounder. It needs validation data in which target and confounder are independent, which the
    mitigators do without.

    Parameters
    ----------
    estimator : classifier with ``predict_proba``
        Cloned and trained.

    Attributes
    ----------
    estimator_ : estimator
        The fitted classifier.
    threshold_ : float
        The least probability of ``classes_[1]`` that is predicted as such.
    classes_ : ndarray of shape (2,)
    """

    def __init__(self, estimator: Any) -> None:
        self.estimator = estimator

    def fit(self, X: ImageData, y: ArrayLike, *, validation: tuple[ImageData, ArrayLike]) -> ThresholdShift:
        """Train on X and y, then choose the threshold on the validation images and labels.

        Raises
        ------
        ValueError
            If y has more than two classes, or the validation data lack one.
        """
        X, y = from_names(X, y)
        X_valid, y_valid = from_names(*validation)
        if len(np.unique(np.asarray(y))) != 2 or len(np.unique(np.asarray(y_valid))) != 2:
            raise ValueError("y and the labels of validation must hold two classes, a threshold lies between two")
        self.estimator_ = clone(self.estimator).fit(X, y)
        self.classes_ = self.estimator_.classes_
        tuned = TunedThresholdClassifierCV(
            self.estimator_,
            scoring=make_scorer(_recall_gap, greater_is_better=False),
            response_method="predict_proba",
            thresholds=np.unique(self.estimator_.predict_proba(X_valid)[:, 1]),
            cv="prefit",
            refit=False,
        )
        self.threshold_ = float(tuned.fit(X_valid, np.asarray(y_valid)).best_threshold_)
        return self

    def predict_proba(self, X: ImageData) -> NDArray[np.float64]:
        """Return the estimator's probabilities, N x 2; the shift does not change them."""
        check_is_fitted(self, "threshold_")
        probability: NDArray[np.float64] = self.estimator_.predict_proba(X)
        return probability

    def predict(self, X: ImageData) -> NDArray[Any]:
        """Return the label of each image by the shifted threshold, shape (N,)."""
        is_second = self.predict_proba(X)[:, 1] >= self.threshold_
        predicted: NDArray[Any] = self.classes_[is_second.astype(int)]
        return predicted

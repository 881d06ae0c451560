"""ThresholdShift: the control that moves the threshold alone."""

from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone
from sklearn.metrics import make_scorer
from sklearn.model_selection import TunedThresholdClassifierCV
from sklearn.utils.validation import check_is_fitted

from captum_region.batches import ImageData
from fairlearn_bridge.baselines.base import Mitigator, labels_of


def _recall_gap(y_true: NDArray[Any], y_pred: NDArray[Any]) -> float:
    # Not recall_score: it checks its input, which takes longest, again for each of as many thresholds as images.
    recalls = [np.mean(y_pred[y_true == label] == label) for label in np.unique(y_true)]
    return float(max(recalls) - min(recalls))


class ThresholdShift(Mitigator):
    """A binary classifier, not mitigated, whose threshold is moved until both classes are recognised equally well.

    The control for every claim of a smaller gap: accuracy by class can be equalised by the threshold alone, without
    using the spurious attribute less. It needs validation data in which target and spurious attribute are independent;
    the mitigators do not.

    Parameters
    ----------
    estimator : classifier with ``predict_proba``
        Cloned and trained.

    Attributes
    ----------
    estimator_ : estimator
        The fitted classifier.
    threshold_ : float
        The least probability of ``classes_[1]`` that is predicted as such. It lies between two of the validation
        images.
    classes_ : ndarray of shape (2,)

    See Also
    --------
    fairlearn_bridge.signed_gap : The gap that it closes.
    """

    _predicts_with: ClassVar[tuple[str, ...]] = ("estimator_", "threshold_")

    def fit(self, X: ImageData, y: ArrayLike, *, validation: tuple[ImageData, ArrayLike]) -> Self:
        """Train on X and y, then choose the threshold on the validation images and labels.

        Parameters
        ----------
        X, y
            As in `ImageClassifier.fit`.
        validation : (images, labels)
            Like X and y.

        Returns
        -------
        self

        Raises
        ------
        TypeError, ValueError
            If `validation` is not a pair, or its images have another shape than X, y has more than two classes or lacks
            one of the estimator's, or the validation data have only one, or another one.
        """
        X, labels = labels_of(X, y)
        if not isinstance(validation, tuple | list) or len(validation) != 2:
            raise TypeError(f"validation must be (images, labels), got {type(validation).__name__}")
        X_valid, valid_labels = labels_of(*validation, name="validation labels")
        if np.shape(X_valid)[1:] != np.shape(X)[1:]:
            raise ValueError(
                f"validation images must have the shape of X's, {np.shape(X)[1:]}, got {np.shape(X_valid)[1:]}"
            )
        for name, values in (("y", labels), ("validation labels", valid_labels)):
            if (count := len(np.unique(values))) > 2:
                raise ValueError(f"Only binary classification is supported. {name} must hold 2 classes, got {count}")
        if unknown := {*valid_labels.tolist()} - {*labels.tolist()}:
            raise ValueError(f"validation labels must be of the classes of y, got {sorted(unknown, key=str)} too")
        self.estimator_ = clone(self.estimator).fit(X, labels)
        if len(self.classes_) != 2:
            raise ValueError(f"estimator must have the two classes of y, got {self.classes_.tolist()}")
        scores = np.unique(self.estimator_.predict_proba(X_valid)[:, 1])
        # Between two scores: a probability that is computed again may differ in its last digit. One alone is refused.
        thresholds = (scores[1:] + scores[:-1]) / 2 if len(scores) > 1 else scores
        tuned = TunedThresholdClassifierCV(
            self.estimator_,
            scoring=make_scorer(_recall_gap, greater_is_better=False),
            response_method="predict_proba",
            thresholds=thresholds,
            cv="prefit",
            refit=False,
        )
        self.threshold_ = float(tuned.fit(X_valid, valid_labels).best_threshold_)
        return self

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags

    def predict(self, X: ImageData) -> NDArray[Any]:
        """Return the label of each image by the shifted threshold, shape (N,)."""
        check_is_fitted(self, "threshold_")
        return np.asarray(self.classes_[(self.predict_proba(X)[:, 1] >= self.threshold_).astype(int)])

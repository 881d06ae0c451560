"""worst_group_threshold: the decision threshold that serves the worst group best."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from captum_region.labels import check_classes
from fairlearn_bridge.validation import check_sensitive

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def worst_group_threshold(y: ArrayLike, score: ArrayLike, *, sensitive_features: ArrayLike) -> float:
    """Return the threshold with the highest worst-group accuracy: the least accuracy of a cell of class and group.

    It is what scikit-learn's ``TunedThresholdClassifierCV`` does with that accuracy as its scorer, from scores alone
    and for all thresholds at once. Choose it on validation images, which the classifier was not trained on.

    Parameters
    ----------
    y : array-like of shape (N,)
        Labels of two classes.
    score : array-like of shape (N,)
        Probability of the second class, in sorted order.
    sensitive_features : array-like of shape (N,) or (N, attributes)
        The groups; only cells that have images count.

    Returns
    -------
    float
        In (0, 1): the second class is predicted from this probability on. It lies between two scores, or is 0.5; of
        equally good ones it is the one nearest 0.5.

    Raises
    ------
    ValueError
        If an argument does not fit.

    See Also
    --------
    ThresholdShift : Equalises the accuracy of both classes instead.

    Examples
    --------
    >>> y, score = [0, 0, 1, 1], [0.1, 0.2, 0.3, 0.9]
    >>> worst_group_threshold(y, score, sensitive_features=["a", "b", "a", "b"])
    0.25
    """
    labels = check_classes(y, len(np.asarray(y)), name="y", least=2)
    groups = check_sensitive(sensitive_features, len(labels))
    values = np.asarray(score, dtype=float)
    if len(classes := np.unique(labels)) > 2:
        raise ValueError(f"y must hold 2 classes, a threshold divides no more; got {len(classes)}")
    if values.shape != labels.shape or not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"score must hold {len(labels)} probabilities in [0, 1], got shape {values.shape}")
    steps = np.unique(values)
    # Between two scores: a probability that is computed again may differ in its last digit.
    thresholds = np.unique([*(steps[1:] + steps[:-1]) / 2, 0.5])
    positive = labels == classes[1]
    worst = np.ones(len(thresholds))
    for of_class in (positive, ~positive):
        for group in np.unique(groups[of_class]):
            ordered = np.sort(values[of_class & (groups == group)])
            below = np.searchsorted(ordered, thresholds) / len(ordered)
            worst = np.minimum(worst, 1 - below if of_class is positive else below)
    # What is equal but for rounding is a tie.
    best = thresholds[worst >= worst.max() - 1e-9]
    return float(best[np.abs(best - 0.5).argmin()])

"""worst_group_threshold: worked out by hand, by trying all thresholds, and by scikit-learn's own search."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import make_scorer
from sklearn.model_selection import TunedThresholdClassifierCV

from fairlearn_bridge import worst_group_threshold


def worst_group_accuracy(y, predicted, groups):
    return min(
        (predicted[cell] == y[cell]).mean()
        for label in np.unique(y)
        for group in np.unique(groups)
        if (cell := (y == label) & (groups == group)).any()
    )


class Known(ClassifierMixin, BaseEstimator):
    """Its probabilities are its input."""

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self

    def predict_proba(self, X):
        return np.column_stack([1 - X[:, 0], X[:, 0]])


@given(st.integers(0, 10**6), st.integers(2, 40), st.sampled_from([3, 10, 1000]))
def test_no_threshold_is_better(seed, count, values):
    rng = np.random.default_rng(seed)
    y, groups = np.arange(count) % 2 == 1, rng.integers(0, 3, count)
    score = rng.integers(0, values + 1, count) / values
    threshold = worst_group_threshold(y, score, sensitive_features=groups)
    found = worst_group_accuracy(y, score >= threshold, groups)
    every = np.unique([*score, 0.5])
    assert found == pytest.approx(max(worst_group_accuracy(y, score >= one, groups) for one in every))
    assert 0 < threshold < 1
    assert threshold == 0.5 or threshold not in score or (np.diff(np.unique(score)) < 1e-12).any()


def test_it_is_as_good_as_scikit_learns():
    rng = np.random.default_rng(0)
    y, groups = rng.random(300) < 0.4, rng.integers(0, 2, 300)
    score = np.clip(0.3 * y + 0.2 * groups + rng.normal(0.3, 0.2, 300), 0, 1)
    scoring = make_scorer(lambda y_true, predicted: worst_group_accuracy(y_true, predicted, groups))
    known = Known().fit(score[:, None], y)
    options = {"response_method": "predict_proba", "thresholds": np.unique(score), "cv": "prefit", "refit": False}
    tuned = TunedThresholdClassifierCV(known, scoring=scoring, **options).fit(score[:, None], y)
    ours = worst_group_threshold(y, score, sensitive_features=groups)
    assert worst_group_accuracy(y, score >= ours, groups) == pytest.approx(tuned.best_score_)


def test_of_equals_the_one_nearest_to_one_half_is_taken():
    y, groups = ["man", "man", "woman", "woman"], ["x", "y"] * 2
    assert worst_group_threshold(y, [0.1, 0.2, 0.8, 0.9], sensitive_features=groups) == 0.5
    assert worst_group_threshold(y, [0.6, 0.7, 0.8, 0.9], sensitive_features=groups) == pytest.approx(0.75)
    # One cell is always wrong: all thresholds are equally bad.
    assert worst_group_threshold(y, [0.9, 0.2, 0.1, 0.8], sensitive_features=groups) == 0.5


@pytest.mark.parametrize(
    ("y", "score", "words"),
    [
        ([0, 1, 2], [0.1, 0.2, 0.3], "y must hold 2 classes, a threshold divides no more; got 3"),
        ([0, 0, 0], [0.1, 0.2, 0.3], "y must hold at least 2 classes"),
        ([0, 1, 1], [0.1, np.nan, 0.3], "score must hold 3 probabilities"),
        ([0, 1, 1], [0.1, 0.3], "score must hold 3 probabilities"),
    ],
)
def test_what_does_not_fit_is_named(y, score, words):
    with pytest.raises(ValueError, match=words):
        worst_group_threshold(y, score, sensitive_features=[0, 1, 0])

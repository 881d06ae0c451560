"""The statistics of audits, against brute force and in simulation."""

import itertools

import numpy as np
import pytest
from scipy import stats

from fairlearn_bridge.audit import statistics

CODES = np.array([0, 1, 0, 1, 1])
VALUES = np.array([[1.0, 0.1], [0.0, 0.2], [-1.0, 0.4], [1.0, 0.8], [1.0, 1.6]])


def test_bootstrap_means_have_the_moments_of_the_mean_within_groups():
    draws = statistics.bootstrap_means(VALUES, CODES, 20_000, np.random.default_rng(0))
    assert draws.shape == (20_000, 2, 2)
    for group in (0, 1):
        rows = VALUES[group == CODES]
        np.testing.assert_allclose(draws[:, group].mean(0), rows.mean(0), atol=0.02)
        np.testing.assert_allclose(draws[:, group].var(0), rows.var(0) / len(rows), atol=0.01)
    # Both columns share their draws: of the first group each draw is one of three, (1, .1), (0, .25) or (-1, .4).
    assert len(np.unique(draws[:, 0].round(9), axis=0)) == 3


def test_draws_in_parts_are_those_at_once(monkeypatch):
    for function in (statistics.bootstrap_means, statistics.permuted_means):
        whole = function(VALUES, CODES, 50, np.random.default_rng(0))
        with monkeypatch.context() as patch:
            patch.setattr(statistics, "_AT_ONCE", 20)
            parts = function(VALUES, CODES, 50, np.random.default_rng(0))
        assert whole.shape == parts.shape
        assert np.isfinite(parts).all()


def test_permuted_means_are_uniform_over_all_assignments():
    draws = statistics.permuted_means(VALUES[:, 1:], CODES, 10_000, np.random.default_rng(0))[..., 0]
    total = VALUES[:, 1].sum()
    exact = []
    for first in itertools.combinations(range(5), 2):
        mean = VALUES[list(first), 1].mean()
        exact.append((mean, (total - 2 * mean) / 3))
    found, counts = np.unique(draws.round(9), axis=0, return_counts=True)
    np.testing.assert_allclose(found, np.array(sorted(exact)).round(9), atol=1e-9)
    np.testing.assert_allclose(counts / 10_000, 0.1, atol=0.015)


def test_holm_by_hand():
    np.testing.assert_allclose(statistics.holm([0.02, 0.01, 0.5, 0.04]), [0.06, 0.04, 0.5, 0.08])
    assert statistics.holm([0.9, 0.9]).tolist() == [1.0, 1.0]
    assert statistics.holm([0.03]).tolist() == [0.03]


def test_a_tie_with_what_was_observed_counts_as_extreme():
    null = np.array([[0.1 + 0.2], [0.0], [1.0]])
    assert statistics.p_values([0.3], null).tolist() == [0.75]
    assert statistics.p_values([0.3 + 1e-9], null).tolist() == [0.5]


def test_without_a_difference_p_is_below_5_percent_in_about_5_percent_of_audits():
    rng, p, intervals = np.random.default_rng(0), [], []
    codes = np.repeat([0, 1, 2, 3], 50)
    for _ in range(600):
        drop = (rng.random((200, 1)) < 0.3).astype(float) + rng.normal(0, 1e-6, (200, 1))  # no ties
        p.append(statistics.equal_means_p(drop, codes, 199, rng)[0])
        intervals.append(statistics.spread(np.stack([drop[codes == code].mean(0) for code in range(4)]), axis=0)[0])
    # 600 draws of a share of 5 %: its standard deviation is 0.9 %.
    assert 0.02 < np.mean(np.array(p) <= 0.05) < 0.08
    assert np.mean(np.array(p) <= 0.5) == pytest.approx(0.5, abs=0.07)
    # Why there is a test at all: the largest difference of groups that do not differ is far from 0.
    assert np.mean(intervals) > 0.05


@pytest.mark.parametrize("sizes", [(60, 740), (200, 600), (740, 60)])
def test_a_group_that_only_varies_more_is_not_biased(sizes):
    rng, codes = np.random.default_rng(0), np.repeat([0, 1], sizes)
    flips = np.where(codes == 0, 0.15, 0.05)[:, None]  # as many decisions lost as won, in both groups
    drops = np.where(rng.random((800, 400)) < flips, rng.choice([-1.0, 1.0], (800, 400)), 0.0)
    p = statistics.equal_means_p(drops, codes, 199, rng)
    # Of a range of means, not studentised, 17, 10 and 0 % were below 0.05.
    assert 0.015 < np.mean(p <= 0.05) < 0.09


def test_of_two_groups_it_is_welchs_test_by_permutation(monkeypatch):
    monkeypatch.setattr(statistics, "_SHRINK", 0)

    def welch(first, second):
        return abs(stats.ttest_ind(first, second, equal_var=False).statistic)

    rng, codes = np.random.default_rng(0), np.repeat([0, 1], [4, 6])
    values = rng.normal(codes * 0.8, 1 + codes)[:, None]
    wanted = stats.permutation_test((values[:4, 0], values[4:, 0]), welch, alternative="greater", n_resamples=np.inf)
    assert 0.05 < wanted.pvalue < 0.95
    assert statistics.equal_means_p(values, codes, 20000, rng)[0] == pytest.approx(wanted.pvalue, abs=0.015)

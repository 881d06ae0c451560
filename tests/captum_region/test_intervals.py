import numpy as np
import pytest

from captum_region.intervals import extreme_interval, percentile_interval


def test_the_interval_of_an_extreme_holds_the_percentile_interval_and_its_reflection_at_the_point():
    draws = np.random.default_rng(0).normal([2.0, -3.0], size=(500, 2))
    for point in ([2.0, -3.0], [2.1, -2.5], [9.0, -9.0]):
        low, high = extreme_interval(point, draws, 0.9)
        percentile_low, percentile_high = percentile_interval(draws, 0.9)
        np.testing.assert_allclose(low, np.minimum(percentile_low, 2 * np.array(point) - percentile_high))
        np.testing.assert_allclose(high, np.maximum(percentile_high, 2 * np.array(point) - percentile_low))
        assert ((low < point) & (point < high)).all()
    draws[0, 0] = np.nan
    for ends in (percentile_interval(draws), extreme_interval([2.0, -3.0], draws)):
        assert np.isnan(ends).tolist() == [[True, False]] * 2


@pytest.mark.parametrize("truth", [[0.75] * 4, [0.75, 0.75, 0.9, 0.9], [0.75, 0.9, 0.9, 0.9]])
def test_the_interval_of_a_least_accuracy_covers_it_as_often_as_it_says(truth):
    rng, images, covered = np.random.default_rng(0), 200, 0
    for _ in range(300):
        right = rng.binomial(images, truth) / images
        draws = rng.binomial(images, right, (300, 4)).min(1) / images
        low, high = extreme_interval(right.min(), draws)
        covered += bool(low <= 0.75 <= high)
    assert covered > 0.88 * 300  # of four equal ones the percentile interval covers half


@pytest.mark.parametrize("difference", [0, 1, 2, 5])
def test_the_interval_of_a_range_covers_it_as_often_as_it_says(difference):
    rng, covered = np.random.default_rng(0), 0
    for _ in range(300):
        means = rng.normal([0, difference])
        low, high = extreme_interval(np.ptp(means), np.ptp(rng.normal(means, size=(300, 2)), axis=1))
        covered += bool(low <= difference <= high)
    assert covered > 0.88 * 300  # of no difference the percentile interval covers none, of one or two the basic 0.75

import numpy as np
import pytest

from captum_region.intervals import basic_interval, percentile_interval


def test_a_basic_interval_is_the_percentile_interval_reflected_and_holds_the_point():
    draws = np.random.default_rng(0).normal([2.0, -3.0], size=(500, 2))
    for point in ([2.0, -3.0], [2.1, -2.5]):
        low, high = basic_interval(point, draws, 0.9)
        percentile_low, percentile_high = percentile_interval(draws, 0.9)
        np.testing.assert_allclose(low, 2 * np.array(point) - percentile_high)
        np.testing.assert_allclose(high, 2 * np.array(point) - percentile_low)
    low, high = basic_interval([9.0, -9.0], draws)
    assert (low[0], high[1]) == (9, -9)  # far outside the draws
    assert high[0] > 9
    assert low[1] < -9
    draws[0, 0] = np.nan
    for ends in (percentile_interval(draws), basic_interval([2.0, -3.0], draws)):
        assert np.isnan(ends).tolist() == [[True, False]] * 2


@pytest.mark.parametrize("truth", [[0.75] * 4, [0.75, 0.75, 0.9, 0.9], [0.75, 0.9, 0.9, 0.9]])
def test_the_interval_of_a_least_accuracy_covers_it_as_often_as_it_says(truth):
    rng, images, covered = np.random.default_rng(0), 200, 0
    for _ in range(300):
        right = rng.binomial(images, truth) / images
        draws = rng.binomial(images, right, (300, 4)).min(1) / images
        low, high = basic_interval(right.min(), draws)
        covered += bool(low <= 0.75 <= high)
    assert covered > 0.88 * 300  # of four equal ones the percentile interval covers half

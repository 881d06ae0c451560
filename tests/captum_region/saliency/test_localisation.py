"""Measures of localisation, by hand."""

import numpy as np
import pytest
import torch

from captum_region.saliency.localisation import (
    intersection_over_union,
    mass_accuracy,
    pixel_auc,
    pointing_game,
    rank_accuracy,
)

MAPS = np.array([[[4, 3], [2, 1]]] * 4, dtype=float)
TRUTH = np.array([[[1, 1], [0, 0]], [[1, 0], [1, 0]], [[0, 0], [0, 1]], [[1, 1], [1, 0]]], dtype=bool)


@pytest.mark.parametrize(
    ("measure", "expected"),
    [
        (pointing_game, [1, 1, 0, 1]),
        (rank_accuracy, [1, 0.5, 0, 1]),
        (intersection_over_union, [1, 1 / 3, 0, 1]),
        (mass_accuracy, [0.7, 0.6, 0.1, 0.9]),
        (pixel_auc, [1, 0.75, 0, 1]),
    ],
)
def test_values_worked_out_by_hand(measure, expected):
    np.testing.assert_allclose(measure(MAPS, TRUTH), expected)
    np.testing.assert_allclose(measure(torch.from_numpy(MAPS), torch.from_numpy(TRUTH)), expected)
    # A constant map, an empty truth, a truth of everything: nothing to say, and said once.
    maps = np.concatenate([MAPS, np.ones((1, 2, 2)), MAPS[:2]])
    truth = np.concatenate([TRUTH, TRUTH[:1], np.zeros((1, 2, 2), bool), np.ones((1, 2, 2), bool)])
    with pytest.warns(RuntimeWarning, match="undefined for 3 of 7 images") as told:
        values = measure(maps, truth)
    assert len(told) == 1
    np.testing.assert_allclose(values, [*expected, np.nan, np.nan, np.nan])
    with pytest.raises(ValueError, match="of one shape"):
        measure(MAPS, TRUTH[:2])
    with pytest.raises(ValueError, match="of one shape"):
        measure(MAPS[0], TRUTH[0])


def test_signs_and_ties():
    inside = np.array([[[1, 0], [0, 0]]], dtype=bool)
    assert mass_accuracy([[[1, -5], [3, -1]]], inside) == 0.25
    with pytest.warns(RuntimeWarning, match="undefined"):
        assert np.isnan(mass_accuracy([[[-1, -5], [-3, -1]]], inside))
    assert pointing_game([[[2, 2], [2, 1]]], inside) == pytest.approx(1 / 3)
    assert pixel_auc([[[1, 1], [0, 0]]], inside) == pytest.approx(5 / 6)


def test_rank_measures_depend_only_on_the_order():
    rng = np.random.default_rng(0)
    maps, truth = rng.random((5, 6, 7)), rng.random((5, 6, 7)) < 0.3
    for measure in (pointing_game, rank_accuracy, intersection_over_union, pixel_auc):
        np.testing.assert_allclose(measure(np.exp(3 * maps), truth), measure(maps, truth))


@pytest.mark.parametrize(
    ("measure", "expected"),
    [
        (pointing_game, [0, 0, 1, 1, 1, 1]),
        (rank_accuracy, [0, 0.166666666667, 0.636363636364, 0.5, 0.846153846154, 0.941176470588]),
        (mass_accuracy, [0.027070925826, 0.19503945885, 0.455888744024, 0.476216511755, 0.825499034127, 0.93606281548]),
        (pixel_auc, [0.5, 0.594444444444, 0.84, 0.456790123457, 0.836538461538, 0.426470588235]),
    ],
)
def test_quantus_gives_the_same_values(measure, expected):
    # The values are those of Quantus 0.6.0: PointingGame, RelevanceRankAccuracy, RelevanceMassAccuracy and AUC, each
    # with abs=False and normalise=False, called with a_batch=maps[:, None] and s_batch=truth[:, None].
    number = np.arange(6 * 36).reshape(6, 6, 6)
    truth = number * 29 % 97 < np.array([5, 15, 30, 50, 70, 90])[:, None, None]
    maps = number * 37 % 101 / 100
    maps[::2] += truth[::2] / 2  # some that do find it: pointing would else nearly always miss
    np.testing.assert_allclose(measure(maps, truth), expected, atol=1e-11)

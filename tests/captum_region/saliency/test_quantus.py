"""Where Quantus has the same measure it gives the same values; runs where Quantus is installed."""

import warnings

import numpy as np
import pytest

from captum_region.saliency.localisation import mass_accuracy, pixel_auc, pointing_game, rank_accuracy

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    quantus = pytest.importorskip("quantus", reason="Quantus is not installed")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (pointing_game, "PointingGame"),
        (rank_accuracy, "RelevanceRankAccuracy"),
        (mass_accuracy, "RelevanceMassAccuracy"),
        (pixel_auc, "AUC"),
    ],
)
def test_same_values(ours, theirs):
    rng = np.random.default_rng(0)
    maps, truth = rng.random((20, 12, 12)), rng.random((20, 12, 12)) < rng.uniform(0.02, 0.9, (20, 1, 1))
    # Some maps that do find it: pointing would else nearly always miss.
    maps[::2] += truth[::2]
    metric = getattr(quantus, theirs)(abs=False, normalise=False, disable_warnings=True)
    expected = metric(
        model=None,
        x_batch=np.zeros((20, 3, 12, 12)),
        y_batch=np.zeros(20, int),
        a_batch=maps[:, None],
        s_batch=truth[:, None],
    )
    values = ours(maps, truth)
    assert np.ptp(values) > 0.1
    np.testing.assert_allclose(values, np.asarray(expected, float), atol=1e-9)

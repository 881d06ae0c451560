"""Calibration: bins by hand, the error of a classifier whose calibration is known, temperature."""

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from torch.utils.data import DataLoader

from captum_region import DenseRegionClassifier, RegionAttribution, RegionGrid
from captum_region.calibration import Calibration, balanced_subset, fit_temperature, measure_calibration, of_logits
from captum_region.classifiers import RegionClassifier
from captum_region.datasets import AttributeImages
from captum_region.plotting import plot_reliability

GRID = RegionGrid(8, 4, 2)


class FromPixels(RegionClassifier):
    """Gives as log-probabilities what the first pixels of a patch's region say: logits one can write down."""

    def forward(self, patches, region):
        raise NotImplementedError

    def forward_grid(self, images, *, regions_per_pass=256):
        values = images[:, : self.num_classes, :3, :3].double()
        return (values / values.sum(1, keepdim=True)).log() / self.temperature


def images_saying(probabilities):
    """Return images of N x classes x 3 x 3 probabilities, which add up to 1."""
    images = np.zeros((len(probabilities), probabilities.shape[1], 8, 8))
    images[:, :, :3, :3] = probabilities
    return images


def drawn(count, classes=3, sharpness=1.0, seed=0):
    """Return probabilities that are calibrated if sharpness is 1, and labels: each image's regions share one label."""
    rng = np.random.default_rng(seed)
    each = rng.dirichlet(np.ones(classes), count)
    labels = (rng.random((count, 1)) > each.cumsum(1)).sum(1)
    said = each**sharpness
    said /= said.sum(1, keepdims=True)
    return np.broadcast_to(said[:, :, None, None], (count, classes, 3, 3)), labels


def test_values_worked_out_by_hand():
    # Two images of nine regions: the first says 0.9 for class 0, the second 0.6 for class 1; both are of class 0.
    said = np.array([[0.9, 0.1], [0.4, 0.6]])[:, :, None, None] * np.ones((1, 1, 3, 3))
    classifier = FromPixels(GRID, 2, in_channels=2).eval()
    found = measure_calibration(classifier, images_saying(said), ["0", "0"], bins=4)
    assert found.bins["patches"].tolist() == [0, 0, 9, 9]
    np.testing.assert_allclose(found.bins["confidence"], [np.nan, np.nan, 0.6, 0.9], rtol=1e-6)
    np.testing.assert_allclose(found.bins["accuracy"], [np.nan, np.nan, 0, 1])
    assert found.error == pytest.approx(0.5 * 0.6 + 0.5 * 0.1, rel=1e-6)
    assert found.accuracy == 0.5  # of the one class that is there
    assert found.images == 2


@pytest.mark.parametrize("batch_size", [7, 1000])
def test_the_error_is_that_of_the_bins(batch_size):
    said, labels = drawn(300, sharpness=2)
    classifier = FromPixels(GRID, 3).eval()
    found = measure_calibration(classifier, images_saying(said), labels, bins=20, batch_size=batch_size)
    # The definition, bin by bin; each image's nine patches say the same.
    confidence, hit = said[:, :, 0, 0].max(1), said[:, :, 0, 0].argmax(1) == labels
    error = 0.0
    for number, row in found.bins.iterrows():
        inside = (number / 20 <= confidence) & (confidence < (number + 1) / 20)
        assert row["patches"] == 9 * inside.sum()
        if inside.any():
            assert row["confidence"] == pytest.approx(confidence[inside].mean(), rel=1e-6)
            assert row["accuracy"] == pytest.approx(hit[inside].mean(), rel=1e-6)
            error += abs(confidence[inside].mean() - hit[inside].mean()) * inside.mean()
    assert found.error == pytest.approx(error, rel=1e-6)
    assert found.bins["patches"].sum() == 2700


def test_a_confidence_of_one_is_in_the_last_bin():
    # 100 patches say class 0 with 1 (to float32), half of them wrong; 100 more with 0.995, all right.
    logits = torch.zeros(200, 2, 1, 1)
    logits[:100, 0], logits[100:, 0] = 20, 5.293305  # log(0.995 / 0.005)
    labels = torch.tensor([0] * 50 + [1] * 50 + [0] * 100)
    found = of_logits([(logits[:70], labels[:70]), (logits[70:], labels[70:])], bins=100)
    assert found.bins["patches"].tolist() == [0] * 99 + [200]
    assert found.bins["confidence"].iloc[-1] == pytest.approx(0.9975, abs=1e-6)
    assert found.error == pytest.approx(0.9975 - 0.75, abs=1e-6)
    assert found.accuracy == pytest.approx((150 / 150 + 0 / 50) / 2)
    with pytest.raises(ValueError, match="at least one image, got none"):
        of_logits([])


@pytest.mark.parametrize("sharpness", [0.1, 2, 7])
def test_temperature_undoes_what_made_it_over_or_underconfident(sharpness):
    # said ~ p**sharpness / sum: the logits are so many times those of a calibrated classifier.
    said, labels = drawn(4000, sharpness=sharpness)
    classifier = FromPixels(GRID, 3).eval()
    before = measure_calibration(classifier, images_saying(said), labels, bins=10)
    assert fit_temperature(classifier, images_saying(said), labels) == pytest.approx(sharpness, rel=0.08)
    assert float(classifier.temperature) == pytest.approx(sharpness, rel=0.08)
    after = measure_calibration(classifier, images_saying(said), labels, bins=10)
    assert before.error > 0.1
    assert after.error < 0.03
    assert after.accuracy == before.accuracy
    again = fit_temperature(classifier, images_saying(said), labels)
    assert again == pytest.approx(sharpness, rel=0.08)  # what was there before does not count


def test_a_balanced_subset_has_as_many_of_each_label():
    labels = np.array(["a"] * 50 + ["b"] * 9 + ["c"] * 20)
    chosen = balanced_subset(labels, random_state=0)
    assert np.unique(labels[chosen], return_counts=True)[1].tolist() == [9, 9, 9]
    assert (np.diff(chosen) > 0).all()
    assert not np.array_equal(chosen, balanced_subset(labels, random_state=1))
    assert len(balanced_subset(labels, limit=13, random_state=0)) == 12
    with pytest.raises(ValueError, match="limit must allow one of each of the 3 labels, got 2"):
        balanced_subset(labels, limit=2)
    with pytest.raises(ValueError, match="got none"):
        balanced_subset([])


@pytest.mark.parametrize(
    ("labels", "options", "words"),
    [
        ([0, 1], {}, "2 labels for 3 images"),
        ([0, 1, 5], {}, "among the classes 0, 1, 2"),
        ([0, 1, 2], {"bins": 0}, "bins must be an integer of at least 1, got 0"),
        ([0, None, 2], {}, "missing"),
    ],
)
def test_invalid_arguments_are_named_in_the_error(labels, options, words):
    said, _ = drawn(3)
    with pytest.raises(ValueError, match=words):
        measure_calibration(FromPixels(GRID, 3).eval(), images_saying(said), labels, **options)


def test_calibration_takes_the_same_image_sources_as_training():
    pixels = np.random.default_rng(0).integers(0, 256, (6, 3, 8, 8), dtype=np.uint8)
    labels = np.array([0, 1, 0, 1, 1, 0])
    classifier = DenseRegionClassifier(GRID, 2, width=4, random_state=0).eval()
    expected = measure_calibration(classifier, pixels, labels)
    found = measure_calibration(classifier, AttributeImages(pixels, pd.DataFrame({"hat": labels})), labels)
    assert found.error == expected.error
    pairs = [(torch.from_numpy(image), 0) for image in pixels]
    assert measure_calibration(classifier, DataLoader(pairs, batch_size=2), labels).error == expected.error


@pytest.mark.parametrize("judge", [measure_calibration, fit_temperature])
def test_calibration_needs_a_classifier_in_eval_mode(judge):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 3, 8, 8), dtype=np.uint8)
    classifier = DenseRegionClassifier(GRID, 2, width=4, random_state=0)
    seen = [norm.num_batches_tracked.clone() for norm in classifier.norms]
    with pytest.raises(ValueError, match="classifier must be in eval mode, got one in train mode"):
        judge(classifier, pixels, [0, 1, 0, 1, 1, 0])
    assert [norm.num_batches_tracked for norm in classifier.norms] == seen
    with pytest.raises(TypeError, match="classifier must be a RegionClassifier, got RegionAttribution"):
        judge(RegionAttribution(classifier.eval()), pixels, [0, 1, 0, 1, 1, 0])


def test_the_plot_shows_the_bins_and_their_sizes():
    said, labels = drawn(300, sharpness=2)
    classifier = FromPixels(GRID, 3).eval()
    found = measure_calibration(classifier, images_saying(said), labels, bins=10)
    figure = plot_reliability({"$a": found, "b": found}, axes=Figure().subplots(2, 1), title="both")
    top, bottom = figure.axes
    full = found.bins[found.bins["patches"] > 0]
    np.testing.assert_allclose(top.lines[1].get_xydata(), full[["confidence", "accuracy"]])
    assert [text.get_text() for text in top.get_legend().get_texts()][1] == rf"\$a: error {found.error:.3f}"
    np.testing.assert_allclose(bottom.patches[0].get_data().values, found.bins["patches"] / 2700)
    with pytest.raises(ValueError, match="axes must be one for the diagram"):
        plot_reliability(found, axes=[Figure().subplots()])
    with pytest.raises(ValueError, match="calibration must hold at least one"):
        plot_reliability({})


def test_the_histogram_leaves_empty_bins_empty():
    bins = pd.DataFrame({"lower": [0.5, 0.6, 0.9], "upper": [0.6, 0.9, 1.0], "patches": [10, 0, 90]})
    bins = bins.assign(confidence=[0.55, np.nan, 0.95], accuracy=[0.5, np.nan, 0.9])
    figure = plot_reliability(Calibration(bins, 0.1, 0.8, 100), axes=Figure().subplots(2, 1))
    bars = figure.axes[1].patches[0].get_data()
    assert bars.values.tolist() == [0.1, 0, 0.9]
    assert bars.edges.tolist() == [0.5, 0.6, 0.9, 1.0]


def test_a_classifier_that_leaves_its_temperature_out_is_refused():
    class Own(RegionClassifier):
        def forward(self, patches, region):
            return self.normalize(patches).mean((2, 3))[:, :2]

    classifier = Own(RegionGrid(16, 8, 4), 2).eval()
    images = np.random.default_rng(0).integers(0, 256, (6, 3, 16, 16), np.uint8)
    with pytest.raises(ValueError, match="classifier must divide its logits by its temperature, Own does not"):
        fit_temperature(classifier, images, [0, 1] * 3)
    assert classifier.temperature == 1

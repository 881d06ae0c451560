"""Saliency methods side by side: shapes, determinism, and measures worked out by hand."""

import numpy as np
import pytest
import torch
from captum.attr import Saliency
from torch import nn

from captum_region import DenseRegionClassifier, RegionAttribution, RegionGrid
from captum_region.comparison.saliency import (
    MEASURES,
    captum_methods,
    compare_saliency,
    deletion_insertion,
    floors,
    information_left,
    region_methods,
)


@pytest.fixture
def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 2)
        return nn.Sequential(*layers).eval()


@pytest.fixture
def images():
    return torch.rand(3, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def make_methods(model, images, seed=0):
    classifier = DenseRegionClassifier(RegionGrid(12, 4, 2), 2, width=4, random_state=0).eval()
    return (
        captum_methods(model, model[0], background=images, window=4, stride=2, random_state=seed)
        | region_methods(RegionAttribution(classifier), images)
        | floors(seed)
    )


def test_every_method_gives_finite_maps_again_and_again(model, images):
    target = torch.tensor([0, 1, 1])
    torch_state, numpy_state = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    found = [{name: method(images, target) for name, method in make_methods(model, images).items()} for _ in range(2)]
    assert torch.equal(torch.random.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()
    assert len(found[0]) == 13
    for name, maps in found[0].items():
        assert maps.shape == (3, 12, 12), name
        assert maps.isfinite().all(), name
        assert maps.std() > 0, name
        assert torch.equal(maps, found[1][name]), name
    expected = Saliency(model).attribute(images.clone().requires_grad_(), target).amax(1)
    torch.testing.assert_close(found[0]["Saliency"], expected)
    blocks = found[0]["KernelShap"]
    assert (blocks[:, :4, :4] == blocks[:, :1, :1]).all()  # one value a superpixel
    assert all(not module._forward_hooks and not module._backward_hooks for module in model.modules())


def test_the_truth_as_a_map_wins_everything(images):
    rng = np.random.default_rng(0)
    truth = rng.random((3, 12, 12)) < 0.2
    as_map = torch.from_numpy(truth).float()
    order = iter([as_map[:2], as_map[2:]])
    found = compare_saliency(
        images, truth, {"truth": lambda batch, target: next(order), **floors(0)}, target=1, batch_size=2
    )
    scores = found.scores.groupby("method")[list(MEASURES)].mean()
    assert (scores.loc["truth"] == 1).all()
    assert scores.loc["random", "pixel_auc"] == pytest.approx(0.5, abs=0.15)
    assert len(found.scores) == 9
    assert set(found.seconds) == set(found.maps) == {"truth", "random", "centre"}
    table = found.table("truth").set_index(["measure", "method"])
    assert (table.loc["pixel_auc"].loc["truth", ["difference", "low", "high"]] == 0).all()
    random = table.loc["pixel_auc"].loc["random"]
    assert random["low"] <= random["difference"] <= random["high"] < 0
    by_hand = found.scores.query("method == 'random'")["pixel_auc"] - 1
    assert random["difference"] == pytest.approx(by_hand.mean())
    constant = {"still": lambda batch, target: torch.zeros(len(batch), 12, 12), **floors(0)}
    with pytest.warns(RuntimeWarning, match="undefined for 3 of 3"):
        undefined = compare_saliency(images, truth, constant, target=1).table("random").query("method == 'still'")
    assert undefined[["mean", "difference", "low", "high"]].isna().all(axis=None)
    with pytest.raises(ValueError, match="reference must be one of truth, random, centre"):
        found.table("XRAI")


def test_methods_get_scaled_images_and_their_targets(images):
    seen = []

    def method(batch, target):
        seen.append((batch, target))
        return batch.mean(1)

    as_bytes = (images * 255).byte()
    truth = np.zeros((3, 12, 12), bool)
    truth[:, 0] = True
    compare_saliency(as_bytes.numpy(), truth, {"mean": method}, target=[2, 0, 1], batch_size=2)
    assert [target.tolist() for _, target in seen] == [[2, 0], [1]]
    torch.testing.assert_close(torch.cat([batch for batch, _ in seen]), as_bytes.float() / 255)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"truth": np.zeros((3, 12, 11), bool)}, r"truth must have shape \(3, 12, 12\)"),
        ({"methods": {}}, "methods must hold at least one"),
        ({"methods": {"m": lambda images, target: images}}, r"methods\['m'\] must give maps of \(12, 12\)"),
    ],
)
def test_bad_input_is_named(images, changed, words):
    arguments = {"images": images, "truth": np.ones((3, 12, 12), bool), "methods": floors(0), "target": 0} | changed
    with pytest.raises(ValueError, match=words):
        compare_saliency(**arguments)


def test_deletion_and_insertion_by_hand():
    class FirstPixel(nn.Module):
        def forward(self, images):
            return torch.stack([torch.zeros(len(images)), 200 * images[:, 0, 0, 0] - 100], 1)

    images = torch.ones(2, 1, 2, 2)
    maps = torch.tensor([[[4.0, 3], [2, 1]], [[1.0, 2], [3, 4]]])  # the pixel that counts comes first, and last
    found = deletion_insertion(
        FirstPixel(), images, maps, target=torch.tensor([1, 1]), baseline=torch.zeros(1, 1, 1), steps=4
    )
    # Deletion of the first: 1 0 0 0 0 by the trapezoid rule; of the second 1 1 1 1 0.
    np.testing.assert_allclose(found["deletion"], [0.125, 0.875], atol=1e-6)
    np.testing.assert_allclose(found["insertion"], [0.875, 0.125], atol=1e-6)


def test_information_is_left_where_it_was_not_masked():
    rng = np.random.default_rng(0)

    def make(count):
        labels = rng.integers(0, 2, count)
        images = rng.integers(60, 120, (count, 3, 12, 12), dtype=np.uint8)
        images[labels == 1, :, :4, :4] += 100
        return images, labels

    (images, labels), (test_images, test_labels) = make(160), make(80)
    there, elsewhere = torch.zeros(1, 12, 12), torch.zeros(1, 12, 12)
    there[:, :4, :4], elsewhere[:, 8:, 8:] = 1, 1
    left = {
        name: information_left(
            (images, where.expand(160, -1, -1), labels),
            (test_images, where.expand(80, -1, -1), test_labels),
            quantile=0.85,
            epochs=40,
            random_state=0,
        )
        for name, where in (("there", there), ("elsewhere", elsewhere))
    }
    assert left["elsewhere"] > 0.95
    assert left["there"] < 0.7
    with pytest.raises(ValueError, match="quantile"):
        information_left((images, there, labels), (test_images, there, test_labels), quantile=1)

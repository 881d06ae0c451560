"""Saliency methods side by side: the table, its intervals, and what is counted."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from captum_region.datasets import make_faces
from captum_region.saliency.compare import MEASURES, compare_saliency, saliency_table
from captum_region.saliency.methods import floors


def logits(classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 12 * 12, classes)).eval()


@pytest.fixture
def images():
    return torch.rand(3, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def test_the_truth_as_a_map_has_the_best_scores(images):
    rng = np.random.default_rng(0)
    truth = rng.random((3, 12, 12)) < 0.2
    as_map = torch.from_numpy(truth).float()
    order = itertools.cycle([as_map[:2], as_map[2:]])
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
    with pytest.warns(RuntimeWarning, match=r"constant: still \(3 of 3 images\)$") as told:
        undefined = compare_saliency(images, truth, constant, target=1).table("random").query("method == 'still'")
    assert len(told) == 1
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
    assert [target.tolist() for _, target in seen[:2]] == [[2, 0], [1]]
    torch.testing.assert_close(torch.cat([batch for batch, _ in seen[:2]]), as_bytes.float() / 255)


@pytest.mark.parametrize("target", [np.array([True, False, True]), np.array([1, 0, 1], np.uint8), [1, 0, 1]])
def test_labels_are_targets_and_methods_may_give_arrays(images, target):
    truth = np.arange(3 * 12 * 12).reshape(3, 12, 12) % 2 == 0
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 12 * 12, 2)).eval()
    methods = {"array": lambda batch, its: batch.mean(1).numpy()}
    found = compare_saliency(images, truth, methods, target=target, model=model)
    assert found.scores["deletion"].between(0, 1).all()
    with pytest.raises(TypeError, match="target must be a class number or one for each image"):
        compare_saliency(images, truth, methods, target=[0.0, 1.0, 1.0])


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"truth": np.zeros((3, 12, 11), bool)}, r"truth must have shape \(3, 12, 12\)"),
        ({"methods": {}}, "methods must hold at least one"),
        ({"methods": {"m": lambda images, target: images}}, r"methods\['m'\] must give maps of \(12, 12\)"),
        ({"target": [0, 1]}, "target must be one class or one for each of the 3 images, got 2"),
        ({"target": [0, -1, 1]}, "target must hold class numbers from 0 on, got -1"),
        ({"model": logits(2), "target": 2}, "target must be below the 2 classes of model, got 2"),
        ({"model": logits(1)}, r"model must give logits of shape N x classes, at least 2, got \(3, 1\)"),
    ],
)
def test_invalid_arguments_are_named_in_the_error(images, changed, words):
    arguments = {"images": images, "truth": np.ones((3, 12, 12), bool), "methods": floors(0), "target": 0} | changed
    with pytest.raises(ValueError, match=words):
        compare_saliency(**arguments)


def test_the_table_pairs_by_image_and_weighs_runs_equally():
    # Run 0 has two images, run 1 has three; "b" is better by 0.2 in the first and by 0.1 in the second.
    rows = []
    for seed, values, gain in ((0, (0.1, 0.3), 0.2), (1, (0.5, 0.5, 0.8), 0.1)):
        for image, value in enumerate(values):
            rows += [(seed, image, "a", value), (seed, image, "b", value + gain)]
    scores = pd.DataFrame(rows, columns=["seed", "image", "method", "rank_accuracy"])
    table = saliency_table(scores, "a", resamples=500).set_index("method")
    assert table.loc["a", "mean"] == pytest.approx((0.2 + 0.6) / 2)
    assert table.loc["a", "std_seeds"] == pytest.approx(np.std([0.2, 0.6], ddof=1))
    assert table.loc["a", "std"] == pytest.approx(np.std([0.1, 0.3, 0.5, 0.5, 0.8], ddof=1))
    # The difference does not vary within a run: only which runs are drawn moves its mean, from 0.1 to 0.2.
    assert table.loc["b", "difference"] == pytest.approx(0.15)
    assert table.loc["b", ["low", "high"]].to_list() == pytest.approx([0.1, 0.2])


def test_runs_on_the_same_images_are_no_more_images():
    rng = np.random.default_rng(0)
    found = {True: [], False: []}
    for _ in range(60):
        of_image = rng.normal(0, 1, 30)  # what differs between images is alike in all runs
        rows = [
            (seed, image, name, value if name == "b" else 0.0)
            for seed in range(3)
            for image, value in enumerate(of_image + rng.normal(0, 0.2, 30))
            for name in ("a", "b")
        ]
        scores = pd.DataFrame(rows, columns=["seed", "image", "method", "rank_accuracy"])
        for same, covered in found.items():
            row = saliency_table(scores, "a", same_images=same, resamples=300).set_index("method").loc["b"]
            covered.append(row["low"] <= 0 <= row["high"])
    assert np.mean(found[True]) > 0.86
    assert np.mean(found[False]) < 0.86  # as if each run had images of its own


def test_images_that_the_model_gets_wrong_are_told_apart():
    truth = np.zeros((4, 6, 6), bool)
    truth[:, :3] = True
    images = torch.zeros(4, 3, 6, 6)
    images[:3, 0] = 1  # the model says class 1 of the first three
    maps = torch.zeros(4, 6, 6)
    maps[[0, 3], :3] = 1
    maps[1:3, 3:] = 1
    model = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 2)).eval()
    torch.nn.init.zeros_(model[2].weight)
    with torch.no_grad():
        model[2].weight[1, 0] = 1
        model[2].bias.copy_(torch.tensor([0.5, 0.0]))
    found = compare_saliency(images, truth, {"half": lambda batch, target: maps}, target=1, model=model)
    assert found.scores["right"].to_list() == [True, True, True, False]
    row = found.table("half").set_index("measure").loc["pixel_auc"]
    assert (row["mean"], row["mean_right"], row["mean_wrong"]) == pytest.approx((0.5, 1 / 3, 1))
    assert "mean_right" not in saliency_table(found.scores.drop(columns="right"), "half")


def test_a_bootstrap_interval_is_that_of_the_mean():
    rng = np.random.default_rng(0)
    values = rng.normal(0.3, 1, 400)
    scores = pd.DataFrame({"image": np.tile(np.arange(400), 2), "method": np.repeat(["a", "b"], 400)})
    scores["pixel_auc"] = np.concatenate([np.zeros(400), values])
    row = saliency_table(scores, "a").set_index("method").loc["b"]
    half = 1.96 * values.std() / np.sqrt(400)
    assert (row["low"], row["high"]) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.02)


def test_of_the_same_images_runs_weigh_alike_where_few_are_defined():
    rng, images, seeds = np.random.default_rng(0), np.arange(100), range(5)
    parts = []
    for seed in seeds:
        values = rng.normal(0.5 if seed == 4 else 0, 0.1, 100)
        values[10 if seed == 4 else 100 :] = np.nan
        for method, pixel_auc in (("a", np.zeros(100)), ("b", values)):
            parts.append(pd.DataFrame({"seed": seed, "method": method, "image": images, "pixel_auc": pixel_auc}))
    row = saliency_table(pd.concat(parts), "a", same_images=True).set_index("method").loc["b"]
    assert row["difference"] == pytest.approx(0.1, abs=0.02)
    assert row["low"] < row["difference"] < row["high"]


def test_memory_is_measured_for_one_image(images):
    truth = np.zeros((3, 12, 12), bool)
    truth[:, 0] = True

    def two_copies(batch, target):
        first = batch.new_zeros(len(batch), 1000, 1000)
        del first  # gone before the next comes
        second, third = batch.new_zeros(len(batch), 500, 1000), batch.new_zeros(len(batch), 500, 500)
        del second, third
        return batch.mean(1)

    def numpy_copy(batch, target):
        np.zeros((len(batch), 1000, 1000), np.float32)
        return batch.mean(1)

    methods = {"two": two_copies, "numpy": numpy_copy, "none": lambda batch, target: batch.mean(1)}
    memory = compare_saliency(images, truth, methods, target=0).memory
    assert memory["two"] == pytest.approx(4_000_000, rel=0.02)
    assert memory["numpy"] == pytest.approx(4_000_000, rel=0.02)
    assert memory["none"] < 50_000


def test_a_model_adds_deletion_and_insertion(images):
    class Brightness(torch.nn.Module):
        def forward(self, batch):
            value = 20 * (batch.mean((1, 2, 3)) - 0.5)
            return torch.stack([-value, value], 1)

    faces = make_faces(4, 32, attributes={"Eyeglasses": 1.0}, random_state=0)
    found = compare_saliency(faces.images, faces.truth("Eyeglasses"), floors(0), target=0, model=Brightness().eval())
    assert found.scores[["deletion", "insertion"]].stack().between(0, 1).all()
    assert set(found.table("random")["measure"]) == {*MEASURES, "deletion", "insertion"}

"""Two region classifiers side by side."""

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from kinds import MEASURES, USUAL, LateSteps, measure_classifier, table_of
from studies import markdown

from captum_region import (
    DenseRegionClassifier,
    RegionAttribution,
    RegionGrid,
)
from captum_region.calibration import measure_calibration
from captum_region.datasets import make_faces
from captum_region.saliency.localisation import pixel_auc, rank_accuracy

RESULTS = Path(__file__).parents[2] / "docs" / "results"


def test_measures_agree_with_calibration_and_attribution():
    faces = make_faces(60, 24, random_state=0)
    classifier = DenseRegionClassifier(RegionGrid(24, 8, 4), 2, width=4, random_state=0).eval()
    torch.nn.init.normal_(classifier.head[-1].weight, generator=torch.Generator().manual_seed(0))
    measures, mean_map = measure_classifier(classifier, faces, "Eyeglasses")
    calibration = measure_calibration(classifier, faces.images, faces.labels("Eyeglasses"))
    assert measures["accuracy"] == pytest.approx(calibration.accuracy)
    assert measures["calibration_error"] == pytest.approx(calibration.error)
    attribution = RegionAttribution(classifier)
    np.testing.assert_allclose(mean_map, attribution.mean_map(faces.images), rtol=1e-5, atol=1e-7)
    wearers = faces.subset(faces.attributes["Eyeglasses"])
    pixels, truth = attribution.pixel_map(wearers.images), wearers.truth("Eyeglasses")
    assert measures["top_inside"] == pytest.approx(np.nanmean(rank_accuracy(pixels, truth)), rel=1e-5)
    assert measures["pixel_auc"] == pytest.approx(np.nanmean(pixel_auc(pixels, truth)), rel=1e-5)


@pytest.mark.slow
def test_the_command_compares_both_kinds(tmp_path, command):
    options = ["--size", 16, "--images", 60, "--patch-epochs", 1, "--dense-epochs", 1, "--limit", 40, "--quiet"]
    options += ["--attribute", "Eyeglasses", "--attribute", "Smiling", "--keep", tmp_path / "kept"]
    done = command("examples/benchmarks/kinds.py", *options, "--out", tmp_path / "kinds.json")
    found = json.loads((tmp_path / "kinds.json").read_text())
    assert [(row["attribute"], row["kind"]) for row in found["rows"]] == list(product(("Eyeglasses", "Smiling"), USUAL))
    assert {(row["train_images"], row["test_images"]) for row in found["rows"]} == {(60, 40)}
    assert len(list((tmp_path / "kept").glob("*.pt"))) == 4
    patch, dense = found["rows"][:2]
    assert (patch["correlation"], dense["correlation"] < 1) == (1, True)
    table = table_of(found)
    timed_apart = {*MEASURES.values()} - {"training, s"}  # states were kept
    assert {*table} == timed_apart | {"correlation of the mean maps"}
    assert table.loc["Eyeglasses", "pixel AUC"] == f"{patch['pixel_auc']:.3f} / {dense['pixel_auc']:.3f}"
    assert table.loc["Eyeglasses", "correlation of the mean maps"] == f"{dense['correlation']:.2f}"
    assert "| Smiling | " in done.stdout


def test_late_steps_keep_more_pixels_and_cost_more():
    grid = RegionGrid(64, 16, 2)
    usual, late = DenseRegionClassifier(grid, 2, width=4), LateSteps(grid, 2, width=4)
    steps = [[one.stride for one in classifier._plan] for classifier in (usual, late)]
    assert [sum(stride == 2 for stride in of) for of in steps] == [2, 1]
    image = torch.zeros(1, 3, 64, 64)
    assert late.forward_grid(image).shape == usual.forward_grid(image).shape


@pytest.mark.parametrize(
    "name",
    [
        "kinds.json",
        "kinds_faces.json",
        "steps.json",
        "steps_64.json",
        "steps_32.json",
        "steps_celeba_32.json",
        "steps_celeba_64.json",
    ],
)
def test_the_page_has_the_table_of_the_results_beside_it(name):
    found = json.loads((RESULTS / name).read_text())
    kinds = " / ".join(found["settings"]["kinds"])
    assert markdown(table_of(found), kinds).strip() in (RESULTS / "maps.md").read_text()


@pytest.mark.slow
def test_chosen_kinds_are_compared_in_their_order(tmp_path, command):
    options = ["--size", 16, "--images", 60, "--dense-epochs", 1, "--limit", 40, "--quiet", "--seeds", 2]
    options += ["--attribute", "Eyeglasses", "--kind", "late steps", "--kind", "dense"]
    done = command("examples/benchmarks/kinds.py", *options, "--out", tmp_path / "kinds.json")
    found = json.loads((tmp_path / "kinds.json").read_text())
    assert [row["kind"] for row in found["rows"]] == ["late steps", "dense"] * 2
    assert done.stdout.startswith("| late steps / dense |")
    assert " ± " in table_of(found).loc["Eyeglasses", "pixel AUC"].split(" / ")[1]
    failed = command("examples/benchmarks/kinds.py", "--kind", "dense", "--kind", "dense", check=2)
    assert "--kind must be of patch, dense, late steps, each once, got dense, dense" in failed.stderr

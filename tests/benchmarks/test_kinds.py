"""Two region classifiers side by side."""

import json

import numpy as np
import pytest
import torch
from kinds import measure_classifier

from captum_region import (
    DenseRegionClassifier,
    RegionAttribution,
    RegionGrid,
    fit_region_classifier,
    save_classifier,
)
from captum_region.calibration import measure_calibration
from captum_region.datasets import make_faces
from captum_region.saliency.localisation import pixel_auc, rank_accuracy


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
def test_the_command_compares_two_classifiers(tmp_path, command):
    faces = make_faces(200, 24, random_state=0)
    for seed in (0, 1):
        classifier = DenseRegionClassifier(RegionGrid.for_images(24), 2, random_state=seed)
        fit_region_classifier(classifier, faces, "Eyeglasses", epochs=1, random_state=seed)
        save_classifier(classifier, tmp_path / f"{seed}")
    out = tmp_path / "kinds.json"
    options = ["--data", "faces", "--attribute", "Eyeglasses", "--limit", "60", "--quiet", "--out", out]
    done = command("examples/benchmarks/kinds.py", tmp_path / "0", tmp_path / "1", *options)
    results = json.loads(out.read_text())
    assert [entry["images"] for entry in results["classifiers"]] == [60, 60]
    assert set(results["classifiers"][0]) >= {"accuracy", "calibration_error", "top_inside", "pixel_auc"}
    assert -1 <= results["correlation_of_mean_maps"] <= 1
    assert f"{results['correlation_of_mean_maps']:.3f}" in done.stdout

"""Table 1 of the paper, and the controls that explain it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from sklearn.frozen import FrozenEstimator
from table1_study import (
    MEASURES,
    Brightness,
    PerturbedInPrediction,
    controls_of,
    effects_of,
    main,
    of_paper,
    perturbations,
    shift_to,
    table1_of,
    tables,
)

from fairlearn_bridge import AttributionNoise, AttributionNoiseMitigator, ImageClassifier, published_noise


@pytest.mark.parametrize("confounder", ["Blond_Hair", "Eyeglasses", "Smiling", "Wearing_Hat"])
def test_the_papers_numbers_agree_with_each_other(confounder):
    found = of_paper(confounder)
    assert set(found) == {"general_mask", "general_noise", "specific_mask", "specific_noise"}
    for quantile, values in found.values():
        assert 0.6 <= quantile <= 0.95
        accuracies = zip(values["accuracy"], values["accuracy[True]"], values["accuracy[False]"], strict=True)
        for (accuracy, men, women), gap in zip(accuracies, values["gap"], strict=True):
            assert accuracy == pytest.approx((men + women) / 2, abs=0.0151)  # as many of each, rounded
            assert gap > abs(women - men) - 0.0251  # a mean of absolute gaps is no less


def test_an_equal_mean_is_reached_without_regions():
    images = torch.rand(20, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert shift_to(images, float(images.mean())).shift == pytest.approx(0, abs=1e-5)
    nowhere = torch.zeros(20, 1, 8, 8, dtype=torch.bool)
    clipped = published_noise(images, nowhere, torch.Generator())
    as_bright = shift_to(images, float(clipped.mean()))
    shifted = as_bright(images, torch.arange(20), torch.Generator())
    assert float(shifted.mean()) == pytest.approx(float(clipped.mean()), abs=1e-5)
    assert Brightness(0.25)(torch.tensor([0.5, 0.9]), torch.arange(2), torch.Generator()).tolist() == [0.75, 1]


def test_what_is_perturbed_in_prediction_needs_no_training_of_its_own():
    rng = np.random.default_rng(0)
    X, y, confounder = rng.random((24, 3, 16, 16), dtype=np.float32), np.arange(24) % 2, rng.integers(0, 2, 24)
    settings = {"scheme": "general_noise", "quantile": 0.5, "region_epochs": 1, "random_state": 0}

    def trained(**parameters):
        mitigator = AttributionNoiseMitigator(ImageClassifier(max_epochs=2), **settings, **parameters)
        return mitigator.fit(X, y, sensitive_features=confounder)

    plain, wanted = trained(), trained(apply_at_predict=True)
    found = PerturbedInPrediction(FrozenEstimator(plain)).fit(X, y)
    assert np.array_equal(found.predict_proba(X), wanted.predict_proba(X))
    assert np.array_equal(found.predict(X), wanted.predict(X))
    assert np.abs(found.predict_proba(X) - plain.predict_proba(X)).max() > 1e-4
    assert not plain.apply_at_predict


def test_each_perturbation_is_one_that_can_be_trained_with():
    found = perturbations((0.6, 0.7, 0.8))
    for parameters in found.values():
        AttributionNoiseMitigator(ImageClassifier(), **parameters)
        AttributionNoise(**{key: value for key, value in parameters.items() if key != "apply_at_predict"}).validate()
    assert len(found) == 3 * (4 + 2 + 2 + 3) + 4 * 2 + 1
    # With clipping alone no pixel is in the mask.
    alone = found["published clipping alone"]
    assert not AttributionNoise(**alone).fit(torch.rand(3, 8, 8)).mask_.any()
    assert {name for name in found if "@random" in name} == {
        *("general_mask@random 0.7", "general_noise@random 0.7"),
        *("published general_noise@random 0.7", "general_transplant@random 0.7"),
    }


def test_the_page_has_the_tables_of_the_results_beside_it():
    results = Path(__file__).parents[2] / "docs" / "results"
    for name in ("table1.json", "table1_second.json", "table1_eyeglasses.json"):
        for table in tables(json.loads((results / name).read_text())):
            assert table in (results / "mitigation.md").read_text()


def test_an_arm_that_there_is_not_is_refused(refused, tmp_path):
    sizes = ["--size", 16, "--train-size", 60, "--test-per-cell", 8, "--epochs", 1, "--region-epochs", 1, "--quiet"]
    (app := typer.Typer()).command()(main)
    told = refused(app, "--data", "faces", *sizes, "--arm", "blur 0.7", "--out", tmp_path / "found.json")
    assert "--arm must be of general_mask 0.6, " in told
    assert told.endswith("got blur 0.7")


def test_references_are_trained_as_long_as_the_arms_that_are_asked_for(command, tmp_path):
    sizes = ["--size", 16, "--train-size", 60, "--test-per-cell", 8, "--epochs", 1, "--region-epochs", 1]
    options = ["--data", "faces", *sizes, "--arm", "general_mask@predict 0.6", "--jobs", 1, "--seeds", 1, "--quiet"]
    command("examples/benchmarks/table1_study.py", *options, "--out", tmp_path / "found.json")
    found = json.loads((tmp_path / "found.json").read_text())
    references = {"ERM, 1 epochs", "balanced, 1 epochs", "threshold shifted, 1 epochs"}
    # What is perturbed in prediction comes with what is not.
    arms = ["general_mask 0.6", "general_mask@predict 0.6"]
    assert {row["mitigator"] for row in found["rows"]} == references | {*arms}
    assert table1_of(found).index.tolist() == ["general_mask 0.6, the paper", *arms]


@pytest.mark.slow
def test_the_command_keeps_each_training_and_trains_what_is_new(command, tmp_path):
    sizes = ["--size", 16, "--train-size", 60, "--test-per-cell", 8, "--epochs", 1, "--region-epochs", 1, "--lr", 1e-3]
    options = ["--data", "faces", *sizes, "--quantile", 0.7, "--jobs", 1, "--quiet", "--checkpoints", tmp_path / "kept"]

    def run(seeds):
        out = tmp_path / f"{seeds}.json"
        done = command("examples/benchmarks/table1_study.py", *options, "--seeds", seeds, "--out", out)
        return json.loads(out.read_text()), done.stdout

    first, _ = run(1)
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "kept").glob("*.pt")}
    both, printed = run(2)
    again = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "kept").glob("*.pt")}
    assert again.items() >= kept.items()
    assert len(again) == 2 * len(kept)
    assert [row for row in both["rows"] if row["seed"] == 0] == first["rows"]
    names = [row["mitigator"] for row in both["summary"] if row["decision"] == "threshold"]
    assert len(both["rows"]) == 2 * 2 * len(names)
    assert len(names) == 6 + 11 + 8 + 1 + 3  # references, a quantile's, controls, clipping, as bright
    for row in both["summary"]:
        own = [one for one in both["rows"] if all(one[key] == row[key] for key in ("mitigator", "decision", "epochs"))]
        for measure in MEASURES:
            assert row[measure]["seeds"] == 2
            assert row[measure]["mean"] == pytest.approx(sum(one[measure] for one in own) / 2, abs=1e-3)
    # A threshold changes no ranking; masks are trained half as long.
    auc = {
        decision: [row["auc"] for row in both["rows"] if row["decision"] == decision]
        for decision in ("threshold", "likeliest class")
    }
    assert auc["threshold"] == auc["likeliest class"]
    assert {row["epochs"] for row in both["rows"] if row["mitigator"].startswith("specific_mask")} == {1}
    assert {row["epochs"] for row in both["rows"] if row["mitigator"].startswith("specific_noise")} == {2}
    assert both["brightness"]["published clipping alone"] > both["brightness"]["training images"]
    assert list(effects_of(both).index) == names
    assert "general_noise 0.7, the paper" in table1_of(both).index
    assert table1_of(both).loc["general_noise 0.7, the paper", "gap"] == "0.26 / 0.05 / 0.09"
    gaps = [
        [one["gap"] for one in both["rows"] if (one["mitigator"], one["decision"]) == (name, "likeliest class")]
        for name in ("ERM, 2 epochs", "balanced, 2 epochs", "general_noise 0.7")
    ]
    assert table1_of(both).loc["general_noise 0.7", "gap"] == " / ".join(f"{sum(map(abs, of)) / 2:.2f}" for of in gaps)
    assert "| published general_noise@predict 0.7 |" in printed
    # A difference is that of the means, of arms to balanced data of as many epochs and of regions to their controls.
    means = {(row["mitigator"], row["decision"]): row["crossed_auc"]["mean"] for row in both["summary"]}
    pairs = {(row["mitigator"], row["minus"], row["decision"]): row["crossed_auc"] for row in both["differences"]}
    # Arms, their controls, perturbed test images, published noise: each with what it is compared with.
    assert len(pairs) == 2 * ((11 + 8 + 1 + 3) + 8 + 3 + 2)
    for (name, minus, decision), found in pairs.items():
        assert found["difference"] == pytest.approx(means[name, decision] - means[minus, decision], abs=2e-3)
    assert ("specific_mask 0.7", "balanced, 1 epochs", "threshold") in pairs
    assert ("general_transplant 0.7", "general_transplant@random 0.7", "likeliest class") in pairs
    assert len(controls_of(both)) == 4
    assert controls_of(both).shape == (4, 4)

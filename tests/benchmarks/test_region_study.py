"""What region classifiers learn from biased data."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from region_study import MEASURES, TRAININGS, _of_probabilities, study_region_training, table_of
from studies import markdown

from captum_region.datasets import AttributeImages
from fairlearn_bridge import Samples
from fairlearn_bridge.experiment import ExperimentConfig, split_data

RESULTS = Path(__file__).parents[2] / "docs" / "results"


def test_accuracy_and_leak_by_hand():
    # Two regions; two images a cell, (target, confounder): 11, 10, 01, 00.
    y, confounder = np.repeat([True, False], 4), np.tile(np.repeat([True, False], 2), 2)
    test = Samples(np.zeros((8, 3, 8, 8), np.uint8), y, confounder)
    probability = np.where(confounder, 0.9, 0.1)[:, None].repeat(2, 1)
    assert _of_probabilities(probability, test) == {"accuracy": 1, "leak": 0.5}  # knows the confounder alone
    probability = np.where(y, 0.1, 0.9)[:, None].repeat(2, 1)
    assert _of_probabilities(probability, test) == {"accuracy": 0.5, "leak": 1}  # takes the target for it
    probability[:, 1] = np.where(confounder, 0.6, 0.4)
    assert _of_probabilities(probability, test) == {"accuracy": 0.75, "leak": 1}


def halves(count, seed):
    """Images whose left half's red tells the target and whose right half's blue the confounder, each fairly well."""
    rng = np.random.default_rng(seed)
    attributes = pd.DataFrame(rng.random((count, 2)) < 0.5, columns=["Male", "Hat"])
    images = rng.normal(128, 30, (count, 3, 16, 16))
    for column, channel, half in (("Male", 0, slice(0, 8)), ("Hat", 2, slice(8, 16))):
        tells = rng.normal(30 * attributes[column].to_numpy() - 15, 15)
        images[:, channel, :, half] += tells[:, None, None]
    return AttributeImages(images.clip(0, 255).astype(np.uint8), attributes)


def test_plain_training_on_biased_data_leaks_the_target():
    config = ExperimentConfig("Male", "Hat", train_size=600, test_per_cell=60, region_epochs=8)
    data = split_data(config, halves(1800, 0), halves(400, 1))
    table = study_region_training(config, data)
    assert list(table.index) == list(TRAININGS)
    unbiased, within, plain = (table.loc[name] for name in TRAININGS)
    assert plain["leak"] > 0.7
    assert abs(within["leak"] - 0.5) < 0.1 > abs(unbiased["leak"] - 0.5)
    assert (unbiased["correlation"], unbiased["iou"]) == (pytest.approx(1), 1)
    assert within["correlation"] > max(0.95, plain["correlation"])
    assert within["iou"] > plain["iou"]
    assert list(table) == ["accuracy", "leak", "correlation", "iou"]  # no truth, no localisation


@pytest.mark.parametrize("data", ["faces", "celeba"])
def test_the_page_has_the_tables_of_the_results_beside_it(data):
    found = json.loads((RESULTS / f"region_{data}.json").read_text())
    assert markdown(table_of(found), " / ".join(TRAININGS)).strip() in (RESULTS / "mitigation.md").read_text()


def test_the_command_keeps_each_value_and_prints_their_table(command, tmp_path):
    options = ["--confounder", "Blond_Hair", "--size", 16, "--train-size", 120, "--test-per-cell", 15, "--quiet"]
    options += ["--region-epochs", 1, "--seeds", 2, "--out", tmp_path / "found.json"]
    done = command("examples/benchmarks/region_study.py", *options)
    found = json.loads((tmp_path / "found.json").read_text())
    assert [(row["seed"], row["training"]) for row in found["rows"]] == [(s, t) for s in (0, 1) for t in TRAININGS]
    assert found["settings"]["region_epochs"] == 1
    assert "versions" in found
    table = table_of(found)
    assert table.columns.tolist() == [*MEASURES.values()]
    leaks = [np.array([row["leak"] for row in found["rows"] if row["training"] == name]) for name in TRAININGS]
    words = " / ".join(f"{each.mean():.2f} ± {each.std(ddof=1):.2f}" for each in leaks)
    assert table.loc["Blond_Hair", "leak"] == words
    assert words in done.stdout

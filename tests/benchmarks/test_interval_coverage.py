"""The simulation of how often intervals of extremes contain the true value."""

import json
from pathlib import Path

import numpy as np
import pytest
from interval_coverage import covered, difference, least, spread, table_of
from studies import markdown

RESULTS = Path(__file__).parents[2] / "docs" / "results"


def test_samples_are_of_the_values_that_they_are_said_to_be_of():
    rng = np.random.default_rng(0)
    for sample, truth, tolerance in (
        (least([0.75, 0.9], 20_000), 0.75, 0.02),
        (difference([0.75, 0.9], [0.8, 0.9], 20_000), -0.05, 0.03),
        (spread([100.0, 0.0]), 100, 6),
    ):
        value, draws, true = sample(rng, 50)
        assert true == pytest.approx(truth)
        assert value == pytest.approx(truth, abs=tolerance)
        assert draws.shape == (50,)
        assert draws.mean() == pytest.approx(value, abs=tolerance)


def test_of_equal_cells_the_percentile_interval_covers_half():
    found = covered(least([0.75] * 4, 182), runs=150, resamples=200, seed=1)
    assert found["percentile"] < 0.65
    assert found["both"] >= max(found["basic"], 0.88)
    assert 1.2 < found["width"] < 1.6


def test_the_page_has_the_table_of_the_results_beside_it():
    found = json.loads((RESULTS / "interval_coverage.json").read_text())
    assert markdown(table_of(found["rows"]), "value") in (RESULTS / "index.md").read_text()


def test_the_command_writes_what_it_prints(tmp_path, command):
    out = tmp_path / "interval_coverage.json"
    done = command("examples/benchmarks/interval_coverage.py", "--out", out, "--runs", 2, "--resamples", 5)
    found = json.loads(out.read_text())
    assert found["settings"] == {"runs": 2, "resamples": 5, "seed": 0, "level": 0.95}
    assert done.stdout.strip() == markdown(table_of(found["rows"]), "value")

"""The measurement of what mitigation costs."""

import json
from pathlib import Path

import numpy as np
import pytest

RESULTS = Path(__file__).parents[2] / "docs" / "results"


def test_the_page_has_the_ratios_of_the_results_beside_it():
    page = (RESULTS / "mitigation.md").read_text()
    for pair in json.loads((RESULTS / "costs.json").read_text())["pairs"]:
        rounds = np.divide(pair["slow_seconds"], pair["fast_seconds"])
        spread = f" [{rounds.min():.2f}, {rounds.max():.2f}]" if len(rounds) > 1 else ""
        assert f"| {np.median(rounds):.2f}{spread} | {pair['aim']:.3g} |" in page


@pytest.mark.slow
def test_the_command_times_each_pair(tmp_path, command):
    out = tmp_path / "costs.json"
    tiny = ["--rounds", 1, "--few", 40, "--images", 200, "--size", 32, "--epochs", 1, "--region-epochs", 1]
    done = command("examples/benchmarks/costs.py", *tiny, "--quiet", "--out", out)
    found = json.loads(out.read_text())
    assert "torch" in found["versions"]
    pairs = {pair["name"]: pair for pair in found["pairs"]}
    assert pairs.keys() == {"mitigator", "grid search", "epoch", "predict", "mitigate"}
    for name, pair in pairs.items():
        assert pair["ratio"] == pair["slow_seconds"][0] / pair["fast_seconds"][0]
        assert name in done.stdout
    assert pairs["mitigate"]["ratio"] > 2  # two classifiers and the regions

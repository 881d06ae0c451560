"""The measurement of what mitigation costs."""

import json

import pytest


@pytest.mark.slow
def test_the_command_times_each_pair(tmp_path, command):
    out = tmp_path / "costs.json"
    tiny = ["--rounds", 1, "--few", 40, "--images", 200, "--size", 32, "--epochs", 1, "--region-epochs", 1]
    done = command("examples/benchmarks/costs.py", *tiny, "--quiet", "--out", out)
    pairs = {pair["name"]: pair for pair in json.loads(out.read_text())["pairs"]}
    assert pairs.keys() == {"mitigator", "grid search", "epoch", "predict", "mitigate"}
    for name, pair in pairs.items():
        assert pair["ratio"] == pair["slow_seconds"][0] / pair["fast_seconds"][0]
        assert name in done.stdout
    assert pairs["mitigate"]["ratio"] > 2  # two classifiers and the regions

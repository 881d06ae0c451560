"""Maps and schemes on faces that are not aligned."""

import json

import pytest
from alignment_study import MEASURES, SCHEMES


@pytest.mark.slow
def test_the_command_measures_each_scheme_with_and_without_positions(command, tmp_path):
    sizes = ["--size", 16, "--train-size", 60, "--test-per-cell", 6, "--epochs", 1, "--region-epochs", 1]
    options = [*sizes, "--seeds", 1, "--unaligned", 0.5, "--quiet", "--out", tmp_path / "alignment.json"]
    assert "unaligned 0.5" in command("examples/benchmarks/alignment_study.py", *options).stdout
    rows = {row["mitigator"]: row for row in json.loads((tmp_path / "alignment.json").read_text())["rows"]}
    schemes = [scheme + kind for kind in ("", ", no positions") for scheme in SCHEMES]
    assert list(rows) == ["original", "balanced", *schemes]
    assert len({tuple(row[name] for name in MEASURES) for row in rows.values()}) > 5
    areas = {name: rows[name]["pixel_auc"] for name in schemes}
    assert all(0 < area < 1 for area in areas.values())
    for kind in ("", ", no positions"):  # the map is the same, whatever is done with it
        assert areas[f"general_mask{kind}"] == areas[f"general_transplant{kind}"] != areas[f"specific_mask{kind}"]

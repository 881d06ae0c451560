"""The measurement of growth: a fit through what processes of their own took."""

import json

import numpy as np
import pytest


@pytest.mark.slow
def test_the_command(tmp_path, command):
    out = tmp_path / "growth"
    command("examples/benchmarks/growth.py", "grow", "--out", out, "--counts", "8,24", "--size", "16")
    result = json.loads((out / "growth.json").read_text())
    assert [row["images"] for row in result["measured"]] == [8, 24]
    seconds = [row["seconds"] for row in result["measured"]]
    slope = np.polyfit([8, 24], seconds, 1)[0]
    assert result["images_a_second"] == pytest.approx(1 / slope)
    assert all(row["peak_mb"] > 50 for row in result["measured"])
    assert {path.name for path in out.iterdir()} == {"growth.json", "growth.png"}

"""Every example runs, as a script of its own, and shows what it says it shows."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name, folder):
    done = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLES / name], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_first_map(tmp_path):
    printed = run("plot_first_map.py", tmp_path)
    assert (tmp_path / "first_map.png").stat().st_size > 1000
    assert float(re.search(r"area under the ROC: ([\d.]+)", printed)[1]) > 0.85


@pytest.mark.slow
def test_mitigation(tmp_path):
    printed = run("plot_mitigation.py", tmp_path)
    assert "flip_rate" in printed


@pytest.mark.slow
def test_saliency_comparison(tmp_path):
    printed = run("plot_saliency_comparison.py", tmp_path)
    rows = {
        line.split()[0]: [float(value) for value in line.split()[1:]] for line in printed.splitlines() if "Grad" in line
    }
    assert "MultiScaleRegionAttribution" in printed
    assert rows
    assert {path.name for path in tmp_path.glob("*.png")} == {"saliency.png", "two_cues.png"}


def test_no_example_is_forgotten():
    tested = set(re.findall(r"plot_\w+\.py", Path(__file__).read_text()))
    assert {path.name for path in EXAMPLES.glob("*.py")} == tested

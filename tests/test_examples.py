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
def test_what_confounds(tmp_path):
    printed = run("plot_what_confounds.py", tmp_path)
    assert set(re.findall(r"^(\w+) +0\.\d+ +0\.0+ +True", printed, re.MULTILINE)) == {"Smiling", "Blond_Hair"}
    flip_rate = dict(re.findall(r"^(\w+) +(0\.\d+)$", printed, re.MULTILINE))
    assert float(flip_rate["Blond_Hair"]) > float(flip_rate["Smiling"]) + 0.1
    assert (tmp_path / "what_confounds.png").stat().st_size > 1000


@pytest.mark.slow
def test_mitigation(tmp_path):
    printed = run("plot_mitigation.py", tmp_path)
    for measure in ("worst_cell", "crossed_auc"):
        original, _, transplant = map(
            float, re.search(rf"^{measure}((?: +[\d.]+){{3}})$", printed, re.MULTILINE)[1].split()
        )
        assert transplant > original + 0.1
    assert (tmp_path / "mitigation.png").stat().st_size > 1000


@pytest.mark.slow
def test_saliency_comparison(tmp_path):
    printed = run("plot_saliency_comparison.py", tmp_path)
    area = re.search(r"^MultiScaleRegionAttribution +[\d.]+ +([\d.]+)$", printed, re.MULTILINE)[1]
    assert float(area) > 0.7
    by_model = re.findall(r"LayerGradCam, model of \w+ +([\d.]+) +([\d.]+)", printed)
    (hat, mouth), (not_hat, not_mouth) = ((float(first), float(second)) for first, second in by_model)
    assert hat > mouth  # each model shows its own cue
    assert not_mouth > not_hat
    assert {path.name for path in tmp_path.glob("*.png")} == {"saliency.png", "two_cues.png"}


@pytest.mark.slow
def test_seeds_on_dask(tmp_path):
    pytest.importorskip("distributed")
    printed = run("seeds_on_dask.py", tmp_path)  # it compares what Dask's workers give with what joblib's give
    assert re.search(r"^general_transplant( +[\d.]+){4}$", printed, re.MULTILINE)


def test_no_example_is_forgotten():
    tested = set(re.findall(r"\w+\.py", Path(__file__).read_text()))
    assert {path.name for path in EXAMPLES.glob("*.py")} == tested

"""The property tests again, with hundreds of cases each."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_properties_hold_in_five_thousand_cases():
    files = [f"captum_region/{name}" for name in ("test_grid.py", "test_confidence.py", "datasets/test_readers.py")]
    files += [f"fairlearn_bridge/{name}" for name in ("test_noise.py", "test_protocol.py")]
    options = ["-m", "hypothesis", "--hypothesis-profile", "thorough", "--hypothesis-show-statistics"]
    options += ["--hypothesis-seed", "0"]  # for the same cases in each run; without it others are tried
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options, *(f"tests/{name}" for name in files)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert sum(map(int, re.findall(r"(\d+) passing", done.stdout))) >= 5_000, done.stdout

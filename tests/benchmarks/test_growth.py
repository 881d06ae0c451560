"""The measurement of growth: seconds and memory of commands in processes of their own."""

import json
import runpy
import sys
from pathlib import Path

import pytest

GROWTH = Path(__file__).parents[2] / "examples/benchmarks/growth.py"
RESULTS = Path(__file__).parents[2] / "docs" / "results"


def test_seconds_and_peak_are_those_of_the_one_command():
    measure = runpy.run_path(str(GROWTH))["measure"]
    busy = "import time; x = b'1' * 300_000_000; end = time.process_time() + 0.5\nwhile time.process_time() < end: pass"
    large = measure([sys.executable, "-c", busy])
    waiting = measure([sys.executable, "-c", "import time; time.sleep(1)"])
    small = measure([sys.executable, "-c", "pass"])
    assert large["seconds"] > 0.5 > waiting["seconds"]
    assert 300 < large["peak_mb"] < 400
    assert 1 < small["peak_mb"] < 200
    with pytest.raises(ValueError, match="ended with exit code 3"):
        measure([sys.executable, "-c", "raise SystemExit(3)"])


def test_the_page_has_the_values_of_the_results_beside_it():
    page, found = RESULTS / "maps.md", json.loads((RESULTS / "growth.json").read_text())
    for title, name in (("processor time, s", "seconds"), ("peak memory, MB", "peak_mb")):
        values = " | ".join(f"{row[name]:,.0f}" for row in found["measured"])
        assert f"| {title} | {values} |" in page.read_text()


@pytest.mark.slow
def test_the_command(tmp_path, command):
    out = tmp_path / "growth"
    command("examples/benchmarks/growth.py", "--out", out, "--counts", "8,24", "--size", "16")
    result = json.loads((out / "growth.json").read_text())
    assert [row["images"] for row in result["measured"]] == [8, 24]
    assert all(row["peak_mb"] > 50 for row in result["measured"])  # torch alone takes more
    assert {path.name for path in out.iterdir()} == {"growth.json", "growth.png"}

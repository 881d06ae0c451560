"""Two cues for one attribute."""

import json
from pathlib import Path

import pytest
from cues import CUES, study_cues, table_of
from studies import markdown

RESULTS = Path(__file__).parents[2] / "docs" / "results"


def test_the_page_has_the_table_of_the_results_beside_it():
    found = json.loads((RESULTS / "cues.json").read_text())
    assert markdown(table_of(found), "map").strip() in (RESULTS / "maps.md").read_text()


@pytest.mark.slow
def test_the_table_has_a_column_for_each_cue():
    study = study_cues(size=16, images=40, epochs=1, region_epochs=1)
    assert list(study.table.columns) == ["map", *CUES, "accuracy"]
    assert study.table[list(CUES)].stack().between(0, 1).all()
    assert study.table["accuracy"].notna().sum() == 4
    for cue in CUES:
        assert study.faces.binary(cue).all()
        assert study.truth[cue].shape == study.maps["RegionAttribution"].shape


@pytest.mark.slow
def test_the_command_keeps_each_value_and_prints_their_table(command, tmp_path):
    options = ["--size", 16, "--images", 40, "--epochs", 1, "--region-epochs", 1, "--seeds", 2, "--quiet"]
    done = command("examples/benchmarks/cues.py", *options, "--out", tmp_path / "cues.json")
    found = json.loads((tmp_path / "cues.json").read_text())
    assert [row["seed"] for row in found["rows"]] == [0] * 6 + [1] * 6
    table = table_of(found)
    hats = [row["Wearing_Hat"] for row in found["rows"] if row["map"] == "RegionAttribution"]
    assert table.loc["RegionAttribution", "Wearing_Hat"].startswith(f"{sum(hats) / 2:.2f} ± ")
    assert table.loc["RegionAttribution", "accuracy of the model"] == ""
    assert "| MultiScaleRegionAttribution | " in done.stdout

"""The table of overlaps, and that on the results page."""

import json
from pathlib import Path

import pytest
from overlap_table import main, results_of, table_of
from studies import markdown

RESULTS = Path(__file__).parents[2] / "docs" / "results"


def test_the_table_has_a_row_an_inspection(tmp_path, capsys):
    for name, overlap in (("a", 0.25), ("b", 0.75)):
        rows = [{"attribute": "Hat", "quantile": 0.5, "overlap": overlap, "chance": 0.5}]
        made = {"command": "fairlearn-bridge inspect", "created": "", "versions": {}, "git": None}
        (tmp_path / name).mkdir()
        found = {"target": "Male", "images": 3, "overlaps": rows, "cells": [], **made}
        (tmp_path / name / "inspect.json").write_text(json.dumps(found))
    folders = [tmp_path / "a", tmp_path / "b"]
    assert table_of([results_of(folder) for folder in folders])["Hat"].tolist() == ["0.25", "0.75"]
    main(folders, tmp_path / "kept.json")
    kept = json.loads((tmp_path / "kept.json").read_text())
    assert kept[0].keys() == {"target", "images", "overlaps", "command", "created", "versions", "git"}
    assert "| inspection 2 | 0.75 |" in capsys.readouterr().out
    (tmp_path / "a" / "inspect.json").write_text(json.dumps(found | {"overlaps": None}))
    with pytest.raises(ValueError, match="a must be of inspect --overlap, it has no overlaps"):
        results_of(tmp_path / "a")


def test_the_page_has_the_table_of_the_results_beside_it():
    table = table_of(json.loads((RESULTS / "overlap.json").read_text()))
    assert markdown(table, "overlap with Male").strip() in (RESULTS / "mitigation.md").read_text()

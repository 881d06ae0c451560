"""The table of a run, and that of the demo on the results page."""

import json
from pathlib import Path

from run_table import main, results_of, table_of
from studies import markdown

RESULTS = Path(__file__).parents[2] / "docs" / "results"


def row(mitigator, measure, mean, low, high):
    return {"mitigator": mitigator, "measure": measure, "mean": mean, "std": None, "low": low, "high": high, "seeds": 1}


def test_the_table_has_means_and_the_intervals_that_matter(tmp_path, capsys):
    rows = [
        row("original", "accuracy", 0.75, 0.5, 1.0),
        row("original", "accuracy[False]", 1.0, 0.5, 1.0),
        row("original", "accuracy[True]", 0.5, 0.25, 0.75),
        row("original", "auc", 0.75, 0.5, 1.0),
        row("original", "worst_cell", 0.25, 0.125, 0.5),
        row("masktune", "accuracy", 0.5, 0.25, 0.75),
    ]
    found = {"target": "Male", "target_names": {"False": "women", "True": "men"}, "table": rows, "seconds": {}}
    (tmp_path / "results.json").write_text(json.dumps(found))
    kept = results_of(tmp_path)
    assert kept.keys() == {"target", "target_names", "table"}
    table = table_of(kept)
    assert table.columns.tolist() == ["accuracy", "women", "men", "worst group"]
    assert table.loc["ERM baseline"].tolist() == ["0.75", "1.00", "0.50", "0.25 [0.12, 0.50]"]
    assert table.loc["masktune"].tolist() == ["0.50", "", "", ""]
    main(tmp_path, tmp_path / "kept.json")
    assert table_of(json.loads((tmp_path / "kept.json").read_text())).equals(table)
    assert "| ERM baseline | 0.75 | 1.00 | 0.50 | 0.25 [0.12, 0.50] |" in capsys.readouterr().out


def test_the_page_has_the_table_of_the_demo_beside_it():
    table = table_of(json.loads((RESULTS / "demo.json").read_text()))
    assert markdown(table, "mitigator").strip() in (RESULTS / "mitigation.md").read_text()

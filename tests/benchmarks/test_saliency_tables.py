"""The tables on the page are those of the results beside it."""

import json
from pathlib import Path

from saliency_tables import best_table, localisation_table, retrain_table, split_table, tables
from studies import rounded

ROOT = Path(__file__).parents[2]


def test_values_are_those_of_the_results():
    rows = [
        {"attribute": "hat", "measure": measure, "method": method, "mean": mean, "mean_right": 0.5, "mean_wrong": 0.25}
        for measure in ("rank_accuracy", "pixel_auc", "insertion")
        for method, mean in (("A", 0.25), ("ours", 0.75))
    ]
    best = [
        {"attribute": "hat", "measure": measure, "method": "A", "difference": 0.5, "low": 0.375, "high": 0.625}
        for measure in ("rank_accuracy", "pixel_auc", "insertion", "deletion")
    ]
    studies = [
        {
            "attribute": "hat",
            "images": 5,
            "images_right": 4,
            "accuracy": 0.75,
            "choice": {"A": {"variant": variant, "sigma": sigma}, "ours": {"variant": "", "sigma": 0.0}},
        }
        for variant, sigma in (("4 px", 0.8333), ("", 2.0))
    ]
    found = {"table": rows, "best_others": best, "studies": studies, "reference": "ours"}
    assert localisation_table(found).loc["A"].to_list() == ["0.25 / 0.25", "0.83 to 2"]
    assert best_table(found)["hat"].to_list() == ["A: +0.50 [+0.38, +0.62]"] * 3
    assert split_table(found)["hat"].to_list() == ["8 / 2", "0.75", "0.50 / 0.25", "0.50 / 0.25"]
    assert rounded({"a": [0.123456, 7, "b", None]}) == {"a": [0.1235, 7, "b", None]}


def test_what_was_retrained_has_a_table_of_its_own():
    rows = [
        {"attribute": attribute, "measure": "information_left", "method": method, "mean": mean, "std_seeds": 0.125}
        for attribute, method, mean in (("hat", "nothing masked", 1.0), ("hat", "B", 0.75), ("age", "B", 0.5))
    ]
    found = {"table": [{"attribute": "hat", "measure": "insertion", "method": "A", "mean": 0.5}, *rows]}
    table = retrain_table(found)
    assert table.columns.tolist() == ["hat", "age"]
    assert table.loc["B"].tolist() == ["0.75 ± 0.12", "0.50 ± 0.12"]
    assert table.index.tolist() == ["nothing masked", "B"]
    assert [text.count("\n") for text in tables(found)] == [3]


def test_the_page_has_the_tables_of_the_results_beside_it():
    results = ROOT / "docs" / "results"
    page = (results / "maps.md").read_text()
    for name in ("saliency.json", "remove_and_retrain.json"):
        for table in tables(json.loads((results / name).read_text())):
            assert table in page

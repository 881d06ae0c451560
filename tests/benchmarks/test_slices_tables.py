"""The tables of what first layers do, against the page that shows them."""

import json
from pathlib import Path

from slices_tables import table_of, tables

ROOT = Path(__file__).parents[2]


def test_the_table_has_the_values_of_the_results():
    rows = {
        "dice": [(0.5, 0.25, 0.0, 0.0, 0.0), (0.75, 0.125, 0.25, -0.125, 0.625)],
        "asymmetry_before": [(-0.5, 0.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.5, 0.5, 0.5)],
        "asymmetry_after": [(-0.25, 0.125, 0.0, 0.0, 0.0), (0.0625, 0.25, 0.3, 0.1, 0.5)],
        "swap_change_after": [(0.0156, 0.0, 0.0, 0.0, 0.0), (0.002, 0.0, 0.0, 0.0, 0.0)],
        "share_previous_after": [(0.5, 0.0, 0.0, 0.0, 0.0), (0.25, 0.0, 0.0, 0.0, 0.0)],
        "share_centre_after": [(0.125, 0.0, 0.0, 0.0, 0.0), (0.75, 0.0, 0.0, 0.0, 0.0)],
    }
    names = ("mean", "std_seeds", "difference", "low", "high")
    summary = [
        {"measure": measure, "arm": arm, **dict(zip(names, values, strict=True))}
        for measure, arms in rows.items()
        for arm, values in zip(("pretrained", "reflect"), arms, strict=True)
    ]
    measures = {"asymmetry_after": 0, "share_previous_after": 0, "share_centre_after": 0}
    found = {"summary": summary, "runs": [{"arm": "pretrained", **measures}, {"arm": "reflect", **measures}]}
    table = table_of(found)
    assert [*table] == ["Dice", "difference", "A before", "A after", "swap", "shares"]
    assert table.to_numpy().tolist() == [
        ["0.500 ± 0.250", "", "-0.50", "-0.25 ± 0.12", "0.016", "0.50 0.12"],
        ["0.750 ± 0.125", "+0.250 [-0.125, +0.625]", "+0.00", "+0.06 ± 0.25", "0.002", "0.25 0.75"],
    ]
    # A window of five slices has a second pair.
    further = {"asymmetry_2_before": 0.75, "asymmetry_2_after": 0.5}
    summary += [
        {"measure": measure, "arm": arm, "mean": mean, "std_seeds": 0.25, "difference": 0, "low": 0, "high": 0}
        for measure, mean in further.items()
        for arm in ("pretrained", "reflect")
    ]
    table = table_of({"summary": summary, "runs": [{**run, "asymmetry_2_after": 0} for run in found["runs"]]})
    assert [*table][2:6] == ["A ±1 before", "A ±1 after", "A ±2 before", "A ±2 after"]
    assert table.loc["pretrained"].tolist()[2:6] == ["-0.50", "-0.25 ± 0.12", "+0.75", "+0.50 ± 0.25"]


def test_one_seed_has_no_spread_and_an_undefined_asymmetry_no_value():
    measures = ("dice", "asymmetry_before", "asymmetry_after", "swap_change_after", "share_previous_after")
    row = {"arm": "pretrained", "mean": 0.5, "std_seeds": None, "difference": 0.0, "low": 0.0, "high": 0.0}
    summary = [{"measure": measure, **row} for measure in measures]
    summary[2]["mean"] = None
    found = {"summary": summary, "runs": [{"arm": "pretrained", "asymmetry_after": 0, "share_previous_after": 0}]}
    assert table_of(found).loc["pretrained"].tolist() == ["0.500", "", "+0.50", "", "0.500", "0.50"]


def test_the_page_has_the_tables_of_the_results_beside_it():
    results = ROOT / "docs" / "results"
    page = (results / "slices.md").read_text()
    for table in tables(json.loads((results / "slices.json").read_text())):
        assert table in page

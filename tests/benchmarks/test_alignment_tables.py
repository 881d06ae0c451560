"""The tables on faces that are not aligned, against the page that shows them."""

import json
from pathlib import Path

import pandas as pd
from alignment_tables import MEASURES, differences_table, means_table, tables

ROOT = Path(__file__).parents[2]


def test_values_are_those_of_the_results():
    schemes = [
        scheme + kind for kind in ("", ", no positions") for scheme in ("general_transplant", "specific_transplant")
    ]
    rows = [
        {"mitigator": name, "seed": seed, **dict.fromkeys(MEASURES, (number + seed * (number == 1)) / 8)}
        for seed in (0, 1)
        for number, name in enumerate(schemes)
    ]
    rows += [
        {"mitigator": "original", "seed": seed, **dict.fromkeys(MEASURES, 0.5), "pixel_auc": None} for seed in (0, 1)
    ]
    table = means_table(pd.DataFrame(rows))
    assert table.loc["specific_transplant"].tolist() == ["0.19 ± 0.09"] * 4
    assert table.loc["original"].tolist() == ["0.50 ± 0.00"] * 3 + [""]
    # 1/8 and 2/8 on average 3/16, with a standard error of 1/16 and Student's t of 12.706 for two seeds.
    assert differences_table(pd.DataFrame(rows)).iloc[:, 0].tolist() == [
        "+0.19 [-0.61, +0.98]",
        "+0.25 [+0.25, +0.25]",
        "+0.19 [-0.61, +0.98]",
    ]


def test_the_page_has_the_tables_of_the_results_beside_it():
    results = ROOT / "docs" / "results"
    page = (results / "mitigation.md").read_text()
    for table in tables(json.loads((results / "alignment.json").read_text())):
        assert table in page

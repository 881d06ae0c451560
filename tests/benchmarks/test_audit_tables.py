"""The tables of audits, against the page that shows them."""

import json
from pathlib import Path

import pytest
from audit_tables import audited, compared, divided, further, kept, shares_alone, summarized, tables

ROOT = Path(__file__).parents[2]


def interval(name, value, low, high):
    return {name: value, f"{name}_low": low, f"{name}_high": high}


@pytest.fixture
def found():
    """The results of a study with a codec, a pruned classifier, and shares of the codec."""
    codec = {"name": "a codec", "bpp": 0.2504, "psnr": 30.04, "psnr_range": 0.456, "psnr_auc": 0.5, "drop": 0.0501}
    codec |= {"worst": "b", "best": "a", "lowest_psnr": "b", "frechet": 2.0, "p": 0.01, "p_holm": 0.02}
    other = codec | {
        "name": "another",
        "psnr": 20.0,
        "worst": "a",
        "best": "b",
        "p": 0.2,
        "p_holm": 0.2,
        "frechet": 3.0,
    }
    pruned = dict.fromkeys(codec) | {"name": "pruned", "drop": -0.0004, "worst": "a", "best": "b", "p": 1, "p_holm": 1}
    rows = [
        codec | interval("bias", 0.1, 0.05, 0.15),
        other | interval("bias", 0.2, 0.0, 0.3),
        pruned | interval("bias", 0.0, 0.0, 0.1),
    ]
    pair = {"first": "another", "second": "a codec", "difference": 0.1, "low": -0.05, "high": 0.2, "p_holm": 0.0001}
    shares = {"drop": 0.1, "bias": 0.25, "worst": "b", "best": "a"}
    for name, value in (("unrecoverable", 0.0625), ("recoverable", 0.0375)):
        shares |= interval(name, value, 0.0, 0.1) | interval(f"net_{name}", value, -0.02, 0.1)
        shares |= interval(f"{name}_contrast", 0.125, 0.1, 0.2) | {f"{name}_p_holm": 0.04}
    control = (
        dict.fromkeys(shares)
        | {"drop": 0.0}
        | {key: 0.01 for key in shares if key.startswith(("unrecoverable", "recoverable")) and "contrast" not in key}
    )
    of_first = {"n": {"a": 60, "b": 40}, "accuracy": {"a": 0.9, "b": 0.8}, "degradations": rows, "comparisons": [pair]}
    of_first["shares"] = [{"name": "control", **control}, {"name": "a codec", **shares}]
    second = of_first | {"n": {"old": 30, "young": 70}, "accuracy": {"old": 0.75, "young": 0.5}}
    return {
        "config": {"target": "gender", "epochs": 8},
        "command": "audit_study.py --root /somewhere",
        "created": "2026-01-01",
        "versions": {"torch": "2"},
        "images": {"train": 100},
        "accuracy": [0.123456],
        "rates": [{"codec": "a codec", "reached": 0.25}],
        "groupings": {"race": of_first, "age": second},
    }


def test_the_tables_have_the_values_of_the_results(found):
    assert audited(found).to_numpy().tolist() == [
        ["0.250", "30.0 (0.46)", "5.0", "**10.0 [5.0, 15.0]**", "0.020", "b", "b", "0.50"],
        ["0.250", "20.0 (0.46)", "5.0", "20.0 [0.0, 30.0]", "0.200", "a", "b", "0.50"],
        ["", "", "0.0", "0.0 [0.0, 10.0]", "1.000", "a", "", ""],
    ]
    assert compared(found).loc["another, minus a codec"].tolist() == ["+10.0 [-5.0 to +20.0]", "< 0.001"]
    assert divided(found).to_numpy().tolist() == [
        ["0.0", "1.0 [1.0, 1.0]", "1.0 [1.0, 1.0]", "", "", "", ""],
        ["10.0", "6.2 [0.0, 10.0]", "3.8 [0.0, 10.0]", "3.8 [-2.0, 10.0]", "25.0 (b, a)"]
        + ["12.5 [10.0, 20.0], 0.040"] * 2,
    ]
    assert further(found).loc["age"].tolist() == [
        "30 old / 70 young",
        "75.0 / 50.0",
        "a codec",
        "10.0 [5.0, 15.0]",
        "b",
        "0.010",
        "0.020",
    ]
    assert summarized(found)[""].tolist() == ["1 of 3", "1 of 2", "0.50 to 0.50", "0.46", "-1.00", "nan", "1.00"]


def test_what_is_kept_gives_the_same_tables_and_names_no_place(found):
    before = tables(found)
    slim = kept(json.loads(json.dumps(found)))
    assert tables(slim) == before
    assert "command" not in slim
    assert slim["accuracy"] == [0.1235]
    assert "psnr" not in slim["groupings"]["age"]["degradations"][0]
    assert slim["groupings"]["race"]["degradations"] == found["groupings"]["race"]["degradations"]


def test_a_study_without_pairs_shares_or_further_groups_has_fewer_tables(found):
    few = found["groupings"]["race"] | {"comparisons": [], "shares": []}
    assert len(tables(found | {"groupings": {"race": few}})) == 1
    many = few | {"degradations": few["degradations"] * 4}
    assert len(tables(found | {"groupings": {"race": many}})) == 2


def test_of_a_study_that_retrained_the_shares_can_be_kept_alone(found):
    shares = tables(found)[2]
    assert "of it recoverable" in shares
    assert tables(kept(shares_alone(found))) == [shares]


def test_the_page_has_the_tables_of_the_results_beside_it():
    results = ROOT / "docs" / "results"
    page = (results / "audits.md").read_text()
    for one in json.loads((results / "audits.json").read_text()).values():
        for table in tables(one):
            assert table in page

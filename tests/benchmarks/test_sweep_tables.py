"""The table of a sweep, from the files of its folder."""

import json
from pathlib import Path

from studies import markdown
from sweep_tables import main, results_of, table_of

TABLE = """\
confounder,mitigator,scheme,quantile,kind,measure,mean,std,low,high,seeds,difference,difference_low,difference_high,\
balanced_difference,balanced_difference_low,balanced_difference_high
Hat,original,,,reference,accuracy,0.75,0.125,0.7,0.8,2,0.0,0.0,0.0,-0.1,-0.2,0.0
Hat,original,,,reference,auc,0.75,0.125,0.7,0.8,2,0.0,0.0,0.0,-0.1,-0.2,0.0
Hat,original,,,reference,crossed_auc,0.5,0.25,0.4,0.6,2,0.0,0.0,0.0,-0.375,-0.5,-0.25
Hat,general_mask 0.7,general_mask,0.7,scheme,accuracy,0.7,,0.6,0.8,1,-0.05,-0.125,0.03,,,
Hat,general_mask 0.7,general_mask,0.7,scheme,crossed_auc,0.75,,0.7,0.8,1,0.25,0.125,0.375,-0.125,-0.25,0.0
Smile,balanced,,,reference,gap,-0.125,0.5,-0.3,0.1,2,,,,0.0,0.0,0.0
"""


TRAININGS = """\
confounder,mitigator,seed,status,reason,chosen,seconds,git
Hat,original,0,done,,,1.5,
"""


def test_the_table_has_the_values_of_the_sweep(tmp_path, capsys):
    (tmp_path / "table.csv").write_text(TABLE)
    (tmp_path / "trainings.csv").write_text(TRAININGS)
    (tmp_path / "sweep.json").write_text(json.dumps({"target": "Male", "quantiles": [0.7], "seconds": {}}))
    found = results_of(tmp_path)
    assert found.keys() == {"target", "quantiles", "table", "chosen"}
    table = table_of([found])
    assert table.index.tolist() == ["Hat", "", "Smile"]
    assert table.to_numpy().tolist() == [
        ["ERM baseline", "0.75 ± 0.12", "", "", "0.50 ± 0.25", "-0.38 [-0.50, -0.25]"],
        ["general_mask 0.7", "0.70 [-0.12, +0.03]", "", "", "0.75 [+0.12, +0.38]", "-0.12 [-0.25, +0.00]"],
        ["balanced data", "", "-0.12 ± 0.50", "", "", ""],
    ]
    main([tmp_path], tmp_path / "kept.json")
    assert table_of(json.loads((tmp_path / "kept.json").read_text())).equals(table)
    both = table_of([found, {"table": [{**row, "confounder": "Glasses"} for row in found["table"]]}])
    assert both.index.tolist() == ["Hat", "", "Smile", "Glasses", "", ""]
    assert both.iloc[:3].equals(table)
    without = [line.rsplit(",", 3)[0] for line in TABLE.splitlines()]
    (tmp_path / "table.csv").write_text("\n".join(without))
    assert table_of([results_of(tmp_path)]).iloc[:, -1].tolist() == ["", "", ""]
    assert "| Hat | ERM baseline | 0.75 ± 0.12 |  |  | 0.50 ± 0.25 | -0.38 [-0.50, -0.25] |" in capsys.readouterr().out


def test_the_table_says_what_was_chosen(tmp_path):
    chosen = [
        "Hat,general_mask@auto,0,done,,general_mask 0.6,1.5,",
        "Hat,general_mask@auto,1,done,,general_mask 0.9,1.5,",
    ]
    (tmp_path / "table.csv").write_text(TABLE.replace("general_mask 0.7", "general_mask@auto"))
    (tmp_path / "trainings.csv").write_text(TRAININGS + "\n".join([*chosen, "Smile,balanced,0,done,,,1.5,"]))
    (tmp_path / "sweep.json").write_text("{}")
    table = table_of([results_of(tmp_path)])
    assert table["chosen, by seed"].tolist() == ["", "0.6, 0.9", ""]


def test_the_page_has_the_table_of_the_results_beside_it():
    results = Path(__file__).parents[2] / "docs" / "results"
    for name in ("headline.json", "quantile.json", "schemes.json", "smiling_few.json"):
        table = table_of(json.loads((results / name).read_text()))
        assert markdown(table, "") in (results / "mitigation.md").read_text()

"""The table of docs/results/mitigation.md on the demo, from what ``fairlearn-bridge demo``, or ``run``, found.

``python examples/benchmarks/run_table.py demo --keep docs/results/demo.json`` prints it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer
from studies import interval, markdown, rounded
from sweep_tables import NAMES

from captum_region.cli.options import Debug
from captum_region.cli.running import errors_in_one_line
from captum_region.io.files import write_text

MEASURES = ("accuracy", "accuracy[False]", "accuracy[True]", "gap", "worst_cell", "crossed_auc", "flip_rate")
TITLES = {"worst_cell": "worst group", "crossed_auc": "bias-conflicting AUC", "flip_rate": "flip rate"}
WITH_INTERVAL = {"worst_cell", "crossed_auc"}
KEPT = (
    *("target", "confounder", "target_names", "counts", "config", "random_states"),
    *("data", "command", "created", "versions", "git"),
)


def results_of(folder: Path) -> dict[str, Any]:
    """Return what the table and its reader need of the results in the folder of a run."""
    found = json.loads((folder / "results.json").read_text())
    rows = [row for row in found["table"] if row["measure"] in MEASURES]
    return {**{name: found[name] for name in KEPT if name in found}, "table": rows}


def table_of(found: dict[str, Any]) -> pd.DataFrame:
    """Return a row a mitigator: means, and the intervals over test images of the two measures that matter most.

    The accuracies of the groups are named by the values of the target.
    """
    titles = {f"accuracy[{value}]": name for value, name in found["target_names"].items()} | TITLES
    shown: dict[str, dict[str, str]] = {}
    for row in found["table"]:
        words = "{mean:.2f}".format(**row)
        if row["measure"] in WITH_INTERVAL:
            words += interval(row["low"], row["high"], signed=False)
        cells = shown.setdefault(NAMES.get(row["mitigator"], row["mitigator"]), {})
        cells[titles.get(row["measure"], row["measure"])] = words
    measures = [name for name in MEASURES if any(row["measure"] == name for row in found["table"])]
    columns = [titles.get(name, name) for name in measures]
    return pd.DataFrame(shown).T.reindex(columns=columns).fillna("")


def main(
    folder: Annotated[Path, typer.Argument(help="The --out of fairlearn-bridge demo or run.")],
    keep: Annotated[Path | None, typer.Option(help="Also write the values, to four digits, to this file.")] = None,
    debug: Debug = False,
) -> None:
    """Print a table in Markdown.

    Example: python examples/benchmarks/run_table.py demo
    """
    with errors_in_one_line(debug):
        found = results_of(folder)
        if keep is not None:
            write_text(keep, json.dumps(rounded(found)) + "\n")
        typer.echo(markdown(table_of(found), "mitigator"))


if __name__ == "__main__":
    typer.run(main)

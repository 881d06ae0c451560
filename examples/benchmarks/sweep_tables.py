"""The tables of docs/results/mitigation.md on several spurious attributes, from what ``fairlearn-bridge sweep`` found.

``python examples/benchmarks/sweep_tables.py runs/headline --keep docs/results/headline.json`` prints them; of several
folders, which may be of one attribute each, one below the other.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer
from studies import difference, interval, markdown, rounded

from captum_region.cli.options import Debug
from captum_region.cli.running import errors_in_one_line
from captum_region.io.files import records, write_text
from fairlearn_bridge.sweep import DIFFERENCE

MEASURES = {
    "accuracy": "accuracy",
    "gap": "gap",
    "worst_cell": "worst group",
    "crossed_auc": "bias-conflicting AUC",
}
NAMES = {"original": "ERM baseline", "balanced": "balanced data"}
STATISTICS = ("mean", "std", "seeds", *(f"{of}{name}" for of in ("", "balanced_") for name in DIFFERENCE))
MINUS_BALANCED = "bias-conflicting AUC, minus balanced"
CHOSEN = "chosen, by seed"
KEPT = ("target", "quantiles", "config", "random_states", "data", "command", "created", "versions", "git")


def results_of(folder: Path) -> dict[str, Any]:
    """Return what a sweep's folder holds: settings, provenance, a row a mitigator and measure, and what was chosen."""
    found = json.loads((folder / "sweep.json").read_text())
    table = pd.read_csv(folder / "table.csv")
    of_tables = table[table["measure"].isin(MEASURES)]
    # Without balanced data there is no difference to them.
    shown = records(of_tables.reindex(columns=["confounder", "mitigator", "measure", *STATISTICS]))
    trainings = pd.read_csv(folder / "trainings.csv")
    chosen = records(trainings.dropna(subset=["chosen"])[["confounder", "mitigator", "seed", "chosen"]])
    return {**{name: found[name] for name in KEPT if name in found}, "table": shown, "chosen": chosen}


def table_of(found: list[dict[str, Any]]) -> pd.DataFrame:
    """Return a row a spurious attribute and mitigator: means, spreads, intervals of the difference to the ERM baseline.

    Of the baseline there is no difference. A column has the difference to balanced data, and a last one what mitigators
    that choose a scheme or quantile have chosen, if there are any.
    """
    shown: dict[tuple[str, str], dict[str, str]] = {}
    for row in (row for sweep in found for row in sweep["table"]):
        name = NAMES.get(row["mitigator"], row["mitigator"])
        words = "{mean:.2f}".format(**row) + ("" if row["std"] is None else " ± {std:.2f}".format(**row))
        if row["mitigator"] != "original" and row["difference"] is not None:
            words += interval(row["difference_low"], row["difference_high"])
        cells = shown.setdefault((row["confounder"], name), {})
        cells[MEASURES[row["measure"]]] = words
        if row["measure"] == "crossed_auc" and row["mitigator"] != "balanced":
            cells[MINUS_BALANCED] = difference(row, "balanced_difference")
    for row in (row for sweep in found for row in sweep.get("chosen", ())):
        cells = shown[row["confounder"], row["mitigator"]]
        chosen = row["chosen"].removeprefix(row["mitigator"].partition("@")[0]).strip()
        cells[CHOSEN] = ", ".join(filter(None, (cells.get(CHOSEN), chosen)))
    columns = [*MEASURES.values(), MINUS_BALANCED]
    if any(CHOSEN in cells for cells in shown.values()):
        columns.append(CHOSEN)
    table = pd.DataFrame(list(shown.values()), columns=columns).astype(object).fillna("")
    table.insert(0, "", [name for _, name in shown])
    attributes = pd.Series([confounder for confounder, _ in shown])
    table.index = pd.Index(attributes.where(~attributes.duplicated(), ""))
    return table


def main(
    folders: Annotated[list[Path], typer.Argument(help="The --out of fairlearn-bridge sweep; again for more.")],
    keep: Annotated[Path | None, typer.Option(help="Also write the values, to four digits, to this file.")] = None,
    debug: Debug = False,
) -> None:
    """Print a table in Markdown.

    Example: python examples/benchmarks/sweep_tables.py runs/headline
    """
    with errors_in_one_line(debug):
        found = [results_of(folder) for folder in folders]
        if keep is not None:
            write_text(keep, json.dumps(rounded(found)) + "\n")
        typer.echo(markdown(table_of(found), ""))


if __name__ == "__main__":
    typer.run(main)

"""The tables of docs/results/mitigation.md on faces that are not aligned, from what ``alignment_study.py`` found.

``python examples/benchmarks/alignment_tables.py aligned.json half.json --keep alignment.json`` prints them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer
from studies import markdown, rounded

from captum_region.cli.options import Debug
from captum_region.cli.running import errors_in_one_line
from captum_region.intervals import paired_differences
from captum_region.io.files import write_text

MEASURES = {
    "worst_cell": "worst group",
    "crossed_auc": "bias-conflicting AUC",
    "accuracy": "accuracy",
    "pixel_auc": "pixel AUC",
}
WITHOUT = ", no positions"


def means_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return mean and spread over seeds of each measure, a row a mitigator."""
    by_row = rows.groupby("mitigator", sort=False)[[*MEASURES]]
    means, spreads = by_row.mean(), by_row.std()
    cells = {
        label: [
            "" if pd.isna(mean) else f"{mean:.2f}" + ("" if pd.isna(spread) else f" ± {spread:.2f}")
            for mean, spread in zip(means[name], spreads[name], strict=True)
        ]
        for name, label in MEASURES.items()
    }
    return pd.DataFrame(cells, index=means.index)


def differences_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return what each image's own map, and a classifier without positions, change: paired by seed, 95 % intervals."""
    pairs = {
        "own map instead of the mean": ("general_transplant", "specific_transplant"),
        "no positions, mean map": ("general_transplant", f"general_transplant{WITHOUT}"),
        "no positions, own map": ("specific_transplant", f"specific_transplant{WITHOUT}"),
    }
    cells: dict[str, list[str]] = {label: [] for label in MEASURES.values()}
    for reference, other in pairs.values():
        for name, label in MEASURES.items():
            values = rows.pivot(index="seed", columns="mitigator", values=name)[[reference, other]]
            row = paired_differences(values, reference).loc[other]
            cells[label].append("{difference:+.2f} [{low:+.2f}, {high:+.2f}]".format(**row))
    return pd.DataFrame(cells, index=[*pairs])


def tables(found: dict[str, Any]) -> list[str]:
    """Return two tables for each degree of alignment."""
    shown = []
    for name, one in found.items():
        for unaligned, rows in pd.DataFrame(one["rows"]).groupby("unaligned"):
            title = f"unaligned {unaligned:g}, {one['settings']['epochs']} epochs"
            shown.append(markdown(means_table(rows), title))
            shown.append(markdown(differences_table(rows), f"{name}: transplants"))
    return shown


def main(
    results: Annotated[list[Path], typer.Argument(help="JSON files of alignment_study.py; again for more.")],
    keep: Annotated[Path | None, typer.Option(help="Also write the values, to four digits, to this file.")] = None,
    debug: Debug = False,
) -> None:
    """Print tables in Markdown.

    Example: python examples/benchmarks/alignment_tables.py alignment.json
    """
    with errors_in_one_line(debug):
        found = {path.stem: rounded(json.loads(path.read_text())) for path in results}
        typer.echo("\n\n".join(tables(found)))
        if keep is not None:
            write_text(keep, json.dumps(found) + "\n")


if __name__ == "__main__":
    typer.run(main)

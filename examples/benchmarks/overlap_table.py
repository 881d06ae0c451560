"""The table of docs/results/mitigation.md on overlaps, from what ``fairlearn-bridge inspect --overlap`` found.

``python examples/benchmarks/overlap_table.py inspected/0 inspected/1 --keep docs/results/overlap.json`` prints it.
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
from captum_region.io.files import write_text

KEPT = ("target", "images", "overlaps", "command", "created", "versions", "git")


def results_of(folder: Path) -> dict[str, Any]:
    """Return what the table and its reader need of the results in the folder of an inspection."""
    found = json.loads((folder / "inspect.json").read_text())
    if not found["overlaps"]:
        raise ValueError(f"{folder} must be of inspect --overlap, it has no overlaps")
    return {name: found[name] for name in KEPT}


def table_of(found: list[dict[str, Any]]) -> pd.DataFrame:
    """Return a row an inspection, a column an attribute: the overlap of its map with that of the target."""
    rows = [{row["attribute"]: f"{row['overlap']:.2f}" for row in one["overlaps"]} for one in found]
    return pd.DataFrame(rows, index=pd.Index([f"inspection {number}" for number in range(1, 1 + len(rows))])).fillna("")


def main(
    folders: Annotated[list[Path], typer.Argument(help="The --out of fairlearn-bridge inspect --overlap, one a seed.")],
    keep: Annotated[Path | None, typer.Option(help="Also write the values, to four digits, to this file.")] = None,
    debug: Debug = False,
) -> None:
    """Print a table in Markdown.

    Example: python examples/benchmarks/overlap_table.py inspected/0 inspected/1
    """
    with errors_in_one_line(debug):
        found = [results_of(folder) for folder in folders]
        if keep is not None:
            write_text(keep, json.dumps(rounded(found)) + "\n")
        typer.echo(markdown(table_of(found), f"overlap with {found[0]['target']}"))


if __name__ == "__main__":
    typer.run(main)

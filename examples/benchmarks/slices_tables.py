"""The tables of docs/results/slices.md on first layers, from what ``captum-region slices`` found.

``python examples/benchmarks/slices_tables.py isbi/slices.json vnc/slices.json --keep docs/results/slices.json`` prints
them, named by their folders.
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

KEPT = ("settings", "created", "versions", "runs", "summary")


def table_of(found: dict[str, Any]) -> pd.DataFrame:
    """Return Dice with its paired difference, asymmetry, swap test and shares of each arm: means over seeds."""
    summary: Any = pd.DataFrame(found["summary"]).set_index(["measure", "arm"])
    measured = [name.removesuffix("_after") for name in found["runs"][0] if name.endswith("_after")]
    shares = [f"{name}_after" for name in measured if name.startswith("share_")]
    pairs = [name for name in measured if name.startswith("asymmetry")]
    shown: dict[str, dict[str, str]] = {}
    for arm in dict.fromkeys(row["arm"] for row in found["runs"]):
        of_arm = summary.xs(arm, level="arm")
        dice = of_arm.loc["dice"]
        words = "{difference:+.3f} [{low:+.3f}, {high:+.3f}]".format(**dice)
        shown[arm] = {
            "Dice": _with_spread(dice, ".3f"),
            "difference": words if shown else "",
            **{
                f"{_label(pair, pairs)} {stage}": _with_spread(of_arm.loc[f"{pair}_{stage}"], "+.2f", spread=spread)
                for pair in pairs
                for stage, spread in (("before", False), ("after", True))
            },
            "swap": f"{of_arm.loc['swap_change_after', 'mean']:.3f}",
            "shares": " ".join(f"{of_arm.loc[name, 'mean']:.2f}" for name in shares),
        }
    return pd.DataFrame(shown).T


def _with_spread(row: Any, places: str, *, spread: bool = True) -> str:
    """Return a mean over seeds, and its spread where there are several; nothing where it is undefined."""
    if pd.isna(row["mean"]):
        return ""
    has_spread = spread and not pd.isna(row["std_seeds"])
    return f"{row['mean']:{places}}" + (f" ± {row['std_seeds']:{places.lstrip('+')}}" if has_spread else "")


def _label(pair: str, pairs: list[str]) -> str:
    """Return A, or which pair's A if the windows have several."""
    return "A" if len(pairs) == 1 else f"A ±{pairs.index(pair) + 1}"


def tables(found: dict[str, Any]) -> list[str]:
    """Return a table for each data set."""
    return [markdown(table_of(of_data), name) for name, of_data in found.items()]


def main(
    results: Annotated[list[Path], typer.Argument(help="slices.json of captum-region slices; again for more.")],
    keep: Annotated[Path | None, typer.Option(help="Also write the values, to four digits, to this file.")] = None,
    debug: Debug = False,
) -> None:
    """Print tables in Markdown.

    Example: python examples/benchmarks/slices_tables.py slices/slices.json
    """
    with errors_in_one_line(debug):
        found = {path.parent.name: json.loads(path.read_text()) for path in results}
        if keep is not None:
            for one in found.values():
                one["settings"].pop("files")  # places of one machine
            found = {name: rounded({part: one[part] for part in KEPT}) for name, one in found.items()}
            write_text(keep, json.dumps(found) + "\n")
        typer.echo("\n\n".join(tables(found)))


if __name__ == "__main__":
    typer.run(main)

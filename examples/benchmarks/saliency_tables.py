"""The tables of docs/results/maps.md on saliency methods, from what ``captum-region compare`` found.

``python examples/benchmarks/saliency_tables.py compare/comparison.json --keep docs/results/saliency.json`` prints them.
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

NAMES = {"rank_accuracy": "relevance rank accuracy", "pixel_auc": "pixel AUC", "insertion": "insertion"}


def localisation_table(found: dict[str, Any]) -> pd.DataFrame:
    """Return relevance rank accuracy / pixel AUC of each method and attribute, and the range of the chosen sigma."""
    table = pd.DataFrame(found["table"]).set_index(["measure", "method", "attribute"])["mean"]
    rank, area = (table[name].unstack(sort=False) for name in ("rank_accuracy", "pixel_auc"))
    shown: pd.DataFrame = rank.map("{:.2f} / ".format) + area.map("{:.2f}".format)
    choices = [{name: one["sigma"] for name, one in study["choice"].items()} for study in found["studies"]]
    sigmas = pd.DataFrame(choices)
    shown["sigma, px"] = sigmas.min().map("{:.2g}".format) + " to " + sigmas.max().map("{:.2g}".format)
    return shown


def best_table(found: dict[str, Any]) -> pd.DataFrame:
    """Return by how much the reference is better than the best other method, of each attribute and measure."""
    rows = pd.DataFrame(found["best_others"])
    rows = rows[rows["measure"].isin(NAMES)]
    words = [
        f"{row.method}: {row.difference:+.2f} [{row.low:+.2f}, {row.high:+.2f}]" for row in rows.itertuples(index=False)
    ]
    shown = rows.assign(words=words).pivot(index="measure", columns="attribute", values="words")
    return shown.loc[list(NAMES), list(dict.fromkeys(rows["attribute"]))].rename(index=NAMES)


def split_table(found: dict[str, Any]) -> pd.DataFrame:
    """Return the rank accuracy on images that the model gets right / wrong: of the reference and of the best other."""
    table = pd.DataFrame(found["table"]).set_index(["measure", "attribute", "method"]).loc["rank_accuracy"]
    best = {row["attribute"]: row["method"] for row in found["best_others"] if row["measure"] == "rank_accuracy"}
    studies = pd.DataFrame(found["studies"]).groupby("attribute", sort=False)
    columns = {}
    for attribute, method in best.items():
        part = studies.get_group(attribute)
        right, count = part["images_right"].sum(), part["images"].sum()
        both = [
            "{mean_right:.2f} / {mean_wrong:.2f}".format(**table.loc[attribute, name])
            for name in (found["reference"], method)
        ]
        columns[attribute] = [f"{right} / {count - right}", f"{part['accuracy'].mean():.2f}", both[0], both[1]]
    index = ["images right / wrong", "balanced accuracy of the model", f"`{found['reference']}`", "the best other"]
    return pd.DataFrame(columns, index=index)


def retrain_table(found: dict[str, Any]) -> pd.DataFrame:
    """Return the remove-and-retrain accuracy of the methods that have one, a column an attribute: mean ± spread."""
    rows = pd.DataFrame(found["table"])
    rows = rows[rows["measure"] == "information_left"]
    words = rows["mean"].map("{:.2f} ± ".format) + rows["std_seeds"].map("{:.2f}".format)
    shown = rows.assign(words=words).pivot(index="method", columns="attribute", values="words")
    return shown.loc[list(dict.fromkeys(rows["method"])), list(dict.fromkeys(rows["attribute"]))].fillna("")


def tables(found: dict[str, Any]) -> list[str]:
    """Return the tables, in the order of the page: three, or that of `--retrain` alone."""
    if any(row["measure"] == "information_left" for row in found["table"]):
        return [markdown(retrain_table(found), "balanced accuracy of a fresh classifier")]
    three = localisation_table(found), best_table(found), split_table(found)
    corners = "relevance rank accuracy / pixel AUC", f"`{found['reference']}` minus the best other", "right / wrong"
    return [markdown(table, corner) for table, corner in zip(three, corners, strict=True)]


def main(
    results: Annotated[Path, typer.Argument(help="comparison.json of captum-region compare.")],
    keep: Annotated[
        Path | None, typer.Option(help="Also write the results, numbers to four digits, to this file.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Print tables in Markdown.

    Example: python examples/benchmarks/saliency_tables.py compare/comparison.json
    """
    with errors_in_one_line(debug):
        found = json.loads(results.read_text())
        typer.echo("\n\n".join(tables(found)))
        if keep is not None:
            found["command"] = found["command"].partition(" --out ")[0]  # a place of one machine
            write_text(keep, json.dumps(rounded(found)) + "\n")


if __name__ == "__main__":
    typer.run(main)

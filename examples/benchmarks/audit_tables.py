"""The tables of docs/results/audits.md, from what the study of audits found.

``python examples/benchmarks/audit_tables.py utkface.json celeba.json --keep audits.json`` prints them. With ``--shares
retrained.json`` also the shares of a study that retrained, and nothing else of it.
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
from fairlearn_bridge.audit import words
from fairlearn_bridge.audit.words import p_value

_KEPT = ("config", "created", "versions", "images", "accuracy", "rates", "groupings")
# What tables of the groupings after the first need.
_OF_FURTHER = ("name", "drop", "bias", "bias_low", "bias_high", "p", "p_holm", "worst", "best")
_LEVEL = 0.05
# A summary of fewer degradations of images says nothing.
_SUMMARIZED = 10


def audited(found: dict[str, Any]) -> pd.DataFrame:
    """Return a row for each degradation, of the first grouping."""
    shown = {}
    for row in _first(found)["degradations"]:
        bias = _interval(row, "bias")
        has_images = row["psnr"] is not None
        shown[row["name"]] = {
            "bpp": "" if row["bpp"] is None else f"{row['bpp']:.3f}",
            "PSNR (range)": f"{row['psnr']:.1f} ({row['psnr_range']:.2f})" if has_images else "",
            "drop": points(row["drop"]),
            "bias": f"**{bias}**" if row["p_holm"] < _LEVEL else bias,
            "corrected p": p_value(row["p_holm"]),
            "loses most": row["worst"],
            "lowest PSNR": row["lowest_psnr"] or "",
            "AUC": "" if row["psnr_auc"] is None else f"{row['psnr_auc']:.2f}",
        }
    return pd.DataFrame(shown).T


def compared(found: dict[str, Any]) -> pd.DataFrame:
    """Return by how much the bias of one degradation is larger than that of another, of the first grouping."""
    shown = {}
    for row in _first(found)["comparisons"]:
        ends = " to ".join(points(row[end], signed=True) for end in ("low", "high"))
        difference = f"{points(row['difference'], signed=True)} [{ends}]"
        shown[f"{row['first']}, minus {row['second']}"] = {
            "difference of the biases": difference,
            "corrected p": p_value(row["p_holm"]),
        }
    return pd.DataFrame(shown).T


def divided(found: dict[str, Any]) -> pd.DataFrame:
    """Return the shares of retraining: of all images, net of the control, and their contrasts between groups."""
    shown = {}
    for row in _first(found)["shares"]:
        has_contrast = row["worst"] is not None
        cells = {"drop": points(row["drop"])}
        cells |= {share: _interval(row, share) for share in ("unrecoverable", "recoverable")}
        cells["recoverable, net"] = _interval(row, "net_recoverable") if has_contrast else ""
        cells["bias"] = f"{points(row['bias'])} ({row['worst']}, {row['best']})" if has_contrast else ""
        for share in ("unrecoverable", "recoverable"):
            contrast = (
                f"{_interval(row, f'{share}_contrast')}, {p_value(row[f'{share}_p_holm'])}" if has_contrast else ""
            )
            cells[f"of it {share}"] = contrast
        shown[row["name"]] = cells
    return pd.DataFrame(shown).T


def further(found: dict[str, Any]) -> pd.DataFrame:
    """Return the largest bias by each further grouping, the one with the smallest p."""
    shown = {}
    for name in list(found["groupings"])[1:]:
        of_grouping = found["groupings"][name]
        row = min(of_grouping["degradations"], key=lambda row: (row["p"], -row["bias"]))
        shown[name] = {
            "faces": " / ".join(f"{count} {group}" for group, count in of_grouping["n"].items()),
            "right": " / ".join(points(share) for share in of_grouping["accuracy"].values()),
            "smallest p": row["name"],
            "bias": _interval(row, "bias"),
            "loses most": row["worst"],
            "p": p_value(row["p"]),
            "corrected p": p_value(row["p_holm"]),
        }
    return pd.DataFrame(shown).T


def summarized(found: dict[str, Any]) -> pd.DataFrame:
    """Return what all degradations of images together say of PSNR, realism and bias, of the first grouping."""
    rows = pd.DataFrame(_first(found)["degradations"])
    of_images = rows[rows["psnr"].notna()]
    agree = int((of_images["worst"] == of_images["lowest_psnr"]).sum())
    ranks: Any = of_images[["bias", "drop", "psnr", "frechet"]].astype(float).corr("spearman")
    auc = of_images["psnr_auc"].astype(float)
    facts = {
        "biases with a corrected p below 0.05": f"{(rows['p_holm'] < _LEVEL).sum()} of {len(rows)}",
        "the group that loses most has the lowest PSNR": f"{agree} of {len(of_images)}",
        "AUC of a low PSNR for lost decisions": f"{auc.min():.2f} to {auc.max():.2f}",
        "largest range of PSNR over groups, dB": f"{of_images['psnr_range'].max():.2f}",
        "rank correlation of bias and PSNR": f"{ranks.loc['bias', 'psnr']:.2f}",
        "of bias and drop": f"{ranks.loc['bias', 'drop']:.2f}",
    }
    if of_images["frechet"].notna().all():
        facts["of bias and Frechet distance"] = f"{ranks.loc['bias', 'frechet']:.2f}"
    return pd.DataFrame({"": facts})


def tables(found: dict[str, Any]) -> list[str]:
    """Return the tables of a study."""
    is_long = len(_first(found)["degradations"]) >= _SUMMARIZED
    made: list[tuple[Any, str]] = [
        (audited(found), "degradation"),
        (summarized(found) if is_long else [], "all degradations together"),
        (compared(found), "pair"),
        (divided(found), "degradation"),
        (further(found), "groups"),
    ]
    return [markdown(table, corner) for table, corner in made if len(table)]


def kept(found: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a study that tables show, to four digits, and no place of one machine."""
    groupings = found["groupings"]
    for name in list(groupings)[1:]:
        rows = [{key: row[key] for key in _OF_FURTHER} for row in groupings[name]["degradations"]]
        groupings[name] = groupings[name] | {"degradations": rows, "comparisons": [], "shares": []}
    chosen: dict[str, Any] = rounded({part: found[part] for part in _KEPT if part in found})
    return chosen


def shares_alone(found: dict[str, Any]) -> dict[str, Any]:
    """Return the shares of a study without its other results, which another study has."""
    name, first = next(iter(found["groupings"].items()))
    return found | {"groupings": {name: first | {"degradations": [], "comparisons": []}}}


def points(value: float, *, signed: bool = False) -> str:
    """Return a share in points, with the minus sign of the other pages' tables."""
    return words.points(value, signed=signed).replace("\N{MINUS SIGN}", "-")


def _first(found: dict[str, Any]) -> dict[str, Any]:
    first: dict[str, Any] = next(iter(found["groupings"].values()))
    return first


def _interval(row: dict[str, Any], name: str) -> str:
    """Return a value in points with its interval."""
    low, high = (points(row[f"{name}_{end}"]) for end in ("low", "high"))
    return f"{points(row[name])} [{low}, {high}]"


def main(
    results: Annotated[list[Path], typer.Argument(help="JSON of audit_study.py; again for more.")],
    keep: Annotated[Path | None, typer.Option(help="Also write the values, to four digits, to this file.")] = None,
    shares: Annotated[
        list[Path] | None, typer.Option(help="JSON of which only the shares of retraining are shown; again for more.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Print tables in Markdown.

    Example: python examples/benchmarks/audit_tables.py audit_study.json
    """
    with errors_in_one_line(debug):
        found = {path.stem: kept(json.loads(path.read_text())) for path in results}
        found |= {path.stem: kept(shares_alone(json.loads(path.read_text()))) for path in shares or ()}
        if keep is not None:
            write_text(keep, json.dumps(found) + "\n")
        for name, one in found.items():
            typer.echo("\n\n".join([f"## {name}", *tables(one)]) + "\n")


if __name__ == "__main__":
    typer.run(main)

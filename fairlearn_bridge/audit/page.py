"""write_page: an audit as one self-contained HTML page, and its plots as PNG files."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from captum_region.io.files import write_text
from captum_region.page import DASH, render, write_pictures
from captum_region.plotting import png_source
from fairlearn_bridge.audit.figures import pictures_of
from fairlearn_bridge.audit.words import SIGNIFICANT, Table, class_name, findings, headline, p_value, points
from fairlearn_bridge.report.page import run_facts

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fairlearn_bridge.audit.result import DegradationAudit
    from fairlearn_bridge.audit.run import AuditRun

# Examples that the page shows of each group, groups of which it shows some, and degradations in a row.
_EXAMPLES, _GROUPS, _ACROSS = 2, 8, 12


@dataclass(frozen=True)
class Column:
    """A column of the table of degradations: of a measure of `DegradationAudit.table`, with its interval if it has one.

    Attributes
    ----------
    measure : str
    label : str
    description : str
    written : callable
        A number -> text.
    """

    measure: str
    label: str
    description: str
    written: Callable[[float], str]


def _number(places: int) -> Callable[[float], str]:
    return lambda value: f"{value:.{places}f}" if math.isfinite(value) else DASH


def _significant(value: float) -> str:
    """Return a number to three digits: the unit of features is any."""
    return f"{value:.3g}" if math.isfinite(value) else DASH


# A measure that an audit does not have, or that is missing for all degradations, gets no column.
COLUMNS = (
    Column("bpp", "bits per pixel", "Bits per pixel of the files, on average.", _number(3)),
    Column("bpp_content", "without container", "Bits per pixel of the content, without the container.", _number(3)),
    Column("psnr", "PSNR", "Peak signal-to-noise ratio in dB, the mean over images.", _number(1)),
    Column("psnr_range", "PSNR range", "The largest minus the smallest PSNR of the groups, in dB.", _number(2)),
    Column("ssim", "SSIM", "Structural similarity to the originals, of brightness, at most 1.", _number(3)),
    Column(
        "frechet",
        "Frechet",
        "Frechet distance between the features of originals and degraded images in the classifier's last hidden layer, "
        "the mean of the groups: 0 where nothing changes. It is not the FID, which is of another network.",
        _significant,
    ),
    Column("accuracy", "Accuracy", "Percentage of degraded images that are classified correctly.", points),
    Column("drop", "Drop", "Accuracy on originals minus accuracy after the degradation, in points.", points),
    Column("flips", "Flips", "Percentage of images whose predicted class changes.", points),
    Column("bias", "Bias", "The largest minus the smallest drop of the groups, in points.", points),
    Column(
        "p_holm",
        "corrected p",
        "Probability, if no group differs, of drops that differ so much, each measured by its own uncertainty: that of "
        "a small group counts less than its points say. Corrected by Holm's method.",
        p_value,
    ),
    Column("unrecoverable", "Unrecoverable", "The part of the bias that training on degraded images leaves.", points),
    Column("recoverable", "Recoverable", "The part of the bias that training on degraded images mends.", points),
)


def write_page(run: AuditRun, results: dict[str, Any], out: Path) -> None:
    """Write ``report.html`` and ``plots/*.png`` into a folder.

    Parameters
    ----------
    run : AuditRun
    results : dict
        Of `fairlearn_bridge.audit.results.results_of`.
    out : path
    """
    pictures = write_pictures(pictures_of(run), out / "plots")
    content = page_content(run, results)
    write_text(out / "report.html", render("fairlearn_bridge.audit", "audit.html.j2", pictures=pictures, **content))


def page_content(run: AuditRun, results: dict[str, Any]) -> dict[str, Any]:
    """Return what the template shows, without the figures."""
    table: Table = run.table
    columns = [column for column in COLUMNS if column.measure in table and table[column.measure].notna().any()]
    return {
        **run_facts(results),
        "counts": results["counts"],
        "classes": {str(name): class_name(run.config.target, name) for name in run.found.classes.tolist()},
        "headline": headline(run),
        "findings": findings(run),
        "confidence": f"{100 * run.found.confidence_level:g} %",
        "columns": columns,
        "rows": [_row(name, row, columns) for name, row in table.iterrows()],
        **_by_group(run),
        "examples": examples_of(run.found),
        "target": run.config.target,
        "grouped_by": ", ".join(run.config.groups),
        "images": {
            "Training images": results["images"]["train"],
            "Audited images": results["images"]["test"],
            "Height and width": " x ".join(map(str, results["image_size"])),
        },
        "limitations": limitations(run),
    }


def _row(name: Any, row: Any, columns: list[Column]) -> dict[str, Any]:
    """Return a degradation with a cell a column."""
    cells = []
    for column in columns:
        low, high = (row.get(f"{column.measure}_{end}", math.nan) for end in ("low", "high"))
        interval = f"[{column.written(low)}, {column.written(high)}]" if math.isfinite(low + high) else ""
        cells.append({"value": column.written(float(row[column.measure])), "interval": interval})
    is_biased = row["p_holm"] < SIGNIFICANT
    return {"name": name, "cells": cells, "worst": row["worst"] if row["bias"] > 0 else "", "biased": is_biased}


def _by_group(run: AuditRun) -> dict[str, Any]:
    """Return the groups, and for each degradation what each of them loses."""
    frame: Table = run.by_group
    table: Table = run.table
    groups = [str(name) for name in frame.index.unique("group")]
    rows = []
    for name in run.found.names:
        of_case, cells = frame.loc[name], []
        for group, row in of_case.iterrows():
            interval = f"[{points(row['drop_low'])}, {points(row['drop_high'])}]"
            is_worst = table.loc[name, "p_holm"] < SIGNIFICANT and group == table.loc[name, "worst"]
            psnr = f"{row['psnr']:.1f} dB" if math.isfinite(row["psnr"]) else ""
            cells.append({"value": points(row["drop"]), "interval": interval, "psnr": psnr, "worst": is_worst})
        rows.append({"name": name, "cells": cells})
    before = frame.loc[run.found.names[0]]
    originals = [{"accuracy": points(row["accuracy_before"]), "n": int(row["n"])} for _, row in before.iterrows()]
    return {"groups": groups, "group_rows": rows, "originals": originals}


def examples_of(found: DegradationAudit) -> dict[str, Any] | None:
    """Return originals and what became of them, as the page shows them; None where no images change."""
    changing = [name for name, outcome in found.outcomes.items() if not pd.isna(outcome.psnr).all()][:_ACROSS]
    if not changing or not len(found.original.examples):
        return None
    names = ["original", *changing]
    stacks = [found.original.examples, *(found.outcomes[name].examples for name in changing)]
    rows = []
    groups = pd.Series(found.groups[found._example_positions])
    ranks = groups.groupby(groups).cumcount()
    kept = groups.unique()[:_GROUPS]
    for position, (group, rank) in enumerate(zip(groups, ranks, strict=True)):
        if rank < _EXAMPLES and group in kept:
            sources = [png_source(stack[position]) for stack in stacks]
            rows.append({"group": group, "images": list(zip(names, sources, strict=True))})
    height, width = found.original.examples.shape[2:]
    return {"names": names, "rows": rows, "height": height, "width": width}


def limitations(run: AuditRun) -> list[str]:
    """Return what an audit does not say."""
    found = [
        "An audit is of one classifier, trained with one seed, and of the images at hand: another one may lose other "
        "decisions. The intervals cover the choice of audited images, not that of the training.",
        "The largest of several differences is hardly ever 0, and the interval of a bias allows for that in part: "
        "whether there is a bias, the corrected p says.",
        "Which group loses more is not why it does: groups differ in light, pose and age too, not only in what "
        "they are named for.",
    ]
    if run.synthetic:
        found.append(
            "The faces are synthetic: they show what an audit finds, not what happens to photographs of people."
        )
    if run.config.retrain:
        found.append(
            "The shares say what training can mend, not whose fault it is: a codec that was trained on one group can "
            "put all its harm into the recoverable share."
        )
    if run.config.amounts:
        statistics = "estimated anew on training images" if run.config.reestimate else "those of the unpruned network"
        found.append(f"Pruned networks were not trained again; their batch statistics are {statistics}.")
    if run.config.codecs:
        found.append(
            "Of small images' files the container is most: compare rates of formats at the size that you use, and with "
            "and without it."
        )
    return found

"""write_page: a mitigation as one self-contained HTML page, and its plots as PNG files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from captum_region.io.files import write_text
from captum_region.page import render, write_pictures
from fairlearn_bridge import metrics
from fairlearn_bridge.mitigation.measures import CELL, CHOSEN, LIKELIEST, sentences
from fairlearn_bridge.mitigation.pictures import (
    map_pictures,
    result_pictures,
    training_pictures,
)
from fairlearn_bridge.mitigation.words import (
    change_of,
    findings,
    headline,
    limitations,
    names_of,
    rows_of,
    shown_name,
    shown_number,
    value_of,
)
from fairlearn_bridge.plotting import Interval
from fairlearn_bridge.report.page import run_facts
from fairlearn_bridge.report.words import bracket

if TYPE_CHECKING:
    from pathlib import Path

    from fairlearn_bridge.mitigation.running import Mitigation

# How the page calls a decision, where there are two.
_HEADINGS = {LIKELIEST: "At the threshold 0.5", CHOSEN: "At the threshold chosen on validation images"}


def write_page(found: Mitigation, results: dict[str, Any], out: Path) -> None:
    """Write ``report.html`` and ``plots/*.png`` into a folder.

    Parameters
    ----------
    found : Mitigation
    results : dict
        Of `fairlearn_bridge.mitigation.results.results_of`.
    out : path
    """
    sections = {"results": result_pictures, "maps": map_pictures, "trainings": training_pictures}
    pictures = {section: write_pictures(of_section(found), out / "plots") for section, of_section in sections.items()}
    package = "fairlearn_bridge.mitigation"
    page = render(package, "mitigation.html.j2", pictures=pictures, **page_content(found, results))
    write_text(out / "report.html", page)


def page_content(found: Mitigation, results: dict[str, Any]) -> dict[str, Any]:
    """Return what the template shows, without the figures."""
    measures = [str(name) for name in found.table["measure"].unique()]
    texts = sentences(found.config, measures)
    sets = {"train": "training", "validation": "validation", "test": "test"}
    counts = {str(name): row for name, row in found.counts.iterrows()}
    return {
        **run_facts(results),
        "headline": headline(found),
        "findings": findings(found),
        "measures": [{"label": metrics.label(name, {}), "description": texts[name]} for name in measures],
        "tables": [_table(found, decision, measures) for decision in found.table["decision"].unique()],
        "mitigators": [
            {"name": shown_name(name), "kind": arm.kind, "description": arm.description}
            for name, arm in found.trained.arms.items()
        ],
        "not_run": {row["mitigator"]: row["reason"] for row in results["trainings"] if row["status"] != "done"},
        "cells": _cells(found),
        "columns": [shown_name(name) for name in names_of(found)],
        "counts": [(sets[name], [f"{count:,}" for count in row], f"{row.sum():,}") for name, row in counts.items()],
        "count_columns": list(found.counts.columns),
        "split_off": [sets[name] for name in found.data.split_off],
        "limitations": limitations(found),
    }


def _table(found: Mitigation, decision: str, measures: list[str]) -> dict[str, Any]:
    """Return a row a mitigator with a cell a measure, for one decision."""
    by_measure = {measure: rows_of(found, measure, decision) for measure in measures}
    rows = []
    for name in names_of(found):
        cells = []
        for measure in measures:
            row = by_measure[measure].get(name)
            if row is None:
                cells.append({"value": "", "interval": "", "change": ""})
                continue
            change = change_of(row)
            difference = f"{shown_number(change.mean, signed=True)} {bracket(change, signed=True)}".strip()
            cells.append(
                {
                    "value": shown_number(row["value"]),
                    "interval": bracket(value_of(row)),
                    "change": "" if name == "original" else difference,
                }
            )
        threshold = found.thresholds.get(name) if decision == CHOSEN else None
        is_kept = decision == found.decision and name == found.config.scheme
        rows.append({"name": shown_name(name), "threshold": threshold, "kept": is_kept, "cells": cells})
    return {"heading": _HEADINGS[decision] if found.thresholds else "Comparison", "rows": rows}


def _cells(found: Mitigation) -> list[dict[str, Any]]:
    """Return a row a group: of each class, of each value of a spurious attribute, of each cell."""
    groups = found.groups[found.groups["decision"] == found.decision]
    names, rows = names_of(found), []
    for (by, group), of_group in groups.groupby(["by", "group"], sort=False):
        of_name = {row["mitigator"]: row for row in of_group.to_dict("records")}
        values = [
            {
                "value": shown_number(of_name[name]["accuracy"]),
                "interval": bracket(Interval(*(of_name[name][end] for end in ("accuracy", "low", "high")))),
            }
            for name in names
        ]
        by_words = "cell" if by == CELL else str(by)
        rows.append({"by": by_words, "group": group, "images": int(of_group["images"].iloc[0]), "cells": values})
    return rows

"""The page of a comparison of first layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from captum_region.channels.shares import channel_names
from captum_region.io.files import write_text
from captum_region.page import number, render, shown, write_pictures
from captum_region.slices.pictures import pictures
from captum_region.slices.words import findings, headline

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from captum_region.slices.results import FirstLayerComparison

TITLE = "First layers of a 2D+ network"


def draw_page(found: FirstLayerComparison, out: Path, settings: Mapping[str, Any], made: Mapping[str, Any]) -> None:
    """Write plots/*.png and report.html into a folder."""
    drawn = {entry["name"]: entry for entry in write_pictures(pictures(found), out / "plots")}
    page = render(
        "captum_region.slices",
        "slices.html.j2",
        title=TITLE,
        headline=headline(found),
        findings=findings(found),
        columns=_columns(found),
        rows=_rows(found),
        arms=found.arms,
        reference=found.reference,
        seeds=found.seeds,
        pictures=drawn,
        settings={name.replace("_", " "): shown(value) for name, value in settings.items()},
        versions=made["versions"] | ({"commit": found.git} if found.git else {}),
        created=made["created"],
        command=made["command"],
    )
    write_text(out / "report.html", page)


def _columns(found: FirstLayerComparison) -> list[tuple[str, str]]:
    """Return measures and their headings."""
    names = channel_names(found.settings["window"])
    pairs = ["asymmetry", *(f"asymmetry_{pair}" for pair in range(2, len(names) // 2 + 1))]
    labels = {pair: "Asymmetry" if len(pairs) == 1 else f"Asymmetry ±{place}" for place, pair in enumerate(pairs, 1)}
    stages = [
        (f"{pair}_{stage}", f"{label} {stage}") for pair, label in labels.items() for stage in ("before", "after")
    ]
    shares = [(f"share_{name}_after", f"Share of {name}") for name in names]
    return [
        *[("dice", "Dice"), ("iou", "IoU"), ("auc", "Pixel AUC")],
        *stages,
        *shares,
        ("swap_change_after", "Swap test: change"),
        ("kernel_asymmetry_after", "Asymmetry of kernels"),
    ]


def _rows(found: FirstLayerComparison) -> list[tuple[str, list[dict[str, str]]]]:
    """Return for each arm the cells of its row."""
    summary: Any = found.summary().set_index(["measure", "arm"])
    rows = []
    for arm in found.arms:
        cells = []
        for measure, _ in _columns(found):
            row = summary.loc[(measure, arm)]
            signed = "asymmetry" in measure
            spread = f"sd {number(row['std_seeds'])}" if row["std_seeds"] == row["std_seeds"] else ""
            cells.append({"mean": number(row["mean"], signed=signed), "spread": spread})
        rows.append((arm, cells))
    return rows

"""What a mitigation found, in words."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from captum_region.page import number
from fairlearn_bridge.metrics import FEW
from fairlearn_bridge.mitigation.measures import CELL, CHOSEN, LIKELIEST
from fairlearn_bridge.plotting import BASELINE, Interval
from fairlearn_bridge.report.words import change, with_interval

if TYPE_CHECKING:
    import pandas as pd

    from fairlearn_bridge.mitigation.running import Mitigation

# For each measure a heading and what it says.
_FINDINGS = {
    "accuracy": (
        "Overall accuracy",
        "Of all test images, {one} classifies {after} correctly, the ERM baseline {before}",
    ),
    "crossed_auc": (
        "Beyond a moved threshold",
        "Among images whose {confounder} goes against the bias, the AUC, which no threshold changes, is {after}, the "
        "ERM baseline's {before}",
    ),
    "flip_rate": (
        "Is the spurious attribute still used?",
        "When only {confounder} is toggled, {after} of the predictions change, of the ERM baseline {before}",
    ),
}


def shown_name(name: str) -> str:
    """Return what the page calls a mitigator."""
    return BASELINE if name == "original" else name


def names_of(found: Mitigation) -> list[str]:
    """Return the mitigators that were measured, in order."""
    return [str(name) for name in found.table["mitigator"].unique()]


def rows_of(found: Mitigation, measure: str, decision: str) -> dict[str, dict[Any, Any]]:
    """Return the rows of a measure and decision, by mitigator; empty if it was not measured."""
    table = found.table
    chosen = table[(table["measure"] == measure) & (table["decision"] == decision)]
    return {str(row["mitigator"]): row for row in chosen.to_dict("records")}


def value_of(row: dict[Any, Any]) -> Interval:
    """Return a row's value and its interval."""
    return Interval(row["value"], row["low"], row["high"])


def change_of(row: dict[Any, Any]) -> Interval:
    """Return a row's difference from the ERM baseline and its interval."""
    return Interval(row["difference"], row["difference_low"], row["difference_high"])


def headline(found: Mitigation) -> str:
    """Return whether the worst group is served better, by how much, and whether there are images enough to say so."""
    name, rows = found.config.scheme, rows_of(found, "worst_cell", found.decision)
    row, changed = rows[name], change_of(rows[name])
    values = f"{with_interval(value_of(row))}, against {with_interval(value_of(rows['original']))} of the {BASELINE}"
    how = " with its threshold chosen in the same way" if found.decision == CHOSEN else ""
    difference = with_interval(changed, signed=True)
    cells = {one: cells_of_one(found, one, found.decision) for one in ("original", name)}
    sizes = {one: int(of_one.iloc[int(of_one["accuracy"].argmin())]["images"]) for one, of_one in cells.items()}
    fewest = min(sizes, key=lambda one: sizes[one])
    if (images := sizes[fewest]) < FEW:
        return (
            f"Whether {name} raises the worst-group accuracy cannot be told from these images: {values}{how}, a "
            f"difference of {difference}, but the worst group of {'the ' * (fewest == 'original')}"
            f"{shown_name(fewest)} has only {images} test image{'s' * (images > 1)}."
        )
    if changed.low > 0:
        text = f"{name} raises the worst-group accuracy to {values}{how}: {difference}."
    elif changed.high < 0:
        text = f"{name} lowers the worst-group accuracy to {values}{how}: {difference}. Do not use it here."
    else:
        text = f"{name} does not clearly change the worst-group accuracy: {values}{how}, a difference of {difference}."
    return text


def findings(found: Mitigation) -> list[tuple[str, str]]:
    """Return what is behind the headline: a heading and its sentences each."""
    one, decision = found.config.scheme, found.decision
    points = [("Where it fails", worst_of(found, one, decision))]
    if decision == CHOSEN:
        before = rows_of(found, "worst_cell", LIKELIEST)
        points.append(
            (
                "At the threshold 0.5",
                f"The worst-group accuracy of {one} is {with_interval(value_of(before[one]))}, of the {BASELINE} "
                f"{with_interval(value_of(before['original']))}: {change(change_of(before[one]))}. On validation "
                f"images the threshold {found.thresholds[one]:.3f} was chosen, for the {BASELINE} "
                f"{found.thresholds['original']:.3f}.",
            )
        )
    for measure in found.table["measure"].unique():
        of, _, attribute = measure.rstrip("]").partition("[")
        rows = rows_of(found, measure, decision)
        if of in _FINDINGS and one in rows:
            heading, sentence = _FINDINGS[of]
            values = {"after": with_interval(value_of(rows[one])), "before": with_interval(value_of(rows["original"]))}
            text = sentence.format(one=one, confounder=attribute or found.config.confounder, **values)
            points.append((heading, f"{text}: {change(change_of(rows[one]))}."))
    return points


def worst_of(found: Mitigation, name: str, decision: str) -> str:
    """Return in a sentence which cell a mitigator serves worst and best."""
    cells = cells_of_one(found, name, decision)
    worst, best = (cells.iloc[int(at)] for at in (cells["accuracy"].argmin(), cells["accuracy"].argmax()))
    return (
        f"It is right least often for {worst['group']}, in {_of_cell(worst)}, and most often for {best['group']}, in "
        f"{_of_cell(best)}."
    )


def cells_of_one(found: Mitigation, name: str, decision: str) -> pd.DataFrame:
    """Return the accuracy of a mitigator in each cell."""
    groups = found.groups
    chosen = (groups["mitigator"] == name) & (groups["decision"] == decision) & (groups["by"] == CELL)
    return groups[chosen].reset_index(drop=True)


def _of_cell(row: Any) -> str:
    value = with_interval(Interval(row["accuracy"], row["low"], row["high"]))
    return f"{value} of {row['images']} images"


def limitations(found: Mitigation) -> list[str]:
    """Return what is to be kept in mind."""
    return [
        *found.notes,
        "The intervals cover the choice of test images. Each classifier was trained once: another seed gives another "
        "one, and differences of a few hundredths may be chance.",
        f"The measures hold for images as those of the test set, and for {found.config.confounder}: a shortcut that "
        "nobody labelled may remain.",
    ]


def shown_number(value: float, *, signed: bool = False) -> str:
    """Return a value as a table shows it; nothing where it is missing."""
    return number(value, signed=signed) if math.isfinite(value) else ""

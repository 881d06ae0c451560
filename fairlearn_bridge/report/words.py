"""The numbers of a run in words: what was biased, what a scheme changed, how sure that is."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from fairlearn_bridge.metrics import is_signed
from fairlearn_bridge.plotting import Interval

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fairlearn_bridge.report.run import Run

DASH = "–"  # noqa: RUF001 - what a table shows where there is no value


def number(value: float, *, signed: bool = False) -> str:
    """Return a value to three places, with a true minus sign, and a dash for none.

    Examples
    --------
    >>> number(0.51), number(0.26, signed=True), number(float("nan")) == DASH
    ('0.510', '+0.260', True)
    """
    if not math.isfinite(value):
        return DASH
    # Adding 0 turns -0.0 into 0.0.
    return f"{round(value, 3) + 0.0:{'+' if signed else ''}.3f}".replace("-", "\N{MINUS SIGN}")


def listed(texts: Sequence[str]) -> str:
    """Return texts as one.

    Examples
    --------
    >>> listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c"])
    ('a', 'a and b', 'a, b and c')
    """
    return " and ".join(filter(None, [", ".join(texts[:-1]), *texts[-1:]]))


def bracket(value: Interval, *, signed: bool = False) -> str:
    """Return an interval as text, empty where there is none."""
    if not (math.isfinite(value.low) and math.isfinite(value.high)):
        return ""
    return f"[{number(value.low, signed=signed)}, {number(value.high, signed=signed)}]"


def with_interval(value: Interval, *, signed: bool = False) -> str:
    """Return a value and its interval as text."""
    return f"{number(value.mean, signed=signed)} {bracket(value, signed=signed)}".rstrip()


def compared(value: Interval, other: Interval) -> str:
    """Return in words whether two intervals overlap."""
    if not (bracket(value) and bracket(other)):
        return "no intervals"
    return "intervals apart" if value.low > other.high or value.high < other.low else "intervals overlap"


def change(before: Interval, after: Interval, *, signed: bool = False) -> str:
    """Return in words how a value changed."""
    return (
        f"from {with_interval(before, signed=signed)} to {with_interval(after, signed=signed)} "
        f"({_difference(before, after)})"
    )


def _difference(before: Interval, after: Interval) -> str:
    return f"{number(after.mean - before.mean, signed=True)}, {compared(after, before)}"


def best_scheme(run: Run) -> str | None:
    """Return the scheme with the highest accuracy of the worst cell."""
    values = run.values("worst_cell")
    schemes = [name for name in run.of_kind("scheme") if name in values]
    return max(schemes, key=lambda name: values[name].mean, default=None)


def headline(run: Run) -> str:
    """Return the answer in one sentence: which scheme raised the worst cell, by how much, and past which controls."""
    values, best = run.values("worst_cell"), best_scheme(run)
    original = values.get("original")
    if best is None:
        return "This run cannot say whether a scheme helped: no scheme has a worst-cell accuracy."
    if original is None:
        return (
            f"This run cannot say whether a scheme helped, the original has no worst-cell accuracy; the best scheme, "
            f"{best}, reaches {with_interval(values[best])}."
        )
    after = f"{with_interval(values[best])} ({_difference(original, values[best])})"
    count = len(run.of_kind("scheme"))
    if not _higher(values[best], original):
        subject = f"the best of {count}, {best}," if count > 1 else best
        return f"{_opening(run, original)}; no scheme helped: {subject} is at {after}."
    clear = compared(values[best], original) == "intervals apart"
    most = f", the most of {count} schemes" if count > 1 else ""
    changed = f"{best} raised it to {after}" if clear else f"no scheme clearly helped: {best} is at {after}"
    return f"{_opening(run, original)}; {changed}{most}; {_past_controls(run, best)}."


def _higher(value: Interval, other: Interval) -> bool:
    """Return whether a value is the higher one, as far as the page shows it."""
    return value.mean > other.mean and number(value.mean) != number(other.mean)


def _opening(run: Run, original: Interval) -> str:
    reached = f"the original reaches a worst-cell accuracy of {with_interval(original)}"
    shares = [f"{100 * carrying / images:.0f} % of {name}" for name, carrying, images in _carrying(run)]
    if not shares:
        return reached.capitalize()
    return f"Trained where {listed(shares)} are {run.results['confounder_names'].get('True', 'with it')}, {reached}"


def _past_controls(run: Run, best: str) -> str:
    values = run.values("worst_cell")
    controls = [name for name in run.of_kind("control") if name in values]
    if not controls:
        return "there is no control to compare with"
    standing: dict[str, list[str]] = {"above the control": [], "above, though intervals overlap,": [], "not above": []}
    for name in controls:
        apart = compared(values[best], values[name]) == "intervals apart"
        above = "above the control" if apart else "above, though intervals overlap,"
        standing[above if _higher(values[best], values[name]) else "not above"].append(f"“{name}”")
    if len(controls) == len(standing["above the control"]) > 1:
        return f"it is above {'both' if len(controls) == 2 else f'all {len(controls)}'} controls"
    clauses = [
        f"{place}{'s' if place.endswith('control') and len(names) > 1 else ''} {listed(names)}"
        for place, names in standing.items()
        if names
    ]
    return f"it is {listed(clauses)}"


def findings(run: Run) -> list[tuple[str, str]]:
    """Return what stands behind the headline: a heading and its sentences each."""
    points = [("What was biased", " ".join(part for part in (_bias_in_data(run), _bias_of_original(run)) if part))]
    best = best_scheme(run)
    for heading, measure, sentence in (
        (
            "Beyond a moved threshold",
            "crossed_auc",
            "The AUC among images whose {confounder} goes against the bias went, with {best}, {change}.",
        ),
        (
            "Does the confounder still decide?",
            "flip_rate",
            "The share of predictions that change when only {confounder} is toggled went, with {best}, {change}.",
        ),
        ("Overall accuracy", "accuracy", "Accuracy over all test images went, with {best}, {change}."),
        ("The gap", "gap", "Accuracy for {first} minus that for {second} went, with {best}, {change}."),
    ):
        values = run.values(measure)
        if best in values and "original" in values:
            words = change(values["original"], values[best], signed=is_signed(measure))
            first, second = (run.results["target_names"].get(group, group) for group in ("False", "True"))
            text = sentence.format(
                confounder=run.results["confounder"], best=best, change=words, first=first, second=second
            )
            points.append((heading, text))
    worst = run.values("worst_cell")
    controls = [f"{with_interval(worst[name])} ({name})" for name in run.of_kind("control") if name in worst]
    if controls:
        points.append(("The controls", f"Accuracy of the worst cell: {listed(controls)}."))
    balanced = worst.get("balanced")
    if balanced is not None:
        text = f"Trained on a balanced set instead, the worst cell is at {with_interval(balanced)}."
        points.append(("What better data give", text))
    count = len(run.of_kind("scheme"))
    if count > 1:
        text = f"{best} was picked as the best of {count} schemes on the same test images, which flatters it a little."
        points.append(("Keep in mind", text))
    return [(heading, text) for heading, text in points if text]


def _bias_in_data(run: Run) -> str:
    shares = [f"{carrying:,.0f} of {images:,.0f} images of {name}" for name, carrying, images in _carrying(run)]
    if not shares:
        return ""
    return f"In training, {listed(shares)} are {run.results['confounder_names'].get('True', 'with it')}."


def _carrying(run: Run) -> list[tuple[str, float, float]]:
    """Return each class's name, how many of its biased training images carry the confounder, and how many it has."""
    biased = run.counts[run.counts["set"] == "biased"]
    rows = []
    for group, name in run.results["target_names"].items():
        of_group = biased[biased["target"].astype(str) == group]
        carrying = of_group["images"][of_group["confounder"].astype(str) == "True"].sum()
        if of_group["images"].sum():
            rows.append((name, float(carrying), float(of_group["images"].sum())))
    return rows


def _bias_of_original(run: Run) -> str:
    gap = run.values("gap").get("original")
    parts = []
    if gap is not None:
        accuracies = [
            f"{with_interval(value['original'])} for {name}"
            for group, name in run.results["target_names"].items()
            if "original" in (value := run.values(f"accuracy[{group}]"))
        ]
        reached = f"an accuracy of {listed(accuracies)}: " if accuracies else ""
        parts.append(f"The original has {reached}a gap of {with_interval(gap, signed=True)}.")
    cell = weakest_cell(run, "original")
    if cell is not None:
        parts.append(f"Its weakest cell is {cell[0]} at {with_interval(cell[1])}.")
    return " ".join(parts)


def weakest_cell(run: Run, mitigator: str) -> tuple[str, Interval] | None:
    """Return the name and accuracy of a mitigator's cell with the least."""
    cells = run.cells[(run.cells["mitigator"] == mitigator) & run.cells["accuracy"].notna()]
    if cells.empty:
        return None
    worst = cells.sort_values("accuracy").iloc[0].to_dict()
    return run.cell_name(worst["group"], worst["confounder"]), Interval(worst["accuracy"], worst["low"], worst["high"])

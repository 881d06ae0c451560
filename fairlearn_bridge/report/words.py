"""The numbers of a run in words: what was biased, what a scheme changed, how sure that is."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from fairlearn_bridge.report.figures import Interval

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
        f"({number(after.mean - before.mean, signed=True)}, {compared(after, before)})"
    )


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
    count = len(run.of_kind("scheme"))
    if number(values[best].mean) == number(original.mean) or values[best].mean < original.mean:
        subject = f"the best of {count}, {best}, is" if count > 1 else f"{best} is"
        return (
            f"No scheme helped: {subject} at a worst-cell accuracy of {with_interval(values[best])}, "
            f"against {with_interval(original)} of the original with nothing done."
        )
    clear = compared(values[best], original) == "intervals apart"
    opening = f"{best} raised" if clear else f"No clear help: {best} raised"
    most = f" the most of {count} schemes" if count > 1 else ""
    return f"{opening} worst-cell accuracy{most}, {change(original, values[best])}{_past_controls(run, best)}."


def _past_controls(run: Run, best: str) -> str:
    values = run.values("worst_cell")
    standing: dict[str, list[str]] = {"above": [], "above, though intervals overlap,": [], "not above": []}
    for name in run.of_kind("control"):
        if name not in values:
            continue
        if number(values[best].mean) == number(values[name].mean) or values[best].mean < values[name].mean:
            place = "not above"
        else:
            clear = compared(values[best], values[name]) == "intervals apart"
            place = "above" if clear else "above, though intervals overlap,"
        standing[place].append(f"“{name}” at {with_interval(values[name])}")
    clauses = [
        f"{place} the control{'s' if len(names) > 1 else ''} {' and '.join(names)}"
        for place, names in standing.items()
        if names
    ]
    if not clauses:
        return "; there is no control to compare with"
    beaten = [clause for clause in clauses if not clause.startswith("not")]
    refuted = [clause for clause in clauses if clause.startswith("not")]
    return "; it is " + " but ".join(part for part in (" and ".join(beaten), *refuted) if part)


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
            words = change(values["original"], values[best], signed=measure == "gap")
            first, second = (run.results["target_names"].get(group, group) for group in ("False", "True"))
            text = sentence.format(
                confounder=run.results["confounder"], best=best, change=words, first=first, second=second
            )
            points.append((heading, text))
    balanced = run.values("worst_cell").get("balanced")
    if balanced is not None:
        text = f"Trained on a balanced set instead, the worst cell is at {with_interval(balanced)}."
        points.append(("What better data give", text))
    count = len(run.of_kind("scheme"))
    if count > 1:
        text = f"{best} was picked as the best of {count} schemes on the same test images, which flatters it a little."
        points.append(("Keep in mind", text))
    return [(heading, text) for heading, text in points if text]


def _bias_in_data(run: Run) -> str:
    biased = run.counts[run.counts["set"] == "biased"]
    shares = []
    for group, name in run.results["target_names"].items():
        of_group = biased[biased["target"].astype(str) == group]
        carrying = of_group[of_group["confounder"].astype(str) == "True"]
        if len(of_group):
            shares.append(f"{carrying['images'].sum():,.0f} of {of_group['images'].sum():,.0f} images of {name}")
    if not shares:
        return ""
    return f"In training, {' and '.join(shares)} are {run.results['confounder_names'].get('True', 'with it')}."


def _bias_of_original(run: Run) -> str:
    gap = run.values("gap").get("original")
    parts = []
    if gap is not None:
        accuracies = [
            f"{with_interval(value['original'])} for {name}"
            for group, name in run.results["target_names"].items()
            if "original" in (value := run.values(f"accuracy[{group}]"))
        ]
        reached = f"an accuracy of {' and '.join(accuracies)}: " if accuracies else ""
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

"""The numbers of a run in words: what was biased, what a scheme changed, how certain that is."""

import math

from captum_region.page import listed, number
from fairlearn_bridge.metrics import FEW, is_signed
from fairlearn_bridge.plotting import BASELINE, Interval
from fairlearn_bridge.report.run import Run


def bracket(value: Interval, *, signed: bool = False) -> str:
    """Return an interval as text, empty where there is none."""
    if not (math.isfinite(value.low) and math.isfinite(value.high)):
        return ""
    return f"[{number(value.low, signed=signed)}, {number(value.high, signed=signed)}]"


def with_interval(value: Interval, *, signed: bool = False) -> str:
    """Return a value and its interval as text."""
    return f"{number(value.mean, signed=signed)} {bracket(value, signed=signed)}".rstrip()


def is_clear(difference: Interval) -> bool:
    """Return whether an interval is on one side of 0."""
    return difference.low > 0 or difference.high < 0


def change(difference: Interval) -> str:
    """Return a difference in words, and whether it is clear."""
    return f"{with_interval(difference, signed=True)}{'' if is_clear(difference) else ', which may be chance'}"


def headline(run: Run) -> str:
    """Return the answer: which scheme raises the worst-group accuracy, by how much, and whether above the controls."""
    values, best = run.values("worst_cell"), best_scheme(run)
    if best is None:
        return "This run cannot say whether a scheme helps: no scheme has a worst-group accuracy."
    after, baseline = with_interval(values[best]), values.get(BASELINE)
    if baseline is None:
        return (
            "This run cannot say whether a scheme helps: the ERM baseline has no worst-group accuracy. The best "
            f"scheme, {best}, reaches {after}."
        )
    opening = f"{_bias(run)} The ERM baseline reaches a worst-group accuracy of {with_interval(baseline)}.".lstrip()
    count = len(run.of_kind("scheme"))
    subject = f"{best}, the best of {count} schemes," if count > 1 else best
    difference = run.difference(best, BASELINE, "worst_cell")
    reached = f"{after} ({with_interval(difference, signed=True)})"
    images = run.counts["images"][run.counts["set"] == "test"].min()
    if images < FEW:
        few = f"a cell has only {images:.0f} test image{'' if images == 1 else 's'}"
        return f"{opening} Whether a scheme helps cannot be told: {subject} reaches {reached}, but {few}."
    if not _is_higher(values[best], baseline):
        return f"{opening} No scheme helps: {subject} reaches {reached}."
    if not is_clear(difference):
        return f"{opening} No scheme clearly helps: {subject} reaches {reached}. {_against_controls(run, best)}"
    return f"{opening} {subject} raises it to {reached}. {_against_controls(run, best)}"


def best_scheme(run: Run) -> str | None:
    """Return the scheme with the highest worst-group accuracy."""
    values = run.values("worst_cell")
    schemes = [name for name in run.of_kind("scheme") if name in values]
    return max(schemes, key=lambda name: values[name].mean, default=None)


def _is_higher(value: Interval, other: Interval) -> bool:
    """Return whether a value is the higher one, as far as the page shows it."""
    return value.mean > other.mean and number(value.mean) != number(other.mean)


def _against_controls(run: Run, best: str) -> str:
    values = run.values("worst_cell")
    verdicts = {}
    for name in run.of_kind("control"):
        if name in values:
            apart = is_clear(run.difference(best, name, "worst_cell"))
            above = "above" if apart else "above, which may be chance,"
            verdicts[name] = above if _is_higher(values[best], values[name]) else "not above"
    if not verdicts:
        return "There is no control to compare with."
    if set(verdicts.values()) == {"above"}:
        return "It is above every control."
    return f"It is {listed([f'{verdict} the control “{name}”' for name, verdict in verdicts.items()])}."


# For each measure a heading, and what it says of the ERM baseline and the best scheme.
SENTENCES = {
    "accuracy": ("Overall accuracy", "Accuracy over all test images"),
    "gap": ("Gap between groups", "Accuracy for {first} minus that for {second}"),
    "crossed_auc": (
        "Beyond a moved threshold",
        "The AUC among bias-conflicting images, whose {confounder} goes against the bias,",
    ),
    "flip_rate": (
        "Is the spurious attribute still used?",
        "The share of predictions that change when only {confounder} is toggled",
    ),
}


def findings(run: Run) -> list[tuple[str, str]]:
    """Return what is behind the headline: a heading and its sentences each."""
    points = [("Bias without mitigation", _bias_of_baseline(run))]
    best, target_names = best_scheme(run), run.results["target_names"]
    names = {key: target_names.get(group, group) for key, group in (("first", "False"), ("second", "True"))}
    for measure, (heading, subject) in SENTENCES.items():
        values = run.values(measure)
        if best in values and BASELINE in values:
            before, after = (with_interval(values[name], signed=is_signed(measure)) for name in (BASELINE, best))
            subject = subject.format(confounder=run.results["confounder"], **names)
            changed = change(run.difference(best, BASELINE, measure))
            points.append((heading, f"{subject} is {before} for the ERM baseline and {after} with {best} ({changed})."))
    worst = run.values("worst_cell")
    for heading, kind, sentence in (
        ("Controls", "control", "Worst-group accuracy of the controls: {}."),
        ("With balanced data", "reference", "Worst-group accuracy when trained on a balanced set instead: {}."),
    ):
        others = [name for name in run.of_kind(kind) if name in worst and name != BASELINE]
        if others:
            values_of = [f"{with_interval(worst[name])} ({name})" for name in others]
            points.append((heading, sentence.format(listed(values_of))))
    if len(run.of_kind("scheme")) > 1:
        text = f"{best} is the best of several schemes on these same test images, which flatters it a little."
        points.append(("Keep in mind", text))
    return [(heading, text) for heading, text in points if text]


def _bias(run: Run) -> str:
    """Return in a sentence what share of each class's biased training images has the spurious attribute."""
    biased = run.counts[run.counts["set"] == "biased"]
    shares = []
    for group, name in run.results["target_names"].items():
        of_group = biased[biased["target"].astype(str) == group]
        having = of_group["images"][of_group["confounder"].astype(str) == "True"].sum()
        if total := of_group["images"].sum():
            shares.append(f"{100 * having / total:.0f} % of {name}")
    if not shares:
        return ""
    return f"In training, {listed(shares)} are {run.results['confounder_names'].get('True', 'with it')}."


def _bias_of_baseline(run: Run) -> str:
    parts = []
    if gap := run.values("gap").get(BASELINE):
        accuracies = [
            f"{with_interval(value)} for {name}"
            for group, name in run.results["target_names"].items()
            if (value := run.values(f"accuracy[{group}]").get(BASELINE))
        ]
        reached = f"an accuracy of {listed(accuracies)}: " if accuracies else ""
        parts.append(f"The ERM baseline has {reached}a gap of {with_interval(gap, signed=True)}.")
    if worst := weakest_cell(run, BASELINE):
        parts.append(f"Its worst group is {worst[0]}, at {with_interval(worst[1])}.")
    return " ".join(parts)


def weakest_cell(run: Run, mitigator: str) -> tuple[str, Interval] | None:
    """Return the name and accuracy of a mitigator's cell with the lowest."""
    cells = run.cells[(run.cells["mitigator"] == mitigator) & run.cells["accuracy"].notna()]
    if cells.empty:
        return None
    worst = cells.nsmallest(1, "accuracy").to_dict("records")[0]
    return run.cell_name(worst["group"], worst["confounder"]), Interval(worst["accuracy"], worst["low"], worst["high"])

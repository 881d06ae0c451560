"""write_report: a run folder's results and maps as one HTML page that needs nothing beside it."""

from __future__ import annotations

import base64
import io
import json
import math
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
import pandas as pd
from matplotlib import rc_context

from captum_region.files import replacing
from fairlearn_bridge.report import figures
from fairlearn_bridge.report.figures import Interval

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence

    from matplotlib.figure import Figure
    from numpy.typing import NDArray

FORMAT = 1
DASH = "–"  # noqa: RUF001 - what a table shows where there is no value
LARGEST_IMAGE = 1_400_000  # bytes; only the strip of examples comes near, and the page stays below 3 MB
SHOWN_SKIPPED = 20

# Which value of a measure is the best: the largest, the smallest, or the one next to 0.
LARGEST, SMALLEST, NEXT_TO_ZERO = "largest", "smallest", "next to 0"
BEST = {
    "accuracy": LARGEST,
    "gap": NEXT_TO_ZERO,
    "worst_cell": LARGEST,
    "confounder_gap": SMALLEST,
    "auc": LARGEST,
    "crossed_auc": LARGEST,
    "flip_rate": SMALLEST,
}
LABELS = {
    "worst_cell": "worst cell",
    "confounder_gap": "confounder gap",
    "auc": "AUC",
    "crossed_auc": "crossed AUC",
    "flip_rate": "flip rate",
}
CONTENT: dict[str, type | tuple[type, ...]] = {
    "title": str,
    "command": str,
    "created": str,
    "versions": dict,
    "config": dict,
    "target": str,
    "confounder": str,
    "target_names": dict,
    "confounder_names": dict,
    "counts": list,
    "seconds": dict,
    "region_classifier": dict,
    "mitigators": list,
    "table": list,
    "measures": dict,
    "cells": list,
    "trainings": list,
    "skipped": list,
    "caveats": list,
    "random_states": list,
    "confidence_level": (int, float),
}


@dataclass(frozen=True)
class Run:
    """What a run folder holds: `results` is results.json, the tables are its lists, `maps` is maps.npz."""

    results: dict[str, Any]
    table: pd.DataFrame
    mitigators: pd.DataFrame
    cells: pd.DataFrame
    counts: pd.DataFrame
    trainings: pd.DataFrame
    history: pd.DataFrame
    maps: dict[str, NDArray[Any]]

    @property
    def names(self) -> list[str]:
        """The mitigators, in order."""
        return [str(name) for name in self.mitigators["name"]]

    def of_kind(self, kind: str) -> list[str]:
        """Return the mitigators of a kind."""
        return [str(name) for name in self.mitigators["name"][self.mitigators["kind"] == kind]]

    def values(self, measure: str) -> dict[str, Interval]:
        """Return a measure's finite values by mitigator."""
        rows = figures.intervals(self.table[self.table["measure"] == measure])
        return {name: value for name, value in rows.items() if math.isfinite(value.mean)}

    @property
    def measures(self) -> list[str]:
        """The measures, in the order that they are explained in, then those that are not."""
        there = dict.fromkeys(self.table["measure"])
        return [name for name in self.results["measures"] if name in there] + [
            str(name) for name in there if name not in self.results["measures"]
        ]

    def label(self, measure: str) -> str:
        """Return what the page calls a measure."""
        if measure.startswith("accuracy["):
            group = measure.removeprefix("accuracy[").removesuffix("]")
            return f"accuracy, {self.results['target_names'].get(group, group)}"
        return LABELS.get(measure, measure)

    def cell_name(self, group: object, confounder: object) -> str:
        """Return what the page calls a cell."""
        names = self.results["target_names"], self.results["confounder_names"]
        return ", ".join(str(of.get(str(value), value)) for of, value in zip(names, (group, confounder), strict=True))


@dataclass(frozen=True)
class Picture:
    """A figure of the page, with its words."""

    name: str
    figure: Figure
    alt: str
    caption: str


def write_report(folder: str | os.PathLike[str]) -> Path:
    """Write ``report.html`` and ``plots/*.png`` into a run folder, from its ``results.json`` and ``maps.npz``.

    The page holds its figures and styles and asks for nothing else. Files that are there are replaced.

    Parameters
    ----------
    folder : path
        As `fairlearn_bridge.experiment.run_experiment` makes it.

    Returns
    -------
    Path
        Of the page.

    Raises
    ------
    FileNotFoundError
        If one of the two files is missing.
    ValueError
        If one is damaged, lacks something, or is of another format version.
    """
    folder = Path(folder)
    run = read_run(folder)
    sections = {"results": list(result_pictures(run)), "trainings": list(training_pictures(run))}
    try:
        sections["maps"] = list(map_pictures(run))
    except ValueError as error:
        raise ValueError(f"{folder / 'maps.npz'} does not fit together: {error}") from error
    plots = folder / "plots"
    plots.mkdir(exist_ok=True)
    embedded: dict[str, list[dict[str, Any]]] = {}
    for section, pictures in sections.items():
        embedded[section] = []
        for picture in pictures:
            png, source = _encode(picture.figure)
            with replacing(plots / f"{picture.name}.png") as path:
                path.write_bytes(png)
            width, height = (round(96 * inches) for inches in picture.figure.get_size_inches())
            size = {"source": source, "width": width, "height": height}
            embedded[section].append({"name": picture.name, "alt": picture.alt, "caption": picture.caption, **size})
    page = _template().render(**page_content(run), pictures=embedded)
    with replacing(folder / "report.html") as path:
        path.write_text(page, encoding="utf-8")
    return folder / "report.html"


def read_run(folder: Path) -> Run:
    """Read and check ``results.json`` and ``maps.npz``; errors as in `write_report`."""
    path = folder / "results.json"
    results = _read_results(path)
    try:
        history = results["region_classifier"].get("history", [])
        run = Run(
            results=results,
            table=_frame(results["table"], "table", ["mitigator", "measure"], ["mean", "std", "low", "high"]),
            mitigators=_frame(results["mitigators"], "mitigators", ["name", "kind", "description"]),
            cells=_frame(
                results["cells"], "cells", ["mitigator", "group", "confounder"], ["accuracy", "low", "high", "images"]
            ),
            counts=_frame(results["counts"], "counts", ["set", "target", "confounder"], ["images"]),
            trainings=_frame(results["trainings"], "trainings", ["mitigator", "seed", "losses"], ["seconds"]),
            history=_frame(history, "region_classifier.history", [], ["epoch", "loss"]),
            maps={},
        )
        _check_run(run)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    run.maps.update(_read_maps(folder / "maps.npz"))
    return run


def _read_results(path: Path) -> dict[str, Any]:
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged, it holds no JSON: {error}") from error
    if not isinstance(results, dict) or "format" not in results:
        raise ValueError(f"{path} holds no results of a run: its format is not given")
    if results["format"] != FORMAT:
        raise ValueError(f"{path} is of format {results['format']!r}, this version reads format {FORMAT}")
    for key, wanted in CONTENT.items():
        if key not in results:
            raise ValueError(f"{path} lacks {key!r}")
        if not isinstance(results[key], wanted):
            raise ValueError(f"{path}: {key!r} is of the wrong type, {type(results[key]).__name__}")
    return results


def _frame(rows: Any, key: str, columns: Sequence[str], numbers: Sequence[str] = ()) -> pd.DataFrame:
    """Return a list of records as a table; of `numbers`, what is missing or not finite is NaN."""
    wanted = [*columns, *numbers]
    if not isinstance(rows, list) or not all(isinstance(row, dict) and set(wanted) <= set(row) for row in rows):
        raise ValueError(f"{key!r} must be a list of records with {', '.join(wanted)}")
    frame = pd.DataFrame(rows, columns=list(dict.fromkeys([*wanted, *(name for row in rows for name in row)])))
    for column in numbers:
        try:
            frame[column] = pd.to_numeric(frame[column]).astype(float).replace([np.inf, -np.inf], np.nan)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{column!r} of {key!r} must hold numbers: {error}") from error
    return frame


def _check_run(run: Run) -> None:
    if run.mitigators.empty or run.table.empty:
        raise ValueError("'mitigators' and 'table' must hold something")
    unknown = set(run.mitigators["kind"]) - set(figures.KIND_COLORS)
    if unknown:
        raise ValueError(f"kind must be one of {', '.join(figures.KIND_COLORS)}, got {sorted(map(str, unknown))}")
    for key, frame in {"table": run.table, "cells": run.cells, "trainings": run.trainings}.items():
        strangers = set(frame["mitigator"]) - set(run.names)
        if strangers:
            raise ValueError(f"{key!r} names mitigators that are not among them: {sorted(map(str, strangers))}")
    for key, frame, columns in (
        ("mitigators", run.mitigators, ["name"]),
        ("table", run.table, ["mitigator", "measure"]),
        ("cells", run.cells, ["mitigator", "group", "confounder"]),
        ("counts", run.counts, ["set", "target", "confounder"]),
    ):
        if frame.duplicated(columns).any():
            raise ValueError(f"{key!r} holds the same {' and '.join(columns)} twice")
    if not all(isinstance(losses, list) for losses in run.trainings["losses"]):
        raise ValueError("'losses' of 'trainings' must be lists")


def _read_maps(path: Path) -> dict[str, NDArray[Any]]:
    try:
        # Opened here: NumPy leaves a file open that it cannot read.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            maps = {str(name): archive[name] for name in archive.files}
    except FileNotFoundError:
        raise
    except (OSError, EOFError, TypeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} is damaged, it holds no NumPy arrays: {error}") from error
    needed = ["mean_image", "pixel_map", "example_images", "example_maps", "example_labels", "example_schemes"]
    needed += [f"example_{name}" for name in maps.get("example_schemes", np.array([])).ravel()]
    missing = [name for name in needed if name not in maps]
    if missing:
        raise ValueError(f"{path} lacks the arrays {', '.join(missing)}")
    return maps


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
    cell = _weakest_cell(run, "original")
    if cell is not None:
        parts.append(f"Its weakest cell is {cell[0]} at {with_interval(cell[1])}.")
    return " ".join(parts)


def _weakest_cell(run: Run, mitigator: str) -> tuple[str, Interval] | None:
    cells = run.cells[(run.cells["mitigator"] == mitigator) & run.cells["accuracy"].notna()]
    if cells.empty:
        return None
    worst = cells.sort_values("accuracy").iloc[0].to_dict()
    return run.cell_name(worst["group"], worst["confounder"]), Interval(worst["accuracy"], worst["low"], worst["high"])


def page_content(run: Run) -> dict[str, Any]:
    """Return what the template shows, figures apart."""
    results = run.results
    skipped = [(str(row.get("image", "")), str(row.get("reason", ""))) for row in results["skipped"]]
    classifier = results["region_classifier"]
    accuracies = {name: classifier.get(f"{name}_region_accuracy") for name in ("mean", "best")}
    return {
        "title": results["title"],
        "created": results["created"],
        "command": results["command"],
        "headline": headline(run),
        "findings": findings(run),
        "confidence": f"{100 * results['confidence_level']:g} %",
        "trainings": len(results["random_states"]),
        "measures": [_measure_words(run, measure) for measure in run.measures],
        "rows": _table_rows(run),
        "region_accuracy": {name: number(value) for name, value in accuracies.items() if value is not None},
        "counts": _count_rows(run),
        "cells": [run.cell_name(*cell) for cell in _cells()],
        "versions": results["versions"],
        "config": {name: _shown(value) for name, value in results["config"].items()},
        "seeds": _shown(results["random_states"]),
        "seconds": {name: _duration(value) for name, value in results["seconds"].items()},
        "caveats": results["caveats"],
        "skipped": skipped[:SHOWN_SKIPPED],
        "skipped_count": len(skipped),
        "dash": DASH,
    }


def _measure_words(run: Run, measure: str) -> dict[str, str]:
    best = BEST.get(measure.partition("[")[0], "")
    arrow = {LARGEST: "↑", SMALLEST: "↓", NEXT_TO_ZERO: "→ 0"}.get(best, "")
    description = run.results["measures"].get(measure, "")
    return {"label": run.label(measure), "description": description, "best": best, "arrow": arrow}


def best_of(run: Run, measure: str) -> set[str]:
    """Return the mitigators with the best value of a measure, of those that were given the biased set."""
    wanted = BEST.get(measure.partition("[")[0])
    left_out = set(run.of_kind("reference")) - {"original"}
    values = {name: value.mean for name, value in run.values(measure).items() if name not in left_out}
    if wanted is None or not values:
        return set()
    cost = {LARGEST: lambda mean: -mean, SMALLEST: lambda mean: mean, NEXT_TO_ZERO: abs}[wanted]
    # What reads the same is the same: ties are all marked.
    costs = {name: round(cost(mean), 3) for name, mean in values.items()}
    return {name for name, value in costs.items() if value == min(costs.values())}


def _table_rows(run: Run) -> list[dict[str, Any]]:
    """Return a row a mitigator, with a cell a measure."""
    statistics = {(row["mitigator"], row["measure"]): row for row in run.table.to_dict("records")}
    best = {measure: best_of(run, measure) for measure in run.measures}
    rows = []
    for mitigator in run.mitigators.to_dict("records"):
        cells = []
        for measure in run.measures:
            row = statistics.get((mitigator["name"], measure), dict.fromkeys(("mean", "std", "low", "high"), math.nan))
            value, signed = Interval(row["mean"], row["low"], row["high"]), measure == "gap"
            cells.append(
                {
                    "mean": number(value.mean, signed=signed),
                    "interval": bracket(value, signed=signed) if math.isfinite(value.mean) else "",
                    "spread": number(row["std"]) if math.isfinite(row["std"]) else "",
                    "best": mitigator["name"] in best[measure],
                }
            )
        rows.append({key: mitigator[key] for key in ("name", "kind", "description")} | {"cells": cells})
    return rows


def _cells() -> list[tuple[bool, bool]]:
    return [(group, value) for group in (False, True) for value in (False, True)]


def _count_rows(run: Run) -> list[tuple[str, list[str], str]]:
    rows = []
    for name in dict.fromkeys(run.counts["set"]):
        of_set = run.counts[run.counts["set"] == name]
        images = of_set.set_index(["target", "confounder"])["images"].to_dict()
        cells = [f"{images[cell]:,.0f}" if cell in images else DASH for cell in _cells()]
        rows.append((str(name), cells, f"{of_set['images'].sum():,.0f}"))
    return rows


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_shown(entry) for entry in value) or DASH
    return DASH if value is None else str(value)


def _duration(seconds: float) -> str:
    """Return a duration in words.

    Examples
    --------
    >>> _duration(2.34), _duration(75), _duration(3700)
    ('2.3 s', '1 min 15 s', '1 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def result_pictures(run: Run) -> Iterator[Picture]:
    """Yield the figures of the measures that the run has."""
    names = run.results["target_names"]
    groups = [f"accuracy[{group}]" for group in names]
    if any(run.values(measure) for measure in groups):
        yield Picture(
            "accuracy_by_group",
            figures.accuracy_by_group(run.table, run.mitigators, names),
            "Dot plot of accuracy by group. " + "; ".join(_listed(run, measure) for measure in groups) + ".",
            "Accuracy within each group. The nearer the two marks of a row, the smaller the gap.",
        )
    if run.values("worst_cell"):
        yield _dots(run, "worst_cell", "Accuracy of the worst cell. Dashed: the first row's value.")
    if run.cells["accuracy"].notna().any():
        yield Picture(
            "accuracy_by_cell",
            figures.accuracy_by_cell(run.cells, run.mitigators, names, run.results["confounder_names"]),
            "Dot plot of accuracy by cell of target and confounder. " + _worst_cells(run),
            f"Accuracy in each cell. A colour is a group; filled: {run.results['confounder_names'].get('True')}. "
            "Open and filled marks far apart: the confounder still decides.",
        )
    if run.values("accuracy") and run.values("gap"):
        yield Picture(
            "accuracy_and_gap",
            figures.accuracy_gap_plane(run.table, run.mitigators),
            f"Scatter plot of accuracy and gap. {_listed(run, 'accuracy')}; {_listed(run, 'gap')}.",
            "Accuracy against the size of the gap: best at the lower right. "
            "A moved threshold alone can bring a point down.",
        )
    if run.values("crossed_auc"):
        yield _dots(run, "crossed_auc", "AUC of the crossed cells, which no moved threshold changes; 0.5 is chance.")
    if run.values("flip_rate"):
        text = f"Predictions that change when only {run.results['confounder']} is toggled. Further left is better."
        yield _dots(run, "flip_rate", text)


def _dots(run: Run, measure: str, caption: str) -> Picture:
    figure = figures.measure_dots(run.table, run.mitigators, measure, run.label(measure))
    return Picture(measure, figure, f"Dot plot. {_listed(run, measure)}.", caption)


def _listed(run: Run, measure: str) -> str:
    values = run.values(measure)
    texts = [f"{name} {number(values[name].mean, signed=measure == 'gap')}" for name in run.names if name in values]
    label = run.label(measure)
    return f"{label[0].upper()}{label[1:]}: {', '.join(texts)}"


def _worst_cells(run: Run) -> str:
    weakest = {name: _weakest_cell(run, name) for name in run.names}
    texts = [f"{name}: {cell[0]} {number(cell[1].mean)}" for name, cell in weakest.items() if cell is not None]
    return f"The worst of each: {'; '.join(texts)}."


def map_pictures(run: Run) -> Iterator[Picture]:
    """Yield the figures of where the confounder's information sits, and of what the schemes do there."""
    maps, confounder = run.maps, run.results["confounder"]
    truth = maps.get("truth_mean")
    pixel_map = maps["pixel_map"]
    figure = figures.map_figure(maps["mean_image"], pixel_map, truth=truth, region_accuracy=maps.get("region_accuracy"))
    row, column = np.unravel_index(int(np.argmax(pixel_map)), pixel_map.shape)
    yield Picture(
        "region_map",
        figure,
        f"The mean training image and, over it, the mean map of confidence about {confounder}: from "
        f"{pixel_map.min():.2f} to {pixel_map.max():.2f}, largest at {row / pixel_map.shape[0]:.0%} of the height and "
        f"{column / pixel_map.shape[1]:.0%} of the width."
        + (" Beside it, where the confounder truly changes the picture." if truth is not None else ""),
        f"Where a small classifier that sees one region at a time can tell {confounder}: 0 is a guess, 1 is certain."
        + (
            " The truth is known because the faces are drawn: the pixels that toggling it changes."
            if truth is not None
            else ""
        ),
    )
    if len(maps["example_images"]):
        schemes = [str(name) for name in maps["example_schemes"]]
        labels = [str(label) for label in maps["example_labels"]]
        changed = {name: maps[f"example_{name}"] for name in schemes}
        yield Picture(
            "schemes",
            figures.scheme_strip(maps["example_images"], maps["example_maps"], changed, labels),
            f"Training images, a row each: {'; '.join(labels)}. Columns: the image, its map of {confounder}, and the "
            f"image as changed by {', '.join(schemes)}.",
            "What each scheme makes of training images. All maps are on one scale.",
        )


def training_pictures(run: Run) -> Iterator[Picture]:
    """Yield the training curves that the run has."""
    if len(run.history):
        last = run.history.iloc[-1].to_dict()
        accuracy = last.get("valid_accuracy", math.nan)
        validation = f", validation accuracy {accuracy:.3f}" if pd.notna(accuracy) else ""
        yield Picture(
            "region_training",
            figures.classifier_history(run.history),
            f"Training of the region classifier: after {len(run.history)} epochs the loss is "
            f"{last['loss']:.3f}{validation}.",
            "The region classifier's training; its accuracy is on random regions of validation images.",
        )
    ends = {
        str(name): losses[-1]
        for name, losses in zip(run.trainings["mitigator"], run.trainings["losses"], strict=True)
        if len(losses)
    }
    if ends:
        yield Picture(
            "training_losses",
            figures.training_losses(run.trainings, run.mitigators),
            f"Training losses by epoch, at the end: {', '.join(f'{name} {loss:.3f}' for name, loss in ends.items())}.",
            "Training losses of the target classifiers"
            + (", mean over seeds; each seed is faint." if run.trainings["seed"].nunique() > 1 else "."),
        )


def _encode(figure: Figure) -> tuple[bytes, str]:
    """Return a figure as PNG, and as the source of an image: SVG where that is smaller."""
    kind, data = "png", b""
    for dpi in (160, 120, 90, 60):
        data = png = _saved(figure, dpi=dpi, format="png", metadata={"Software": None})
        # The layout is costly and known now.
        figure.set_layout_engine("none")
        if len(png) <= LARGEST_IMAGE:
            break
    if not any(ax.images for ax in figure.axes):
        # The salt makes the same figure the same text.
        with rc_context({"svg.hashsalt": "fairlearn_bridge"}):
            svg = _saved(figure, format="svg", metadata={"Date": None, "Creator": None})
        kind, data = ("svg+xml", svg) if len(svg) < len(png) else (kind, data)
    return png, f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _saved(figure: Figure, **options: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, facecolor="white", **options)
    return buffer.getvalue()


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fairlearn_bridge.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2")

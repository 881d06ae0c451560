"""write_side_by_side: several runs in one page, to see what a setting, a confounder or a data set changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from captum_region.files import replacing
from captum_region.plotting import LINE_COLORS, scale_top
from fairlearn_bridge import metrics
from fairlearn_bridge.report import figures
from fairlearn_bridge.report.examples import map_over
from fairlearn_bridge.report.page import measure_words, shown, template
from fairlearn_bridge.report.pictures import Picture, embedded
from fairlearn_bridge.report.run import Run, read_run
from fairlearn_bridge.report.words import DASH, bracket, headline, number

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

MOST_RUNS = len(LINE_COLORS)  # a colour each


def write_side_by_side(folders: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]) -> Path:
    """Write one page about several runs: their headlines, maps, measures and settings beside each other.

    Parameters
    ----------
    folders : sequence of path
        At least two run folders, of `fairlearn_bridge.experiment.run_experiment`.
    out : path
        The page; a file that is there is replaced.

    Returns
    -------
    Path
        Of the page.

    Raises
    ------
    FileNotFoundError, ValueError
        If the runs are too few or too many, one is given twice, or `write_report` would refuse one.
    """
    out = Path(out)
    paths = [Path(folder) for folder in folders]
    if not 2 <= len({path.resolve() for path in paths}) == len(paths) <= MOST_RUNS:
        raise ValueError(f"folders must be 2 to {MOST_RUNS} different ones, got {', '.join(map(str, folders))}")
    names = [path.resolve().name for path in paths]
    # Where names alone tell no two apart, all are told as they were given.
    names = names if len(set(names)) == len(names) else [str(path) for path in paths]
    runs = dict(zip(names, map(read_run, paths), strict=True))
    page = template("side_by_side.html.j2").render(
        title=f"{len(runs)} runs side by side",
        script_hash="",
        runs=_heads(runs),
        measures=[_measure(runs, measure) for measure in _measures(runs)],
        settings=_differences(runs),
        dash=DASH,
    )
    with replacing(out) as path:
        path.write_text(page, encoding="utf-8")
    return out


def _heads(runs: Mapping[str, Run]) -> list[dict[str, Any]]:
    """Return what is said of each run alone, with its mean map over its mean image, all on one scale."""
    top = max(scale_top(run.maps["pixel_map"]) for run in runs.values())
    return [
        {
            "name": name,
            "title": run.results["title"],
            "headline": headline(run),
            "command": run.results["command"],
            "confounder": run.results["confounder"],
            **map_over(run.maps["mean_image"], run.maps["pixel_map"], top),
        }
        for name, run in runs.items()
    ]


def _measures(runs: Mapping[str, Run]) -> list[str]:
    there = {measure for run in runs.values() for measure in run.measures}
    return [measure for measure in metrics.MEASURES if "[" not in measure and measure in there]


def _measure(runs: Mapping[str, Run], measure: str) -> dict[str, Any]:
    """Return a measure of all mitigators of all runs: as a figure, and as a table of a row a mitigator."""
    first = next(run for run in runs.values() if measure in run.measures)
    values = {name: run.values(measure) for name, run in runs.items()}
    mitigators = pd.concat([run.mitigators for run in runs.values()]).drop_duplicates("name")
    mitigators = mitigators[mitigators["name"].isin({name for of_run in values.values() for name in of_run})]
    signed = metrics.is_signed(measure)
    rows = [
        (
            str(mitigator),
            [
                (number(of_run[mitigator].mean, signed=signed), bracket(of_run[mitigator], signed=signed))
                if mitigator in of_run
                else (DASH, "")
                for of_run in values.values()
            ],
        )
        for mitigator in mitigators["name"]
    ]
    label = first.label(measure)
    listing = "; ".join(f"{name}: {', '.join(cell[0] for cell in cells)}" for name, cells in rows)
    picture = Picture(
        measure,
        figures.runs_dots(values, mitigators, label),
        f"Dot plot of {label}, by mitigator in the order of the runs. {listing}.",
        f"{label[0].upper()}{label[1:]} in each run.",
    )
    told = {run.results["measures"].get(measure, "") for run in runs.values() if measure in run.measures}
    # Of another target or confounder it says other things: then none of them.
    description = {"description": told.pop() if len(told) == 1 else ""}
    return measure_words(first, measure) | description | {"picture": embedded(picture)[1], "rows": rows}


def _differences(runs: Mapping[str, Run]) -> list[tuple[str, list[str]]]:
    """Return the settings that are not the same in all runs, with each run's."""
    tables = [
        {**run.results["config"], **{f"images, {name}": _images(run, name) for name in ("biased", "test")}}
        for run in runs.values()
    ]
    settings = list(dict.fromkeys(name for table in tables for name in table))
    return [
        (name, [shown(table.get(name)) for table in tables])
        for name in settings
        if len({json.dumps(table.get(name)) for table in tables}) > 1
    ]


def _images(run: Run, name: str) -> str:
    return f"{run.counts['images'][run.counts['set'] == name].sum():,.0f}"

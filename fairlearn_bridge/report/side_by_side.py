"""write_side_by_side: several runs in one page, to see what a setting, a spurious attribute or a data set changes."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from captum_region.io.files import write_text
from captum_region.page import Picture, embedded, number, render, shown
from captum_region.plotting import LINE_COLORS, scale_top
from fairlearn_bridge import metrics
from fairlearn_bridge.plotting import Interval
from fairlearn_bridge.report.examples import map_over
from fairlearn_bridge.report.figures import dot_plot
from fairlearn_bridge.report.page import measure_words
from fairlearn_bridge.report.run import Run, read_run
from fairlearn_bridge.report.words import bracket, headline

MOST_RUNS = len(LINE_COLORS)  # a colour each


def write_side_by_side(folders: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]) -> Path:
    """Write one page about several runs: with their headlines, maps, measures and settings side by side.

    Parameters
    ----------
    folders : sequence of path
        At least two run folders, of `fairlearn_bridge.experiment.run_experiment`.
    out : path
        The page; an existing file is replaced.

    Returns
    -------
    Path
        Of the page.

    Raises
    ------
    FileNotFoundError, ValueError
        If the runs are too few or too many, one is given twice, or `write_report` would refuse one.

    See Also
    --------
    write_report : The page of one run.
    """
    out = Path(out)
    paths = [Path(folder) for folder in folders]
    if not 2 <= len({path.resolve() for path in paths}) == len(paths) <= MOST_RUNS:
        raise ValueError(f"folders must be 2 to {MOST_RUNS} different ones, got {', '.join(map(str, folders))}")
    names = [path.resolve().name for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    runs = dict(zip(names, map(read_run, paths), strict=True))
    page = render(
        "fairlearn_bridge.report",
        "side_by_side.html.j2",
        title=f"{len(runs)} runs side by side",
        runs=_heads(runs),
        measures=[
            _measure(runs, measure)
            for measure in metrics.MEASURES
            if "[" not in measure and any(measure in run.measures for run in runs.values())
        ],
        settings=_differences(runs),
    )
    write_text(out, page)
    return out


def _heads(runs: Mapping[str, Run]) -> list[dict[str, Any]]:
    """Return what the page says of each run alone, with its mean map over its mean image, all on one scale."""
    top = max(scale_top(run.maps["pixel_map"]) for run in runs.values())
    return [
        {
            "name": name,
            "headline": headline(run),
            **{key: run.results[key] for key in ("title", "command", "confounder")},
            **map_over(run.maps["mean_image"], run.maps["pixel_map"], top),
        }
        for name, run in runs.items()
    ]


def _measure(runs: Mapping[str, Run], measure: str) -> dict[str, Any]:
    """Return a measure of all mitigators of all runs: as a figure, and as a table of a row a mitigator."""
    having = [run for run in runs.values() if measure in run.measures]
    values = {name: run.values(measure) for name, run in runs.items()}
    names = list(dict.fromkeys(name for of_run in values.values() for name in of_run))
    signed, label = metrics.is_signed(measure), having[0].label(measure)
    rows = []
    for name in names:
        of_name = [of_run.get(name, Interval(math.nan, math.nan, math.nan)) for of_run in values.values()]
        rows.append((name, [(number(one.mean, signed=signed), bracket(one, signed=signed)) for one in of_name]))
    listing = "; ".join(f"{name}: {', '.join(cell[0] for cell in cells)}" for name, cells in rows)
    picture = Picture(
        measure,
        dot_plot(values, names, label),
        f"Dot plot of {label}, by mitigator in the order of the runs. {listing}.",
        f"{label[0].upper()}{label[1:]} in each run.",
    )
    descriptions = {run.results["measures"].get(measure, "") for run in having}
    # Of another target or spurious attribute it says other things: then none of them.
    description = descriptions.pop() if len(descriptions) == 1 else ""
    words = measure_words(having[0], measure) | {"description": description}
    return {**words, "picture": embedded(picture)[1], "rows": rows}


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

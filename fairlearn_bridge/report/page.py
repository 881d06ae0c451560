"""write_report: a run folder's results and maps as one self-contained HTML page."""

import math
import os
from pathlib import Path
from typing import Any

from captum_region.io.files import write_text
from captum_region.page import DASH, number, render, shown, write_pictures
from fairlearn_bridge import metrics
from fairlearn_bridge.metrics import LARGEST, NEXT_TO_ZERO, SMALLEST
from fairlearn_bridge.plotting import BASELINE, Interval
from fairlearn_bridge.report.examples import confident_content, strip_content
from fairlearn_bridge.report.pictures import map_pictures, result_pictures, training_pictures
from fairlearn_bridge.report.run import Run, read_run
from fairlearn_bridge.report.words import bracket, findings, headline

SHOWN_SKIPPED = 20
CELLS = [(group, value) for group in (False, True) for value in (False, True)]


def write_report(folder: str | os.PathLike[str], out: str | os.PathLike[str] | None = None) -> Path:
    """Write ``report.html`` and ``plots/*.png`` into a run folder, from its ``results.json`` and ``maps.npz``.

    The page contains its figures and styles and loads nothing else. Existing files are replaced.

    Parameters
    ----------
    folder : path
        As `fairlearn_bridge.experiment.run_experiment` makes it.
    out : path, optional
        Another place for the page.

    Returns
    -------
    Path
        Of the page.

    Raises
    ------
    FileNotFoundError
        If one of the two files is missing.
    ValueError
        If one is damaged, incomplete, or of another format version.

    See Also
    --------
    write_side_by_side : One page about several runs.
    fairlearn_bridge.experiment.run_experiment : Makes the run folder, with its page.
    """
    folder = Path(folder)
    return draw_report(read_run(folder), folder, out)


def draw_report(run: Run, folder: Path, out: str | os.PathLike[str] | None = None) -> Path:
    """Write what `write_report` writes, of a run at hand."""
    sections = {"results": list(result_pictures(run)), "trainings": list(training_pictures(run))}
    try:
        sections["maps"] = list(map_pictures(run))
        images = {"strip": strip_content(run), "confident": confident_content(run)}
    except (ValueError, TypeError, IndexError) as error:
        raise ValueError(f"{folder / 'maps.npz'} is inconsistent: {error}") from error
    pictures = {section: write_pictures(of_section, folder / "plots") for section, of_section in sections.items()}
    out = folder / "report.html" if out is None else Path(out)
    write_text(out, render_report(run, pictures=pictures, **images))
    return out


def render_report(run: Run, **pictures: Any) -> str:
    """Return the page as HTML, with its pictures as the template wants them."""
    package = "fairlearn_bridge.report"
    return render(package, "report.html.j2", script="strip.js", **page_content(run), **pictures)


def page_content(run: Run) -> dict[str, Any]:
    """Return what the template shows, without the figures."""
    results = run.results
    facts = run_facts(results)
    facts["config"]["seeds used"] = shown(results["random_states"])
    accuracies = {name: results["region_classifier"].get(f"{name}_region_accuracy") for name in ("mean", "best")}
    return {
        **facts,
        "caveats": results["caveats"],
        "headline": headline(run),
        "findings": findings(run),
        "confidence": f"{100 * results['confidence_level']:g} %",
        "trainings": len(results["random_states"]),
        "measures": [measure_words(run, measure) for measure in run.measures],
        "rows": _table_rows(run),
        "not_run": run.not_run,
        "fewer_seeds": run.fewer_seeds,
        "region_accuracy": {name: number(value) for name, value in accuracies.items() if value is not None},
        "counts": _count_rows(run),
        "cells": [run.cell_name(*cell) for cell in CELLS],
        "dash": DASH,
    }


def run_facts(results: dict[str, Any]) -> dict[str, Any]:
    """Return what every page says of how it was made: command, settings, times, versions, images left out."""
    skipped = [(str(row.get("image", "")), str(row.get("reason", ""))) for row in results["skipped"]]
    return {
        **{key: results[key] for key in ("title", "created", "command")},
        "config": {name.replace("_", " "): shown(value) for name, value in results["config"].items()},
        "seconds": {name: f"{value:,.1f} s" for name, value in results["seconds"].items()},
        # Runs of a package that was installed, and older ones, know no commit.
        "versions": results["versions"] | ({"commit": results["git"]} if results.get("git") else {}),
        "skipped": skipped[:SHOWN_SKIPPED],
        "skipped_count": len(skipped),
    }


def measure_words(run: Run, measure: str) -> dict[str, str]:
    """Return what the page calls a measure, what it says, and which value is the best."""
    best = metrics.best(measure)
    arrow = {LARGEST: "↑", SMALLEST: "↓", NEXT_TO_ZERO: "→ 0"}.get(best, "")
    description = run.results["measures"].get(measure, "")
    return {"label": run.label(measure), "description": description, "best": best, "arrow": arrow}


def best_of(run: Run, measure: str) -> set[str]:
    """Return the mitigators with the best value of a measure, of those trained on the biased set."""
    wanted = metrics.best(measure)
    cost = {LARGEST: lambda mean: -mean, SMALLEST: lambda mean: mean, NEXT_TO_ZERO: abs}.get(wanted)
    left_out = set(run.of_kind("reference")) - {BASELINE}
    values = {name: value.mean for name, value in run.values(measure).items() if name not in left_out}
    if cost is None:
        return set()
    # What reads the same is the same: ties are all marked.
    costs = {name: round(cost(mean), 3) for name, mean in values.items()}
    return {name for name, value in costs.items() if value == min(costs.values())}


def _table_rows(run: Run) -> list[dict[Any, Any]]:
    """Return a row a mitigator, with a cell a measure."""
    best = {measure: best_of(run, measure) for measure in run.measures}
    rows = []
    for mitigator in run.mitigators.to_dict("records"):
        name, cells = mitigator["name"], []
        for measure in run.measures:
            mean, std, low, high = run.table.loc[name, measure][["mean", "std", "low", "high"]]
            signed = metrics.is_signed(measure)
            cells.append(
                {
                    "mean": number(mean, signed=signed),
                    "interval": bracket(Interval(mean, low, high), signed=signed),
                    "spread": number(std) if math.isfinite(std) else "",
                    "best": name in best[measure],
                }
            )
        fewer = run.fewer_seeds.get(name, "").partition(";")[0]
        rows.append({**mitigator, "fewer": fewer, "cells": cells})
    return rows


def _count_rows(run: Run) -> list[tuple[str, list[str], str]]:
    rows = []
    for name, of_set in run.counts.groupby("set", sort=False):
        images = of_set.set_index(["target", "confounder"])["images"].to_dict()
        cells = [f"{images[cell]:,.0f}" if cell in images else DASH for cell in CELLS]
        rows.append((str(name), cells, f"{of_set['images'].sum():,.0f}"))
    return rows

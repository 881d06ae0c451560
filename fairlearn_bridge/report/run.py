"""What a run has found, from memory or from its folder, checked."""

from __future__ import annotations

import math
import reprlib
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from captum_region.array_files import read_arrays
from captum_region.calibration import Calibration
from captum_region.files import read_json
from fairlearn_bridge import metrics
from fairlearn_bridge.plotting import KIND_COLORS
from fairlearn_bridge.report.figures import intervals

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from fairlearn_bridge.plotting import Interval

FORMAT = 1
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

# Kind of dtype and number of axes of the arrays in maps.npz; those of the schemes are pictures too.
ARRAYS = {
    "mean_image": ("u", 3),
    "mean_map": ("f", 2),
    "pixel_map": ("f", 2),
    "region_accuracy": ("f", 2),
    "truth_mean": ("f", 2),
    "example_images": ("u", 4),
    "example_maps": ("f", 3),
    "example_labels": ("U", 1),
    "example_names": ("U", 1),
    "example_schemes": ("U", 1),
    "donor_images": ("u", 4),
    "donor_maps": ("f", 3),
    "confident_images": ("u", 4),
    "confident_maps": ("f", 3),
}
NEEDED = ("mean_image", "pixel_map", "example_images", "example_maps", "example_labels", "example_schemes")


@dataclass(frozen=True)
class Run:
    """What a run has found: `results` is what results.json holds, the tables are its lists, `maps` is maps.npz.

    `mitigators` are those that ran, `not_run` says of the others why not, and `fewer_seeds` of those that did not run
    with every seed how many they are averaged over, and why. Where a run has none, `calibration` is None and `front`
    and `confident` are empty.
    """

    results: dict[str, Any]
    table: pd.DataFrame
    mitigators: pd.DataFrame
    cells: pd.DataFrame
    counts: pd.DataFrame
    trainings: pd.DataFrame
    history: pd.DataFrame
    calibration: Calibration | None
    confident: pd.DataFrame
    front: list[str]
    not_run: dict[str, str]
    fewer_seeds: dict[str, str]
    maps: dict[str, NDArray[Any]]

    @property
    def failed(self) -> bool:
        """Whether a training has failed; one that was not applicable has not."""
        return "status" in self.trainings and bool((self.trainings["status"] == "failed").any())

    @property
    def names(self) -> list[str]:
        """The mitigators, in order."""
        return [str(name) for name in self.mitigators["name"]]

    def of_kind(self, kind: str) -> list[str]:
        """Return the mitigators of a kind."""
        return [str(name) for name in self.mitigators["name"][self.mitigators["kind"] == kind]]

    def values(self, measure: str) -> dict[str, Interval]:
        """Return a measure's finite values by mitigator."""
        rows = intervals(self.table[self.table["measure"] == measure])
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
        return metrics.label(measure, self.results["target_names"])

    def cell_name(self, group: object, confounder: object) -> str:
        """Return what the page calls a cell."""
        names = self.results["target_names"], self.results["confounder_names"]
        return ", ".join(str(of.get(str(value), value)) for of, value in zip(names, (group, confounder), strict=True))


def read_run(folder: Path) -> Run:
    """Read and check ``results.json`` and ``maps.npz``; errors as in `write_report`."""
    path = folder / "results.json"
    results = read_json(path, FORMAT)
    try:
        run = run_of(results, {})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return replace(run, maps=_read_maps(folder / "maps.npz"))


def run_of(results: dict[str, Any], maps: dict[str, NDArray[Any]]) -> Run:
    """Return a run of what ``results.json`` and ``maps.npz`` hold.

    Raises
    ------
    ValueError
        If `results` lacks something or does not fit together.
    """
    for key, wanted in CONTENT.items():
        if key not in results:
            raise ValueError(f"it lacks {key!r}")
        if not isinstance(results[key], wanted):
            raise ValueError(f"{key!r} is of the wrong type, {type(results[key]).__name__}")
    history = results["region_classifier"].get("history", [])
    confident = results.get("confident", [])
    run = Run(
        results=results,
        table=_frame(results["table"], "table", ["mitigator", "measure"], ["mean", "std", "low", "high"]),
        mitigators=_frame(results["mitigators"], "mitigators", ["name", "kind", "description"]),
        cells=_frame(
            results["cells"], "cells", ["mitigator", "group", "confounder"], ["accuracy", "low", "high", "images"]
        ),
        counts=_frame(results["counts"], "counts", ["set", "target", "confounder"], ["images"]),
        trainings=_trainings(results["trainings"]),
        history=_frame(history, "region_classifier.history", [], ["epoch", "loss"]),
        calibration=_calibration(results["region_classifier"].get("calibration")),
        confident=_frame(confident, "confident", ["image", "label"], ["mean", "max"]),
        front=results.get("pareto_front", []),
        not_run={},
        fewer_seeds={},
        maps=maps,
    )
    _check_values(results)
    _check_run(run)
    return _told_apart(run)


def _frame(rows: Any, key: str, columns: Sequence[str], numbers: Sequence[str] = ()) -> pd.DataFrame:
    """Return a list of records as a table; of `numbers`, what is missing or not finite is NaN."""
    wanted = [*columns, *numbers]
    if not isinstance(rows, list) or not all(isinstance(row, dict) and set(wanted) <= set(row) for row in rows):
        raise ValueError(f"{key!r} must be a list of records with {', '.join(wanted)}")
    for column in columns:
        if nested := [row[column] for row in rows if isinstance(row[column], list | dict)]:
            raise ValueError(f"{column!r} of {key!r} must hold texts or numbers, got {nested[0]!r}")
    frame = pd.DataFrame(rows, columns=list(dict.fromkeys([*wanted, *(name for row in rows for name in row)])))
    for column in numbers:
        try:
            frame[column] = pd.to_numeric(frame[column]).astype(float).replace([np.inf, -np.inf], np.nan)
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"{column!r} of {key!r} must hold numbers: {error}") from error
    return frame


def _calibration(entry: Any) -> Calibration | None:
    if entry is None:
        return None
    if not isinstance(entry, dict) or not {"bins", "error", "accuracy", "images"} <= set(entry):
        raise ValueError("'calibration' of 'region_classifier' must hold bins, error, accuracy and images")
    bins = _frame(entry["bins"], "calibration.bins", [], ["lower", "upper", "patches", "confidence", "accuracy"])
    if not bins["patches"].sum() > 0:
        raise ValueError("'calibration.bins' must hold patches, it holds none")
    _check_numbers("region_classifier.calibration", {key: entry[key] for key in ("error", "accuracy", "images")})
    return Calibration(bins, float(entry["error"]), float(entry["accuracy"]), int(entry["images"]))


def _trainings(rows: Any) -> pd.DataFrame:
    frame = _frame(rows, "trainings", ["mitigator", "seed"], ["seconds"])
    if not all(isinstance(row.get("losses"), list) for row in rows):
        raise ValueError("'losses' of 'trainings' must be lists")
    # JSON has no NaN, which the losses of a training that diverged are.
    for row in rows:
        _check_numbers("trainings.losses", {at: loss for at, loss in enumerate(row["losses"]) if loss is not None})
    losses = [[math.nan if loss is None else loss for loss in row["losses"]] for row in rows]
    return frame.assign(losses=pd.Series(losses, dtype=object))


def _check_values(results: dict[str, Any]) -> None:
    """Raise ValueError unless what is no table holds what the page can show."""
    for key in ("target_names", "confounder_names", "measures"):
        if not all(isinstance(name, str) for name in results[key].values()):
            raise ValueError(f"{key!r} must hold texts, got {list(results[key].values())}")
    accuracies = [f"{name}_region_accuracy" for name in ("mean", "best")]
    classifier = results["region_classifier"]
    _check_numbers("seconds", results["seconds"])
    _check_numbers("region_classifier", {key: classifier[key] for key in accuracies if classifier.get(key) is not None})
    _check_numbers("results", {"confidence_level": results["confidence_level"]})
    _frame(results["skipped"], "skipped", [])


def _check_numbers(key: str, values: Mapping[Any, Any]) -> None:
    for name, value in values.items():
        # A number of JSON may have more digits than a float can take.
        if not isinstance(value, int | float) or not -sys.float_info.max <= value <= sys.float_info.max:
            raise ValueError(f"{name!r} of {key!r} must be a finite number, got {reprlib.repr(value)}")


def _check_run(run: Run) -> None:
    if run.mitigators.empty or run.table.empty:
        raise ValueError("'mitigators' and 'table' must hold something")
    unknown = set(run.mitigators["kind"]) - set(KIND_COLORS)
    if unknown:
        raise ValueError(f"kind must be one of {', '.join(KIND_COLORS)}, got {sorted(map(str, unknown))}")
    if not isinstance(run.front, list) or set(map(str, run.front)) - set(run.names):
        raise ValueError(f"'pareto_front' must be a list of mitigators, got {run.front!r}")
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


def _told_apart(run: Run) -> Run:
    """Return the run with those mitigators alone that ran, and what is told of the others and of missing seeds."""
    ran = {*run.table["mitigator"][run.table["mean"].notna()], *run.cells["mitigator"][run.cells["accuracy"].notna()]}
    not_run, fewer_seeds = {}, {}
    for name in run.names:
        trainings = [row for row in run.trainings.to_dict("records") if row["mitigator"] == name]
        missing = {
            row["seed"]: ": ".join(str(row[key]) for key in ("status", "reason") if key in row)
            for row in trainings
            if isinstance(row.get("status"), str) and row["status"] != "done"
        }
        if name not in ran:
            not_run[name] = next(iter(missing.values()), "")
        elif missing:
            told = "; ".join(f"seed {seed} {text}" for seed, text in missing.items())
            fewer_seeds[name] = f"{len(trainings) - len(missing)} of {len(trainings)} seeds; {told}"
    mitigators = run.mitigators[run.mitigators["name"].isin(ran)]
    return replace(run, mitigators=mitigators, not_run=not_run, fewer_seeds=fewer_seeds)


def _read_maps(path: Path) -> dict[str, NDArray[Any]]:
    maps = read_arrays(path)
    shown = [f"example_{name}" for name in maps.get("example_schemes", np.array([])).ravel()]
    missing = [name for name in (*NEEDED, *shown) if name not in maps]
    if missing:
        raise ValueError(f"{path} lacks the arrays {', '.join(missing)}")
    for name, array in maps.items():
        kind, axes = ARRAYS.get(name, ("u", 4) if name in shown else (array.dtype.kind, array.ndim))
        # A list of no names has no kind.
        if array.ndim != axes or (array.size and array.dtype.kind != kind):
            got = f"shape {array.shape} of {array.dtype}"
            raise ValueError(f"{path}: {name} must have {axes} axes and a dtype of kind {kind!r}, got {got}")
        if kind == "f" and not np.isfinite(array).all():
            raise ValueError(f"{path}: {name} must be finite")
    return maps

"""What a run has found, from memory or from its folder, checked."""

import math
import reprlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from captum_region.calibration import Calibration
from captum_region.io.arrays import read_arrays
from captum_region.io.files import read_json
from fairlearn_bridge import metrics
from fairlearn_bridge.plotting import BASELINE, KIND_COLORS, Interval, by_mitigator, intervals

FORMAT = 1

_LARGEST_FLOAT = sys.float_info.max  # a number of JSON may have more digits than a float can hold
# What an entry of results.json may be, in words. In tables NaN stands for null.
TEXT, NUMBER, VALUE, KEY = "text", "a finite number", "a number or null", "text, a number or null"
IS: dict[str, Callable[[Any], bool]] = {
    TEXT: lambda entry: isinstance(entry, str),
    NUMBER: lambda entry: isinstance(entry, int | float) and -_LARGEST_FLOAT <= entry <= _LARGEST_FLOAT,
    VALUE: lambda entry: entry is None or isinstance(entry, float) or IS[NUMBER](entry),
    KEY: lambda entry: isinstance(entry, str) or IS[VALUE](entry),
    "anything": lambda _: True,
}
INTERVAL = {"low": VALUE, "high": VALUE}
# What results.json holds: [entry] is a list of such entries, {...: entry} an object of them; "?" marks what may miss.
CONTENT: dict[Any, Any] = {
    **dict.fromkeys(("title", "command", "created", "target", "confounder"), TEXT),
    "versions": {},
    "config": {},
    "target_names": {...: TEXT},
    "confounder_names": {...: TEXT},
    "measures": {...: TEXT},
    "counts": [{"set": KEY, "target": KEY, "confounder": KEY, "images": VALUE}],
    "seconds": {...: NUMBER},
    "region_classifier": {
        "history?": [{"epoch": VALUE, "loss": VALUE}],
        "mean_region_accuracy?": VALUE,
        "best_region_accuracy?": VALUE,
        "calibration?": {
            "bins": [dict.fromkeys(("lower", "upper", "patches", "confidence", "accuracy"), VALUE)],
            **dict.fromkeys(("error", "accuracy", "images"), NUMBER),
        },
    },
    "mitigators": [{"name": TEXT, "kind": TEXT, "description": TEXT}],
    "table": [{"mitigator": TEXT, "measure": TEXT, "mean": VALUE, "std": VALUE, **INTERVAL}],
    "cells": [{"mitigator": TEXT, "group": KEY, "confounder": KEY, "images": VALUE, "accuracy": VALUE, **INTERVAL}],
    "trainings": [{"mitigator": TEXT, "seed": KEY, "seconds": VALUE, "losses": [VALUE], "status?": TEXT}],
    "pareto_front?": [TEXT],
    "differences?": [{"mitigator": TEXT, "other": TEXT, "measure": TEXT, "difference": VALUE, **INTERVAL}],
    "confident?": [{"image": KEY, "label": KEY, "mean": VALUE, "max": VALUE}],
    "skipped": [{}],
    "caveats": ["anything"],
    "random_states": ["anything"],
    "confidence_level": NUMBER,
}
# What the page calls mitigators, where results.json calls them otherwise.
SHOWN = {"original": BASELINE}
# What identifies a row of a table.
KEYS = {
    "mitigators": ["name"],
    "table": ["mitigator", "measure"],
    "cells": ["mitigator", "group", "confounder"],
    "counts": ["set", "target", "confounder"],
    "trainings": ["mitigator", "seed"],
}

# Kind of dtype and number of axes of the arrays in maps.npz; those of the schemes are pictures too.
ARRAYS = {
    "mean_image": ("u", 3),
    **dict.fromkeys(("mean_map", "pixel_map", "region_accuracy", "truth_mean"), ("f", 2)),
    **dict.fromkeys(("example_images", "donor_images", "confident_images"), ("u", 4)),
    **dict.fromkeys(("example_maps", "donor_maps", "confident_maps"), ("f", 3)),
    **dict.fromkeys(("example_labels", "example_names", "example_schemes"), ("U", 1)),
}
NEEDED = ("mean_image", "pixel_map", "example_images", "example_maps", "example_labels", "example_schemes")


@dataclass(frozen=True)
class Run:
    """What a run has found, as the report shows it.

    Attributes
    ----------
    results : dict
        The content of ``results.json``.
    table : DataFrame
        A row a mitigator that ran; columns (measure, statistic), as `compare_mitigators` gives them.
    mitigators, cells, counts, trainings, confident : DataFrame
        The lists of `results` of these names, `mitigators` without those that did not run.
    history : DataFrame
        Of the region classifier's training, a row an epoch; empty if not known.
    calibration : Calibration or None
        Of the region classifier.
    differences : DataFrame
        The best scheme minus the ERM baseline and each control, image by image; empty if not known.
    front : list of str
        The mitigators on the Pareto front of accuracy and gap.
    not_run : dict
        Why mitigators did not run, by name.
    fewer_seeds : dict
        How many seeds a mitigator has that did not run with all, and why, by name.
    maps : dict of arrays
        The content of ``maps.npz``.
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
    differences: pd.DataFrame
    front: list[str]
    not_run: dict[str, str]
    fewer_seeds: dict[str, str]
    maps: dict[str, NDArray[Any]]

    @property
    def failed(self) -> bool:
        """Whether a training failed; one that was not applicable did not."""
        return bool((self.trainings["status"] == "failed").any())

    @property
    def kinds(self) -> dict[str, str]:
        """The kind of each mitigator that ran, in order."""
        return dict(zip(self.mitigators["name"], self.mitigators["kind"], strict=True))

    def of_kind(self, kind: str) -> list[str]:
        """Return the mitigators of a kind."""
        return [name for name, its in self.kinds.items() if its == kind]

    def values(self, measure: str) -> dict[str, Interval]:
        """Return a measure's finite values by mitigator; empty if the run does not have it."""
        values = intervals(self.table, measure) if measure in self.table else {}
        return {name: value for name, value in values.items() if math.isfinite(value.mean)}

    def difference(self, mitigator: str, other: str, measure: str) -> Interval:
        """Return by how much a mitigator exceeds another in a measure, with the interval of the difference.

        Of a run that did not measure it, which older ones did not, it is as wide as both intervals together.
        """
        found = self.differences
        rows = found[(found["mitigator"] == mitigator) & (found["other"] == other) & (found["measure"] == measure)]
        if len(rows):
            return Interval(*rows[["difference", "low", "high"]].iloc[0])
        one, two = (self.values(measure)[name] for name in (mitigator, other))
        return Interval(one.mean - two.mean, one.low - two.high, one.high - two.low)

    @property
    def measures(self) -> list[str]:
        """The measures, in the order that they are explained in, then those that are not explained."""
        there = self.table.columns.unique(0)
        return [str(name) for name in dict.fromkeys([*self.results["measures"], *there]) if name in there]

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
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}: report takes what run or demo wrote into --out")
    results = read_json(path, FORMAT)
    try:
        run = run_of(results, {})
    except ValueError as error:
        raise ValueError(f"{path} is damaged, or not of fairlearn-bridge run: {error}") from error
    return replace(run, maps=_read_maps(folder / "maps.npz"))


def run_of(results: dict[str, Any], maps: dict[str, NDArray[Any]]) -> Run:
    """Return a run of what ``results.json`` and ``maps.npz`` hold.

    Raises
    ------
    ValueError
        If `results` is incomplete or inconsistent.
    """
    _check(results, CONTENT, "results")
    # Older runs know no status.
    full = {"status": "done", "reason": ""}
    trainings = [{**full, **row, "losses": np.array(row["losses"], float)} for row in results["trainings"]]
    rows = results | {"trainings": trainings}
    tables = {key: _frame(rows[key], *CONTENT[key]) for key in KEYS}
    front = [SHOWN.get(name, name) for name in results.get("pareto_front", [])]
    _check_tables(tables, front)
    not_run, fewer_seeds = missing_seeds(tables["trainings"])
    table, mitigators, classifier = tables.pop("table"), tables.pop("mitigators"), results["region_classifier"]
    ran = mitigators["name"].isin(table["mitigator"][table["mean"].notna()])
    return Run(
        results=results,
        table=by_mitigator(table, mitigators["name"][ran]),
        mitigators=mitigators[ran],
        **tables,
        front=front,
        confident=_frame(results.get("confident", []), *CONTENT["confident?"]),
        differences=_frame(results.get("differences", []), *CONTENT["differences?"]),
        history=_frame(classifier.get("history", []), *CONTENT["region_classifier"]["history?"]),
        calibration=_calibration(classifier.get("calibration")),
        not_run=dict.fromkeys(mitigators["name"][~ran], "") | not_run,
        fewer_seeds=fewer_seeds,
        maps=maps,
    )


def missing_seeds(trainings: pd.DataFrame) -> tuple[dict[str, str], dict[str, str]]:
    """Return why mitigators did not run, and of each that ran with some seeds only, with how many and why.

    Parameters
    ----------
    trainings : DataFrame
        Columns ``mitigator``, ``seed``, ``status`` and ``reason``, as `fit_mitigators` gives them.
    """
    not_run, fewer_seeds = {}, {}
    for name, of_one in trainings.groupby("mitigator", sort=False):
        missing = of_one[of_one["status"] != "done"].to_dict("records")
        reasons = [f"{row['status']}: {row['reason']}" for row in missing]
        if len(missing) == len(of_one):
            not_run[str(name)] = reasons[0]
        elif missing:
            why = "; ".join(f"seed {row['seed']} {reason}" for row, reason in zip(missing, reasons, strict=True))
            fewer_seeds[str(name)] = f"{len(of_one) - len(missing)} of {len(of_one)} seeds; {why}"
    return not_run, fewer_seeds


def _check(value: Any, wanted: Any, where: str) -> None:
    """Raise ValueError unless `value` is as `wanted`, see `CONTENT`, says."""
    if isinstance(wanted, list):
        if not isinstance(value, list):
            raise ValueError(f"{where} must be a list, got {reprlib.repr(value)}")
        for number, entry in enumerate(value):
            _check(entry, wanted[0], f"{where}[{number}]")
    elif isinstance(wanted, dict):
        needed = [key for key in wanted if key is not ... and not key.endswith("?")]
        if not isinstance(value, dict):
            raise ValueError(f"{where} must be an object with {', '.join(needed)}, got {reprlib.repr(value)}")
        if missing := [key for key in needed if key not in value]:
            raise ValueError(f"{where} must be an object with {', '.join(needed)}, it lacks {', '.join(missing)}")
        for key, entry in value.items():
            kind = wanted.get(key, wanted.get(f"{key}?", wanted.get(..., "anything")))
            _check(entry, kind, f"{where}.{key}")
    elif not IS[wanted](value):
        raise ValueError(f"{where} must be {wanted}, got {reprlib.repr(value)}")


def _frame(rows: list[dict[str, Any]], columns: Mapping[str, Any]) -> pd.DataFrame:
    """Return records as a table; its values are NaN where they are not finite."""
    frame = pd.DataFrame(rows, columns=None if rows else [name.rstrip("?") for name in columns])
    values = [name for name, kind in columns.items() if kind == VALUE]
    frame = frame.replace(dict.fromkeys(("mitigator", "other", "name"), SHOWN))
    return frame.assign(**frame[values].astype(float).replace([np.inf, -np.inf], np.nan))


def _calibration(entry: dict[str, Any] | None) -> Calibration | None:
    if entry is None:
        return None
    bins = _frame(entry["bins"], *CONTENT["region_classifier"]["calibration?"]["bins"])
    if not bins["patches"].sum() > 0:
        raise ValueError("results.region_classifier.calibration.bins must hold patches, got none")
    return Calibration(bins, float(entry["error"]), float(entry["accuracy"]), int(entry["images"]))


def _check_tables(tables: Mapping[str, pd.DataFrame], front: list[str]) -> None:
    names = set(tables["mitigators"]["name"])
    if not names or tables["table"].empty:
        raise ValueError("results must hold mitigators and a table, got none")
    if unknown := set(tables["mitigators"]["kind"]) - set(KIND_COLORS):
        raise ValueError(f"kind must be one of {', '.join(KIND_COLORS)}, got {', '.join(sorted(unknown))}")
    for key, columns in KEYS.items():
        if tables[key].duplicated(columns).any():
            raise ValueError(f"{key!r} must hold each {' and '.join(columns)} once")
    named = {key: set(table["mitigator"]) for key, table in tables.items() if "mitigator" in table}
    for key, those in (named | {"pareto_front": set(front)}).items():
        if strangers := those - names:
            raise ValueError(f"{key!r} must name mitigators of the run, got {', '.join(sorted(strangers))}")


def _read_maps(path: Path) -> dict[str, NDArray[Any]]:
    maps = read_arrays(path)
    shown = [f"example_{name}" for name in maps.get("example_schemes", np.array([])).ravel()]
    if missing := [name for name in (*NEEDED, *shown) if name not in maps]:
        raise ValueError(f"{path} must hold the arrays {', '.join(missing)}")
    for name, array in maps.items():
        kind, axes = ARRAYS.get(name, ("u", 4) if name in shown else (array.dtype.kind, array.ndim))
        # A list of no names has no kind.
        if array.ndim != axes or (array.size and array.dtype.kind != kind):
            got = f"shape {array.shape} of {array.dtype}"
            raise ValueError(f"{path}: {name} must have {axes} axes and a dtype of kind {kind!r}, got {got}")
        if kind == "f" and not np.isfinite(array).all():
            raise ValueError(f"{path}: {name} must be finite")
        like = maps.get(name.replace("donor", "example"), array)
        if array.shape != like.shape:
            raise ValueError(f"{path}: {name} must have shape {like.shape}, got {array.shape}")
    return maps

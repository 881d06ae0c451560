"""check_experiment: repeats a small part of a run and compares it with what is in the run folder."""

import json
import math
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone

from captum_region import RegionAttribution, load_classifier
from fairlearn_bridge.arms import build_arms
from fairlearn_bridge.experiment import ExperimentConfig, ExperimentData, fingerprints, samples_of
from fairlearn_bridge.report.run import read_run

# What rounding may change, with another number of threads or of images a batch.
TOLERANCE = 1e-3


def check_experiment(config: ExperimentConfig, data: ExperimentData, out: str | os.PathLike[str]) -> pd.DataFrame:
    """Repeat a small part of `run_experiment` and compare it with the run folder `out`, in which nothing is changed.

    It compares the configuration, the digests of all images and attributes, the region maps of the report's examples,
    and the loss of the ERM baseline's first epoch with the first seed.

    Parameters
    ----------
    config : ExperimentConfig
    data : ExperimentData
    out : path
        A complete run folder.

    Returns
    -------
    DataFrame
        A row for each comparison: ``what``, ``then``, ``now``, and ``equal``, for numbers to 1e-3 of their value.

    Raises
    ------
    FileNotFoundError
        If `out` is not the folder of a complete run.
    """
    out = Path(out)
    run = read_run(out)
    results, pictures = run.results, run.maps
    rows: list[dict[str, Any]] = []

    of_baseline = [row for row in results["trainings"] if row["mitigator"] == "original" and row["losses"]]
    if not of_baseline:
        raise ValueError(f"{out / 'results.json'} must hold the losses of the ERM baseline, got none")
    recorded = of_baseline[0]

    def compare(what: str, then: Any, now: Any) -> None:
        numbers = isinstance(then, float) and isinstance(now, float)
        equal = math.isclose(then, now, rel_tol=TOLERANCE) if numbers else then == now
        rows.append({"what": what, "then": then, "now": now, "equal": equal})

    now = json.loads(json.dumps(asdict(config)))  # tuples become lists
    for name, then in results["config"].items():
        if name not in ("device", "n_jobs"):
            compare(f"setting {name}", then, now.get(name))
    for name, value in fingerprints(data).items():
        compare(f"{name} images", results.get("data", {}).get(name), value)
    classifier = load_classifier(out / "region_classifier").to(config.device)
    images, then = pictures["example_images"], pictures["example_maps"]
    attribution = RegionAttribution(classifier)
    maps = attribution.grid.to_pixels(attribution.region_map(images).cpu()).numpy()
    compare("mean of the examples' maps", float(then.mean()), float(maps.mean()))
    compare("largest difference of the examples' maps below 0.001", True, bool(np.abs(then - maps).max() < TOLERANCE))
    biased, seed = samples_of(config, data.biased), recorded["seed"]
    original = clone(build_arms(config, classifier)["original"].estimator)
    original.set_params(max_epochs=1, random_state=seed).fit(biased.X, biased.y)
    compare("loss of the ERM baseline's first epoch", recorded["losses"][0], float(original.history_[0, "train_loss"]))
    return pd.DataFrame(rows)

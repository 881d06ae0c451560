"""Repeating a small part of what made a folder, and comparing it with what is in the folder."""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone

from captum_region import RegionAttribution, load_classifier
from captum_region.datasets import AttributeImages
from fairlearn_bridge.arms import build_arms
from fairlearn_bridge.classifier import ImageClassifier
from fairlearn_bridge.experiment import ExperimentConfig, ExperimentData, samples_of
from fairlearn_bridge.report.run import read_run
from fairlearn_bridge.samples import fingerprints

# Settings that change no result.
BESIDES = ("device", "n_jobs")
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
        A row for each comparison: ``what``, ``then``, ``now``, and ``equal``, of losses and maps to 1e-3 of them.

    Raises
    ------
    FileNotFoundError
        If `out` is not the folder of a complete run.
    """
    out = Path(out)
    run = read_run(out)
    results, pictures = run.results, run.maps

    of_baseline = [row for row in results["trainings"] if row["mitigator"] == "original" and row["losses"]]
    if not of_baseline:
        raise ValueError(f"{out / 'results.json'} must hold the losses of the ERM baseline, got none")
    recorded = of_baseline[0]

    rows = settings_and_images(config, data.sets, results)
    classifier = load_classifier(out / "region_classifier").to(config.device)
    images, then = pictures["example_images"], pictures["example_maps"]
    attribution = RegionAttribution(classifier)
    maps = attribution.grid.to_pixels(attribution.region_map(images).cpu()).numpy()
    rows.append(nearly_equal("mean of the examples' maps", float(then.mean()), float(maps.mean())))
    largest = "largest difference of the examples' maps below 0.001"
    rows.append(compared(largest, True, bool(np.abs(then - maps).max() < TOLERANCE)))
    biased = samples_of(config, data.biased)
    original = clone(build_arms(config, classifier)["original"].estimator).set_params(random_state=recorded["seed"])
    rows.append(first_epoch("the ERM baseline", recorded["losses"], original, biased.X, biased.y))
    return pd.DataFrame(rows)


def settings_and_images(
    config: Any, sets: Mapping[str, AttributeImages], results: dict[str, Any]
) -> list[dict[str, Any]]:
    """Return the comparisons of each setting of a configuration, and of each set's images with their attributes."""
    settings = json.loads(json.dumps(asdict(config)))  # tuples become lists
    then, images = results["config"], results.get("data", {})
    return [
        *(compared(f"setting {name}", then.get(name), now) for name, now in settings.items() if name not in BESIDES),
        *(compared(f"{name} images", images.get(name), now) for name, now in fingerprints(sets).items()),
    ]


def first_epoch(of: str, losses: list[float], classifier: ImageClassifier, X: Any, y: Any) -> dict[str, Any]:
    """Return the comparison of the loss of the first epoch, for which the classifier is trained."""
    classifier.set_params(max_epochs=1).fit(X, y)
    now = float(classifier.history_[0, "train_loss"])
    return nearly_equal(f"loss of {of}'s first epoch", float(losses[0]), now)


def compared(what: str, then: Any, now: Any) -> dict[str, Any]:
    """Return a comparison."""
    return {"what": what, "then": then, "now": now, "equal": then == now}


def nearly_equal(what: str, then: float, now: float) -> dict[str, Any]:
    """Return a comparison of numbers that rounding changes."""
    return compared(what, then, now) | {"equal": math.isclose(then, now, rel_tol=TOLERANCE)}

"""What a run has found, as its files hold it."""

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import asdict
from typing import Any

import pandas as pd

from captum_region.calibration import Calibration
from captum_region.datasets import Faces
from captum_region.io.provenance import joined, provenance
from fairlearn_bridge.experiment.configuration import ExperimentConfig
from fairlearn_bridge.experiment.data import ExperimentData
from fairlearn_bridge.experiment.training import Trained
from fairlearn_bridge.metrics import MEASURES, pareto_front, summarize, wilson
from fairlearn_bridge.report.run import FORMAT, SHOWN
from fairlearn_bridge.samples import fingerprints

STATISTICS = ("mean", "std", "low", "high", "seeds", "difference", "difference_low", "difference_high")


def results_of(
    config: ExperimentConfig, data: ExperimentData, trained: Trained, calibration: Calibration, table: pd.DataFrame
) -> dict[str, Any]:
    """Return what was found, as JSON can hold it."""
    region_accuracy = trained.regions.region_accuracy
    assert region_accuracy is not None  # there are validation images
    return {
        "format": FORMAT,
        "target": config.target,
        "confounder": config.confounder,
        "target_names": {"False": f"not {config.target}", "True": config.target},
        "confounder_names": {"False": f"not {config.confounder}", "True": config.confounder},
        "counts": _counts(data.counts),
        "data": fingerprints(data.sets),
        "region_classifier": {
            "history": trained.regions.history.to_dict("records"),
            "mean_region_accuracy": float(region_accuracy.mean()),
            "best_region_accuracy": float(region_accuracy.max()),
            "region_accuracy": region_accuracy.tolist(),
            "calibration": asdict(calibration) | {"bins": calibration.bins.to_dict("records")},
        },
        "table": flat_table(table).to_dict("records"),
        "measures": {
            name: MEASURES[name].sentence.format(target=config.target, confounder=config.confounder)
            for name in table.columns.get_level_values("measure").unique()
        },
        "cells": _cells(trained.predictions).to_dict("records"),
        # Of those trained on the biased set: balanced data would beat them all.
        "pareto_front": [name for name, on in pareto_front(table.drop("balanced", errors="ignore")).items() if on],
        "trainings": trained.trainings.to_dict("records"),
        "skipped": data.skipped.to_dict("records"),
        "caveats": _caveats(config, data, trained.predictions),
        "confidence_level": 0.95,
    }


def differences_of(table: pd.DataFrame, trained: Trained, aligned: Mapping[Any, Any]) -> list[dict[Hashable, Any]]:
    """Return by how much the best scheme exceeds the ERM baseline and each control, with paired intervals.

    The best is that with the highest worst-group accuracy; each resample draws the same images for both.
    """
    ran = table["worst_cell", "mean"].dropna()
    schemes = [name for name in ran.index if trained.arms[name].kind == "scheme"]
    others = [name for name in ran.index if name == "original" or trained.arms[name].kind == "control"]
    if not schemes or not others:
        return []
    best = str(ran[schemes].idxmax())
    predictions = trained.predictions
    chosen = predictions[predictions["mitigator"].isin([best, *others])]
    of_others = flat_table(summarize(chosen, aligned=aligned, reference=best))
    rows = of_others[of_others["mitigator"] != best].rename(columns={"mitigator": "other"})
    # `summarize` has the others minus the reference.
    negated = {"difference": -rows["difference"], "low": -rows["difference_high"], "high": -rows["difference_low"]}
    kept = rows.assign(mitigator=best, **negated)
    columns = ["mitigator", "other", "measure", "difference", "low", "high"]
    return kept[columns].dropna(subset="difference").to_dict("records")


def how_it_was_run(config: ExperimentConfig, seconds: Mapping[str, float], git: Iterable[str | None]) -> dict[str, Any]:
    """Return the provenance, the configuration and the durations, as JSON can hold them; `git` is the trainings'."""
    return {
        **provenance(),
        "git": joined(git),
        "config": asdict(config),
        "random_states": list(range(config.random_state, config.random_state + config.seeds)),
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
    }


def flat_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return a row a mitigator and measure, with the statistics as columns."""
    flat = table.stack("measure").reset_index()
    statistics = [name for name in STATISTICS if name in flat]
    return flat[["mitigator", "measure", *statistics]].astype({"seeds": int})


def _counts(counts: pd.DataFrame) -> list[dict[Hashable, Any]]:
    tall = counts.rename_axis("set").stack(["target", "confounder"])
    return pd.DataFrame({"images": tall}).reset_index().to_dict("records")


def _cells(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return the accuracy of each cell, the mean over seeds, with Wilson's 95 % interval for its number of images."""
    rows = []
    for name, of_mitigator in predictions.groupby("mitigator", sort=False):
        right, seeds = of_mitigator["predicted"] == of_mitigator["target"], of_mitigator["seed"].nunique()
        for cell, of_cell in right.groupby([of_mitigator["group"], of_mitigator["confounder"]]):
            accuracy, images = float(of_cell.mean()), len(of_cell) // seeds
            rows.append((name, *cell, accuracy, *wilson(accuracy, images), images))
    return pd.DataFrame(rows, columns=["mitigator", "group", "confounder", "accuracy", "low", "high", "images"])


def _caveats(config: ExperimentConfig, data: ExperimentData, predictions: pd.DataFrame) -> list[str]:
    different = predictions.groupby(["mitigator", "seed"], sort=False)["predicted"].nunique()
    alike = [SHOWN.get(name, name) for name in different.index[different == 1].unique("mitigator")]
    caveats = [
        *(
            f"{name} puts all test images into one class, in one training or more: train longer, with --epochs."
            for name in alike
        ),
        f"The region map shows where an image has information about {config.confounder}, not what a particular "
        "classifier uses.",
        "The intervals cover the choice of test images only. Trainings also differ from seed to seed: see the standard "
        "deviation over seeds.",
    ]
    if config.seeds == 1:
        caveats.append("There is one seed: differences of a few hundredths may be chance. Use --seeds for more.")
    if isinstance(data.test, Faces):
        caveats.append("The faces are synthetic: they show how the method works, not how well it works on photographs.")
    if any(scheme.endswith("@predict") for scheme in config.schemes):
        caveats.append(
            "Schemes with @predict hide the region in prediction too: the classifier never sees it, nor what it says "
            f"about {config.target}."
        )
    balanced = data.counts.loc["balanced"]
    if balanced.max() - balanced.min() > 2:
        caveats.append("The balanced training set is not fully balanced: a cell has too few images, see the counts.")
    return caveats

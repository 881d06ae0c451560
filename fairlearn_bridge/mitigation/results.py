"""What a mitigation leaves in its folder: the model with its card, tables, plots and a page; and a check of it."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from captum_region import save_classifier
from captum_region.io.checkpoint import CLASSIFIER_FILES
from captum_region.io.files import plain, read_json, remove_pictures, write_json, write_text
from captum_region.io.provenance import provenance
from fairlearn_bridge.arms import build_arms
from fairlearn_bridge.checking import compared, first_epoch, settings_and_images
from fairlearn_bridge.deployment import ModelCard, load_mitigator, save_mitigator
from fairlearn_bridge.deployment.folder import MODEL_FILES
from fairlearn_bridge.mitigation.data import cells_of, samples_of
from fairlearn_bridge.mitigation.measures import LEVEL, sentences
from fairlearn_bridge.mitigation.words import cells_of_one, limitations
from fairlearn_bridge.samples import fingerprints, groups_of

if TYPE_CHECKING:
    from pathlib import Path

    from fairlearn_bridge.mitigation.configuration import MitigationConfig
    from fairlearn_bridge.mitigation.data import MitigationData
    from fairlearn_bridge.mitigation.running import Mitigation

FORMAT = 1
FILES = ("results.json", "table.csv", "groups.csv", "predictions.csv", "report.html")
SAVED = {"model": MODEL_FILES, "region_classifier": CLASSIFIER_FILES}


def results_of(found: Mitigation, title: str) -> dict[str, Any]:
    """Return what was found, as JSON holds it; null is what is not defined."""
    data, config, region_accuracy = found.data, found.config, found.trained.regions.region_accuracy
    skipped = pd.concat([images.skipped for images in data.sets.values()]).drop_duplicates()
    accuracy = {} if region_accuracy is None else {"mean": region_accuracy.mean(), "best": region_accuracy.max()}
    results = {
        "format": FORMAT,
        "title": title,
        **provenance(),
        "git": found.git,
        "config": asdict(config),
        "classes": np.asarray(found.model.classes_).tolist(),
        "threshold": found.thresholds.get(config.scheme),
        "thresholds": found.thresholds,
        "images": {name: len(images) for name, images in data.sets.items()},
        "split_off": list(data.split_off),
        "counts": {name: row.to_dict() for name, row in found.counts.iterrows()},
        "data": fingerprints(data.sets),
        "confidence_level": LEVEL,
        "measures": sentences(config, list(found.table["measure"].unique())),
        "table": found.table.to_dict("records"),
        "groups": found.groups.to_dict("records"),
        "mitigators": [
            {"name": name, "kind": arm.kind, "description": arm.description} for name, arm in found.trained.arms.items()
        ],
        "trainings": found.trained.trainings.to_dict("records"),
        "region_accuracy": accuracy,
        "notes": found.notes,
        "skipped": skipped.to_dict("records"),
        "seconds": {name: round(value, 1) for name, value in found.seconds.items()},
    }
    return plain(results)


def card_of(found: Mitigation, title: str) -> ModelCard:
    """Return the card of the classifier to keep."""
    config, data = found.config, found.data
    train, test = samples_of(config, data.train), groups_of(data.train, (config.target,))
    how = "split off from the same images" if "test" in data.split_off else "a test set of its own"
    cells = cells_of_one(found, config.scheme, found.decision).set_index("group")
    meaning = f" True is {config.target}." if found.model.classes_.dtype == bool else ""
    return ModelCard(
        title=title,
        trained_on=f"{len(data.train):,} images as they were; {config.confounder} is a spurious attribute of "
        f"{config.target}, made harder to use by {config.scheme}.{meaning}",
        cells=pd.crosstab(pd.Series(test, name=config.target), pd.Series(train.confounder, name=config.confounder)),
        measured_on=f"{len(data.test):,} images, {how}; intervals of {100 * LEVEL:g} % by Wilson's method.",
        measurements=cells[["images", "accuracy", "low", "high"]].rename_axis("cell"),
        limits=limitations(found),
    )


def write_mitigation(found: Mitigation, out: Path, *, title: str) -> dict[str, Any]:
    """Write all files of a mitigation into a folder and return its results, as ``results.json`` has them.

    Parameters
    ----------
    found : Mitigation
    out : path
        A folder that exists.
    title : str
        Of the page and of the model card.
    """
    from fairlearn_bridge.mitigation.page import write_page

    results = results_of(found, title)
    save_mitigator(found.model, out / "model", card=card_of(found, title))
    save_classifier(found.trained.classifier, out / "region_classifier")
    write_text(out / "table.csv", found.table.to_csv(index=False))
    write_text(out / "groups.csv", found.groups.to_csv(index=False))
    write_text(out / "predictions.csv", predictions_of(found).to_csv(index=False))
    if (out / "results.json").exists():  # of another mitigation, where --force writes over it
        remove_pictures(out / "plots")
    write_page(found, results, out)
    write_json(out / "results.json", results)
    return results


def predictions_of(found: Mitigation) -> pd.DataFrame:
    """Return a row a mitigator and image that was not trained on, with its name and cell."""
    parts = []
    for name in ("validation", "test"):
        images, rows = getattr(found.data, name), found.predictions[found.predictions["set"] == name]
        position = rows["image"].to_numpy()
        known = {"image": images.attributes.index.to_numpy(), "cell": cells_of(found.config, images)}
        columns = {key: values[position] for key, values in known.items()}
        columns |= {key: rows[key].to_numpy() for key in ("target", "predicted", "decided")}
        if found.thresholds:  # of more than two classes, the score of the last says little
            columns["score"] = rows["score"].to_numpy()
        parts.append(pd.DataFrame({"mitigator": rows["mitigator"].to_numpy(), "set": name, **columns}))
    return pd.concat(parts, ignore_index=True)


def check_mitigation(config: MitigationConfig, data: MitigationData, out: Path) -> pd.DataFrame:
    """Repeat a small part of a mitigation and compare it with its folder, in which nothing is changed.

    It compares the settings, the digests of all images and attributes, what the model in the folder predicts of the
    test images, and the loss of the first epoch of the ERM baseline.

    Returns
    -------
    DataFrame
        A row for each comparison: ``what``, ``then``, ``now``, and ``equal``, for the loss to 1e-3 of its value.

    Raises
    ------
    FileNotFoundError
        If `out` is not the folder of a complete mitigation.
    ValueError
        If a file in it is damaged.
    """
    path = out / "results.json"
    results = read_json(path, FORMAT)
    if not all(isinstance(results.get(name), dict) for name in ("config", "data")) or "trainings" not in results:
        raise ValueError(f"{path} must hold config, data and trainings")
    rows = settings_and_images(config, data.sets, results)
    if all(row["equal"] for row in rows if row["what"].endswith("images")):
        kept = pd.read_csv(out / "predictions.csv", dtype={"decided": str}, keep_default_na=False)
        kept = kept[(kept["mitigator"] == results["config"].get("scheme")) & (kept["set"] == "test")]
        predicted = load_mitigator(out / "model", device=config.device).predict(data.test.images)
        same = int((kept["decided"].astype(str).to_numpy() == predicted.astype(str)).sum())
        rows.append(compared("predictions of the model", len(kept), same))
        (losses,) = (row["losses"] for row in results["trainings"] if row["mitigator"] == "original")
        baseline = build_arms(config.experiment, None)["original"].estimator.set_params(
            random_state=config.random_state
        )
        samples = samples_of(config, data.train)
        rows.append(first_epoch("the ERM baseline", losses, baseline, samples.X, samples.y))
    return pd.DataFrame(rows)

"""A mitigation's trainings: the region classifier, the ERM baseline, the mitigated classifier and others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from captum_region import DenseRegionClassifier, RegionAttribution, RegionTraining
from captum_region.progress import stage
from fairlearn_bridge.arms import Arm, build_arms
from fairlearn_bridge.classifier import ImageClassifier
from fairlearn_bridge.comparison import fit_mitigators
from fairlearn_bridge.mitigation.data import MitigationData, samples_of, twins_of
from fairlearn_bridge.regions import train_regions
from fairlearn_bridge.samples import Samples

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    import torch

    from fairlearn_bridge.mitigation.configuration import MitigationConfig

BASELINE_IS = "The ERM baseline: trained on the same images without mitigation."


@dataclass(frozen=True)
class Trained:
    """What was trained.

    Attributes
    ----------
    classifier : DenseRegionClassifier
        Of the spurious attributes, on the CPU.
    regions : RegionTraining
        How `classifier` was trained.
    maps : Tensor, shape (N, rows, cols)
        The region maps of the training images.
    arms : dict of Arm
        The ERM baseline, the mitigated classifier, the others.
    predictions : DataFrame
        As `fit_mitigators` gives them, with a column ``set``: ``validation``, ``test``, or ``twins of`` an attribute,
        the test images with it toggled; ``image`` is the position in the set.
    trainings : DataFrame
        As `fit_mitigators` gives them.
    """

    classifier: DenseRegionClassifier
    regions: RegionTraining
    maps: torch.Tensor
    arms: dict[str, Arm]
    predictions: pd.DataFrame
    trainings: pd.DataFrame


def train(
    config: MitigationConfig,
    data: MitigationData,
    model: Path,
    states: Path | None,
    seconds: dict[str, float],
    quiet: bool,
) -> Trained:
    """Train everything and predict the images that were not trained on; `model` gets the mitigated classifier.

    Raises
    ------
    ValueError
        If the ERM baseline or the mitigated classifier cannot be trained.
    """
    sets = {name: samples_of(config, images) for name, images in data.sets.items()}
    trained_on = sets["train"]
    if config.backbone is not None:  # an error of all trainings is one of the options
        parameters = {"image_shape": trained_on.X.shape[1:], "classes": np.unique(trained_on.y).tolist()}
        ImageClassifier(**parameters, **config.experiment.network, random_state=0).initialize()
    with stage("training the region classifier", seconds, quiet):
        classifier, regions = _train_regions(config, trained_on, sets["validation"], states, quiet)
    with stage("attributing the training images", seconds, quiet):
        maps = RegionAttribution(classifier).region_map(trained_on.X, show_progress=not quiet)
    every = build_arms(config.experiment, classifier.cpu())
    arms = {name: every[name] for name in ("original", config.scheme, *config.others)}
    arms["original"] = arms["original"]._replace(description=BASELINE_IS)
    held_out = {name: sets[name] for name in ("validation", "test")}
    held_out |= {f"twins of {name}": samples_of(config, twins) for name, twins in twins_of(config, data.test).items()}
    with stage("training the classifiers", seconds, quiet):
        predictions, trainings = fit_mitigators(
            {name: arm.estimator for name, arm in arms.items()},
            trained_on,
            _joined(list(held_out.values())),
            fit_params={"region_maps": maps.numpy()},
            reuse={name: "original" for name, arm in arms.items() if arm.on_original},
            random_states=(config.random_state,),
            n_jobs=config.n_jobs,
            checkpoint_dir=states,
            models={config.scheme: model},
            show_progress=not quiet,
        )
    for row in trainings.to_dict("records"):
        if row["chosen"]:  # where there was a choice
            arm = arms[row["mitigator"]]
            arms[row["mitigator"]] = arm._replace(description=f"{arm.description} Chosen: {row['chosen']}.")
        if row["mitigator"] in ("original", config.scheme) and row["status"] != "done":
            raise ValueError(f"{row['mitigator']} could not be trained: {row['reason']}")
    sizes = [len(one.X) for one in held_out.values()]
    of_image = np.repeat(list(held_out), sizes)[predictions["image"]]
    position = np.concatenate([np.arange(size) for size in sizes])[predictions["image"]]
    predictions = predictions.assign(set=of_image, image=position)
    return Trained(classifier, regions, maps, arms, predictions, trainings)


def _train_regions(
    config: MitigationConfig, train: Samples, validation: Samples, states: Path | None, quiet: bool
) -> tuple[DenseRegionClassifier, RegionTraining]:
    """Train a region classifier of the spurious attributes within the classes of the target."""
    known = np.isin(validation.confounder, np.unique(train.confounder))
    return train_regions(
        train.X,
        train.confounder,
        train.y,
        validation=(validation.X[known], validation.confounder[known]) if known.any() else None,
        region_epochs=config.region_epochs,
        random_state=config.random_state,
        device=config.device,
        checkpoint_dir=states,
        show_progress=not quiet,
    )


def _joined(parts: list[Samples]) -> Samples:
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in ("X", "y", "confounder")}
    return Samples(**columns)

"""Trainings of a run or a mitigation: the region classifier, then every arm with every seed."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from captum_region import DenseRegionClassifier, RegionAttribution, RegionTraining
from captum_region.progress import stage
from fairlearn_bridge.arms import Arm, build_arms
from fairlearn_bridge.classifier import ImageClassifier
from fairlearn_bridge.comparison import fit_mitigators
from fairlearn_bridge.experiment.configuration import ExperimentConfig
from fairlearn_bridge.experiment.data import ExperimentData, samples_of
from fairlearn_bridge.regions import train_regions
from fairlearn_bridge.report.run import missing_seeds
from fairlearn_bridge.samples import Samples


@dataclass(frozen=True)
class Trained:
    """What was trained.

    Attributes
    ----------
    classifier : DenseRegionClassifier
        Of the spurious attribute, on the CPU.
    regions : RegionTraining
        How `classifier` was trained.
    maps : Tensor, shape (N, rows, cols)
        The region maps of the training images.
    arms : dict of Arm
    predictions, trainings : DataFrame
        As `fit_mitigators` gives them.
    """

    classifier: DenseRegionClassifier
    regions: RegionTraining
    maps: torch.Tensor
    arms: dict[str, Arm]
    predictions: pd.DataFrame
    trainings: pd.DataFrame


def train_arms(
    config: ExperimentConfig,
    images: Samples,
    held_out: Samples,
    arms_of: Callable[[DenseRegionClassifier], dict[str, Arm]],
    *,
    validation: tuple[Any, Any] | None,
    states: Path | None,
    seconds: dict[str, float],
    quiet: bool,
    fit_params: dict[str, Any],
    **options: Any,
) -> Trained:
    """Train the region classifier within the classes of the target, then each arm with each seed; predict `held_out`.

    Parameters
    ----------
    arms_of : callable
        Gets the region classifier.
    validation : (images, spurious attribute), optional
        For the accuracy of the region classifier.
    states : path, optional
        The folder that trainings are resumed from.
    fit_params, **options
        More for `fit_mitigators`.
    """
    if config.backbone is not None:  # an error of all trainings is one of the options
        parameters = {"image_shape": images.X.shape[1:], "classes": np.unique(images.y).tolist()} | config.network
        ImageClassifier(**parameters, random_state=0).initialize()
    shared: dict[str, Any] = {"checkpoint_dir": states, "show_progress": not quiet}
    with stage("training the region classifier", seconds, quiet):
        classifier, regions = train_regions(
            images.X,
            images.confounder,
            images.y,
            validation=validation,
            region_epochs=config.region_epochs,
            random_state=config.random_state,
            device=config.device,
            **shared,
        )
    with stage("attributing the training images", seconds, quiet):
        maps = RegionAttribution(classifier).region_map(images.X, show_progress=not quiet)
    arms = arms_of(classifier.cpu())
    with stage("training the classifiers", seconds, quiet):
        predictions, trainings = fit_mitigators(
            {name: arm.estimator for name, arm in arms.items()},
            images,
            held_out,
            fit_params={"region_maps": maps.numpy()} | fit_params,
            reuse={name: "original" for name, arm in arms.items() if arm.on_original},
            random_states=range(config.random_state, config.random_state + config.seeds),
            n_jobs=config.n_jobs,
            **shared,
            **options,
        )
    return Trained(classifier, regions, maps, arms, predictions, trainings)


def train(
    config: ExperimentConfig,
    data: ExperimentData,
    test: Samples,
    states: Path,
    seconds: dict[str, float],
    quiet: bool,
    quantiles: Sequence[float] | None = None,
) -> Trained:
    """Train the arms of a run and predict `test`; with `quantiles` each scheme at each, without controls."""
    biased, balanced, validation = (samples_of(config, part) for part in (data.biased, data.balanced, data.validation))
    trained = train_arms(
        config,
        biased,
        test,
        partial(build_arms, config, quantiles=quantiles),
        validation=(validation.X, validation.confounder),
        states=states,
        seconds=seconds,
        quiet=quiet,
        fit_params={"validation": (validation.X, validation.y)},
        train_on={"balanced": balanced},
    )
    not_run, fewer_seeds = missing_seeds(trained.trainings)
    for name, reason in {**not_run, **fewer_seeds}.items():
        print(f"{name}: {reason}", file=sys.stderr)
    return trained

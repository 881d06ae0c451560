"""A run's trainings: the region classifier and every arm with every seed."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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
    """What a run has trained.

    Attributes
    ----------
    classifier : DenseRegionClassifier
        Of the spurious attribute, on the CPU.
    training : RegionTraining
        How `classifier` was trained.
    maps : Tensor, shape (N, rows, cols)
        The region maps of the biased set.
    arms : dict of Arm
    predictions, trainings : DataFrame
        As `fit_mitigators` gives them.
    """

    classifier: DenseRegionClassifier
    training: RegionTraining
    maps: torch.Tensor
    arms: dict[str, Arm]
    predictions: pd.DataFrame
    trainings: pd.DataFrame


def train(
    config: ExperimentConfig,
    data: ExperimentData,
    test: Samples,
    states: Path,
    seconds: dict[str, float],
    quiet: bool,
    quantiles: Sequence[float] | None = None,
) -> Trained:
    """Train the region classifier within the classes of the target, then each arm with each seed, and predict `test`.

    Parameters
    ----------
    config : ExperimentConfig
    data : ExperimentData
        All arms are trained on the biased set, but "balanced", which has its own.
    test : Samples
    states : path
        The folder that trainings are resumed from.
    seconds : dict
        Gets the time of each stage.
    quiet : bool
        No progress on stderr.
    quantiles : sequence of float, optional
        See `build_arms`.
    """
    if config.backbone is not None:  # an error of all trainings is one of the options
        parameters = {"image_shape": data.biased.images.shape[1:], "classes": [False, True]} | config.network
        ImageClassifier(**parameters, random_state=0).initialize()
    biased, balanced, validation = (samples_of(config, part) for part in (data.biased, data.balanced, data.validation))
    with stage("training the region classifier", seconds, quiet):
        classifier, training = train_regions(
            biased.X,
            biased.confounder,
            biased.y,
            validation=(validation.X, validation.confounder),
            region_epochs=config.region_epochs,
            random_state=config.random_state,
            device=config.device,
            checkpoint_dir=states,
            show_progress=not quiet,
        )
    with stage("attributing the training images", seconds, quiet):
        maps = RegionAttribution(classifier).region_map(biased.X, show_progress=not quiet)
    arms = build_arms(config, classifier.cpu(), quantiles)
    with stage("training the target classifiers", seconds, quiet):
        predictions, trainings = fit_mitigators(
            {name: arm.estimator for name, arm in arms.items()},
            biased,
            test,
            train_on={"balanced": balanced},
            fit_params={"region_maps": maps.numpy(), "validation": (validation.X, validation.y)},
            reuse={name: "original" for name, arm in arms.items() if arm.on_original},
            random_states=range(config.random_state, config.random_state + config.seeds),
            n_jobs=config.n_jobs,
            checkpoint_dir=states,
            show_progress=not quiet,
        )
    not_run, fewer_seeds = missing_seeds(trainings)
    for name, reason in {**not_run, **fewer_seeds}.items():
        print(f"{name}: {reason}", file=sys.stderr)
    return Trained(classifier, training, maps, arms, predictions, trainings)

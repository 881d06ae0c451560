"""A run's trainings: the region classifier and every arm with every seed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from captum_region import (
    DenseRegionClassifier,
    RegionGrid,
    RegionTraining,
    fit_region_classifier,
)
from captum_region.calibration import Calibration, balanced_subset, measure_calibration
from fairlearn_bridge.comparison import fit_mitigators
from fairlearn_bridge.experiment.data import ExperimentData, samples_of
from fairlearn_bridge.report.words import listed

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    import pandas as pd
    from numpy.typing import NDArray

    from fairlearn_bridge.arms import Arm
    from fairlearn_bridge.experiment.configuration import ExperimentConfig
    from fairlearn_bridge.samples import Samples


def train_region_classifier(
    config: ExperimentConfig,
    data: ExperimentData,
    *,
    checkpoint_dir: str | os.PathLike[str] | None = None,
    show_progress: bool = False,
) -> tuple[DenseRegionClassifier, RegionTraining]:
    """Train a region classifier of the confounder on the biased set, within the classes of the target."""
    biased, validation = samples_of(config, data.biased), samples_of(config, data.validation)
    grid = RegionGrid.for_images(data.biased.image_size)
    classifier = DenseRegionClassifier(grid, 2, random_state=config.random_state)
    training = fit_region_classifier(
        classifier,
        biased.X,
        biased.confounder,
        within=biased.y,
        validation=(validation.X, validation.confounder),
        epochs=config.region_epochs,
        random_state=config.random_state,
        device=config.device,
        checkpoint_dir=checkpoint_dir,
        show_progress=show_progress,
    )
    return classifier, training


def measure_region_calibration(
    config: ExperimentConfig,
    data: ExperimentData,
    classifier: DenseRegionClassifier,
    *,
    limit: int = 400,
    show_progress: bool = False,
) -> Calibration:
    """Compare the region classifier's confidence with its accuracy on test images, as many with as without."""
    test = samples_of(config, data.test)
    chosen = balanced_subset(test.confounder, limit=limit, random_state=config.random_state)
    return measure_calibration(
        classifier, np.asarray(test.X)[chosen], test.confounder[chosen], bins=40, show_progress=show_progress
    )


def fit_arms(
    config: ExperimentConfig,
    arms: Mapping[str, Arm],
    data: ExperimentData,
    test: Samples,
    *,
    maps: NDArray[np.float32] | None = None,
    checkpoint_dir: str | os.PathLike[str] | None = None,
    show_progress: bool = False,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Train each arm with each seed on the biased set, "balanced" on the balanced one, and predict `test`.

    `maps` are the biased set's region maps, where they have been computed. Returned is what `fit_mitigators` does.
    """
    validation = samples_of(config, data.validation)
    return fit_mitigators(
        {name: arm.estimator for name, arm in arms.items()},
        samples_of(config, data.biased),
        test,
        train_on={"balanced": samples_of(config, data.balanced)},
        fit_params={"region_maps": maps, "validation": (validation.X, validation.y)},
        reuse={name: "original" for name, arm in arms.items() if arm.on_original},
        random_states=range(config.random_state, config.random_state + config.seeds),
        n_jobs=config.n_jobs,
        checkpoint_dir=checkpoint_dir,
        show_progress=show_progress,
    )


def not_run(trainings: pd.DataFrame) -> dict[str, str]:
    """Return why mitigators did not run, with whichever seed, by name."""
    told = {}
    for name, of_one in trainings.groupby("mitigator", sort=False):
        missing = of_one[of_one["status"] != "done"]
        if len(missing):
            seeds = (
                f" with seed {listed([str(seed) for seed in missing['seed']])}" if len(missing) < len(of_one) else ""
            )
            told[str(name)] = f"{missing['status'].iloc[0].capitalize()}{seeds}: {missing['reason'].iloc[0]}."
    return told


def chosen_by(trainings: pd.DataFrame) -> dict[str, str]:
    """Return what was chosen by mitigators that had a choice, by name."""
    had_choice = trainings[trainings["chosen"] != ""].groupby("mitigator", sort=False)["chosen"]
    return {str(name): f"Chosen, seed by seed: {', '.join(of_seeds)}." for name, of_seeds in had_choice}

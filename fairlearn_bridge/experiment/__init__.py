"""A run: its configuration, data, trainings and results, from images to a folder with a report."""

from fairlearn_bridge.experiment.configuration import ExperimentConfig
from fairlearn_bridge.experiment.data import ExperimentData, fingerprints, samples_of, split_data, synthetic_data
from fairlearn_bridge.experiment.results import FORMAT, flat_table, how_it_was_run
from fairlearn_bridge.experiment.running import run_experiment, stage
from fairlearn_bridge.experiment.training import fit_arms, not_run, train_region_classifier

__all__ = [
    "FORMAT",
    "ExperimentConfig",
    "ExperimentData",
    "fingerprints",
    "fit_arms",
    "flat_table",
    "how_it_was_run",
    "not_run",
    "run_experiment",
    "samples_of",
    "split_data",
    "stage",
    "synthetic_data",
    "train_region_classifier",
]

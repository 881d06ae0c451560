"""A run: its configuration, data, trainings and results, from images to a folder with a report."""

from fairlearn_bridge.experiment.configuration import ExperimentConfig
from fairlearn_bridge.experiment.data import ExperimentData, samples_of, split_data, synthetic_data
from fairlearn_bridge.experiment.results import flat_table, how_it_was_run
from fairlearn_bridge.experiment.running import run_experiment
from fairlearn_bridge.experiment.training import train

__all__ = [
    "ExperimentConfig",
    "ExperimentData",
    "flat_table",
    "how_it_was_run",
    "run_experiment",
    "samples_of",
    "split_data",
    "synthetic_data",
    "train",
]

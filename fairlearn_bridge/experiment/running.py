"""The whole job from images to a run folder: find the confounder, train every arm, measure, write, report."""

from __future__ import annotations

import json
import shutil
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from captum_region import (
    RegionAttribution,
    save_classifier,
)
from captum_region.files import CHECKPOINTS, locked, replacing
from fairlearn_bridge.arms import build_arms
from fairlearn_bridge.experiment.data import ExperimentData, samples_of
from fairlearn_bridge.experiment.pictures import confident_images, example_pictures
from fairlearn_bridge.experiment.results import flat_table, how_it_was_run, plain, results_of
from fairlearn_bridge.experiment.training import (
    chosen_by,
    fit_arms,
    measure_region_calibration,
    not_run,
    train_region_classifier,
)
from fairlearn_bridge.metrics import alignment, summarize
from fairlearn_bridge.report.page import draw_report
from fairlearn_bridge.report.run import Run, run_of

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator
    from pathlib import Path

    from fairlearn_bridge.experiment.configuration import ExperimentConfig


@contextmanager
def stage(name: str, seconds: dict[str, float], quiet: bool) -> Iterator[None]:
    """Say on stderr what is under way, and note in `seconds` how long it took."""
    if not quiet:
        print(f"{name} ...", file=sys.stderr, flush=True)
    start = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - start


def run_experiment(
    config: ExperimentConfig,
    data: ExperimentData,
    out: str | os.PathLike[str],
    *,
    title: str,
    seconds: dict[str, float] | None = None,
    quiet: bool = False,
) -> Run:
    """Run all arms on `data` and write the run folder: results.json, tables, maps, checkpoint, plots, report.html.

    The state of each training and what came out of it are kept in ``out/checkpoints``: a run that was stopped, called
    again, goes on and ends with the same results. They are removed when the run is complete, unless a training has
    failed: called again, the run then tries that alone again.

    Parameters
    ----------
    config : ExperimentConfig
    data : ExperimentData
    out : path
        The run folder; made, with its parents.
    title : str
        Of the report.
    seconds : dict, optional
        Time of the stages before; those of the run are added.
    quiet : bool, default=False
        No progress on stderr.

    Returns
    -------
    Run
        What the report is drawn from; `Run.failed` tells whether a training has failed.

    Raises
    ------
    ValueError
        If something in the way would keep the results from being written; before any training.
    OSError, MemoryError
        As `fit_mitigators`; ``out/checkpoints`` is kept.
    """
    with locked(out) as folder:
        _check_place(folder)
        return _run(config, data, folder, title, {} if seconds is None else seconds, quiet)


def _check_place(out: Path) -> None:
    """Raise ValueError if what is in `out` would refuse the results, hours later."""
    for name in ("results.json", "table.csv", "predictions.csv", "maps.npz", "report.html"):
        if (out / name).is_dir():
            raise ValueError(f"{out / name} must be a file, it is a folder")
    for name in (CHECKPOINTS, "plots", "region_classifier"):
        if (out / name).exists() and not (out / name).is_dir():
            raise ValueError(f"{out / name} must be a folder, it is a file")
    if (out / CHECKPOINTS).is_symlink():
        raise ValueError(f"{out / CHECKPOINTS} must be a folder of its own, it is a link")


def _run(
    config: ExperimentConfig, data: ExperimentData, out: Path, title: str, seconds: dict[str, float], quiet: bool
) -> Run:
    states = out / CHECKPOINTS
    biased = samples_of(config, data.biased)
    with stage("training the region classifier", seconds, quiet):
        classifier, training = train_region_classifier(config, data, checkpoint_dir=states, show_progress=not quiet)
        save_classifier(classifier, out / "region_classifier")
    with stage("attributing the training images", seconds, quiet):
        attribution = RegionAttribution(classifier)
        maps = attribution.region_map(biased.X, show_progress=not quiet)
    with stage("measuring its calibration", seconds, quiet):
        calibration = measure_region_calibration(config, data, classifier, show_progress=not quiet)
    classifier.cpu()
    arms = build_arms(config, classifier)
    with stage("training the target classifiers", seconds, quiet):
        test = samples_of(config, data.test, with_twins=True)
        predictions, trainings = fit_arms(
            config, arms, data, test, maps=maps.numpy(), checkpoint_dir=states, show_progress=not quiet
        )
    chosen = chosen_by(trainings)
    for name, reason in not_run(trainings).items():
        print(f"{name}: {reason}", file=sys.stderr)
    with stage("measuring", seconds, quiet):
        table = summarize(predictions, aligned=alignment(biased.y, biased.confounder))
    with replacing(out / "predictions.csv") as path:
        predictions.to_csv(path, index=False)
    with replacing(out / "table.csv") as path:
        flat_table(table).to_csv(path, index=False)
    pictures = example_pictures(config, data, attribution, maps, training.region_accuracy)
    confident, confident_pictures = confident_images(config, data, attribution, maps)
    with replacing(out / "maps.npz") as path:
        np.savez_compressed(path, allow_pickle=False, **pictures, **confident_pictures)
    results = results_of(config, data, training, calibration, table, predictions, trainings) | {
        "mean_map": maps.double().mean(0).float().tolist(),
        "title": title,
        "confident": confident,
        **how_it_was_run(config, seconds, [training.git, *trainings["git"]]),
        "mitigators": [
            {"name": name, "kind": arm.kind, "description": f"{arm.description} {chosen.get(name, '')}".rstrip()}
            for name, arm in arms.items()
        ],
    }
    results = plain(results)
    with replacing(out / "results.json") as path:
        path.write_text(json.dumps(results, indent=1) + "\n")
    run = run_of(results, {**pictures, **confident_pictures})
    draw_report(run, out)
    if not run.failed:
        shutil.rmtree(states)
    return run

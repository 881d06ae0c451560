"""The whole job from images to a run folder: find the spurious attribute, train every arm, measure, write, report."""

import os
from pathlib import Path

import numpy as np

from captum_region import save_classifier
from captum_region.calibration import balanced_subset, measure_calibration
from captum_region.io.checkpoint import CLASSIFIER_FILES
from captum_region.io.files import (
    CHECKPOINTS,
    check_place,
    locked,
    plain,
    remove_pictures,
    remove_states,
    replacing,
    write_json,
    write_text,
)
from captum_region.progress import stage
from fairlearn_bridge.experiment.configuration import ExperimentConfig
from fairlearn_bridge.experiment.data import ExperimentData, samples_of
from fairlearn_bridge.experiment.pictures import confident_images, example_pictures
from fairlearn_bridge.experiment.results import differences_of, flat_table, how_it_was_run, results_of
from fairlearn_bridge.experiment.training import train
from fairlearn_bridge.metrics import alignment, summarize
from fairlearn_bridge.report.page import draw_report
from fairlearn_bridge.report.run import Run, run_of

_FILES = ("results.json", "table.csv", "predictions.csv", "maps.npz", "report.html")


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

    The states and results of all trainings are kept in ``out/checkpoints``: a stopped run that is started again resumes
    and ends with the same results. They are removed when the run is complete, unless a training failed: started again,
    the run repeats only that training.

    Parameters
    ----------
    config : ExperimentConfig
    data : ExperimentData
    out : path
        The run folder; made, with its parents.
    title : str
        Of the report.
    seconds : dict, optional
        Durations of earlier stages; those of the run are added.
    quiet : bool, default=False
        No progress on stderr.

    Returns
    -------
    Run
        What the report is drawn from; `Run.failed` says whether a training failed.

    Raises
    ------
    ValueError
        If something in `out` is in the way of the results; raised before any training.
    OSError, MemoryError
        As `fit_mitigators`; ``out/checkpoints`` is kept.
    """
    with locked(out) as folder:
        check_place(folder, _FILES, ("plots",), saved={"region_classifier": CLASSIFIER_FILES})
        return _run(config, data, folder, title, {} if seconds is None else seconds, quiet)


def _run(
    config: ExperimentConfig, data: ExperimentData, out: Path, title: str, seconds: dict[str, float], quiet: bool
) -> Run:
    biased, test = samples_of(config, data.biased), samples_of(config, data.test, with_twins=True)
    trained = train(config, data, test, out / CHECKPOINTS, seconds, quiet)
    predictions, trainings = trained.predictions, trained.trainings
    save_classifier(trained.classifier, out / "region_classifier")
    with stage("measuring the calibration of the region classifier", seconds, quiet):
        chosen = balanced_subset(test.confounder, limit=400, random_state=config.random_state)
        calibration = measure_calibration(
            trained.classifier, test.X[chosen], test.confounder[chosen], bins=40, show_progress=not quiet
        )
    with stage("measuring", seconds, quiet):
        aligned = alignment(biased.y, biased.confounder)
        table = summarize(predictions, aligned=aligned)
        differences = differences_of(table, trained, aligned)
    write_text(out / "predictions.csv", predictions.to_csv(index=False))
    write_text(out / "table.csv", flat_table(table).to_csv(index=False))
    pictures = example_pictures(config, data, trained)
    confident, confident_pictures = confident_images(config, data, trained)
    pictures |= confident_pictures
    with replacing(out / "maps.npz") as path:
        np.savez_compressed(path, allow_pickle=False, **pictures)
    had_choice = trainings[trainings["chosen"] != ""].groupby("mitigator")["chosen"]
    chosen_by = {name: f" Chosen, seed by seed: {', '.join(of_seeds)}." for name, of_seeds in had_choice}
    results = results_of(config, data, trained, calibration, table) | {
        "mean_map": trained.maps.double().mean(0).float().tolist(),
        "title": title,
        "confident": confident,
        "differences": differences,
        **how_it_was_run(config, seconds, [trained.regions.git, *trainings["git"]]),
        "mitigators": [
            {"name": name, "kind": arm.kind, "description": arm.description + chosen_by.get(name, "")}
            for name, arm in trained.arms.items()
        ],
    }
    results = plain(results)
    if (out / "results.json").exists():  # of another run, where --force writes over it
        remove_pictures(out / "plots")
    write_json(out / "results.json", results)
    run = run_of(results, pictures)
    draw_report(run, out)
    if not run.failed:
        remove_states(out / CHECKPOINTS)
    return run

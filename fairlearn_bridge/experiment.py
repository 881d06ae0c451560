"""The whole job from images to a run folder: find the confounder, train every arm, measure, write, report."""

from __future__ import annotations

import json
import shutil
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import binomtest

from captum_region import (
    DenseRegionClassifier,
    RegionAttribution,
    RegionGrid,
    RegionTraining,
    fit_region_classifier,
    save_classifier,
)
from captum_region.calibration import Calibration, balanced_subset, measure_calibration
from captum_region.datasets import AttributeImages, Faces, make_faces
from captum_region.digest import digest
from captum_region.files import CHECKPOINTS, locked, replacing
from captum_region.provenance import joined, provenance
from captum_region.randomness import draw_seed
from fairlearn_bridge.arms import FAST_OTHERS, OTHERS, Arm, build_arms
from fairlearn_bridge.comparison import fit_mitigators
from fairlearn_bridge.metrics import MEASURES, alignment, metric_frame, pareto_front, summarize
from fairlearn_bridge.noise import AttributionNoise
from fairlearn_bridge.protocol import confounded_split
from fairlearn_bridge.report.page import draw_report
from fairlearn_bridge.report.run import Run, run_of
from fairlearn_bridge.report.words import listed
from fairlearn_bridge.samples import Samples
from fairlearn_bridge.schemes import SCHEMES, is_automatic, scheme_parameters

if TYPE_CHECKING:
    import os
    from collections.abc import Hashable, Iterable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

FORMAT = 1

STATISTICS = ("mean", "std", "low", "high", "seeds", "difference", "difference_low", "difference_high")


@dataclass(frozen=True)
class ExperimentConfig:
    """What to run; see the options of ``fairlearn-bridge run``.

    Attributes
    ----------
    target, confounder : str
        Names of binary attributes.
    schemes : tuple of str
        Of ``fairlearn_bridge.schemes.SCHEMES``; ``@predict`` behind one perturbs in prediction also, ``@elsewhere`` and
        ``@random`` make it a control, ``@auto`` lets it choose its quantile, and ``auto`` alone the scheme too. The
        first is the one that both controls go with.
    others : tuple of str
        Of `OTHERS`: the mitigators to put beside them.
    quantile, noise_std : float
        See `AttributionNoise`.
    train_size, test_per_cell, validation_per_cell : int, or None for as many as the data allow
        See `confounded_split`.
    epochs, batch_size, lr
        Of the target classifier.
    region_epochs : int, optional
        Of the region classifier; by its recipe if None.
    seeds : int
        How many trainings of each arm, with seeds ``random_state``, ``random_state + 1``, ...
    random_state : int
    n_jobs : int, optional
        Trainings side by side.
    device : str
    """

    target: str
    confounder: str
    schemes: tuple[str, ...] = ("general_transplant", "specific_transplant", "general_mask@predict", "general_noise")
    others: tuple[str, ...] = FAST_OTHERS
    quantile: float = 0.7
    noise_std: float = 0.5
    train_size: int | None = None
    test_per_cell: int | None = None
    validation_per_cell: int = 25
    epochs: int = 10
    batch_size: int = 128
    lr: float = 1e-3
    region_epochs: int | None = None
    seeds: int = 1
    random_state: int = 0
    n_jobs: int | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        for scheme in self.schemes:
            scheme_parameters(scheme)
        AttributionNoise(quantile=self.quantile, noise_std=self.noise_std).validate()
        if not self.schemes:
            raise ValueError(f"schemes must name at least one of {', '.join(SCHEMES)}")
        if unknown := set(self.others) - set(OTHERS):
            raise ValueError(f"others must be of {', '.join(OTHERS)}, got {', '.join(sorted(unknown))}")
        for name in ("epochs", "batch_size", "seeds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        draw_seed(self.random_state)  # which refuses what is none
        if self.target == self.confounder:
            raise ValueError(f"confounder must be another attribute than the target, got {self.confounder!r} for both")


@contextmanager
def stage(name: str, seconds: dict[str, float], quiet: bool) -> Iterator[None]:
    """Say on stderr what is under way, and note in `seconds` how long it took."""
    if not quiet:
        print(f"{name} ...", file=sys.stderr, flush=True)
    start = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - start


@dataclass(frozen=True)
class ExperimentData:
    """The images of each set of the protocol, and how many there are of each cell."""

    biased: AttributeImages
    balanced: AttributeImages
    validation: AttributeImages
    test: AttributeImages
    counts: pd.DataFrame
    skipped: pd.DataFrame


def split_data(config: ExperimentConfig, train: AttributeImages, test: AttributeImages | None = None) -> ExperimentData:
    """Draw the protocol's sets from images, the test set from `test` if there is a partition for it."""
    parts = [train] if test is None else [train, test]
    target, confounder = (
        np.concatenate([part.binary(name) for part in parts]) for name in (config.target, config.confounder)
    )
    is_train = np.repeat([True, False], [len(train), len(target) - len(train)])
    identities = None
    if all(part.identities is not None for part in parts):
        identities = np.concatenate([np.asarray(part.identities) for part in parts])
    split = confounded_split(
        pd.Series(target, name=config.target),
        pd.Series(confounder, name=config.confounder),
        train_size=config.train_size,
        test_per_cell=config.test_per_cell,
        validation_per_cell=config.validation_per_cell,
        identities=identities,
        train_pool=None if test is None else is_train,
        test_pool=None if test is None else ~is_train,
        random_state=config.random_state,
    )
    return ExperimentData(
        biased=train.subset(split.biased),
        balanced=train.subset(split.balanced),
        validation=train.subset(split.validation),
        test=train.subset(split.test) if test is None else test.subset(split.test - len(train)),
        counts=split.counts,
        skipped=pd.concat([part.skipped for part in parts], ignore_index=True),
    )


def synthetic_data(config: ExperimentConfig, size: int) -> ExperimentData:
    """Draw just the synthetic faces that the protocol needs, with the target and confounder it needs."""
    if config.train_size is None or config.test_per_cell is None:
        raise ValueError("train_size and test_per_cell must be given for synthetic faces")
    extra = config.test_per_cell + config.validation_per_cell
    quarter = -(-config.train_size // 4)
    # For each cell what the larger of its shares in the biased and the balanced set takes, and some for rounding.
    needed = {(True, False): 2 * quarter, (False, True): -(-config.train_size // 3), (False, False): quarter}
    needed[True, True] = quarter
    cells = np.repeat(list(needed), [count + extra + 2 for count in needed.values()], axis=0)
    attributes = {config.target: cells[:, 0], config.confounder: cells[:, 1]}
    return split_data(config, make_faces(len(cells), size, attributes=attributes, random_state=config.random_state))


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
    chosen = _chosen(trainings)
    for name, reason in not_run(trainings).items():
        print(f"{name}: {reason}", file=sys.stderr)
    with stage("measuring", seconds, quiet):
        table = summarize(predictions, aligned=alignment(biased.y, biased.confounder))
    with replacing(out / "predictions.csv") as path:
        predictions.to_csv(path, index=False)
    with replacing(out / "table.csv") as path:
        flat_table(table).to_csv(path, index=False)
    pictures = _pictures(config, data, attribution, maps, training.region_accuracy)
    confident, confident_pictures = _confident(config, data, attribution, maps)
    with replacing(out / "maps.npz") as path:
        np.savez_compressed(path, allow_pickle=False, **pictures, **confident_pictures)
    results = _results(config, data, training, calibration, table, predictions, trainings) | {
        "mean_map": maps.double().mean(0).float().tolist(),
        "title": title,
        "confident": confident,
        **how_it_was_run(config, seconds, [training.git, *trainings["git"]]),
        "mitigators": [
            {"name": name, "kind": arm.kind, "description": f"{arm.description} {chosen.get(name, '')}".rstrip()}
            for name, arm in arms.items()
        ],
    }
    results = _plain(results)
    with replacing(out / "results.json") as path:
        path.write_text(json.dumps(results, indent=1) + "\n")
    run = run_of(results, {**pictures, **confident_pictures})
    draw_report(run, out)
    if not run.failed:
        shutil.rmtree(states)
    return run


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


def _results(
    config: ExperimentConfig,
    data: ExperimentData,
    training: RegionTraining,
    calibration: Calibration,
    table: pd.DataFrame,
    predictions: pd.DataFrame,
    trainings: pd.DataFrame,
) -> dict[str, Any]:
    """Return what was found, as JSON can hold it."""
    return {
        "format": FORMAT,
        "target": config.target,
        "confounder": config.confounder,
        "target_names": {"False": f"not {config.target}", "True": config.target},
        "confounder_names": {"False": f"not {config.confounder}", "True": config.confounder},
        "counts": _counts(data.counts),
        "data": fingerprints(data),
        "region_classifier": {
            "history": training.history.to_dict("records"),
            "mean_region_accuracy": float(training.region_accuracy.mean()),  # type: ignore[union-attr]
            "best_region_accuracy": float(training.region_accuracy.max()),  # type: ignore[union-attr]
            "region_accuracy": training.region_accuracy.tolist(),  # type: ignore[union-attr]
            "calibration": asdict(calibration) | {"bins": calibration.bins.to_dict("records")},
        },
        "table": flat_table(table).to_dict("records"),
        "measures": {
            name: MEASURES[name].sentence.format(target=config.target, confounder=config.confounder)
            for name in table.columns.get_level_values("measure").unique()
        },
        "cells": _cells(predictions).to_dict("records"),
        # Of those trained on the biased set: balanced data would beat them all.
        "pareto_front": [name for name, on in pareto_front(table.drop("balanced", errors="ignore")).items() if on],
        "trainings": trainings.to_dict("records"),
        "skipped": data.skipped.to_dict("records"),
        "caveats": _caveats(config, data),
        "confidence_level": 0.95,
    }


def fingerprints(data: ExperimentData) -> dict[str, str]:
    """Return a digest of the images of each set, with their attributes."""
    sets = {name: getattr(data, name) for name in ("biased", "balanced", "validation", "test")}
    return {name: digest((digest(images.images), images.attributes.to_csv())) for name, images in sets.items()}


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


def _chosen(trainings: pd.DataFrame) -> dict[str, str]:
    """Return what was chosen by mitigators that had a choice, by name."""
    had_choice = trainings[trainings["chosen"] != ""].groupby("mitigator", sort=False)["chosen"]
    return {str(name): f"Chosen, seed by seed: {', '.join(of_seeds)}." for name, of_seeds in had_choice}


def samples_of(config: ExperimentConfig, images: AttributeImages, *, with_twins: bool = False) -> Samples:
    """Return images with their target and confounder, and the twins of synthetic ones if asked."""
    twins = images.twin(config.confounder) if with_twins and isinstance(images, Faces) else None
    return Samples(images.images, images.binary(config.target), images.binary(config.confounder), twins=twins)


def _pictures(
    config: ExperimentConfig,
    data: ExperimentData,
    attribution: RegionAttribution,
    maps: torch.Tensor,
    region_accuracy: NDArray[np.float64] | None,
    examples: int = 6,
) -> dict[str, NDArray[Any]]:
    """Return what the report shows of images: means, and some training images with each scheme's perturbation."""
    biased = samples_of(config, data.biased)
    mean_map = maps.double().mean(0).float()
    chosen = np.concatenate(
        [np.flatnonzero(biased.confounder)[: (examples + 1) // 2], np.flatnonzero(~biased.confounder)[: examples // 2]]
    )
    shown = [scheme for scheme in config.schemes if not is_automatic(scheme)]
    pixel_maps = attribution.grid.to_pixels(maps[chosen])
    images = torch.from_numpy(data.biased.images[chosen])
    pictures: dict[str, NDArray[Any]] = {
        "mean_image": data.biased.images.mean(0).round().astype(np.uint8).transpose(1, 2, 0),
        "mean_map": mean_map.numpy(),
        "pixel_map": attribution.grid.to_pixels(mean_map).numpy(),
        "example_images": images.numpy(),
        "example_maps": pixel_maps.numpy(),
        "example_labels": cell_names(config, biased, chosen),
        "example_names": image_names(data.biased, chosen),
        "example_schemes": np.array(shown),
        **_donors(config, biased, attribution, maps, chosen),
    }
    if region_accuracy is not None:
        pictures["region_accuracy"] = region_accuracy
    if isinstance(data.test, Faces):
        pictures["truth_mean"] = data.test.truth(config.confounder).mean(0)
    for scheme in shown:
        parameters = {key: value for key, value in scheme_parameters(scheme).items() if key in ("scheme", "control")}
        noise = AttributionNoise(quantile=config.quantile, noise_std=config.noise_std, transplant_share=1, **parameters)
        noise.fit(
            attribution.grid.to_pixels(mean_map[None] if noise.is_general else maps),
            biased.X,
            biased.confounder,
            labels=biased.y,
            random_state=config.random_state,
        )
        generator = torch.Generator().manual_seed(config.random_state)
        perturbed = noise(images.float() / 255, torch.from_numpy(chosen), generator)
        pictures[f"example_{scheme}"] = (perturbed * 255).round().to(torch.uint8).numpy()
    return pictures


def _donors(
    config: ExperimentConfig,
    biased: Samples,
    attribution: RegionAttribution,
    maps: torch.Tensor,
    chosen: NDArray[np.intp],
) -> dict[str, NDArray[Any]]:
    """Return, for each of the `chosen` images, one that transplants would take from, and its pixel map."""
    noise = AttributionNoise("general_transplant").fit(
        attribution.grid.to_pixels(maps[:1]), biased.X, biased.confounder, labels=biased.y
    )
    assert noise.donors_ is not None  # a transplant has them
    donors = noise.donors_.draw(torch.from_numpy(chosen), torch.Generator().manual_seed(config.random_state))
    return {
        "donor_images": np.asarray(biased.X)[donors.numpy()],
        "donor_maps": attribution.grid.to_pixels(maps[donors]).numpy(),
    }


def _confident(
    config: ExperimentConfig, data: ExperimentData, attribution: RegionAttribution, maps: torch.Tensor, count: int = 6
) -> tuple[list[dict[str, Any]], dict[str, NDArray[Any]]]:
    """Return the training images with the most and the least mean confidence, most first, and their pictures."""
    mean, largest = maps.mean((1, 2)), maps.amax((1, 2))
    order = mean.argsort(descending=True, stable=True).numpy()
    count = min(count, len(order) // 2)
    chosen = np.concatenate([order[:count], order[len(order) - count :]])
    names = image_names(data.biased, chosen)
    labels = cell_names(config, samples_of(config, data.biased), chosen)
    records = [
        {"image": str(name), "label": str(label), "mean": float(mean[at]), "max": float(largest[at])}
        for name, label, at in zip(names, labels, chosen, strict=True)
    ]
    pictures = {"images": data.biased.images[chosen], "maps": attribution.grid.to_pixels(maps[chosen]).numpy()}
    return records, {f"confident_{name}": array for name, array in pictures.items()}


def cell_names(config: ExperimentConfig, samples: Samples, positions: NDArray[np.intp]) -> NDArray[np.str_]:
    """Return what images are, in words: whether of the target, and whether with the confounder."""
    return np.array(
        [
            ", ".join(
                f"{'' if has else 'not '}{name}"
                for name, has in zip((config.target, config.confounder), row, strict=True)
            )
            for row in zip(samples.y[positions], samples.confounder[positions], strict=True)
        ]
    )


def image_names(images: AttributeImages, positions: NDArray[np.intp]) -> NDArray[np.str_]:
    """Return the file names of images that have one, and else their numbers."""
    return np.array([f"image {name}" if isinstance(name, int) else name for name in images.attributes.index[positions]])


def how_it_was_run(config: ExperimentConfig, seconds: Mapping[str, float], git: Iterable[str | None]) -> dict[str, Any]:
    """Return the provenance, the configuration and the durations, as JSON can hold them; `git` is the trainings'."""
    return {
        **provenance(),
        "git": joined(git),
        "config": asdict(config),
        "random_states": list(range(config.random_state, config.random_state + config.seeds)),
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
    }


def _counts(counts: pd.DataFrame) -> list[dict[Hashable, Any]]:
    tall = counts.rename_axis("set").stack(["target", "confounder"])
    return pd.DataFrame({"images": tall}).reset_index().to_dict("records")


def _cells(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return the accuracy of each cell, the mean over seeds, with Wilson's 95 % interval for its number of images."""
    rows = []
    for name, of_mitigator in predictions.groupby("mitigator", sort=False):
        frames = pd.concat([metric_frame(of_seed).by_group for _, of_seed in of_mitigator.groupby("seed")])
        for (group, confounder), cell in frames.groupby(level=[0, 1]):
            accuracy, images = float(cell["accuracy"].mean()), int(cell["count"].iloc[0])
            interval = binomtest(round(accuracy * images), images).proportion_ci(method="wilson")
            rows.append((name, group, confounder, accuracy, interval.low, interval.high, images))
    return pd.DataFrame(rows, columns=["mitigator", "group", "confounder", "accuracy", "low", "high", "images"])


def flat_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return a row a mitigator and measure, with the statistics as columns."""
    flat = table.stack("measure").reset_index()
    statistics = [name for name in STATISTICS if name in flat]
    tidy: pd.DataFrame = flat[["mitigator", "measure", *statistics]].astype({"seeds": int})
    return tidy


def _caveats(config: ExperimentConfig, data: ExperimentData) -> list[str]:
    caveats = [
        f"The region map shows where information about {config.confounder} could be; it says nothing of what a "
        "particular classifier uses.",
        "The intervals are of the test images; trainings differ from seed to seed besides, see the spread over seeds.",
    ]
    if config.seeds == 1:
        caveats.append("One seed: differences of a few hundredths may be luck. Run more with --seeds.")
    if isinstance(data.test, Faces):
        caveats.append("Synthetic faces: they show how the method works, not how well it does on photographs.")
    if any(scheme.endswith("@predict") for scheme in config.schemes):
        caveats.append(
            f"Schemes with @predict hide the region in prediction also: the classifier never sees it, and loses "
            f"what it holds of {config.target}."
        )
    balanced = data.counts.loc["balanced"]
    if balanced.max() - balanced.min() > 2:
        caveats.append("The balanced training set is not quite balanced: a cell has too few images, see the counts.")
    return caveats


def _plain(value: Any) -> Any:
    """Return `value` as JSON has it, with None for NaN, which it does not know."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and np.isnan(value) else value

"""The whole job from images to a run folder: find the confounder, train every arm, measure, write, report."""

from __future__ import annotations

import json
import platform
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from fairlearn.postprocessing import ThresholdOptimizer
from fairlearn.reductions import EqualizedOdds, ExponentiatedGradient
from scipy.stats import binomtest

from captum_region import (
    DenseRegionClassifier,
    RegionAttribution,
    RegionGrid,
    RegionTraining,
    fit_region_classifier,
    save_classifier,
)
from captum_region.datasets import AttributeImages, Faces, make_faces
from captum_region.files import replacing
from fairlearn_bridge.baselines import (
    JTT,
    AdversarialLastLayer,
    BalancedResampling,
    EmbeddingCorrelationRemoval,
    GroupDRO,
    LastLayerRetraining,
    MaskTune,
    Reweighing,
    ThresholdShift,
)
from fairlearn_bridge.classifier import ImageClassifier
from fairlearn_bridge.comparison import Samples, alignment, fit_mitigators, metric_frame, summarize
from fairlearn_bridge.mitigator import AttributionNoiseMitigator
from fairlearn_bridge.noise import SCHEMES, AttributionNoise
from fairlearn_bridge.protocol import confounded_split
from fairlearn_bridge.report import write_report

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Hashable, Iterator, Mapping

    from numpy.typing import NDArray

FORMAT = 1
AT_PREDICT = "@predict"


class Other(NamedTuple):
    """A mitigator of others: how it is made of the target classifier, and a sentence about it.

    With `on_original` it changes no training of the network, and gets the fitted original for it.
    """

    make: Callable[[ImageClassifier], Any]
    sentence: str
    on_original: bool = False


OTHERS = {
    "reweighing": Other(Reweighing, "Weighs each training image so that {target} and {confounder} are independent."),
    "resampling": Other(
        BalancedResampling, "Draws as many training images of each cell, of small cells again and again."
    ),
    "group_dro": Other(GroupDRO, "Minimises the loss of the worst cell (GroupDRO)."),
    "jtt": Other(JTT, "Trains shortly, then anew with what that got wrong weighed more (JTT), not told {confounder}."),
    "last_layer": Other(
        LastLayerRetraining, "Trains the last layer anew on as many images of each cell (DFR).", on_original=True
    ),
    "masktune": Other(
        MaskTune, "Trains on with what Grad-CAM says it looks at hidden (MaskTune), not told {confounder}."
    ),
    "correlation_remover": Other(
        EmbeddingCorrelationRemoval,
        "Trains the last layer anew on an embedding without its correlation with {confounder} (fairlearn's "
        "CorrelationRemover), of which it is told in prediction also.",
        on_original=True,
    ),
    "adversarial": Other(
        AdversarialLastLayer,
        "Trains the last layer anew against an adversary that reads {confounder} off its output (fairlearn's).",
        on_original=True,
    ),
    "threshold_optimizer": Other(
        lambda base: ThresholdOptimizer(estimator=base, constraints="equalized_odds", predict_method="predict_proba"),
        "Chooses thresholds with and without {confounder} for equalized odds on the training images (fairlearn's "
        "ThresholdOptimizer), told {confounder} in prediction also.",
        on_original=True,
    ),
    "exponentiated_gradient": Other(
        lambda base: ExponentiatedGradient(base, EqualizedOdds(), max_iter=5),
        "Mixes classifiers, each trained with other weights, towards equalized odds (fairlearn's "
        "ExponentiatedGradient), in 5 rounds of up to 9 trainings, where its default is 50 rounds.",
    ),
}
# The others train the network twice at most.
SLOW_OTHERS = ("exponentiated_gradient",)
FAST_OTHERS = tuple(name for name in OTHERS if name not in SLOW_OTHERS)

MEASURES = {
    "accuracy": "Share of test images classified right; the test set holds as many images of each cell.",
    "accuracy[False]": "Accuracy within the group that is not {target}.",
    "accuracy[True]": "Accuracy within the group that is {target}.",
    "gap": "Accuracy of the group that is not {target} minus that of the other; a moved threshold alone can make it 0.",
    "worst_cell": "Least accuracy of the four cells of {target} and {confounder}.",
    "confounder_gap": "How much accuracy differs with and without {confounder}, averaged over the two groups.",
    "auc": "Area under the ROC curve; no threshold changes it.",
    "crossed_auc": "Area under the ROC curve among the images whose {confounder} is not what the biased training set "
    "has their class go along with; no threshold changes it.",
    "flip_rate": "Share of predictions that change when only {confounder} is toggled, all else in the picture equal.",
}


@dataclass(frozen=True)
class ExperimentConfig:
    """What to run; see the options of ``fairlearn-bridge run``.

    Attributes
    ----------
    target, confounder : str
        Names of binary attributes.
    schemes : tuple of str
        Of ``fairlearn_bridge.noise.SCHEMES``, each with ``@predict`` behind it to perturb in prediction also. The
        first is the one that the control of equal area elsewhere goes with.
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
    schemes: tuple[str, ...] = ("general_transplant", f"general_mask{AT_PREDICT}", "general_noise")
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
            AttributionNoise(scheme.removesuffix(AT_PREDICT), self.quantile, self.noise_std).validate()
        if not self.schemes:
            raise ValueError(f"schemes must name at least one of {', '.join(SCHEMES)}")
        if unknown := set(self.others) - set(OTHERS):
            raise ValueError(f"others must be of {', '.join(OTHERS)}, got {', '.join(sorted(unknown))}")
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
        target,
        confounder,
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
) -> pd.DataFrame:
    """Run all arms on `data` and write the run folder: results.json, tables, maps, checkpoint, plots, report.html.

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
    DataFrame
        The table of `summarize`.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    seconds = {} if seconds is None else seconds
    biased = _samples(config, data.biased)
    with stage("training the region classifier", seconds, quiet):
        classifier = DenseRegionClassifier(
            RegionGrid.for_images(data.biased.image_size), 2, random_state=config.random_state
        )
        training = fit_region_classifier(
            classifier,
            biased.X,
            biased.confounder,
            within=biased.y,
            validation=(data.validation.images, _samples(config, data.validation).confounder),
            epochs=config.region_epochs,
            random_state=config.random_state,
            device=config.device,
            show_progress=not quiet,
        )
        save_classifier(classifier, out / "region_classifier")
    with stage("attributing the training images", seconds, quiet):
        attribution = RegionAttribution(classifier)
        maps = attribution.region_map(biased.X, show_progress=not quiet)
    classifier.cpu()
    arms, descriptions = build_arms(config, classifier)
    test = _samples(config, data.test, with_twins=True)
    validation = _samples(config, data.validation)
    with stage("training the target classifiers", seconds, quiet):
        predictions, trainings = fit_mitigators(
            arms,
            biased,
            test,
            train_on={"balanced": _samples(config, data.balanced)},
            fit_params={"region_maps": maps.numpy(), "validation": (validation.X, validation.y)},
            reuse=dict.fromkeys(
                ["threshold shifted", *(name for name in config.others if OTHERS[name].on_original)], "original"
            ),
            random_states=range(config.random_state, config.random_state + config.seeds),
            n_jobs=config.n_jobs,
            show_progress=not quiet,
        )
    predictions["predicted"] = predictions["predicted"].astype(bool)  # fairlearn's own predict 0 and 1
    for name, reason in _not_run(trainings).items():
        descriptions[name]["description"] += f" {reason}"
        print(f"{name}: {reason}", file=sys.stderr)
    with stage("measuring", seconds, quiet):
        table = summarize(predictions, aligned=alignment(biased.y, biased.confounder))
    with replacing(out / "predictions.csv") as path:
        predictions.to_csv(path, index=False)
    with replacing(out / "table.csv") as path:
        _flat(table).to_csv(path, index=False)
    with replacing(out / "maps.npz") as path:
        np.savez_compressed(
            path, allow_pickle=False, **_pictures(config, data, attribution, maps, training.region_accuracy)
        )
    results = _results(config, data, training, table, predictions, trainings) | {
        "title": title,
        **_how_it_was_run(config, seconds),
        "mitigators": [{"name": name, **description} for name, description in descriptions.items()],
    }
    with replacing(out / "results.json") as path:
        path.write_text(json.dumps(_without_nan(results), indent=1, default=_plain) + "\n")
    write_report(out)
    return table


def _results(
    config: ExperimentConfig,
    data: ExperimentData,
    training: RegionTraining,
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
        "region_classifier": {
            "history": training.history.to_dict("records"),
            "mean_region_accuracy": float(training.region_accuracy.mean()),  # type: ignore[union-attr]
            "best_region_accuracy": float(training.region_accuracy.max()),  # type: ignore[union-attr]
        },
        "table": _flat(table).to_dict("records"),
        "measures": {
            name: MEASURES[name].format(target=config.target, confounder=config.confounder)
            for name in table.columns.get_level_values("measure").unique()
        },
        "cells": _cells(predictions).to_dict("records"),
        "trainings": trainings.to_dict("records"),
        "skipped": data.skipped.to_dict("records"),
        "caveats": _caveats(config, data),
        "confidence_level": 0.95,
    }


def build_arms(config: ExperimentConfig, classifier: Any) -> tuple[dict[str, Any], dict[str, dict[str, str]]]:
    """Return the estimators by name: references, controls, others and schemes; for each its kind and a sentence."""
    base = ImageClassifier(max_epochs=config.epochs, batch_size=config.batch_size, lr=config.lr, device=config.device)

    def mitigator(scheme: str, **more: Any) -> AttributionNoiseMitigator:
        return AttributionNoiseMitigator(
            base,
            region_classifier=classifier,
            scheme=scheme.removesuffix(AT_PREDICT),
            quantile=config.quantile,
            noise_std=config.noise_std,
            apply_at_predict=scheme.endswith(AT_PREDICT),
            **more,
        )

    first = config.schemes[0]
    elsewhere = f"{first}, elsewhere"
    arms: dict[str, Any] = {
        "original": base,
        "balanced": base,
        "threshold shifted": ThresholdShift(base),
        elsewhere: mitigator(first, elsewhere=True),
    }
    descriptions = {
        "original": ("reference", "Trained on the biased set, nothing done about it."),
        "balanced": ("reference", "Trained on a balanced set of equal size: what the biased set lacks."),
        "threshold shifted": (
            "control",
            "The original with its threshold moved until both classes of the balanced validation set are recognised "
            "equally well.",
        ),
        elsewhere: ("control", f"As {first}, but over an equal area elsewhere in the images."),
    }
    for name in config.others:
        arms[name] = OTHERS[name].make(base)
        descriptions[name] = (
            "mitigator",
            OTHERS[name].sentence.format(target=config.target, confounder=config.confounder),
        )
    changed = f"the {100 * (1 - config.quantile):.0f} % of pixels that tell most about {config.confounder}"
    for scheme in config.schemes:
        arms[scheme] = mitigator(scheme)
        descriptions[scheme] = ("scheme", _describe(scheme, changed))
    return arms, {name: {"kind": kind, "description": text} for name, (kind, text) in descriptions.items()}


def _not_run(trainings: pd.DataFrame) -> dict[str, str]:
    """Return why mitigators did not run, by name."""
    rows = trainings[trainings["status"] != "done"].drop_duplicates("mitigator")
    return {row["mitigator"]: f"{row['status'].capitalize()}: {row['reason']}." for row in rows.to_dict("records")}


def _describe(scheme: str, changed: str) -> str:
    reach, kind = scheme.removesuffix(AT_PREDICT).split("_")
    done = {
        "mask": "greyed out in training",
        "noise": "overlaid with noise in training",
        "transplant": "replaced, in half of the training images, by those of an image with the other value",
    }[kind]
    where = "on average over the images" if reach == "general" else "in each image"
    return (
        f"{changed[0].upper()}{changed[1:]} {where} are {done}{' and in prediction' if AT_PREDICT in scheme else ''}."
    )


def _samples(config: ExperimentConfig, images: AttributeImages, *, with_twins: bool = False) -> Samples:
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
    biased = _samples(config, data.biased)
    mean_map = maps.double().mean(0).float()
    chosen = np.concatenate(
        [np.flatnonzero(biased.confounder)[: (examples + 1) // 2], np.flatnonzero(~biased.confounder)[: examples // 2]]
    )
    pixel_maps = attribution.grid.to_pixels(maps[chosen])
    images = torch.from_numpy(data.biased.images[chosen])
    pictures: dict[str, NDArray[Any]] = {
        "mean_image": data.biased.images.mean(0).round().astype(np.uint8).transpose(1, 2, 0),
        "mean_map": mean_map.numpy(),
        "pixel_map": attribution.grid.to_pixels(mean_map).numpy(),
        "example_images": images.numpy(),
        "example_maps": pixel_maps.numpy(),
        "example_labels": np.array(
            [
                ", ".join(
                    f"{'' if has else 'not '}{name}"
                    for name, has in zip((config.target, config.confounder), row, strict=True)
                )
                for row in zip(biased.y[chosen], biased.confounder[chosen], strict=True)
            ]
        ),
        "example_schemes": np.array(config.schemes),
    }
    if region_accuracy is not None:
        pictures["region_accuracy"] = region_accuracy
    if isinstance(data.test, Faces):
        pictures["truth_mean"] = data.test.truth(config.confounder).mean(0)
    for scheme in config.schemes:
        noise = AttributionNoise(scheme.removesuffix(AT_PREDICT), config.quantile, config.noise_std, transplant_share=1)
        general = noise.is_general
        noise.fit(attribution.grid.to_pixels(mean_map)[None] if general else pixel_maps, biased.X, biased.confounder)
        generator = torch.Generator().manual_seed(config.random_state)
        index = torch.from_numpy(chosen) if general else torch.arange(len(chosen))
        perturbed = noise(images.float() / 255, index, generator)
        pictures[f"example_{scheme}"] = (perturbed * 255).round().to(torch.uint8).numpy()
    return pictures


def _how_it_was_run(config: ExperimentConfig, seconds: Mapping[str, float]) -> dict[str, Any]:
    packages = ("captum-region", "captum", "fairlearn", "numpy", "scikit-learn", "skorch", "torch", "torchvision")
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
    return {
        "command": command,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
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


def _flat(table: pd.DataFrame) -> pd.DataFrame:
    """Return a row a mitigator and measure, with the statistics as columns."""
    flat: pd.DataFrame = table.stack("measure").reset_index()[["mitigator", "measure", "mean", "std", "low", "high"]]
    return flat


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
    if any(scheme.endswith(AT_PREDICT) for scheme in config.schemes):
        caveats.append(
            f"Schemes with {AT_PREDICT} hide the region in prediction also: the classifier never sees it, and loses "
            f"what it holds of {config.target}."
        )
    balanced = data.counts.loc["balanced"]
    if balanced.max() - balanced.min() > 2:
        caveats.append("The balanced training set is not quite balanced: a cell has too few images, see the counts.")
    return caveats


def _without_nan(value: Any) -> Any:
    """Return `value` with None for NaN, which JSON does not know."""
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and np.isnan(value) else value


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")

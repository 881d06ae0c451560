"""Table 1 of De Coninck et al. 2024 under its own conditions, and what its noise does to a classifier.

``python examples/benchmarks/table1_study.py --root DATA --device cuda --checkpoints kept --out table1.json`` trains the
paper's network by its recipe with each scheme and quantile, with noise as the text has it and as the published code
had it, and with controls: images that are as bright, clipping alone, other pixels, a shifted threshold. With
--checkpoints, a study that was stopped resumes, and one with more seeds or arms trains those alone.
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import joblib
import numpy as np
import pandas as pd
import torch
import typer
from studies import Seeds, difference, fit_one_seed, markdown, rounded, statistics_of

from captum_region.batches import as_floats
from captum_region.cli.options import Cache, Data, Debug, Device, Quiet, ReplaceFile, Root, Seed, Size
from captum_region.cli.reading import Source
from captum_region.cli.running import check_file, errors_in_one_line
from captum_region.io.files import records, write_json
from captum_region.io.provenance import provenance
from fairlearn_bridge import (
    AttributionNoise,
    AttributionNoiseMitigator,
    ImageClassifier,
    Samples,
    ThresholdShift,
    measure,
    published_noise,
    summarize,
    worst_group_threshold,
)
from fairlearn_bridge.baselines.base import Mitigator
from fairlearn_bridge.experiment import ExperimentConfig, samples_of, split_data, synthetic_data
from fairlearn_bridge.metrics import alignment
from fairlearn_bridge.schemes import CONTROLS, PERTURBATIONS, REACHES

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from captum_region import RegionClassifier
    from fairlearn_bridge.experiment import ExperimentData

# The paper's Table 1: attribute, scheme, quantile, then accuracy, accuracy of men and of women, each of the biased
# data, and as differences to it of balanced data and of the scheme; and the gap of the three.
PAPER = """\
Blond_Hair  general_mask   0.60  0.74 +0.09 +0.00  0.60 +0.20 +0.02  0.88 -0.03 -0.03  0.28 0.05 0.22
Blond_Hair  general_noise  0.70  0.77 +0.06 -0.02  0.64 +0.16 +0.08  0.90 -0.05 -0.12  0.26 0.05 0.09
Blond_Hair  specific_mask  0.60  0.74 +0.09 +0.01  0.60 +0.20 +0.09  0.88 -0.03 -0.08  0.28 0.05 0.11
Blond_Hair  specific_noise 0.80  0.79 +0.04 -0.05  0.67 +0.13 +0.01  0.90 -0.05 -0.10  0.23 0.05 0.15
Eyeglasses  general_mask   0.60  0.71 +0.06 -0.02  0.61 +0.11 +0.03  0.82 +0.00 -0.07  0.21 0.10 0.12
Eyeglasses  general_noise  0.60  0.72 +0.05 +0.01  0.61 +0.11 +0.05  0.84 -0.02 -0.04  0.23 0.10 0.14
Eyeglasses  specific_mask  0.60  0.71 +0.06 +0.03  0.61 +0.11 +0.13  0.82 +0.00 -0.08  0.21 0.10 0.05
Eyeglasses  specific_noise 0.80  0.72 +0.05 -0.01  0.61 +0.11 +0.10  0.84 -0.02 -0.13  0.23 0.10 0.09
Smiling     general_mask   0.80  0.81 +0.03 -0.04  0.71 +0.06 -0.02  0.90 +0.01 -0.05  0.19 0.13 0.16
Smiling     general_noise  0.60  0.85 -0.01 -0.05  0.79 -0.02 -0.04  0.91 +0.00 -0.07  0.12 0.13 0.09
Smiling     specific_mask  0.95  0.81 +0.03 -0.02  0.71 +0.06 -0.02  0.90 +0.01 -0.01  0.19 0.13 0.20
Smiling     specific_noise 0.60  0.85 -0.01 -0.05  0.79 -0.02 +0.01  0.91 +0.00 -0.10  0.12 0.13 0.05
Wearing_Hat general_mask   0.80  0.71 +0.08 +0.05  0.63 +0.11 +0.08  0.79 +0.05 +0.03  0.16 0.10 0.10
Wearing_Hat general_noise  0.95  0.73 +0.06 -0.02  0.63 +0.11 +0.03  0.84 +0.00 -0.07  0.21 0.10 0.11
Wearing_Hat specific_mask  0.95  0.71 +0.08 +0.00  0.63 +0.11 +0.01  0.79 +0.05 -0.01  0.16 0.10 0.15
Wearing_Hat specific_noise 0.95  0.73 +0.06 -0.03  0.63 +0.11 +0.04  0.84 +0.00 -0.10  0.21 0.10 0.08
"""
COLUMNS = {"accuracy": "accuracy", "accuracy[True]": "men", "accuracy[False]": "women", "gap": "gap"}
MEASURES = (*COLUMNS, "worst_cell", "confounder_gap", "auc", "crossed_auc")
LIKELIEST, THRESHOLD = "likeliest class", "threshold"
CLIPPING = "published clipping alone"
# Of which differences to balanced data and to controls are taken.
COMPARED = ("accuracy", "worst_cell", "auc", "crossed_auc")
# Images by which brightness is measured.
SHOWN = 512


@dataclass(frozen=True)
class Brightness:
    """A batch transform that makes whole images brighter by `shift`, which no region decides."""

    shift: float

    def __call__(self, images: Tensor, index: Tensor, generator: torch.Generator) -> Tensor:
        """Return the images with `shift` added, in [0, 1]."""
        return (images + self.shift).clamp(0, 1)


class PerturbedInPrediction(Mitigator):
    """A fitted `AttributionNoiseMitigator`, frozen, that perturbs the images too that it predicts.

    In training they are perturbed either way, so that it need not be trained again.
    """

    def fit(self, X: Any, y: Any) -> Self:
        """Take the mitigator as it is, but for that."""
        self.estimator_ = copy.copy(self.estimator.estimator).set_params(apply_at_predict=True)
        return self


def shift_to(images: Tensor, mean: float) -> Brightness:
    """Return the shift that gives images in [0, 1] this mean, to a millionth, by bisection."""
    low, high = -1.0, 1.0
    for _ in range(22):
        middle = (low + high) / 2
        low, high = (low, middle) if float((images + middle).clamp(0, 1).mean()) > mean else (middle, high)
    return Brightness((low + high) / 2)


def perturbations(quantiles: tuple[float, ...]) -> dict[str, dict[str, Any]]:
    """Return the parameters of `AttributionNoiseMitigator` by name: each scheme, as in the paper's code, and controls.

    ``published`` is the noise of the published code. ``@predict`` perturbs the test images too, as that code does with
    general schemes. Controls are of general schemes and the middle quantile: ``@elsewhere`` and ``@random`` perturb as
    many other pixels, and ``published clipping alone`` perturbs none.
    """
    published: dict[str, Any] = {"perturbation": published_noise}
    kinds: dict[str, dict[str, Any]] = {
        f"{reach}_{kind}": {"scheme": f"{reach}_{kind}"} for reach in REACHES for kind in PERTURBATIONS
    }
    kinds |= {f"published {reach}_noise": {"scheme": f"{reach}_noise", **published} for reach in REACHES}
    at_predict = ("general_mask", "general_noise", "published general_noise")
    found: dict[str, dict[str, Any]] = {}
    for quantile in quantiles:
        every = {f"{name} {quantile:g}": {**kind, "quantile": quantile} for name, kind in kinds.items()}
        every |= {
            f"{name}@predict {quantile:g}": {**kinds[name], "quantile": quantile, "apply_at_predict": True}
            for name in at_predict
        }
        found |= every
    middle = sorted(quantiles)[len(quantiles) // 2]
    for name in (*at_predict, "general_transplant"):
        for control in CONTROLS:
            found[f"{name}@{control} {middle:g}"] = {**kinds[name], "quantile": middle, "control": control}
    found[CLIPPING] = {"scheme": "general_noise", "quantile": 1.0, **published}
    return found


def study_table1(
    config: ExperimentConfig,
    data: ExperimentData,
    quantiles: tuple[float, ...] = (0.6, 0.7, 0.8),
    *,
    only: tuple[str, ...] = (),
    checkpoint_dir: Path | None = None,
    quiet: bool = True,
) -> dict[str, Any]:
    """Train each arm with each seed on the protocol's images, and measure it.

    Parameters
    ----------
    config : ExperimentConfig
        Its ``epochs`` are those of masks; of noise and transplants there are twice as many, as in the paper. A region
        classifier is trained with each seed.
    data : ExperimentData
        From `split_data` or `synthetic_data`. Thresholds are chosen on its validation images.
    quantiles : tuple of float
    only : tuple of str
        Names of arms, to train beside the ERM baseline and balanced data of as many epochs; by default all. Those that
        perturb test images come with those that do not, which they share their training with.
    checkpoint_dir : path, optional
        Keeps what is done.
    quiet : bool, default=True

    Returns
    -------
    dict
        ``images``, the numbers of each set and cell; ``brightness``, the mean of some training images as they are and
        with each perturbation, in training with the first seed; ``rows``, the measures of each mitigator and seed, for
        the likeliest class and for the threshold with the best worst-group accuracy on validation images; ``summary``,
        a row a mitigator and decision: what `summarize` gives, with differences to the ERM baseline of as many epochs;
        ``differences``, a row a pair and decision: of each arm to balanced data of as many epochs, of regions to
        their controls, of perturbed test images to test images as they are, and of published noise to its clipping.
    """
    named = perturbations(quantiles)
    known = [*named, *(f"as bright as {name}" for name in _with_as_bright(named))]
    if unknown := [name for name in only if name not in known]:
        raise ValueError(f"--arm must be of {', '.join(known)}, got {', '.join(unknown)}")
    seeds = range(config.random_state, config.random_state + config.seeds)
    found = [_trained(config, data, quantiles, only, seed, checkpoint_dir, quiet) for seed in seeds]
    predictions = pd.concat([one[0] for one in found], ignore_index=True)
    epochs, brightness = found[0][1], found[0][2]
    biased = samples_of(config, data.biased)
    aligned = alignment(biased.y, biased.confounder)
    decided = _decided(predictions, len(data.test))
    rows = [
        {"mitigator": name, "epochs": epochs[str(name)], "seed": seed, "decision": decision}
        | measure(one, aligned=aligned)[list(MEASURES)].to_dict()
        for decision, part in decided.items()
        for (name, seed), one in part.groupby(["mitigator", "seed"], sort=False)
    ]
    counts = pd.DataFrame({"images": data.counts.rename_axis("set").stack(["target", "confounder"])})
    return {
        "images": records(counts.reset_index()),
        "brightness": brightness,
        "rows": rows,
        "summary": _summary(decided, epochs, aligned),
        "differences": _differences(decided, epochs, aligned),
    }


def _trained(
    config: ExperimentConfig,
    data: ExperimentData,
    quantiles: tuple[float, ...],
    only: tuple[str, ...],
    seed: int,
    states: Path | None,
    quiet: bool,
) -> tuple[pd.DataFrame, dict[str, int], dict[str, float]]:
    """Return the predictions of test and validation images, and each arm's epochs and brightness."""
    biased, balanced, validation, test = (
        samples_of(config, part) for part in (data.biased, data.balanced, data.validation, data.test)
    )
    named = perturbations(quantiles)
    counts = _counts(config, named, only)
    at_predict = {name: name.replace("@predict", "") for name in only or named if "@predict" in name}
    epochs: dict[str, int] = {}
    brightness: dict[str, float] = {}

    def arms(regions: RegionClassifier, maps: Tensor) -> dict[str, Any]:
        shown = np.linspace(0, len(biased.y) - 1, min(SHOWN, len(biased.y))).astype(int)
        brightness.update(_brightness(named, biased, regions.grid.to_pixels(maps[shown]), shown, seed))
        images = as_floats(torch.from_numpy(biased.X[shown]))
        found = _arms(config, named, regions, images, brightness, only)
        epochs.update({name: count for name, (_, count) in found.items()})
        return {name: mitigator for name, (mitigator, _) in found.items()}

    predictions, _ = fit_one_seed(
        arms,
        biased,
        Samples(
            *(np.concatenate([getattr(part, name) for part in (test, validation)]) for name in ("X", "y", "confounder"))
        ),
        seed,
        region_epochs=config.region_epochs,
        device=config.device,
        checkpoint_dir=states,
        quiet=quiet,
        fit_params={"validation": (validation.X, validation.y)},
        train_on={f"balanced, {count} epochs": balanced for count in counts},
        reuse={f"threshold shifted, {count} epochs": f"ERM, {count} epochs" for count in counts} | at_predict,
        n_jobs=config.n_jobs,
    )
    return predictions, epochs, brightness


def _epochs_of(config: ExperimentConfig, parameters: dict[str, Any]) -> int:
    return config.epochs if parameters["scheme"].endswith("_mask") else 2 * config.epochs


def _counts(config: ExperimentConfig, named: dict[str, dict[str, Any]], only: tuple[str, ...]) -> list[int]:
    """Return each number of epochs that an arm is trained for: so many have references of their own."""
    bases = (name.removeprefix("as bright as ") for name in only or named)
    return sorted({_epochs_of(config, named[name]) for name in bases})


def _brightness(
    named: dict[str, dict[str, Any]], biased: Samples, pixel_maps: Tensor, shown: NDArray[Any], seed: int
) -> dict[str, float]:
    """Return the mean of the training images `shown`, as they are and with each perturbation in training."""
    images = as_floats(torch.from_numpy(biased.X[shown]))
    found = {"training images": float(images.mean())}
    for name, parameters in named.items():
        settings = {key: value for key, value in parameters.items() if key != "apply_at_predict"}
        noise = AttributionNoise(**settings)
        noise.fit(pixel_maps, biased.X[shown], biased.confounder[shown], labels=biased.y[shown], random_state=seed)
        perturbed = noise(images, torch.arange(len(shown)), torch.Generator().manual_seed(seed))
        found[name] = float(perturbed.mean())
    return found


def _arms(
    config: ExperimentConfig,
    named: dict[str, dict[str, Any]],
    regions: RegionClassifier,
    images: Tensor,
    brightness: dict[str, float],
    only: tuple[str, ...],
) -> dict[str, tuple[Any, int]]:
    """Return mitigators and their epochs: references, the shifted threshold, what is perturbed, what is as bright."""

    def classifier(epochs: int, transform: Any = None) -> ImageClassifier:
        settings: Any = {"batch_size": config.batch_size, "lr": config.lr, "device": config.device}
        return ImageClassifier(max_epochs=epochs, batch_transform=transform, **settings)

    arms: dict[str, tuple[Any, int]] = {}
    for epochs in _counts(config, named, only):
        arms[f"ERM, {epochs} epochs"] = classifier(epochs), epochs
        arms[f"balanced, {epochs} epochs"] = classifier(epochs), epochs
        arms[f"threshold shifted, {epochs} epochs"] = ThresholdShift(classifier(epochs)), epochs
    references = len(arms)
    for name, parameters in named.items():
        epochs = _epochs_of(config, parameters)
        if "apply_at_predict" in parameters:
            arms[name] = PerturbedInPrediction(None), epochs
        else:
            arms[name] = AttributionNoiseMitigator(classifier(epochs), region_classifier=regions, **parameters), epochs
    for name in _with_as_bright(named):
        epochs = _epochs_of(config, named[name])
        arms[f"as bright as {name}"] = classifier(epochs, shift_to(images, brightness[name])), epochs
    chosen = {*only, *(name.replace("@predict", "") for name in only)} or {*arms}
    return {name: arm for number, (name, arm) in enumerate(arms.items()) if number < references or name in chosen}


def _with_as_bright(named: dict[str, dict[str, Any]]) -> list[str]:
    """Return the perturbations that have images as bright as a control, those that have one of other pixels."""
    return [name.replace("@random", "") for name in named if "@random" in name and "transplant" not in name]


def _decided(predictions: pd.DataFrame, test: int) -> dict[str, pd.DataFrame]:
    """Return the predictions of test images: the likeliest class, and by a threshold chosen on validation images."""
    parts = []
    for _, one in predictions.groupby(["mitigator", "seed"], sort=False):
        chosen = one[one["image"] >= test]
        target, score, group = (chosen[name].to_numpy() for name in ("target", "score", "confounder"))
        threshold = worst_group_threshold(target, score, sensitive_features=group)
        parts.append(one.assign(predicted=one["score"] >= threshold))
    decided = {LIKELIEST: predictions, THRESHOLD: pd.concat(parts)}
    return {decision: part[part["image"] < test] for decision, part in decided.items()}


def _summary(decided: dict[str, pd.DataFrame], epochs: dict[str, int], aligned: dict[Any, Any]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for decision, part in decided.items():
        of_decision = []
        for count, of_count in part.groupby(part["mitigator"].map(epochs)):
            table = summarize(of_count, aligned=aligned, reference=f"ERM, {count} epochs")
            of_decision += [{"epochs": count, "decision": decision, **row} for row in statistics_of(table, MEASURES)]
        rows += sorted(of_decision, key=lambda row: [*epochs].index(row["mitigator"]))
    return rows


def _differences(
    decided: dict[str, pd.DataFrame], epochs: dict[str, int], aligned: dict[Any, Any]
) -> list[dict[str, Any]]:
    """Return the differences of pairs: each arm to balanced data of as many epochs, regions to their controls ..."""
    references = ("ERM", "balanced", "threshold")
    pairs = [(name, f"balanced, {count} epochs") for name, count in epochs.items() if not name.startswith(references)]
    pairs += [(name.replace(f"@{one}", ""), name) for name in epochs for one in CONTROLS if f"@{one}" in name]
    pairs += [(name, name.replace("@predict", "")) for name in epochs if "@predict" in name]
    pairs += [(name, CLIPPING) for name in epochs if name.startswith("published") and "@" not in name]
    # Not all of them may have been asked for.
    pairs = [(name, minus) for name, minus in pairs if name != minus and {name, minus} <= {*epochs}]
    rows: list[dict[str, Any]] = []
    for decision, part in decided.items():
        for minus, names in pd.DataFrame(pairs, columns=["name", "minus"]).groupby("minus", sort=False)["name"]:
            table = summarize(part[part["mitigator"].isin([minus, *names])], aligned=aligned, reference=str(minus))
            for row in statistics_of(table.loc[[*names]], COMPARED):
                values = {
                    name: {key: value for key, value in row[name].items() if key.startswith("difference")}
                    for name in COMPARED
                }
                rows.append({"mitigator": row["mitigator"], "minus": minus, "decision": decision, **values})
    return rows


def of_paper(confounder: str) -> dict[str, tuple[float, dict[str, list[float]]]]:
    """Return the quantile of each scheme in the paper, and each measure: biased and balanced data, and the scheme."""
    found = {}
    for attribute, scheme, quantile, *texts in map(str.split, PAPER.splitlines()):
        values = np.array(texts, float).reshape(len(COLUMNS), 3)
        values[:-1, 1:] += values[:-1, :1]  # the gap is printed as it is
        if attribute == confounder:
            found[scheme] = float(quantile), dict(zip(COLUMNS, values.round(2).tolist(), strict=True))
    return found


def table1_of(found: dict[str, Any]) -> pd.DataFrame:
    """Return Table 1, the paper's and the study's: biased data / balanced data / scheme, at the paper's quantile.

    Schemes that were not trained with at that quantile are left out. The gap is a mean of absolute gaps: the paper's
    are larger than the differences of its mean accuracies.
    """
    rows = pd.DataFrame([row for row in found["rows"] if row["decision"] == LIKELIEST])
    means = rows.assign(gap=rows["gap"].abs()).groupby("mitigator")[list(COLUMNS)].mean()
    trained = {row["mitigator"]: row["epochs"] for row in found["rows"]}
    shown: dict[str, dict[str, str]] = {}
    for scheme, (quantile, paper) in of_paper(found["settings"]["confounder"]).items():
        kinds = (("", ""), ("", "@predict"), ("published ", ""), ("published ", "@predict"))
        names = [f"{prefix}{scheme}{suffix} {quantile:g}" for prefix, suffix in kinds]
        trained_with = [name for name in names if name in means.index]
        if trained_with:
            shown[f"{scheme} {quantile:g}, the paper"] = {
                title: " / ".join(f"{value:.2f}" for value in paper[name]) for name, title in COLUMNS.items()
            }
        for name in trained_with:
            three = means.loc[[*(f"{of}, {trained[name]} epochs" for of in ("ERM", "balanced")), name]]
            shown[name] = {
                title: " / ".join(f"{value:.2f}" for value in three[measured]) for measured, title in COLUMNS.items()
            }
    return pd.DataFrame(shown).T


def effects_of(found: dict[str, Any]) -> pd.DataFrame:
    """Return what each arm does: brightness, accuracy by either decision, what no threshold changes."""
    at = {(row["mitigator"], row["decision"]): row for row in found["summary"]}
    # Results of before hold no differences to balanced data.
    to = {(row["mitigator"], row["minus"], row["decision"]): row for row in found.get("differences", ())}
    plain = found["brightness"]["training images"]
    shown = {}
    for name in dict.fromkeys(row["mitigator"] for row in found["summary"]):
        likeliest, tuned = (at[name, decision] for decision in (LIKELIEST, THRESHOLD))
        brightness = found["brightness"].get(name.removeprefix("as bright as "))
        cells = {"brightness": "" if brightness is None else f"{brightness - plain:+.3f}"}
        parts = {
            "accuracy": likeliest["accuracy"],
            "gap": likeliest["gap"],
            "worst group": likeliest["worst_cell"],
            "at a chosen threshold": tuned["worst_cell"],
            "AUC": likeliest["auc"],
            "bias-conflicting AUC": likeliest["crossed_auc"],
        }
        for title, part in parts.items():
            cells[title] = f"{part['mean']:.2f}" + (f" ± {part['std']:.2f}" if part["std"] is not None else "")
        cells["minus ERM"] = "" if name.startswith("ERM") else difference(likeliest["crossed_auc"])
        if to:
            to_balanced = to.get((name, f"balanced, {likeliest['epochs']} epochs", LIKELIEST), {})
            cells["minus balanced"] = difference(to_balanced.get("crossed_auc", {}))
        shown[name] = cells
    return pd.DataFrame(shown).T


def controls_of(found: dict[str, Any]) -> pd.DataFrame:
    """Return what regions have more than as many other pixels, moved or scattered."""
    titles = {LIKELIEST: {"crossed_auc": "bias-conflicting AUC"}, THRESHOLD: {"worst_cell": "at a chosen threshold"}}
    shown: dict[str, dict[str, str]] = {}
    for row in found.get("differences", ()):
        if "@" in row["minus"]:
            control = row["minus"].split("@")[1].split()[0]
            for name, title in titles[row["decision"]].items():
                shown.setdefault(row["mitigator"], {})[f"{title}, minus {control}"] = difference(row[name])
    return pd.DataFrame(shown).T


def tables(found: dict[str, Any]) -> list[str]:
    """Return the tables in Markdown; that of controls where there are some."""
    every = {
        "biased / balanced / scheme": table1_of(found),
        "trained": effects_of(found),
        "regions": controls_of(found),
    }
    return [markdown(table, corner) for corner, table in every.items() if len(table)]


def main(
    data: Data = "celeba",
    root: Root = Path(),
    out: Annotated[Path, typer.Option(help="JSON file of every value.")] = Path("table1.json"),
    confounder: Annotated[str, typer.Option(help="Spurious attribute of gender.")] = "Blond_Hair",
    size: Size = 128,
    train_size: Annotated[
        int | None, typer.Option(help="By default what the data allow, up to the paper's 6000. Faces: 2400.")
    ] = None,
    test_per_cell: Annotated[
        int | None, typer.Option(help="By default what the data allow, up to the paper's 182. Faces: 182.")
    ] = None,
    quantile: Annotated[list[float] | None, typer.Option(help="Again for more; 0.6, 0.7, 0.8 by default.")] = None,
    arm: Annotated[
        list[str] | None,
        typer.Option(help="Again for more; beside ERM and balanced data of as many epochs. By default all."),
    ] = None,
    epochs: Annotated[int, typer.Option(help="With masks; with noise and transplants twice as many.", min=1)] = 10,
    lr: Annotated[float, typer.Option(help="Learning rate.")] = 1e-5,
    region_epochs: Annotated[int | None, typer.Option(help="By default the recipe's.")] = None,
    seeds: Seeds = 3,
    seed: Seed = 0,
    jobs: Annotated[int | None, typer.Option(help="Trainings at a time; as many as processors, 1 on a GPU.")] = None,
    checkpoints: Annotated[Path | None, typer.Option(help="Folder that keeps what is done.")] = None,
    device: Device = "cpu",
    cache: Cache = None,
    force: ReplaceFile = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Repeat Table 1 of the paper for one spurious attribute, and explain it by controls.

    Example: python examples/benchmarks/table1_study.py --root data --device cuda --checkpoints kept --out table1.json
    """
    with errors_in_one_line(debug):
        check_file(out, force)
        faces = data == "faces"
        config = ExperimentConfig(
            "Male",
            confounder,
            train_size=2400 if faces and train_size is None else train_size,
            test_per_cell=182 if faces and test_per_cell is None else test_per_cell,
            epochs=epochs,
            lr=lr,
            region_epochs=region_epochs,
            seeds=seeds,
            random_state=seed,
            n_jobs=jobs or (joblib.cpu_count() if device == "cpu" else 1),
            device=device,
        )
        quantiles = tuple(quantile or (0.6, 0.7, 0.8))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a balanced set that is not quite: as in the paper
            read = None if faces else Source(data, root, cache=cache, quiet=quiet).load(size)
            drawn = synthetic_data(config, size) if read is None else split_data(config, *read)
        found = study_table1(config, drawn, quantiles, only=tuple(arm or ()), checkpoint_dir=checkpoints, quiet=quiet)
        kept = ("confounder", "train_size", "epochs", "batch_size", "lr", "region_epochs", "seeds", "random_state")
        settings = {name: value for name, value in asdict(config).items() if name in kept}
        settings |= {"data": data, "size": size, "quantiles": list(quantiles), "device": device}
        found = {"settings": settings, **found}
        write_json(out, rounded(found | provenance()))
        typer.echo("\n\n".join(tables(found)))


if __name__ == "__main__":
    typer.run(main)

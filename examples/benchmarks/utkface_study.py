"""A second data set of people: UTKFace, with age and light as spurious attributes of gender and of race.

``python examples/benchmarks/utkface_study.py --root UTKFACE --checkpoints kept --out utkface.json`` biases the training
images, trains each mitigator with several seeds and measures it on as many images of each cell. With --checkpoints, a
study that was stopped resumes, and one with more seeds trains those alone.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd
import typer
from studies import RegionEpochs, Seeds, fit_one_seed, interval, markdown, rounded, statistics_of

from captum_region.cli.options import Cache, Debug, Device, Quiet, ReplaceFile, Root, Seed, Size
from captum_region.cli.running import check_file, errors_in_one_line
from captum_region.datasets import image_properties, load_utkface
from captum_region.io.files import write_json
from captum_region.io.provenance import provenance
from fairlearn_bridge import (
    AttributionNoiseMitigator,
    GroupDRO,
    ImageClassifier,
    Reweighing,
    Samples,
    measure,
    summarize,
)
from fairlearn_bridge.experiment import ExperimentConfig, samples_of, split_data
from fairlearn_bridge.metrics import alignment
from fairlearn_bridge.schemes import scheme_parameters

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from captum_region import RegionClassifier
    from captum_region.datasets import AttributeImages

# Under this age a face counts as young; the oldest cell, women, then still has a twelfth of the images.
AGE = 40
# Of the training images of a race, those that go against the bias.
CONFLICTING = 0.05
# Target and spurious attribute.
TASKS = {"gender by age": ("Male", "young"), "race by age": ("race", "young"), "race by light": ("race", "light")}
MEASURES = ("accuracy", "worst_cell", "confounder_gap", "crossed_auc")
# Schemes and quantiles, without and with an objective for groups.
SCHEMES = (
    *(f"{scheme} 0.7" for scheme in ("general_mask", "general_noise", "general_transplant", "specific_transplant")),
    *("specific_transplant 0.5", "specific_transplant@random 0.7", "specific_transplant+group_dro 0.5"),
)
NAMES = ("ERM", "balanced", "reweighing", "GroupDRO", *SCHEMES)


@dataclass(frozen=True)
class Sets:
    """Biased and balanced training images, and test images."""

    biased: Samples
    balanced: Samples
    test: Samples


def with_attributes(images: AttributeImages) -> AttributeImages:
    """Return UTKFace with ``young``, under 40, and ``light``, brighter than half of the images."""
    brightness = image_properties(images)["brightness"].to_numpy()
    made = {"young": images.attributes["age"] < AGE, "light": brightness > np.median(brightness)}
    return replace(images, attributes=images.attributes.assign(**made))


def draw_sets(images: AttributeImages, target: str, confounder: str, seed: int) -> Sets:
    """Draw a task's images: of a binary target by the paper's protocol, of one with more classes by `biased_split`."""
    if images.labels(target).dtype != bool:
        labels, values = images.labels(target), images.binary(confounder)
        parts = biased_split(labels, values, seed)
        return Sets(*(Samples(images.images[one], labels[one], values[one]) for one in parts))
    config = ExperimentConfig(target, confounder, validation_per_cell=0, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a balanced set that is not quite
        data = split_data(config, images)
    return Sets(*(samples_of(config, part) for part in (data.biased, data.balanced, data.test)))


def biased_split(
    labels: NDArray[Any], values: NDArray[np.bool_], seed: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Draw biased and balanced training images and test images, where the target has any number of classes.

    Of the classes, the half in which the spurious attribute is the most frequent gets it in 95 % of the biased images,
    the others in 5 %. Every class has as many images. A quarter of the smallest cell, of each cell, are test images.

    Parameters
    ----------
    labels : array of shape (N,)
    values : bool array of shape (N,)
        The spurious attribute.
    seed : int

    Returns
    -------
    biased, balanced, test : arrays of positions
        Of the first two, a class whose cell is too small for half of its balanced images has more of its other cell.
    """
    rng = np.random.default_rng(seed)
    classes = pd.Series(values).groupby(labels).mean().sort_values(ascending=False, kind="stable").index
    cells = {(c, v): rng.permutation(np.flatnonzero((labels == c) & (values == v))) for c in classes for v in (0, 1)}
    held = min(map(len, cells.values())) // 4
    if held < 1:
        raise ValueError(f"each class must have 4 images with and without the spurious attribute, got {_sizes(cells)}")
    test = np.concatenate([cell[:held] for cell in cells.values()])
    left = {name: cell[held:] for name, cell in cells.items()}
    aligned = {c: int(at < (len(classes) + 1) // 2) for at, c in enumerate(classes)}
    count = min(
        min(int(len(left[c, v]) / (1 - CONFLICTING)), int(len(left[c, 1 - v]) / CONFLICTING))
        for c, v in aligned.items()
    )
    biased, balanced = [], []
    for c, v in aligned.items():
        against = max(1, round(CONFLICTING * count))
        biased += [left[c, v][: count - against], left[c, 1 - v][:against]]
        few = min(count // 2, *(len(left[c, value]) for value in (0, 1)))
        fewer = min((0, 1), key=lambda value: len(left[c, value]))
        balanced += [left[c, fewer][:few], left[c, 1 - fewer][: count - few]]
    return np.concatenate(biased), np.concatenate(balanced), test


def _sizes(cells: dict[Any, NDArray[Any]]) -> str:
    return ", ".join(f"{name}={value}: {len(cell)}" for (name, value), cell in cells.items())


def mitigators(base: ImageClassifier, only: tuple[str, ...], regions: RegionClassifier, maps: Tensor) -> dict[str, Any]:
    """Return what is compared, by name: those in `only`, and ERM."""
    found: dict[str, Any] = {"ERM": base, "balanced": base}
    found |= {"reweighing": Reweighing(base), "GroupDRO": GroupDRO(base)}
    for name in SCHEMES:
        scheme, quantile = name.split()
        estimator = GroupDRO(base) if "+" in scheme else base
        found[name] = AttributionNoiseMitigator(
            estimator, region_classifier=regions, **{**scheme_parameters(scheme), "quantile": float(quantile)}
        )
    return {name: one for name, one in found.items() if name in ("ERM", *only)}


def study_utkface(
    images: AttributeImages,
    tasks: dict[str, tuple[str, str]],
    only: tuple[str, ...] = NAMES,
    *,
    epochs: int = 15,
    batch_size: int = 32,
    region_epochs: int | None = None,
    seeds: int = 3,
    seed: int = 0,
    device: str = "cpu",
    n_jobs: int = 1,
    checkpoint_dir: Path | None = None,
    quiet: bool = True,
) -> dict[str, Any]:
    """Train and measure each mitigator for each task and seed.

    Parameters
    ----------
    images : AttributeImages
    tasks : dict of (target, spurious attribute)
    only : tuple of str
        Of `NAMES`; ERM is always there.
    epochs, batch_size
        Of the classifiers.
    region_epochs : int, optional
    seeds, seed : int
        How many trainings, each with a region classifier of its own, and the first; the latter draws the images too.
    device : str, default="cpu"
    n_jobs : int, default=1
    checkpoint_dir : path, optional
    quiet : bool, default=True

    Returns
    -------
    dict
        By task ``images``, the numbers of each set and cell; ``not_run``, why a mitigator did not run; ``rows``, the
        measures of each mitigator and seed; ``summary``, what `summarize` gives, with differences to ERM.
    """
    base = ImageClassifier(max_epochs=epochs, batch_size=batch_size, device=device)
    found = {}
    for task, (target, confounder) in tasks.items():
        sets = draw_sets(images, target, confounder, seed)
        done = [
            fit_one_seed(
                partial(mitigators, base, only),
                sets.biased,
                sets.test,
                its_seed,
                region_epochs=region_epochs,
                device=device,
                checkpoint_dir=checkpoint_dir,
                quiet=quiet,
                train_on={"balanced": sets.balanced} if "balanced" in only else {},
                n_jobs=n_jobs,
            )
            for its_seed in range(seed, seed + seeds)
        ]
        predictions = pd.concat([one for one, _ in done], ignore_index=True)
        aligned = alignment(sets.biased.y, sets.biased.confounder)
        rows = [
            {"mitigator": name, "seed": its_seed, **measure(one, aligned=aligned).to_dict()}
            for (name, its_seed), one in predictions.groupby(["mitigator", "seed"], sort=False)
        ]
        table = summarize(predictions, aligned=aligned, reference="ERM")
        found[task] = {
            "target": target,
            "confounder": confounder,
            "images": {
                name: _cells(getattr(sets, name), target, confounder) for name in ("biased", "balanced", "test")
            },
            "not_run": {name: reason for _, not_run in done for name, reason in not_run.items()},
            "rows": rows,
            "summary": statistics_of(table, MEASURES),
        }
    return found


def _cells(samples: Samples, target: str, confounder: str) -> dict[str, int]:
    classes = [str(one) if samples.y.dtype != bool else target if one else f"not {target}" for one in samples.y]
    words = np.where(samples.confounder, confounder, f"not {confounder}")
    names, numbers = np.unique([f"{one}, {word}" for one, word in zip(classes, words, strict=True)], return_counts=True)
    return dict(zip(names.tolist(), numbers.tolist(), strict=True))


def table_of(found: dict[str, Any]) -> pd.DataFrame:
    """Return the table of a task: means over seeds, their spread, and the intervals of differences to ERM."""
    titles = ("accuracy", "worst group", "spurious-attribute gap", "bias-conflicting AUC")
    shown = {}
    for row in found["summary"]:
        cells = {}
        for title, name in zip(titles, MEASURES, strict=True):
            if name not in row:
                continue
            cells[title] = "{mean:.2f}".format(**row[name])
            if row[name]["std"] is not None:
                cells[title] += " ± {std:.2f}".format(**row[name])
            if row["mitigator"] != "ERM":
                cells[title] += interval(row[name]["difference_low"], row[name]["difference_high"])
        shown[row["mitigator"]] = cells
    return pd.DataFrame(shown).T


def tables(found: dict[str, Any]) -> list[str]:
    """Return a table for each task."""
    return [markdown(table_of(of_task), name) for name, of_task in found["tasks"].items()]


def main(
    root: Root,
    out: Annotated[Path, typer.Option(help="JSON file of every value.")] = Path("utkface.json"),
    task: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(TASKS)}; again for more.")] = None,
    mitigator: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(NAMES)}; again for more.")] = None,
    size: Size = 64,
    epochs: Annotated[int, typer.Option(help="Epochs of the classifiers.", min=1)] = 15,
    batch_size: Annotated[int, typer.Option(help="Batch size of the classifiers.", min=1)] = 32,
    region_epochs: RegionEpochs = None,
    seeds: Seeds = 3,
    seed: Seed = 0,
    jobs: Annotated[int, typer.Option(help="Trainings at a time.", min=1)] = 1,
    checkpoints: Annotated[Path | None, typer.Option(help="Folder that keeps what is done.")] = None,
    device: Device = "cpu",
    cache: Cache = None,
    force: ReplaceFile = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Compare mitigators on UTKFace.

    Example: python examples/benchmarks/utkface_study.py --root UTKFACE --size 32 --out utkface.json
    """
    with errors_in_one_line(debug):
        check_file(out, force)
        tasks, only = tuple(task or TASKS), tuple(mitigator or NAMES)
        for option, given, known in (("task", tasks, [*TASKS]), ("mitigator", only, NAMES)):
            if unknown := [name for name in given if name not in known]:
                raise ValueError(f"--{option} must be of {', '.join(known)}, got {', '.join(unknown)}")
        training: dict[str, Any] = {"epochs": epochs, "batch_size": batch_size, "region_epochs": region_epochs}
        images = load_utkface(root, size=size, cache=cache, show_progress=not quiet)
        images = images.subset(np.unique(images.firsts()))  # each once: some would be both trained and tested on
        found = study_utkface(
            with_attributes(images),
            {name: TASKS[name] for name in tasks},
            only,
            **training,
            seeds=seeds,
            seed=seed,
            device=device,
            n_jobs=jobs,
            checkpoint_dir=checkpoints,
            quiet=quiet,
        )
        settings = {"size": size, **training, "seeds": seeds, "seed": seed, "device": device}
        kept = {"settings": settings, "tasks": found, **provenance()}
        write_json(out, rounded(kept))
        typer.echo("\n\n".join(tables(kept)))


if __name__ == "__main__":
    typer.run(main)

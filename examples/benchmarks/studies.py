"""What the studies of this package share: each is run for each confounder and seed, and shown with its spread."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pandas as pd
import typer

from captum_region import RegionAttribution
from captum_region.cli.reading import Source
from captum_region.cli.running import console
from captum_region.io.files import records
from captum_region.io.provenance import provenance
from fairlearn_bridge import Samples, fit_mitigators
from fairlearn_bridge.experiment import ExperimentConfig, ExperimentData, split_data, synthetic_data
from fairlearn_bridge.regions import train_regions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from torch import Tensor

    from captum_region import RegionClassifier

Target = Annotated[str, typer.Option(help="Binary attribute to classify, or attribute=value.")]
Confounders = Annotated[list[str] | None, typer.Option(help="Again for more; the paper's four by default.")]
TrainSize = Annotated[int | None, typer.Option(help="Images of each training set. Faces: 2400 by default.")]
TestPerCell = Annotated[int | None, typer.Option(help="Test images a cell. Faces: 182 by default.")]
RegionEpochs = Annotated[int | None, typer.Option(help="Epochs of region classifiers; by default the recipe's.")]
Seeds = Annotated[int, typer.Option(help="Runs with seeds --seed, --seed + 1 ...")]
Out = Annotated[Path | None, typer.Option(help="JSON file of every value, with versions and settings.")]
Keep = Annotated[Path | None, typer.Option(help="Folder for the states of trainings; a stopped run resumes.")]


def run_study(
    study: Callable[[ExperimentConfig, ExperimentData], pd.DataFrame],
    data: str,
    root: Path,
    target: str,
    confounders: list[str] | None,
    *,
    size: int,
    train_size: int | None,
    test_per_cell: int | None,
    seeds: int,
    seed: int,
    cache: Path | None,
    quiet: bool,
    training_images_alone: bool = False,
    **training: Any,
) -> dict[str, Any]:
    """Return what `study` measures of each confounder and seed, as JSON values.

    With `training_images_alone` no image of a test partition is used: the test sets come from the train partition
    too. Beside versions, ``settings`` are those given, ``rows`` those of `study` with ``confounder`` and ``seed``.
    """
    images = None
    if data == "faces":
        train_size = 2400 if train_size is None else train_size
        test_per_cell = 182 if test_per_cell is None else test_per_cell
    else:
        images = Source(data, root, cache=cache, quiet=quiet).load(size)
        images = (images[0], None) if training_images_alone else images
    drawing: Any = {"train_size": train_size, "test_per_cell": test_per_cell}
    found = []
    for name in confounders or ("Blond_Hair", "Eyeglasses", "Smiling", "Wearing_Hat"):
        for its_seed in range(seed, seed + seeds):
            config = ExperimentConfig(target, name, random_state=its_seed, **drawing, **training)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # a balanced set that is not quite: as good as it gets
                drawn = synthetic_data(config, size) if images is None else split_data(config, *images)
            found.append(study(config, drawn).reset_index().assign(confounder=name, seed=its_seed))
    training.pop("n_jobs", None)  # which changes nothing
    settings = {"data": data, "target": target, "size": size, **drawing, **training, "seeds": seeds, "seed": seed}
    rows = records(pd.concat(found, ignore_index=True))
    kept: dict[str, Any] = rounded({"settings": settings, "rows": rows, **provenance()})
    return kept


def fit_one_seed(
    mitigators: Callable[[RegionClassifier, Tensor], Mapping[str, Any]],
    train: Samples,
    test: Samples,
    seed: int,
    *,
    region_epochs: int | None,
    device: str,
    checkpoint_dir: Path | None,
    quiet: bool,
    fit_params: Mapping[str, Any] | None = None,
    **fitting: Any,
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Train a region classifier with a seed, and with it what `mitigators` makes of it and of the training maps.

    Parameters
    ----------
    mitigators : callable
        (region classifier, maps of the training images) -> mitigators by name.
    train, test : Samples
    seed : int
    region_epochs, device, checkpoint_dir, quiet
        See `fairlearn_bridge.fit_mitigators` and `captum_region.fit_region_classifier`.
    fit_params, **fitting
        Of `fit_mitigators`.

    Returns
    -------
    predictions : DataFrame
        As `fit_mitigators` gives them.
    not_run : dict
        Why mitigators could not run, by name.
    """
    how: Any = {"device": device, "checkpoint_dir": checkpoint_dir, "show_progress": not quiet}
    of = train.X, train.confounder, train.y
    classifier, _ = train_regions(*of, region_epochs=region_epochs, random_state=seed, **how)
    maps = RegionAttribution(classifier).region_map(train.X, show_progress=not quiet)
    predictions, trainings = fit_mitigators(
        mitigators(classifier.cpu(), maps),
        train,
        test,
        fit_params={"region_maps": maps.numpy(), **(fit_params or {})},
        random_states=[seed],
        checkpoint_dir=checkpoint_dir,
        show_progress=not quiet,
        **fitting,
    )
    missing = trainings[trainings["status"] != "done"]
    not_run = {str(row.mitigator): f"{row.status}: {row.reason}" for row in missing.itertuples()}
    for name, reason in not_run.items():
        console().print(f"{name}, seed {seed}: {reason}")
    return predictions, not_run


def statistics_of(table: pd.DataFrame, measures: Iterable[str]) -> list[dict[str, Any]]:
    """Return a row a mitigator of what `summarize` gives, with the statistics of each measure, as JSON values."""
    return [
        {"mitigator": name, **{each: records(values[each].to_frame().T)[0] for each in measures if each in values}}
        for name, values in table.iterrows()
    ]


def markdown(table: pd.DataFrame, corner: str) -> str:
    """Return a table in Markdown, under the name of its first column."""
    lines = [[corner, *table.columns], ["---", *["---:"] * table.shape[1]]]
    lines += [[str(name), *row] for name, row in zip(table.index, table.to_numpy().tolist(), strict=True)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def interval(low: float | None, high: float | None, *, signed: bool = True) -> str:
    """Return an interval as text, with a space before it; nothing where there is none, as of an AUC of few images."""
    sign = "+" if signed else ""
    return "" if low is None or high is None else f" [{low:{sign}.2f}, {high:{sign}.2f}]"


def difference(row: dict[str, Any], name: str = "difference") -> str:
    """Return a difference of `summarize` and its interval as text; nothing where there is none."""
    value, low, high = (row.get(f"{name}{end}") for end in ("", "_low", "_high"))
    return "" if value is None else f"{value:+.2f}{interval(low, high)}"


def rounded(found: Any) -> Any:
    """Return results with numbers to four digits: what is kept is read by people too."""
    if isinstance(found, dict):
        return {name: rounded(value) for name, value in found.items()}
    if isinstance(found, list):
        return [rounded(value) for value in found]
    return float(f"{found:.4g}") if isinstance(found, float) else found

"""captum-region compare."""

from __future__ import annotations

import shutil
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from captum_region.cli import completion
from captum_region.cli.options import (
    AsJson,
    Cache,
    Data,
    Debug,
    Device,
    Force,
    ImageColumn,
    Out,
    Quiet,
    Root,
    Seed,
    Size,
    SkipDamaged,
)
from captum_region.cli.reading import read_data, reading, set_apart, skipped_in
from captum_region.cli.running import check_out, console, told_in_one_line
from captum_region.files import CHECKPOINTS, locked

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from captum_region.datasets import AttributeImages
    from captum_region.saliency import Study
    from captum_region.saliency.results import StudyResults


def _read_compared(
    data: str, root: Path, size: int, count: int, seed: int, **options: Any
) -> tuple[AttributeImages, AttributeImages]:
    """Return at most `count` images to train on, and those to compare on; faces are drawn anew for each seed."""
    from captum_region.datasets import make_faces

    if data == "faces":
        faces = make_faces(count, size, random_state=2 * seed)
        return faces, make_faces(max(1, count // 4), size, random_state=2 * seed + 1)
    train, test = set_apart(*read_data(data, root, size, **options))
    return train.subset(slice(count)), test


def _read_masks(
    column: str, root: Path, size: int, cache: Path | None, quiet: bool, chosen: AttributeImages
) -> NDArray[np.bool_]:
    """Return where the mask images that a table's column names are bright, N x height x width."""
    import numpy as np
    import pandas as pd

    from captum_region.datasets import load_table
    from captum_region.datasets.images import quoted

    if column not in chosen.attributes:
        raise ValueError(f"--masks must be a column of {root}, of {quoted(chosen.attributes)}; got {column!r}")
    # Several images may have one mask.
    files, numbers = np.unique(chosen.labels(column), return_inverse=True)
    table = pd.DataFrame({column: files})
    masks = load_table(table, column, root=root.parent, size=size, cache=cache, show_progress=not quiet)
    bright: NDArray[np.bool_] = masks.images.mean(1) > 127
    return bright[numbers]


def compare(
    ctx: typer.Context,
    data: Data,
    attribute: Annotated[
        list[str],
        typer.Option(
            help="Attribute to find, or attribute=value; give it again for more.", autocompletion=completion.attributes
        ),
    ],
    out: Out,
    root: Root = Path(),
    image_column: ImageColumn = None,
    masks: Annotated[
        str | None,
        typer.Option(help="Column of a table's csv: image files, bright where the attribute shows."),
    ] = None,
    size: Size = 48,
    seeds: Annotated[int, typer.Option(help="Runs with seeds --seed, --seed + 1 ...; their faces are new too.")] = 1,
    images: Annotated[
        int, typer.Option(min=1, help="Train on at most so many images; a quarter as many more faces for the test.")
    ] = 2000,
    limit: Annotated[int, typer.Option(help="Compare on at most so many images.")] = 100,
    without: Annotated[
        list[str] | None, typer.Option(help="Leave out a method, such as XRAI, which takes seconds an image.")
    ] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the images when the explained model is trained.")] = 20,
    region_epochs: Annotated[int, typer.Option(help="The same of the region classifiers.")] = 100,
    retrain: Annotated[
        list[str] | None,
        typer.Option(
            help="Measure what a fresh classifier still knows without a map's top, of fast (default), all or none "
            "of the methods, or of one by name; give it again for more."
        ),
    ] = None,
    retrain_epochs: Annotated[int, typer.Option(help="Of each such training.")] = 10,
    quantile: Annotated[float, typer.Option(help="Retraining masks what is above this quantile of each map.")] = 0.8,
    seed: Seed = 0,
    device: Device = "cpu",
    cache: Cache = None,
    skip_damaged: SkipDamaged = False,
    force: Force = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Compare region attribution with saliency methods, on images whose true regions are known.

    Trains a classifier to be explained and region classifiers on the same images. --out gets table.csv, scores.csv (of
    each image), comparison.json and a picture of the maps of each attribute, written anew after each run. Where it was
    stopped, the same command with --force goes on.

    The saliency methods explain one model, the region map the data: what a model does not use, they should not show.

    Example: captum-region compare --data faces --attribute Eyeglasses --attribute Smiling --seeds 3 --out compare
    """
    from captum_region.digest import digest
    from captum_region.saliency.results import StudyResults

    states = out / CHECKPOINTS
    with told_in_one_line(debug, resumes=states):
        check_out(out, force)
        if data != "faces" and (data != "table" or masks is None):
            raise ValueError("--data must be faces, whose true regions are known, or table with --masks")
        if seeds < 1:
            raise ValueError(f"--seeds must be at least 1, got {seeds}")
        settings = ("data", "size", "images", "epochs", "region_epochs", "retrain_epochs", "quantile")
        results = StudyResults(settings={name: ctx.params[name] for name in settings})
        if results.reference in (without or ()):
            raise ValueError(f"--without must not name {results.reference}, which the others are compared with")
        chosen = ("limit", "epochs", "region_epochs", "quantile", "retrain_epochs", "device")
        options = {name: ctx.params[name] for name in chosen} | {
            "truth": None if masks is None else partial(_read_masks, masks, root, size, cache, quiet),
            "without": without or (),
            "retrain": retrain or "fast",
            "checkpoint_dir": states,
            "show_progress": not quiet,
        }
        with locked(out):
            for its_seed in range(seed, seed + seeds):
                train, test = _read_compared(data, root, size, images, its_seed, **reading(ctx.params))
                results.settings["skipped"] = skipped_in(train)
                digests = {"train": digest(train.images), "test": digest(test.images)}
                results.settings.setdefault("digests", {})[str(its_seed)] = digests
                for name in attribute:
                    results.studies[name, its_seed] = _study(train, test, name, its_seed, options)
                    results.write(out)
            shutil.rmtree(states)
        if as_json:
            typer.echo((out / "comparison.json").read_text(), nl=False)
        else:
            _print(results)


def _study(train: AttributeImages, test: AttributeImages, attribute: str, seed: int, options: dict[str, Any]) -> Study:
    from captum_region.saliency import study_attribute

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RuntimeWarning)
        study = study_attribute(train, test, attribute, seed=seed, **options)
    remarks = [str(warning.message) for warning in caught]
    remarks += [f"{method} was not run: {why}" for method, why in study.not_run.items()]
    for remark in remarks:
        typer.echo(f"{attribute}, seed {seed}: {remark}", err=True)
    return study


def _print(results: StudyResults) -> None:
    out = console()
    for table in results.rich_tables():
        out.print(table)
    out.print(f"+ and -: better and worse than {results.reference}, the 95 % interval of the difference without 0")

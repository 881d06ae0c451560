"""captum-region compare."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from captum_region.cli import options as opt
from captum_region.cli.reading import Source, set_apart, skipped_in
from captum_region.cli.running import check_out, console, errors_in_one_line
from captum_region.io.files import CHECKPOINTS, check_place, locked, remove_states

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from captum_region.datasets import AttributeImages
    from captum_region.saliency import Study


def compare(
    ctx: typer.Context,
    data: opt.Data,
    attribute: Annotated[list[str], opt.attributes("Attribute to find, or attribute=value; may be repeated.")],
    out: opt.Out,
    root: opt.Root = Path(),
    image_column: opt.ImageColumn = None,
    masks: Annotated[str | None, typer.Option(help="Column of mask images, bright where the attribute is.")] = None,
    size: opt.Size = 48,
    seeds: Annotated[
        int, typer.Option(min=1, help="Runs, with seeds --seed, --seed + 1 ...; of faces, each draws new ones.")
    ] = 1,
    images: Annotated[
        int, typer.Option(min=1, help="Train on at most this many images; the test has a quarter as many faces.")
    ] = 2000,
    limit: Annotated[int, typer.Option(help="Compare, and choose, on at most this many images.")] = 100,
    choose: Annotated[
        bool,
        typer.Option(help="Choose each method's smoothing, and Occlusion's window, on other images; or use none."),
    ] = True,
    without: Annotated[
        list[str] | None, typer.Option(help="Method to leave out, such as XRAI, which is slow; may be repeated.")
    ] = None,
    epochs: Annotated[int, typer.Option(help="Training epochs of the explained model.")] = 20,
    region_epochs: Annotated[int, typer.Option(help="Training epochs of the region classifiers.")] = 100,
    retrain: Annotated[
        list[str] | None,
        typer.Option(help="Methods to measure by remove-and-retrain (ROAR): fast (default), all, none, or one."),
    ] = None,
    retrain_epochs: Annotated[int, typer.Option(help="Training epochs of each classifier of --retrain.")] = 10,
    quantile: Annotated[float, typer.Option(help="--retrain masks the pixels above this quantile of each map.")] = 0.8,
    seed: opt.Seed = 0,
    device: opt.Device = "cpu",
    cache: opt.Cache = None,
    skip_damaged: opt.SkipDamaged = False,
    force: opt.Force = False,
    as_json: opt.AsJson = False,
    quiet: opt.Quiet = False,
    debug: opt.Debug = False,
) -> None:
    """Compare region attribution with saliency methods, on images whose true regions are known.

    A saliency method explains one model, the region map the data: it also shows what a model does not use. So both a
    model to explain and region classifiers are trained on the same images. How strongly the maps of each method are
    smoothed is chosen on images that are neither trained on nor compared. --out gets table.csv, scores.csv (of each
    image), choice.csv, comparison.json and a picture of the maps of each attribute. If the command was stopped, run it
    again with --force: it resumes.

    Example: captum-region compare --data faces --attribute Eyeglasses --attribute Smiling --seeds 3 --out compare
    """
    from captum_region.io.digest import digest
    from captum_region.saliency.results import StudyResults

    states = out / CHECKPOINTS
    with errors_in_one_line(debug, resumes=states):
        check_out(out, force)
        if data != "faces" and (data != "table" or masks is None):
            raise ValueError("--data must be faces, whose true regions are known, or table with --masks")
        source = Source.of(ctx.params)
        saved = ("data", "size", "images", "limit", "choose", "epochs", "region_epochs", "retrain_epochs", "quantile")
        results = StudyResults(settings={name: ctx.params[name] for name in saved} | {"skipped": [], "digests": {}})
        if results.reference in (without or ()):
            raise ValueError(f"--without must not name {results.reference}, which the others are compared with")
        passed = ("limit", "epochs", "region_epochs", "quantile", "retrain_epochs", "device")
        settings = {name: ctx.params[name] for name in passed} | {
            "truth": None if masks is None else partial(_read_masks, source, masks, size),
            "without": without or (),
            "retrain": retrain or "fast",
            "checkpoint_dir": states,
            "show_progress": not quiet,
        }
        with locked(out):
            check_place(out, ("comparison.json", "table.csv", "scores.csv", "choice.csv"))
            for its_seed in range(seed, seed + seeds):
                parts = _read_images(source, size, images, its_seed, choose)
                results.settings["skipped"] = skipped_in(parts["train"])
                digests = {part: digest(its.images) for part, its in parts.items()}
                results.settings["digests"][str(its_seed)] = digests
                for name in attribute:
                    results.studies[name, its_seed] = _study(parts, name, seed=its_seed, **settings)
                results.write(out)
            remove_states(states)
        if as_json:
            typer.echo((out / "comparison.json").read_text(), nl=False)
            return
        for table in results.rich_tables():
            console().print(table)
        typer.echo(f"+ and -: better and worse than {results.reference}, with a 95 % interval that does not contain 0")


def _read_images(source: Source, size: int, count: int, seed: int, choose: bool) -> dict[str, AttributeImages]:
    """Return at most `count` images to train on, those to compare on, and those to choose on, which others are not.

    Each seed draws new faces; those to choose on are the same for all.
    """
    import numpy as np

    from captum_region.datasets import make_faces

    if source.data == "faces":
        few = max(1, count // 4)
        parts: dict[str, AttributeImages] = {
            "train": make_faces(count, size, random_state=2 * seed),
            "test": make_faces(few, size, random_state=2 * seed + 1),
        }
        return parts | ({"choice": make_faces(few, size, random_state=np.random.default_rng([0, 0]))} if choose else {})
    train, test = set_apart(*source.load(size))
    train, choice = set_apart(train, None) if choose else (train, None)
    return {"train": train.subset(slice(count)), "test": test} | ({} if choice is None else {"choice": choice})


def _read_masks(source: Source, column: str, size: int, chosen: AttributeImages) -> NDArray[np.bool_]:
    """Return where the mask images that a table's column names are bright, N x height x width."""
    import numpy as np
    import pandas as pd

    from captum_region.datasets import load_table
    from captum_region.datasets.images import quoted

    if column not in chosen.attributes:
        raise ValueError(f"--masks must be a column of {source.root}, of {quoted(chosen.attributes)}; got {column!r}")
    # Several images may have one mask.
    files, numbers = np.unique(chosen.labels(column), return_inverse=True)
    table, folder = pd.DataFrame({column: files}), source.root.parent
    masks = load_table(table, column, root=folder, size=size, cache=source.cache, show_progress=not source.quiet)
    bright: NDArray[np.bool_] = masks.images.mean(1) > 127
    return bright[numbers]


def _study(parts: dict[str, Any], attribute: str, *, seed: int, **settings: Any) -> Study:
    """Run a study, with its warnings in a line each."""
    from captum_region.saliency import study_attribute

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RuntimeWarning)
        study = study_attribute(attribute=attribute, seed=seed, **parts, **settings)
    remarks = [str(warning.message) for warning in caught]
    remarks += [f"{method} was not run: {why}" for method, why in study.not_run.items()]
    for remark in remarks:
        typer.echo(f"{attribute}, seed {seed}: {remark}", err=True)
    return study

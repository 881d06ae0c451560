"""fairlearn-bridge inspect: which attributes are associated with the target."""

from __future__ import annotations

import json
import shlex
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from captum_region.cli import options as opt
from captum_region.cli.reading import Source, classifier_at, with_properties
from captum_region.cli.running import check_out, console, errors_in_one_line
from captum_region.io.files import (
    CHECKPOINTS,
    check_place,
    locked,
    records,
    remove_files,
    remove_states,
    write_json,
    write_text,
)
from captum_region.io.provenance import provenance

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

    from fairlearn_bridge.inspecting import Overlaps, RankedImages

_OF_IMAGES = ("properties.csv", "ranking.csv", "ranking.png", "overlap.csv", "overlap.png")
_FILES = ("inspect.json", "inspect.csv", "inspect.png", *_OF_IMAGES)


def inspect(
    data: opt.Data,
    target: Annotated[str, opt.attributes("Attribute to classify (of any number of classes), or attribute=value.")],
    root: opt.Root = Path(),
    image_column: opt.ImageColumn = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the results too; new or empty unless --force.")] = None,
    threshold: Annotated[
        float,
        typer.Option(help="Flag attributes whose Cramer's V is at least this: 0 independent, 1 determines the target."),
    ] = 0.2,
    images: Annotated[
        bool,
        typer.Option(
            "--images",
            help="Compare what the images carry besides labels too: brightness, contrast, colourfulness, sharpness, "
            "plain borders, colour; size, aspect ratio, format and size of the files.",
        ),
    ] = False,
    quantile: Annotated[
        list[float] | None,
        typer.Option(
            help="With --images, cut a property where it is a number at this quantile; may be repeated. By default at "
            "the median, 0.5."
        ),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            help="A folder of save_mitigator, or one with such a folder named model: measure its accuracy on the "
            "images of each class in which the spurious attribute of --regions shows most, and least; of a data set "
            "with parts, on those to test on."
        ),
    ] = None,
    regions: Annotated[
        Path | None,
        typer.Option(
            help="With --model, a region classifier of the spurious attribute: a checkpoint folder, or the --out "
            "folder of run or of captum-region train. Its last class is taken, such as True."
        ),
    ] = None,
    overlap: Annotated[
        list[str] | None,
        opt.attributes(
            "Spurious attribute, or attribute=value, of which to measure before any mitigation how much of what the "
            "images say of the target would be perturbed with it; may be repeated. Trains two region classifiers each."
        ),
    ] = None,
    mask_quantile: Annotated[
        float | None,
        typer.Option(help="With --overlap, pixels above this quantile of its map would be perturbed; by default 0.5."),
    ] = None,
    size: Annotated[
        int | None, typer.Option(help="With --overlap, side in pixels that images are resized to; by default 64.")
    ] = None,
    region_epochs: Annotated[
        int | None,
        typer.Option(help="With --overlap, epochs of the region classifiers; by default as in their recipe."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="With --overlap, the random seed; by default 0.")] = None,
    skip_damaged: opt.SkipDamaged = False,
    force: opt.Force = False,
    as_json: opt.AsJson = False,
    quiet: opt.Quiet = False,
    debug: opt.Debug = False,
) -> None:
    """Find the attributes that are associated with the target in the training images, and so could be shortcuts.

    Only labels are read, and images with --images, --model or --overlap alone. --out gets inspect.csv, inspect.json
    (what --json prints) and inspect.png; with --images properties.csv too, with --model ranking.csv and ranking.png,
    strips of the images at both ends, with --overlap overlap.csv and overlap.png, the maps of both. The attributes of
    synthetic faces are independent, so that none of them is flagged.

    Example: fairlearn-bridge inspect --data celeba --root DATA --target Male
    """
    from captum_region.plotting import write_figure
    from fairlearn_bridge.inspecting import commands_to_follow, confounders_table, draw_inspection, labels_of
    from fairlearn_bridge.inspection import cell_counts, find_confounders

    states = None if out is None else out / CHECKPOINTS
    with errors_in_one_line(debug, resumes=states), _held(out, force):
        _check_quantiles(images, quantile)
        source = Source(data, root, image_column, skip_damaged=skip_damaged, quiet=quiet)
        ranked = _ranked(source, model, regions, target)
        train, test, measured = _read(source, images, quantile)
        labels = labels_of(train, target)
        attributes = train.drop(columns=target if target in train else target.partition("=")[0])
        found = find_confounders(attributes, labels, threshold=threshold)
        if found["cramers_v"].isna().all():
            raise ValueError("; ".join(f"{name}: {note}" for name, note in found["note"].items()))
        cells = cell_counts(attributes[found.index[found["cramers_v"].notna()]], labels)
        following = commands_to_follow(found, cells, target, train, test)
        commands = {name: _command(name, source, *of) for name, of in following.items()}
        training = {"quantile": mask_quantile, "size": size, "region_epochs": region_epochs, "random_state": seed}
        overlaps = _overlaps(source, target, overlap or [], states, training)
        result = {
            "target": target,
            "images": len(train),
            "target_missing": int(labels.isna().sum()),
            "threshold": threshold,
            "attributes": records(found.reset_index()),
            "cells": records(cells),
            "cuts": train.attrs.get("cuts", {}),
            "next": commands,
            "ranking": None if ranked is None else {name: gap._asdict() for name, gap in ranked.gaps.items()},
            "overlaps": None if overlaps is None else overlaps.rows,
            "skipped": [row for part in (train, test) if part is not None for row in part.attrs.get("skipped", ())],
            **provenance(),
        }
        if out is not None:
            if (out / "inspect.json").exists():  # of another inspection, where --force writes over it
                remove_files(out, _OF_IMAGES)
            write_json(out / "inspect.json", result)
            write_text(out / "inspect.csv", found.to_csv())
            _write_images(out, measured, ranked, overlaps)
            write_figure(out / "inspect.png", draw_inspection(found, cells, target, threshold))
        if as_json:
            typer.echo(json.dumps(result, indent=1))
            return
        console().print(confounders_table(found, cells, target))
        _explain(found, threshold, result["cuts"], commands, following)
        _print_measured(target, ranked, overlaps)


@contextmanager
def _held(out: Path | None, force: bool) -> Iterator[None]:
    """Keep others out of the folder for the results, if there is one, and look first what is in their way."""
    if out is None:
        yield
        return
    check_out(out, force)
    with locked(out):
        check_place(out, _FILES)
        yield


def _write_images(
    out: Path, measured: pd.DataFrame | None, ranked: RankedImages | None, overlaps: Overlaps | None
) -> None:
    """Write what was found by looking at the images."""
    from captum_region.plotting import write_figure

    if measured is not None:
        write_text(out / "properties.csv", measured.to_csv())
    if ranked is not None:
        write_text(out / "ranking.csv", ranked.ranking.to_csv(index=False))
        write_figure(out / "ranking.png", ranked.draw())
    if overlaps is not None:
        import pandas as pd

        write_text(out / "overlap.csv", pd.DataFrame(overlaps.rows).to_csv(index=False))
        write_figure(out / "overlap.png", overlaps.draw())
        remove_states(out / CHECKPOINTS)


def _explain(
    found: pd.DataFrame,
    threshold: float,
    cuts: dict[str, float],
    commands: dict[str, str],
    following: dict[str, tuple[str, str]],
) -> None:
    """Print what the columns are, and what to do next."""
    typer.echo("V: Cramer's V; NMI: normalised mutual information; p: adjusted for the number of attributes")
    typer.echo("value: the rarest one in some class; the number of images of each class that have it")
    typer.echo(f"* flagged: V is at least {threshold:g} and above chance, so a model may learn it as a shortcut")
    if cuts:
        values = ", ".join(f"{name} {cut:.4g}" for name, cut in cuts.items())
        typer.echo(f"@: above the quantile, or at it where that is the greatest value: {values}")
    if not found["flagged"].any():
        typer.echo("nothing flagged among these attributes")
    elif not following:
        typer.echo("mitigate needs all labels, and an attribute that takes several values in a class: see the remarks")
    for name, (target, confounder) in following.items():
        what = {
            "mitigate": f"next, to train a classifier of these images without the shortcut {confounder}",
            "run": f"or to compare mitigators, without training images that have both {target} and {confounder}",
        }[name]
        typer.echo(f"{what}:\n{commands[name]}")


def _print_measured(target: str, ranked: RankedImages | None, overlaps: Overlaps | None) -> None:
    """Print what was found by looking at the images."""
    from fairlearn_bridge.inspecting import gaps_table

    if ranked is not None:
        typer.echo("\naccuracy of the model on the quarter in which the spurious attribute shows most, and least:")
        console().print(gaps_table(ranked.gaps))
    if overlaps is not None:
        typer.echo(f"\nshare of what the images say of {target} that lies where the attribute would be perturbed:")
        console().print(overlaps.table())


def _ranked(source: Source, model: Path | None, regions: Path | None, target: str) -> RankedImages | None:
    """Return the images ranked by a region classifier, with the accuracy of the model, if they are given."""
    from fairlearn_bridge.deployment.folder import load_mitigator
    from fairlearn_bridge.deployment.state import network_in
    from fairlearn_bridge.inspecting import rank_images

    if (model is None) != (regions is None):
        raise ValueError("--model and --regions must be given together: the one is measured, the other ranks")
    if model is None or regions is None:
        return None
    estimator = load_mitigator(model / "model" if (model / "model").is_dir() else model)
    classifier = classifier_at(regions)
    (channels, *size), wanted = network_in(estimator).image_shape_, classifier.grid.image_size
    if channels != 3 or tuple(size) != wanted or wanted[0] != wanted[1]:
        raise ValueError(
            f"--model and --regions must be for square colour images of one size, --model is for {channels} x "
            f"{size[0]} x {size[1]}, --regions for {wanted[0]} x {wanted[1]}"
        )
    return rank_images(estimator, classifier, source.load_part(wanted[0], source.measured_on), target)


def _overlaps(
    source: Source, target: str, names: list[str], states: Path | None, training: dict[str, Any]
) -> Overlaps | None:
    """Return the overlap of the target with each of the attributes, if there are some."""
    from fairlearn_bridge.inspecting import find_overlaps
    from fairlearn_bridge.validation import check_number

    given = {name: value for name, value in training.items() if value is not None}
    if not names:
        if given:
            raise ValueError("--mask-quantile, --size, --region-epochs and --seed are for --overlap: give them with it")
        return None
    if "quantile" in given:
        check_number("--mask-quantile", given["quantile"], 0, 1)
    (images,) = with_properties([(replace(source, named=(target, *names)), 0)], given.pop("size", 64))
    options = {"random_state": 0, "checkpoint_dir": states, "show_progress": not source.quiet} | given
    return find_overlaps(images, target, names, **options)


def _check_quantiles(images: bool, quantiles: list[float] | None) -> None:
    """Raise ValueError, before anything is read, if a property cannot be cut at the quantiles."""
    from fairlearn_bridge.validation import check_number

    if quantiles and not images:
        raise ValueError("--quantile is for properties of images: give it with --images")
    for each in quantiles or ():
        check_number("--quantile", each, 0, 1, inside=True)


def _read(
    source: Source, images: bool, quantiles: list[float] | None
) -> tuple[pd.DataFrame, pd.DataFrame | None, pd.DataFrame | None]:
    """Return the attributes of the images to train and to test on, and the properties of the first with `images`."""
    from fairlearn_bridge.inspecting import add_properties

    train, test = source.attributes()
    if not images:
        return train, test, None
    measured = source.properties(0)
    train = add_properties(train, measured, quantiles or [0.5], measured)
    if test is not None:
        test = add_properties(test, source.properties(1), quantiles or [0.5], measured)
    return train, test, measured


def _command(name: str, source: Source, target: str, confounder: str) -> str:
    options = ["--data", source.data, "--root", str(source.root), "--target", target, "--confounder", confounder]
    options += [] if source.image_column is None else ["--image-column", source.image_column]
    options += ["--skip-damaged"] if source.skip_damaged else []
    out = "mitigated" if name == "mitigate" else f"runs/{confounder}"
    return shlex.join(["fairlearn-bridge", name, *options, "--out", out])

"""The command captum-region: train a region classifier, and map where an attribute's information sits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from captum_region.datasets import AttributeImages

app = typer.Typer(
    help="Where in images the information about an attribute sits.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Out = Annotated[Path, typer.Option(help="Folder for the results; new or empty unless --force.")]
Force = Annotated[bool, typer.Option("--force", help="Write into --out even if it holds files.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress on stderr.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Seed = Annotated[int, typer.Option(help="Decides all that is random.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps ...")]
Data = Annotated[
    str, typer.Option(help="celeba, fairface, utkface, table (a csv with a column 'image'), or faces (synthetic).")
]
Root = Annotated[Path, typer.Option(help="Folder of the data set, or the table's file; not for faces.")]
Size = Annotated[int, typer.Option(help="Side in pixels that images are resized to.")]
Cache = Annotated[
    Path | None, typer.Option(help="Folder for decoded images; CAPTUM_REGION_CACHE, else the user's, by default.")
]
SkipDamaged = Annotated[bool, typer.Option("--skip-damaged", help="Leave out damaged images, and list them.")]


@app.callback(invoke_without_command=True)
def _main(
    show_version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if show_version:
        typer.echo(f"captum-region {version('captum-region')}")
        raise typer.Exit


@contextmanager
def told_in_one_line(debug: bool) -> Iterator[None]:
    """Turn what a user's input can cause into one line on stderr and exit code 2."""
    try:
        yield
    except (ValueError, TypeError, OSError) as error:
        if debug:
            raise
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error


def check_out(out: Path, force: bool) -> None:
    """Raise ValueError unless `out` is a folder to be made, an empty one, or one the user lets us write into."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out must be a folder, {out} is a file")
    if out.exists() and any(out.iterdir()) and not force:
        raise ValueError(f"--out {out} holds files already; name another folder, or write into it with --force")


def read_data(
    kind: str, root: Path, size: int, *, cache: Path | None, skip_damaged: bool, quiet: bool
) -> tuple[AttributeImages, AttributeImages | None]:
    """Return the images to train on, and those to test on where the data set sets some apart.

    Raises
    ------
    ValueError
        If there is no such `kind` of data.
    """
    from captum_region import datasets

    if kind == "faces":
        return datasets.make_faces(4000, size, random_state=0), datasets.make_faces(1000, size, random_state=1)
    partitions: dict[str, tuple[str, ...]] = {
        "celeba": ("train", "valid"),
        "fairface": ("train", "validation"),
        "utkface": (),
        "table": (),
    }
    if kind not in partitions:
        raise ValueError(f"--data must be one of {', '.join(partitions)} and faces, got {kind!r}")
    reader = getattr(datasets, f"load_{kind}")
    options = {
        "size": size,
        "cache": cache,
        "on_error": "skip" if skip_damaged else "raise",
        "show_progress": not quiet,
    }
    if not partitions[kind]:
        return reader(root, **options), None
    train, test = (reader(root, partition, **options) for partition in partitions[kind])
    return train, test


@app.command()
def train(
    data: Data,
    attribute: Annotated[str, typer.Option(help="Binary attribute to find, or attribute=value.")],
    out: Out,
    root: Root = Path(),
    within: Annotated[
        str | None,
        typer.Option(help="Target attribute to train within the classes of, so that only --attribute shows."),
    ] = None,
    kind: Annotated[
        str, typer.Option(help="dense (all regions in one pass) or patch (the paper's ResNet18).")
    ] = "dense",
    size: Size = 64,
    patch_size: Annotated[int | None, typer.Option(help="Side of a region; a quarter of the image by default.")] = None,
    stride: Annotated[int | None, typer.Option(help="Step between regions; 1/64 of the image by default.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the images; the kind's recipe by default.")] = None,
    seed: Seed = 0,
    device: Device = "cpu",
    cache: Cache = None,
    skip_damaged: SkipDamaged = False,
    force: Force = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train a region classifier; --out gets the checkpoint, its accuracy by region and its history.

    Example: captum-region train --data celeba --root DATA --attribute Eyeglasses --out eyeglasses
    """
    from captum_region import (
        DenseRegionClassifier,
        PatchRegionClassifier,
        RegionGrid,
        fit_region_classifier,
        save_classifier,
    )
    from captum_region.files import replacing

    with told_in_one_line(debug):
        check_out(out, force)
        kinds = {"dense": DenseRegionClassifier, "patch": PatchRegionClassifier}
        if kind not in kinds:
            raise ValueError(f"--kind must be dense or patch, got {kind!r}")
        images, held_out = read_data(data, root, size, cache=cache, skip_damaged=skip_damaged, quiet=quiet)
        default = RegionGrid.for_images(images.image_size)
        grid = RegionGrid(images.image_size, patch_size or default.patch_size, stride or default.stride)
        classifier = kinds[kind](grid, 2, random_state=seed)
        training = fit_region_classifier(
            classifier,
            images.images,
            images.binary(attribute),
            within=None if within is None else images.binary(within),
            # A whole map of each image would take the patch kind hours.
            validation=None if held_out is None or kind == "patch" else (held_out.images, held_out.binary(attribute)),
            epochs=epochs,
            random_state=seed,
            device=device,
            show_progress=not quiet,
        )
        classifier.class_names = [f"not {attribute}", attribute]
        save_classifier(classifier, out / "classifier")
        with replacing(out / "history.csv") as path:
            training.history.to_csv(path, index=False)
        accuracy = training.region_accuracy
        result = {
            "attribute": attribute,
            "images": len(images),
            "skipped": images.skipped.to_dict("records"),
            "mean_region_accuracy": None if accuracy is None else float(accuracy.mean()),
            "best_region_accuracy": None if accuracy is None else float(accuracy.max()),
        }
        with replacing(out / "training.json") as path:
            path.write_text(json.dumps(result, indent=1) + "\n")
        typer.echo(json.dumps({name: value for name, value in result.items() if name != "skipped"}))


@app.command()
def attribute(
    classifier: Annotated[Path, typer.Argument(help="A checkpoint folder, or the --out of train.")],
    data: Data,
    out: Out,
    root: Root = Path(),
    limit: Annotated[int | None, typer.Option(help="Attribute only the first so many images.")] = None,
    device: Device = "cpu",
    cache: Cache = None,
    skip_damaged: SkipDamaged = False,
    force: Force = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Map a data set: --out gets region_maps.npy (float16), mean_map.npy and mean_map.png.

    Example: captum-region attribute eyeglasses --data celeba --root DATA --out maps
    """
    import numpy as np
    from matplotlib.figure import Figure

    from captum_region import RegionAttribution, load_classifier
    from captum_region.files import replacing
    from captum_region.plotting import plot_region_map

    with told_in_one_line(debug):
        check_out(out, force)
        folder = classifier / "classifier" if (classifier / "classifier").is_dir() else classifier
        loaded = load_classifier(folder).to(device)
        height, width = loaded.grid.image_size
        if height != width:
            raise ValueError(f"the classifier must be of square images, it is of {height} x {width}")
        images, _ = read_data(data, root, height, cache=cache, skip_damaged=skip_damaged, quiet=quiet)
        chosen = images.images[:limit]
        maps = RegionAttribution(loaded).region_map(chosen, show_progress=not quiet)
        mean = maps.double().mean(0).float()
        out.mkdir(parents=True, exist_ok=True)
        for name, array in (("region_maps.npy", maps.half().numpy()), ("mean_map.npy", mean.numpy())):
            with replacing(out / name) as path:
                np.save(path, array)
        figure = Figure(figsize=(4.5, 4))
        mean_image = chosen.mean(0).round().astype(np.uint8)
        plot_region_map(mean_image, loaded.grid.to_pixels(mean), ax=figure.subplots(), title=loaded.class_names[-1])
        with replacing(out / "mean_map.png") as path:
            figure.savefig(path, dpi=150, bbox_inches="tight")
        typer.echo(out / "mean_map.png")

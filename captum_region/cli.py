"""The command captum-region: train a region classifier, and map where an attribute's information sits."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Callable, Hashable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from captum_region import completion
from captum_region.files import CHECKPOINTS, locked

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from captum_region import RegionClassifier
    from captum_region.datasets import AttributeImages


def _usable(device: str | None) -> str | None:
    """Return `device` if torch can compute there."""
    import torch

    if device is None:
        return None
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise typer.BadParameter(f"{device}: {str(error).splitlines()[0]}") from error
    return device


app = typer.Typer(
    help="Where in images the information about an attribute sits.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Out = Annotated[Path, typer.Option(help="Folder for the results; new or empty unless --force.")]
Force = Annotated[bool, typer.Option("--force", help="Write into --out even if it holds files.")]
ReplaceFile = Annotated[bool, typer.Option("--force", help="Replace --out if it is there.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the results as JSON, and nothing else on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress on stderr.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Seed = Annotated[int, typer.Option(help="Decides all that is random.")]
Device = Annotated[
    str,
    typer.Option(
        help="cpu, cuda, cuda:1, mps ...", callback=_usable, autocompletion=completion.one_of("cpu", "cuda", "mps")
    ),
]
LaunchedDevice = Annotated[
    str | None,
    typer.Option(
        help="cpu, cuda, cuda:1, mps ...; by default cpu, or where accelerate launch says.",
        callback=_usable,
        autocompletion=completion.one_of("cpu", "cuda", "mps"),
    ),
]
MixedPrecision = Annotated[
    str,
    typer.Option(help="bf16 computes in bfloat16; no is the default.", autocompletion=completion.one_of("no", "bf16")),
]
Data = Annotated[
    str,
    typer.Option(
        help="celeba, fairface, utkface, table (a csv with a column of image files), or faces (synthetic).",
        autocompletion=completion.one_of("celeba", "fairface", "utkface", "table", "faces"),
    ),
]
Root = Annotated[Path, typer.Option(help="Folder of the data set, or the table's file; not for faces.")]
ImageColumn = Annotated[
    str | None, typer.Option(help="Column of a table that names the image files; image by default.")
]
Size = Annotated[int, typer.Option(help="Side in pixels that images are resized to.")]
Cache = Annotated[
    Path | None, typer.Option(help="Folder for decoded images; CAPTUM_REGION_CACHE, else the user's, by default.")
]
Checkpoint = Annotated[Path, typer.Argument(help="A checkpoint folder, or the --out of train.")]
SkipDamaged = Annotated[bool, typer.Option("--skip-damaged", help="Leave out damaged images, and list them.")]


@app.callback(invoke_without_command=True)
def _main(
    show_version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if show_version:
        typer.echo(f"captum-region {version('captum-region')}")
        raise typer.Exit


# What the library calls arguments, as the commands call it.
_OPTIONS = {
    "on_error='skip'": "--skip-damaged",
    "with image_column": "with --image-column",
    "table must be a .csv, .tsv or .parquet file or a DataFrame": "--root must be a .csv, .tsv or .parquet file",
}
_AT_THE_START = re.compile(r"(root|size|train_size|test_per_cell|validation_per_cell)(?= must | asks )")


def _with_options(message: str) -> str:
    """Return an error's message with a command's options in place of arguments."""
    for argument, option in _OPTIONS.items():
        message = message.replace(argument, option)
    named = _AT_THE_START.match(message)
    return f"--{named[0].replace('_', '-')}{message[named.end() :]}" if named else message


@contextmanager
def told_in_one_line(debug: bool, resumes: Path | None = None) -> Iterator[None]:
    """Turn what a user's input can cause into one line on stderr and exit code 2, and Ctrl-C into one and 130.

    `resumes` is where the command keeps what the same command with --force then need not do again.
    """
    try:
        yield
    except (ValueError, TypeError, ArithmeticError, OSError, MemoryError, RuntimeError) as error:
        # torch's lack of memory is a RuntimeError; others are faults of this package.
        if debug or (isinstance(error, RuntimeError) and not re.search("allocate memory|out of memory", str(error))):
            raise
        message = _with_options(str(error) or "out of memory")
        lines = (line.strip() for line in message.splitlines())
        typer.echo(f"error: {'; '.join(filter(None, lines))}", err=True)
        raise typer.Exit(2) from error
    except KeyboardInterrupt as error:
        kept = "nothing is kept, the same command begins anew"
        if resumes is not None and resumes.exists():
            kept = f"{resumes} keeps what was done, and the same command with --force goes on from there"
        typer.echo(f"stopped: {kept}", err=True)
        raise typer.Exit(130) from error


def check_out(out: Path, force: bool) -> None:
    """Raise ValueError unless `out` is a folder to be made, an empty one, or one the user lets us write into."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out must be a folder, {out} is a file")
    if (out / CHECKPOINTS).is_symlink():  # it is removed in the end, which a link cannot be
        raise ValueError(f"--out must hold no link to its {CHECKPOINTS}, {out / CHECKPOINTS} is one")
    # Hidden is what a lock or an interrupted writer has left.
    if out.exists() and any(not path.name.startswith(".") for path in out.iterdir()) and not force:
        raise ValueError(f"--out {out} holds files already; name another folder, or write into it with --force")


def check_file(out: Path, force: bool) -> None:
    """Raise ValueError if `out` is there and may not be replaced."""
    if out.exists() and not force:
        raise ValueError(f"{out} is there already; name another file with --out, or replace it with --force")


def show(result: dict[str, Any]) -> None:
    """Print single results, a line each; none for what was not measured."""
    from rich.console import Console
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    for name, value in result.items():
        if value is None:
            continue
        text = f"{value:.3f}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)
        table.add_row(name.replace("_", " "), text)
    # A pipe has no width: nothing is cut there.
    Console(width=None if Console().is_terminal else 200, highlight=False, markup=False).print(table)


def _partitions(kind: str) -> tuple[str, ...]:
    """Return what a data set calls its parts to train and to test on; nothing where it sets none apart."""
    partitions: dict[str, tuple[str, ...]] = {
        "celeba": ("train", "valid"),
        "fairface": ("train", "validation"),
        "utkface": (),
        "table": (),
        "faces": ("train", "test"),
    }
    if kind not in partitions:
        raise ValueError(f"--data must be one of {', '.join(partitions)}, got {kind!r}")
    return partitions[kind]


def _of_table(kind: str, image_column: str | None) -> dict[str, Any]:
    """Return the arguments that only the reader of tables has."""
    if image_column is None:
        return {}
    if kind != "table":
        raise ValueError(f"--image-column is for --data table, got --data {kind}")
    return {"image_column": image_column}


def read_data(kind: str, root: Path, size: int, **options: Any) -> tuple[AttributeImages, AttributeImages | None]:
    """Return the images to train on, and those to test on where the data set sets some apart.

    Options are `cache`, `skip_damaged`, `quiet` and `image_column`, which a command of the names has.

    Raises
    ------
    ValueError
        If there is no such `kind` of data.
    """
    return (
        _read_partition(kind, root, size, 0, **options),
        _read_partition(kind, root, size, 1, **options) if _partitions(kind) else None,
    )


def _read_partition(
    kind: str,
    root: Path,
    size: int,
    number: int,
    *,
    cache: Path | None,
    skip_damaged: bool,
    quiet: bool,
    image_column: str | None = None,
) -> AttributeImages:
    """Return the images of the first or second of `_partitions`; all where there are none."""
    from captum_region import datasets

    part, options = _partitions(kind)[number : number + 1], _of_table(kind, image_column)
    if kind == "faces":
        if not quiet:
            typer.echo("drawing faces ...", err=True)
        return datasets.make_faces((4000, 1000)[number], size, random_state=number)
    read: Callable[..., AttributeImages] = getattr(datasets, f"load_{kind}")
    options |= {"size": size, "cache": cache, "on_error": "skip" if skip_damaged else "raise"}
    return read(root, *part, show_progress=not quiet, **options)


def read_tables(
    kind: str, root: Path, *, skip_damaged: bool, image_column: str | None = None
) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """Return the attributes of the images that `read_data` does, and decode none."""
    from captum_region import datasets

    options = _of_table(kind, image_column)
    if kind == "faces":
        # Their attributes do not depend on the size: the smallest is drawn soonest.
        train, test = read_data(kind, root, 16, cache=None, skip_damaged=False, quiet=True)
        return train.attributes, None if test is None else test.attributes
    on_error = "skip" if skip_damaged else "raise"
    parts = _partitions(kind) or (None,)
    tables = [datasets.read_attributes(kind, root, part, on_error=on_error, **options) for part in parts]
    return tables[0], tables[1] if len(tables) > 1 else None


def read_both(
    checkpoint: Path, data: str, root: Path, *, held_out: bool = False, **options: Any
) -> tuple[RegionClassifier, AttributeImages]:
    """Return the classifier at `checkpoint`, or in the --out of train, and the images, read at its size.

    They are those to train on, or, if `held_out`, those kept apart. Options are those of `read_data`.
    """
    from captum_region import load_classifier

    loaded = load_classifier(checkpoint / "classifier" if (checkpoint / "classifier").is_dir() else checkpoint)
    height, width = loaded.grid.image_size
    if height != width:
        raise ValueError(f"the classifier must be of square images, it is of {height} x {width}")
    is_apart = held_out and bool(_partitions(data))
    images = _read_partition(data, root, height, int(is_apart), **options)
    return loaded, set_apart(images, None)[1] if held_out and not is_apart else images


def skipped_in(*parts: AttributeImages | None) -> list[dict[Hashable, Any]]:
    """Return what readers left out, as records of image and reason."""
    return [row for part in parts if part is not None for row in part.skipped.to_dict("records")]


def set_apart(images: AttributeImages, apart: AttributeImages | None) -> tuple[AttributeImages, AttributeImages]:
    """Return the images to train on and those kept apart: a fifth, always the same, where the data set names none.

    What was divided is in a random order, always the same too: the first of a folder sorted by age are children.
    """
    import numpy as np
    from sklearn.model_selection import GroupShuffleSplit

    if apart is not None:
        return images, apart
    # A person whose images were on both sides would make the classifier look better than it is.
    groups = range(len(images)) if images.identities is None else images.identities
    if len(set(groups)) < 2:
        raise ValueError("a fifth of the images is kept apart, but there is one alone, or one person alone")
    parts = next(GroupShuffleSplit(1, test_size=0.2, random_state=0).split(groups, groups=groups))
    train, test = (images.subset(np.random.default_rng(0).permutation(part)) for part in parts)
    return train, test


def check_values(attribute: str, labels: NDArray[Any]) -> None:
    """Raise ValueError if all images are of one class: there is nothing to tell apart."""
    if len(values := set(labels.tolist())) < 2:
        raise ValueError(f"--attribute {attribute} must take at least two values in the images, it takes {values}")


@app.command()
def train(
    data: Data,
    attribute: Annotated[
        str,
        typer.Option(
            help="Attribute to find, of any number of classes, or attribute=value.",
            autocompletion=completion.attributes,
        ),
    ],
    out: Out,
    root: Root = Path(),
    image_column: ImageColumn = None,
    within: Annotated[
        str | None,
        typer.Option(
            help="Target attribute to train within the classes of, so that only --attribute shows.",
            autocompletion=completion.attributes,
        ),
    ] = None,
    kind: Annotated[
        str,
        typer.Option(
            help="dense (all regions in one pass) or patch (the paper's ResNet18).",
            autocompletion=completion.one_of("dense", "patch"),
        ),
    ] = "dense",
    size: Size = 64,
    patch_size: Annotated[int | None, typer.Option(help="Side of a region; a quarter of the image by default.")] = None,
    stride: Annotated[int | None, typer.Option(help="Step between regions; 1/64 of the image by default.")] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Train on at most so many images: the first, of a table or UTKFace random ones."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the images; the kind's recipe by default.")] = None,
    seed: Seed = 0,
    device: LaunchedDevice = None,
    mixed_precision: MixedPrecision = "no",
    cache: Cache = None,
    skip_damaged: SkipDamaged = False,
    force: Force = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train a region classifier; --out gets the checkpoint, its accuracy by region and its history.

    A fifth of the images is kept apart to measure the accuracy, or what the data set keeps apart itself.

    Example: captum-region train --data celeba --root DATA --attribute Eyeglasses --out eyeglasses

    In several processes: accelerate launch --multi_gpu -m captum_region train ...
    """
    import numpy as np

    from captum_region import (
        DenseRegionClassifier,
        PatchRegionClassifier,
        RegionGrid,
        fit_region_classifier,
        save_classifier,
    )
    from captum_region.digest import digest
    from captum_region.distributed import Processes, launched
    from captum_region.files import replacing
    from captum_region.provenance import provenance

    states = out / CHECKPOINTS
    with (
        told_in_one_line(debug, resumes=states),
        launched(device) as accelerator,
        ExitStack() as stack,
    ):
        processes = Processes(accelerator)
        quiet = quiet or not processes.is_main
        processes.from_main(lambda: check_out(out, force))
        kinds = {"dense": DenseRegionClassifier, "patch": PatchRegionClassifier}
        if kind not in kinds:
            raise ValueError(f"--kind must be dense or patch, got {kind!r}")
        with processes.main_first():
            images, held_out = read_data(
                data, root, size, cache=cache, skip_damaged=skip_damaged, quiet=quiet, image_column=image_column
            )
        skipped = skipped_in(images, held_out)
        images, held_out = set_apart(images, held_out)
        images = images if limit is None else images.subset(slice(limit))
        labels = images.labels(attribute)
        check_values(attribute, labels)
        default = RegionGrid.for_images(images.image_size)
        grid = RegionGrid(
            images.image_size,
            default.patch_size if patch_size is None else patch_size,
            default.stride if stride is None else stride,
        )
        classifier = kinds[kind](grid, len(np.unique(labels)), random_state=seed)
        processes.from_main(lambda: stack.enter_context(locked(out)))
        training = fit_region_classifier(
            classifier,
            images.images,
            labels,
            within=None if within is None else images.labels(within),
            # A whole map of each image would take the patch kind hours.
            validation=None if kind == "patch" else (held_out.images, held_out.labels(attribute)),
            epochs=epochs,
            random_state=seed,
            device=device if accelerator is None else None,
            mixed_precision=mixed_precision,
            accelerator=accelerator,
            checkpoint_dir=states,
            show_progress=not quiet,
        )
        if not processes.is_main:
            return
        if labels.dtype == bool:
            classifier.class_names = [f"not {attribute}", attribute]
        save_classifier(classifier, out / "classifier")
        with replacing(out / "history.csv") as path:
            training.history.to_csv(path, index=False)
        accuracy = training.region_accuracy
        result = {
            "attribute": attribute,
            "classes": classifier.class_names,
            "images": len(images),
            "skipped": skipped,
            "mean_region_accuracy": None if accuracy is None else float(accuracy.mean()),
            "best_region_accuracy": None if accuracy is None else float(accuracy.max()),
        }
        made = {"seed": seed, "data": digest(images.images), **provenance(), "git": training.git}
        text = json.dumps(result | made, indent=1)
        with replacing(out / "training.json") as path:
            path.write_text(text + "\n")
        shutil.rmtree(states)
        if as_json:
            typer.echo(text)
        else:
            show(result | {"skipped": len(skipped)})


@app.command()
def attribute(
    classifier: Checkpoint,
    data: Data,
    out: Out,
    root: Root = Path(),
    image_column: ImageColumn = None,
    by: Annotated[
        str | None,
        typer.Option(
            help="Also the mean map of each class of this attribute, or attribute=value.",
            autocompletion=completion.attributes,
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Attribute only the first so many images.")] = None,
    confidence: Annotated[
        str,
        typer.Option(
            help="negative_entropy, top_softmax or margin.",
            autocompletion=completion.one_of("negative_entropy", "top_softmax", "margin"),
        ),
    ] = "negative_entropy",
    batch_size: Annotated[int, typer.Option(help="Images at a time; more may be faster on a GPU.")] = 16,
    device: LaunchedDevice = None,
    mixed_precision: MixedPrecision = "no",
    cache: Cache = None,
    skip_damaged: SkipDamaged = False,
    force: Force = False,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing: compute some of the maps in --out again and compare.")
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Map a data set: --out gets a store of region maps, maps.npy (float16) and maps.json, their mean and its picture.

    Where it was stopped, the same command with --force goes on.

    Example: captum-region attribute eyeglasses --data celeba --root DATA --by Male --out maps

    In several processes: accelerate launch --multi_gpu -m captum_region attribute ...
    """
    import numpy as np
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from captum_region import RegionAttribution, RegionMaps, attribute_dataset
    from captum_region.batches import batches
    from captum_region.distributed import Processes, launched
    from captum_region.files import replacing
    from captum_region.plotting import STYLE, plot_maps

    with told_in_one_line(debug, resumes=out / "maps.json"), launched(device) as accelerator:
        processes = Processes(accelerator)
        quiet = quiet or not processes.is_main
        processes.from_main(lambda: check_out(out, force or check))
        with processes.main_first():
            loaded, images = read_both(
                classifier, data, root, cache=cache, skip_damaged=skip_damaged, quiet=quiet, image_column=image_column
            )
        images = images if limit is None else images.subset(slice(limit))
        labels = None if by is None else images.labels(by)
        attribution = RegionAttribution(loaded.to(device), confidence)
        if check:
            RegionMaps(out).check(attribution, images, batch_size=batch_size)
            told = f"{out} holds the maps of these images: those of the first and the last batch come out again"
            if processes.is_main:
                typer.echo(json.dumps({"equal": True}) if as_json else told)
            return
        maps = attribute_dataset(
            attribution,
            images,
            out,
            batch_size=batch_size,
            mixed_precision=mixed_precision,
            accelerator=accelerator,
            show_progress=not quiet,
        )
        if not processes.is_main:
            return
        means = {"all images": maps.mean()}
        if labels is not None:
            means |= {f"{by}: {label}": mean for label, mean in maps.mean_by(labels).items()}
        with replacing(out / "mean_map.npy") as path:
            np.save(path, means["all images"].numpy())
        # Through batches, which let go of what they read of a memory map; their sums are exact.
        total = np.sum([batch.numpy().sum(0, dtype=np.int64) for batch in batches(images.images, 256)], 0)
        mean_image = (total / len(images)).round().astype(np.uint8)
        pixels = {name: maps.grid.to_pixels(mean) for name, mean in means.items()}
        with rc_context(STYLE):
            figure = Figure(figsize=(3.4 * len(means), 3), layout="constrained")
            plot_maps(pixels, images=mean_image, axes=figure.subplots(1, len(means), squeeze=False))
        with replacing(out / "mean_map.png") as path:
            figure.savefig(path, dpi=150)
        if as_json:
            typer.echo((out / "maps.json").read_text(), nl=False)
        else:
            typer.echo(out / "mean_map.png")


@app.command()
def calibrate(
    classifier: Checkpoint,
    data: Data,
    attribute: Annotated[
        str,
        typer.Option(
            help="Attribute that the classifier was trained on, or attribute=value.",
            autocompletion=completion.attributes,
        ),
    ],
    out: Out,
    root: Root = Path(),
    image_column: ImageColumn = None,
    temperature: Annotated[
        bool, typer.Option("--temperature", help="Fit a temperature on one half of the images, judge it on the other.")
    ] = False,
    bins: Annotated[int, typer.Option(help="Bins of confidence.")] = 100,
    limit: Annotated[int, typer.Option(help="Use at most so many images, of each class equally many.")] = 2000,
    seed: Seed = 0,
    device: Device = "cpu",
    cache: Cache = None,
    skip_damaged: SkipDamaged = False,
    force: Force = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Compare confidence with accuracy over all patches: --out gets reliability.png, .csv and calibration.json.

    The images are those that train keeps apart, in balanced classes. With --temperature, --out gets the checkpoint with
    its temperature too, unless the calibration error is no lower.

    Example: captum-region calibrate eyeglasses --data celeba --root DATA --attribute Eyeglasses --out calibration
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from sklearn.model_selection import train_test_split

    from captum_region import save_classifier
    from captum_region.calibration import balanced_subset, fit_temperature, measure_calibration
    from captum_region.digest import digest
    from captum_region.files import replacing
    from captum_region.plotting import STYLE, plot_reliability
    from captum_region.provenance import provenance

    with told_in_one_line(debug):
        check_out(out, force)
        loaded, images = read_both(
            classifier,
            data,
            root,
            cache=cache,
            skip_damaged=skip_damaged,
            quiet=quiet,
            image_column=image_column,
            held_out=True,
        )
        loaded = loaded.to(device)
        check_values(attribute, images.labels(attribute))
        images = images.subset(balanced_subset(images.labels(attribute), limit=limit, random_state=seed))
        judged = images
        if temperature:
            halves = train_test_split(
                range(len(images)), test_size=0.5, stratify=images.labels(attribute), random_state=seed
            )
            fitted_on, judged = (images.subset(half) for half in halves)
        measure = partial(
            measure_calibration, loaded, judged.images, judged.labels(attribute), bins=bins, show_progress=not quiet
        )
        before = measure()
        found = {"as trained" if temperature else "": before}
        result = {
            "attribute": attribute,
            "images": before.images,
            "mean_region_accuracy": before.accuracy,
            "calibration_error": before.error,
            "skipped": skipped_in(images),
        }
        if temperature:
            value = fit_temperature(loaded, fitted_on.images, fitted_on.labels(attribute), show_progress=not quiet)
            after = found[f"temperature {value:.2f}"] = measure()
            result |= {"temperature": value, "calibration_error_with_temperature": after.error}
            if after.error < before.error:
                save_classifier(loaded, out / "classifier")
        out.mkdir(parents=True, exist_ok=True)
        with rc_context(STYLE):
            figure = Figure(figsize=(4.2, 4.8), layout="constrained")
            plot_reliability(found, axes=figure.subplots(2, 1, height_ratios=(3, 1)), title=attribute)
        with replacing(out / "reliability.png") as path:
            figure.savefig(path, dpi=150)
        with replacing(out / "reliability.csv") as path:
            found[next(reversed(found))].bins.to_csv(path, index=False)
        made = {"seed": seed, "data": digest(images.images), **provenance()}
        text = json.dumps(result | made, indent=1)
        with replacing(out / "calibration.json") as path:
            path.write_text(text + "\n")
        if as_json:
            typer.echo(text)
        else:
            show(result | {"skipped": len(images.skipped)})


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


@app.command()
def compare(
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
    from rich.console import Console

    from captum_region.digest import digest
    from captum_region.saliency.results import StudyResults
    from captum_region.saliency.study import study_attribute

    states = out / CHECKPOINTS
    with told_in_one_line(debug, resumes=states), ExitStack() as stack:
        check_out(out, force)
        if data != "faces" and (data != "table" or masks is None):
            raise ValueError("--data must be faces, whose true regions are known, or table with --masks")
        if seeds < 1:
            raise ValueError(f"--seeds must be at least 1, got {seeds}")

        settings = {
            "data": data,
            "size": size,
            "images": images,
            "epochs": epochs,
            "region_epochs": region_epochs,
            "retrain_epochs": retrain_epochs,
            "quantile": quantile,
        }
        results = StudyResults(settings=settings)
        if results.reference in (without or ()):
            raise ValueError(f"--without must not name {results.reference}, which the others are compared with")
        stack.enter_context(locked(out))
        for its_seed in range(seed, seed + seeds):
            train, test = _read_compared(
                data,
                root,
                size,
                images,
                its_seed,
                cache=cache,
                skip_damaged=skip_damaged,
                quiet=quiet,
                image_column=image_column,
            )
            results.settings["skipped"] = skipped_in(train)
            digests = {"train": digest(train.images), "test": digest(test.images)}
            results.settings.setdefault("digests", {})[str(its_seed)] = digests
            for name in attribute:
                with warnings.catch_warnings(record=True) as told:
                    warnings.simplefilter("always", RuntimeWarning)
                    study = study_attribute(
                        train,
                        test,
                        name,
                        truth=None if masks is None else partial(_read_masks, masks, root, size, cache, quiet),
                        limit=limit,
                        epochs=epochs,
                        region_epochs=region_epochs,
                        without=without or (),
                        retrain=retrain or "fast",
                        quantile=quantile,
                        retrain_epochs=retrain_epochs,
                        seed=its_seed,
                        device=device,
                        checkpoint_dir=states,
                        show_progress=not quiet,
                    )
                remarks = [str(warning.message) for warning in told]
                remarks += [f"{method} was not run: {why}" for method, why in study.not_run.items()]
                for remark in remarks:
                    typer.echo(f"{name}, seed {its_seed}: {remark}", err=True)
                results.studies[name, its_seed] = study
                results.write(out)
        shutil.rmtree(states)
        if as_json:
            typer.echo((out / "comparison.json").read_text(), nl=False)
            return
        console = Console(width=None if Console().is_terminal else 175, markup=False)
        for table in results.rich_tables():
            console.print(table)
        console.print(
            f"+ and -: better and worse than {results.reference}, the 95 % interval of the difference without 0"
        )

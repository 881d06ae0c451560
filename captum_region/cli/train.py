"""captum-region train."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from captum_region.cli import completion
from captum_region.cli.options import (
    AsJson,
    Cache,
    Data,
    Debug,
    Force,
    ImageColumn,
    LaunchedDevice,
    MixedPrecision,
    Out,
    Quiet,
    Root,
    Seed,
    Size,
    SkipDamaged,
)
from captum_region.cli.reading import check_values, read_data, reading, set_apart, skipped_in
from captum_region.cli.running import check_out, show, told_in_one_line, write_json
from captum_region.files import CHECKPOINTS, locked, replacing

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from captum_region import RegionClassifier, RegionTraining
    from captum_region.datasets import AttributeImages


def train(
    ctx: typer.Context,
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
    from captum_region import fit_region_classifier, save_classifier
    from captum_region.digest import digest
    from captum_region.distributed import Processes, launched
    from captum_region.provenance import provenance

    states = out / CHECKPOINTS
    with told_in_one_line(debug, resumes=states), launched(device) as accelerator, ExitStack() as stack:
        processes = Processes(accelerator)
        quiet = quiet or not processes.is_main
        processes.from_main(lambda: check_out(out, force))
        with processes.main_first():
            images, apart = read_data(data, root, size, **reading({**ctx.params, "quiet": quiet}))
        skipped = skipped_in(images, apart)
        images, held_out = set_apart(images, apart)
        images = images if limit is None else images.subset(slice(limit))
        labels = images.labels(attribute)
        check_values(attribute, labels)
        classifier = _classifier(kind, images.image_size, patch_size, stride, len(set(labels.tolist())), seed)
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
        result = _result(training, classifier, images, attribute, skipped)
        made = {"seed": seed, "data": digest(images.images), **provenance(), "git": training.git}
        text = write_json(out / "training.json", result | made)
        shutil.rmtree(states)
        if as_json:
            typer.echo(text, nl=False)
        else:
            show(result | {"skipped": len(skipped)})


def _classifier(
    kind: str, image_size: tuple[int, int], patch_size: int | None, stride: int | None, num_classes: int, seed: int
) -> RegionClassifier:
    from captum_region import DenseRegionClassifier, PatchRegionClassifier, RegionGrid

    kinds: dict[str, Callable[..., RegionClassifier]]
    kinds = {"dense": DenseRegionClassifier, "patch": PatchRegionClassifier}
    if kind not in kinds:
        raise ValueError(f"--kind must be dense or patch, got {kind!r}")
    default = RegionGrid.for_images(image_size)
    grid = RegionGrid(
        image_size,
        default.patch_size if patch_size is None else patch_size,
        default.stride if stride is None else stride,
    )
    return kinds[kind](grid, num_classes, random_state=seed)


def _result(
    training: RegionTraining,
    classifier: RegionClassifier,
    images: AttributeImages,
    attribute: str,
    skipped: list[dict[Hashable, Any]],
) -> dict[str, Any]:
    accuracy = training.region_accuracy
    return {
        "attribute": attribute,
        "classes": classifier.class_names,
        "images": len(images),
        "skipped": skipped,
        "mean_region_accuracy": None if accuracy is None else float(accuracy.mean()),
        "best_region_accuracy": None if accuracy is None else float(accuracy.max()),
    }

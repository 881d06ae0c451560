"""captum-region train."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from captum_region.cli import options as opt
from captum_region.cli.reading import Source, labels_of, set_apart, skipped_in
from captum_region.cli.running import check_out, errors_in_one_line, write_and_print
from captum_region.io.files import CHECKPOINTS, check_place, locked, remove_states, write_text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from captum_region import RegionClassifier
    from captum_region.batches import ImageData
    from captum_region.datasets import AttributeImages


def train(
    ctx: typer.Context,
    data: opt.Data,
    attribute: Annotated[str, opt.attributes("Attribute to find (of any number of classes), or attribute=value.")],
    out: opt.Out,
    root: opt.Root = Path(),
    image_column: opt.ImageColumn = None,
    within: Annotated[
        str | None, opt.attributes("Target attribute: train within its classes, so that only --attribute shows.")
    ] = None,
    kind: Annotated[
        str, opt.choice("dense (all regions in one pass) or patch (the paper's ResNet18).", "dense", "patch")
    ] = "dense",
    size: opt.Size = 64,
    patch_size: Annotated[int | None, typer.Option(help="Side of a region; by default a quarter of the image.")] = None,
    stride: Annotated[int | None, typer.Option(help="Step between regions; by default 1/64 of the image.")] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Train on at most this many images: random ones of a table or UTKFace, or the first."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the images; by default as --kind needs.")] = None,
    seed: opt.Seed = 0,
    device: opt.LaunchedDevice = None,
    mixed_precision: opt.MixedPrecision = "no",
    cache: opt.Cache = None,
    skip_damaged: opt.SkipDamaged = False,
    force: opt.Force = False,
    as_json: opt.AsJson = False,
    quiet: opt.Quiet = False,
    debug: opt.Debug = False,
) -> None:
    """Train a region classifier; --out gets the checkpoint, mean and best accuracy of its regions and its history.

    The accuracy is measured on the test images of the data set; where it has none, on a fifth of all images. With
    --kind patch it is not measured; calibrate measures it.

    Example: captum-region train --data celeba --root DATA --attribute Eyeglasses --out eyeglasses

    In several processes: accelerate launch --multi_gpu -m captum_region train ...
    """
    from captum_region import fit_region_classifier, save_classifier
    from captum_region.io.digest import digest
    from captum_region.io.provenance import provenance
    from captum_region.parallel import Processes, launched

    states = out / CHECKPOINTS
    with errors_in_one_line(debug, resumes=states), launched(device) as accelerator, ExitStack() as stack:
        processes = Processes(accelerator)
        quiet = quiet or not processes.is_main
        processes.from_main(lambda: _check(out, force))
        with processes.main_first():
            images, held_out = Source.of(ctx.params | {"quiet": quiet}).load(size)
        skipped = skipped_in(images, held_out)
        images, held_out = set_apart(images, held_out)
        images = images.subset(slice(limit))
        labels = labels_of(images, attribute)
        classifier = _classifier(kind, images.image_size, patch_size, stride, len(set(labels.tolist())), seed)
        processes.from_main(lambda: stack.enter_context(locked(out)))
        training = fit_region_classifier(
            classifier,
            images.images,
            labels,
            within=None if within is None else images.labels(within),
            # A whole map of each image would take the patch kind hours.
            validation=None if kind == "patch" else _judged(held_out, attribute, labels, quiet),
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
        write_text(out / "history.csv", training.history.to_csv(index=False))
        result = {
            "attribute": attribute,
            "classes": classifier.class_names,
            "images": len(images),
            "skipped": skipped,
            **_accuracies(training.region_accuracy),
        }
        details = {"seed": seed, "data": digest(images.images), **provenance(), "git": training.git}
        write_and_print(out / "training.json", result, details, as_json)
        remove_states(states)


def _judged(
    held_out: AttributeImages, attribute: str, labels: NDArray[Any], quiet: bool
) -> tuple[ImageData, NDArray[Any]] | None:
    """Return the images to test on and their labels, without those of classes that no training image has."""
    import numpy as np

    judged = held_out.labels(attribute)
    known = np.isin(judged, labels)
    if not quiet and not known.all():
        typer.echo(f"{(~known).sum()} images of the test are of classes that no training image has", err=True)
    return (held_out.subset(known).images, judged[known]) if known.any() else None


def _check(out: Path, force: bool) -> None:
    """Raise an error if the results cannot be written, before hours of training."""
    from captum_region.io.checkpoint import CLASSIFIER_FILES

    check_out(out, force)
    check_place(out, ("training.json", "history.csv"), saved={"classifier": CLASSIFIER_FILES})


def _classifier(
    kind: str, image_size: tuple[int, int], patch_size: int | None, stride: int | None, num_classes: int, seed: int
) -> RegionClassifier:
    from captum_region import DenseRegionClassifier, PatchRegionClassifier, RegionGrid

    kinds: dict[str, type[DenseRegionClassifier | PatchRegionClassifier]]
    kinds = {"dense": DenseRegionClassifier, "patch": PatchRegionClassifier}
    if kind not in kinds:
        raise ValueError(f"--kind must be dense or patch, got {kind!r}")
    usual = RegionGrid.for_images(image_size)
    patch_size = usual.patch_size if patch_size is None else patch_size
    grid = RegionGrid(image_size, patch_size, usual.stride if stride is None else stride)
    return kinds[kind](grid, num_classes, random_state=seed)


def _accuracies(of_regions: NDArray[np.float64] | None) -> dict[str, float | None]:
    return {
        "mean_region_accuracy": None if of_regions is None else float(of_regions.mean()),
        "best_region_accuracy": None if of_regions is None else float(of_regions.max()),
    }

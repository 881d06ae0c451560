"""captum-region attribute."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from captum_region.cli import options as opt
from captum_region.cli.reading import Source
from captum_region.cli.running import check_out, errors_in_one_line, print_check
from captum_region.io.files import replacing

if TYPE_CHECKING:
    from torch import Tensor

    from captum_region import RegionGrid
    from captum_region.datasets import AttributeImages

_CONFIDENCES = "negative_entropy", "top_softmax", "margin"


def attribute(
    ctx: typer.Context,
    classifier: opt.Checkpoint,
    data: opt.Data,
    out: opt.Out,
    root: opt.Root = Path(),
    image_column: opt.ImageColumn = None,
    by: Annotated[
        str | None, opt.attributes("Also map the mean of each class of this attribute, or attribute=value.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Map at most this many images, the first ones.")] = None,
    confidence: Annotated[
        str, opt.choice("Confidence to map: negative_entropy, top_softmax or margin.", *_CONFIDENCES)
    ] = "negative_entropy",
    batch_size: Annotated[int, typer.Option(help="Images at a time; more may be faster on a GPU.")] = 16,
    device: opt.LaunchedDevice = None,
    mixed_precision: Annotated[
        str,
        opt.choice(
            "bf16 computes in bfloat16, no in float32; auto in bfloat16 where the processor or GPU has units for it "
            "and a few maps keep the ranks of their regions (to 0.999), and says which.",
            *("no", "bf16", "auto"),
        ),
    ] = "no",
    cache: opt.Cache = None,
    skip_damaged: opt.SkipDamaged = False,
    force: opt.Force = False,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing: compute some maps in --out again and compare.")
    ] = False,
    as_json: opt.AsJson = False,
    quiet: opt.Quiet = False,
    debug: opt.Debug = False,
) -> None:
    """Map a data set; --out gets the maps (maps.npy, float16, and maps.json), the mean and its picture.

    Of a data set with parts the images to train on are mapped, of a table or UTKFace all.
    If the command was stopped, run it again with --force: it resumes.

    Example: captum-region attribute eyeglasses --data celeba --root DATA --by Male --out maps

    In several processes: accelerate launch --multi_gpu -m captum_region attribute ...
    """
    from captum_region import RegionAttribution, RegionMaps, attribute_dataset
    from captum_region.parallel import Processes, launched

    with errors_in_one_line(debug, resumes=out / "maps.json"), launched(device) as accelerator:
        processes = Processes(accelerator)
        quiet = quiet or not processes.is_main
        processes.from_main(lambda: check_out(out, force or check))
        with processes.main_first():
            loaded, images = Source.of(ctx.params | {"quiet": quiet}).load_for(classifier)
        images = images.subset(slice(limit))
        labels = None if by is None else images.labels(by)
        attribution = RegionAttribution(loaded.to(device), confidence)
        if check:
            found = RegionMaps(out).compare(attribution, images, batch_size=batch_size)
            if processes.is_main:
                equal = f"{out} holds the maps of these images: computed again, the first and the last batch are equal"
                print_check(found, as_json, equal)
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
        _write_means(out, maps.grid, means, images)
        if as_json:
            typer.echo((out / "maps.json").read_text(), nl=False)
        else:
            typer.echo(out / "mean_map.png")


def _write_means(out: Path, grid: RegionGrid, means: dict[str, Tensor], images: AttributeImages) -> None:
    import numpy as np

    from captum_region.batches import batches
    from captum_region.plotting import drawn, plot_maps, write_figure

    with replacing(out / "mean_map.npy") as path:
        np.save(path, means["all images"].numpy())
    # In batches, which release what they read of a memory map; integer sums are exact.
    total = np.sum([batch.numpy().sum(0, dtype=np.int64) for batch in batches(images.images, 256)], 0)
    mean_image = (total / len(images)).round().astype(np.uint8)
    pixels = {name: grid.to_pixels(mean) for name, mean in means.items()}
    size = 3.4 * len(means), 3
    figure = drawn(size, lambda axes: plot_maps(pixels, images=mean_image, axes=axes), ncols=len(means))
    write_figure(out / "mean_map.png", figure)

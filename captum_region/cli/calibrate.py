"""captum-region calibrate."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from captum_region.cli import completion
from captum_region.cli.options import (
    AsJson,
    Cache,
    Checkpoint,
    Data,
    Debug,
    Device,
    Force,
    ImageColumn,
    Out,
    Quiet,
    Root,
    Seed,
    SkipDamaged,
)
from captum_region.cli.reading import check_values, read_both, reading, skipped_in
from captum_region.cli.running import check_out, show, told_in_one_line, write_json, write_picture
from captum_region.files import replacing

if TYPE_CHECKING:
    from captum_region.calibration import Calibration


def calibrate(
    ctx: typer.Context,
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
    from sklearn.model_selection import train_test_split

    from captum_region import save_classifier
    from captum_region.calibration import balanced_subset, fit_temperature, measure_calibration
    from captum_region.digest import digest
    from captum_region.provenance import provenance

    with told_in_one_line(debug):
        check_out(out, force)
        loaded, images = read_both(classifier, data, root, held_out=True, **reading(ctx.params))
        loaded = loaded.to(device)
        check_values(attribute, images.labels(attribute))
        images = images.subset(balanced_subset(images.labels(attribute), limit=limit, random_state=seed))
        judged = images
        if temperature:
            labels = images.labels(attribute)
            halves = train_test_split(range(len(images)), test_size=0.5, stratify=labels, random_state=seed)
            fitted_on, judged = (images.subset(half) for half in halves)
        options: Any = {"bins": bins, "show_progress": not quiet}
        measure = partial(measure_calibration, loaded, judged.images, judged.labels(attribute), **options)
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
        _write_reliability(out, found, attribute)
        made = {"seed": seed, "data": digest(images.images), **provenance()}
        text = write_json(out / "calibration.json", result | made)
        if as_json:
            typer.echo(text, nl=False)
        else:
            show(result | {"skipped": len(images.skipped)})


def _write_reliability(out: Path, found: dict[str, Calibration], attribute: str) -> None:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from captum_region.plotting import STYLE, plot_reliability

    out.mkdir(parents=True, exist_ok=True)
    with rc_context(STYLE):
        figure = Figure(figsize=(4.2, 4.8), layout="constrained")
        plot_reliability(found, axes=figure.subplots(2, 1, height_ratios=(3, 1)), title=attribute)
    write_picture(out / "reliability.png", figure)
    with replacing(out / "reliability.csv") as path:
        found[next(reversed(found))].bins.to_csv(path, index=False)

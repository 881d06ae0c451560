"""captum-region calibrate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from captum_region.cli import options as opt
from captum_region.cli.reading import Source, labels_of, skipped_in
from captum_region.cli.running import check_out, errors_in_one_line, write_and_print
from captum_region.io.files import locked, remove_files, write_text

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from captum_region import RegionClassifier
    from captum_region.calibration import Calibration


def calibrate(
    ctx: typer.Context,
    classifier: opt.Checkpoint,
    data: opt.Data,
    attribute: Annotated[str, opt.attributes("Attribute (or attribute=value) that the classifier was trained on.")],
    out: opt.Out,
    root: opt.Root = Path(),
    image_column: opt.ImageColumn = None,
    temperature: Annotated[
        bool, typer.Option("--temperature", help="Fit a temperature on half of the images, and test it on the others.")
    ] = False,
    bins: Annotated[int, typer.Option(help="Number of bins of confidence.")] = 100,
    limit: Annotated[int, typer.Option(help="Use at most this many images, equally many of each class.")] = 2000,
    seed: opt.Seed = 0,
    device: opt.Device = "cpu",
    cache: opt.Cache = None,
    skip_damaged: opt.SkipDamaged = False,
    force: opt.Force = False,
    as_json: opt.AsJson = False,
    quiet: opt.Quiet = False,
    debug: opt.Debug = False,
) -> None:
    """Compare confidence with accuracy over all patches; --out gets reliability.png, .csv and calibration.json.

    The images are those that train keeps for its test, equally many of each class. With --temperature, --out also gets
    the checkpoint with its temperature, unless the calibration error is no lower.

    Example: captum-region calibrate eyeglasses --data celeba --root DATA --attribute Eyeglasses --out calibration
    """
    import numpy as np
    from sklearn.model_selection import train_test_split

    from captum_region.calibration import HIGHEST, LOWEST, balanced_subset, fit_temperature, measure_calibration
    from captum_region.io.digest import digest
    from captum_region.io.provenance import provenance

    with errors_in_one_line(debug):
        check_out(out, force)
        loaded, images = Source.of(ctx.params).load_for(classifier, held_out=True)
        loaded = loaded.to(device)
        _check_classes(loaded, attribute, labels := labels_of(images, attribute))
        images = images.subset(balanced_subset(labels, limit=limit, random_state=seed))
        judged = images
        if temperature:
            labels = images.labels(attribute)
            if (least := int(np.unique(labels, return_counts=True)[1].min())) < 2:
                raise ValueError(f"--limit must leave two images of each class for --temperature, got {least} of one")
            halves = train_test_split(range(len(images)), test_size=0.5, stratify=labels, random_state=seed)
            fitted_on, judged = (images.subset(half) for half in halves)

        def measure() -> Calibration:
            labels = judged.labels(attribute)
            return measure_calibration(loaded, judged.images, labels, bins=bins, show_progress=not quiet)

        before = measure()
        found = {"as trained" if temperature else "": before}
        result: dict[str, Any] = {
            "attribute": attribute,
            "images": before.images,
            "mean_region_accuracy": before.accuracy,
            "calibration_error": before.error,
            "skipped": skipped_in(images),
        }
        if temperature:
            value = fit_temperature(loaded, fitted_on.images, fitted_on.labels(attribute), show_progress=not quiet)
            if value > 0.99 * HIGHEST or value < 1.01 * LOWEST:
                typer.echo(
                    f"the temperature is at an end of its range, {LOWEST:g} to {HIGHEST:g}: the regions say hardly "
                    "anything about the attribute, or nearly all",
                    err=True,
                )
            after = found[f"temperature {value:.2f}"] = measure()
            result |= {"temperature": value, "calibration_error_with_temperature": after.error}
        with locked(out):
            _keep(loaded if temperature and after.error < before.error else None, out, classifier)
            _write_reliability(out, found, attribute)
            made = {"seed": seed, "data": digest(images.images), **provenance()}
            write_and_print(out / "calibration.json", result, made, as_json)


def _check_classes(loaded: RegionClassifier, attribute: str, labels: NDArray[Any]) -> None:
    """Raise ValueError if the classifier was trained for another attribute, as far as the names of its classes say.

    Of classes renamed since, `RegionClassifier.encode` guesses the numbers, which is right in Python alone.
    """
    *_, trained_for = names = loaded.class_names
    if names == (f"not {trained_for}", trained_for) and trained_for != attribute:
        raise ValueError(f"--attribute must be {trained_for}, which the classifier was trained for, got {attribute}")
    found = {str(value) for value in labels.tolist()}
    is_binary = labels.dtype == bool and names == (f"not {attribute}", attribute)
    # Of classes 0, 1 and 2, images of the first two alone have labels that are taken for False and True.
    is_numbered = labels.dtype == bool and {str(int(value)) for value in labels.tolist()} <= {*names}
    if (other := found - {*names}) and not (is_binary or is_numbered):
        raise ValueError(
            "--attribute must be the one that the classifier was trained for, with the values "
            f"{', '.join(names)}; got {attribute}, with {', '.join(sorted(other))}"
        )


def _keep(loaded: RegionClassifier | None, out: Path, given: Path) -> None:
    """Write a checkpoint, or remove that of another calibration; but not the one that was given, or of a training."""
    from captum_region import save_classifier
    from captum_region.io.checkpoint import CLASSIFIER_FILES

    if loaded is not None:
        save_classifier(loaded, out / "classifier")
    elif (out / "calibration.json").exists() and not (
        (out / "training.json").exists() or out.resolve() in (given.resolve(), *given.resolve().parents)
    ):
        remove_files(out / "classifier", CLASSIFIER_FILES)


def _write_reliability(out: Path, found: dict[str, Calibration], attribute: str) -> None:
    from captum_region.plotting import drawn, plot_reliability, write_figure

    out.mkdir(parents=True, exist_ok=True)
    size, grid = (4.2, 4.8), {"nrows": 2, "height_ratios": (3, 1)}
    figure = drawn(size, lambda axes: plot_reliability(found, axes=axes, title=attribute), **grid)
    write_figure(out / "reliability.png", figure)
    write_text(out / "reliability.csv", [*found.values()][-1].bins.to_csv(index=False))

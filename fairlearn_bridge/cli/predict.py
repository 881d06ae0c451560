"""fairlearn-bridge predict: a saved model applied to image files."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from captum_region.cli import options as opt
from captum_region.cli.reading import Source
from captum_region.cli.running import check_file, console, errors_in_one_line


def predict(
    ctx: typer.Context,
    model: Annotated[Path, typer.Argument(help="A folder of save_mitigator, or one with such a folder named model.")],
    data: opt.DataInFiles,
    root: opt.RootOfFiles,
    out: Annotated[Path, typer.Option(help="CSV file for the predictions.")],
    image_column: opt.ImageColumn = None,
    module: Annotated[
        str | None,
        typer.Option(
            help="module:name of your own network's class, or of a function that makes it, if the model has one."
        ),
    ] = None,
    device: opt.Device = "cpu",
    skip_damaged: opt.SkipDamaged = False,
    force: opt.ReplaceFile = False,
    as_json: opt.AsJson = False,
    quiet: opt.Quiet = False,
    debug: opt.Debug = False,
) -> None:
    """Predict the class of each image; --out gets a row an image with the probabilities of all classes.

    The images are read as they are needed, so that memory does not grow with their number. If the command was stopped,
    run it again: it resumes. A damaged image has the reason in the column skipped. Of a data set with parts, the
    images are those to test on.

    Example: fairlearn-bridge predict model --data table --root new.csv --out predictions.csv
    """
    from fairlearn_bridge.audit.specifications import own_object
    from fairlearn_bridge.deployment.folder import load_mitigator
    from fairlearn_bridge.deployment.prediction import part_of, predict_files

    with errors_in_one_line(debug, resumes=part_of(out) / "state.json", by_force=False):
        check_file(out, force)
        folder = model / "model" if (model / "model").is_dir() else model
        own = None if module is None else own_object(module, "--module")
        estimator = load_mitigator(folder, own, device=device)
        # An image whose labels are not known can be predicted; whether it is damaged is found when it is read.
        source = replace(Source.of(ctx.params), skip_damaged=True)
        listing = source.listing(source.measured_on)
        options = {"skip_damaged": skip_damaged, "force": force, "show_progress": not quiet}
        summary = predict_files(estimator, folder, listing, out, **options)
        if as_json:
            typer.echo(json.dumps(summary, indent=1))
            return
        for label, count in summary["predicted"].items():
            console().print(f"{label}: {count:,}")
        if summary["skipped"]:
            console().print(f"skipped: {len(summary['skipped']):,}")
        typer.echo(f"predictions: {out}", err=True)

"""fairlearn-bridge mitigate: a classifier of your own images as they are, without a shortcut, to keep."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from captum_region.cli import options as opt
from captum_region.cli.reading import Source
from captum_region.cli.running import check_out, console, errors_in_one_line, print_check
from captum_region.io.files import CHECKPOINTS, remove_files, remove_states
from fairlearn_bridge.cli import options as own
from fairlearn_bridge.cli.run import Check, in_two_lines
from fairlearn_bridge.schemes import SCHEMES

if TYPE_CHECKING:
    from captum_region.datasets import AttributeImages
    from fairlearn_bridge.mitigation import Mitigation, MitigationConfig

# What is done without any data: faces that are drawn in seconds.
_FACES: dict[str, Any] = {"target": "Male", "confounder": ["Blond_Hair"], "size": 48, "train_size": 3000, "epochs": 8}
_SIZE, _EPOCHS = 64, 10


@own.trains("schemes", "seeds", "epochs", others="none", batch_size=32)
def mitigate(
    ctx: typer.Context,
    data: opt.Data = "faces",
    root: opt.Root = Path(),
    target: Annotated[
        str | None,
        opt.attributes(
            "Attribute to classify, of any number of classes, or attribute=value. Of faces Male by default."
        ),
    ] = None,
    confounder: Annotated[
        list[str] | None,
        opt.attributes(
            "Spurious attribute, of any number of values, or attribute=value; may be repeated. Of faces Blond_Hair by "
            "default."
        ),
    ] = None,
    out: opt.Out = Path("mitigated"),
    validation: Annotated[
        Path | None, typer.Option(help="Table of images to choose the threshold by; by default split off.")
    ] = None,
    test: Annotated[Path | None, typer.Option(help="Table of images to measure on; by default split off.")] = None,
    validation_share: Annotated[float, typer.Option(help="Share of the images to split off for validation.")] = 0.15,
    test_share: Annotated[float, typer.Option(help="Share of the images to split off for the test.")] = 0.2,
    image_column: opt.ImageColumn = None,
    identity_column: opt.IdentityColumn = None,
    size: Annotated[
        int | None, typer.Option(help="Side in pixels that images are resized to; by default 64, of faces 48.")
    ] = None,
    train_size: Annotated[int | None, typer.Option(help="Faces only: how many to draw; by default 3000.")] = None,
    scheme: Annotated[
        str,
        typer.Option(
            help="How training images are perturbed, as --schemes of run: general_ or specific_, followed by mask, "
            "noise or transplant; auto, which chooses without a balanced set; either with +group_dro and the like.",
            autocompletion=opt.list_of((*SCHEMES, "auto")),
        ),
    ] = "specific_transplant",
    quantile: own.Quantile = 0.5,
    epochs: Annotated[int | None, typer.Option(help="Epochs of the classifiers; by default 10, of faces 8.")] = None,
    cache: opt.Cache = None,
    skip_damaged: opt.SkipDamaged = False,
    check: Check = False,
    **training: Any,
) -> None:
    """Train a classifier of your images as they are without a shortcut, measure it, and keep it.

    No cell of target and spurious attribute is made empty, and no image is thrown away. Validation and test images are
    those of the data set, or of --validation and --test, or split off: by person where it is known who is shown, and
    with the same shares of all cells. The classifier is compared with one that was not mitigated, overall, by group and
    in every cell, at the threshold 0.5 and at one chosen on validation images. --out gets model/, which predict
    applies, its card, and report.html. Without any data, synthetic faces demonstrate it. If the command was stopped,
    run it again with --force: it resumes.

    Example: fairlearn-bridge mitigate --data table --root faces.csv --target smiling --confounder lighting --out model
    """
    from captum_region.io.files import check_place, locked
    from captum_region.progress import stage
    from fairlearn_bridge import mitigation as library
    from fairlearn_bridge.mitigation.results import FILES, SAVED

    given = ctx.params
    out, quiet, as_json = given["out"], given["quiet"], given["as_json"]
    with errors_in_one_line(given["debug"], resumes=out / CHECKPOINTS):
        check_out(out, given["force"] or given["check"])
        config = _configuration(given)
        seconds: dict[str, float] = {}
        with stage("drawing faces" if given["data"] == "faces" else "reading images", seconds, quiet):
            sets = _read(given, config)
        if given["check"]:
            print_check(library.check_mitigation(config, library.mitigation_data(config, *sets), out), as_json)
            return
        with locked(out):
            check_place(out, FILES, ("plots",), saved=SAVED)
            found = library.mitigate(config, *sets, checkpoint_dir=out / CHECKPOINTS, seconds=seconds, quiet=quiet)
            title = f"{config.target} without {config.confounder}, on {given['data']}"
            library.write_mitigation(found, out, title=title)
            if not found.failed:
                _clear(out / CHECKPOINTS)
        for note in found.notes:
            typer.echo(f"note: {note}", err=True)
        for row in found.trained.trainings.to_dict("records"):
            if row["status"] != "done":
                typer.echo(f"{row['mitigator']}: {row['status']}: {row['reason']}", err=True)
        typer.echo(f"model: {out / 'model'}\nreport: {out / 'report.html'}", err=True)
        if as_json:
            typer.echo((out / "results.json").read_text(), nl=False)
        else:
            _print(found)
        if found.failed:  # the results are without a training
            raise typer.Exit(1)


def _clear(states: Path) -> None:
    """Remove what a stopped mitigation resumes from: the models that it had fitted, and states of trainings."""
    from fairlearn_bridge.deployment.folder import MODEL_FILES
    from fairlearn_bridge.mitigation.running import MODELS

    for model in (states / MODELS).glob("*"):
        remove_files(model, MODEL_FILES)
    remove_files(states / MODELS, ())
    remove_states(states)


def _configuration(given: dict[str, Any]) -> MitigationConfig:
    """Return the configuration that the options make."""
    from fairlearn_bridge.mitigation import MitigationConfig

    _ = Source.of(given).parts  # refuses a data set that there is not
    is_faces = given["data"] == "faces"
    for name in ("target", "confounder"):
        if not given[name] and not is_faces:
            raise ValueError(f"--{name} must be given, unless --data is faces")
    if given["train_size"] is not None and not is_faces:
        raise ValueError("--train-size is for --data faces: of other data all images are used")
    settings = own.settings_of(MitigationConfig, given)
    settings |= {
        "target": given["target"] or _FACES["target"],
        "confounders": tuple(given["confounder"] or _FACES["confounder"]),
        "epochs": (_FACES["epochs"] if is_faces else _EPOCHS) if given["epochs"] is None else given["epochs"],
    }
    return MitigationConfig(**settings)


def _read(
    given: dict[str, Any], config: MitigationConfig
) -> tuple[AttributeImages, AttributeImages | None, AttributeImages | None]:
    """Return the images to train on, and those to choose by and to test on where they have sets of their own."""
    from fairlearn_bridge.mitigation import synthetic_parts

    if given["data"] != "faces":
        size = _SIZE if given["size"] is None else given["size"]
        return Source.of(given).load_sets(size, given["validation"], given["test"])
    for name in ("image_column", "identity_column", "validation", "test"):
        if given[name] is not None:
            raise ValueError(f"--{name.replace('_', '-')} is for --data table, got --data faces")
    sizes = [_FACES[name] if given[name] is None else given[name] for name in ("size", "train_size")]
    if sizes[1] < 1:
        raise ValueError(f"--train-size must be at least 1, got {sizes[1]}")
    biased, unbiased = synthetic_parts(config, *sizes)
    return biased, None, unbiased


def _print(found: Mitigation) -> None:
    """Print the measures of each classifier, and the accuracy of every cell."""
    from rich.table import Column, Table

    from fairlearn_bridge import metrics
    from fairlearn_bridge.mitigation.words import cells_of_one, headline, names_of, rows_of, shown_name, value_of

    measures = [str(name) for name in found.table["measure"].unique()]
    names = names_of(found)
    headers = [Column(metrics.label(name, {}), justify="right") for name in measures]
    shown = Table("classifier", "threshold", *headers, box=None)
    for decision in found.table["decision"].unique():
        for name in names:
            rows = [rows_of(found, measure, decision).get(name) for measure in measures]
            cells = ["" if row is None else in_two_lines(value_of(row)) for row in rows]
            threshold = next(row["threshold"] for row in rows if row is not None)
            shown.add_row(shown_name(name), "" if threshold != threshold else f"{threshold:.3f}", *cells)
    console().print(shown)
    of_name = {name: cells_of_one(found, name, found.decision).to_dict("records") for name in names}
    headers = [Column(shown_name(name), justify="right") for name in names]
    by_cell = Table("accuracy in cell", Column("images", justify="right"), *headers, box=None)
    for rows in zip(*of_name.values(), strict=True):
        cells = [f"{row['accuracy']:.3f}\n[{row['low']:.2f}, {row['high']:.2f}]" for row in rows]
        by_cell.add_row(rows[0]["group"], str(rows[0]["images"]), *cells)
    console().print(by_cell)
    typer.echo(headline(found))

"""fairlearn-bridge demo and run: one experiment and its page."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from captum_region.cli import options as opt
from captum_region.cli.reading import Source
from captum_region.cli.running import check_out, console, errors_in_one_line, print_check
from captum_region.io.files import CHECKPOINTS
from fairlearn_bridge.cli import options as own

if TYPE_CHECKING:
    from collections.abc import Callable

    from captum_region.datasets import AttributeImages
    from fairlearn_bridge.experiment import ExperimentConfig, ExperimentData
    from fairlearn_bridge.plotting import Interval
    from fairlearn_bridge.report.run import Run

Check = Annotated[
    bool,
    typer.Option(
        "--check",
        help="Write nothing: repeat a small part of the run in --out, compare, and exit with 1 if something differs.",
    ),
]


@own.trains(schemes="general_transplant,general_mask@predict,general_noise", epochs=8, batch_size=32)
def demo(
    ctx: typer.Context,
    out: opt.Out = Path("demo"),
    size: Annotated[int, typer.Option(help="Side of the faces in pixels.")] = 48,
    train_size: Annotated[int, typer.Option(help="Training faces.")] = 2400,
    test_per_cell: Annotated[int, typer.Option(help="Test faces per cell of gender and hair.")] = 250,
    quantile: own.Quantile = 0.5,
    check: Check = False,
    **training: Any,
) -> None:
    """Compare mitigators on synthetic faces, in whose training images no man is blond.

    Finished trainings are kept in --out. If the command was stopped, run it again with --force: it resumes.

    Example: fairlearn-bridge demo --out demo
    """
    from fairlearn_bridge.experiment import synthetic_data

    title = "Blond hair as a spurious attribute of gender, on synthetic faces"
    fixed = {"target": "Male", "confounder": "Blond_Hair"}
    _run(ctx, title, "drawing faces", lambda config: synthetic_data(config, size), **fixed)


@own.trains(schemes="general_transplant,specific_transplant,general_mask@predict,general_noise")
def run(
    ctx: typer.Context,
    data: opt.Data,
    target: own.Target,
    confounder: Annotated[
        str,
        opt.attributes(
            "Spurious attribute: binary, and confounded with --target; or attribute=value; or a property of images "
            "that inspect --images lists, such as brightness@0.5."
        ),
    ],
    out: opt.Out,
    root: opt.Root = Path(),
    image_column: opt.ImageColumn = None,
    size: opt.Size = 64,
    train_size: own.TrainSize = None,
    test_per_cell: own.TestPerCell = None,
    validation_per_cell: Annotated[
        int, typer.Option(min=1, help="Validation images per cell, which choose the shifted threshold.")
    ] = 25,
    quantile: own.Quantile = 0.7,
    cache: opt.Cache = None,
    skip_damaged: opt.SkipDamaged = False,
    check: Check = False,
    **training: Any,
) -> None:
    """Compare mitigators on your own images, or on a data set.

    Finished trainings are kept in --out. If the command was stopped, run it again with --force: it resumes.

    Example: fairlearn-bridge run --data celeba --root DATA --target Male --confounder Blond_Hair --out runs/blond
    """
    title = f"{confounder} as a spurious attribute of {target}, on {data}"
    _run(ctx, title, "reading images", lambda config: split(config, *Source.of(ctx.params).load(size)))


def split(config: ExperimentConfig, train: AttributeImages, test: AttributeImages | None) -> ExperimentData:
    """Return `split_data`, without the warning that the balanced set is not quite balanced: the results say so."""
    from fairlearn_bridge.experiment import split_data

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return split_data(config, train, test)


def _run(
    ctx: typer.Context, title: str, reading_is: str, read: Callable[[ExperimentConfig], ExperimentData], **fixed: Any
) -> None:
    """Run, or check, the experiment of a command's options."""
    from captum_region.progress import stage
    from fairlearn_bridge.checking import check_experiment
    from fairlearn_bridge.experiment import run_experiment

    given = ctx.params
    out, quiet, as_json = given["out"], given["quiet"], given["as_json"]
    with errors_in_one_line(given["debug"], resumes=out / CHECKPOINTS):
        check_out(out, given["force"] or given["check"])
        config = own.configuration(given, **fixed)
        seconds: dict[str, float] = {}
        with stage(reading_is, seconds, quiet):
            data = read(config)
        if given["check"]:
            print_check(check_experiment(config, data, out), as_json)
            return
        result = run_experiment(config, data, out, title=title, seconds=seconds, quiet=quiet)
        typer.echo(f"report: {out / 'report.html'}", err=True)
        if as_json:
            typer.echo((out / "results.json").read_text(), nl=False)
        else:
            _print_run(result)
        if result.failed:  # the results are without a training
            raise typer.Exit(1)


def _print_run(run: Run) -> None:
    """Print the means with their intervals."""
    from rich.table import Column, Table

    shown = Table("mitigator", *(Column(run.label(name), justify="right") for name in run.measures), box=None)
    values = [run.values(measure) for measure in run.measures]
    for name in run.kinds:
        found = [of_measure.get(name) for of_measure in values]
        cells = ["" if one is None else in_two_lines(one) for one in found]
        fewer = run.fewer_seeds.get(name, "").partition(";")[0]
        shown.add_row(f"{name}\n({fewer})" if fewer else name, *cells)
    console().print(shown)


def in_two_lines(value: Interval) -> str:
    """Return a value and, below it, its interval if it has one."""
    interval = f"\n[{value.low:.2f}, {value.high:.2f}]" if math.isfinite(value.low + value.high) else ""
    return f"{value.mean:.3f}{interval}"

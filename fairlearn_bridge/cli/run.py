"""fairlearn-bridge demo and run: one experiment and its page."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from captum_region.cli import completion
from captum_region.cli.options import (
    AsJson,
    Cache,
    Data,
    Debug,
    Device,
    Force,
    ImageColumn,
    Out,
    Quiet,
    Root,
    Seed,
    Size,
    SkipDamaged,
)
from captum_region.cli.reading import read_data, reading
from captum_region.cli.running import check_out, console, told_in_one_line
from captum_region.files import CHECKPOINTS
from fairlearn_bridge.cli.options import (
    BatchSize,
    Epochs,
    Jobs,
    LearningRate,
    NoiseStd,
    Others,
    Quantile,
    RegionEpochs,
    Schemes,
    Seeds,
    Target,
    configuration,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from fairlearn_bridge.experiment import ExperimentConfig, ExperimentData
    from fairlearn_bridge.report.run import Run
    from fairlearn_bridge.sweep import SweepResults

Check = Annotated[
    bool,
    typer.Option(
        "--check",
        help="Write nothing: do a small part of the run in --out again, compare, and exit with 1 if it differs.",
    ),
]


def demo(
    ctx: typer.Context,
    out: Out = Path("demo"),
    size: Annotated[int, typer.Option(help="Side of the faces in pixels.")] = 48,
    train_size: Annotated[int, typer.Option(help="Training faces.")] = 2400,
    test_per_cell: Annotated[int, typer.Option(help="Test faces of each cell of gender and hair.")] = 250,
    schemes: Schemes = "general_transplant,general_mask@predict,general_noise",
    others: Others = "fast",
    quantile: Quantile = 0.5,
    noise_std: NoiseStd = 0.5,
    epochs: Epochs = 8,
    batch_size: BatchSize = 32,
    lr: LearningRate = 1e-3,
    region_epochs: RegionEpochs = None,
    seeds: Seeds = 1,
    seed: Seed = 0,
    jobs: Jobs = None,
    device: Device = "cpu",
    force: Force = False,
    check: Check = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Run the whole job on synthetic faces with blond hair as the confounder of gender.

    Each training is kept in --out as soon as it is done: where it was stopped, the same command with --force goes on.

    Example: fairlearn-bridge demo --out demo
    """
    from fairlearn_bridge.experiment import synthetic_data

    title = "Blond hair as a confounder of gender, on synthetic faces"
    fixed = {"target": "Male", "confounder": "Blond_Hair"}
    _run(ctx, title, "drawing faces", lambda config: synthetic_data(config, size), **fixed)


def run(
    ctx: typer.Context,
    data: Data,
    root: Root,
    target: Target,
    confounder: Annotated[
        str,
        typer.Option(
            help="Binary attribute it is confounded with, or attribute=value.", autocompletion=completion.attributes
        ),
    ],
    out: Out,
    image_column: ImageColumn = None,
    size: Size = 64,
    train_size: Annotated[
        int | None, typer.Option(help="Training images; by default what the data allow, 6000 at most.")
    ] = None,
    test_per_cell: Annotated[
        int | None, typer.Option(help="Test images a cell; by default what the data allow, 182 at most.")
    ] = None,
    schemes: Schemes = "general_transplant,specific_transplant,general_mask@predict,general_noise",
    others: Others = "fast",
    quantile: Quantile = 0.7,
    noise_std: NoiseStd = 0.5,
    epochs: Epochs = 10,
    batch_size: BatchSize = 128,
    lr: LearningRate = 1e-3,
    region_epochs: RegionEpochs = None,
    seeds: Seeds = 1,
    seed: Seed = 0,
    jobs: Jobs = None,
    device: Device = "cpu",
    cache: Cache = None,
    skip_damaged: SkipDamaged = False,
    force: Force = False,
    check: Check = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Run the whole job on real images.

    Each training is kept in --out as soon as it is done: where it was stopped, the same command with --force goes on.

    Example: fairlearn-bridge run --data celeba --root DATA --target Male --confounder Blond_Hair --out runs/blond
    """
    from fairlearn_bridge.experiment import split_data

    def read(config: ExperimentConfig) -> ExperimentData:
        train, test = read_data(data, root, size, **reading(ctx.params))
        with warnings.catch_warnings():
            # That the balanced set is not quite balanced stands among the report's caveats.
            warnings.simplefilter("ignore", UserWarning)
            return split_data(config, train, test)

    _run(ctx, f"{confounder} as a confounder of {target}, on {data}", "reading images", read)


def _run(
    ctx: typer.Context, title: str, reading_is: str, read: Callable[[ExperimentConfig], ExperimentData], **fixed: Any
) -> None:
    """Run, or check, the experiment of a command's options."""
    from fairlearn_bridge.experiment import run_experiment, stage

    given = ctx.params
    out, quiet, as_json = given["out"], given["quiet"], given["as_json"]
    with told_in_one_line(given["debug"], resumes=out / CHECKPOINTS):
        check_out(out, given["force"] or given["check"])
        config = configuration(given, **fixed)
        seconds: dict[str, float] = {}
        with stage(reading_is, seconds, quiet):
            data = read(config)
        if given["check"]:
            _check(config, data, out, as_json)
        result = run_experiment(config, data, out, title=title, seconds=seconds, quiet=quiet)
        _print_run(result, out, as_json)
        exit_if_failed(result)


def _print_run(run: Run, out: Path, as_json: bool) -> None:
    """Print the means with their intervals to stdout, or all as JSON, and say on stderr where the rest is."""
    from rich.table import Table

    typer.echo(f"report: {out / 'report.html'}", err=True)
    if as_json:
        typer.echo((out / "results.json").read_text(), nl=False)
        return
    shown = Table("mitigator", box=None)
    for measure in run.measures:
        shown.add_column(run.label(measure), justify="right")
    values = [run.values(measure) for measure in run.measures]
    for name in run.names:
        found = [of_measure.get(name) for of_measure in values]
        cells = ["" if one is None else f"{one.mean:.3f}\n[{one.low:.2f}, {one.high:.2f}]" for one in found]
        fewer = run.fewer_seeds.get(name, "").partition(";")[0]
        shown.add_row(f"{name}\n({fewer})" if fewer else name, *cells)
    console().print(shown)


def exit_if_failed(result: Run | SweepResults) -> None:
    """Exit with 1 if a training has failed: the results are there, without it."""
    if result.failed:
        raise typer.Exit(1)


def _check(config: ExperimentConfig, data: ExperimentData, out: Path, as_json: bool) -> NoReturn:
    """Print what `check_experiment` finds, and exit: with 1 if something differs."""
    from fairlearn_bridge.checking import check_experiment

    found = check_experiment(config, data, out)
    differs = found[~found["equal"]]
    if as_json:
        typer.echo(json.dumps(found.to_dict("records"), indent=1, default=str))
    else:
        for row in differs.itertuples():
            typer.echo(f"differs: {row.what}: was {row.then}, is {row.now}")
        typer.echo(f"{len(found) - len(differs)} of {len(found)} comparisons are equal")
    raise typer.Exit(1 if len(differs) else 0)

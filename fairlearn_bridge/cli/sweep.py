"""fairlearn-bridge sweep: Table 1 of the paper."""

from __future__ import annotations

import tomllib
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
from captum_region.cli.reading import read_data, reading, skipped_in
from captum_region.cli.running import check_out, console, told_in_one_line
from captum_region.files import CHECKPOINTS
from fairlearn_bridge.cli.options import (
    BatchSize,
    Epochs,
    Jobs,
    LearningRate,
    NoiseStd,
    Others,
    RegionEpochs,
    Schemes,
    Seeds,
    Target,
    configuration,
)
from fairlearn_bridge.cli.run import exit_if_failed

if TYPE_CHECKING:
    import pandas as pd

    from captum_region.datasets import AttributeImages
    from fairlearn_bridge.experiment import ExperimentConfig, ExperimentData


def _read_settings(ctx: typer.Context, path: Path | None) -> Path | None:
    """Make what a TOML file says the defaults of a command's options."""
    if path is None:
        return None
    try:
        settings = {key.replace("-", "_"): value for key, value in tomllib.loads(path.read_text()).items()}
    except (OSError, ValueError, RecursionError) as error:
        raise typer.BadParameter(f"{path}: {error}") from error
    known = {str(option.name) for option in ctx.command.params}
    if unknown := set(settings) - known:
        names = ", ".join(sorted(known - {"config", "help"}))
        raise typer.BadParameter(f"{path} sets {', '.join(sorted(unknown))}, the options are {names}")
    ctx.default_map = settings
    return path


def sweep(
    ctx: typer.Context,
    out: Out,
    config: Annotated[
        Path | None,
        typer.Option(
            callback=_read_settings,
            is_eager=True,
            help="A TOML file of this command's options, such as quantile = [0.6, 0.8]; those given here win.",
        ),
    ] = None,
    data: Data = "faces",
    root: Root = Path(),
    image_column: ImageColumn = None,
    target: Target = "Male",
    confounder: Annotated[
        list[str] | None,
        typer.Option(
            help="One it is confounded with; give it again for more. The paper's four by default.",
            autocompletion=completion.attributes,
        ),
    ] = None,
    size: Size = 64,
    train_size: Annotated[
        int | None, typer.Option(help="Training images; by default what the data allow, 6000 at most. Faces: 2400.")
    ] = None,
    test_per_cell: Annotated[
        int | None, typer.Option(help="Test images a cell; by default what the data allow, 182 at most.")
    ] = None,
    validation_per_cell: Annotated[
        int, typer.Option(help="Validation images a cell, by which each scheme's quantile in Table 1 is chosen.")
    ] = 25,
    schemes: Schemes = "general_mask,general_noise,specific_mask,specific_noise",
    others: Others = "none",
    quantile: Annotated[
        list[float] | None,
        typer.Option(help="Pixels above this quantile of the map change; give it again for more. 0.6, 0.7, 0.8, 0.95."),
    ] = None,
    noise_std: NoiseStd = 0.5,
    epochs: Epochs = 10,
    batch_size: BatchSize = 128,
    lr: LearningRate = 1e-3,
    region_epochs: RegionEpochs = None,
    seeds: Seeds = 3,
    seed: Seed = 0,
    jobs: Jobs = None,
    device: Device = "cpu",
    cache: Cache = None,
    skip_damaged: SkipDamaged = False,
    force: Force = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Run confounders x schemes x quantiles x seeds: Table 1 and Figures 7 and 8 of the paper.

    Each training is kept in --out as soon as it is done: where it was stopped, the same command with --force goes on.
    --out gets table1.csv, table.csv, validation.csv, trainings.csv, sweep.json and plots.

    Example: fairlearn-bridge sweep --config examples/celeba_sweep.toml --root DATA --out runs/sweep
    """
    from fairlearn_bridge.sweep import run_sweep

    with told_in_one_line(debug, resumes=out / CHECKPOINTS):
        check_out(out, force)
        configs = _configurations(ctx.params)
        images = None if data == "faces" else read_data(data, root, size, **reading(ctx.params))
        results = run_sweep(
            configs,
            lambda config: _data(config, size, images),
            quantile or (0.6, 0.7, 0.8, 0.95),
            out,
            skipped=skipped_in(*images) if images else [],
            quiet=quiet,
        )
        if as_json:
            typer.echo((out / "sweep.json").read_text(), nl=False)
        else:
            _print_table1(results.table1(), target)
            for name, fewer in results.fewer_seeds().items():
                typer.echo(f"{name}: the mean over {fewer}")
        exit_if_failed(results)


def _configurations(options: dict[str, Any]) -> list[ExperimentConfig]:
    from fairlearn_bridge.experiment import ExperimentConfig

    # Faces are drawn as many as asked for; other data are taken as they come.
    drawn = {"train_size": 2400, "test_per_cell": 182} if options["data"] == "faces" else {}
    sizes = {name: count for name, count in drawn.items() if options[name] is None}
    return [
        configuration(options, confounder=name, quantile=ExperimentConfig.quantile, **sizes)
        for name in options["confounder"] or ("Blond_Hair", "Eyeglasses", "Smiling", "Wearing_Hat")
    ]


def _data(
    config: ExperimentConfig, size: int, images: tuple[AttributeImages, AttributeImages | None] | None
) -> ExperimentData:
    from fairlearn_bridge.experiment import split_data, synthetic_data

    if images is None:
        return synthetic_data(config, size)
    with warnings.catch_warnings():
        # That the balanced set is not quite balanced shows in Table 1's counts.
        warnings.simplefilter("ignore", UserWarning)
        return split_data(config, *images)


def _print_table1(table: pd.DataFrame, target: str) -> None:
    import numpy as np
    from rich.table import Table

    from fairlearn_bridge.metrics import label

    groups = {"True": target, "False": f"not {target}"}
    shown = Table("confounder", "scheme", "quantile", box=None)
    measures = [name for name in table.columns.unique(0) if name != "quantile"]
    for name in measures:
        shown.add_column(label(name, groups), justify="right")
    for (confounder, scheme), row in zip(table.index, table.to_dict("records"), strict=True):
        cells = [
            f"{row[name, 'original']:.2f} / {row[name, 'balanced']:.2f} / {row[name, 'scheme']:.2f}\n"
            f"[{row[name, 'low']:+.2f}, {row[name, 'high']:+.2f}]"
            for name in measures
        ]
        quantile = "chosen" if np.isnan(row["quantile", ""]) else f"{row['quantile', '']:g}"
        shown.add_row(confounder, scheme, quantile, *cells)
    console().print(shown)
    typer.echo("original / balanced data / scheme, and the 95 % interval of the scheme's difference to the original")

"""fairlearn-bridge sweep: Table 1 of the paper."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from captum_region.cli import options as opt
from captum_region.cli.reading import Source, skipped_in
from captum_region.cli.running import check_out, console, errors_in_one_line
from captum_region.io.files import CHECKPOINTS
from fairlearn_bridge.cli import options as own
from fairlearn_bridge.cli.run import split

if TYPE_CHECKING:
    import pandas as pd

    from fairlearn_bridge.experiment import ExperimentConfig


def _read_settings(ctx: typer.Context, path: Path | None) -> Path | None:
    """Take the defaults of a command's options from a TOML file."""
    if path is None:
        return None
    try:
        settings = {key.replace("-", "_"): value for key, value in tomllib.loads(path.read_text()).items()}
    except (OSError, ValueError, RecursionError) as error:
        raise typer.BadParameter(f"{path}: {error}") from error
    known = {str(option.name): option for option in ctx.command.params if option.name not in ("config", "help")}
    if unknown := set(settings) - set(known):
        names = ", ".join(sorted(known))
        raise typer.BadParameter(f"{path} sets {', '.join(sorted(unknown))}, the options are {names}")
    ctx.default_map = {
        name: [value] if getattr(known[name], "multiple", False) and not isinstance(value, list) else value
        for name, value in settings.items()
    }
    return path


@own.trains(schemes="general_mask,general_noise,specific_mask,specific_noise", others="none", seeds=3)
def sweep(
    ctx: typer.Context,
    out: opt.Out,
    config: Annotated[
        Path | None,
        typer.Option(
            callback=_read_settings,
            is_eager=True,
            help="TOML file of this command's options, such as quantile = [0.6, 0.8]; options given here win.",
        ),
    ] = None,
    data: opt.Data = "faces",
    root: opt.Root = Path(),
    image_column: opt.ImageColumn = None,
    target: own.Target = "Male",
    confounder: Annotated[
        list[str] | None, opt.attributes("Spurious attribute; may be repeated. By default the paper's four.")
    ] = None,
    size: opt.Size = 64,
    train_size: own.TrainSize = None,
    test_per_cell: own.TestPerCell = None,
    validation_per_cell: Annotated[
        int, typer.Option(help="Validation images per cell, which choose the quantile of each scheme in Table 1.")
    ] = 25,
    quantile: Annotated[
        list[float] | None,
        typer.Option(
            help="Pixels above this quantile of the map change; may be repeated. By default 0.6, 0.7, 0.8, 0.95."
        ),
    ] = None,
    cache: opt.Cache = None,
    skip_damaged: opt.SkipDamaged = False,
    **training: Any,
) -> None:
    """Run all spurious attributes, schemes, quantiles and seeds: Table 1 and Figures 7 and 8 of the paper.

    --out gets table1.csv, table.csv, validation.csv, trainings.csv, sweep.json and plots. Finished trainings are kept
    there too. If the command was stopped, run it again with --force: it resumes.

    Example: fairlearn-bridge sweep --config examples/celeba_sweep.toml --root DATA --out runs/sweep
    """
    from fairlearn_bridge.experiment import synthetic_data
    from fairlearn_bridge.sweep import run_sweep

    given = ctx.params
    with errors_in_one_line(given["debug"], resumes=out / CHECKPOINTS):
        check_out(out, given["force"])
        configs = _configurations(given)
        images = None if data == "faces" else Source.of(given).load(size)
        results = run_sweep(
            configs,
            lambda config: synthetic_data(config, size) if images is None else split(config, *images),
            quantile or (0.6, 0.7, 0.8, 0.95),
            out,
            skipped=skipped_in(*images) if images else [],
            quiet=given["quiet"],
        )
        if given["as_json"]:
            typer.echo((out / "sweep.json").read_text(), nl=False)
        else:
            _print_table1(results.table1(), target)
            for name, fewer in results.fewer_seeds().items():
                typer.echo(f"{name}: the mean over {fewer}")
        if results.failed:  # the results are without a training
            raise typer.Exit(1)


def _configurations(options: dict[str, Any]) -> list[ExperimentConfig]:
    from fairlearn_bridge.experiment import ExperimentConfig

    # Any number of faces can be drawn; other data sets have their own sizes.
    drawn = {"train_size": 2400, "test_per_cell": 182} if options["data"] == "faces" else {}
    sizes = {name: count for name, count in drawn.items() if options[name] is None}
    return [
        own.configuration(options, confounder=name, quantile=ExperimentConfig.quantile, **sizes)
        for name in options["confounder"] or ("Blond_Hair", "Eyeglasses", "Smiling", "Wearing_Hat")
    ]


def _print_table1(table: pd.DataFrame, target: str) -> None:
    import numpy as np
    from rich.table import Column, Table

    from fairlearn_bridge.metrics import label

    groups = {"True": target, "False": f"not {target}"}
    measures = [name for name in table.columns.unique(0) if name != "quantile"]
    columns = (Column(label(name, groups), justify="right") for name in measures)
    shown = Table("spurious attribute", "scheme", "quantile", *columns, box=None)
    for (confounder, scheme), row in zip(table.index, table.to_dict("records"), strict=True):
        cells = [
            f"{row[name, 'original']:.2f} / {row.get((name, 'balanced'), np.nan):.2f} / {row[name, 'scheme']:.2f}\n"
            f"[{row[name, 'low']:+.2f}, {row[name, 'high']:+.2f}]"
            for name in measures
        ]
        quantile = "chosen" if np.isnan(row["quantile", ""]) else f"{row['quantile', '']:g}"
        shown.add_row(confounder, scheme, quantile, *cells)
    console().print(shown)
    typer.echo(
        "ERM baseline / balanced data / scheme, and the 95 % interval of the difference between scheme and baseline"
    )

"""The command fairlearn-bridge: the whole job on synthetic faces or on images of one's own, and its report."""

from __future__ import annotations

import json
import shlex
import sys
import tomllib
import warnings
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from captum_region import completion
from captum_region.cli import (
    AsJson,
    Cache,
    Data,
    Debug,
    Device,
    Force,
    ImageColumn,
    Out,
    Quiet,
    ReplaceFile,
    Root,
    Seed,
    Size,
    SkipDamaged,
    check_file,
    check_out,
    read_data,
    read_tables,
    skipped_in,
    told_in_one_line,
)
from captum_region.files import CHECKPOINTS, replacing
from fairlearn_bridge.catalogue import FAST_OTHERS, OTHERS, SLOW_OTHERS
from fairlearn_bridge.schemes import SCHEMES

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

    from fairlearn_bridge.experiment import ExperimentConfig, ExperimentData
    from fairlearn_bridge.report.run import Run
    from fairlearn_bridge.sweep import SweepResults

app = typer.Typer(
    help="Train image classifiers without a confounder, and see what that did.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Schemes = Annotated[
    str,
    typer.Option(
        help="Comma-separated: general_ or specific_, then mask, noise or transplant; @predict behind a general mask "
        "or noise perturbs in prediction also, @elsewhere and @random change as many other pixels (both go with the "
        "first), @auto chooses the quantile on held-out training images in 7 more trainings, auto alone the scheme "
        "too.",
        autocompletion=completion.list_of((*SCHEMES, "auto")),
    ),
]
Others = Annotated[
    str,
    typer.Option(
        help=f"The mitigators of others to put beside: fast (all but {', '.join(SLOW_OTHERS)}, which trains dozens of "
        f"classifiers), all, none, or comma-separated of {', '.join(OTHERS)}.",
        autocompletion=completion.list_of((*OTHERS, "fast", "all", "none")),
    ),
]
Target = Annotated[
    str,
    typer.Option(help="Binary attribute to classify, or attribute=value.", autocompletion=completion.attributes),
]
Quantile = Annotated[float, typer.Option(help="Pixels above this quantile of the map change: 0.7 changes 30 %.")]
NoiseStd = Annotated[float, typer.Option(help="Standard deviation of the noise, for images in [0, 1].")]
Epochs = Annotated[int, typer.Option(help="Epochs of the target classifiers.")]
BatchSize = Annotated[int, typer.Option(help="Batch size of the target classifiers.")]
LearningRate = Annotated[float, typer.Option("--lr", help="Learning rate of the target classifiers.")]
RegionEpochs = Annotated[int | None, typer.Option(help="Epochs of the region classifier; its recipe's by default.")]
Seeds = Annotated[int, typer.Option(help="Trainings of each arm, with seeds --seed, --seed + 1, ...")]
Check = Annotated[
    bool,
    typer.Option(
        "--check",
        help="Write nothing: do a small part of the run in --out again, compare, and exit with 1 if it differs.",
    ),
]
Jobs = Annotated[
    int | None, typer.Option(help="Trainings side by side; as many as processors by default (1 on a GPU).")
]


@app.callback(invoke_without_command=True)
def _main(
    show_version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if show_version:
        typer.echo(f"fairlearn-bridge {version('captum-region')}")
        raise typer.Exit


def _names(others: str) -> tuple[str, ...]:
    sets = {"fast": FAST_OTHERS, "all": tuple(OTHERS), "none": ()}
    return sets[others] if others in sets else tuple(others.split(","))


def _config(options: Mapping[str, Any], **fixed: Any) -> ExperimentConfig:
    """Return the configuration that a command's options make, those of the same name as they are."""
    import joblib

    from fairlearn_bridge.experiment import ExperimentConfig

    given = {field.name: options[field.name] for field in fields(ExperimentConfig) if field.name in options}
    given |= {"schemes": tuple(options["schemes"].split(",")), "others": _names(options["others"])}
    jobs = options["jobs"] or (joblib.cpu_count() if options["device"] == "cpu" else 1)
    return ExperimentConfig(**given | {"random_state": options["seed"], "n_jobs": jobs} | fixed)


def _print_run(run: Run, out: Path, as_json: bool) -> None:
    """Print the means with their intervals to stdout, or all as JSON, and say on stderr where the rest is."""
    from rich.console import Console
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
    # A pipe has no width: the table then takes what it needs.
    Console(width=None if sys.stdout.isatty() else 200, markup=False).print(shown)


def _exit_if_failed(result: Run | SweepResults) -> None:
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


@app.command()
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
    from fairlearn_bridge.experiment import run_experiment, stage, synthetic_data

    with told_in_one_line(debug, resumes=out / CHECKPOINTS):
        check_out(out, force or check)
        config = _config(ctx.params, target="Male", confounder="Blond_Hair")
        seconds: dict[str, float] = {}
        with stage("drawing faces", seconds, quiet):
            data = synthetic_data(config, size)
        if check:
            _check(config, data, out, as_json)
        title = "Blond hair as a confounder of gender, on synthetic faces"
        result = run_experiment(config, data, out, title=title, seconds=seconds, quiet=quiet)
        _print_run(result, out, as_json)
        _exit_if_failed(result)


@app.command()
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
    from fairlearn_bridge.experiment import run_experiment, split_data, stage

    with told_in_one_line(debug, resumes=out / CHECKPOINTS):
        check_out(out, force or check)
        config = _config(ctx.params)
        seconds: dict[str, float] = {}
        with stage("reading images", seconds, quiet):
            train, test = read_data(
                data, root, size, cache=cache, skip_damaged=skip_damaged, quiet=quiet, image_column=image_column
            )
        with warnings.catch_warnings():
            # That the balanced set is not quite balanced stands among the report's caveats.
            warnings.simplefilter("ignore", UserWarning)
            parts = split_data(config, train, test)
        if check:
            _check(config, parts, out, as_json)
        title = f"{confounder} as a confounder of {target}, on {data}"
        result = run_experiment(config, parts, out, title=title, seconds=seconds, quiet=quiet)
        _print_run(result, out, as_json)
        _exit_if_failed(result)


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


@app.command()
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
    from fairlearn_bridge.experiment import ExperimentConfig, split_data, synthetic_data
    from fairlearn_bridge.sweep import run_sweep

    with told_in_one_line(debug, resumes=out / CHECKPOINTS):
        check_out(out, force)
        # Faces are drawn as many as asked for; other data are taken as they come.
        sizes = {}
        if data == "faces":
            sizes["train_size"] = 2400 if train_size is None else train_size
            sizes["test_per_cell"] = 182 if test_per_cell is None else test_per_cell
        configs = [
            _config(ctx.params, confounder=name, quantile=ExperimentConfig.quantile, **sizes)
            for name in confounder or ("Blond_Hair", "Eyeglasses", "Smiling", "Wearing_Hat")
        ]
        images = None
        if data != "faces":
            images = read_data(
                data, root, size, cache=cache, skip_damaged=skip_damaged, quiet=quiet, image_column=image_column
            )

        def data_of(one: ExperimentConfig) -> ExperimentData:
            if images is None:
                return synthetic_data(one, size)
            with warnings.catch_warnings():
                # That the balanced set is not quite balanced shows in Table 1's counts.
                warnings.simplefilter("ignore", UserWarning)
                return split_data(one, *images)

        results = run_sweep(
            configs,
            data_of,
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
        _exit_if_failed(results)


def _print_table1(table: pd.DataFrame, target: str) -> None:
    import numpy as np
    from rich.console import Console
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
    Console(width=None if sys.stdout.isatty() else 200, markup=False).print(shown)
    typer.echo("original / balanced data / scheme, and the 95 % interval of the scheme's difference to the original")


@app.command()
def inspect(
    data: Data,
    target: Annotated[
        str,
        typer.Option(
            help="Attribute to classify, of any number of classes, or attribute=value.",
            autocompletion=completion.attributes,
        ),
    ],
    root: Root = Path(),
    image_column: ImageColumn = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the results too; new or empty unless --force.")] = None,
    threshold: Annotated[
        float, typer.Option(help="Cramer's V from which on an attribute is flagged: 0 independent, 1 tells the target.")
    ] = 0.2,
    skip_damaged: SkipDamaged = False,
    force: Force = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Find out which attributes go along with the target in the training images, and could be learnt in its place.

    Only labels are read, no images. --out gets inspect.csv, inspect.json (what --json prints) and inspect.png. The
    attributes of synthetic faces are independent: nothing is to be flagged there.

    Example: fairlearn-bridge inspect --data celeba --root DATA --target Male
    """
    from fairlearn_bridge.inspecting import draw_inspection, labels_of, print_confounders, target_and_confounder
    from fairlearn_bridge.inspection import cell_counts, find_confounders

    with told_in_one_line(debug):
        if out is not None:
            check_out(out, force)
        train, test = read_tables(data, root, skip_damaged=skip_damaged, image_column=image_column)
        labels = labels_of(train, target)
        attributes = train.drop(columns=target if target in train else target.partition("=")[0])
        found = find_confounders(attributes, labels, threshold=threshold)
        if found["cramers_v"].isna().all():
            raise ValueError("; ".join(f"{name}: {note}" for name, note in found["note"].items()))
        cells = cell_counts(attributes[found.index[found["cramers_v"].notna()]], labels)
        pair = target_and_confounder(found, cells, target, train, test)
        command = None
        if pair is not None:
            options = ["--data", data, "--root", str(root), "--target", pair[0], "--confounder", pair[1]]
            options += [] if image_column is None else ["--image-column", image_column]
            command = shlex.join(["fairlearn-bridge", "run", *options, "--out", f"runs/{pair[1]}"])
        result = {
            "target": target,
            "images": len(train),
            "target_missing": int(labels.isna().sum()),
            "threshold": threshold,
            "attributes": json.loads(found.reset_index().to_json(orient="records")),
            "cells": json.loads(cells.to_json(orient="records")),
            "next": command,
            "skipped": [row for part in (train, test) if part is not None for row in part.attrs.get("skipped", ())],
        }
        text = json.dumps(result, indent=1)
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            with replacing(out / "inspect.csv") as path:
                found.to_csv(path)
            with replacing(out / "inspect.json") as path:
                path.write_text(text + "\n")
            with replacing(out / "inspect.png") as path:
                draw_inspection(found, cells, target, threshold).savefig(path, dpi=150)
        if as_json:
            typer.echo(text)
            return
        print_confounders(found, cells, target)
        typer.echo("V: Cramer's V; NMI: normalised mutual information; p: adjusted for the number of attributes")
        typer.echo("value: the one that a class lacks most; how many images of each class have it")
        typer.echo(f"* flagged: V at least {threshold:g} and more than chance; a model may take the shortcut, or not")
        if pair is None:
            typer.echo("nothing flagged has the images that fairlearn-bridge run needs of each cell")
        else:
            typer.echo(f"next, to train without {pair[0]} with {pair[1]}, which these images lack:\n{command}")


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(help="A run folder, or several to put side by side in one page.")],
    out: Annotated[
        Path | None,
        typer.Option(help="The page; report.html in the run folder by default, of several side_by_side.html here."),
    ] = None,
    force: ReplaceFile = False,
    debug: Debug = False,
) -> None:
    """Write a run's report.html again from its results, or one page of several runs.

    Example: fairlearn-bridge report runs/blond runs/hats --out runs/both.html
    """
    from fairlearn_bridge.report import write_report, write_side_by_side

    with told_in_one_line(debug):
        if len(folders) == 1:
            page = out or folders[0] / "report.html"
            check_file(page, force)
            write_report(folders[0], page)
        else:
            page = out or Path("side_by_side.html")
            check_file(page, force)
            write_side_by_side(folders, page)
        typer.echo(page)

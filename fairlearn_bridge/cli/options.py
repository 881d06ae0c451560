"""The options that several commands have, and the configuration that they make."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from captum_region.cli import options as opt
from captum_region.cli.options import attributes, list_of
from fairlearn_bridge.catalogue import FAST_OTHERS, OTHERS, SLOW_OTHERS
from fairlearn_bridge.schemes import SCHEMES, WITHIN

if TYPE_CHECKING:
    from fairlearn_bridge.experiment import ExperimentConfig

Target = Annotated[str, attributes("Binary attribute to classify, or attribute=value.")]
TrainSize = Annotated[
    int | None, typer.Option(help="Training images; by default what the data allow, up to 6000. Faces: 2400.")
]
TestPerCell = Annotated[
    int | None, typer.Option(help="Test images per cell; by default what the data allow, up to 182.")
]
Quantile = Annotated[
    float,
    typer.Option(
        help="Pixels above this quantile of a map change: 0.7 changes 30 %, specific transplants more: the donor's too."
    ),
]


def _of_training(
    schemes: Annotated[
        str,
        typer.Option(
            help="Comma-separated: general_ or specific_, followed by mask, noise or transplant. A scheme may end in "
            "@predict (general mask or noise: perturb in prediction too), @elsewhere or @random (controls that change "
            "as many other pixels; both are added for the first scheme) or @auto (choose the quantile on held-out "
            "training images, in 7 more trainings). auto alone chooses the scheme too. Any may end in + and one of "
            f"{', '.join(WITHIN)}, which is then trained with the perturbation: specific_transplant+group_dro.",
            autocompletion=list_of((*SCHEMES, "auto")),
        ),
    ] = "",
    others: Annotated[
        str,
        typer.Option(
            help=f"Mitigators to compare with: fast (all but {', '.join(SLOW_OTHERS)}, which trains dozens of "
            f"classifiers), all, none, or comma-separated of {', '.join(OTHERS)}.",
            autocompletion=list_of((*OTHERS, "fast", "all", "none")),
        ),
    ] = "fast",
    noise_std: Annotated[float, typer.Option(help="Standard deviation of the noise, for images in [0, 1].")] = 0.5,
    epochs: Annotated[int, typer.Option(help="Epochs of the target classifiers.")] = 10,
    batch_size: Annotated[int, typer.Option(help="Batch size of the target classifiers.")] = 128,
    lr: Annotated[float, typer.Option(help="Learning rate of the target classifiers.")] = 1e-3,
    backbone: Annotated[
        str | None,
        typer.Option(
            help="Network of the target classifiers: a classifier of torchvision, such as resnet18, or "
            "efficientnet-lite0 with the weights of the extra stacks. By default the paper's small CNN."
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            help="The backbone's weights: a safetensors file, or a state dict saved by torch. By default random."
        ),
    ] = None,
    freeze: Annotated[bool, typer.Option("--freeze", help="Train the backbone's last layer alone.")] = False,
    region_epochs: Annotated[
        int | None, typer.Option(help="Epochs of the region classifier; by default as in its recipe.")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Trainings of each mitigator, with seeds --seed, --seed + 1, ...")] = 1,
    seed: opt.Seed = 0,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Parallel trainings; by default as many as processors (1 on a GPU).")
    ] = None,
    device: opt.Device = "cpu",
    force: opt.Force = False,
    as_json: opt.AsJson = False,
    quiet: opt.Quiet = False,
    debug: opt.Debug = False,
) -> None:
    """Name the options that every command that trains mitigators has."""


def sharing(
    shared: Callable[..., None], *without: str, **defaults: Any
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of `shared` after its own, with some other defaults; it reads `ctx.params`."""

    def add(command: Callable[..., None]) -> Callable[..., None]:
        own, others = (inspect.signature(each, eval_str=True).parameters.values() for each in (command, shared))
        options = [option for option in own if option.kind is not option.VAR_KEYWORD]
        options += [
            option.replace(default=defaults.get(option.name, option.default))
            for option in others
            if option.name not in without
        ]
        command.__annotations__ = {option.name: option.annotation for option in options}
        every = [option.replace(kind=option.KEYWORD_ONLY) for option in options]
        vars(command)["__signature__"] = inspect.Signature(every)  # what typer makes the command of
        return command

    return add


def trains(*without: str, **defaults: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of `_of_training`, but those that are named."""
    return sharing(_of_training, *without, **defaults)


def configuration(options: Mapping[str, Any], **fixed: Any) -> ExperimentConfig:
    """Return the configuration that a command's options make."""
    from fairlearn_bridge.experiment import ExperimentConfig

    schemes = tuple(options["schemes"].split(","))
    return ExperimentConfig(**settings_of(ExperimentConfig, options) | {"schemes": schemes} | fixed)


def settings_of(config: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a class of configurations that a command's options give."""
    import joblib

    given = {field.name: options[field.name] for field in fields(config) if field.name in options}
    sets = {"fast": FAST_OTHERS, "all": tuple(OTHERS), "none": ()}
    others = options["others"]
    return given | {
        "others": sets[others] if others in sets else tuple(others.split(",")),
        "weights": None if options["weights"] is None else str(options["weights"]),
        "random_state": options["seed"],
        "n_jobs": options["jobs"] or (joblib.cpu_count() if options["device"] == "cpu" else 1),
    }

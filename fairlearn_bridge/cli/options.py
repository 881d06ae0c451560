"""The options that several commands have, and the configuration that they make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any

import typer

from captum_region.cli import completion
from fairlearn_bridge.catalogue import FAST_OTHERS, OTHERS, SLOW_OTHERS
from fairlearn_bridge.schemes import SCHEMES

if TYPE_CHECKING:
    from fairlearn_bridge.experiment import ExperimentConfig

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
Jobs = Annotated[
    int | None, typer.Option(help="Trainings side by side; as many as processors by default (1 on a GPU).")
]


def _names(others: str) -> tuple[str, ...]:
    sets = {"fast": FAST_OTHERS, "all": tuple(OTHERS), "none": ()}
    return sets[others] if others in sets else tuple(others.split(","))


def configuration(options: Mapping[str, Any], **fixed: Any) -> ExperimentConfig:
    """Return the configuration that a command's options make, those of the same name as they are."""
    import joblib

    from fairlearn_bridge.experiment import ExperimentConfig

    given = {field.name: options[field.name] for field in fields(ExperimentConfig) if field.name in options}
    given |= {"schemes": tuple(options["schemes"].split(",")), "others": _names(options["others"])}
    jobs = options["jobs"] or (joblib.cpu_count() if options["device"] == "cpu" else 1)
    return ExperimentConfig(**given | {"random_state": options["seed"], "n_jobs": jobs} | fixed)

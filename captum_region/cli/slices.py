"""captum-region slices."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from captum_region.cli import options as opt
from captum_region.cli.running import check_out, console, errors_in_one_line
from captum_region.io.files import CHECKPOINTS, check_place, locked, remove_pictures, remove_states

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import nn

    from captum_region.stacks import Stack

_PARTS = ("train", "validation", "test")
# The arms by default: the first two say something of colours, which random weights do not know.
_PRETRAINED = ("pretrained", "swapped", "random", "uniform", "reflect")
_RANDOM = ("random", "uniform", "reflect", "uniform tied")
# Options that do nothing where a checkpoint is inspected.
_ONLY_COMPARED = (
    *("arm", "weights", "check", "train", "validation", "gap", "seeds", "steps", "evaluate_every", "patience"),
    *("batch_size", "patch_size", "lr", "jobs", "mixed_precision"),
)
# What a comparison writes and an inspection does not, beside plots.
_COMPARISON = ("report.html", "runs.csv", "summary.csv", "scores.csv", "history.csv")
# What a synthetic stack is like, and how long it takes to learn.
_SYNTHETIC: dict[str, Any] = {"slices": 30, "size": 32}
_STEPS, _SYNTHETIC_STEPS = 4000, 200


def _range(text: str) -> Any:
    help_text = f"{text}, as START:END, slices from 0 on, END not included; by default by --gap and 60, 20, 20 %."
    return typer.Option(help=help_text, metavar="START:END")


def slices(
    ctx: typer.Context,
    out: opt.Out,
    stack: Annotated[
        list[Path] | None,
        typer.Option(help="Slices: a folder of images, a multi-page TIFF or a .npy file; may be repeated."),
    ] = None,
    labels: Annotated[list[Path] | None, typer.Option(help="Labels of a --stack, in the same order.")] = None,
    label_value: Annotated[
        int | None, typer.Option(help="The value in --labels that is class 1, all others are class 0; 0 for ISBI.")
    ] = None,
    synthetic: Annotated[
        str | None,
        opt.choice(
            "Without --stack: the slice that decides the labels of a synthetic one: previous (default), centre, next "
            "or all.",
            *("previous", "centre", "next", "all"),
        ),
    ] = None,
    train: Annotated[str | None, _range("Slices to train on")] = None,
    validation: Annotated[str | None, _range("Slices that end the training")] = None,
    test: Annotated[str | None, _range("Slices to measure on")] = None,
    gap: Annotated[int, typer.Option(min=0, help="Slices left out between the parts.")] = 1,
    window: Annotated[int, typer.Option(help="Slices in a window, odd.")] = 3,
    architecture: Annotated[
        str,
        typer.Option(help="small_unet, or of segmentation-models-pytorch: unet, fpn ...; auto is what is installed."),
    ] = "auto",
    encoder: Annotated[
        str | None, typer.Option(help="Of segmentation-models-pytorch; tf_efficientnet_lite0 by default.")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="Pretrained weights: efficientnet-lite0, imagenet, or a file; random without.")
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(help="Inspect this checkpoint of --architecture and --encoder instead of training."),
    ] = None,
    arm: Annotated[
        list[str] | None,
        typer.Option(help="First layer to compare, the first with the others; see below. May be repeated."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each arm, with seeds --seed, --seed + 1 ...")] = 3,
    steps: Annotated[
        int | None,
        typer.Option(min=1, help=f"Most steps; {_STEPS} by default, {_SYNTHETIC_STEPS} for a synthetic stack."),
    ] = None,
    evaluate_every: Annotated[
        int, typer.Option(min=1, help="Steps between evaluations on the validation slices.")
    ] = 100,
    patience: Annotated[int, typer.Option(min=1, help="Evaluations without a better Dice that end a training.")] = 8,
    batch_size: Annotated[int, typer.Option(min=1, help="Patches in a step.")] = 8,
    patch_size: Annotated[int, typer.Option(min=1, help="Side of the patches; at most that of the slices.")] = 128,
    lr: Annotated[float, typer.Option(help="Learning rate of AdamW.")] = 1e-3,
    class_index: Annotated[int, typer.Option(min=0, help="The class whose attribution is taken.")] = 1,
    jobs: Annotated[int, typer.Option(min=1, help="Trainings at a time.")] = 1,
    seed: opt.Seed = 0,
    device: opt.Device = "cpu",
    mixed_precision: opt.MixedPrecision = "no",
    check: Annotated[
        bool, typer.Option("--check", help="Read the data, make the networks, print what would be run, and stop.")
    ] = False,
    force: opt.Force = False,
    as_json: opt.AsJson = False,
    quiet: opt.Quiet = False,
    debug: opt.Debug = False,
) -> None:
    """Find whether a network for stacks leans to one slice, why, and what takes that away, by its first layer.

    Arms: pretrained, swapped (R and B, the control), random, uniform, reflect, green, luma, flipped (stacks reversed at
    random in training), uniform tied, reflect tied, unchanged. --out gets report.html, slices.json, tables as CSV and
    plots. If the command was stopped, run it again with --force: it resumes. With --model, --out gets the inspection of
    a checkpoint.

    Example: captum-region slices --stack image --labels label --weights efficientnet-lite0 --out slices
    """
    states = out / CHECKPOINTS
    with errors_in_one_line(debug, resumes=states):
        check_out(out, force)
        data = Data.of(ctx.params)
        details: dict[str, Any] = {**data.described(), "architecture": architecture, "encoder": encoder}
        if model is not None:
            _check_inspection(ctx)
            found = _inspected(data, ctx.params)
            with locked(out):
                if (out / "slices.json").exists():  # of another run, where --force writes over it
                    for name in _COMPARISON:
                        (out / name).unlink(missing_ok=True)
                    remove_pictures(out / "plots")
                text = found.write(out, **details, model=str(model))
        else:
            settings = _settings(data, ctx.params)
            if check:
                plan = _plan(settings, data)
                typer.echo(
                    json.dumps(plan, indent=1) if as_json else "\n".join(f"{of}: {what}" for of, what in plan.items())
                )
                return
            with locked(out):
                check_place(out, ("slices.json", *_COMPARISON), ("plots",))
                compared = _compared(settings, states)
                if (out / "slices.json").exists():
                    (out / "inspection.csv").unlink(missing_ok=True)
                text = compared.write(out, **details, weights=weights)
                remove_states(states)
            found = compared
        if as_json:
            typer.echo(text, nl=False)
            return
        console().print(found.rich_table())
        typer.echo("A: asymmetry, from -1 (previous alone) to 1 (next alone); swap: change if they change places")
        if model is None:
            typer.echo(f"{out / 'report.html'} shows the comparison")
        for name, values in found.normalization.items() if model is not None else ():
            typer.echo(f"normalisation differs by channel: {name} = {values}", err=True)


@dataclass(frozen=True)
class Data:
    """The stacks that a command's options name, and how they are split."""

    stacks: list[Stack]
    files: list[dict[str, Any]]
    is_synthetic: bool
    ranges: dict[str, str | None]
    gap: int
    window: int

    @classmethod
    def of(cls, options: dict[str, Any]) -> Data:
        """Read what a command's options name."""
        from captum_region.stacks import make_stack

        paths, labels = options["stack"] or [], options["labels"] or []
        ranges = {part: options[part] for part in _PARTS}
        rest = ranges, options["gap"], options["window"]
        if not paths:
            if labels or options["label_value"] is not None:
                raise ValueError("--labels and --label-value must come with --stack")
            synthetic = options["synthetic"] or "previous"
            made = make_stack(synthetic, **_SYNTHETIC, random_state=options["seed"])
            return cls([made], [{"stack": f"synthetic: {synthetic}", "labels": None}], True, *rest)
        if len(labels) != len(paths) and (labels or options["model"] is None):
            raise ValueError(f"--labels must be given once for each --stack, got {len(labels)} for {len(paths)}")
        if options["label_value"] is not None and not labels:
            raise ValueError("--label-value must come with --labels, whose value it is")
        if options["synthetic"] is not None:
            raise ValueError("--synthetic must be left out with --stack, in whose place it is")
        pairs = list(zip(paths, labels or [None] * len(paths), strict=True))
        stacks = [_read(path, its, options["label_value"]) for path, its in pairs]
        files = [{"stack": str(path), "labels": its and str(its)} for path, its in pairs]
        return cls(_named_apart(stacks, paths), files, False, *rest)

    def described(self) -> dict[str, Any]:
        """Return the files and where they are split, for the results."""
        named = [each["stack"] + (f", {each['labels']}" if each["labels"] else "") for each in self.files]
        return {"files": named, "gap": self.gap}

    def part(self, name: str) -> list[Stack]:
        """Return the slices of all stacks that are of a part."""
        return [stack[self.span(stack, name)] for stack in self.stacks]

    def span(self, stack: Stack, name: str) -> slice:
        """Return which slices of a stack are of a part; ValueError if they overlap with another, or are too few."""
        spans = {}
        usable = len(stack) - 2 * self.gap
        if usable < len(_PARTS) and None in self.ranges.values():
            raise ValueError(
                f"--gap must leave slices for each part: two of {self.gap} take the {len(stack)} of {stack.name}"
            )
        bounds = (0, round(0.6 * usable), round(0.8 * usable), usable)
        for place, part in enumerate(_PARTS):
            shift, given = place * self.gap, self.ranges[part]
            ends = (bounds[place] + shift, bounds[place + 1] + shift) if given is None else _ends(part, given)
            spans[part] = self.checked(stack, part, *ends)
        taken = sorted(spans.items(), key=lambda item: int(item[1].start))
        for (part, before), (other, after) in pairwise(taken):
            if before.stop > after.start:
                raise ValueError(
                    f"--{other} must not share slices with --{part}: "
                    f"{after.start}:{after.stop} and {before.start}:{before.stop}"
                )
        return spans[name]

    def checked(self, stack: Stack, part: str, start: int, end: int) -> slice:
        """Return a part of a stack; ValueError if it has too few slices, or not these."""
        if not 0 <= start < end <= len(stack) or end - start < self.window:
            raise ValueError(
                f"--{part} must hold at least {self.window} of the {len(stack)} slices of {stack.name}, "
                f"got {start}:{end}"
            )
        return slice(start, end)


def _check_inspection(ctx: typer.Context) -> None:
    """Raise ValueError if an option is given that does nothing for a checkpoint."""
    given = [name for name in _ONLY_COMPARED if getattr(ctx.get_parameter_source(name), "name", "") == "COMMANDLINE"]
    if given:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ValueError(f"--model inspects a checkpoint: leave out {options}")


def _ends(part: str, text: str) -> tuple[int, int]:
    start, colon, end = text.partition(":")
    if not (colon and start.isdecimal() and end.isdecimal()):
        raise ValueError(f"--{part} must be START:END, such as 0:18, got {text!r}")
    return int(start), int(end)


def _read(path: Path, labels: Path | None, value: int | None) -> Stack:
    from captum_region.stacks import read_stack, read_volume

    if value is None or labels is None:
        return read_stack(path, labels)
    chosen = read_volume(labels, labels=True) == value
    if not chosen.any():
        raise ValueError(f"--label-value must be a value in {labels}, {value} is not there")
    return read_stack(path, chosen)


def _named_apart(stacks: list[Stack], paths: Sequence[Path]) -> list[Stack]:
    """Return stacks with names of their own: two folders may both be called image."""
    from captum_region.stacks import Stack

    names = [stack.name for stack in stacks]
    if len(set(names)) == len(names):
        return stacks
    return [
        Stack(stack.images, stack.labels, f"{number} {path.parent.name}/{path.name}")
        for number, (stack, path) in enumerate(zip(stacks, paths, strict=True))
    ]


def _network(
    seed: int, architecture: str, encoder: str | None, weights: str | Path | None, channels: int, classes: int
) -> nn.Module:
    from captum_region.segmentation import segmentation_network

    return segmentation_network(
        architecture, encoder, weights=weights, in_channels=channels, classes=classes, random_state=seed
    )


def _maker(
    data: Data, options: dict[str, Any], weights: Any, channels: int, classes: int | None = None
) -> Callable[[int], nn.Module]:
    """Return what makes the network of a seed; as many logits as labels need, where `classes` does not say it."""
    architecture = options["architecture"]
    if architecture == "auto" and data.is_synthetic and not (weights or options["encoder"]):
        architecture = "small_unet"  # the example needs no more
    if classes is None:
        largest = max(2, *(stack.classes for stack in data.stacks))
        classes = 1 if largest == 2 else largest
    rest = {"weights": weights, "channels": channels, "classes": classes}
    return partial(_network, architecture=architecture, encoder=options["encoder"], **rest)


def _settings(data: Data, options: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of `compare_first_layers`."""
    passed = ("window", "evaluate_every", "patience", "batch_size", "class_index", "device", "lr", "mixed_precision")
    steps = options["steps"] or (_SYNTHETIC_STEPS if data.is_synthetic else _STEPS)
    side = min(min(stack.image_size) for stack in data.stacks)
    # Colours are three, and what is pretrained is widened from them.
    channels = 3 if options["weights"] else options["window"]
    return {name: options[name] for name in passed} | {
        **{part: data.part(part) for part in _PARTS},
        "network": _maker(data, options, options["weights"], channels),
        "arms": options["arm"] or (_PRETRAINED if options["weights"] else _RANDOM),
        "seeds": list(range(options["seed"], options["seed"] + options["seeds"])),
        "steps": steps,
        "patch_size": min(options["patch_size"], side),
        "n_jobs": options["jobs"],
        "show_progress": not options["quiet"],
    }


def _plan(settings: dict[str, Any], data: Data) -> dict[str, str]:
    """Return what would be run, after a look at all that can be wrong."""
    from captum_region.first_layer import find_first_layer
    from captum_region.precision import check_mixed_precision
    from captum_region.slices.arms import arms_of, check_arms, network_of
    from captum_region.slices.compare import check_window

    check_window(settings["window"])
    check_mixed_precision(settings["mixed_precision"], None)
    if not settings["lr"] > 0:
        raise ValueError(f"lr must be above 0, got {settings['lr']}")
    classes = max(2, *(stack.classes for stack in data.stacks))
    if settings["class_index"] >= classes:
        raise ValueError(f"class_index must be below {classes}, the number of classes, got {settings['class_index']}")
    arms, seeds = arms_of(settings["arms"]), settings["seeds"]
    check_arms(arms, settings["network"], seeds[0], settings["window"], settings["patch_size"])
    network = network_of(settings["network"], seeds[0])
    name, layer = find_first_layer(network)
    parts = [f"{part} {span.start}:{span.stop}" for part in _PARTS for span in [data.span(data.stacks[0], part)]]
    return {
        **{stack.name: f"{len(stack)} slices of {stack.image_size}, {stack.classes} classes" for stack in data.stacks},
        f"slices of {data.stacks[0].name}": ", ".join(parts),
        "first layer": f"{name}, {layer}",
        "trainings": f"{len(arms) * len(seeds)} of at most {settings['steps']} steps: {', '.join(arms)}; seeds {seeds}",
    }


def _compared(settings: dict[str, Any], states: Path) -> Any:
    """Run the comparison, with its warnings in a line each."""
    from captum_region.slices import compare_first_layers

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        found = compare_first_layers(**settings, checkpoint_dir=states)
    for text in dict.fromkeys(str(warning.message) for warning in caught):
        typer.echo(text, err=True)
    return found


def _are_scored(labels: int, logits: int) -> bool:
    """Return whether labels of so many classes can be those of a network with so many logits."""
    return labels == 2 if logits <= 2 else 2 < labels <= logits


def _inspected(data: Data, options: dict[str, Any]) -> Any:
    """Inspect a checkpoint, on the test slices if they are named, else on all."""
    from captum_region.segmentation.networks import load_into
    from captum_region.segmentation.weights import classes_in, read_weights
    from captum_region.slices import inspect_slices
    from captum_region.stacks import Stack

    path = options["model"]
    if options["architecture"] == "auto":  # as for `segmentation_network` with weights
        options = options | {"architecture": "unet"}
    try:
        kept = read_weights(path)
        network: Any = _maker(data, options, None, options["window"])(options["seed"])
        if (classes := classes_in(network, kept)) not in (None, network.classes):
            network = _maker(data, options, None, options["window"], classes)(options["seed"])
        kind = load_into(network, kept, path, options["encoder"])
    except ValueError as error:
        raise ValueError(str(error).replace("weights must", "--model must", 1)) from error
    if kind == "encoder":
        raise ValueError(f"--model must be a whole network, {path} holds an encoder; compare its layers by --weights")
    stacks = data.stacks
    if options["test"]:
        stacks = [stack[data.checked(stack, "test", *_ends("test", options["test"]))] for stack in stacks]
    labelled = [stack.classes for stack in stacks if stack.labels is not None]
    if labelled and not _are_scored(max(labelled), network.classes):
        typer.echo(f"no Dice: the labels have {max(labelled)} classes, the network {network.classes}", err=True)
        stacks = [Stack(stack.images, None, stack.name) for stack in stacks]
    settings = {name: options[name] for name in ("class_index", "device")}
    return inspect_slices(network, stacks, **settings, show_progress=not options["quiet"])

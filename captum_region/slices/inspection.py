"""inspect_slices: how a trained network treats its slices, and what neutralising its first layer would change."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from captum.attr import Saliency
from rich.table import Table
from torch import nn

from captum_region.evaluation import check_evaluating, device_of
from captum_region.first_layer import channel_normalization, find_first_layer
from captum_region.io.files import records, write_json, write_text
from captum_region.io.provenance import provenance
from captum_region.page import number
from captum_region.progress import progress_bar
from captum_region.segmentation import segmentation_scores
from captum_region.segmentation.scores import mean_dice
from captum_region.slices.arms import Arm
from captum_region.slices.measures import How, Method, attention, stacks_of
from captum_region.stacks import SliceWindows, Stack

AS_IT_IS = "as it is"


@dataclass(frozen=True, eq=False)
class SliceInspection:
    """The result of `inspect_slices`.

    Attributes
    ----------
    table : DataFrame, indexed by ``first_layer``
        "as it is", and each neutraliser: the share of each slice (``share_previous`` ...), ``asymmetry`` (of more
        distant pairs ``asymmetry_2`` ...), ``swap_change``, ``swap_dice`` and ``kernel_asymmetry``; with labels
        ``dice``, the mean over volumes and classes.
    layer : str
        The first convolution.
    normalization : dict of str to tuple of float
        What differs by channel, see `captum_region.first_layer.channel_normalization`.
    """

    table: pd.DataFrame
    layer: str
    normalization: dict[str, tuple[float, ...]]

    def rich_table(self) -> Table:
        """Return the table as a terminal shows it."""
        has_dice = "dice" in self.table
        shown = Table("first layer", "shares", "A", "swap", "A of kernels", *(["Dice"] if has_dice else []))
        for name, row in self.table.to_dict("index").items():
            shown.add_row(
                str(name),
                " ".join(number(value) for key, value in row.items() if str(key).startswith("share_")),
                number(row["asymmetry"], signed=True),
                number(row["swap_change"]),
                number(row["kernel_asymmetry"], signed=True),
                *([number(row["dice"])] if has_dice else []),
            )
        return shown

    def write(self, out: str | os.PathLike[str], **details: Any) -> str:
        """Write slices.json and inspection.csv into a folder, made with its parents; return the text of the former."""
        Path(out).mkdir(parents=True, exist_ok=True)
        rows = self.table.reset_index()
        result = {
            "settings": details,
            **provenance(),
            "layer": self.layer,
            "normalization": {name: list(values) for name, values in self.normalization.items()},
            "inspection": records(rows),
        }
        write_text(Path(out, "inspection.csv"), rows.to_csv(index=False))
        return write_json(Path(out, "slices.json"), result)


def inspect_slices(
    model: nn.Module,
    stacks: Stack | Sequence[Stack],
    *,
    neutralizers: Sequence[str] = ("uniform", "reflect"),
    layer: str | None = None,
    border: str = "drop",
    attribution: Method = Saliency,
    class_index: int = 1,
    batch_size: int = 4,
    device: str | torch.device | None = None,
    show_progress: bool = False,
) -> SliceInspection:
    """Measure how a trained network treats its slices, and what neutralising its first layer would change, untrained.

    Parameters
    ----------
    model : nn.Module
        In eval mode. Its first layer says how many slices a window has.
    stacks : Stack, or a sequence of them
        Held-out slices, with or without labels.
    neutralizers : sequence of str, default=("uniform", "reflect")
        Names of `captum_region.first_layer.neutralize_first_layer`. The layers behind expect the old responses: what a
        network loses here says little of what it would reach if it were trained from there, see `compare_first_layers`.
    layer : str, optional
        The first convolution, see `captum_region.first_layer.find_first_layer`.
    border, attribution, class_index
        As in `compare_first_layers`.
    batch_size : int, default=4
        Windows at a time.
    device : str or torch.device, optional
        Where to compute; by default where the model is. It is not moved: copies are.
    show_progress : bool, default=False
        A progress bar on stderr.

    Returns
    -------
    SliceInspection

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit, the model is in train mode, or its first layer takes an even number of slices.

    See Also
    --------
    compare_first_layers : Trains from several first layers.

    Examples
    --------
    >>> from captum_region.segmentation import segmentation_network
    >>> from captum_region.stacks import make_stack
    >>> model = segmentation_network("small_unet", random_state=0)
    >>> found = inspect_slices(model, make_stack("centre", slices=5, size=32, random_state=0))
    >>> found.table.index.tolist(), round(float(found.table.loc["reflect", "swap_change"]), 6)
    (['as it is', 'uniform', 'reflect'], 0.0)
    """
    name, convolution = find_first_layer(model, layer)
    check_evaluating(model, "model")
    window = convolution.in_channels
    if window < 3 or window % 2 == 0:
        raise ValueError(f"model must take an odd number of slices, at least 3; layer {name!r} takes {window}")
    found = stacks_of(stacks, "stacks")
    windows = [SliceWindows(each, window=window, border=border) for each in found]
    labelled = [each for each in windows if each.stack.labels is not None]
    if AS_IT_IS in neutralizers or isinstance(neutralizers, str):
        raise ValueError(f"neutralizers must be names of neutralize_first_layer, got {neutralizers!r}")

    def changed_by(step: str) -> nn.Module:
        return Arm("", {"how": "none" if step == AS_IT_IS else step, "layer": name}).applied(model, window, 0)

    for each in neutralizers:
        changed_by(each)  # or a wrong name would be found after the others were measured
    how, rows = How(attribution, class_index, batch_size=batch_size), {}
    steps: list[Any] = [AS_IT_IS, *neutralizers]
    for step in progress_bar(steps, desc="first layers", unit="layer", disable=not show_progress):
        changed = changed_by(step).to(device_of(model) if device is None else device)
        rows[step] = attention(changed, windows, how, layer=name)
        if labelled:
            rows[step]["dice"] = mean_dice(segmentation_scores(changed, labelled, batch_size=batch_size))
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("first_layer")
    return SliceInspection(table, name, channel_normalization(model))

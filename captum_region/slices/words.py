"""What a comparison of first layers found, in sentences."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from captum_region.page import listed, number
from captum_region.slices.arms import ARMS

if TYPE_CHECKING:
    from captum_region.slices.results import FirstLayerComparison

# Below it, slices are said to count alike.
SMALL = 0.05


def headline(found: FirstLayerComparison) -> str:
    """Return the answer: to which slice the first arm leans after training, and what the other arms do about it."""
    table: Any = found.table()
    first = found.reference
    pair = _leading_pair(found)
    own = _asymmetry(found, first, pair)
    seeds = f"{found.seeds} seeds" if found.seeds > 1 else "one seed"
    lean = f"Trained from the first layer “{first}”, the network {leaning(own, pair)} ({seeds})."
    size = {arm: _size(found, arm) for arm in found.arms}
    if abs(own) < SMALL <= size[first]:
        lean = (
            f"Trained from the first layer “{first}”, each network leans to a side, not all to the same: an asymmetry "
            f"of {number(size[first])} on average without its sign ({seeds})."
        )
    neutral = [str(arm) for arm in found.arms if arm != first and size[arm] < SMALL]
    if not math.isfinite(own) or size[first] < SMALL or not neutral:
        return lean
    best = max(neutral, key=lambda arm: float(table.loc[arm, "dice"]))
    dice = f"a Dice of {number(table.loc[best, 'dice'])} against {number(table.loc[first, 'dice'])}"
    if len(neutral) == 1:
        return f"{lean} With {best} both sides count alike, at {dice}."
    return f"{lean} {listed(neutral)} make both sides count alike; the best of these, {best}, has {dice}."


def _pairs(found: FirstLayerComparison, arm: str) -> Any:
    """Return a row for each pair of slices as far from the centre, by distance, of a trained arm.

    ``asymmetry`` is the mean over seeds, ``size`` that of its absolute value: with first layers drawn at random,
    networks lean to either side, which has no mean. ``part`` is the pair's part of what the sides hold.
    """
    runs: Any = found.runs[found.runs["arm"] == arm]
    asymmetries = [name for name in runs if str(name).startswith("asymmetry") and str(name).endswith("_after")]
    shares = [name for name in runs if str(name).startswith("share_") and str(name).endswith("_after")]
    middle, mean = len(shares) // 2, runs[shares].mean().to_numpy()
    held = np.array([mean[middle - pair] + mean[middle + pair] for pair in range(1, middle + 1)])
    columns = {"asymmetry": runs[asymmetries].mean(), "size": runs[asymmetries].abs().mean()}
    table = pd.DataFrame(columns).set_index(pd.RangeIndex(1, middle + 1))
    return table.assign(part=held / held.sum() if held.sum() else 0.0)


def _leading_pair(found: FirstLayerComparison) -> int:
    """Return the distance from the centre of the two slices between which the first arm tells most."""
    pairs = _pairs(found, found.reference)
    return int((pairs["size"] * pairs["part"]).fillna(-1).idxmax())


def _asymmetry(found: FirstLayerComparison, arm: str, pair: int) -> float:
    return float(_pairs(found, arm).loc[pair, "asymmetry"])


def _size(found: FirstLayerComparison, arm: str) -> float:
    """Return how much a trained arm leans without the sign, at the pair where it counts most."""
    pairs = _pairs(found, arm)
    return float((pairs["size"] * pairs["part"]).max())


def leaning(asymmetry: float, pair: int = 1) -> str:
    """Return in words what an asymmetry says, of two slices as far from the centre.

    Examples
    --------
    >>> leaning(-0.3)
    'attends to the previous slice more than to the next: asymmetry −0.300'
    >>> leaning(-0.3, 2)
    'attends to the slice 2 before the centre more than to the one 2 after it: asymmetry −0.300'
    >>> leaning(0.01)
    'attends to both sides of the centre alike: asymmetry +0.010'
    """
    if not math.isfinite(asymmetry):
        return "attends so little to the slices beside the centre that their asymmetry is undefined"
    value = number(asymmetry, signed=True)
    if abs(asymmetry) < SMALL:
        return f"attends to both sides of the centre alike: asymmetry {value}"
    if pair > 1:
        more, less = ("after", "before") if asymmetry > 0 else ("before", "after")
        return f"attends to the slice {pair} {more} the centre more than to the one {pair} {less} it: asymmetry {value}"
    more, less = ("next", "previous") if asymmetry > 0 else ("previous", "next")
    return f"attends to the {more} slice more than to the {less}: asymmetry {value}"


def findings(found: FirstLayerComparison) -> list[tuple[str, str]]:
    """Return what is behind the headline: a heading and its sentences each."""
    table: Any = found.table()
    first = found.reference
    pair = _leading_pair(found)
    after = _asymmetry(found, first, pair)
    runs: Any = found.runs[found.runs["arm"] == first]
    before = float(runs["asymmetry_before" if pair == 1 else f"asymmetry_{pair}_before"].mean())
    which = "" if pair == 1 else f", of the slices {pair} from the centre"
    points = [
        (
            "Before and after training",
            f"Asymmetry of {first}{which}: {number(before, signed=True)} before training, "
            f"{number(after, signed=True)} after.",
        )
    ]
    controls = [arm for arm, what in found.arms.items() if what == ARMS["swapped"]]
    if controls and found.arms[first] in (ARMS["pretrained"], ARMS["unchanged"]):
        points.append(("Weights or data?", _cause(after, _asymmetry(found, controls[0], pair))))
    others = [arm for arm in found.arms if arm != first]
    if others:
        points.append(("Accuracy", _accuracy(table, others, found.seeds, first)))
    swaps = [f"{number(value)} for {arm}" for arm, value in table["swap_change_after"].items()]
    points.append(
        (
            "If previous and next change places",
            f"The predicted probabilities change by this much on average: {listed(swaps)}.",
        )
    )
    late = found.unfinished()
    ended = (
        "Every training ended because its validation Dice no longer rose."
        if not late
        else f"Trainings of {listed(late)} ended with their last step, while the validation Dice could still rise: "
        "more steps may change the result."
    )
    return [*points, ("Convergence", ended)]


def _cause(own: float, swapped: float) -> str:
    values = f"{number(own, signed=True)} as given, {number(swapped, signed=True)} with the kernels in reverse order"
    if not (math.isfinite(own) and math.isfinite(swapped)):
        return f"The control cannot tell: {values}."
    if max(abs(own), abs(swapped)) < SMALL:
        return f"There is no asymmetry to explain: {values}."
    turns, stays = (own - swapped) / 2, (own + swapped) / 2
    if abs(stays) < SMALL:
        return f"It turns with the kernels: {values}. So the weights cause it, not the data."
    if abs(turns) < SMALL:
        return f"It stays although the kernels are in reverse order: {values}. So the data or the training cause it."
    larger = "the weights" if abs(turns) > abs(stays) else "the data or the training"
    most = "both cause it" if abs(abs(turns) - abs(stays)) < SMALL else f"{larger} cause most of it"
    return (
        f"With the kernels {number(turns, signed=True)} turns, {number(stays, signed=True)} stays: {values}. So {most}."
    )


def _accuracy(table: Any, others: list[str], seeds: int, first: str) -> str:
    parts = []
    for arm in others:
        row = table.loc[arm]
        interval = f" [{number(row['low'], signed=True)}, {number(row['high'], signed=True)}]" if seeds > 1 else ""
        parts.append(f"{arm} {number(row['difference'], signed=True)}{interval}")
    kind = " (95 % intervals over seeds)" if seeds > 1 else " (one seed: no intervals)"
    return f"Difference of Dice to {first}, paired by seed{kind}: {', '.join(parts)}."

"""Pictures of a comparison of first layers: asymmetry and Dice by arm, and the saliency of each slice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from captum_region.channels.shares import channel_names
from captum_region.page import Picture, number
from captum_region.plotting import COLORMAP, LINE_COLORS, add_legend, add_row_title, drawn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from captum_region.slices.results import FirstLayerComparison

_BEFORE, _AFTER = "#8a8a8a", LINE_COLORS[0]


def pictures(found: FirstLayerComparison) -> Iterator[Picture]:
    """Yield the figures of a comparison."""
    table = found.table()
    seeds = "each seed is a dot, the bar their mean" if found.seeds > 1 else "one seed"
    values = [f"{arm} {number(row['asymmetry_after'], signed=True)}" for arm, row in table.to_dict("index").items()]
    yield Picture(
        "asymmetry",
        plot_asymmetry(found),
        f"Dot plot of the asymmetry by arm, before and after training. After training: {', '.join(values)}.",
        f"Asymmetry of the slices next to the centre: -1 if only the previous one counts, 1 if only the next; {seeds}. "
        "It is undefined, and not drawn, where both hold less than 5 % of the attribution.",
    )
    values = [f"{arm} {number(row['dice'])}" for arm, row in table.to_dict("index").items()]
    yield Picture(
        "dice",
        plot_dice(found),
        f"Dot plot of Dice by arm: {', '.join(values)}.",
        f"Dice on the test slices; {seeds}.",
    )
    yield Picture(
        "saliency",
        plot_slices(found),
        f"A window of the test slices in columns, and, a row for each arm, the attribution of each slice: "
        f"{', '.join(found.examples)}.",
        "The middle of one test window: its slices and the label, and under them, for the first seed of each arm, the "
        f"absolute attribution ({found.settings['attribution']}) of each slice, with its share in the picture, and the "
        "prediction (white), with the outline of the label. All maps have one colour scale; "
        "they are black where an arm predicts the class nowhere.",
    )


def plot_asymmetry(found: FirstLayerComparison) -> Figure:
    """Draw the asymmetry of each arm before and after training, each seed a dot."""

    def draw(axes: list[Axes]) -> None:
        (ax,) = axes
        ax.axvline(0, color="#767676", linestyle="--", linewidth=1)
        for shift, stage, color in ((-0.16, "before", _BEFORE), (0.16, "after", _AFTER)):
            _dots(ax, found, f"asymmetry_{stage}", shift, color, f"{stage} training")
        largest = max(0.2, *(abs(x) for x in ax.get_xlim()))
        ax.set_xlim(-min(1.05, largest), min(1.05, largest))
        ax.set_xlabel("asymmetry: previous (-) or next (+) counts more")
        add_legend(ax, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)

    return drawn((6.2, 1.1 + 0.42 * len(found.arms)), draw)


def plot_dice(found: FirstLayerComparison) -> Figure:
    """Draw the Dice of each arm, each seed a dot."""

    def draw(axes: list[Axes]) -> None:
        (ax,) = axes
        reference = found.runs.loc[found.runs["arm"] == found.reference, "dice"].mean()
        ax.axvline(reference, color="#767676", linestyle="--", linewidth=1, label=f"mean of {found.reference}")
        _dots(ax, found, "dice", 0, _AFTER, "")
        ax.set_xlabel("Dice on the test slices")
        add_legend(ax, loc="lower center", bbox_to_anchor=(0.5, 1))

    return drawn((6.2, 1.1 + 0.34 * len(found.arms)), draw)


def _dots(ax: Axes, found: FirstLayerComparison, measure: str, shift: float, color: str, label: str) -> None:
    """Draw a dot for each seed, and a bar at their mean, in a row for each arm."""
    for row, arm in enumerate(found.arms):
        values = found.runs.loc[found.runs["arm"] == arm, measure].dropna().to_numpy()
        if not len(values):
            continue
        y = row + shift
        ax.plot(values, np.full(len(values), y), "o", color=color, markersize=5, alpha=0.75, markeredgewidth=0)
        ax.plot([values.mean()] * 2, [y - 0.14, y + 0.14], color=color, linewidth=2)
    if label:
        ax.plot([], [], "o", color=color, markersize=5, label=label)
    ax.set_yticks(range(len(found.arms)), [*found.arms])
    ax.set_ylim(len(found.arms) - 0.5, -0.5)
    ax.grid(visible=False, axis="y")


def plot_slices(found: FirstLayerComparison) -> Figure:
    """Draw one window: its slices and label, and for each arm the attribution of each slice and the prediction."""
    from matplotlib.patheffects import withStroke

    examples = found.examples
    first = next(iter(examples.values()))
    names = channel_names(len(first.images))
    # A few pixels of an edge would make all else dark.
    top = max(float(np.quantile(each.saliency, 0.995)) for each in examples.values()) or 1.0
    rows, columns = 1 + len(examples), len(names) + 1

    def draw(axes: list[Axes]) -> None:
        grid = np.array(axes).reshape(rows, columns)
        for ax in grid.flat:
            ax.set_axis_off()
        for ax, name, image in zip(grid[0], names, first.images, strict=False):
            ax.imshow(image, cmap="gray", vmin=0, vmax=1)
            ax.set_title(name, loc="center")
        grid[0, -1].imshow(first.label, cmap="gray", vmin=0, vmax=1)
        grid[0, -1].set_title("label, prediction", loc="center")
        add_row_title(grid[0, 0], "window")
        for line, (arm, each) in zip(grid[1:], examples.items(), strict=True):
            add_row_title(line[0], arm.replace(" ", "\n"))
            means = each.saliency.mean((1, 2), dtype=float)
            for ax, values, mean in zip(line, each.saliency, means, strict=False):
                scale: Any = ax.imshow(values, vmin=0, vmax=top, cmap=COLORMAP)
                if means.sum():
                    style: Any = {"color": "white", "fontsize": 8, "ha": "right", "va": "bottom"}
                    text = ax.text(0.97, 0.03, f"{mean / means.sum():.0%}", transform=ax.transAxes, **style)
                    text.set_path_effects([withStroke(linewidth=2, foreground="black")])  # bright pixels lie below
            line[-1].imshow(each.prediction, cmap="gray", vmin=0, vmax=1)
            if each.label.any() and not each.label.all():
                line[-1].contour(each.label, levels=[0.5], colors=LINE_COLORS[1], linewidths=0.7)
        label = "absolute attribution"
        bar = (
            grid[0, 0]
            .get_figure()
            .colorbar(scale, ax=[*grid.flat], location="bottom", fraction=0.02, pad=0.01, aspect=60, label=label)
        )
        bar.formatter.set_powerlimits((-2, 3))

    return drawn((1.5 * columns + 0.9, 1.5 * rows + 0.6), draw, nrows=rows, ncols=columns)

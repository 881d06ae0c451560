"""The figures of the report: each takes tables or arrays and returns a matplotlib Figure."""

import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from captum_region.plotting import COLORMAP, LINE_COLORS, STYLE, literal, plot_region_map, scale_top, show_image
from fairlearn_bridge import metrics
from fairlearn_bridge.plotting import Interval, intervals, name_rows, plot_dot

GROUP_COLORS = ("#0072b2", "#b25000")
WIDTH = 5.4  # inches: two figures fit next to each other on a screen, and one can still be read on a phone


def sheet(height: float, draw: Callable[[Any], object], *, columns: int = 0, **grid: Any) -> Figure:
    """Return a figure of the page.

    Parameters
    ----------
    height : float
        In inches.
    draw : callable
        Gets the axes, or an array of them.
    columns : int, default=0
        Of the legend over the figure; none if 0.
    **grid
        See `Figure.subplots`.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        draw(figure.subplots(**grid))
        if columns:
            figure.legend(loc="outside upper left", ncols=columns)
    return figure


def dot_plot(
    series: Mapping[str, Mapping[str, Interval]],
    names: Iterable[str],
    label: str,
    markers: Sequence[Mapping[str, Any]] | None = None,
) -> Figure:
    """Draw several values of each mitigator, with their intervals.

    Parameters
    ----------
    series : mapping of text to values by mitigator
        The text is for the legend.
    names : iterable of str
        The mitigators from top to bottom.
    label : str
        Of the axis.
    markers : sequence of mapping, optional
        See `plot_dot`; one a series. By default each has a colour and a shape of its own, as far as they go.
    """
    rows = list(names)
    if markers is None:
        markers = [{"color": color, "marker": marker} for color, marker in zip(LINE_COLORS, "os^Dv<>P", strict=True)]

    def draw(ax: Axes) -> None:
        name_rows(ax, rows)
        offsets = (np.arange(len(series)) - (len(series) - 1) / 2) * 0.8 / len(series)
        for (text, values), offset, marker in zip(series.items(), offsets.tolist(), markers, strict=False):
            for y, name in enumerate(rows):
                if name in values:
                    plot_dot(ax, values[name], y + offset, label=text, **marker)
        ax.set_xlabel(label)

    return sheet((0.16 * len(series) + 0.1) * len(rows) + 1.0, draw, columns=2)


def accuracy_by_group(table: pd.DataFrame, group_names: Mapping[str, str]) -> Figure:
    """Draw each mitigator's accuracy in each group, with its interval.

    Parameters
    ----------
    table : DataFrame
        As `compare_mitigators` gives it; the measures ``accuracy[g]`` are drawn.
    group_names : mapping of group, as text, to its name

    Raises
    ------
    ValueError
        If the table does not have such a measure.
    """
    series = {name: intervals(table, f"accuracy[{group}]") for group, name in group_names.items()}
    markers = [{"color": color, "marker": marker} for color, marker in zip(GROUP_COLORS, "os", strict=True)]
    return dot_plot(series, table.index, "accuracy", markers)


def accuracy_by_cell(
    cells: pd.DataFrame, names: Iterable[str], group_names: Mapping[str, str], confounder_names: Mapping[str, str]
) -> Figure:
    """Draw each mitigator's accuracy in each cell: a group has a colour, a value of the spurious attribute a fill.

    Parameters
    ----------
    cells : DataFrame
        Columns ``mitigator``, ``group``, ``confounder``, ``accuracy``, ``low``, ``high``.
    names : iterable of str
        The mitigators from top to bottom.
    group_names, confounder_names : mapping of value, as text, to its name
    """
    series: dict[str, dict[str, Interval]] = {}
    markers = []
    for color, (group, group_name) in zip(GROUP_COLORS, group_names.items(), strict=False):
        for filled, (value, name) in enumerate(confounder_names.items()):
            of_cell = cells[(cells["group"].astype(str) == group) & (cells["confounder"].astype(str) == value)]
            values = of_cell.set_index("mitigator")[["accuracy", "low", "high"]]
            series[f"{group_name}, {name}"] = {str(row[0]): Interval(*row[1:]) for row in values.itertuples()}
            markers.append({"color": color, "marker": "o", "markerfacecolor": color if filled else "white"})
    return dot_plot(series, names, "accuracy", markers)


def accuracy_by_quantile(table: pd.DataFrame, group_names: Mapping[str, str]) -> Figure:
    """Draw how accuracy changes with the quantile, a panel a scheme; dotted lines are the ERM baseline's.

    Parameters
    ----------
    table : DataFrame
        Columns ``mitigator``, ``scheme``, ``quantile``, ``measure``, ``mean``, ``low``, ``high``.
    group_names : mapping of group, as text, to its name

    Raises
    ------
    ValueError
        If the table has no scheme at a quantile.

    References
    ----------
    De Coninck et al. 2024, Figure 8; here with the worst-group accuracy too.
    """
    schemes = list(table.dropna(subset=["scheme", "quantile"])["scheme"].unique())
    if not schemes:
        raise ValueError("table must hold a scheme at a quantile, got none")
    labels = {"accuracy": "all", **{f"accuracy[{group}]": name for group, name in group_names.items()}}
    labels["worst_cell"] = metrics.label("worst_cell", {})
    baseline = table[table["mitigator"] == "original"].set_index("measure")["mean"]
    with rc_context(STYLE):
        rows, columns = math.ceil(len(schemes) / 2), min(len(schemes), 2)
        figure = Figure(figsize=(1.6 * WIDTH, 2.6 * rows + 0.6), layout="constrained")
        axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
        for ax, scheme in zip(axes, schemes, strict=False):
            of_scheme = table[table["scheme"] == scheme].sort_values("quantile").set_index("measure")
            for color, (name, text) in zip(LINE_COLORS, labels.items(), strict=False):
                x, mean, low, high = of_scheme.loc[[name], ["quantile", "mean", "low", "high"]].to_numpy(float).T
                ax.plot(x, mean, "o-", color=color, markersize=3.5, label=literal(text) if ax is axes[0] else None)
                ax.fill_between(x, low, high, color=color, alpha=0.12, linewidth=0)
                ax.axhline(baseline[name], color=color, linestyle=":", linewidth=1)
            ax.set_title(literal(scheme))
            ax.set_xticks(x)
            ax.xaxis.set_tick_params(labelbottom=True)
        for ax in axes[len(schemes) :]:
            ax.set_visible(False)
        figure.supxlabel("quantile: the pixels above it change", fontsize="medium")
        figure.supylabel("accuracy", fontsize="medium")
        figure.legend(loc="outside upper left", ncols=len(labels))
    return figure


def map_figure(
    mean_image: ArrayLike,
    pixel_map: ArrayLike,
    *,
    truth: ArrayLike | None = None,
    region_accuracy: ArrayLike | None = None,
    chance: float = 0.5,
) -> Figure:
    """Draw where the region classifier is confident, and what there is to compare it with.

    Parameters
    ----------
    mean_image : array-like, shape (height, width, 3) or (3, height, width)
    pixel_map : array-like, shape (height, width)
        The mean map.
    truth : array-like, shape (height, width), optional
        How often the spurious attribute changes each pixel, in [0, 1].
    region_accuracy : array-like, shape (rows, cols), optional
        Balanced accuracy of each region.
    chance : float, default=0.5
        The lower end of its colours.

    Raises
    ------
    ValueError
        If the sizes differ.
    """
    panels: list[tuple[ArrayLike | None, ArrayLike, dict[str, Any]]] = [
        (mean_image, pixel_map, {"vmax": scale_top(pixel_map), "title": "mean map: confidence"})
    ]
    if truth is not None:
        panels.append((mean_image, truth, {"title": "truth: share of images changed here"}))
    if region_accuracy is not None:
        panels.append((None, region_accuracy, {"vmin": chance, "cmap": "viridis", "title": "accuracy by region"}))

    def draw(axes: NDArray[Any]) -> None:
        first, *others = axes.ravel()
        show_image(first, mean_image)
        first.set_title("mean image")
        for ax, (image, values, options) in zip(others, panels, strict=False):
            plot_region_map(image, values, ax=ax, **options)
        for ax in others[len(panels) :]:
            ax.set_axis_off()

    rows = math.ceil((1 + len(panels)) / 2)
    return sheet(2.5 * rows, draw, nrows=rows, ncols=2, squeeze=False)


def scheme_strip(
    images: NDArray[Any], maps: NDArray[Any], schemes: Mapping[str, NDArray[Any]], labels: Sequence[str]
) -> Figure:
    """Draw examples, a row each: the image, its map, and what each scheme makes of it.

    Parameters
    ----------
    images : ndarray, shape (N, C, height, width)
        At least one.
    maps : ndarray, shape (N, height, width)
        All drawn on one scale.
    schemes : mapping of name to ndarray like `images`
    labels : sequence of N str

    Raises
    ------
    ValueError
        If the numbers of images differ.
    """
    top = scale_top(maps)
    # Noise hardly compresses: smoothed as well, it would make the page several times as large.
    style = {**STYLE, "axes.titlelocation": "center", "axes.titlesize": 9, "image.interpolation": "nearest"}
    with rc_context(style):
        figure = Figure(figsize=(1.2 * (2 + len(schemes)) + 1.8, 1.2 * len(images) + 0.5), layout="compressed")
        axes = figure.subplots(len(images), 2 + len(schemes), squeeze=False)
        for (first, second, *others), label, image, pixel_map, *changed in zip(
            axes, labels, images, maps, *schemes.values(), strict=True
        ):
            for ax, picture in zip((first, second, *others), (image, image, *changed), strict=True):
                show_image(ax, picture)
            drawn = second.imshow(pixel_map, vmin=0, vmax=top, cmap=COLORMAP, alpha=0.6)
            lines = "\n".join(textwrap.fill(part, 18) for part in literal(label).split(", "))
            first.text(-0.08, 0.5, lines, transform=first.transAxes, ha="right", va="center")
        for ax, name in zip(axes[0], ["image", "map", *schemes], strict=True):
            ax.set_title(literal(name).replace("_", "\n").replace("@", "\n@"))
        figure.colorbar(drawn, ax=axes, fraction=0.02, pad=0.01, label="confidence")
    return figure

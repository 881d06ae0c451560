"""The figures of the report: each takes tables or arrays and returns a matplotlib Figure."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from captum_region.plotting import (
    COLORMAP,
    LINE_COLORS,
    STYLE,
    literal,
    plot_history,
    plot_region_map,
    plot_reliability,
    scale_top,
    show_image,
)
from fairlearn_bridge import metrics
from fairlearn_bridge.plotting import (
    KIND_COLORS,
    KIND_MARKERS,
    Interval,
    name_rows,
    plot_dot,
    plot_losses,
    plot_measure,
    plot_trade_off,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    import pandas as pd
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike

    from captum_region.calibration import Calibration

GROUP_COLORS = ("#0072b2", "#b25000")
WIDTH = 5.4  # inches: two beside each other on a screen, one on a phone with letters that can still be read


def accuracy_by_group(table: pd.DataFrame, mitigators: pd.DataFrame, group_names: Mapping[str, str]) -> Figure:
    """Draw each mitigator's accuracy in each group, with its interval.

    Parameters
    ----------
    table : DataFrame
        Columns ``mitigator``, ``measure``, ``mean``, ``low``, ``high``; the measures ``accuracy[g]`` are drawn.
    mitigators : DataFrame
        Columns ``name`` and ``kind``; drawn from top to bottom.
    group_names : mapping of group, as text, to its name

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        If the table has no such measure.
    """
    series = {name: intervals(table[table["measure"] == f"accuracy[{group}]"]) for group, name in group_names.items()}
    if not any(series.values()):
        raise ValueError(f"table must hold accuracy[g] of the groups {list(group_names)}, it holds none")
    markers = [{"color": color, "marker": marker} for color, marker in zip(GROUP_COLORS, "os", strict=True)]
    return _dot_plot(series, mitigators, markers, "accuracy")


def accuracy_by_cell(
    cells: pd.DataFrame, mitigators: pd.DataFrame, group_names: Mapping[str, str], confounder_names: Mapping[str, str]
) -> Figure:
    """Draw each mitigator's accuracy in each cell of group and confounder: a group has a colour, a confounder a shape.

    Parameters
    ----------
    cells : DataFrame
        Columns ``mitigator``, ``group``, ``confounder``, ``accuracy``, ``low``, ``high``.
    mitigators, group_names
        See `accuracy_by_group`.
    confounder_names : mapping of value, as text, to its name

    Returns
    -------
    Figure
    """
    series, markers = {}, []
    for color, (group, group_name) in zip(GROUP_COLORS, group_names.items(), strict=False):
        for filled, (value, name) in enumerate(confounder_names.items()):
            of_cell = (cells["group"].astype(str) == group) & (cells["confounder"].astype(str) == value)
            series[f"{group_name}, {name}"] = intervals(cells[of_cell].rename(columns={"accuracy": "mean"}))
            markers.append({"color": color, "marker": "o", "filled": bool(filled)})
    return _dot_plot(series, mitigators, markers, "accuracy")


def measure_dots(table: pd.DataFrame, mitigators: pd.DataFrame, measure: str, label: str) -> Figure:
    """Draw one measure of each mitigator with its interval, and a line at the value of the first.

    Parameters
    ----------
    table, mitigators
        See `accuracy_by_group`.
    measure : str
        As the table calls it.
    label : str
        As the axis calls it.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        If the table does not have the measure.
    """
    kinds = _kinds(mitigators)
    with rc_context(STYLE):
        figure, ax = _axes_of_rows(mitigators, 0.34)
        plot_measure(_by_mitigator(table, mitigators), measure, kinds=kinds, label=label, ax=ax)
        _kind_legend(figure, kinds.values())
    return figure


def runs_dots(runs: Mapping[str, Mapping[str, Interval]], mitigators: pd.DataFrame, label: str) -> Figure:
    """Draw one measure of each mitigator in several runs, a colour a run.

    Parameters
    ----------
    runs : mapping of a run's name to its values by mitigator
        No more than there are colours.
    mitigators : DataFrame
        Columns ``name`` and ``kind``; drawn from top to bottom.
    label : str
        As the axis calls it.

    Returns
    -------
    Figure
    """
    markers = [{"color": color, "marker": "os^Dv<>P"[at]} for at, color in enumerate(LINE_COLORS[: len(runs)])]
    return _dot_plot(runs, mitigators, markers, label)


def accuracy_gap_plane(table: pd.DataFrame, mitigators: pd.DataFrame, front: Sequence[str] = ()) -> Figure:
    """Draw each mitigator as a point: accuracy to the right, the size of the gap upwards; right and down is better.

    Parameters
    ----------
    table, mitigators
        See `accuracy_by_group`; the measures ``accuracy`` and ``gap`` are drawn.
    front : sequence of str, optional
        The mitigators that no other beats (`fairlearn_bridge.comparison.pareto_front`): a line separates what they
        beat from what would beat them.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        If no mitigator has both.
    """
    kinds = _kinds(mitigators)
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 4.1), layout="constrained")
        rows = _by_mitigator(table, mitigators)
        plot_trade_off(rows, front=front, kinds=kinds, ax=figure.subplots())
        # Those without both are not there.
        _kind_legend(figure, [kinds[name] for name in rows[["accuracy", "gap"]].dropna().index])
    return figure


def accuracy_by_quantile(table: pd.DataFrame, group_names: Mapping[str, str]) -> Figure:
    """Draw how accuracy changes with the quantile, a panel a scheme; dotted lines are the original's.

    De Coninck et al. 2024, Figure 8, with the worst cell besides.

    Parameters
    ----------
    table : DataFrame
        Columns ``mitigator``, ``scheme``, ``quantile``, ``measure``, ``mean``, ``low``, ``high``.
    group_names : mapping of group, as text, to its name

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        If the table has no scheme at a quantile.
    """
    schemes = list(table.dropna(subset=["scheme", "quantile"])["scheme"].unique())
    if not schemes:
        raise ValueError("table must hold a scheme at a quantile, it holds none")
    labels = {"accuracy": "all", **{f"accuracy[{group}]": name for group, name in group_names.items()}}
    labels["worst_cell"] = metrics.label("worst_cell", {})
    originals = table[table["mitigator"] == "original"].set_index("measure")["mean"]
    with rc_context(STYLE):
        rows = math.ceil(len(schemes) / 2)
        figure = Figure(figsize=(1.6 * WIDTH, 2.6 * rows + 0.6), layout="constrained")
        axes = figure.subplots(rows, min(len(schemes), 2), sharex=True, sharey=True, squeeze=False)
        for ax, scheme in zip(axes.flat, schemes, strict=False):
            of_scheme = table[table["scheme"] == scheme].sort_values("quantile")
            for color, (name, text) in zip(LINE_COLORS, labels.items(), strict=False):
                line = of_scheme[of_scheme["measure"] == name]
                x, mean, low, high = (line[column].to_numpy(float) for column in ("quantile", "mean", "low", "high"))
                ax.plot(x, mean, "o-", color=color, markersize=3.5, label=literal(text))
                ax.fill_between(x, low, high, color=color, alpha=0.12, linewidth=0)
                ax.axhline(originals[name], color=color, linestyle=":", linewidth=1)
            ax.set_title(literal(scheme))
            ax.set_xticks(x)
            ax.xaxis.set_tick_params(labelbottom=True)
        for ax in list(axes.flat)[len(schemes) :]:
            ax.set_visible(False)
        figure.supxlabel("quantile: the pixels above it change", fontsize="medium")
        figure.supylabel("accuracy", fontsize="medium")
        handles, texts = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, texts, loc="outside upper left", ncols=len(labels))
    return figure


def map_figure(
    mean_image: ArrayLike,
    pixel_map: ArrayLike,
    *,
    truth: ArrayLike | None = None,
    region_accuracy: ArrayLike | None = None,
) -> Figure:
    """Draw where the region classifier is confident, and what there is to compare it with.

    Parameters
    ----------
    mean_image : array-like, shape (height, width, 3) or (3, height, width)
    pixel_map : array-like, shape (height, width)
        The mean map.
    truth : array-like, shape (height, width), optional
        How often the confounder changes each pixel, in [0, 1].
    region_accuracy : array-like, shape (rows, cols), optional
        Balanced accuracy of each region.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        If the sizes do not fit.
    """
    panels: list[tuple[ArrayLike | None, ArrayLike, dict[str, Any]]] = [
        (mean_image, pixel_map, {"vmax": scale_top(pixel_map), "title": "mean map: confidence"})
    ]
    if truth is not None:
        panels.append((mean_image, truth, {"title": "truth: share of images changed here"}))
    if region_accuracy is not None:
        panels.append((None, region_accuracy, {"vmin": 0.5, "cmap": "viridis", "title": "accuracy by region"}))
    with rc_context(STYLE):
        rows = -(-(1 + len(panels)) // 2)
        figure = Figure(figsize=(6.4, 2.9 * rows), layout="constrained")
        axes = figure.subplots(rows, 2, squeeze=False).ravel()
        show_image(axes[0], mean_image)
        axes[0].set_title("mean image")
        for ax, (image, values, options) in zip(axes[1:], panels, strict=False):
            plot_region_map(image, values, ax=ax, **options)
        for ax in axes[1 + len(panels) :]:
            ax.set_axis_off()
    return figure


def scheme_strip(
    images: ArrayLike, maps: ArrayLike, schemes: Mapping[str, ArrayLike], labels: Sequence[str] | None = None
) -> Figure:
    """Draw examples, a row each: the image, its map, and what each scheme makes of it.

    Parameters
    ----------
    images : array-like, shape (N, C, height, width)
    maps : array-like, shape (N, height, width)
        All on one scale.
    schemes : mapping of name to images like `images`
    labels : sequence of str, optional
        One a row.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        If there is no image, or numbers and sizes differ.
    """
    pictures, values = np.asarray(images), np.asarray(maps)
    changed = {name: np.asarray(of_scheme) for name, of_scheme in schemes.items()}
    count = len(pictures) if pictures.ndim == 4 else 0
    if not count or len(values) != count or any(array.shape != pictures.shape for array in changed.values()):
        raise ValueError(
            "images, maps and schemes must hold the same examples, at least one, got shapes "
            f"{[pictures.shape, values.shape, *(array.shape for array in changed.values())]}"
        )
    if labels is not None and len(labels) != count:
        raise ValueError(f"labels must be one an example, {count}, got {len(labels)}")
    top = scale_top(values)
    with rc_context({**STYLE, "axes.titlelocation": "center", "axes.titlesize": 9}):
        figure = Figure(figsize=(1.2 * (2 + len(changed)) + 1.5, 1.2 * count + 0.5), layout="constrained")
        axes = figure.subplots(count, 2 + len(changed), squeeze=False)
        for row, picture in enumerate(pictures):
            show_image(axes[row, 0], picture)
            show_image(axes[row, 1], picture)
            drawn = axes[row, 1].imshow(values[row], vmin=0, vmax=top, cmap=COLORMAP, alpha=0.6)
            for ax, of_scheme in zip(axes[row, 2:], changed.values(), strict=True):
                show_image(ax, of_scheme[row])
            if labels is not None:
                _without_axes(axes[row, 0])
                text = "\n".join(textwrap.fill(part, 18) for part in literal(labels[row]).split(", "))
                axes[row, 0].set_ylabel(text, rotation=0, ha="right", va="center", labelpad=6)
        for ax, name in zip(axes[0], ["image", "map", *changed], strict=True):
            ax.set_title(literal(name).replace("_", "\n").replace("@", "\n@"))
        figure.colorbar(drawn, ax=axes, fraction=0.02, pad=0.01, label="confidence")
    return figure


def classifier_history(history: pd.DataFrame) -> Figure:
    """Draw the loss and, where there is one, the validation accuracy of the region classifier by epoch.

    Parameters
    ----------
    history : DataFrame
        See `captum_region.plotting.plot_history`.

    Returns
    -------
    Figure
    """
    count = 1 + ("valid_accuracy" in history and bool(history["valid_accuracy"].notna().any()))
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 2.9), layout="constrained")
        plot_history(history, axes=figure.subplots(1, count, squeeze=False).ravel())
    return figure


def reliability(calibration: Calibration) -> Figure:
    """Draw accuracy against confidence, and how many patches there are of each confidence.

    Parameters
    ----------
    calibration : Calibration
        See `captum_region.plotting.plot_reliability`.

    Returns
    -------
    Figure
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 4.1), layout="constrained")
        plot_reliability(calibration, axes=figure.subplots(2, 1, height_ratios=(3, 1), sharex=True))
        figure.axes[0].set_xlabel("")
    return figure


def training_losses(trainings: pd.DataFrame, mitigators: pd.DataFrame) -> Figure:
    """Draw the training loss of each mitigator by epoch: the mean over seeds, and each seed faintly.

    Parameters
    ----------
    trainings : DataFrame
        Columns ``mitigator`` and ``losses``, a list by epoch; a row a mitigator and seed.
    mitigators : DataFrame
        Columns ``name`` and ``kind``.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        If no training has losses.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
        plot_losses(trainings, kinds=_kinds(mitigators), legend=False, ax=figure.subplots())
        figure.legend(loc="outside lower center", ncols=2)
    return figure


def intervals(rows: pd.DataFrame) -> dict[str, Interval]:
    """Return the value and interval of each mitigator, from columns ``mitigator``, ``mean``, ``low``, ``high``."""
    columns = (rows[column].to_numpy(float).tolist() for column in ("mean", "low", "high"))
    return {str(name): Interval(*values) for name, *values in zip(rows["mitigator"], *columns, strict=True)}


def _kinds(mitigators: pd.DataFrame) -> dict[str, str]:
    return {str(name): str(kind) for name, kind in zip(mitigators["name"], mitigators["kind"], strict=True)}


def _by_mitigator(table: pd.DataFrame, mitigators: pd.DataFrame) -> pd.DataFrame:
    """Return the table as `compare_mitigators` gives it: a row a mitigator, columns (measure, statistic)."""
    statistics = table.pivot(index="mitigator", columns="measure", values=["mean", "low", "high"])
    return statistics.swaplevel(axis=1).reindex(mitigators["name"])


def _axes_of_rows(mitigators: pd.DataFrame, row_height: float) -> tuple[Figure, Axes]:
    """Return axes with a row a mitigator."""
    figure = Figure(figsize=(WIDTH, row_height * len(mitigators) + 1.0), layout="constrained")
    ax = figure.subplots()
    name_rows(ax, mitigators["name"])
    return figure, ax


def _dot_plot(
    series: Mapping[str, Mapping[str, Interval]],
    mitigators: pd.DataFrame,
    markers: Sequence[Mapping[str, Any]],
    label: str,
) -> Figure:
    with rc_context(STYLE):
        figure, ax = _axes_of_rows(mitigators, 0.16 * len(series) + 0.1)
        offsets = (np.arange(len(series)) - (len(series) - 1) / 2) * 0.8 / len(series)
        handles = []
        for (text, rows), offset, marker in zip(series.items(), offsets, markers, strict=False):
            for y, name in enumerate(mitigators["name"]):
                if name in rows:
                    plot_dot(ax, rows[name], y + float(offset), **marker)
            handles.append(_handle(ax, text, **marker))
        ax.set_xlabel(label)
        figure.legend(handles=handles, loc="outside upper left", ncols=2)
    return figure


def _handle(ax: Axes, text: str, *, color: str, marker: str, filled: bool = True) -> Any:
    face = color if filled else "white"
    (handle,) = ax.plot([], [], marker, color=color, markerfacecolor=face, markersize=5.5, label=literal(text))
    return handle


def _kind_legend(figure: Figure, kinds: Collection[str]) -> None:
    ax = figure.axes[0]
    there = [kind for kind in KIND_COLORS if kind in kinds]
    handles = [_handle(ax, kind, color=KIND_COLORS[kind], marker=KIND_MARKERS[kind]) for kind in there]
    figure.legend(handles=handles, loc="outside upper left", ncols=len(handles))


def _without_axes(ax: Axes) -> None:
    """Hide all of the axes but the label beside: `set_axis_off` would hide that too."""
    ax.set_axis_on()
    ax.set_xticks([])
    ax.set_yticks([])
    ax.grid(visible=False)
    for spine in ax.spines.values():
        spine.set_visible(False)

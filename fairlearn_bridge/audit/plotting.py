"""Plots of audits: bias against rate, drop and PSNR by group, and examples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from captum_region.plotting import (
    LINE_COLORS,
    add_legend,
    add_legend_below,
    add_row_title,
    add_title,
    figure_of,
    flat_axes,
    literal,
    new_axes,
    show_image,
)
from fairlearn_bridge.audit.words import SIGNIFICANT
from fairlearn_bridge.plotting import name_rows

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

MARKERS = "osD^vP"


def plot_audit(
    table: pd.DataFrame, by_group: pd.DataFrame, *, axes: Sequence[Axes] | NDArray[Any] | None = None
) -> Figure:
    """Draw bias, against the rate if there are rates, the drop of each group, and its PSNR.

    Parameters
    ----------
    table, by_group : DataFrame
        From `DegradationAudit.table` and `DegradationAudit.to_frame`.
    axes : sequence of three Axes, optional

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        If there are not three axes.
    """
    size = (12.6, max(3.4, 0.3 * len(table) + 1.2))
    bias, drop, psnr = flat_axes(new_axes(3, size=size) if axes is None else axes, 3, "bias, drop and PSNR")
    if table["bpp"].notna().all():
        _plot_bias_against(bias, table, "bpp", "rate (bits per pixel)")
    else:
        _plot_bias(bias, table)
    plot_groups(drop, by_group, "drop", "drop of accuracy (points)", 100)
    plot_groups(psnr, by_group, "psnr", "PSNR (dB)", 1)
    # The rows are those of the plot to the left.
    for ax in (psnr,) if table["bpp"].notna().all() else (drop, psnr):
        ax.tick_params(axis="y", labelleft=False)
    # Below the plot: points may be anywhere in it.
    add_legend_below(drop, columns=3)
    return figure_of(drop)


def plot_realism(table: pd.DataFrame, *, ax: Axes | None = None) -> Figure:
    """Draw bias against the Frechet distance.

    Parameters
    ----------
    table : DataFrame
        From `DegradationAudit.table`.
    ax : Axes, optional

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        If there are no distances.
    """
    if "frechet" not in table:
        raise ValueError("there is no realism to draw: audit must have embed, and a degradation that changes images")
    (chosen,) = new_axes(1, size=(4.6, 3.6)) if ax is None else (ax,)
    _plot_bias_against(chosen, table.dropna(subset="frechet"), "frechet", "Frechet distance of features")
    return figure_of(chosen)


def _plot_bias_against(ax: Axes, table: pd.DataFrame, column: str, label: str) -> None:
    for number, (name, rows) in enumerate(table.groupby("degradation", sort=False)):
        ordered = rows.sort_values(column)
        color, marker = LINE_COLORS[number % len(LINE_COLORS)], MARKERS[number % len(MARKERS)]
        ax.plot(ordered[column], 100 * ordered["bias"], color=color, linewidth=1.2, alpha=0.6)
        for _, row in ordered.iterrows():
            ax.plot([row[column]] * 2, [100 * row["bias_low"], 100 * row["bias_high"]], color=color, alpha=0.5)
            ax.plot(row[column], 100 * row["bias"], marker, color=color, **_fill(row))
        ax.plot([], [], marker, color=color, label=literal(name))
    ax.set_xlabel(label)
    ax.set_ylabel("bias (points)")
    ax.set_ylim(bottom=0)
    add_legend(ax, loc="best")
    add_title(ax, "filled: corrected p < 0.05")


def _plot_bias(ax: Axes, table: pd.DataFrame) -> None:
    name_rows(ax, table.index)
    for y, (_, row) in enumerate(table.iterrows()):
        ax.plot([100 * row["bias_low"], 100 * row["bias_high"]], [y, y], color=LINE_COLORS[0], alpha=0.5)
        ax.plot(100 * row["bias"], y, "o", color=LINE_COLORS[0], **_fill(row))
    ax.set_xlim(left=0)
    ax.set_xlabel("bias (points)")
    add_title(ax, "filled: corrected p < 0.05")


def plot_spectrum(spectrum: pd.DataFrame, axes: list[Axes]) -> None:
    """Draw the share of the power that each group keeps at each frequency, on axes for each degradation.

    Parameters
    ----------
    spectrum : DataFrame
        From `DegradationAudit.spectrum`.
    axes : list of Axes
        At least one a degradation; more are hidden.
    """
    names, groups = (spectrum.index.unique(level) for level in ("name", "group"))
    for ax in axes[len(names) :]:
        ax.set_axis_off()
    for ax, name in zip(axes, names, strict=False):
        ax.axhline(1, color="#767676", linewidth=0.9)
        for number, group in enumerate(groups):
            kept = spectrum.loc[(name, group)].replace([np.inf, -np.inf], np.nan)
            color = LINE_COLORS[number % len(LINE_COLORS)]
            ax.plot(spectrum.columns, kept, color=color, linewidth=1.4, label=literal(group))
        ax.set_ylim(bottom=0)
        ax.set_xlabel("frequency (cycles)")
        add_title(ax, name)
    axes[0].set_ylabel("power kept")
    add_legend(axes[0], loc="best")


def _fill(row: pd.Series[Any]) -> dict[str, Any]:
    return {} if row["p_holm"] < SIGNIFICANT else {"markerfacecolor": "white"}


def plot_groups(ax: Axes, by_group: pd.DataFrame, measure: str, label: str, scale: float = 1) -> None:
    """Draw a measure of each group in the row of each degradation; what is infinite or missing is left out."""
    names = by_group.index.unique("name")
    name_rows(ax, names)
    groups = by_group.index.unique("group")
    lines = f"{measure}_low" in by_group
    for number, group in enumerate(groups):
        color, marker = LINE_COLORS[number % len(LINE_COLORS)], MARKERS[number % len(MARKERS)]
        rows = by_group.xs(group, level="group").reindex(names)
        y = np.arange(len(names)) + (number - (len(groups) - 1) / 2) * (0.6 / max(1, len(groups) - 1))
        if lines:
            ax.hlines(y, scale * rows[f"{measure}_low"], scale * rows[f"{measure}_high"], color=color, alpha=0.5)
        values = scale * rows[measure].replace([np.inf, -np.inf], np.nan)
        ax.plot(values, y, marker, color=color, markersize=4.5, label=literal(group))
    ax.set_xlabel(label)


def plot_examples(columns: Mapping[str, NDArray[np.uint8]], groups: NDArray[Any]) -> Figure:
    """Draw images in columns, with the name of the group before the first row of each.

    Parameters
    ----------
    columns : mapping of str to ndarray, shape (M, C, height, width)
    groups : ndarray of shape (M,)
        Of the rows.

    Returns
    -------
    Figure
    """
    count, rows = len(columns), len(groups)
    axes = np.array(new_axes(count, rows=rows, size=(1.3 * count + 0.8, 1.3 * rows + 0.3)), object)
    grid = axes.reshape(rows, count)
    for row in range(rows):
        for ax, (name, images) in zip(grid[row], columns.items(), strict=True):
            show_image(ax, images[row])
            if row == 0:
                add_title(ax, name)
        if row == 0 or groups[row] != groups[row - 1]:
            add_row_title(grid[row, 0], groups[row])
    return figure_of(grid[0, 0])

"""Plots of which attributes go along with a target, with matplotlib, imported when the first plot is drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from captum_region.plotting import LINE_COLORS, STYLE, literal
from fairlearn_bridge.inspection import THRESHOLD, name_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd
    from matplotlib.axes import Axes


def plot_confounders(found: pd.DataFrame, *, threshold: float = THRESHOLD, ax: Axes | None = None) -> Axes:
    """Draw how closely each attribute goes along with the target; the flagged ones stand out.

    Parameters
    ----------
    found : DataFrame
        From `find_confounders`; drawn from top to bottom, those left out that were not compared.
    threshold : float, default=0.2
        The one given to `find_confounders`: the dashed line.
    ax : Axes, optional
        Where to draw; by default in a new pyplot figure.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If no attribute was compared.

    Examples
    --------
    >>> import pandas as pd
    >>> from matplotlib.figure import Figure
    >>> found = pd.DataFrame({"cramers_v": [0.6, 0.1], "flagged": [True, False]}, index=["hat", "smile"])
    >>> ax = plot_confounders(found, ax=Figure().subplots())
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['hat', 'smile']
    """
    compared = found[found["cramers_v"].notna()]
    if compared.empty:
        raise ValueError("found must hold an attribute that was compared, it holds none")
    ax = _new_axes(len(compared)) if ax is None else ax
    name_rows(ax, compared.index)
    y, flagged = np.arange(len(compared)), compared["flagged"].to_numpy(bool)
    value = compared["cramers_v"].to_numpy(float)
    for chosen, color, label in ((flagged, "#222222", "flagged"), (~flagged, "#a8a8a8", "not flagged")):
        if chosen.any():
            ax.hlines(y[chosen], 0, value[chosen], color=color, linewidth=1.4, alpha=0.6)
            ax.plot(value[chosen], y[chosen], "o", color=color, markersize=5.5, label=label)
    for text, bold in zip(ax.get_yticklabels(), flagged, strict=True):
        text.set_fontweight("bold" if bold else "normal")
    ax.axvline(threshold, color="#767676", linewidth=0.9, linestyle=(0, (4, 3)), label=f"threshold {threshold:g}")
    ax.set_xlim(-0.02, 1.02)
    ax.set_xlabel("association with the target (Cramer's V)")
    ax.legend(loc="lower right")
    return ax


def plot_cells(cells: pd.DataFrame, *, target: str = "target", ax: Axes | None = None) -> Axes:
    """Draw how frequent each attribute is within each class of the target: far apart is a shortcut.

    Parameters
    ----------
    cells : DataFrame
        From `cell_counts`, of the attributes to draw. One of two values takes a row, of the last; others a row a value.
    target : str, default="target"
        What the classes are classes of.
    ax : Axes, optional
        Where to draw; by default in a new pyplot figure.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If there is no cell.

    Examples
    --------
    >>> import pandas as pd
    >>> from matplotlib.figure import Figure
    >>> from fairlearn_bridge import cell_counts
    >>> cells = cell_counts(pd.DataFrame({"blond": [True, False, False, False]}), [False, False, True, True])
    >>> ax = plot_cells(cells, target="male", ax=Figure().subplots())
    >>> [(line.get_label(), line.get_xdata().tolist()) for line in ax.lines]
    [('not male', [0.5]), ('male', [0.0])]
    """
    if cells.empty:
        raise ValueError("cells must hold a cell, it holds none")
    rows = {}
    for attribute, of_attribute in cells.groupby("attribute", sort=False):
        values = list(of_attribute["value"].unique())
        for value in values[1:] if len(values) == 2 else values:
            of_value = of_attribute[of_attribute["value"] == value]
            rows[name_of(attribute, value)] = of_value.set_index("target")["share"]
    ax = _new_axes(len(rows)) if ax is None else ax
    name_rows(ax, rows)
    ax.hlines(
        range(len(rows)),
        [shares.min() for shares in rows.values()],
        [shares.max() for shares in rows.values()],
        color="#b0b0b0",
        linewidth=1.4,
    )
    for number, label in enumerate(cells["target"].unique()):
        color = LINE_COLORS[number % len(LINE_COLORS)]
        # A class in which no image has the attribute's value known has no share.
        points = [(shares[label], y) for y, shares in enumerate(rows.values()) if label in shares]
        ax.plot(*zip(*points, strict=True), "o", color=color, markersize=5.5, label=literal(name_of(target, label)))
    ax.set_xlim(-0.02, 1.02)
    ax.set_xlabel("share of the class's images")
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))  # no corner is sure to be free
    return ax


def name_rows(ax: Axes, names: Iterable[object]) -> None:
    """Make each row of `ax` one name's, the first on top, with a band behind every other."""
    labels = [literal(name) for name in names]
    ax.set_yticks(np.arange(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.5, -0.5)
    ax.grid(visible=False, axis="y")
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    for y in range(0, len(labels), 2):
        ax.axhspan(y - 0.5, y + 0.5, color="#f4f4f4", zorder=0, linewidth=0)


def _new_axes(rows: int) -> Axes:
    from matplotlib import pyplot, rc_context

    with rc_context(STYLE):
        _figure, ax = pyplot.subplots(figsize=(5.4, 0.22 * rows + 1.0), layout="constrained")
    return ax

"""Plots of spurious attributes, schemes and mitigators with matplotlib, imported when the first plot is drawn."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from captum_region.batches import as_floats, check_images, take
from captum_region.plotting import (
    LINE_COLORS,
    add_legend,
    add_row_title,
    add_title,
    figure_of,
    flat_axes,
    image_array,
    literal,
    new_axes,
    plot_region_map,
    scale_top,
    show_image,
)
from fairlearn_bridge.inspection import THRESHOLD, name_of
from fairlearn_bridge.metrics import pareto_front
from fairlearn_bridge.noise import AttributionNoise, quantile_mask, transplant
from fairlearn_bridge.schemes import PERTURBATIONS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "plot_cells",
    "plot_confounders",
    "plot_losses",
    "plot_measure",
    "plot_quantiles",
    "plot_ranking",
    "plot_trade_off",
]

# What plots and pages call the mitigator "original".
BASELINE = "ERM baseline"

# Of Okabe and Ito, darkened until they can be read on white: what a mitigator is to a comparison.
KIND_COLORS = {"reference": "#5f5f5f", "control": "#b25000", "mitigator": "#00795c", "scheme": "#0072b2"}
KIND_MARKERS = {"reference": "s", "control": "D", "mitigator": "^", "scheme": "o"}
LINE_STYLES = {"reference": "--", "control": ":", "mitigator": "-.", "scheme": "-"}


class Interval(NamedTuple):
    """A measured value and the ends of its interval; NaN where there is none."""

    mean: float
    low: float
    high: float


def plot_confounders(found: pd.DataFrame, *, threshold: float = THRESHOLD, ax: Axes | None = None) -> Axes:
    """Draw how closely each attribute goes along with the target; the flagged ones stand out.

    Parameters
    ----------
    found : DataFrame
        From `find_confounders`; drawn from top to bottom, without those that were not compared.
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

    See Also
    --------
    plot_cells : The shares behind the associations.

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
        raise ValueError("found must hold an attribute that was compared, got none")
    ax = name_rows(ax, compared.index)
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
    add_legend(ax, loc="lower right")
    return ax


def plot_cells(cells: pd.DataFrame, *, target: str = "target", ax: Axes | None = None) -> Axes:
    """Draw how frequent each attribute is in each class of the target: where they are far apart, it can be a shortcut.

    Parameters
    ----------
    cells : DataFrame
        From `cell_counts`, of the attributes to draw. An attribute with two values has one row, for the last value;
        others have a row for each value.
    target : str, default="target"
        The name of the target.
    ax : Axes, optional
        Where to draw; by default in a new pyplot figure.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If there is no cell.

    See Also
    --------
    plot_confounders : The associations.

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
        raise ValueError("cells must hold a cell, got none")
    rows = {}
    for attribute, of_attribute in cells.groupby("attribute", sort=False):
        values = list(of_attribute["value"].unique())
        for value in values[1:] if len(values) == 2 else values:
            of_value = of_attribute[of_attribute["value"] == value]
            rows[name_of(attribute, value)] = of_value.set_index("target")["share"]
    ax = name_rows(ax, rows)
    shares = pd.DataFrame(rows)
    y = np.arange(len(rows))
    ax.hlines(y, shares.min(), shares.max(), color="#b0b0b0", linewidth=1.4)
    for label, color in zip(cells["target"].unique(), itertools.cycle(LINE_COLORS), strict=False):
        share, text = shares.loc[label].to_numpy(), literal(name_of(target, label))
        # A class in which the attribute is not known of any image has no share.
        known = np.isfinite(share)
        ax.plot(share[known], y[known], "o", color=color, markersize=5.5, label=text)
    ax.set_xlim(-0.02, 1.02)
    ax.set_xlabel("share of the class's images")
    add_legend(ax, loc="upper left", bbox_to_anchor=(1, 1))  # no corner is sure to be free
    return ax


def plot_quantiles(
    image: ArrayLike | torch.Tensor,
    pixel_maps: Mapping[str, ArrayLike | torch.Tensor],
    quantiles: Sequence[float] = (0.5, 0.7, 0.9),
    *,
    perturbations: Sequence[str] | None = None,
    donor: ArrayLike | torch.Tensor | None = None,
    noise_std: float = 0.5,
    random_state: int = 0,
    axes: NDArray[Any] | None = None,
) -> Figure:
    """Draw an image as training would see it at several quantiles.

    Each row has a map and a perturbation; its first column is the map, the others are quantiles.

    Parameters
    ----------
    image : Tensor or array-like, shape (C, height, width) or (height, width, C)
        uint8, or float in [0, 1].
    pixel_maps : mapping of title to Tensor or array-like, shape (height, width)
        Such as the mean map as ``general`` and the image's own as ``specific``.
    quantiles : sequence of float, default=(0.5, 0.7, 0.9)
        In [0, 1], see `quantile_mask`.
    perturbations : sequence of {"mask", "noise", "transplant"}, optional
        All by default; "transplant" only with a `donor`.
    donor : Tensor or array-like, like `image`
        An image with another value of the spurious attribute, whose region is transplanted.
    noise_std : float, default=0.5
        See `AttributionNoise`.
    random_state : int, default=0
        Decides the noise.
    axes : array of Axes, optional
        A row for each map and perturbation, and one more column than quantiles; by default in a new pyplot figure.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        If there is no map, quantile or perturbation, one is invalid, or the number of axes is wrong.

    References
    ----------
    De Coninck et al. 2024, Figure 6.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> axes = Figure().subplots(2, 4)
    >>> figure = plot_quantiles(np.ones((3, 8, 8)), {"general": np.arange(64).reshape(8, 8) / 63}, axes=axes)
    >>> [text.get_text() for text in axes[:, 0].ravel().tolist()[1].texts]
    ['general noise']
    """
    if perturbations is None:
        perturbations = ("mask", "noise") if donor is None else PERTURBATIONS
    if wrong := [kind for kind in perturbations if kind not in PERTURBATIONS]:
        raise ValueError(f"perturbations must be {', '.join(PERTURBATIONS)}, got {wrong[0]!r}")
    if donor is None and "transplant" in perturbations:
        raise ValueError("donor must be given where perturbations has a transplant")
    pixels, given = _as_batch(image), None if donor is None else _as_batch(donor)
    if given is not None and given.shape != pixels.shape:
        raise ValueError(f"donor must have the size of the image, {(*pixels.shape[1:],)}, got {(*given.shape[1:],)}")
    rows = [(title, of_map, kind) for title, of_map in pixel_maps.items() for kind in perturbations]
    columns = 1 + len(quantiles)
    if not rows or columns == 1:
        raise ValueError("pixel_maps, quantiles and perturbations must each hold at least one")
    if axes is None:
        size = (1.5 * columns + 1.0, 1.5 * len(rows) + 0.4)
        axes = np.array(new_axes(columns, rows=len(rows), size=size))
    flat = flat_axes(axes, len(rows) * columns, "a row for each map and perturbation, one column more than quantiles")
    top = scale_top(np.stack([np.asarray(of_map) for of_map in pixel_maps.values()]))
    for row, (title, of_map, kind) in enumerate(rows):
        first, *others = flat[row * columns : (row + 1) * columns]
        plot_region_map(image, of_map, ax=first, vmax=top, colorbar=False, title="map" if row == 0 else None)
        add_row_title(first, f"{title} {kind}")
        pixel_map = torch.as_tensor(np.asarray(of_map))[None]
        for ax, quantile in zip(others, quantiles, strict=True):
            if kind == "transplant" and given is not None:
                seen = transplant(pixels, given, quantile_mask(pixel_map, quantile)[:, None])
            else:
                noise = AttributionNoise(f"general_{kind}", quantile, noise_std).fit(pixel_map)
                seen = noise(pixels, torch.tensor([0]), torch.Generator().manual_seed(random_state))
            show_image(ax, seen[0])
            if row == 0:
                add_title(ax, f"quantile {quantile:g}")
    return figure_of(flat[0])


def plot_ranking(
    images: Any,
    ranking: pd.DataFrame,
    *,
    count: int = 8,
    names: Mapping[Any, str] | None = None,
    axes: Sequence[Axes] | NDArray[Any] | None = None,
) -> Figure:
    """Draw the images of each class in which the spurious attribute shows most, and those in which it shows least.

    Parameters
    ----------
    images : Tensor or array-like, shape (N, C, height, width), or AttributeImages
        uint8, or float in [0, 1], of 1 or 3 channels: what was ranked.
    ranking : DataFrame
        From `rank_by_evidence`.
    count : int, default=8
        Images in a strip, the most extreme one to the left; in a small class as many as it has.
    names : mapping of class to str, optional
        What the classes are called.
    axes : array of Axes, optional
        Two for each class, most and least; by default in a new pyplot figure.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        If `count` is below 1, the ranking is empty, or the number of axes is wrong.

    See Also
    --------
    fairlearn_bridge.ranking_gap : The accuracy at both ends.

    References
    ----------
    Moayeri, Wang, Singla, Feizi, "Spuriosity Rankings: Sorting Data to Measure and Mitigate Biases", NeurIPS 2023.

    Examples
    --------
    >>> import pandas as pd
    >>> from matplotlib.figure import Figure
    >>> ranking = pd.DataFrame({"image": [2, 0, 1], "class": "cat", "rank": [0, 1, 2]})
    >>> axes = Figure().subplots(2)
    >>> figure = plot_ranking(np.ones((3, 3, 8, 8)), ranking, count=2, axes=axes)
    >>> [text.get_text() for ax in axes for text in ax.texts]
    ['cat, most', 'cat, least']
    """
    if count < 1 or ranking.empty:
        raise ValueError(f"count must be at least 1 and ranking not empty, got {count} and {len(ranking)} images")
    images = check_images(images)
    ordered = {label: rows.sort_values("rank")["image"] for label, rows in ranking.groupby("class")}
    if axes is None:
        height = images.shape[2] / images.shape[3]
        axes = np.array(new_axes(1, rows=2 * len(ordered), size=(0.75 * count + 2, 1.7 * height * len(ordered))))
    flat = flat_axes(axes, 2 * len(ordered), "two for each class")
    for label, pair in zip(ordered, zip(flat[::2], flat[1::2], strict=True), strict=True):
        name = str(label) if names is None else names[label]
        for ax, end, positions in zip(pair, ("most", "least"), (ordered[label], ordered[label][::-1]), strict=True):
            show_image(ax, torch.cat(list(take(images, positions[:count].to_numpy())), -1))
            ax.set_anchor("W")  # where the layout leaves room for the title
            add_row_title(ax, f"{name}, {end}")
    return figure_of(flat[0])


def _as_batch(image: Any) -> torch.Tensor:
    """Return an image as 1 x C x height x width, in [0, 1]."""
    return as_floats(torch.from_numpy(np.atleast_3d(np.array(image_array(image)))).movedim(-1, 0))[None]


def plot_measure(
    table: pd.DataFrame,
    measure: str = "worst_cell",
    *,
    kinds: Mapping[str, str] | None = None,
    label: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw one measure of each mitigator with its interval, and a line at the value of the first.

    Parameters
    ----------
    table : DataFrame
        From `compare_mitigators`; drawn from top to bottom.
    measure : str, default="worst_cell"
        One of the table's.
    kinds : mapping of mitigator to {"reference", "control", "mitigator", "scheme"}, optional
        Decides colour and mark.
    label : str, optional
        Of the axis; by default the measure.
    ax : Axes, optional
        Where to draw; by default in a new pyplot figure.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If the table does not have the measure.

    See Also
    --------
    plot_trade_off : Two measures at once.

    Examples
    --------
    >>> import pandas as pd
    >>> from matplotlib.figure import Figure
    >>> columns = pd.MultiIndex.from_product([["worst_cell"], ["mean", "low", "high"]])
    >>> table = pd.DataFrame([[0.4, 0.3, 0.5], [0.7, 0.6, 0.8]], ["original", "general_noise"], columns)
    >>> ax = plot_measure(table, ax=Figure().subplots())
    >>> [text.get_text() for text in ax.get_yticklabels()], ax.get_xlabel()
    (['original', 'general_noise'], 'worst_cell')
    """
    values = intervals(table, measure)
    if not values:
        raise ValueError("table must hold a mitigator, got none")
    ax = name_rows(ax, values)
    for y, (name, value) in enumerate(values.items()):
        plot_dot(ax, value, y, **_style(name, kinds))
    first = next(iter(values.values()))
    if np.isfinite(first.mean):
        ax.axvline(first.mean, color="#767676", linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
    ax.set_xlabel(literal(measure if label is None else label))
    return ax


def plot_trade_off(
    table: pd.DataFrame,
    less: str = "gap",
    more: str = "accuracy",
    *,
    front: Sequence[str] | None = None,
    kinds: Mapping[str, str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw each mitigator as a point between two measures; right and down is better. By default accuracy and the gap.

    Parameters
    ----------
    table : DataFrame
        From `compare_mitigators`.
    less, more : str, default="gap" and "accuracy"
        The measure upwards, whose size should be small, and the one to the right, which should be large; as in
        `pareto_front`.
    front : sequence of str, optional
        The mitigators that no other beats, by default those of `pareto_front`. A line separates what they beat from
        what would beat them.
    kinds : mapping of mitigator to kind, optional
        See `plot_measure`.
    ax : Axes, optional
        Where to draw; by default in a new pyplot figure.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If the table does not have the measures, or no mitigator has both.

    See Also
    --------
    plot_measure : One measure with its intervals.
    fairlearn_bridge.pareto_front : Computes the front.

    Examples
    --------
    >>> import pandas as pd
    >>> from matplotlib.figure import Figure
    >>> columns = pd.MultiIndex.from_product([["accuracy", "gap"], ["mean", "low", "high"]])
    >>> table = pd.DataFrame([[0.9, 0.8, 1, 0.3, 0.2, 0.4], [0.8, 0.7, 0.9, -0.1, -0.2, 0]], ["a", "b"], columns)
    >>> ax = plot_trade_off(table, ax=Figure().subplots())
    >>> [text.get_text() for text in ax.texts]
    ['b', 'a']
    """
    across, upwards = intervals(table, more), intervals(table, less)
    points = {
        name: (across[name], _absolute(upwards[name]))
        for name in across
        if np.isfinite([across[name].mean, upwards[name].mean]).all()
    }
    if not points:
        raise ValueError(f"table must hold {more} and {less} of a mitigator, got no such pair")
    if front is None:
        unbeaten = pareto_front(table, less, more)
        front = unbeaten.index[unbeaten].tolist()
    ax = new_axes(1, size=(5.4, 3.8))[0] if ax is None else ax
    for name, (x, y) in points.items():
        style = _style(name, kinds)
        ax.plot([x.mean, x.mean], [y.low, y.high], color=style["color"], linewidth=1.4, alpha=0.6)
        plot_dot(ax, x, y.mean, **style)
    corners = sorted((points[name][0].mean, points[name][1].mean) for name in front if name in points)
    left, top = ax.get_xlim()[0], ax.get_ylim()[1]
    if corners:
        # From the left edge to the upper one: all above and left of the line is beaten.
        xs, ys = zip((left, corners[0][1]), *corners, (corners[-1][0], top), strict=True)
        ax.plot(xs, ys, color="#767676", linewidth=1.2, linestyle="--", drawstyle="steps-pre", zorder=1)
    ax.set_xlim(left=left)
    ax.set_ylim(0, top)
    ax.set_xlabel(f"{literal(more)} (right is better)")
    ax.set_ylabel(f"{'size of the gap' if less == 'gap' else literal(less)} (down is better)")
    _labels_at_right(ax, {name: (x.mean, y.mean) for name, (x, y) in points.items()})
    return ax


def plot_losses(
    trainings: pd.DataFrame, *, kinds: Mapping[str, str] | None = None, legend: bool = True, ax: Axes | None = None
) -> Axes:
    """Draw the training loss of each mitigator by epoch: the mean over seeds, and each seed faintly.

    Parameters
    ----------
    trainings : DataFrame
        From `fit_mitigators`: columns ``mitigator`` and ``losses``, a list by epoch.
    kinds : mapping of mitigator to kind, optional
        The mitigators to draw, in this order, by default all. The kind decides the line style, see `plot_measure`.
    legend : bool, default=True
        Name the curves to the right.
    ax : Axes, optional
        Where to draw; by default in a new pyplot figure.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If no training has losses.

    Examples
    --------
    >>> import pandas as pd
    >>> from matplotlib.figure import Figure
    >>> trainings = pd.DataFrame({"mitigator": ["original"] * 2, "losses": [[0.7, 0.5, 0.4], [0.5, 0.3]]})
    >>> ax = plot_losses(trainings, ax=Figure().subplots())
    >>> ax.lines[-1].get_ydata().round(3).tolist()
    [0.6, 0.4]
    """
    from matplotlib.ticker import MaxNLocator

    trained = trainings[trainings["losses"].map(len) > 0]
    curves = dict(trained.groupby("mitigator", sort=False)["losses"].agg(list))
    names = [name for name in (curves if kinds is None else kinds) if name in curves]
    if not names:
        raise ValueError("trainings must hold losses, got none")
    ax = new_axes(1, size=(5.4, 3.0))[0] if ax is None else ax
    for name, color in zip(names, itertools.cycle(LINE_COLORS), strict=False):
        of_seeds = curves[name]
        for losses in of_seeds if len(of_seeds) > 1 else []:
            ax.plot(np.arange(1, len(losses) + 1), losses, color=color, alpha=0.2, linewidth=0.8)
        # Early stopping may end one seed before another: the mean goes as far as all do.
        length = min(len(losses) for losses in of_seeds)
        ax.plot(
            np.arange(1, length + 1),
            np.mean([losses[:length] for losses in of_seeds], axis=0),
            marker="o" if length == 1 else None,
            color=color,
            linestyle=LINE_STYLES["scheme" if kinds is None else kinds[name]],
            label=literal(name),
        )
    ax.set_xlabel("epoch")
    ax.set_ylabel("training loss")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if legend:
        add_legend(ax, loc="upper left", bbox_to_anchor=(1, 1))
    return ax


def name_rows(ax: Axes | None, names: Iterable[object]) -> Axes:
    """Give each name a row of `ax`, or of new axes, the first on top, with a band behind every other."""
    labels = [literal(name) for name in names]
    ax = new_axes(1, size=(5.4, 0.22 * len(labels) + 1.0))[0] if ax is None else ax
    ax.set_yticks(np.arange(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.5, -0.5)
    ax.grid(visible=False, axis="y")
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    for y in range(0, len(labels), 2):
        ax.axhspan(y - 0.5, y + 0.5, color="#f4f4f4", zorder=0, linewidth=0)
    return ax


def plot_dot(ax: Axes, value: Interval, y: float, *, color: str, label: str, **marker: Any) -> None:
    """Draw a value and its interval at the height `y`; a legend has each `label` once."""
    known, text = ax.get_legend_handles_labels()[1], literal(label)
    # Not as an error bar: a percentile interval need not contain the mean.
    ax.plot([value.low, value.high], [y, y], color=color, linewidth=1.4, alpha=0.6, solid_capstyle="butt")
    shown: dict[str, Any] = {"linestyle": "none", "markersize": 5.5, "label": None if text in known else text}
    ax.plot([value.mean], [y], color=color, **shown, **marker)


def intervals(table: pd.DataFrame, measure: str) -> dict[str, Interval]:
    """Return a measure's value and interval of each mitigator, from a table of `compare_mitigators`."""
    measures = table.columns.unique(0)
    if measure not in measures:
        raise ValueError(f"table must hold the measure {measure!r}, it holds {sorted(measures)}")
    rows = table[measure][["mean", "low", "high"]].to_numpy(float).tolist()
    return {str(name): Interval(*row) for name, row in zip(table.index, rows, strict=True)}


def by_mitigator(flat: pd.DataFrame, names: Iterable[str]) -> pd.DataFrame:
    """Return a table with a row a mitigator and measure as `compare_mitigators` gives it, of the mitigators `names`."""
    table = flat.pivot(index="mitigator", columns="measure", values=["mean", "std", "low", "high"])
    return table.swaplevel(axis=1).reindex(list(names))


def _style(name: str, kinds: Mapping[str, str] | None) -> dict[str, str]:
    if kinds is not None and name not in kinds:
        raise ValueError(f"kinds must have each mitigator of the table, it lacks {name!r}")
    kind = "scheme" if kinds is None else kinds[name]
    return {"color": KIND_COLORS[kind], "marker": KIND_MARKERS[kind], "label": kind}


def _absolute(interval: Interval) -> Interval:
    mean, low, high = interval
    least = 0.0 if low < 0 < high else min(abs(low), abs(high))
    return Interval(abs(mean), least, max(abs(low), abs(high)))


def _labels_at_right(ax: Axes, points: Mapping[str, tuple[float, float]]) -> None:
    """Write the names to the right of the axes, in the order of their points, so that they never overlap."""
    low, high = ax.get_ylim()
    names = sorted(points, key=lambda name: points[name][1])
    heights = _spread([(points[name][1] - low) / (high - low) for name in names], gap=0.065)
    for name, height in zip(names, heights, strict=True):
        ax.annotate(
            literal(name),
            points[name],
            xytext=(1.04, height),
            textcoords="axes fraction",
            va="center",
            fontsize=8.5,
            arrowprops={"arrowstyle": "-", "color": "#a0a0a0", "linewidth": 0.6, "shrinkA": 1, "shrinkB": 4},
        )


def _spread(heights: Sequence[float], gap: float) -> NDArray[np.float64]:
    """Return ascending heights moved as little as needed to lie `gap` apart, within 0 and 1 where there is room."""
    steps = gap * np.arange(len(heights))
    upwards = np.maximum.accumulate(heights - steps) + steps
    return np.minimum(upwards, max(1.0, steps[-1]) - steps[::-1])

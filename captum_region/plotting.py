"""Plots of region maps and trainings, with matplotlib, which is imported when the first plot is drawn."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from captum_region.io.files import replacing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike, NDArray

    from captum_region.calibration import Calibration

__all__ = ["plot_history", "plot_maps", "plot_region_map", "plot_reliability", "plot_saliency", "show_image"]

COLORMAP = "inferno"
# In points, from the axis to what is below its numbers and label.
_BELOW_AXIS = 32
# Of Okabe and Ito: colour-blind readers can tell them apart.
LINE_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#8a6d00", "#000000", "#7f7f7f")

# Any: newer versions of matplotlib have a type of their own for this dictionary.
STYLE: Any = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.labelcolor": "#333333",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.edgecolor": "#767676",
    "font.size": 9,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.7,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "xtick.color": "#333333",
    "ytick.color": "#333333",
}


def scale_top(maps: ArrayLike | torch.Tensor) -> float:
    """Return the upper end of a scale for maps in [0, 1]: their largest value, rounded up to a tenth.

    Examples
    --------
    >>> scale_top([[0.1, 0.32]])
    0.4
    """
    return min(1.0, max(0.1, math.ceil(10 * float(np.max(_numpy(maps))) - 1e-6) / 10))


@contextmanager
def styled() -> Iterator[None]:
    """Use the style of these plots in a block, or in a function that this decorates."""
    from matplotlib import rc_context

    with rc_context(STYLE):
        yield


def literal(text: object) -> str:
    r"""Return `text` escaped for matplotlib, where a dollar sign would start a formula.

    Examples
    --------
    >>> literal("$5 and $6")
    '\\$5 and \\$6'
    """
    return str(text).replace("$", r"\$")


def image_array(image: ArrayLike | torch.Tensor, name: str = "image") -> NDArray[Any]:
    """Return an image as an array with its channels last, as matplotlib and Pillow take it.

    Parameters
    ----------
    image : Tensor or array-like, shape (C, height, width) or (height, width, C)
        uint8, or float in [0, 1]; C is 1 or 3. If a shape can be read both ways, C is the first axis.
    name : str, default="image"
        The argument's name in error messages.

    Returns
    -------
    ndarray, shape (height, width, 3), or (height, width) if C is 1
        The same values.

    Raises
    ------
    ValueError
        If the shape, type or range of values is another.
    """
    array = _numpy(image)
    if array.ndim != 3 or (array.shape[0] not in (1, 3) and array.shape[2] not in (1, 3)) or not array.size:
        wanted = "(C, height, width) or (height, width, C) with 1 or 3 channels"
        raise ValueError(f"{name} must be one image of shape {wanted}, got shape {array.shape}")
    if array.dtype != np.uint8 and not (array.dtype.kind == "f" and bool(((array >= 0) & (array <= 1)).all())):
        raise ValueError(f"{name} must be uint8 or float in [0, 1], got {_described(array)}")
    if array.shape[0] in (1, 3):
        array = np.moveaxis(array, 0, -1)
    return array[..., 0] if array.shape[-1] == 1 else array


def show_image(ax: Axes, image: ArrayLike | torch.Tensor) -> None:
    """Draw an image on `ax`.

    Parameters
    ----------
    ax : Axes
    image : Tensor or array-like, shape (C, height, width) or (height, width, C)
        uint8, or float in [0, 1]; C is 1 or 3.
    """
    picture = image_array(image)
    ax.imshow(picture, cmap="gray", vmin=0, vmax=255 if picture.dtype == np.uint8 else 1)
    ax.set_axis_off()


def plot_region_map(
    image: ArrayLike | torch.Tensor | None,
    pixel_map: ArrayLike | torch.Tensor,
    *,
    ax: Axes | None = None,
    vmin: float = 0,
    vmax: float = 1,
    alpha: float = 0.55,
    cmap: str = COLORMAP,
    colorbar: bool = True,
    title: str | None = None,
) -> Axes:
    """Draw a map over its image.

    By default the colours range from 0 to 1 whatever the map's values, so that maps can be compared.

    Parameters
    ----------
    image : Tensor or array-like, shape (C, height, width) or (height, width, C), or None
        uint8, or float in [0, 1]. None draws the map alone, opaque.
    pixel_map : Tensor or array-like, shape (height, width)
        For example from `RegionAttribution.pixel_map`. Without an image it may be a region map.
    ax : Axes, optional
        Where to draw; by default in a new pyplot figure.
    vmin, vmax : float, default=0 and 1
        The values at the two ends of the colour scale.
    alpha : float, default=0.55
        The map's opacity over the image, in [0, 1].
    cmap : str, default="inferno"
        A matplotlib colour map.
    colorbar : bool, default=True
        Draw a colour bar.
    title : str, optional

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If the image or map is invalid, they differ in size, or the scale or `alpha` is out of range.

    See Also
    --------
    plot_maps : Several maps on one scale.
    captum_region.RegionMapDisplay : Computes the map too.

    Examples
    --------
    >>> import numpy as np
    >>> from matplotlib.figure import Figure
    >>> ax = plot_region_map(np.zeros((3, 8, 8)), np.eye(8), ax=Figure().subplots(), title="diagonal")
    >>> len(ax.images), ax.images[1].get_clim()
    (2, (0.0, 1.0))
    """
    values = _map_array(pixel_map, "pixel_map")
    if not vmin < vmax:
        raise ValueError(f"vmin must be below vmax, got {vmin} and {vmax}")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must lie in [0, 1], got {alpha}")
    if image is not None and (size := image_array(image).shape[:2]) != values.shape:
        hint = "RegionGrid.to_pixels turns a region map into a pixel map"
        raise ValueError(f"pixel_map must be as large as image, {size}, got {values.shape}; {hint}")
    ax = new_axes(1)[0] if ax is None else ax
    if image is not None:
        show_image(ax, image)
    drawn = ax.imshow(values, vmin=vmin, vmax=vmax, cmap=cmap, alpha=None if image is None else alpha)
    ax.set_axis_off()
    if title is not None:
        add_title(ax, title)
    if colorbar:
        _add_colorbar(drawn, [ax], fraction=0.046, pad=0.03)
    return ax


def plot_maps(
    maps: Mapping[str, ArrayLike | torch.Tensor],
    *,
    images: ArrayLike | torch.Tensor | Mapping[str, Any] | None = None,
    axes: Sequence[Axes] | NDArray[Any] | None = None,
    share_scale: bool = True,
    colorbar: bool = True,
    **options: Any,
) -> Figure:
    """Draw maps side by side, such as the mean maps of several attributes.

    Parameters
    ----------
    maps : mapping of title to Tensor or array-like, shape (height, width)
    images : image, or mapping of the same titles to images, optional
        The image under all maps, or under each; see `plot_region_map`.
    axes : sequence of Axes, optional
        One for each map; by default in a new pyplot figure.
    share_scale : bool, default=True
        Use one scale for all maps, so that they can be compared; else each has its own, with its own colour bar.
    colorbar : bool, default=True
        Draw a colour bar, or one for each map.
    **options
        ``vmin``, ``vmax``, ``alpha`` and ``cmap`` of `plot_region_map`. By default ``vmax`` is the largest value of
        all maps, or of each if they do not share a scale.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        If there is no map, the axes or images do not fit the maps, or `plot_region_map` rejects one.

    See Also
    --------
    plot_region_map : One map.

    Examples
    --------
    >>> import numpy as np
    >>> from matplotlib.figure import Figure
    >>> axes = Figure().subplots(1, 2)
    >>> figure = plot_maps({"hair": np.eye(4), "eyes": np.eye(4) / 2}, axes=axes)
    >>> [ax.images[0].get_clim() for ax in axes]
    [(0.0, 1.0), (0.0, 1.0)]
    """
    arrays = {title: _map_array(values, f"maps[{title!r}]") for title, values in maps.items()}
    if not arrays:
        raise ValueError("maps must hold at least one map, got none")
    if isinstance(images, Mapping) and set(images) != set(arrays):
        raise ValueError(f"images must have the titles of maps, {list(arrays)}, got {list(images)}")
    axes = flat_axes(new_axes(len(arrays)) if axes is None else axes, len(arrays), "one for each map")
    lowest, largest = options.get("vmin", 0), max(float(values.max()) for values in arrays.values())
    for ax, (title, values) in zip(axes, arrays.items(), strict=True):
        image = images[title] if isinstance(images, Mapping) else images
        top = largest if share_scale else float(values.max())
        scale: Any = {"vmax": top if top > lowest else lowest + 1}  # a constant map has no range of its own
        plot_region_map(image, values, ax=ax, title=title, colorbar=colorbar and not share_scale, **scale | options)
    figure = figure_of(axes[0])
    if colorbar and share_scale:
        _add_colorbar(axes[0].images[-1], axes, fraction=0.05, pad=0.02)
    return figure


def plot_history(
    history: pd.DataFrame, *, axes: Sequence[Axes] | NDArray[Any] | None = None, title: str | None = None
) -> Figure:
    """Draw the training of a region classifier: the loss and, with validation data, the accuracy, by epoch.

    Parameters
    ----------
    history : DataFrame
        `RegionTraining.history`: columns ``epoch``, ``loss`` and, if there was validation data, ``valid_accuracy``.
    axes : sequence of Axes, optional
        One for the loss, and one for the accuracy if there is one; by default in a new pyplot figure.
    title : str, optional
        The title of the first.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        If a column is missing, there is no epoch, or there is not one Axes for each curve.

    See Also
    --------
    captum_region.fit_region_classifier : Returns the history.

    Examples
    --------
    >>> import pandas as pd
    >>> from matplotlib.figure import Figure
    >>> history = pd.DataFrame({"epoch": [1, 2], "loss": [0.7, 0.5]})
    >>> figure = plot_history(history, axes=[Figure().subplots()])
    >>> figure.axes[0].lines[0].get_ydata().tolist()
    [0.7, 0.5]
    """
    from matplotlib.ticker import MaxNLocator

    if not {"epoch", "loss"} <= set(history.columns) or history.empty:
        got = f"{len(history)} rows of {list(history.columns)}"
        raise ValueError(f"history must have the columns epoch and loss and a row for each epoch, got {got}")
    labels = {"loss": "loss (nats)", "valid_accuracy": "validation accuracy"}
    curves = [column for column in labels if column in history and history[column].notna().any()]
    what = f"one for each curve ({', '.join(curves)})"
    axes = flat_axes(new_axes(len(curves)) if axes is None else axes, len(curves), what)
    for ax, column in zip(axes, curves, strict=True):
        ax.plot(history["epoch"].to_numpy(), history[column].to_numpy(float), marker="o", markersize=3, color="#0072b2")
        ax.set_xlabel("epoch")
        ax.set_ylabel(labels[column])
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    if title is not None:
        add_title(axes[0], title)
    return figure_of(axes[0])


def plot_reliability(
    calibration: Calibration | Mapping[str, Calibration],
    *,
    axes: Sequence[Axes] | NDArray[Any] | None = None,
    title: str | None = None,
) -> Figure:
    """Draw accuracy against confidence, with the number of patches in each bin under it.

    On the diagonal the accuracy equals the confidence; below it the classifier is overconfident.

    Parameters
    ----------
    calibration : Calibration, or mapping of name to Calibration
        From `captum_region.calibration.measure_calibration`; several are drawn in one diagram.
    axes : sequence of two Axes, optional
        For the diagram and for the histogram under it; by default in a new pyplot figure.
    title : str, optional

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        If there is no calibration, or not two axes.

    See Also
    --------
    captum_region.calibration.measure_calibration : Measures what this draws.

    References
    ----------
    De Coninck, Leroux, Simoens, "Mitigating Bias Using Model-Agnostic Data Attribution", CVPR Workshops 2024, Figure 2.

    Examples
    --------
    >>> import pandas as pd
    >>> from matplotlib.figure import Figure
    >>> from captum_region.calibration import Calibration
    >>> bins = pd.DataFrame({"lower": [0, 0.5], "upper": [0.5, 1], "patches": [0, 9]})
    >>> bins = bins.assign(confidence=[float("nan"), 0.7], accuracy=[float("nan"), 0.8])
    >>> figure = plot_reliability(Calibration(bins, error=0.1, accuracy=0.8, images=9), axes=Figure().subplots(2, 1))
    >>> figure.axes[0].lines[1].get_xydata().tolist()
    [[0.7, 0.8]]
    """
    curves = calibration if isinstance(calibration, Mapping) else {"": calibration}
    if not curves:
        raise ValueError("calibration must hold at least one, got none")
    axes = new_axes(1, rows=2, height_ratios=(3, 1)) if axes is None else axes
    top, bottom = flat_axes(axes, 2, "one for the diagram and one for the histogram")
    low = min(float(curve.bins.loc[curve.bins["patches"] > 0, "lower"].min()) for curve in curves.values())
    top.plot([low, 1], [low, 1], color="#767676", linestyle="--", linewidth=1, label="accuracy = confidence")
    for (name, curve), color in zip(curves.items(), LINE_COLORS * len(curves), strict=False):
        full = curve.bins[curve.bins["patches"] > 0]
        confidence, accuracy = full["confidence"].to_numpy(), full["accuracy"].to_numpy()
        label = f"{name}: error {curve.error:.3f}" if name else f"calibration error {curve.error:.3f}"
        top.plot(confidence, accuracy, color=color, marker="o", markersize=3, linewidth=1, label=literal(label))
        share = curve.bins["patches"].to_numpy() / curve.bins["patches"].sum()
        edges = np.append(curve.bins["lower"].to_numpy(), curve.bins["upper"].iloc[-1])
        bottom.stairs(share, edges, color=color, fill=len(curves) == 1)
    for ax in (top, bottom):
        ax.set_xlim(low, 1)
    top.set_ylim(min(low, *(float(curve.bins["accuracy"].min()) for curve in curves.values())), 1)
    top.set_ylabel("accuracy")
    add_legend(top, loc="best")
    bottom.set_xlabel("confidence (highest probability)")
    bottom.set_ylabel("share of patches")
    if title is not None:
        add_title(top, title)
    return figure_of(top)


def plot_saliency(
    images: ArrayLike | torch.Tensor,
    maps: Mapping[str, ArrayLike | torch.Tensor],
    *,
    truth: ArrayLike | torch.Tensor | None = None,
    axes: Sequence[Axes] | NDArray[Any] | None = None,
    cmap: str = COLORMAP,
) -> Figure:
    """Draw the maps that several methods give of the same images: methods in rows, images in columns.

    The methods' units differ, so each map is drawn by its ranks, which the measures of localisation use too: the
    colour of a pixel is the share of the map's pixels that are lower.

    Parameters
    ----------
    images : Tensor or array-like, shape (N, C, height, width)
        uint8, or float in [0, 1].
    maps : mapping of title to Tensor or array-like, shape (N, height, width)
    truth : Tensor or array-like of bool, shape (N, height, width), optional
        The pixels that show the attribute; outlined on each image and map.
    axes : array of Axes, shape (1 + number of maps, N), or such axes row by row, optional
        By default in a new pyplot figure.
    cmap : str, default="inferno"
        A matplotlib colour map.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        If there is no map or image, shapes differ, or the number of axes is wrong.

    See Also
    --------
    captum_region.saliency.compare_saliency : Computes maps of several methods.

    Examples
    --------
    >>> import numpy as np
    >>> from matplotlib.figure import Figure
    >>> axes = Figure().subplots(2, 2)
    >>> figure = plot_saliency(np.zeros((2, 3, 8, 8)), {"eye": np.stack([np.eye(8)] * 2)}, axes=axes)
    >>> [text.get_text() for text in axes[1, 0].texts]
    ['eye']
    """
    from scipy.stats import rankdata

    pictures = _numpy(images)
    arrays = {title: _numpy(values) for title, values in maps.items()}
    wanted = (len(pictures), *pictures.shape[2:])
    inside = np.zeros(wanted, bool) if truth is None else _numpy(truth).astype(bool)
    for name, array in {**{f"maps[{title!r}]": values for title, values in arrays.items()}, "truth": inside}.items():
        if array.shape != wanted:
            raise ValueError(f"{name} must have shape {wanted}, one for each image, got {array.shape}")
    if not arrays or not len(pictures):
        raise ValueError(f"maps and images must hold at least one, got {len(arrays)} and {len(pictures)}")
    rows, columns = 1 + len(arrays), len(pictures)
    if axes is None:
        axes = np.array(new_axes(columns, rows=rows, size=(1.35 * columns + 1.8, 1.35 * rows + 0.6)))
    flat = flat_axes(axes, rows * columns, "a row for the images and one for each map, a column for each image")
    for place, ax in enumerate(flat):
        row, number = divmod(place, columns)
        if row == 0:
            show_image(ax, pictures[number])
        else:
            values = _map_array(list(arrays.values())[row - 1][number], "maps")
            # Ties share their mean rank: a constant map is 0.5 everywhere.
            ranks = (rankdata(values) - 0.5).reshape(values.shape) / values.size
            drawn = ax.imshow(ranks, vmin=0, vmax=1, cmap=cmap)
        if inside[number].any() and not inside[number].all():
            ax.contour(inside[number], levels=[0.5], colors="white", linewidths=0.8)
        if number == 0:
            add_row_title(ax, ["image", *arrays][row].replace(", ", "\n"))
        ax.set_axis_off()
    label = "share of the map's pixels that are lower"
    _add_colorbar(drawn, flat, location="bottom", fraction=0.02, pad=0.01, aspect=40, label=label)
    return figure_of(flat[0])


def _numpy(values: ArrayLike | torch.Tensor) -> NDArray[Any]:
    if isinstance(values, torch.Tensor):
        values = values.float() if values.dtype == torch.bfloat16 else values  # NumPy has no bfloat16
        return values.numpy(force=True)
    return np.asarray(values)


def _described(array: NDArray[Any]) -> str:
    return f"{array.dtype} from {array.min():g} to {array.max():g}" if array.dtype.kind in "iuf" else str(array.dtype)


def _map_array(values: ArrayLike | torch.Tensor, name: str) -> NDArray[Any]:
    array = _numpy(values)
    if array.ndim != 2 or not array.size:
        raise ValueError(f"{name} must be one map of shape (height, width), got shape {array.shape}")
    if array.dtype.kind not in "biuf" or not np.isfinite(array).all():
        raise ValueError(f"{name} must hold finite numbers, got {_described(array)}")
    return array.astype(float) if array.dtype.kind == "b" else array


def drawn(size: tuple[float, float], draw: Callable[[list[Axes]], object], **grid: Any) -> Figure:
    """Return a figure outside of pyplot, in the style of these plots.

    Parameters
    ----------
    size : (float, float)
        Width and height in inches.
    draw : callable
        Draws on the axes, which it gets in one list, row by row.
    **grid
        ``nrows``, ``ncols``, ``height_ratios`` and others of matplotlib's ``Figure.subplots``.
    """
    from matplotlib.figure import Figure

    with styled():
        figure = Figure(figsize=size, layout="constrained")
        draw(list(figure.subplots(squeeze=False, **grid).flat))
    return figure


def write_figure(path: Path, figure: Figure, *, dpi: int = 150) -> None:
    """Write a figure as a whole PNG file, or nothing."""
    with replacing(path) as beside:
        beside.write_bytes(png_of(figure, dpi=dpi))


def png_of(figure: Figure, *, dpi: int, metadata: dict[str, Any] | None = None) -> bytes:
    """Return a figure as PNG, as its ``savefig`` would, which draws twice: at first only to lay it out."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure.set_dpi(dpi)
    canvas: Any = FigureCanvasAgg(figure)
    canvas.print_png(file := io.BytesIO(), metadata=metadata)
    return file.getvalue()


def data_url(png: bytes) -> str:
    """Return the data: URL of a PNG file's content."""
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


def png_source(image: ArrayLike | torch.Tensor) -> str:
    """Return the data: URL of an image (see `image_array`) as PNG."""
    Image.fromarray(image_array(image)).save(file := io.BytesIO(), "PNG", optimize=True)
    return data_url(file.getvalue())


def plot_tag(plot: Callable[[list[Axes]], object], words: str, *, count: int = 1) -> str:
    """Return what `plot` draws on `count` axes as an HTML image with `words` as its alternative text."""
    figure = drawn((3.4 * count, 2.7), plot, ncols=count)
    figure.set_facecolor("white")
    return f'<img src="{data_url(png_of(figure, dpi=100))}" alt="{escape(words)}">'


@styled()
def new_axes(
    count: int, *, rows: int = 1, height_ratios: Sequence[float] | None = None, size: tuple[float, float] | None = None
) -> list[Axes]:
    """Return the axes, row by row, of a new pyplot figure in the style of these plots."""
    from matplotlib import pyplot

    size = (3.6 * count, 3.0 if rows == 1 else 4.6) if size is None else size
    options: Any = {"squeeze": False, "layout": "constrained", "height_ratios": height_ratios}
    return list(pyplot.subplots(rows, count, figsize=size, **options)[1].flat)


# These take matplotlib's style when they are made, not that of their axes, which may be a user's.


@styled()
def add_title(ax: Axes, title: object) -> None:
    """Write a title over `ax` in the style of these plots."""
    ax.set_title(literal(title))


@styled()
def add_row_title(ax: Axes, title: object) -> None:
    """Write a title to the left of `ax` in the style of these plots."""
    # At a distance in points: a share of a wide strip's width would push the title out of the figure.
    where: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points"}
    ax.annotate(literal(title), (0, 0.5), (-6, 0), ha="right", va="center", annotation_clip=False, **where)


@styled()
def add_legend(ax: Axes, **options: Any) -> None:
    """Draw a legend in the style of these plots."""
    ax.legend(**options)


def add_legend_below(ax: Axes, *, columns: int) -> None:
    """Draw a legend below the axis and its label, as far from it whatever the height of the plot."""
    from matplotlib.transforms import ScaledTranslation

    below = ax.transAxes + ScaledTranslation(0, -_BELOW_AXIS / 72, figure_of(ax).dpi_scale_trans)
    add_legend(ax, loc="upper center", bbox_to_anchor=(0.5, 0), bbox_transform=below, ncols=columns)


@styled()
def _add_colorbar(scale_of: Any, axes: list[Axes], **options: Any) -> None:
    figure_of(axes[0]).colorbar(scale_of, ax=axes, **options)


def flat_axes(axes: Sequence[Axes] | NDArray[Any], count: int, what: str) -> list[Axes]:
    """Return axes in one list; raise a ValueError, in which `what` says what is wanted, if they are not `count`."""
    flat = list(np.ravel(np.asarray(axes, dtype=object)))
    if len(flat) != count:
        raise ValueError(f"axes must be {what}, {count}, got {len(flat)}")
    return flat


def figure_of(ax: Axes) -> Figure:
    """Return the figure that axes are on."""
    figure = ax.get_figure(root=True)
    assert figure is not None  # an Axes that has been drawn on has one
    return figure

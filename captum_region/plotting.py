"""Plots of region maps and trainings, with matplotlib, which is imported when the first plot is drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage
    from numpy.typing import ArrayLike, NDArray

    from captum_region.calibration import Calibration

__all__ = [
    "plot_history",
    "plot_maps",
    "plot_region_map",
    "plot_reliability",
    "plot_saliency",
    "show_image",
]

COLORMAP = "inferno"
# Of Okabe and Ito, which the colour-blind can tell apart too.
LINE_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#8a6d00", "#000000", "#7f7f7f")

# Any: newer matplotlib wants its own type of dictionary here, older knows none.
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


def literal(text: object) -> str:
    r"""Return `text` as matplotlib draws it letter by letter: a dollar sign starts no formula.

    Examples
    --------
    >>> literal("$5 and $6")
    '\\$5 and \\$6'
    """
    return str(text).replace("$", r"\$")


def image_array(image: ArrayLike | torch.Tensor, name: str = "image") -> NDArray[Any]:
    """Return an image as matplotlib wants it.

    Parameters
    ----------
    image : Tensor or array-like, shape (C, height, width) or (height, width, C)
        uint8, or float in [0, 1]; C is 1 or 3. Where both readings fit, C comes first.
    name : str, default="image"
        What the errors call it.

    Returns
    -------
    ndarray, shape (height, width, 3), or (height, width) where C is 1
        Of the same values.

    Raises
    ------
    ValueError
        If it is no such image.
    """
    array = _numpy(image)
    if array.ndim != 3 or (array.shape[0] not in (1, 3) and array.shape[2] not in (1, 3)) or not array.size:
        raise ValueError(
            f"{name} must be one image of shape (C, height, width) or (height, width, C) with 1 or 3 channels, "
            f"got shape {array.shape}"
        )
    if array.dtype != np.uint8:
        in_range = array.dtype.kind == "f" and bool(((array >= 0) & (array <= 1)).all())
        if not in_range:
            raise ValueError(f"{name} must be uint8 or float in [0, 1], got {_described(array)}")
    if array.shape[0] in (1, 3):
        array = np.moveaxis(array, 0, -1)
    return array[..., 0] if array.shape[-1] == 1 else array


def show_image(ax: Axes, image: ArrayLike | torch.Tensor) -> None:
    """Draw an image on `ax`; what an image is, see `image_array`."""
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

    The scale is fixed and not that of the map, so that the maps of two images can be compared.

    Parameters
    ----------
    image : Tensor or array-like, shape (C, height, width) or (height, width, C), or None
        uint8, or float in [0, 1]. None draws the map alone, opaque.
    pixel_map : Tensor or array-like, shape (height, width)
        As `RegionAttribution.pixel_map` gives it for each image. Without an image, a map over regions will do.
    ax : Axes, optional
        Where to draw; by default in a new pyplot figure.
    vmin, vmax : float, default=0 and 1
        The values at the two ends of the colours.
    alpha : float, default=0.55
        The map's opacity over the image, in [0, 1].
    cmap : str, default="inferno"
        A matplotlib colour map.
    colorbar : bool, default=True
        Draw the scale beside.
    title : str, optional

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If image and map are none, differ in size, or the scale or `alpha` is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from matplotlib.figure import Figure
    >>> ax = plot_region_map(np.zeros((3, 8, 8)), np.eye(8), ax=Figure().subplots(), title="diagonal")
    >>> len(ax.images), ax.images[1].get_clim()
    (2, (0.0, 1.0))
    """
    values = _map_array(pixel_map, "pixel_map")
    _check_scale(vmin, vmax, alpha)
    picture = None if image is None else image_array(image)
    if picture is not None and picture.shape[:2] != values.shape:
        raise ValueError(
            f"pixel_map must be as large as image, {picture.shape[:2]}, got {values.shape}; "
            "RegionGrid.to_pixels turns a map over regions into one over pixels"
        )
    if ax is None:
        ax = new_axes(1)[0]
    if image is not None:
        show_image(ax, image)
    drawn = ax.imshow(values, vmin=vmin, vmax=vmax, cmap=cmap, alpha=None if picture is None else alpha)
    _finish_map(ax, drawn if colorbar else None, title)
    return ax


def plot_maps(
    maps: Mapping[str, ArrayLike | torch.Tensor],
    *,
    images: ArrayLike | torch.Tensor | Mapping[str, Any] | None = None,
    axes: Sequence[Axes] | NDArray[Any] | None = None,
    share_scale: bool = True,
    vmin: float = 0,
    vmax: float | None = None,
    alpha: float = 0.55,
    cmap: str = COLORMAP,
    colorbar: bool = True,
) -> Figure:
    """Draw maps side by side, such as the mean maps of several attributes.

    Parameters
    ----------
    maps : mapping of title to Tensor or array-like, shape (height, width)
    images : image, or mapping of the same titles to images, optional
        What to draw under all maps, or under each; see `plot_region_map`.
    axes : sequence of Axes, optional
        One a map; by default in a new pyplot figure.
    share_scale : bool, default=True
        One scale for all, so that they can be compared; otherwise each its own, with its own colour bar.
    vmin : float, default=0
        The lower end of the scale.
    vmax : float, optional
        The upper end; by default the largest value of all maps, or of each if they share no scale.
    alpha, cmap
        See `plot_region_map`.
    colorbar : bool, default=True
        Draw the scale: once if shared.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        If there is no map, the axes or images do not fit the maps, or `plot_region_map` refuses one.

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
        raise ValueError("maps must hold a map, got none")
    if isinstance(images, Mapping) and set(images) != set(arrays):
        raise ValueError(f"images must be of the titles of maps, {list(arrays)}, got {list(images)}")
    axes = flat_axes(new_axes(len(arrays)) if axes is None else axes, len(arrays), "one a map")
    largest = max(float(values.max()) for values in arrays.values())
    for ax, (title, values) in zip(axes, arrays.items(), strict=True):
        top = vmax if vmax is not None else largest if share_scale else float(values.max())
        plot_region_map(
            images[title] if isinstance(images, Mapping) else images,
            values,
            ax=ax,
            vmin=vmin,
            vmax=top if vmax is not None or top > vmin else vmin + 1,  # a constant map has no scale of its own
            alpha=alpha,
            cmap=cmap,
            colorbar=colorbar and not share_scale,
            title=title,
        )
    figure = figure_of(axes[0])
    if colorbar and share_scale:
        _add_colorbar(axes[0].images[-1], axes, fraction=0.05, pad=0.02)
    return figure


def plot_history(
    history: pd.DataFrame, *, axes: Sequence[Axes] | NDArray[Any] | None = None, title: str | None = None
) -> Figure:
    """Draw how a region classifier learned: the loss and, with validation data, the accuracy, by epoch.

    Parameters
    ----------
    history : DataFrame
        `RegionTraining.history`: columns ``epoch``, ``loss`` and, if there was validation data, ``valid_accuracy``.
    axes : sequence of Axes, optional
        One for the loss, and a second for the accuracy if it is there; by default in a new pyplot figure.
    title : str, optional
        Over the first.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        If a column is missing, there is no epoch, or the number of axes is not that of the curves.

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

    missing = {"epoch", "loss"} - set(history.columns)
    if missing or history.empty:
        raise ValueError(
            f"history must have columns epoch and loss and a row an epoch, got {len(history)} rows of "
            f"{list(history.columns)}"
        )
    labels = {"loss": "loss (nats)", "valid_accuracy": "validation accuracy"}
    curves = [column for column in labels if column in history and history[column].notna().any()]
    axes = flat_axes(
        new_axes(len(curves)) if axes is None else axes, len(curves), f"one a curve, of {', '.join(curves)}"
    )
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

    As Figure 2 of De Coninck et al. 2024: on the diagonal the classifier is as often right as it says.

    Parameters
    ----------
    calibration : Calibration, or mapping of name to Calibration
        From `captum_region.calibration.measure_calibration`; several are drawn into one diagram.
    axes : sequence of two Axes, optional
        For the diagram and for the histogram under it; by default in a new pyplot figure.
    title : str, optional

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        If there is no calibration or the axes are not two.

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
        raise ValueError("calibration must hold one, got none")
    if axes is None:
        axes = new_axes(1, rows=2, height_ratios=(3, 1))
    top, bottom = flat_axes(axes, 2, "one for the diagram and one for the histogram")
    low = min(float(curve.bins.loc[curve.bins["patches"] > 0, "lower"].min()) for curve in curves.values())
    top.plot([low, 1], [low, 1], color="#767676", linestyle="--", linewidth=1, label="as often right as it says")
    for (name, curve), color in zip(curves.items(), LINE_COLORS * len(curves), strict=False):
        full = curve.bins[curve.bins["patches"] > 0]
        confidence, accuracy = full["confidence"].to_numpy(), full["accuracy"].to_numpy()
        label = f"{name}: error {curve.error:.3f}" if name else f"calibration error {curve.error:.3f}"
        top.plot(confidence, accuracy, color=color, marker="o", markersize=3, linewidth=1, label=literal(label))
        share = full["patches"].to_numpy() / full["patches"].sum()
        edges = np.append(full["lower"].to_numpy(), full["upper"].iloc[-1])
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
    axes: NDArray[Any] | None = None,
    cmap: str = COLORMAP,
) -> Figure:
    """Draw the maps of several methods of the same images: a row a method, a column an image.

    Methods have units of their own. What all maps share, and what the measures of localisation look at, is the order
    of the pixels: a colour is the share of its map's pixels that are lower.

    Parameters
    ----------
    images : Tensor or array-like, shape (N, C, height, width)
        uint8, or float in [0, 1].
    maps : mapping of title to Tensor or array-like, shape (N, height, width)
    truth : Tensor or array-like of bool, shape (N, height, width), optional
        Where the attribute shows: outlined on each image and map.
    axes : array of Axes, one more row than there are maps and N columns, optional
        By default in a new pyplot figure.
    cmap : str, default="inferno"
        A matplotlib colour map.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        If there is no map or image, shapes differ, or the axes are not as many.

    Examples
    --------
    >>> import numpy as np
    >>> from matplotlib.figure import Figure
    >>> axes = Figure().subplots(2, 2)
    >>> figure = plot_saliency(np.zeros((2, 3, 8, 8)), {"eye": np.stack([np.eye(8)] * 2)}, axes=axes)
    >>> [text.get_text() for text in axes[1, 0].texts]
    ['eye']
    """
    from matplotlib.cm import ScalarMappable

    pictures = _numpy(images)
    arrays = {title: _numpy(values) for title, values in maps.items()}
    inside = None if truth is None else _numpy(truth).astype(bool)
    wanted = (len(pictures), *pictures.shape[2:])
    for name, array in {**{f"maps[{title!r}]": values for title, values in arrays.items()}, "truth": inside}.items():
        if array is not None and array.shape != wanted:
            raise ValueError(f"{name} must have shape {wanted}, one for each image, got {array.shape}")
    if not arrays or not len(pictures):
        raise ValueError(f"maps and images must hold at least one, got {len(arrays)} and {len(pictures)}")
    rows, columns = 1 + len(arrays), len(pictures)
    if axes is None:
        axes = np.array(new_axes(columns, rows=rows, size=(1.35 * columns + 1.8, 1.35 * rows + 0.6)))
    flat = flat_axes(axes, rows * columns, "a row for the images and one a map, of a column an image")
    for place, ax in enumerate(flat):
        row, number = divmod(place, columns)
        if row == 0:
            show_image(ax, pictures[number])
        else:
            values = list(arrays.values())[row - 1][number]
            ax.imshow(_ranks(_map_array(values, "maps")), vmin=0, vmax=1, cmap=cmap)
        if inside is not None and inside[number].any() and not inside[number].all():
            ax.contour(inside[number], levels=[0.5], colors="white", linewidths=0.8)
        if number == 0:
            add_row_title(ax, ["image", *arrays][row].replace(", ", "\n"))
        ax.set_axis_off()
    figure = figure_of(flat[0])
    scale = ScalarMappable(cmap=cmap)
    scale.set_clim(0, 1)
    label = "share of the map's pixels that are lower"
    _add_colorbar(scale, flat, location="bottom", fraction=0.02, pad=0.01, aspect=40, label=label)
    return figure


def _ranks(values: NDArray[Any]) -> NDArray[np.float64]:
    """Return the share of pixels that are lower, ties sharing their mean: 0.5 everywhere in a constant map."""
    from scipy.stats import rankdata

    ranks: NDArray[np.float64] = (rankdata(values) - 0.5).reshape(values.shape) / values.size
    return ranks


def _numpy(values: ArrayLike | torch.Tensor) -> NDArray[Any]:
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        # NumPy does not know bfloat16.
        return np.asarray(values.float() if values.dtype == torch.bfloat16 else values)
    return np.asarray(values)


def _described(array: NDArray[Any]) -> str:
    if array.dtype.kind not in "iuf":
        return str(array.dtype)
    return f"{array.dtype} from {array.min():g} to {array.max():g}"


def _map_array(values: ArrayLike | torch.Tensor, name: str) -> NDArray[Any]:
    array = _numpy(values)
    if array.ndim != 2 or not array.size:
        raise ValueError(f"{name} must be one map of shape (height, width), got shape {array.shape}")
    if array.dtype.kind not in "biuf" or not np.isfinite(array).all():
        raise ValueError(f"{name} must hold finite numbers, got {_described(array)}")
    return array.astype(float) if array.dtype.kind == "b" else array


def _check_scale(vmin: float, vmax: float, alpha: float) -> None:
    if not vmin < vmax:
        raise ValueError(f"vmin must be below vmax, got {vmin} and {vmax}")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must lie in [0, 1], got {alpha}")


def new_axes(
    count: int,
    *,
    rows: int = 1,
    height_ratios: Sequence[float] | None = None,
    size: tuple[float, float] | None = None,
) -> list[Axes]:
    """Return the axes, row by row, of a new pyplot figure in the style of these plots."""
    from matplotlib import pyplot, rc_context

    size = (3.6 * count, 3.0 if rows == 1 else 4.6) if size is None else size
    with rc_context(STYLE):
        _figure, axes = pyplot.subplots(
            rows, count, figsize=size, squeeze=False, layout="constrained", height_ratios=height_ratios
        )
    return list(axes.flat)


# What matplotlib styles when it is made, and not with its axes, which may have been made in another style.


def add_title(ax: Axes, title: object) -> None:
    """Write a title over `ax` in the style of these plots."""
    from matplotlib import rc_context

    with rc_context(STYLE):
        ax.set_title(literal(title))


def add_row_title(ax: Axes, title: object) -> None:
    """Write a title to the left of `ax` in the style of these plots."""
    from matplotlib import rc_context

    with rc_context(STYLE):
        ax.text(-0.08, 0.5, literal(title), transform=ax.transAxes, ha="right", va="center")


def add_legend(ax: Axes, **options: Any) -> None:
    """Draw a legend in the style of these plots."""
    from matplotlib import rc_context

    with rc_context(STYLE):
        ax.legend(**options)


def _add_colorbar(scale_of: Any, axes: list[Axes], **options: Any) -> None:
    from matplotlib import rc_context

    with rc_context(STYLE):
        figure_of(axes[0]).colorbar(scale_of, ax=axes, **options)


def flat_axes(axes: Sequence[Axes] | NDArray[Any], count: int, what: str) -> list[Axes]:
    """Return axes in one list; ValueError, which says what they should be, if they are not `count`."""
    flat = list(np.ravel(np.asarray(axes, dtype=object)))
    if len(flat) != count:
        raise ValueError(f"axes must be {what}, {count}, got {len(flat)}")
    return flat


def figure_of(ax: Axes) -> Figure:
    """Return the figure that axes are on."""
    figure = ax.get_figure(root=True)
    assert figure is not None  # an Axes that has been drawn on has one
    return figure


def _finish_map(ax: Axes, scale_of: AxesImage | None, title: str | None) -> None:
    ax.set_axis_off()
    if title is not None:
        add_title(ax, title)
    if scale_of is not None:
        _add_colorbar(scale_of, [ax], fraction=0.046, pad=0.03)

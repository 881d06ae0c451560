"""RegionMapDisplay: a region map over its image, drawn as scikit-learn's displays are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from captum_region.attribution import MultiScaleRegionAttribution, RegionAttribution
from captum_region.batches import Checked, as_floats, batches
from captum_region.plotting import figure_of, plot_region_map, scale_top

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike
    from torch import Tensor

    from captum_region.batches import ImageSource
    from captum_region.classifiers import RegionClassifier
    from captum_region.maps import RegionMaps


class RegionMapDisplay:
    """A pixel map over its image, drawn as scikit-learn's displays are.

    `from_estimator` computes the map, `from_maps` takes a stored one.

    Parameters
    ----------
    pixel_map : Tensor or array-like, shape (height, width)
    image : Tensor or array-like, shape (C, height, width) or (height, width, C), optional
        Drawn under the map, see `captum_region.plotting.plot_region_map`.
    name : str, optional
        The title of the plot.

    Attributes
    ----------
    ax_ : Axes
        The axes it was last drawn on.
    figure_ : Figure
        The figure of `ax_`.

    See Also
    --------
    captum_region.plotting.plot_region_map : The function that draws it.

    Examples
    --------
    >>> import torch
    >>> from matplotlib.figure import Figure
    >>> from captum_region import DenseRegionClassifier, RegionGrid
    >>> classifier = DenseRegionClassifier(RegionGrid(16, 8, 2), num_classes=2, random_state=0).eval()
    >>> display = RegionMapDisplay.from_estimator(classifier, torch.rand(4, 3, 16, 16), ax=Figure().subplots())
    >>> display.pixel_map.shape, display.image.shape, display.ax_.figure is display.figure_
    (torch.Size([16, 16]), (3, 16, 16), True)
    """

    ax_: Axes
    figure_: Figure

    def __init__(
        self, pixel_map: ArrayLike | Tensor, *, image: ArrayLike | Tensor | None = None, name: str | None = None
    ) -> None:
        self.pixel_map, self.image, self.name = pixel_map, image, name

    def plot(self, ax: Axes | None = None, *, name: str | None = None, **options: Any) -> RegionMapDisplay:
        """Draw the map.

        Parameters
        ----------
        ax : Axes, optional
            Where to draw; by default in a new pyplot figure.
        name : str, optional
            A title instead of the display's own.
        **options
            ``vmin``, ``vmax``, ``alpha``, ``cmap`` and ``colorbar`` of `captum_region.plotting.plot_region_map`; by
            default ``vmax`` is the map's largest value, rounded up to a tenth.

        Returns
        -------
        RegionMapDisplay
            Itself.
        """
        title = self.name if name is None else name
        options = {"vmax": scale_top(self.pixel_map)} | options
        self.ax_ = plot_region_map(self.image, self.pixel_map, ax=ax, title=title, **options)
        self.figure_ = figure_of(self.ax_)
        return self

    @classmethod
    def from_estimator(
        cls,
        estimator: RegionAttribution | MultiScaleRegionAttribution | RegionClassifier | Callable[..., Tensor],
        X: ImageSource,
        *,
        target: int | None = None,
        batch_size: int = 16,
        show_progress: bool = False,
        ax: Axes | None = None,
        name: str | None = None,
        **options: Any,
    ) -> RegionMapDisplay:
        """Compute the mean map of images and draw it over their mean.

        Parameters
        ----------
        estimator : attribution, RegionClassifier, or fitted mitigator
            An attribution, the first argument of `RegionAttribution`, or an object with a ``region_classifier_``
            such as a fitted `fairlearn_bridge.AttributionNoiseMitigator`.
        X : ndarray or Tensor, shape (N, C, height, width)
            uint8, or float in [0, 1], or another source of images as in `RegionAttribution.region_map`. One image,
            as ``X[:1]``, gives its own map.
        target : int, optional
            A class, as in `RegionAttribution.attribute`. Its map may have values below 0: set ``vmin``.
        batch_size : int, default=16
            Images at a time.
        show_progress : bool, default=False
            A progress bar on stderr.
        ax, name, **options
            As in `plot`.

        Returns
        -------
        RegionMapDisplay

        Raises
        ------
        TypeError, ValueError
            If the images or the estimator do not fit.
        """
        attribution = getattr(estimator, "region_classifier_", estimator)
        if not isinstance(attribution, RegionAttribution | MultiScaleRegionAttribution):
            attribution = RegionAttribution(attribution)
        images = attribution._checked(X, name="X")
        pixel_map = attribution.mean_pixels(Checked(images), target, batch_size=batch_size, show_progress=show_progress)
        total: Any = sum(as_floats(batch).double().sum(0) for batch in batches(images, 256))
        mean = (total / len(images)).clamp(0, 1)
        return cls(pixel_map, image=mean.cpu().numpy(), name=name).plot(ax, **options)

    @classmethod
    def from_maps(
        cls,
        maps: RegionMaps,
        index: int | None = None,
        *,
        image: ArrayLike | Tensor | None = None,
        ax: Axes | None = None,
        name: str | None = None,
        **options: Any,
    ) -> RegionMapDisplay:
        """Draw a map that `attribute_dataset` has stored.

        Parameters
        ----------
        maps : RegionMaps
        index : int, optional
            Which map; by default the mean of all.
        image : Tensor or array-like, optional
            As in `RegionMapDisplay`.
        ax, name, **options
            As in `plot`.

        Returns
        -------
        RegionMapDisplay
        """
        pixel_map = maps.grid.to_pixels(maps.mean(), sigma=maps.sigma) if index is None else maps.pixels(index)
        return cls(pixel_map, image=image, name=name).plot(ax, **options)

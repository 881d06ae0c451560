"""RegionAttribution: the confidence of a region classifier over all regions, as a Captum attribution."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from captum.attr import Attribution
from captum.log import log_usage
from torch import Tensor

from captum_region.batches import Checked, ImageData, ImageSource, as_floats, batches, check_images
from captum_region.classifiers import RegionClassifier, forward_regions
from captum_region.confidence import Confidence, log_softmax, resolve_confidence
from captum_region.grid import RegionGrid
from captum_region.progress import progress_bar

Target = int | list[int] | Tensor | None

# How far floats may leave [0, 1]: ten standard deviations of NoiseTunnel's noise, which has 1 by default.
_NOISE = 10


class TargetError(ValueError, AssertionError):
    """A target or input does not fit: a ValueError that is also the AssertionError of Captum's own methods."""


def class_evidence(logits: Tensor, target: Target) -> Tensor:
    """Return the evidence of each region for a class: its probability, rescaled so that a uniform output gives 0.

    Parameters
    ----------
    logits : Tensor, shape (N, classes, ...)
    target : int, list of N ints, or integer Tensor with 1 or N elements
        The class of all images, or of each.

    Returns
    -------
    Tensor, shape (N, ...)
        1 if the class is certain, 0 if all are equally likely, below 0 (down to -1 with two classes) if others are
        more likely. For the most likely class this is `captum_region.confidence.top_softmax`.

    Raises
    ------
    TypeError
        If a target is not an integer.
    TargetError
        If a target is not a class, or their number is neither 1 nor N. It is a ValueError and an AssertionError.
    ValueError
        If there are fewer than 2 classes.

    See Also
    --------
    captum_region.top_softmax : The same for the most likely class.
    """
    count, classes = logits.shape[:2]
    index = class_numbers(target, count).to(logits.device)
    if len(index) and not 0 <= int(index.min()) <= int(index.max()) < classes:
        raise TargetError(f"target must lie in 0 to {classes - 1}, got {int(index.min())} to {int(index.max())}")
    each = torch.arange(count, device=logits.device)
    probability = log_softmax(logits)[each, index.long().expand(count)].exp()
    return (probability - 1 / classes) / (1 - 1 / classes)


def class_numbers(target: Target, count: int) -> Tensor:
    """Return the class of all images, or the class of each of `count` images."""
    index = torch.as_tensor(target)
    if index.is_floating_point() or index.dtype == torch.bool:
        raise TypeError(f"target must be a class number or one for each image, got {target!r}")
    index = index.flatten()
    if len(index) not in (1, count):
        raise TargetError(f"target must be one class or one for each of the {count} images, got {len(index)}")
    return index


class RegionAttribution(Attribution):  # type: ignore[misc]
    """Where in an image the information about an attribute is.

    A region classifier sees each region of the image alone. Its confidence is the attribution of the region, and the
    attribution of a pixel is the mean over the regions that cover it. No explained model and no label is needed.

    Parameters
    ----------
    region_classifier : RegionClassifier, or callable (patches, region) -> logits
        A callable takes N x C x k x k patches and their N regions, and returns N x classes logits. Its mode (train or
        eval) is not changed.
    confidence : {"negative_entropy", "top_softmax", "margin"} or callable, default="negative_entropy"
        Maps logits (N, classes, ...) to certainty in [0, 1].
    grid : RegionGrid, optional
        The regions. Needed for a callable only: a region classifier has its own.
    sigma : float, optional
        For sharper pixel maps: regions count less the farther a pixel is from their centre, see
        `RegionGrid.to_pixels`.

    Raises
    ------
    TypeError, ValueError
        If the classifier is not callable, the grid is missing or not the classifier's, or the confidence is unknown.

    See Also
    --------
    MultiScaleRegionAttribution : The mean over several patch sizes.
    attribute_dataset : Stores the maps of a whole data set.
    RegionMapDisplay : Draws a map.

    References
    ----------
    De Coninck, Leroux, Simoens, "Mitigating Bias Using Model-Agnostic Data Attribution", CVPR Workshops 2024, section
    3.4 and Algorithm 1.

    Examples
    --------
    >>> from captum_region import DenseRegionClassifier
    >>> images = torch.zeros(2, 3, 16, 16)
    >>> classifier = DenseRegionClassifier(RegionGrid(16, 8, 2), num_classes=2, random_state=0).eval()
    >>> attribution = RegionAttribution(classifier)
    >>> attribution.attribute(images).shape
    torch.Size([2, 3, 16, 16])
    >>> attribution.region_map(images).shape, attribution.pixel_map(images).shape
    (torch.Size([2, 5, 5]), torch.Size([2, 16, 16]))
    """

    def __init__(
        self,
        region_classifier: RegionClassifier | Callable[[Tensor, Tensor], Tensor],
        confidence: str | Confidence = "negative_entropy",
        *,
        grid: RegionGrid | None = None,
        sigma: float | None = None,
    ) -> None:
        super().__init__(region_classifier)
        if not callable(region_classifier):  # an attribution or a store of maps has a grid too
            got = type(region_classifier).__name__
            raise TypeError(f"region_classifier must be a RegionClassifier or a callable, got {got}")
        own = getattr(region_classifier, "grid", None)
        own = own if isinstance(own, RegionGrid) else grid
        if not isinstance(own, RegionGrid):
            raise TypeError(f"grid must be given as a RegionGrid, as region_classifier has none; got {grid!r}")
        if grid not in (None, own):
            raise ValueError(f"grid must be left out, or that of region_classifier, {own}; got {grid}")
        if sigma is not None and not sigma > 0:
            raise ValueError(f"sigma must be above 0, got {sigma}")
        self.grid, self.sigma = own, sigma
        self.confidence = resolve_confidence(confidence)

    @log_usage()  # type: ignore[untyped-decorator]
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor],
        target: Target = None,
        additional_forward_args: Any = None,
        perturbations_per_eval: int = 256,
        show_progress: bool = False,
    ) -> Tensor | tuple[Tensor]:
        """Attribute an image's pixels.

        Parameters
        ----------
        inputs : Tensor, shape (N, C, height, width), or a 1-tuple of it
            uint8, or float in [0, 1]. Floats may exceed the range by up to 10, as with Captum's NoiseTunnel.
        target : int, list, Tensor or None, default=None
            None gives the confidence, in [0, 1]; a class, or one for each image, gives its evidence, see
            `class_evidence`.
        additional_forward_args : any, default=None
            Accepted for compatibility with Captum, and not used.
        perturbations_per_eval : int, default=256
            How many patches go through the classifier at once. It changes the memory needed, not the result. A
            classifier that computes all regions in one pass does not use it.
        show_progress : bool, default=False
            A progress bar over the passes, on stderr.

        Returns
        -------
        Tensor, shape (N, C, height, width), or a 1-tuple of it if `inputs` is one
            Contiguous, with the same values in each channel. It has the inputs' dtype if that is floating, else
            float32.

        Raises
        ------
        TypeError
            If the inputs are not a tensor, or neither uint8 nor float, or the target is not an integer.
        ValueError
            If the size or channels of the inputs are not those of the classifier, or they hold NaN or values of another
            scale such as 0 to 255. A `TargetError` if there is more than one tensor or the target does not fit.
        """
        is_tuple = isinstance(inputs, tuple)
        if is_tuple and len(inputs) != 1:
            raise TargetError(f"inputs must be one tensor of images, got a tuple of {len(inputs)}")
        images = inputs[0] if isinstance(inputs, tuple) else inputs
        if not isinstance(images, Tensor):
            raise TypeError(f"inputs must be a tensor of images, got {type(images).__name__}")
        self._checked(images, name="inputs", beyond=_NOISE)
        pixels = self._pixels(images, target, perturbations_per_eval, show_progress)
        dtype = images.dtype if images.is_floating_point() else torch.float32
        attributions = pixels.to(dtype)[:, None].expand_as(images).contiguous()
        return (attributions,) if is_tuple else attributions

    def attribute_future(self, *args: Any, **kwargs: Any) -> Any:
        """Raise NotImplementedError, as Captum's methods without an asynchronous form do."""
        raise NotImplementedError(f"attribute_future is not implemented for {type(self).__name__}")

    def region_map(
        self, images: ImageSource, target: Target = None, *, batch_size: int = 16, show_progress: bool = False
    ) -> Tensor:
        """Return the attribution of each region of each image.

        Parameters
        ----------
        images : ndarray or Tensor, shape (N, C, height, width)
            uint8, or float in [0, 1]. Only `batch_size` images at a time are on the classifier's device. Or
            `AttributeImages`, or a source that `captum_region.datasets.from_dataset` reads, resized to the grid's image
            size.
        target : int, list, Tensor or None, default=None
            As in `attribute`.
        batch_size : int, default=16
            Images at a time.
        show_progress : bool, default=False
            A progress bar on stderr.

        Returns
        -------
        Tensor, shape (N, rows, cols)
            float32, on the images' device (the CPU for an array).
        """
        images = self._checked(images)
        maps = torch.empty(len(images), *self.grid.shape, device=images.device if isinstance(images, Tensor) else None)
        # Checked against all images: a batch may happen to have as many as there are classes given.
        classes = None if target is None else class_numbers(target, len(images)).expand(len(images))
        start = 0
        for batch in batches(images, batch_size, show_progress=show_progress, desc="region maps"):
            part = None if classes is None else classes[start : start + len(batch)]
            maps[start : start + len(batch)] = self._region_map(batch, part)
            start += len(batch)
        return maps

    def pixel_map(
        self, images: ImageSource, target: Target = None, *, batch_size: int = 16, show_progress: bool = False
    ) -> Tensor:
        """Return the attribution of each pixel, N x height x width; parameters as in `region_map`."""
        regions = self.region_map(images, target, batch_size=batch_size, show_progress=show_progress)
        return self.grid.to_pixels(regions, sigma=self.sigma)

    def mean_map(
        self, images: ImageSource, target: Target = None, *, batch_size: int = 16, show_progress: bool = False
    ) -> Tensor:
        """Return the mean region map of all images, rows x cols, summed in float64.

        Parameters are as in `region_map`, but `target` is one class for all. Only one batch is held in memory.
        """
        images = self._checked(images)
        if not len(images):
            raise ValueError("images must hold at least one image for a mean, got none")
        if target is not None and len(torch.as_tensor(target).flatten()) != 1:
            raise TargetError(f"target must be one class for all images of a mean, got {target!r}")
        total = torch.zeros(self.grid.shape, dtype=torch.float64)
        for batch in batches(images, batch_size, show_progress=show_progress, desc="mean map"):
            total += self._region_map(batch, target).cpu().double().sum(0)
        return (total / len(images)).float()

    def mean_pixels(
        self, images: ImageSource, target: Target = None, *, batch_size: int = 16, show_progress: bool = False
    ) -> Tensor:
        """Return the mean pixel map of all images, height x width; parameters as in `mean_map`."""
        regions = self.mean_map(images, target, batch_size=batch_size, show_progress=show_progress)
        return self.grid.to_pixels(regions, sigma=self.sigma)

    def _checked(self, images: Any, **options: Any) -> ImageData:
        classifier = self.forward_func
        channels = classifier.in_channels if isinstance(classifier, RegionClassifier) else None
        return check_images(images, image_size=self.grid.image_size, channels=channels, **options)

    def _pixels(self, *arguments: Any) -> Tensor:
        return self.grid.to_pixels(self._region_map(*arguments), sigma=self.sigma)

    def _region_map(
        self, images: Tensor, target: Target, regions_per_pass: int = 256, show_progress: bool = False
    ) -> Tensor:
        classifier = self.forward_func
        options: dict[str, Any] = {"regions_per_pass": regions_per_pass}
        if show_progress:
            options["progress"] = partial(progress_bar, desc=f"{self.get_name()} attribution")
        forward_grid = getattr(classifier, "forward_grid", partial(forward_regions, classifier, self.grid))
        if not isinstance(classifier, RegionClassifier):
            images = as_floats(images)  # as its own code has no other way to know the scale
        with torch.no_grad():
            logits = forward_grid(images.to(getattr(classifier, "device", images.device)), **options)
            value = self.confidence(logits) if target is None else class_evidence(logits, target)
        if value.shape != (wanted := (len(images), *self.grid.shape)):
            raise ValueError(f"confidence must give one value for each region, {wanted}, got {tuple(value.shape)}")
        return value.to(images.device)


class MultiScaleRegionAttribution(Attribution):  # type: ignore[misc]
    """The mean of several region attributions with different patch sizes: small ones localise, large ones recognise.

    Not in the paper. Attributes that show in texture or colour (hair) are localised better with small patches; those
    that show in a shape (the sex) need large ones. docs/results/maps.md compares the mean with the large patch alone.

    Parameters
    ----------
    attributions : sequence of RegionAttribution or RegionClassifier
        At least one, all with the same image size.
    sigma : float or None, default=0.25
        For the attributions of the classifiers given, see `RegionAttribution`.

    Raises
    ------
    TypeError, ValueError
        If the sequence is empty, an element is invalid, or the image sizes differ.

    See Also
    --------
    RegionAttribution : With one patch size.

    Examples
    --------
    >>> from captum_region import DenseRegionClassifier
    >>> sizes = (4, 8)
    >>> attribution = MultiScaleRegionAttribution(
    ...     [DenseRegionClassifier(RegionGrid(16, k, 2), num_classes=2, random_state=0).eval() for k in sizes]
    ... )
    >>> attribution.attribute(torch.zeros(2, 3, 16, 16)).shape, attribution.mean_pixels(torch.zeros(5, 3, 16, 16)).shape
    (torch.Size([2, 3, 16, 16]), torch.Size([16, 16]))
    """

    def __init__(
        self, attributions: Sequence[RegionAttribution | RegionClassifier], *, sigma: float | None = 0.25
    ) -> None:
        parts = [
            part if isinstance(part, RegionAttribution) else RegionAttribution(part, sigma=sigma)
            for part in attributions
        ]
        if not parts:
            raise ValueError("attributions must hold at least one, got none")
        if len(sizes := {part.grid.image_size for part in parts}) > 1:
            raise ValueError(f"attributions must be of one image size, got {', '.join(map(str, sorted(sizes)))}")
        super().__init__(parts[0].forward_func)
        self.attributions = parts

    attribute = RegionAttribution.attribute
    attribute_future = RegionAttribution.attribute_future

    def pixel_map(
        self, images: ImageSource, target: Target = None, *, batch_size: int = 16, show_progress: bool = False
    ) -> Tensor:
        """Return the attribution of each pixel, N x height x width; see `RegionAttribution.pixel_map`."""
        return self._mean_of("pixel_map", images, target, batch_size=batch_size, show_progress=show_progress)

    def mean_pixels(
        self, images: ImageSource, target: Target = None, *, batch_size: int = 16, show_progress: bool = False
    ) -> Tensor:
        """Return the mean pixel map of all images, height x width; see `RegionAttribution.mean_pixels`."""
        return self._mean_of("mean_pixels", images, target, batch_size=batch_size, show_progress=show_progress)

    def _mean_of(self, method: str, images: ImageSource, target: Target, **options: Any) -> Tensor:
        images = Checked(self._checked(images))  # read and looked through once
        return _mean([getattr(part, method)(images, target, **options) for part in self.attributions])

    def _checked(self, images: Any, **options: Any) -> ImageData:
        first, *others = self.attributions
        images = first._checked(images, **options)
        for part in others:
            part._checked(Checked(images), **options)
        return images

    def _pixels(self, *arguments: Any) -> Tensor:
        return _mean([part._pixels(*arguments) for part in self.attributions])


def _mean(maps: list[Tensor]) -> Tensor:
    return sum(maps[1:], start=maps[0]) / len(maps)

"""AttributionNoise: from region maps to masks, and from masks to perturbed training images."""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from captum_region.batches import ImageData, ImageSource, as_floats, check_images, check_weights, take
from captum_region.labels import check_classes
from captum_region.randomness import RandomState, draw_seed
from fairlearn_bridge.schemes import CONTROLS, check_scheme
from fairlearn_bridge.validation import check_number

Perturbation = Callable[[Tensor, Tensor, torch.Generator], Tensor]


def grey_out(images: Tensor, mask: Tensor, generator: torch.Generator) -> Tensor:
    """Return `images` with 0.5, mid grey, where `mask` is True (De Coninck et al. 2024, section 4.1).

    Parameters
    ----------
    images : Tensor, shape (N, C, height, width)
    mask : bool Tensor, shape (N or 1, 1, height, width)
    generator : torch.Generator
        Not used.

    See Also
    --------
    additive_noise, transplant : The other perturbations.
    """
    return torch.where(mask, 0.5, images)


def additive_noise(images: Tensor, mask: Tensor, generator: torch.Generator, *, std: float = 0.5) -> Tensor:
    """Return `images` with Gaussian noise of `std` added where `mask` is True, brought back to [0, 1].

    De Coninck et al. 2024, section 4.1. Their code did something else, see `published_noise`; this touches the mask
    alone.

    Parameters
    ----------
    images : Tensor, shape (N, C, height, width)
        Floats in [0, 1].
    mask : bool Tensor, shape (N or 1, 1, height, width)
    generator : torch.Generator
        Draws the noise; on the device of `images`.
    std : float, default=0.5

    See Also
    --------
    grey_out, published_noise, transplant : The other perturbations.
    """
    noise = torch.randn(images.shape, generator=generator, device=images.device, dtype=images.dtype)
    return torch.where(mask, (images + std * noise).clamp(0, 1), images)


def published_noise(
    images: Tensor, mask: Tensor, generator: torch.Generator, *, std: float = 0.5, mean: float = 0.5, scale: float = 0.5
) -> Tensor:
    """Return `images` as the published code of De Coninck et al. 2024 perturbs them, for comparison.

    It adds the noise to normalised images, ``(images - mean) / scale``, and then clips whole images to [0, 1]: with the
    noise in the mask, all that is darker than the mean becomes the mean, all over the image. So the classifier is
    trained on other images than it sees later, mask or not.

    Parameters
    ----------
    images : Tensor, shape (N, C, height, width)
        Floats in [0, 1].
    mask : bool Tensor, shape (N or 1, 1, height, width)
    generator : torch.Generator
        Draws the noise; on the device of `images`.
    std : float, default=0.5
        Of the noise, in units of normalised images.
    mean, scale : float, default=0.5
        Of the normalisation.

    Returns
    -------
    Tensor, shape (N, C, height, width)
        In [0, 1], from `mean` on.

    See Also
    --------
    additive_noise : What the paper's text describes.

    Examples
    --------
    >>> image, nowhere = torch.tensor([0.2, 0.5, 0.8]).view(1, 1, 1, 3), torch.zeros(1, 1, 1, 3, dtype=torch.bool)
    >>> published_noise(image, nowhere, torch.Generator()).flatten()
    tensor([0.5000, 0.5000, 0.8000])
    """
    noise = torch.randn(images.shape, generator=generator, device=images.device, dtype=images.dtype)
    clipped = ((images - mean) / scale + std * noise * mask).clamp(0, 1)
    return (clipped * scale + mean).clamp(0, 1)


# Of the image's smaller side, the blur of a transplant's edges: soft over about twice that.
EDGE = 1 / 64


def transplant(images: Tensor, donors: Tensor, mask: Tensor, *, edge: float = EDGE) -> Tensor:
    """Return `images` with the pixels of `donors` where `mask` is True, blended over the mask's edge.

    Parameters
    ----------
    images, donors : Tensor, shape (N, C, height, width)
        Floats in [0, 1].
    mask : bool Tensor, shape (N or 1, 1, height, width)
    edge : float, default=1/64
        Standard deviation of the blur, of half a pixel at least, as a share of the smaller side; 0 for a hard seam.

    See Also
    --------
    grey_out, additive_noise : The other perturbations.
    """
    from torchvision.transforms.functional import gaussian_blur  # takes seconds to import

    weight = mask.to(images.dtype)
    if edge:
        sigma = max(edge * min(images.shape[-2:]), 0.5)
        # As wide as the reflection at the border allows: rows are images one pixel high.
        kernel = [min(2 * int(np.ceil(2 * sigma)) + 1, 2 * side - 1) for side in (images.shape[-1], images.shape[-2])]
        weight = gaussian_blur(weight, kernel_size=kernel, sigma=sigma)
    blended: Tensor = images * (1 - weight) + donors * weight
    return blended.clamp(0, 1)  # rounding may leave it


def quantile_mask(pixel_map: Tensor | NDArray[np.floating[Any]], quantile: float) -> Tensor:
    """Return which pixels of each map lie above its `quantile`.

    Parameters
    ----------
    pixel_map : Tensor or ndarray, shape (..., height, width)
        Such as ``pixel_map_`` of `AttributionNoiseMitigator`.
    quantile : float
        In [0, 1]: 0.7 marks the 30 % most informative pixels, 0 marks all, 1 none. The quantile is the least value
        that at least this share of the pixels does not exceed (the inverse of the empirical distribution).

    Returns
    -------
    bool Tensor, shape (..., height, width)

    See Also
    --------
    AttributionNoise : Perturbs where the mask is.

    Examples
    --------
    >>> quantile_mask(torch.tensor([[0.1, 0.2], [0.4, 0.3]]), 0.5)
    tensor([[False, False], [ True,  True]])
    """
    check_number("quantile", quantile, 0, 1)
    pixel_map = torch.as_tensor(pixel_map)
    flat = pixel_map.flatten(-2)
    # Rounded first: 0.7 * 10 is a little more than 7 in binary, which would count one pixel too many.
    rank = int(np.ceil(round(quantile * flat.shape[-1], 6)))
    if rank == 0:
        return torch.ones_like(pixel_map, dtype=torch.bool)
    return (flat > flat.kthvalue(rank, dim=-1, keepdim=True).values).view(pixel_map.shape)


def protect(pixel_maps: Tensor, target_map: Tensor, weight: float = 1.0) -> Tensor:
    """Return maps that are high where images tell much about the spurious attribute and little about the target.

    Parameters
    ----------
    pixel_maps : Tensor, shape (N, height, width)
        Confidence about the confounder.
    target_map : Tensor, shape (height, width)
        Confidence about the target.
    weight : float, default=1
        Of the target's map, which is subtracted; every map counts as a share of its maximum.

    Returns
    -------
    Tensor, shape (N, height, width)
        At most 1.

    Examples
    --------
    >>> protect(torch.tensor([[[0.2, 0.1]]]), torch.tensor([[0.5, 0.0]]))
    tensor([[[0.0000, 0.5000]]])
    """

    def of_maximum(maps: Tensor) -> Tensor:
        return maps / maps.amax((-2, -1), keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)

    return of_maximum(pixel_maps) - weight * of_maximum(target_map)


def shift_elsewhere(mask: Tensor) -> tuple[int, int]:
    """Return the circular shift, in rows and columns, that takes `mask` where it overlaps itself least.

    Among equally good shifts, the shortest. For a control: the same shape and area over other pixels.

    Parameters
    ----------
    mask : bool Tensor, shape (height, width)

    Examples
    --------
    >>> mask = torch.zeros(4, 4, dtype=torch.bool)
    >>> mask[0] = True
    >>> shift_elsewhere(mask)
    (1, 0)
    """
    height, width = mask.shape
    spectrum = torch.fft.fft2(mask.double())
    overlap = torch.fft.ifft2(spectrum.abs() ** 2).real.round()
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    length = torch.minimum(rows, height - rows) ** 2 + torch.minimum(columns, width - columns) ** 2
    # Overlap counts first, length breaks ties.
    best = int((overlap.cpu() * (length.max() + 1) + length).argmin())
    return best // width, best % width


@dataclass(eq=False, repr=False)
class AttributionNoise:
    """Perturb the pixels of training images that are most informative about a spurious attribute.

    A scheme is a reach and a perturbation. The reach: ``general`` takes the mean map of all images, so that the same
    pixels change in each; ``specific`` takes each image's own map. The perturbation: ``mask`` greys out, ``noise``
    adds Gaussian noise (both De Coninck et al. 2024, section 4.1), ``transplant`` replaces the pixels, with soft
    edges, by those of another training image, in half of the images of each batch. That image is drawn so that within
    each class all values of the spurious attribute become equally frequent, each image as its weight has it, as far as
    that share allows: from the same class if it has an image with that value, else from any. A specific transplant
    takes the pixels of both images' masks: where the old value shows, and where the new one will.

    Parameters
    ----------
    scheme : {"general_mask", "general_noise", "general_transplant", "specific_mask", "specific_noise", \
"specific_transplant"}, default="specific_transplant"
    quantile : float, default=0.5
        In [0, 1]; pixels above this quantile of the map change, see `quantile_mask`.
    noise_std : float, default=0.5
        Standard deviation of the noise, for images in [0, 1].
    perturbation : callable, optional
        (images, mask, generator) -> images, such as `published_noise`, used in place of the scheme's: float images in
        [0, 1], N x C x H x W, a bool mask, N x 1 x H x W, and the generator to draw from. The scheme then decides the
        reach alone.
    control : {"elsewhere", "random"}, optional
        Change other pixels than those found, as many of them: ``elsewhere`` moves the masks, as they are, to where the
        mean mask overlaps itself least, ``random`` scatters them. Where these do as well, the map adds nothing.
    transplant_share : float, default=0.5
        Share of the images of a batch that get a transplant, in [0, 1].
    edge : float, default=1/64
        How soft the edges of transplants are, see `fairlearn_bridge.noise.transplant`.

    Attributes
    ----------
    mask_ : bool Tensor, shape (1, height, width), or (N, height, width) for specific schemes
        Where images change.

    See Also
    --------
    AttributionNoiseMitigator : Finds the maps, and trains a classifier with the perturbation.
    fit_noise, PerturbedDataset : Find the maps, and perturb, for a training loop of one's own.
    quantile_mask : The mask of a map.

    References
    ----------
    De Coninck, Leroux, Simoens, "Mitigating Bias Using Model-Agnostic Data Attribution", CVPR Workshops 2024.
    """

    scheme: str = "specific_transplant"
    quantile: float = 0.5
    noise_std: float = 0.5
    _: KW_ONLY
    perturbation: Perturbation | None = None
    control: str | None = None
    transplant_share: float = 0.5
    edge: float = EDGE

    @property
    def is_transplant(self) -> bool:
        """Whether pixels come from other images."""
        return self.scheme.endswith("_transplant") and self.perturbation is None

    @property
    def is_general(self) -> bool:
        """Whether all images share one mask."""
        return self.scheme.startswith("general_")

    @property
    def num_images(self) -> int | None:
        """How many images it was fitted to; None where it works for any, as a general mask and noise do."""
        if self.donors_ is not None:
            return len(self.donors_.images)
        return None if self.is_general else len(self.mask_)

    def validate(self) -> None:
        """Raise TypeError or ValueError if a parameter is out of range."""
        check_scheme(self.scheme)
        check_number("quantile", self.quantile, 0, 1)
        check_number("noise_std", self.noise_std, 0)
        check_number("transplant_share", self.transplant_share, 0, 1)
        check_number("edge", self.edge, 0)
        if self.control not in (None, *CONTROLS):
            raise ValueError(f"control must be None or one of {', '.join(CONTROLS)}, got {self.control!r}")
        if self.perturbation is not None and not callable(self.perturbation):
            raise TypeError(f"perturbation must be callable, got {self.perturbation!r}")

    def fit(
        self,
        pixel_maps: Tensor | NDArray[np.floating[Any]],
        images: ImageSource | None = None,
        confounder: ArrayLike | None = None,
        *,
        labels: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        random_state: RandomState = None,
    ) -> Self:
        """Find the pixels to change.

        Parameters
        ----------
        pixel_maps : Tensor or ndarray, shape (N, height, width)
            Confidence about the spurious attribute of each training image. General schemes use their mean only, and
            also take that alone, as 1 x height x width.
        images : ndarray or Tensor, shape (N, C, height, width), optional
            The training images: the donors of transplants.
        confounder : array-like of shape (N,), optional
            The spurious attribute's value in each; for transplants.
        labels : array-like of shape (N,), optional
            The target's class of each, within which transplants balance the spurious attribute; by default one class.
        sample_weight : array-like of shape (N,), optional
            How much each image counts in training, for that balance; by default all alike. One of weight 0 is no donor.
        random_state : int, NumPy generator or None, default=None
            Decides the pixels of the control ``random``.

        Returns
        -------
        self

        Raises
        ------
        TypeError, ValueError
            If a parameter or the data do not fit, by name.
        """
        self.validate()
        pixel_maps = torch.as_tensor(pixel_maps)
        if pixel_maps.ndim != 3 or not pixel_maps.isfinite().all():
            got = "infinite or NaN" if pixel_maps.ndim == 3 else tuple(pixel_maps.shape)
            raise ValueError(f"pixel_maps must be finite, of shape (N, height, width), got {got}")
        if images is not None:
            images = check_images(images)
            wanted = (len(pixel_maps) if self.is_general else len(images), *images.shape[2:])
            if pixel_maps.shape != wanted:
                raise ValueError(f"pixel_maps must have shape {tuple(wanted)}, got {tuple(pixel_maps.shape)}")
        mean_mask = quantile_mask(pixel_maps.mean(0), self.quantile)
        self.mask_ = mean_mask[None] if self.is_general else quantile_mask(pixel_maps, self.quantile)
        if self.control == "elsewhere":
            self.mask_ = self.mask_.roll(shift_elsewhere(mean_mask), dims=(1, 2))
        elif self.control == "random":
            generator = np.random.default_rng(draw_seed(random_state))
            flat = self.mask_.flatten(1)
            # All masks alike: as many pixels are in two masks as before, of which transplants change either.
            places = torch.from_numpy(generator.permuted(np.arange(flat.shape[1])))
            self.mask_ = flat[:, places.to(flat.device)].view(self.mask_.shape)
        self.donors_ = None
        if self.is_transplant:
            if images is None or confounder is None:
                raise ValueError(f"images and confounder must be given for {self.scheme}: they are its donors")
            count = len(images)
            values = check_classes(confounder, count, name="confounder", least=2)
            classes = check_classes(np.zeros(count) if labels is None else labels, count, name="labels")
            classes, values = (np.unique(each, return_inverse=True)[1] for each in (classes, values))
            weights = None if sample_weight is None else check_weights(sample_weight, count)
            self.donors_ = _Donors(images, classes, values, self.transplant_share, weights)
        return self

    def __call__(self, images: Tensor, index: Tensor, generator: torch.Generator) -> Tensor:
        """Perturb a batch; what is random is drawn anew in each call.

        Parameters
        ----------
        images : Tensor, shape (N, C, height, width)
            Floats in [0, 1].
        index : integer Tensor, shape (N,)
            Their positions in the maps given to `fit`.
        generator : torch.Generator
            On the images' device.

        Returns
        -------
        Tensor, shape (N, C, height, width)
            In [0, 1]; `images` itself is left as it was.
        """
        mask = self._masks(index, images.device)
        if self.perturbation is not None:
            return self.perturbation(images, mask, generator)
        if self.scheme.endswith("_mask"):
            return grey_out(images, mask, generator)
        if self.scheme.endswith("_noise"):
            return additive_noise(images, mask, generator, std=self.noise_std)
        assert self.donors_ is not None
        donor = self.donors_.draw(index, generator)
        chosen = torch.rand(len(images), generator=generator, device=images.device) < self.transplant_share
        perturbed = images.clone()
        if chosen.any():  # the others need no donor's pixels
            donor = donor[chosen.cpu()]
            donors = as_floats(take(self.donors_.images, donor.numpy())).to(images)
            where = mask[chosen] | self._masks(donor, images.device)
            perturbed[chosen] = transplant(images[chosen], donors, where, edge=self.edge)
        return perturbed

    def _masks(self, index: Tensor, device: torch.device) -> Tensor:
        """Return the mask of each image at `index`, N x 1 x height x width."""
        if self.is_general:
            return self.mask_.to(device).expand(len(index), 1, -1, -1)
        return self.mask_[index.to(self.mask_.device), None].to(device)


class _Donors:
    """The donors of transplants, drawn so that within each class all spurious values become equally frequent."""

    def __init__(
        self,
        images: ImageData,
        classes: NDArray[Any],
        code: NDArray[Any],
        share: float,
        weights: NDArray[np.float64] | None = None,
    ) -> None:
        self.images, self.classes = images, torch.from_numpy(classes)
        weights = np.ones(len(code)) if weights is None else weights
        weighed = np.zeros((classes.max() + 1, code.max() + 1))
        np.add.at(weighed, (classes, code), weights)
        total = weighed.sum(1, keepdims=True)
        there: NDArray[np.bool_] = weighed.sum(0) > 0
        # What is left of an even share once the untouched images have theirs.
        lacking = (there / there.sum() - (1 - share) * weighed / np.where(total > 0, total, 1)).clip(min=0)
        lacking[lacking.sum(1) == 0] = there  # no transplant at all
        self.probability = torch.from_numpy(lacking / lacking.sum(1, keepdims=True))
        self.pools = [
            [np.flatnonzero((code == v) & (weights > 0) & ((classes == c) | ~own[v])) for v in range(len(there))]
            for c, own in enumerate(weighed > 0)
        ]

    def __deepcopy__(self, memo: Any) -> Self:
        """Return itself, which nothing changes: a clone of an estimator must not copy all training images."""
        return self

    def draw(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """Return the position of a donor for each image at `index`."""
        return self.draw_with(self.draw_values(index, generator), index, generator)

    def draw_values(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """Return the spurious value, as its place in sorted order, that each image at `index` is to get."""
        probability = self.probability[self.classes[index.cpu()]].to(generator.device)
        return torch.multinomial(probability, 1, generator=generator).squeeze(1).cpu()

    def draw_with(self, values: Tensor, index: Tensor, generator: torch.Generator) -> Tensor:
        """Return the position of a donor with the value wanted for each image at `index`."""
        chance = torch.rand(len(index), generator=generator, device=generator.device, dtype=torch.float64).cpu()
        classes = self.classes[index.cpu()]
        pools = [self.pools[c][v] for c, v in zip(classes.tolist(), values.tolist(), strict=True)]
        drawn = [pool[int(where * len(pool))] for pool, where in zip(pools, chance.tolist(), strict=True)]
        return torch.tensor(np.array(drawn, dtype=np.int64))

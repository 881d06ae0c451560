"""Distortion: what happens to images on their way, at several severities, by torchvision's transforms."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from captum_region.randomness import seeded
from fairlearn_bridge.audit.codecs.pillow import PillowCodec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

Distort = Callable[[Tensor, Any], Tensor]


def _blur(images: Tensor, sigma: float) -> Tensor:
    # Three standard deviations on either side, as far as the image's reflection at its edges reaches.
    height, width = (2 * min(math.ceil(3 * sigma), side - 1) + 1 for side in images.shape[-2:])
    return F.gaussian_blur(images, [width, height], [sigma, sigma])


def _noise(images: Tensor, std: float) -> Tensor:
    noisy = F.gaussian_noise(F.to_dtype(images, torch.float32, scale=True), sigma=std, clip=True)
    return noisy.mul(255).round().byte()


def _brightness(images: Tensor, factor: float) -> Tensor:
    return F.adjust_brightness(_coloured(images), factor)


def _contrast(images: Tensor, factor: float) -> Tensor:
    return F.adjust_contrast(_coloured(images), factor)


def _coloured(images: Tensor) -> Tensor:
    if images.shape[1] not in (1, 3):
        raise ValueError(f"images must have 1 or 3 channels for brightness and contrast, got {images.shape[1]}")
    return images


def _downsampling(images: Tensor, factor: float) -> Tensor:
    size = list(images.shape[-2:])
    small = F.resize(images, [max(1, round(side / factor)) for side in size], antialias=True)
    return F.resize(small, size, antialias=True)


def _jpeg(images: Tensor, quality: float) -> Tensor:
    # torchvision's own JPEG is deprecated.
    codec = PillowCodec("jpeg", quality)
    channels, height, width = images.shape[1:]
    return torch.from_numpy(codec.decode(codec.encode(images.numpy()), (channels, height, width)))


def _occlusion(images: Tensor, share: float) -> Tensor:
    # Of the image's shape. torchvision's RandomErasing leaves an image as it is where a side is less than a pixel.
    height, width = (max(1, round(side * math.sqrt(share))) for side in images.shape[-2:])
    top, left = (int(torch.randint(room + 1, ())) for room in (images.shape[-2] - height, images.shape[-1] - width))
    return F.erase(images, top, left, height, width, torch.tensor(128, dtype=images.dtype))


class _Known(NamedTuple):
    """What a built-in distortion does, how severe it is by default, and between which severities."""

    function: Distort
    severities: tuple[float, ...]
    range: tuple[float, float]
    is_random: bool = False


DISTORTIONS = {
    "blur": _Known(_blur, (1, 2, 4), (0.1, 100)),
    "noise": _Known(_noise, (0.05, 0.1, 0.2), (0, 10), is_random=True),
    "brightness": _Known(_brightness, (0.5, 0.7, 1.4), (0, 10)),
    "contrast": _Known(_contrast, (0.25, 0.5, 2), (0, 10)),
    "downsampling": _Known(_downsampling, (2, 4, 8), (1, 1000)),
    "jpeg": _Known(_jpeg, (30, 10, 5), (1, 100)),
    "occlusion": _Known(_occlusion, (0.05, 0.1, 0.25), (0.001, 0.9), is_random=True),
}


@dataclass(frozen=True)
class Distortion:
    """A distortion of images, at one or more severities.

    The built-in ones, by torchvision's transforms, and the unit of their severity: ``"blur"`` (Gaussian, the standard
    deviation in pixels), ``"noise"`` (Gaussian, the standard deviation of brightness in [0, 1]), ``"brightness"`` and
    ``"contrast"`` (a factor, 1 changes nothing), ``"downsampling"`` (a factor; the image is enlarged again),
    ``"jpeg"`` (quality, by Pillow) and ``"occlusion"`` (by a grey rectangle somewhere, of the image's shape; its share
    of the image).

    Parameters
    ----------
    name : str
        Of a built-in distortion, or any with a `function`.
    severities : sequence, optional
        From mild to severe; needed with a `function`. By default those of the built-in distortion.
    function : callable, optional
        (images, severity) -> images, both Tensors of uint8, N x C x height x width; in place of a built-in distortion.
    is_random : bool, optional
        Whether `function` draws from torch's global generator. It then gets one image at a time, with the generator at
        a seed that depends on the audit's and on the number of the image within its group: the n-th image of every
        group is distorted by the same draw.

    Raises
    ------
    ValueError
        If there is no such distortion, or a severity is out of range.

    See Also
    --------
    audit : Also takes a plain function of images as a degradation.

    Examples
    --------
    >>> Distortion("blur", [1, 3]).severities
    (1, 3)
    >>> inverted = Distortion("inverted", [1], lambda images, _: 255 - images)
    """

    name: str
    severities: Sequence[Any] = ()
    function: Distort | None = None
    is_random: bool | None = None

    def __post_init__(self) -> None:
        given = tuple(self.severities)
        if self.function is None:
            if self.name not in DISTORTIONS:
                raise ValueError(f"name must be one of {', '.join(DISTORTIONS)} without a function, got {self.name!r}")
            if self.is_random is not None:
                raise ValueError(f"is_random must be left out without a function, got {self.is_random}")
            known = DISTORTIONS[self.name]
            low, high = known.range
            given = given or known.severities
            for each in given:
                is_number = isinstance(each, int | float | np.number) and not isinstance(each, bool)
                if not (is_number and low <= each <= high):
                    raise ValueError(f"severities of {self.name} must be numbers in [{low}, {high}], got {each!r}")
            if self.name == "jpeg" and any(each % 1 for each in given):
                raise ValueError(f"severities of jpeg must be integers, got {given}")
            object.__setattr__(self, "function", known.function)
            object.__setattr__(self, "is_random", known.is_random)
        elif not given:
            raise ValueError("severities must be given with a function, at least one, got none")
        object.__setattr__(self, "severities", given)

    def __call__(self, images: NDArray[np.uint8], severity: Any, seeds: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return images N x C x height x width distorted, each with its own seed if there is anything random."""
        assert self.function is not None  # __post_init__ has set it
        tensor = torch.from_numpy(np.array(images))
        if not self.is_random:
            return _as_array(self.function(tensor, severity))
        distorted = []
        # `seeded` restores the generator that all transforms draw from; seeding only that is a hundred times faster.
        with seeded(0):
            for image, seed in zip(tensor, seeds.tolist(), strict=True):
                torch.default_generator.manual_seed(seed)
                distorted.append(_as_array(self.function(image[None], severity)))
        return np.concatenate(distorted)


def _as_array(images: Any) -> NDArray[np.uint8]:
    return images.numpy(force=True) if isinstance(images, Tensor) else images

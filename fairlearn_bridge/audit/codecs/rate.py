"""quality_for_rate: the quality with which a codec reaches a rate."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from joblib import Parallel, delayed

from captum_region.batches import as_bytes
from fairlearn_bridge.audit.codecs.base import Codec, calibration_images
from fairlearn_bridge.validation import check_number

if TYPE_CHECKING:
    from collections.abc import Callable

    from captum_region.batches import ImageSource

# With a quality that is not an integer, bisection ends when its interval is so small a part of the range.
_STEPS = 1000
# The size of some codecs, such as WebP, is not monotone in quality: so many qualities around the one found are tried.
_AROUND = 3


class RateReached(NamedTuple):
    """A quality, the bits per pixel that it takes on the calibration images, and the codec with this quality."""

    quality: float
    rate: float
    codec: Codec


def quality_for_rate(
    codec: Codec | Callable[[Any], Codec],
    images: ImageSource,
    bpp: float,
    *,
    qualities: tuple[float, float] | None = None,
    n_jobs: int | None = None,
) -> RateReached:
    """Find the highest quality whose rate is at most `bpp`, by bisection.

    The rate is the mean size of the files of a calibration set, containers included. As a codec's size may not be
    monotone in quality, three qualities on either side of the one found are tried too.

    Parameters
    ----------
    codec : codec or callable
        A codec with ``qualities`` and ``at_quality``, as `PillowCodec` and `PCACodec` have; or a function quality ->
        codec, with `qualities`.
    images : ndarray or Tensor, shape (N, C, height, width)
        The calibration set, uint8 or float in [0, 1]; some hundred images of the kind to be audited, of the same size.
    bpp : float
        Bits per pixel, above 0.
    qualities : (number, number), optional
        The lowest and the highest quality to try: integers where a quality is one. By default the codec's own.
    n_jobs : int, optional
        Images at a time, through joblib.

    Returns
    -------
    RateReached
        ``quality``, ``rate`` and ``codec``.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit, or the rate cannot be reached: the message names the lowest that can.

    Examples
    --------
    >>> from captum_region.datasets import make_faces
    >>> from fairlearn_bridge.audit.codecs import PillowCodec
    >>> faces = make_faces(10, 64, random_state=0).images
    >>> reached = quality_for_rate(PillowCodec("webp", 50), faces, 0.5)
    >>> reached.rate <= 0.5 and reached.codec == PillowCodec("webp", reached.quality)
    True
    """
    check_number("bpp", bpp, 0, inside=True)
    factory, (lowest, highest) = _factory(codec, qualities)
    calibration = as_bytes(calibration_images(images)[:])
    is_integer = all(isinstance(end, int | np.integer) for end in (lowest, highest))
    last = int(highest - lowest) if is_integer else _STEPS * (lowest < highest)
    step = 1.0 if is_integer else (highest - lowest) / _STEPS
    rates: dict[int, float] = {}

    def quality(index: int) -> float:
        return int(lowest + index) if is_integer else min(float(highest), lowest + index * step)

    def rate(index: int) -> float:
        if index not in rates:
            rates[index] = mean_rate(factory(quality(index)), calibration, n_jobs)
        return rates[index]

    low, high = 0, last
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if rate(middle) <= bpp else (low, middle)
    for index in range(max(0, low - _AROUND), min(last, low + 1 + _AROUND) + 1):
        rate(index)
    fitting = [index for index, value in rates.items() if value <= bpp]
    if not fitting:
        rate(last)
        least = min(rates, key=lambda index: rates[index])
        raise ValueError(
            f"bpp must be a rate that the codec reaches; the lowest found is {math.ceil(rates[least] * 1e4) / 1e4:g}, "
            f"with quality {quality(least):g}; got {bpp:g}"
        )
    best = max(fitting)
    return RateReached(quality(best), rates[best], factory(quality(best)))


def mean_rate(codec: Codec, images: Any, n_jobs: int | None = None) -> float:
    """Return the bits per pixel of the files of images, N x C x height x width of uint8, on average."""
    jobs = n_jobs if getattr(codec, "threads", False) else 1
    parts = [images[start : start + 16] for start in range(0, len(images), 16)]
    data = Parallel(n_jobs=jobs, backend="threading")(delayed(codec.encode)(part) for part in parts)
    total = sum(len(one) for part in data for one in part)
    return float(8 * total / (len(images) * images.shape[2] * images.shape[3]))


def _factory(codec: Any, qualities: tuple[float, float] | None) -> tuple[Callable[[Any], Codec], tuple[float, float]]:
    if hasattr(codec, "at_quality"):
        ends = codec.qualities if qualities is None else qualities
        factory: Callable[[Any], Codec] = codec.at_quality
    elif not callable(codec):
        raise TypeError(
            f"codec must have qualities and at_quality, or be a function quality -> codec; got {type(codec).__name__}"
        )
    elif qualities is None:
        raise ValueError("qualities must be given, the lowest and the highest, where codec is a function")
    else:
        factory, ends = codec, qualities
    if len(ends) != 2 or not ends[0] <= ends[1]:
        raise ValueError(f"qualities must be the lowest and the highest quality, got {ends}")
    return factory, (ends[0], ends[1])

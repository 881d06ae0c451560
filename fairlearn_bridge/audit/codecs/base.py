"""Codec: what turns images into bytes and back; and what codecs check of both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from captum_region.batches import check_images

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from captum_region.batches import ImageData, ImageSource

Shape = tuple[int, int, int]


@runtime_checkable
class Codec(Protocol):
    """Any object with these two methods is a codec.

    It may also have a ``name`` and a ``severity``, such as its quality, which tables show; ``threads``, whether several
    threads may use it at once (by default they do not); ``overhead(shape)``, the bytes of a file's container (by
    default the file of a flat grey image, which is all container to a codec that is not learned); and, for
    `quality_for_rate`, ``qualities``, the lowest and highest quality, and ``at_quality(quality)``, the same codec with
    another quality, where more is better.
    """

    def encode(self, images: NDArray[np.uint8]) -> list[bytes]:
        """Return the bytes of each image of N x C x height x width."""

    def decode(self, data: Sequence[bytes], shape: Shape) -> NDArray[np.uint8]:
        """Return the images, N x C x height x width, each of `shape`, (C, height, width).

        Raises
        ------
        ValueError
            If bytes are truncated or not this codec's, or hold an image of another shape.
        """


def check_uint8(images: Any) -> NDArray[np.uint8]:
    """Return images as an array of uint8, N x C x height x width; TypeError or ValueError if they are not that."""
    if getattr(images, "dtype", None) != np.uint8 or np.ndim(images) != 4:
        got = f"{getattr(images, 'dtype', type(images).__name__)}, shape {np.shape(images)}"
        raise TypeError(f"images must be a uint8 array of shape (N, channels, height, width), got {got}")
    return np.asarray(images)


def calibration_images(images: ImageSource) -> ImageData:
    """Return checked images to fit or measure a codec on; ValueError if there are none."""
    checked = check_images(images)
    if not len(checked):
        raise ValueError("images must hold an image, got none")
    return checked


def write_number(value: int) -> bytes:
    r"""Return a number of at least 0 in as few bytes of 7 bits as it needs.

    Examples
    --------
    >>> write_number(5), write_number(300)
    (b'\x05', b'\xac\x02')
    """
    written = bytearray()
    while value > 127:
        written.append(value & 127 | 128)
        value >>= 7
    written.append(value)
    return bytes(written)


def read_numbers(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield the numbers that `write_number` wrote, each with the position of the byte after it.

    Raises
    ------
    ValueError
        If the last number has no end.
    """
    value, shift = 0, 0
    for position, byte in enumerate(data, 1):
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            yield value, position
            value, shift = 0, 0
    if shift:
        raise ValueError("they are truncated")

"""PillowCodec: JPEG, JPEG 2000, WebP and AVIF through Pillow, JPEG XL and HEIC through its plugins."""

from __future__ import annotations

import importlib
import io
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from fairlearn_bridge.audit.codecs.base import check_uint8
from fairlearn_bridge.validation import check_number

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from fairlearn_bridge.audit.codecs.base import Shape


@dataclass(frozen=True)
class _Format:
    """What Pillow calls a format, the range of its quality, and how low rates are reached."""

    name: str
    qualities: tuple[float, float]
    settings: Mapping[str, Any]
    # What Pillow calls the setting of chroma subsampling.
    subsampling: str | None = None
    plugin: str | None = None


FORMATS = {
    "jpeg": _Format("JPEG", (1, 100), {"optimize": True, "progressive": True}, "subsampling"),
    "jpeg2000": _Format("JPEG2000", (0.1, 100.0), {"no_jp2": True, "irreversible": True, "quality_mode": "rates"}),
    "webp": _Format("WEBP", (0, 100), {"method": 4}),
    # One thread an image: images are encoded in parallel.
    "avif": _Format("AVIF", (0, 100), {"speed": 8, "max_threads": 1}, "subsampling"),
    "jpegxl": _Format("JXL", (1, 100), {}, plugin="pillow_jxl"),
    "heic": _Format("HEIF", (0, 100), {}, "chroma", plugin="pillow_heif"),
}
SUBSAMPLINGS = ("4:4:4", "4:2:2", "4:2:0")


@dataclass(frozen=True)
class PillowCodec:
    """A codec that Pillow has, with settings that reach low rates.

    JPEG is progressive with optimised Huffman tables, JPEG 2000 is written as a bare codestream, WebP with method 4,
    AVIF with speed 8. Each image is a file of its own.

    Parameters
    ----------
    format : {"jpeg", "jpeg2000", "webp", "avif", "jpegxl", "heic"}
        The last two need ``pip install 'captum-region[codecs]'``.
    quality : int or float
        More is better. Up to 100, from 0, of JPEG and JPEG XL from 1. Of JPEG 2000 it is the size of the file in
        percent of the raw pixels' size, from 0.1; it may have a fraction. JPEG XL is lossless with 100.
    subsampling : {"4:4:4", "4:2:2", "4:2:0"}, optional
        The resolution of colour, of JPEG, AVIF and HEIC; by default the format's, 4:2:0.
    options : mapping, optional
        More settings of Pillow's ``save`` for this format; they win over those above.

    Raises
    ------
    ValueError
        If a parameter does not fit, or this Pillow cannot write the format.

    Examples
    --------
    >>> import numpy as np
    >>> images = np.full((2, 3, 32, 32), 128, np.uint8)
    >>> codec = PillowCodec("jpeg", quality=50)
    >>> data = codec.encode(images)
    >>> bool((codec.decode(data, (3, 32, 32)) == images).all())
    True
    """

    format: str
    quality: float
    subsampling: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    threads = True

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {self.format!r}")
        check_number("quality", self.quality, *self.qualities)
        if self.format != "jpeg2000" and self.quality % 1:
            raise ValueError(f"quality must be an integer for {self.format}, got {self.quality}")
        if self.subsampling is not None:
            if self._format.subsampling is None:
                raise ValueError(f"subsampling must be left out for {self.format}, got {self.subsampling!r}")
            if self.subsampling not in SUBSAMPLINGS:
                raise ValueError(f"subsampling must be one of {', '.join(SUBSAMPLINGS)}, got {self.subsampling!r}")
        _register(self.format)

    @property
    def _format(self) -> _Format:
        return FORMATS[self.format]

    @property
    def name(self) -> str:
        """The format, and the subsampling if it was chosen."""
        return self.format if self.subsampling is None else f"{self.format} {self.subsampling}"

    @property
    def severity(self) -> float:
        """The quality."""
        return self.quality

    @property
    def qualities(self) -> tuple[float, float]:
        """The lowest and the highest quality, integers if quality is one."""
        return self._format.qualities

    def at_quality(self, quality: float) -> PillowCodec:
        """Return this codec with another quality."""
        return replace(self, quality=quality)

    def encode(self, images: NDArray[np.uint8]) -> list[bytes]:
        """Return the file of each image.

        Parameters
        ----------
        images : ndarray of uint8, shape (N, 1 or 3, height, width)

        Raises
        ------
        TypeError, ValueError
            If the images are not that, or Pillow refuses a setting.
        """
        images = check_uint8(images)
        if images.shape[1] not in (1, 3):
            raise ValueError(f"images must have 1 or 3 channels for {self.format}, got {images.shape[1]}")
        _register(self.format)  # in a process of joblib's, the plugin is not there yet
        settings = self._settings()
        return [self._encoded(image, settings) for image in images]

    def _settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = dict(self._format.settings)
        if self.format == "jpeg2000":
            settings["quality_layers"] = [100 / self.quality]
        elif self.format == "jpegxl" and self.quality == 100:
            settings["lossless"] = True  # quality=100 is refused
        else:
            settings["quality"] = int(self.quality)
        if self.subsampling is not None and self._format.subsampling is not None:
            is_heif = self._format.subsampling == "chroma"
            settings[self._format.subsampling] = self.subsampling.replace(":", "") if is_heif else self.subsampling
        return settings | dict(self.options)

    def _encoded(self, image: NDArray[np.uint8], settings: Mapping[str, Any]) -> bytes:
        buffer = io.BytesIO()
        picture = Image.fromarray(image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0)))
        try:
            picture.save(buffer, self._format.name, **settings)
        except (OSError, TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{self.format} cannot encode an image of shape {image.shape}: {error}") from error
        return buffer.getvalue()

    def decode(self, data: Sequence[bytes], shape: Shape) -> NDArray[np.uint8]:
        """Return the images of files.

        Parameters
        ----------
        data : sequence of bytes
        shape : (int, int, int)
            Channels, height and width of each.

        Returns
        -------
        ndarray of uint8, shape (N, channels, height, width)

        Raises
        ------
        ValueError
            If a file is truncated or of another format, or its image has another size. Only this format is tried.
        """
        _register(self.format)
        images = np.empty((len(data), *shape), np.uint8)
        for position, one in enumerate(data):
            images[position] = self._decoded(one, shape, position)
        return images

    def _decoded(self, data: bytes, shape: Shape, position: int) -> NDArray[np.uint8]:
        channels, height, width = shape
        try:
            with Image.open(io.BytesIO(data), formats=[self._format.name]) as picture:
                size = picture.size
                # Of another size, it is not even decoded.
                array = (
                    np.asarray(picture.convert("L" if channels == 1 else "RGB")) if size == (width, height) else None
                )
        except MemoryError:
            raise
        except Exception as error:  # Pillow and its plugins raise nearly any on bytes that are damaged
            raise ValueError(f"the bytes of image {position} are not a complete {self.format} file: {error}") from error
        if array is None:
            raise ValueError(
                f"image {position} of {self.format} must be {height} x {width} pixels, got {size[1]} x {size[0]}"
            )
        return array[None] if channels == 1 else array.transpose(2, 0, 1)


def _register(name: str) -> None:
    """Make Pillow know a format; ValueError if it cannot write it."""
    found = FORMATS[name]
    if found.plugin is not None:
        try:
            plugin = importlib.import_module(found.plugin)
        except ImportError as error:
            raise ValueError(f"format {name!r} needs {found.plugin}: pip install 'captum-region[codecs]'") from error
        if name == "heic" and found.name not in Image.SAVE:
            plugin.register_heif_opener()
    if found.name not in Image.SAVE:
        Image.init()
    if found.name not in Image.SAVE or not _has_encoder(name):
        raise ValueError(f"format must be one that this Pillow writes; it was built without {name!r}")


def _has_encoder(name: str) -> bool:
    """Return whether Pillow has the library; it knows JPEG and JPEG 2000 without it."""
    from PIL import features

    feature = {"jpeg": "jpg", "jpeg2000": "jpg_2000", "webp": "webp"}.get(name)
    return feature is None or bool(features.check(feature))

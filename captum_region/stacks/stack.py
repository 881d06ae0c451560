"""Stack: a volume of slices with its labels, checked, and not read into memory."""

import copy
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from captum_region.io.digest import digest_of
from captum_region.stacks.volumes import Volume, read_volume

Pixels = tuple[slice, slice]
WHOLE: Pixels = (slice(None), slice(None))
# What labels of two classes hold where they were stored as a picture of 8 or 16 bits.
_FULL = (255, 65535)


@dataclass(frozen=True, eq=False)
class Stack:
    """A volume of slices, and optionally the class of each of its pixels.

    Both may be memory maps: they are looked through once, slice by slice, and stay on the disk. A part of a stack is a
    view: ``stack[:20]`` holds the first 20 slices.

    Parameters
    ----------
    images : ndarray, shape (D, height, width)
        Grey slices, uint8, uint16, or float in [0, 1].
    labels : ndarray, shape (D, height, width), optional
        bool, or integers of at least 0: the classes. Labels that hold 0 and 255 (or 65535) alone, as a picture of a
        mask does, are of two classes, 0 and 1.
    name : str, default="volume"
        For tables and messages.

    Attributes
    ----------
    classes : int
        The number of classes, one more than the largest label and at least 2; 0 without labels.

    Raises
    ------
    TypeError
        If the arrays are of another kind.
    ValueError
        If their shapes do not fit, floats leave [0, 1] or labels are negative.

    See Also
    --------
    read_stack : From files.
    SliceWindows : What a 2D+ network sees.

    Examples
    --------
    >>> stack = Stack(np.zeros((10, 8, 8), np.uint8), np.full((10, 8, 8), 255, np.uint8), "muscle")
    >>> stack.classes, int(stack.label(3).max()), len(stack[:4])
    (2, 1, 4)
    """

    images: Volume
    labels: Volume | None = None
    name: str = "volume"
    classes: int = field(init=False, default=0)
    _is_mask: bool = field(init=False, default=False, repr=False)

    def __post_init__(self) -> None:
        _check_kind(self.images, "images", "uint8, uint16 or float in [0, 1]", _is_image)
        if self.images.dtype.kind == "f":
            for number, pixels in enumerate(self.images):
                low, high = float(pixels.min()), float(pixels.max())
                if not 0 <= low <= high <= 1:  # also when NaN
                    raise ValueError(f"images of float type must lie in [0, 1]; slice {number} has {low} to {high}")
        if self.labels is not None:
            _check_kind(self.labels, "labels", "bool or integers", lambda kind: kind.kind in "bui")
            if self.labels.shape != self.images.shape:
                raise ValueError(f"labels must have the shape of images, {self.images.shape}, got {self.labels.shape}")
            classes, is_mask = _look_through(self.labels)
            object.__setattr__(self, "classes", classes)
            object.__setattr__(self, "_is_mask", is_mask)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, part: slice) -> Self:
        if not isinstance(part, slice):
            raise TypeError(f"part must be a slice, such as stack[:20], got {part!r}")
        if not len(range(len(self))[part]):
            raise ValueError(f"part must hold a slice of the stack, {part} of {len(self)} holds none")
        view = copy.copy(self)  # not a new one: what labels mean does not depend on the part
        object.__setattr__(view, "images", self.images[part])
        object.__setattr__(view, "labels", None if self.labels is None else self.labels[part])
        return view

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = self.images.shape[1:]
        return height, width

    def image(self, number: int, pixels: Pixels = WHOLE) -> NDArray[np.float32]:
        """Return a slice, or a part of it, as floats in [0, 1], shape (height, width)."""
        stored = self.images[number][pixels]
        scale = 1 if stored.dtype.kind == "f" else np.iinfo(stored.dtype).max
        return np.asarray(stored, np.float32) / np.float32(scale)

    def label(self, number: int, pixels: Pixels = WHOLE) -> NDArray[np.int64]:
        """Return the classes of a slice, or of a part of it, shape (height, width).

        Raises
        ------
        ValueError
            If the stack has no labels.
        """
        if self.labels is None:
            raise ValueError(f"labels must be given, {self.name} has none")
        stored = self.labels[number][pixels]
        return np.asarray(stored > 0 if self._is_mask else stored, np.int64)

    def digest(self) -> str:
        """Return a digest of images and classes, which are read slice by slice."""
        return digest_of(self._bytes())

    def _bytes(self) -> Iterator[str | bytes]:
        for volume in (self.images, self.labels):
            if volume is not None:
                kind = volume.dtype.newbyteorder("=")
                yield f"{kind} {volume.shape} {self._is_mask}"
                yield from (np.ascontiguousarray(pixels, kind).tobytes() for pixels in volume)


def read_stack(
    images: str | os.PathLike[str] | Volume,
    labels: str | os.PathLike[str] | Volume | None = None,
    *,
    name: str | None = None,
) -> Stack:
    """Read a volume and its labels.

    Parameters
    ----------
    images, labels : path or array
        What `read_volume` reads, or arrays as `Stack` takes them.
    name : str, optional
        By default the name of the images' file or folder, without its suffix.

    Returns
    -------
    Stack

    Raises
    ------
    OSError, TypeError, ValueError
        As `read_volume` and `Stack`.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> np.save(folder / "cells.npy", np.zeros((5, 8, 8), np.uint16))
    >>> read_stack(folder / "cells.npy", np.ones((5, 8, 8), bool)).name
    'cells'
    """
    for argument, value in (("images", images), ("labels", labels)):
        if not isinstance(value, str | os.PathLike | np.ndarray | None):
            raise TypeError(f"{argument} must be a path or an array, got {type(value).__name__}")
    if name is None:
        name = "volume" if isinstance(images, np.ndarray) else Path(images).stem
    volume = images if isinstance(images, np.ndarray) else read_volume(images)
    if labels is not None and not isinstance(labels, np.ndarray):
        labels = read_volume(labels, labels=True)
    return Stack(volume, labels, name)


def _is_image(kind: np.dtype[Any]) -> bool:
    return kind.kind == "f" or (kind.kind == "u" and kind.itemsize <= 2)


def _check_kind(volume: Any, name: str, wanted: str, is_right: Any) -> None:
    if not isinstance(volume, np.ndarray) or not is_right(volume.dtype):
        got = getattr(volume, "dtype", type(volume).__name__)
        raise TypeError(f"{name} must be an array of {wanted}, got {got}")
    if volume.ndim != 3 or not all(volume.shape):
        raise ValueError(f"{name} must have shape (D, height, width), none of them 0, got {volume.shape}")


def _look_through(labels: Volume) -> tuple[int, bool]:
    """Return the number of classes, and whether labels are a mask whose true pixels have the largest value."""
    top = 0
    is_mask = True
    for number, pixels in enumerate(labels):
        low, high = int(pixels.min()), int(pixels.max())
        if low < 0:
            raise ValueError(f"labels must be at least 0, got {low} in slice {number}")
        top = max(top, high)
        is_mask = is_mask and high in (0, *_FULL) and bool(((pixels == 0) | (pixels == high)).all())
    is_mask = is_mask and top in _FULL
    return 2 if is_mask else max(2, top + 1), is_mask

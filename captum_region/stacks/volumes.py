"""read_volume: a volume from a folder of slices, a multi-page TIFF or a .npy file, memory-mapped where it can be."""

import os
import re
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, ImageSequence

from captum_region.datasets.decoding import decoding_warnings, image_suffixes, opened_image
from captum_region.io.arrays import open_array

Volume = np.ndarray[tuple[int, ...], np.dtype[Any]]
_TIFF = (".tif", ".tiff")


def read_volume(path: str | os.PathLike[str], *, labels: bool = False) -> Volume:
    """Read a volume of grey slices.

    Parameters
    ----------
    path : path
        One of:

        - a folder of slices, one image file each (PNG, TIFF, JPEG ...), in the natural order of their names: z2 comes
          before z10. Hidden files and files of other kinds are left out. The slices are read into memory.
        - a TIFF with a page for each slice. If its pixels are stored in one piece, uncompressed, as ImageJ and tifffile
          do, and tifffile is installed, it is memory-mapped; otherwise Pillow reads it into memory.
        - a .npy file, which is memory-mapped.
    labels : bool, default=False
        Of an image with a palette, return the numbers of the colours, which are the classes in a file of labels, and
        not their grey values.

    Returns
    -------
    ndarray or read-only memmap, shape (D, height, width)
        As stored: uint8 or uint16 (of either byte order), bool from files of 1 bit, float from files of floats. Where
        a TIFF says that 0 is white, the values are inverted.

    Raises
    ------
    OSError
        If the file or folder is missing or must not be opened.
    ValueError
        If a file is damaged, cut off, in colour or of another format, if the slices differ in size or type, or if a
        folder holds no image. The message names the file.

    See Also
    --------
    read_stack : A volume with its labels, both checked.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "volume.npy"
    >>> np.save(path, np.zeros((20, 64, 48), np.uint8))
    >>> volume = read_volume(path)
    >>> volume.shape, type(volume).__name__
    ((20, 64, 48), 'memmap')
    """
    path = Path(path).expanduser()
    if path.is_dir():
        return _read_folder(path, labels)
    if not path.exists():
        raise FileNotFoundError(f"path must be a folder of slices, a TIFF or a .npy file; there is no {path}")
    if path.suffix.lower() == ".npy":
        volume: Volume = open_array(path)
    elif path.suffix.lower() in _TIFF:
        _check_pages(path)
        mapped = _map_tiff(path)
        volume = _read_pages(path, labels) if mapped is None else mapped
    else:
        raise ValueError(f"path must be a folder of slices, a TIFF or a .npy file, got {path}")
    if volume.ndim != 3:
        raise ValueError(f"{path} must hold grey slices, D x height x width; its shape is {volume.shape}")
    return volume


def natural_key(name: str) -> list[tuple[bool, int, str]]:
    """Return a key that sorts the numbers in names by value.

    Examples
    --------
    >>> sorted(["z10.png", "z2.png", "a.png"], key=natural_key)
    ['a.png', 'z2.png', 'z10.png']
    """
    parts = re.split(r"([0-9]+)", name)
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts if part]


def _read_folder(folder: Path, labels: bool) -> Volume:
    suffixes = image_suffixes()
    names = (path.name for path in folder.iterdir() if path.suffix.lower() in suffixes and path.name[0] != ".")
    paths = [folder / name for name in sorted(names, key=natural_key)]
    if not paths:
        raise ValueError(f"{folder} must hold the slices of a volume, it holds no image file")
    return _stacked(((str(path), page) for path in paths for page in _pages(path, labels, most=1)), len(paths))


def _read_pages(path: Path, labels: bool) -> Volume:
    pages = _pages(path, labels)
    return _stacked(((f"page {number} of {path}", page) for number, page in enumerate(pages)), len(pages))


def _stacked(slices: Iterable[tuple[str, NDArray[Any]]], count: int) -> Volume:
    """Return named slices as one array; ValueError if they differ in size or type."""
    volume: Volume = np.empty(0)
    for number, (name, pixels) in enumerate(slices):
        if number == 0:
            # Filled slice by slice: a list of them would take the memory twice.
            volume, first = np.empty((count, *pixels.shape), pixels.dtype), name
        if _kind(pixels) != _kind(volume[0]):
            raise ValueError(f"all slices must be like {first}, {_kind(volume[0])}; {name} is {_kind(pixels)}")
        volume[number] = pixels
    return volume


def _kind(pixels: NDArray[Any]) -> str:
    return f"{pixels.shape[0]} x {pixels.shape[1]} {pixels.dtype}"


def _pages(path: Path, labels: bool, *, most: int | None = None) -> list[NDArray[Any]]:
    """Return the grey pixels of the pages of an image file, of which there may be `most`."""
    content = path.read_bytes()
    try:
        with decoding_warnings(), opened_image(content) as image:
            count = getattr(image, "n_frames", 1)
            found = [] if most and count > most else [_pixels(page, labels) for page in ImageSequence.Iterator(image)]
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if most and count > most:
        raise ValueError(f"each file of a folder must hold one slice, {path} holds {count}; read it alone")
    for mode, pixels in found:
        if pixels.ndim != 2:
            raise ValueError(f"{path}: slices must be grey, with one value a pixel; this one is {mode}")
    return [pixels for _, pixels in found]


def _pixels(image: Image.Image, labels: bool) -> tuple[str, NDArray[Any]]:
    """Return the mode and pixels of an image, two-dimensional if they are grey, upright."""
    upright = ImageOps.exif_transpose(image)
    if upright.mode == "P" and not labels:
        upright = upright.convert("RGB")
    pixels = np.asarray(upright)
    if upright.mode == "I" and pixels.min() >= 0 and pixels.max() <= 65535:
        pixels = pixels.astype(np.uint16)  # Pillow opens some 16-bit files with 32 bits a pixel
    if upright.mode in ("LA", "RGBA") and (pixels[..., -1] == 255).all():
        pixels = pixels[..., :-1]  # nothing is transparent
    if pixels.ndim == 3 and upright.mode in ("LA", "RGB", "RGBA") and (pixels[..., :1] == pixels).all():
        pixels = pixels[..., 0]
    return upright.mode, pixels.astype(pixels.dtype.newbyteorder("="))


def _check_pages(path: Path) -> None:
    """Raise ValueError if the pages of a TIFF, each of which says where the next begins, lead out of the file.

    A TIFF that is cut off would otherwise pass for one with fewer slices.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        order = {b"II": "<", b"MM": ">"}.get(file.read(2), "")
        version = file.read(2)
        if not order or len(version) < 2 or (kind := struct.unpack(f"{order}H", version)[0]) not in (42, 43):
            return  # Pillow says what it is
        # Of an offset, the count of a page's tags, and a tag, in TIFF and BigTIFF.
        offset, count, tag = (f"{order}L", f"{order}H", 12) if kind == 42 else (f"{order}Q", f"{order}Q", 20)
        at, seen = 4 if kind == 42 else 8, set[int]()
        while at not in seen and at + struct.calcsize(offset) <= size:
            seen.add(at)
            file.seek(at)
            (page,) = struct.unpack(offset, file.read(struct.calcsize(offset)))
            if page == 0:
                return
            if page > size:
                break
            file.seek(page)
            if len(head := file.read(struct.calcsize(count))) < struct.calcsize(count):
                break
            at = file.tell() + tag * struct.unpack(count, head)[0]
    raise ValueError(f"{path} is damaged: it is cut off after {len(seen) - 1} pages, or they run in a circle")


def _map_tiff(path: Path) -> Volume | None:
    """Memory-map a TIFF; None if tifffile is not installed or the file cannot be mapped."""
    try:
        import tifffile
    except ImportError:
        return None
    try:
        with tifffile.TiffFile(path) as file:
            if len(file.series) != 1 or file.series[0].dataoffset is None:
                return None
            series = file.series[0]
            if series.keyframe.samplesperpixel != 1 or series.keyframe.photometric != tifffile.PHOTOMETRIC.MINISBLACK:
                return None  # in colours, or with white as 0: as Pillow reads what cannot be mapped
            shape = series.shape
        mapped: Volume = tifffile.memmap(path, mode="r")
    except tifffile.TiffFileError:
        return None  # Pillow says what it is
    except MemoryError:
        raise
    except Exception as error:  # on a damaged file, nearly any
        raise ValueError(f"{path} is damaged: {error or type(error).__name__}") from error
    return mapped[None] if len(shape) == 2 else mapped

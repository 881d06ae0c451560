"""Image files -> one memory-mapped uint8 array, each file decoded once and kept in a cache."""

import errno
import hashlib
import json
import operator
import os
import stat
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import pandas as pd
from joblib import Parallel, delayed, effective_n_jobs
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from PIL import __version__ as pillow_version

from captum_region.io.arrays import open_array, write_rows
from captum_region.io.files import PARTIAL, clear_partials, replacing
from captum_region.progress import progress_bar

# Part of the cache key: to be raised whenever the pixels made from a file change.
_FORMAT_VERSION = 2
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "JPEG2000")
_MISSING = "there is no such file"
# Bytes of a file whose content is part of the key.
_SAMPLE = 2**20
# Threads that take single small images wait for the interpreter lock; with several at a time they wait less.
_BATCH = 16
_BATCHES_A_WAVE = 4

T = TypeVar("T")


class _UnknownRangeError(ValueError):
    """An intact image whose values have no known range."""


class DecodedImages(NamedTuple):
    """What `decode_images` returns."""

    images: NDArray[np.uint8]
    """Shape (kept, 3, height, width), 0 to 255, memory-mapped and read-only."""
    kept: NDArray[np.intp]
    """Each image's position in the names given, ascending."""
    skipped: pd.DataFrame
    """Columns ``image`` and ``reason``: the names left out."""


def decode_images(
    folder: str | os.PathLike[str],
    names: Sequence[str],
    size: int | tuple[int, int],
    *,
    cache: str | os.PathLike[str] | None = None,
    on_error: str = "raise",
    n_jobs: int | None = None,
    show_progress: bool = False,
) -> DecodedImages:
    """Decode image files to RGB of one size, or open the cache that an earlier call wrote.

    The EXIF orientation is applied, the whole image is resized to `size` with antialiasing (nothing is cropped, so
    the aspect ratio may change). Transparent images get a black background, 16-bit grey is scaled to 8 bits, and of an
    animated image the first frame is used. The formats are JPEG, PNG, WebP, BMP, GIF, TIFF, AVIF and JPEG 2000, if
    Pillow was built with them.

    Parameters
    ----------
    folder : path
        The folder of the images. Nothing is written there.
    names : sequence of str
        The files, relative to `folder`.
    size : int or (height, width)
        The size to resize to.
    cache : path, optional
        Folder of the cache, which may be deleted at any time. It has one file per set of files and size, with
        3 * height * width bytes per image. By default the environment variable ``CAPTUM_REGION_CACHE``, else
        ``captum_region`` in ``XDG_CACHE_HOME``, else ``~/.cache/captum_region``. An entry is found by the names, byte
        counts and modification times of the files, the content of three of them, `size`, and Pillow's version and
        limits: a changed or added file makes a new entry.
    on_error : {"raise", "skip"}
        What to do with an image that is missing or damaged. A file counts as damaged if it has another format or
        floating-point pixels, if Pillow cannot decode it to the end (a truncated JPEG), or if Pillow takes it for a
        decompression bomb.
    n_jobs : int, optional
        Number of threads; -1 and None mean all processors.
    show_progress : bool
        Show a progress bar on stderr while decoding.

    Returns
    -------
    DecodedImages
        A named tuple of `images` (read-only memmap of uint8, shape (kept, 3, height, width)), `kept` (position of each
        image in `names`) and `skipped` (DataFrame with columns ``image`` and ``reason``).

    Raises
    ------
    FileNotFoundError
        If a file is missing and `on_error` is "raise".
    OSError
        If a file must not be read, whatever `on_error` is: that does not depend on the image.
    ValueError
        If a file is damaged and `on_error` is "raise", if no image is left, or if an argument is invalid.
    """
    shape, names = height_width(size), list(names)
    np.empty((3, *shape), np.uint8)  # an enormous size is a MemoryError here, and not in each of many threads
    check_on_error(on_error)
    check_jobs(n_jobs)
    if not len(names):
        raise ValueError(f"names must list at least one image, got none (folder {folder})")
    paths = [os.path.join(folder, name) for name in names]
    stamps = stamps_of(paths, on_error)
    # What Pillow opens, and what it takes for damaged, is up to these.
    decoder = (pillow_version, ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS)
    entry = cache_folder(cache) / _digest(folder, names, stamps, shape, decoder)
    clear_partials(entry.parent.glob(f"{PARTIAL}*"))
    try:
        images, reasons = _open_entry(entry, len(names), shape)
    except (FileNotFoundError, ValueError, RecursionError):  # the last of JSON that is nested too deeply
        _write_entry(entry, paths, shape, on_error, n_jobs, show_progress)
        images, reasons = _open_entry(entry, len(names), shape)
    if on_error == "raise":
        _refuse(ValueError, paths, reasons)
    skipped = pd.DataFrame({"image": [names[at] for at in reasons], "reason": list(reasons.values())}, dtype=object)
    return DecodedImages(images, np.delete(np.arange(len(names)), list(reasons)), skipped)


def check_on_error(on_error: str) -> None:
    """Raise ValueError unless `on_error` says what to do with a damaged image."""
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error must be 'raise' or 'skip', got {on_error!r}")


def check_jobs(n_jobs: int | None) -> None:
    """Raise ValueError unless `n_jobs` is None or a number of threads."""
    if n_jobs == 0:
        raise ValueError("n_jobs must be None or a nonzero integer, got 0")


def cache_folder(cache: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder that `cache` names: a path itself, None the default that `decode_images` describes."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "captum_region")
    return Path(cache or os.environ.get("CAPTUM_REGION_CACHE") or default).expanduser()


def height_width(size: int | tuple[int, int]) -> tuple[int, int]:
    """Return a size as (height, width); ValueError if it is not one."""
    try:
        height, width = map(operator.index, size if isinstance(size, (tuple, list)) else (size, size))
    except (TypeError, ValueError):
        height, width = 0, 0
    if min(height, width) < 1 or isinstance(size, bool):
        raise ValueError(f"size must be a positive int or (height, width), got {size!r}")
    return height, width


def _stamp(path: str) -> tuple[int, int] | None:
    """Return byte count and modification time of a file, None where there is none."""
    try:
        status = os.stat(path)
    except ValueError:  # the name holds a zero byte
        return None
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP):
            return None
        raise
    return (status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None


def stamps_of(paths: Sequence[str], on_error: str) -> list[tuple[int, int] | None]:
    """Return the stamp of each file; FileNotFoundError if one is missing and `on_error` is "raise"."""
    stamps = [_stamp(path) for path in paths]
    if on_error == "raise":
        _refuse(FileNotFoundError, paths, {at: _MISSING for at, stamp in enumerate(stamps) if stamp is None})
    return stamps


def files_digest(folder: str | os.PathLike[str], names: Sequence[str], shape: tuple[int, int]) -> str:
    """Return a digest of files' names, sizes and times of change, and of the size they are decoded to."""
    return _digest(folder, names, [_stamp(os.path.join(folder, name)) for name in names], shape)


def _digest(
    folder: str | os.PathLike[str],
    names: Sequence[str],
    stamps: Sequence[tuple[int, int] | None],
    shape: tuple[int, int],
    *others: object,
) -> str:
    digest = hashlib.sha256(" ".join(map(str, (_FORMAT_VERSION, shape, *others))).encode())
    for name, stamp in zip(names, stamps, strict=True):
        digest.update(os.fsencode(name) + f"\0{stamp}\n".encode())
    # Of images without compression two data sets may agree in all that.
    for at in sorted({0, len(names) // 2, len(names) - 1}):
        if stamps[at] is not None:
            with open(os.path.join(folder, names[at]), "rb") as file:
                digest.update(file.read(_SAMPLE))
    return digest.hexdigest()[:32]


def _refuse(error: type[Exception], paths: Sequence[str], reasons: dict[int, str]) -> None:
    """Raise `error` about the first of the images that have a reason to be left out, if one has."""
    if not reasons:
        return
    at, reason = next(iter(reasons.items()))
    # A name may be a whole file, if the arguments were mixed up.
    path = paths[at] if len(paths[at]) <= 500 else f"{paths[at][:500]}... ({len(paths[at]):,} characters)"
    if len(reasons) == len(paths):
        raise error(f"none of {len(paths)} images can be read, the first is {path}: {reason}")
    others = f" ({len(reasons) - 1} more like it)" if len(reasons) > 1 else ""
    raise error(f"{path}: {reason}{others}; on_error='skip' leaves such images out")


def _open_entry(entry: Path, count: int, shape: tuple[int, int]) -> tuple[NDArray[np.uint8], dict[int, str]]:
    """Open a cache entry: the images and, by position, why others were left out. ValueError if it is incomplete."""
    listed = json.loads(entry.with_suffix(".json").read_text("utf-8"))
    if not isinstance(listed, dict) or not all(0 <= int(at) < count for at in listed):
        raise ValueError(f"{entry}.json does not hold what it should")
    reasons = {int(at): str(reason) for at, reason in listed.items()}
    return open_array(entry.with_suffix(".npy"), (count - len(reasons), 3, *shape), np.uint8), reasons


def _write_entry(
    entry: Path, paths: Sequence[str], shape: tuple[int, int], on_error: str, n_jobs: int | None, show_progress: bool
) -> None:
    reasons: dict[int, str] = {}
    bar = {"total": len(paths), "desc": "decoding", "unit": "image", "disable": not show_progress}
    # The array appears last: an entry that has one is complete.
    with replacing(entry.with_suffix(".npy")) as beside, beside.open("wb") as file:
        with closing(decode_each(paths, shape, n_jobs)) as decoded, progress_bar(decoded, **bar) as images:
            write_rows(file, intact(images, paths, reasons, on_error))
        with replacing(entry.with_suffix(".json")) as listing:
            listing.write_text(json.dumps(reasons))


def intact(found: Iterable[T | str], paths: Sequence[str], reasons: dict[int, str], on_error: str) -> Iterator[T]:
    """Yield what was found in each file that could be decoded, and enter into `reasons` why the others could not."""
    for at, one in enumerate(found):
        if isinstance(one, str):
            reasons[at] = one
        else:
            yield one
        # Not before one is intact, or all are damaged: skipping is advised only where it leaves an image.
        if (on_error == "raise" and len(reasons) <= at) or len(reasons) == len(paths):
            _refuse(ValueError, paths, reasons)


def decode_each(
    paths: Sequence[str], shape: tuple[int, int], n_jobs: int | None = None
) -> Generator[NDArray[np.uint8] | str]:
    """Yield, in order, each file's pixels or why there are none; few at a time are in memory, and none is kept."""
    return read_each(partial(decode_content, shape=shape), paths, n_jobs)


def read_each(read: Callable[[bytes], T], paths: Sequence[str], n_jobs: int | None = None) -> Generator[T | str]:
    """Yield, in order, what `read` makes of each file's content in threads, or why its image cannot be read."""
    jobs = effective_n_jobs(-1 if n_jobs is None else n_jobs)
    # A wave at a time, so that the decoded images that wait to be written stay few.
    wave = _BATCH * _BATCHES_A_WAVE * jobs
    with Parallel(n_jobs=jobs, backend="threading", batch_size=_BATCH) as parallel:
        for start in range(0, len(paths), wave):
            # Around the threads and not in them: the filters belong to the whole process.
            with decoding_warnings():
                found = parallel(delayed(_read)(read, path) for path in paths[start : start + wave])
            yield from found


def _read(read: Callable[[bytes], T], path: str) -> T | str:
    """Return what `read` makes of an image's file, or why it cannot be read."""
    if _stamp(path) is None:
        return _MISSING
    # Read here, so that what the system refuses is not taken for damage.
    content = Path(path).read_bytes()
    try:
        return read(content)
    except ValueError as error:
        return str(error)


def decode_content(content: bytes, shape: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Return the pixels of a file's content, as `rgb_pixels` does; ValueError says why there are none."""
    with opened_image(content) as image:
        if shape is not None:
            # A JPEG can be decoded at 1/2, 1/4 or 1/8; square, as it may have to be turned.
            image.draft(None, (max(shape), max(shape)))
        return rgb_pixels(image, shape)


@contextmanager
def opened_image(content: bytes) -> Iterator[Image.Image]:
    """Open a file's content, which may be untrusted; ValueError says why it, or what is done with it, failed."""
    if not content:
        raise ValueError("the file is empty")
    Image.init()  # or what is in Image.OPEN would depend on what was opened before
    try:
        # Pillow goes by the content, not by the suffix, and would hand PostScript to Ghostscript, which runs it.
        with Image.open(BytesIO(content), formats=[name for name in _FORMATS if name in Image.OPEN]) as image:
            yield image
    except (MemoryError, _UnknownRangeError):
        raise
    except UnidentifiedImageError as error:
        raise ValueError("not an image of a supported format") from error
    except Exception as error:  # Pillow's decoders fail on damaged files with nearly any exception.
        raise ValueError(f"the image is damaged: {error or type(error).__name__}") from error


@contextmanager
def decoding_warnings() -> Iterator[None]:
    """Ignore Pillow's warnings in a block, but turn the one of a decompression bomb into an error."""
    with warnings.catch_warnings():
        # Damaged metadata does no harm to the pixels.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def image_suffixes() -> set[str]:
    """Return the suffixes, in lower case with the dot, of the formats that are read."""
    return {suffix for suffix, name in Image.registered_extensions().items() if name in _FORMATS}


def rgb_pixels(image: Image.Image, shape: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Return an image upright, as RGB, channels first, and resized if `shape`, height and width, is given."""
    rgb = _to_rgb(ImageOps.exif_transpose(image))
    if shape is not None:
        rgb = rgb.resize(shape[::-1], Image.Resampling.BILINEAR)
    return np.ascontiguousarray(np.asarray(rgb).transpose(2, 0, 1))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # Pillow would clip 16-bit values at 255. It opens some 16-bit files with 32 bits a pixel.
        grey = np.asarray(image)
        if grey.min() < 0 or grey.max() > 65535:
            raise _UnknownRangeError("grey values beyond 16 bits have no known range")
        return Image.fromarray(((grey.astype(np.int32) + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise _UnknownRangeError("floating-point pixels have no known range")
    if image.has_transparency_data:
        # What lies under transparent pixels is arbitrary and must not come to light.
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")

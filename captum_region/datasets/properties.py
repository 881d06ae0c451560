"""What images carry besides labels: brightness, sharpness, size, file format and the like."""

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import ExifTags, Image
from scipy import ndimage
from torch import Tensor

from captum_region.batches import as_floats, batches, check_images
from captum_region.datasets.conversion import is_dataset, items_of, length_of, pixels_of, undecoded
from captum_region.datasets.decoding import (
    check_jobs,
    check_on_error,
    decoding_warnings,
    intact,
    opened_image,
    read_each,
    rgb_pixels,
    stamps_of,
)
from captum_region.datasets.images import AttributeImages
from captum_region.progress import progress_bar

NUMERIC = (
    *("brightness", "contrast", "colourfulness", "sharpness", "plain_border"),
    *("width", "height", "aspect_ratio", "file_size"),
)
PROPERTIES = (*NUMERIC, "coloured", "file_format")
# Of 255: compression leaves as much noise in what was grey or plain.
_TOLERANCE = 10
# Larger images are shrunk to this side first: a classifier sees less.
_SIDE = 1024


def image_properties(
    data: Any, *, on_error: str = "raise", n_jobs: int | None = None, show_progress: bool = False
) -> pd.DataFrame:
    """Measure what images carry besides labels, each of which could be a spurious attribute.

    Parameters
    ----------
    data : sequence of paths, images, AttributeImages or data set
        Files of images, decoded one by one and in full; or images in memory, N x C x height x width, uint8 or float in
        [0, 1], of 1 or 3 channels; or what `from_dataset` takes, with an image named ``image`` in items that are
        mappings. None is kept.
    on_error : {"raise", "skip"}
        What to do with a file that is missing or damaged, as in `captum_region.datasets.decoding.decode_images`.
    n_jobs : int, optional
        Threads that decode files; -1 and None mean all processors.
    show_progress : bool, default=False
        Show a progress bar on stderr.

    Returns
    -------
    DataFrame of N rows
        Indexed by the paths as given, or as the attributes of AttributeImages. Files that were skipped are left out,
        and ``attrs["skipped"]`` lists them, as records of ``image`` and ``reason``. The columns are

        - ``brightness`` and ``contrast``: mean and standard deviation of the grey values (Rec. 601 luma), in [0, 1];
        - ``colourfulness``: 0 of a grey image, about 15 of a slightly and 109 of an extremely colourful one (Hasler and
          Suesstrunk 2003);
        - ``sharpness``: variance of the Laplacian of the grey values from 0 to 255 (Pech-Pacheco et al. 2000); low in
          blurred images; NaN in images with a side below 3 pixels;
        - ``plain_border``: the share of the image, 0 to 1, in rows and columns at its edges that are of one colour, as
          of a frame, a letterbox or a white background; 1 of a plain image;
        - ``coloured``: whether some pixel's channels differ by more than 10 of 255.

        Of files there are also

        - ``width``, ``height`` in pixels, upright and before any resizing, and ``aspect_ratio``, width over height;
        - ``file_format``, such as JPEG, by content and not by name, and ``file_size`` in bytes.

        A data set's items have those that are known of them. Images in memory have none of them: they may have been
        resized. The pixels of an image with a side above 1024 are measured after it was shrunk to that side.

    Raises
    ------
    FileNotFoundError
        If a file is missing and `on_error` is "raise".
    TypeError, ValueError
        If an argument does not fit, or an image is damaged and `on_error` is "raise".

    See Also
    --------
    property_attribute : Makes a binary attribute of a property.
    fairlearn_bridge.find_confounders : Finds those that go along with the target.

    References
    ----------
    Hasler, Suesstrunk, "Measuring Colorfulness in Natural Images", SPIE Human Vision and Electronic Imaging VIII, 2003.

    Pech-Pacheco, Cristobal, Chamorro-Martinez, Fernandez-Valdivia, "Diatom autofocusing in brightfield microscopy: a
    comparative study", ICPR 2000.

    Examples
    --------
    >>> images = np.zeros((2, 3, 8, 8), np.uint8)
    >>> images[1, :, 2:4, ::2] = images[1, :, 4:6, 1::2] = 255
    >>> image_properties(images)[["brightness", "contrast", "plain_border"]].round(2)
       brightness  contrast  plain_border
    0        0.00      0.00           1.0
    1        0.25      0.43           0.5
    """
    check_on_error(on_error)
    check_jobs(n_jobs)
    if isinstance(data, str | os.PathLike):
        raise TypeError(f"data must be a sequence of paths, images or a data set, got the single path {str(data)!r}")
    if isinstance(data, Iterator):
        data = list(data)
    if not is_dataset(data) and _begins_with(data, str | os.PathLike):
        return _of_files(list(data), on_error, n_jobs, show_progress)
    alone = isinstance(data, list | tuple) and _begins_with(data, Tensor | np.ndarray)  # which may differ in size
    if is_dataset(data) or alone or _begins_with(data, Image.Image | Mapping | tuple):
        return _table(progress_bar(_of_items(undecoded(data, "image")), **_bar(length_of(data), show_progress)))
    images = check_images(data, name="data")
    if images.shape[1] not in (1, 3) or not all(images.shape):
        raise ValueError(f"data must hold images with 1 or 3 channels, got shape {tuple(images.shape)}")
    found = (
        _of_pixels(image.expand(3, -1, -1).numpy())
        for batch in batches(images, 64, show_progress=show_progress, desc="measuring")
        for image in (255 * as_floats(batch.detach().cpu())).round().byte()
    )
    return _table(found, data.attributes.index if isinstance(data, AttributeImages) else None)


def property_attribute(properties: pd.DataFrame, name: str, *, reference: pd.DataFrame | None = None) -> pd.Series:
    """Make an attribute of a property of images: a number is cut at a quantile into a binary one.

    Parameters
    ----------
    properties : DataFrame
        From `image_properties`.
    name : str
        A property, of a number followed by the quantile: ``brightness@0.5`` is whether the brightness is above its
        median. Where no value is above it, because it is the greatest, True is at it: of images most of which have the
        full width, those that have it.
    reference : DataFrame, optional
        Properties of the training images, whose quantile is taken; by default that of `properties`.

    Returns
    -------
    Series
        Named `name`: of booleans, or of text for ``file_format``; missing where the property is. ``attrs["cut"]`` is
        the value at the quantile.

    Raises
    ------
    ValueError
        If there is no such property, or a quantile does not fit.

    See Also
    --------
    image_properties : Measures them.

    Examples
    --------
    >>> properties = pd.DataFrame({"brightness": [0.2, 0.9, 0.4, 0.5], "coloured": [True, False, True, True]})
    >>> property_attribute(properties, "brightness@0.5").tolist()
    [False, True, False, True]
    >>> property_attribute(properties, "coloured").tolist()
    [True, False, True, True]
    """
    column, at, given = name.partition("@")
    if column not in PROPERTIES:
        raise ValueError(f"name must begin with one of {', '.join(PROPERTIES)}, got {name!r}")
    reference = properties if reference is None else reference
    for known in (properties, reference):
        if column not in known:
            raise ValueError(f"name must be a property of these images, {column!r} is one of files; got {name!r}")
    values: pd.Series[Any] = properties[column].rename(name)
    if column not in NUMERIC:
        if at:
            raise ValueError(f"name must be {column!r} without a quantile, for it is not a number; got {name!r}")
        return values
    quantile = _quantile_in(given)
    if quantile is None:
        raise ValueError(f"name must end in a quantile between 0 and 1, as in {column}@0.5; got {name!r}")
    cut, greatest = reference[column].quantile(quantile), reference[column].max()
    is_above = values >= cut if cut == greatest else values > cut
    chosen = is_above if values.notna().all() else is_above.astype(object).where(values.notna())
    chosen.attrs["cut"] = float(cut)
    return chosen


def property_in(name: str) -> str | None:
    """Return the property that `name` begins with, of ``brightness@0.5`` brightness; None if there is none."""
    column = name.partition("@")[0]
    return column if column in PROPERTIES else None


def _quantile_in(text: str) -> float | None:
    try:
        quantile = float(text)
    except ValueError:
        return None
    return quantile if 0 < quantile < 1 else None


def _begins_with(data: Any, kind: Any) -> bool:
    return isinstance(data, Iterable) and isinstance(next(iter(data), None), kind)


def _bar(total: int | None, show_progress: bool) -> dict[str, Any]:
    return {"total": total, "desc": "measuring", "unit": "image", "disable": not show_progress}


def _table(found: Iterable[dict[str, Any]], index: "pd.Index[Any] | None" = None) -> pd.DataFrame:
    """Return a table of properties, in their order."""
    rows = pd.DataFrame(list(found))
    if rows.empty:
        raise ValueError("data must hold at least one image, got none")
    return rows[[name for name in PROPERTIES if name in rows]].set_axis(rows.index if index is None else index)


def _of_files(names: list[Any], on_error: str, n_jobs: int | None, show_progress: bool) -> pd.DataFrame:
    paths = [os.fspath(name) for name in names]
    stamps_of(paths, on_error)
    reasons: dict[int, str] = {}
    bar = _bar(len(paths), show_progress)
    with closing(read_each(_of_content, paths, n_jobs)) as read, progress_bar(read, **bar) as found:
        rows = list(intact(found, paths, reasons, on_error))
    kept = [name for at, name in enumerate(names) if at not in reasons]
    table = _table(rows, pd.Index(kept, name="image", dtype=object))
    table.attrs["skipped"] = [{"image": paths[at], "reason": reason} for at, reason in reasons.items()]
    return table


def _of_items(dataset: Any) -> Iterator[dict[str, Any]]:
    """Yield the properties of a data set's images."""
    for number, item in enumerate(items_of(dataset)):
        what = f"item {number}'s image"
        image = item[0] if isinstance(item, tuple | list) else item
        if isinstance(image, Mapping) and "image" in image:
            image = image["image"]
        if isinstance(image, Mapping) and (image.get("bytes") or image.get("path")):
            try:
                with decoding_warnings():
                    yield _of_content(image.get("bytes") or Path(image["path"]).read_bytes())
            except ValueError as error:
                raise ValueError(f"{what}: {error}") from error
            continue
        pixels = pixels_of(image, None, what)
        height, width = pixels.shape[1:]
        of_file = {"file_format": image.format} if getattr(image, "format", None) else {}
        yield _of_pixels(_shrunk(pixels)) | _of_size(width, height) | of_file


def _of_content(content: bytes) -> dict[str, Any]:
    """Return the properties of an image's file."""
    with opened_image(content) as image:
        width, height = image.size
        if image.getexif().get(ExifTags.Base.Orientation) in range(5, 9):  # lies on its side
            width, height = height, width
        of_file = {"file_format": image.format, "file_size": len(content)}
        image.draft(None, (_SIDE, _SIDE))
        return _of_pixels(_shrunk(rgb_pixels(image))) | _of_size(width, height) | of_file


def _of_size(width: int, height: int) -> dict[str, Any]:
    return {"width": width, "height": height, "aspect_ratio": width / height}


def _shrunk(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return an image, channels first, with no side above the limit."""
    if max(pixels.shape) <= _SIDE:
        return pixels
    image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.BILINEAR)
    return np.asarray(image).transpose(2, 0, 1)


def _of_pixels(pixels: NDArray[np.uint8]) -> dict[str, Any]:
    """Return the properties of RGB pixels, channels first."""
    red, green, blue = pixels.astype(np.float32)
    grey = 0.299 * red + 0.587 * green + 0.114 * blue
    opponents = red - green, (red + green) / 2 - blue
    spread, offset = (math.hypot(*(float(of(each)) for each in opponents)) for of in (np.std, np.mean))
    edges = ndimage.laplace(grey)[1:-1, 1:-1]
    differences = red - green, green - blue, blue - red
    return {
        "brightness": float(grey.mean()) / 255,
        "contrast": float(grey.std()) / 255,
        "colourfulness": spread + 0.3 * offset,
        "sharpness": float(edges.var()) if edges.size else math.nan,
        "plain_border": _plain_border(pixels),
        "coloured": any(bool((np.abs(each) > _TOLERANCE).any()) for each in differences),
    }


def _plain_border(pixels: NDArray[np.uint8]) -> float:
    """Return the share of the image in plain rows at both ends, and in plain columns of what these leave."""
    inner = pixels
    for _ in ("rows", "columns"):
        for _ in ("the first", "the last"):
            plain = _plain_lines(inner)
            if plain == inner.shape[1]:
                return 1.0
            inner = inner[:, plain:][:, ::-1]
        inner = inner.transpose(0, 2, 1)
    return 1 - inner.size / pixels.size


def _plain_lines(pixels: NDArray[np.uint8]) -> int:
    """Return how many of the first lines, channels x lines x length, are of one colour, the same for all."""
    colour = np.median(pixels[:, 0], axis=1)[:, None]
    is_plain = ((np.abs(line - colour) <= _TOLERANCE).all() for line in pixels.transpose(1, 0, 2))
    return next((at for at, plain in enumerate(is_plain) if not plain), pixels.shape[1])

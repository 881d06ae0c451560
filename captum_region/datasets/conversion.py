"""from_dataset: a torch Dataset or DataLoader, or a Hugging Face dataset -> AttributeImages."""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, default_collate

from captum_region.datasets.decoding import decode_content, height_width, rgb_pixels
from captum_region.datasets.images import AttributeImages, quoted
from captum_region.io.arrays import write_rows
from captum_region.io.files import replacing
from captum_region.plotting import image_array
from captum_region.progress import progress_bar

# The names in the files of CelebA that torchvision drops.
_POINTS = ("lefteye", "righteye", "nose", "leftmouth", "rightmouth")
_CELEBA_TARGETS = {
    "identity": ["identity"],
    "bbox": ["x_1", "y_1", "width", "height"],
    "landmarks": [f"{point}_{axis}" for point in _POINTS for axis in "xy"],
}


def is_dataset(data: Any) -> bool:
    """Return whether `data` is a torch Dataset, a DataLoader or a Hugging Face dataset, which has column names."""
    return isinstance(data, Dataset | DataLoader) or hasattr(data, "column_names")


def from_dataset(
    dataset: Any,
    *,
    size: int | tuple[int, int] | None = None,
    image_column: str = "image",
    attributes: Sequence[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    show_progress: bool = False,
) -> AttributeImages:
    """Read a data set of another library once, from its first item to its last.

    Parameters
    ----------
    dataset : torch Dataset or DataLoader, Hugging Face dataset, or sequence
        Its items are (image, label), the label a number, text or a vector of them, or a mapping of names to such; or
        mappings of names to an image and labels. An image is a PIL image, a tensor or array with 1 or 3 channels, uint8
        or float in [0, 1] (without normalisation), or as Hugging Face keeps it, a mapping of ``bytes`` or else ``path``
        to a file of an image that `captum_region.datasets.decoding.decode_images` reads. A DataLoader decides the
        order, so do not shuffle if it matters; its workers decode in parallel. A data set without a length is read to
        its end.
    size : int or (height, width), optional
        The size to resize to, with antialiasing; by default the images' own, which must then be the same for all.
    image_column : str, default="image"
        For items that are mappings: the name of the image.
    attributes : sequence of str, optional
        The names of the labels; for items that are mappings, the labels to use. By default all numbers and texts of a
        mapping; for other items the names of the targets of torchvision's CelebA, else ``label``, or ``label_0``,
        ``label_1`` and so on.
    out : path, optional
        A .npy file for images that do not fit into memory: they are written into it one by one, and it is
        memory-mapped.
    show_progress : bool, default=False
        Show a progress bar on stderr.

    Returns
    -------
    AttributeImages
        RGB images of shape (N, 3, height, width). Class numbers become class names if the data set has them
        (``classes`` of torchvision, ``ClassLabel`` of Hugging Face). The targets ``identity`` of torchvision's CelebA
        become the identities. The index numbers the items.

    Raises
    ------
    TypeError, ValueError
        If an item is not an image or has other labels than the items before, or the sizes differ and `size` is not
        given; the message names the item.

    See Also
    --------
    load_table : Images that a table lists.
    AttributeImages : Can also be made from arrays.

    Examples
    --------
    >>> import torch
    >>> from torch.utils.data import TensorDataset
    >>> pairs = TensorDataset(torch.zeros(5, 3, 8, 8), torch.tensor([0, 1, 1, 0, 1]))
    >>> faces = from_dataset(pairs, size=16, attributes=["Smiling"])
    >>> faces.images.shape, faces.attributes["Smiling"].tolist()
    ((5, 3, 16, 16), [0, 1, 1, 0, 1])
    """
    if isinstance(dataset, Mapping):
        raise ValueError(f"dataset must be one split, such as dataset[{next(iter(dataset), None)!r}], got {[*dataset]}")
    if len(set(attributes or ())) < len(attributes or ()):
        raise ValueError(f"attributes must name each label once, got {attributes}")
    shape = None if size is None else height_width(size)
    items = items_of(undecoded(dataset, image_column))
    bar = progress_bar(items, total=length_of(dataset), desc="reading", unit="image", disable=not show_progress)
    columns: dict[Any, list[Any]] = {}
    pixels = _read(bar, shape, image_column, attributes, columns)
    if out is None:
        file = BytesIO()
        start, whole = write_rows(file, pixels)
        images = np.frombuffer(file.getbuffer(), np.uint8, offset=start).reshape(whole)
    else:
        with replacing(out) as beside, beside.open("wb") as opened:
            write_rows(opened, pixels)
        images = np.load(out, mmap_mode="r", allow_pickle=False)
    table = _named(pd.DataFrame(columns, index=pd.RangeIndex(len(images), name="image")), dataset)
    knows_persons = "identity" in (_of_source(dataset, "target_type") or ()) and "identity" in table
    return AttributeImages(images, table, table.pop("identity").to_numpy() if knows_persons else None)


def undecoded(dataset: Any, image_column: str) -> Any:
    """Return a Hugging Face dataset with its images as files: its own decoder opens whatever Pillow knows."""
    features = getattr(dataset, "features", None)
    feature: Any = features.get(image_column) if isinstance(features, Mapping) else None
    # A format that the user chose, and a mode that the feature names, are left to that decoder.
    is_formatted = getattr(dataset, "_formatting", None) or getattr(dataset, "_format_type", None)
    if is_formatted or not getattr(feature, "decode", False) or getattr(feature, "mode", None):
        return dataset
    return dataset.cast_column(image_column, replace(feature, decode=False))


def length_of(dataset: Any) -> int | None:
    """Return how many items a data set has, None if it does not say."""
    return len(dataset) if hasattr(dataset, "__len__") and not isinstance(dataset, DataLoader) else None


def items_of(dataset: Any) -> Iterator[Any]:
    """Yield the items of a data set one by one, also those of a DataLoader's batches.

    Raises
    ------
    TypeError
        If `dataset` has neither a length and items by number nor an iterator.
    """
    if isinstance(dataset, DataLoader):
        for batch in dataset:
            if dataset.batch_sampler is None:
                yield batch
            else:
                yield from _unbatched(batch, dataset.collate_fn is default_collate)
    elif not isinstance(dataset, IterableDataset) and hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__"):
        # Not by iteration: that would end at an IndexError, which a map-style Dataset need not raise.
        yield from (dataset[number] for number in range(len(dataset)))
    elif hasattr(dataset, "__iter__"):
        yield from dataset
    else:
        name = type(dataset).__name__
        raise TypeError(f"dataset must have a length and items by number, or be iterable; got a {name}")


def _unbatched(batch: Any, by_torch: bool) -> Iterator[Any]:
    """Yield the items of what a DataLoader has collated, by torch's function or another."""
    if isinstance(batch, Tensor):
        yield from batch
        return
    parts = list(batch.values()) if isinstance(batch, Mapping) else list(batch)
    items = _zipped([_by_item(part) for part in parts] if by_torch else parts)
    yield from (dict(zip(batch, item, strict=True)) for item in items) if isinstance(batch, Mapping) else items


def _by_item(part: Any) -> Any:
    """Return a part of torch's batch item by item: of tuples, and mappings, it has made columns, each of all items."""
    if isinstance(part, Mapping):
        return [dict(zip(part, each, strict=True)) for each in _zipped([_by_item(one) for one in part.values()])]
    if isinstance(part, list) and part and all(isinstance(column, Tensor | list | tuple) for column in part):
        return _zipped([_by_item(column) for column in part])
    return part


def _zipped(parts: Sequence[Any]) -> list[tuple[Any, ...]]:
    if len(lengths := {len(part) for part in parts}) > 1:
        raise ValueError(f"dataset must give batches whose parts have one length, got {sorted(lengths)}")
    return list(zip(*parts, strict=True))


def _read(
    items: Iterator[Any],
    shape: tuple[int, int] | None,
    image_column: str,
    attributes: Sequence[str] | None,
    columns: dict[Any, list[Any]],
) -> Iterator[NDArray[np.uint8]]:
    """Yield each item's pixels, and add its labels to `columns`; any error names the item."""
    number, first = 0, None
    try:
        for item in items:
            image, labels = _image_and_labels(item, image_column, attributes, f"item {number}")
            pixels = pixels_of(image, shape, f"item {number}'s image")
            first = first or pixels.shape[1:]
            if pixels.shape[1:] != first:
                sizes = f"has {pixels.shape[1:]} pixels, those before have {first}"
                raise ValueError(f"item {number}'s image {sizes}; give size to resize them")
            if number and labels.keys() != columns.keys():
                raise ValueError(f"item {number} has the labels {[*labels]}, those before {[*columns]}")
            for name, value in labels.items():
                columns.setdefault(name, []).append(value)
            yield pixels
            number += 1
    except Exception as error:
        error.add_note(f"while reading item {number} of dataset")
        raise
    if first is None:
        raise ValueError("dataset must hold at least one item, got none")


def _image_and_labels(
    item: Any, image_column: str, attributes: Sequence[str] | None, what: str
) -> tuple[Any, dict[Any, Any]]:
    """Return an item's image, and its labels by name or, where they have none, by position."""
    if not isinstance(item, Mapping):
        image, *rest = item if isinstance(item, tuple | list) else (item,)
        if len(rest) == 1 and isinstance(rest[0], Mapping):
            item = {**rest[0], image_column: image}
        else:
            values = _flat(rest)
            names = range(len(values)) if attributes is None else attributes
            if len(names) not in (0, len(values)):
                raise ValueError(f"attributes must name the labels of {what}, {len(values)}, got {list(names)}")
            item = {image_column: image, **dict(zip(names, values, strict=False))}
    if missing := [name for name in (image_column, *(attributes or ())) if name not in item]:
        raise ValueError(f"{what} has no {missing[0]!r}, it has {quoted(item)}")
    wanted = [name for name in item if name != image_column] if attributes is None else attributes
    found = {name: item[name] for name in wanted}
    labels = {name: _single(value) for name, value in found.items()}
    other = [name for name, value in labels.items() if isinstance(value, Tensor) or not pd.api.types.is_scalar(value)]
    if other and attributes is not None:
        raise TypeError(f"{what}'s {other[0]!r} must be a number or text, got {type(labels[other[0]]).__name__}")
    return item[image_column], {name: value for name, value in labels.items() if name not in other}


def _single(value: Any) -> Any:
    """Return the number in a tensor or array that holds one; anything else as it is."""
    is_array = isinstance(value, Tensor | np.ndarray | np.generic)
    return value.item() if is_array and math.prod(value.shape) == 1 else value


def _flat(label: Any) -> list[Any]:
    if isinstance(label, tuple | list):
        return [value for part in label for value in _flat(part)]
    return label.tolist() if isinstance(label, Tensor | np.ndarray) and label.ndim == 1 else [label]


def pixels_of(image: Any, shape: tuple[int, int] | None, what: str) -> NDArray[np.uint8]:
    """Return a data set's image as RGB, 3 x height x width, of `shape` if that is given.

    Raises
    ------
    TypeError, ValueError
        If it is no image; the message begins with `what`.
    """
    if isinstance(image, Mapping) and (image.get("bytes") or image.get("path")):
        try:
            return decode_content(image.get("bytes") or Path(image["path"]).read_bytes(), shape)
        except ValueError as error:
            raise ValueError(f"{what}: {error}") from error
    if isinstance(image, Tensor | np.ndarray):
        array = image_array(image, what)
        image = Image.fromarray(array if array.dtype == np.uint8 else np.rint(255 * array).astype(np.uint8))
    if not isinstance(image, Image.Image):
        wanted = "a PIL image, a tensor, an array or a mapping of bytes or path"
        raise TypeError(f"{what} must be {wanted}, got {type(image).__name__}")
    if image.format == "EPS":  # opened but not yet run by Ghostscript
        raise ValueError(f"{what}: not an image of a supported format")
    return rgb_pixels(image, shape)


def _named(table: pd.DataFrame, dataset: Any) -> pd.DataFrame:
    """Return labels with names in place of positions and of class numbers."""
    if all(isinstance(name, int) for name in table):  # positions
        count = table.shape[1]
        names = _label_names(dataset)
        fallback = ["label"] if count == 1 else [f"label_{position}" for position in range(count)]
        table.columns = names if len(names) == count else fallback
    for column in table:
        classes = _class_names(dataset, column, table.shape[1])
        numbers = table[column].to_numpy()
        if classes and numbers.dtype.kind == "i" and numbers.min() >= -1 and numbers.max() < len(classes):
            table[column] = pd.Categorical.from_codes(numbers, pd.Index(classes))  # -1 is missing, as at Hugging Face
    return table


def _label_names(dataset: Any) -> list[str]:
    """Return the names of a vector of labels, which torchvision's CelebA makes of one or several types of targets."""
    # torchvision's header ends with a blank, and its names with an empty one.
    attributes = [name for name in _of_source(dataset, "attr_names") or () if name]
    kinds, names_of = _of_source(dataset, "target_type"), {"attr": attributes, **_CELEBA_TARGETS}
    return [name for kind in kinds for name in names_of.get(kind, ())] if isinstance(kinds, list) else attributes


def _class_names(dataset: Any, column: Any, columns: int) -> Sequence[str] | None:
    """Return the names of a column's class numbers; None where they are not known, or are not one for each number."""
    features = _of_source(dataset, "features")
    if isinstance(features, Mapping):
        return getattr(features.get(column), "names", None)
    # After a transform of the labels the numbers may be others than the names are of.
    if columns != 1 or _of_source(dataset, "target_transform") is not None:
        return None
    is_binary = _of_source(dataset, "_target_types") == ["binary-category"]  # of torchvision's OxfordIIITPet
    classes = _of_source(dataset, "bin_classes" if is_binary else "classes") or ()
    names = [", ".join(name) if isinstance(name, tuple) else name for name in classes]  # of ImageNet, its synonyms
    return names if len({*names}) == len(names) else None


def _of_source(dataset: Any, name: str) -> Any:
    """Return an attribute of a data set, or of the one that a DataLoader or Subset wraps; None if there is none.

    Any other wrapper may have made labels of its own.
    """
    value = getattr(dataset, name, None)
    return _of_source(dataset.dataset, name) if value is None and isinstance(dataset, DataLoader | Subset) else value

"""Reader of CelebA."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from captum_region.datasets.images import AttributeImages
from captum_region.datasets.listing import Decoding, Listing, first_folder, load_listing

_SPLITS = {"train": 0, "valid": 1, "test": 2}


def load_celeba(
    root: str | os.PathLike[str],
    split: str = "train",
    *,
    size: int | tuple[int, int] = 64,
    **decoding: Unpack[Decoding],
) -> AttributeImages:
    """Load CelebA: faces with 40 binary attributes and identities.

    The files are laid out as downloaded, in ``Anno/``, ``Eval/`` and ``Img/``, or as
    ``torchvision.datasets.CelebA`` leaves them: ``root/celeba/``, ``root/CelebA/`` or ``root/`` with ::

        img_align_celeba/000001.jpg ...   the images, also one img_align_celeba folder further down
        list_attr_celeba.txt              a count, the 40 names, then for each image its name and 40 times 1 or -1 or 0
        list_eval_partition.txt           image and 0 (train), 1 (valid) or 2 (test); not needed for "all"
        identity_CelebA.txt               image and number of the person; optional

    The label files may also be .csv files, each with a header and the image in the first column. They may list a part
    of CelebA: the images that both the attributes and the partition list are loaded.

    Parameters
    ----------
    root : path
        The folder that holds ``celeba`` or ``CelebA``, or that folder itself.
    split : {"train", "valid", "test", "all"}
        The partition to load.
    size : int or (height, width), default=64
        The size to resize to.
    **decoding
        ``cache``, ``on_error``, ``n_jobs`` and ``show_progress`` of `captum_region.datasets.decoding.decode_images`.

    Returns
    -------
    AttributeImages
        RGB images of shape (N, 3, height, width). The attributes are bool, True for 1; their index is the file name.
        The identities are integers, or None without an identity file.

    Raises
    ------
    FileNotFoundError
        If a folder or label file is missing, or an image and `on_error` is "raise".
    ValueError
        If a label file is malformed, the split is empty, an argument is invalid or an image damaged.

    See Also
    --------
    read_attributes : The attributes alone, without decoding images.

    References
    ----------
    Liu, Luo, Wang, Tang, "Deep Learning Face Attributes in the Wild", ICCV 2015.
    """
    return load_listing(list_celeba(root, split), size, **decoding)


def list_celeba(root: str | os.PathLike[str], split: str) -> Listing:
    """List CelebA's images of `split`."""
    if split not in (*_SPLITS, "all"):
        raise ValueError(f"split must be one of {', '.join(_SPLITS)} and all, got {split!r}")
    folder = first_folder(root, "celeba", "CelebA", "")
    path = _file(folder, "list_attr_celeba")
    attributes = _rows(path, allowed=((-1, 1), (0, 1)), has_names=True) == 1
    if split != "all":
        path = _file(folder, "list_eval_partition")
        partition = _rows(path, allowed=(tuple(_SPLITS.values()),)).iloc[:, 0]
        attributes = attributes[partition.reindex(attributes.index) == _SPLITS[split]]
    if attributes.empty:
        raise ValueError(f"split {split!r} is empty: {path} lists no image of it")
    inside = "img_align_celeba/img_align_celeba"
    images = first_folder(folder, inside, "img_align_celeba", f"Img/{inside}", "Img/img_align_celeba")
    return Listing(images, attributes, _identities(folder, attributes.index))


def celeba_splits(root: str | os.PathLike[str]) -> list[str]:
    """Return the splits that have images: a part of CelebA may have been downloaded."""
    partition = _rows(_file(first_folder(root, "celeba", "CelebA", ""), "list_eval_partition")).iloc[:, 0]
    return [name for name, value in _SPLITS.items() if (partition == value).any()]


def _file(folder: Path, name: str) -> Path:
    for path in (folder / below / f"{name}{suffix}" for below in ("", "Anno", "Eval") for suffix in (".txt", ".csv")):
        if path.is_file():
            return path
    places = f"{folder}, its Anno or Eval"
    raise FileNotFoundError(f"root must hold the data set: there is no {name}.txt or .csv in {places}")


def _rows(path: Path, allowed: Sequence[tuple[int, ...]] = (), has_names: bool = False) -> pd.DataFrame:
    """Read integers by image, all from one of the tuples `allowed`, or any integers if there is none.

    With `has_names`, a text file begins with a count and the names of its columns.
    """
    count, names, separator = None, ["value"], "," if path.suffix == ".csv" else r"\s+"
    with path.open(encoding="utf-8-sig") as file:
        if separator == ",":
            names = [name.strip() for name in next(csv.reader([file.readline()], skipinitialspace=True))][1:]
        elif has_names:
            count, names = file.readline().strip(), file.readline().split()
        options: dict[str, Any] = {"index_col": 0, "skipinitialspace": True, "converters": {0: str.strip}}
        try:
            rows = pd.read_csv(file, sep=separator, header=None, **options)
        except ValueError as error:
            raise ValueError(f"{path}, lines counted after the header: {error}") from error
    if count not in (None, str(len(rows))):
        raise ValueError(f"{path}, line 1: must be the number of images, {len(rows)} follow, got {count!r}")
    if rows.shape[1] != len(names):
        raise ValueError(f"{path}, row of {rows.index[0]}: {rows.shape[1]} values for the {len(names)} columns {names}")
    if rows.index.has_duplicates:
        raise ValueError(f"{path} lists {rows.index[rows.index.duplicated()][0]} more than once")
    numbers = rows.apply(pd.to_numeric, errors="coerce").to_numpy()
    fits = {f"one of {values}": np.isin(numbers, values) for values in allowed} or {"an integer": numbers % 1 == 0}
    wanted = max(fits, key=lambda name: int(fits[name].sum()))  # what most values are, the others should be
    if not fits[wanted].all():
        row, column = np.argwhere(~fits[wanted])[0]
        at, value = f"{path}, row {row + 1} ({rows.index[row]})", str(rows.iat[row, column])
        raise ValueError(f"{at}: {names[column]!r} must be {wanted}, got {value!r}")
    return pd.DataFrame(numbers.astype(int), rows.index, names)


def _identities(folder: Path, images: "pd.Index[str]") -> NDArray[Any] | None:
    try:
        path = _file(folder, "identity_CelebA")
    except FileNotFoundError:
        return None
    identities = _rows(path).iloc[:, 0]
    unknown = images.difference(identities.index)
    if len(unknown):
        raise ValueError(f"{path} has no row for {unknown[0]} ({len(unknown)} such images)")
    return identities.loc[images].to_numpy()

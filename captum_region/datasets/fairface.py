"""Reader of FairFace."""

import os
from pathlib import Path
from typing import Unpack

import numpy as np
import pandas as pd

from captum_region.datasets.images import AttributeImages, quoted
from captum_region.datasets.listing import AGE_GROUPS, Decoding, Listing, first_folder, load_listing
from captum_region.datasets.tables import read_table

_SPLITS = {"train": ("train",), "validation": ("val",), "all": ("train", "val")}
_UNPACKED = ("fairface-img-margin025-trainval", "fairface-img-margin125-trainval")
_LABELS = {
    "age": AGE_GROUPS,
    "gender": ("Male", "Female"),
    "race": ("White", "Black", "Latino_Hispanic", "East Asian", "Southeast Asian", "Indian", "Middle Eastern"),
}


def load_fairface(
    root: str | os.PathLike[str],
    split: str = "train",
    *,
    size: int | tuple[int, int] = 64,
    **decoding: Unpack[Decoding],
) -> AttributeImages:
    """Load FairFace: faces with age group, gender and race.

    ``root/`` holds ``fairface_label_train.csv`` and ``fairface_label_val.csv`` with the columns ``file`` (as in
    ``train/1.jpg``), ``age``, ``gender``, ``race`` and ``service_test``, and the folders ``train`` and ``val`` with the
    images. These may also be in ``fairface-img-margin025-trainval`` or ``fairface-img-margin125-trainval``, with or
    without the label files. If both margins are there, 025 is used.

    Parameters
    ----------
    root : path
        The folder that holds the label files and the images.
    split : {"train", "validation", "all"}
        The part to load.
    size : int or (height, width), default=64
        The size to resize to.
    **decoding
        ``cache``, ``on_error``, ``n_jobs`` and ``show_progress`` of `captum_region.datasets.decoding.decode_images`.

    Returns
    -------
    AttributeImages
        RGB images of shape (N, 3, height, width). The attributes are ``age`` (ordered categorical of `AGE_GROUPS`),
        ``gender`` ("Male", "Female"), ``race`` (one of FairFace's seven) and the other columns of the label files;
        their index is the file. There are no identities.

    Raises
    ------
    FileNotFoundError
        If a label file is missing, or an image and `on_error` is "raise".
    ValueError
        If a label file is malformed, the split is empty, an argument is invalid or an image damaged.

    See Also
    --------
    read_attributes : The attributes alone, without decoding images.

    References
    ----------
    Kärkkäinen, Joo, "FairFace: Face Attribute Dataset for Balanced Race, Gender, and Age", WACV 2021.
    """
    return load_listing(list_fairface(root, split), size, **decoding)


def list_fairface(root: str | os.PathLike[str], split: str) -> Listing:
    """List FairFace's images of `split`."""
    if split not in _SPLITS:
        raise ValueError(f"split must be one of {', '.join(_SPLITS)}, got {split!r}")
    folder = first_folder(root, "")
    places = [folder, *(folder / name / inner for name in _UNPACKED for inner in ("", name))]
    files = [f"fairface_label_{part}.csv" for part in _SPLITS[split]]
    beside = next((place for place in places if (place / files[0]).is_file()), folder)
    labels = pd.concat([_rows(beside / file) for file in files])
    if labels.empty:
        raise ValueError(f"split {split!r} is empty: the label files in {beside} list no image of it")
    images = next((place for place in places if all((place / part).is_dir() for part in _SPLITS[split])), folder)
    return Listing(images, labels.assign(age=pd.Categorical(labels["age"], categories=AGE_GROUPS, ordered=True)))


def _rows(path: Path) -> pd.DataFrame:
    rows = read_table(path, text_column="file")
    if missing := {"file", *_LABELS} - set(rows.columns):
        raise ValueError(f"{path} has no column {min(missing)!r}; its columns are {quoted(rows.columns)}")
    if gaps := np.flatnonzero(rows["file"].isna()).tolist():
        raise ValueError(f"{path}, row {gaps[0] + 1}: 'file' must name an image, got nothing ({len(gaps)} such rows)")
    for column, allowed in _LABELS.items():
        wrong = np.flatnonzero(~rows[column].isin(allowed))
        if len(wrong):
            at = f"{path}, row {wrong[0] + 1} ({rows['file'].iloc[wrong[0]]})"
            raise ValueError(f"{at}: {column!r} must be one of {allowed}, got {rows[column].iloc[wrong[0]]!r}")
    return rows.set_index("file")

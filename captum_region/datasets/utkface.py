"""Reader of UTKFace."""

import os
import re
from pathlib import Path
from typing import Unpack

import numpy as np
import pandas as pd

from captum_region.datasets.images import AttributeImages
from captum_region.datasets.listing import AGE_GROUPS, Decoding, Listing, first_folder, load_listing

_NAME = re.compile(r"(\d{1,3})_([01])_([0-4])_[^_]+")
# The highest age that the data set states.
_OLDEST = 116
# Each with its parts: UTKFace holds those of crop_part1 too.
_PLACES = (("images",), ("UTKFace",), ("",), ("part1", "part2", "part3"), ("crop_part1",))
_GENDERS = ("Male", "Female")
_RACES = ("White", "Black", "Asian", "Indian", "Others")
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


def load_utkface(
    root: str | os.PathLike[str], *, size: int | tuple[int, int] = 64, **decoding: Unpack[Decoding]
) -> AttributeImages:
    """Load UTKFace: faces with age, gender and race, read from the file names.

    The files ``[age]_[gender]_[race]_[date&time].jpg.chip.jpg`` (0 male, 1 female; 0 White, 1 Black, 2 Asian, 3 Indian,
    4 Others) lie in ``root/images``, ``root/UTKFace`` or `root` itself, in the parts ``root/part1`` to ``root/part3``
    together, or in ``root/crop_part1``; the first of these that holds images, itself or a folder of its name in it.

    Parameters
    ----------
    root : path
        The folder of the data set.
    size : int or (height, width), default=64
        The size to resize to.
    **decoding
        ``cache``, ``on_error``, ``n_jobs`` and ``show_progress`` of `captum_region.datasets.decoding.decode_images`.
        ``on_error`` also covers a file name without the labels (UTKFace has some) or with an age over 116, the highest
        that UTKFace states.

    Returns
    -------
    AttributeImages
        RGB images of shape (N, 3, height, width), in the order of the file names. The attributes are ``age`` (int),
        ``age_group`` (ordered categorical of `AGE_GROUPS`), ``gender`` ("Male", "Female"), ``race`` ("White", "Black",
        "Asian", "Indian", "Others") and ``Male`` (bool); their index is the file name, of several parts
        with its folder. There are no identities.

    Raises
    ------
    FileNotFoundError
        If the folder is missing.
    ValueError
        If there is no image, an argument is invalid, or `on_error` is "raise" and a file name has no labels or an
        image is damaged.

    See Also
    --------
    read_attributes : The attributes alone, without decoding images.

    References
    ----------
    Zhang, Song, Qi, "Age Progression/Regression by Conditional Adversarial Autoencoder", CVPR 2017.
    """
    return load_listing(list_utkface(root, decoding.get("on_error", "raise")), size, **decoding)


def list_utkface(root: str | os.PathLike[str], on_error: str) -> Listing:
    """List UTKFace's images."""
    folder, found = _find(first_folder(root, ""))
    matches = {name: _NAME.fullmatch(os.path.basename(name)) for name in found}
    labels = {name: match.groups() for name, match in matches.items() if match and int(match[1]) <= _OLDEST}
    unnamed = [name for name in found if name not in labels]
    wanted = "[age]_[gender]_[race]_[date&time].jpg"
    reason = f"the file name is not {wanted} with age 0-{_OLDEST}, gender 0-1 and race 0-4"
    if not labels:
        raise ValueError(f"no image named {wanted} in {folder}, its images, UTKFace, part1 to part3 or crop_part1")
    if unnamed and on_error == "raise":
        raise ValueError(f"{folder / unnamed[0]}: {reason}; on_error='skip' leaves such images out")
    codes = pd.DataFrame.from_dict(labels, orient="index", columns=["age", "gender", "race"]).astype(int)
    decades = pd.cut(codes["age"], [0, 3, *range(10, 80, 10), np.inf], right=False, labels=AGE_GROUPS)
    gender, race = codes["gender"].map(dict(enumerate(_GENDERS))), codes["race"].map(dict(enumerate(_RACES)))
    attributes = codes[["age"]].assign(age_group=decades, gender=gender, race=race, Male=codes["gender"] == 0)
    return Listing(folder, attributes, skipped=[{"image": name, "reason": reason} for name in unnamed])


def _find(root: Path) -> tuple[Path, list[str]]:
    """Return the folder of the images, which may have parts, and their names relative to it."""
    for parts in _PLACES:
        if images := [image for part in parts for image in _images_in(root / part)]:
            folder = Path(os.path.commonpath({image.parent for image in images}))
            return folder, [image.relative_to(folder).as_posix() for image in images]
    return root, []


def _images_in(folder: Path) -> list[Path]:
    """Return the images in a folder, or else in a folder of the same name in it, as some archives have it."""
    for place in (folder, folder / folder.name):
        paths = sorted(place.iterdir()) if place.is_dir() else []
        # Archives made on a Mac hold a hidden "._" file for each image.
        if images := [path for path in paths if path.suffix.lower() in _IMAGE_SUFFIXES and path.name[0] != "."]:
            return images
    return []

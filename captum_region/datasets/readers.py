"""Readers of CelebA, FairFace, UTKFace and any table of images: files on disk -> AttributeImages."""

from __future__ import annotations

import os
import re
import warnings
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from captum_region.datasets.decoding import check_on_error, decode_images
from captum_region.datasets.images import AttributeImages

if TYPE_CHECKING:
    from numpy.typing import NDArray

AGE_GROUPS = ("0-2", "3-9", "10-19", "20-29", "30-39", "40-49", "50-59", "60-69", "more than 70")
"""FairFace's age groups, in order; the last begins at 70."""

_CELEBA_SPLITS = {"train": 0, "valid": 1, "test": 2}
_FAIRFACE_SPLITS = {"train": ("train",), "validation": ("val",), "all": ("train", "val")}
_FAIRFACE_LABELS = {
    "age": AGE_GROUPS,
    "gender": ("Male", "Female"),
    "race": ("White", "Black", "Latino_Hispanic", "East Asian", "Southeast Asian", "Indian", "Middle Eastern"),
}
_UTKFACE_NAME = re.compile(r"(\d{1,3})_([01])_([0-4])_[^_]+")
_UTKFACE_GENDERS = ("Male", "Female")
_UTKFACE_RACES = ("White", "Black", "Asian", "Indian", "Others")
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


def load_celeba(
    root: str | os.PathLike[str],
    split: str = "train",
    *,
    size: int | tuple[int, int] = 64,
    cache: str | os.PathLike[str] | None = None,
    on_error: str = "raise",
    n_jobs: int | None = None,
    show_progress: bool = False,
) -> AttributeImages:
    """Load CelebA: 40 binary attributes and the identities of faces.

    The files are laid out as ``torchvision.datasets.CelebA`` leaves them, ``root/celeba/`` or ``root/`` with ::

        img_align_celeba/000001.jpg ...   the images, also one img_align_celeba folder further down
        list_attr_celeba.txt              a count, the 40 names, then for each image its name and -1 or 1 a name
        list_eval_partition.txt           image and 0 (train), 1 (valid) or 2 (test); not needed for "all"
        identity_CelebA.txt               image and number of the person; optional

    or with .csv files in place of .txt, each with a header and the image in the first column. The label files may list
    a part of CelebA: what is loaded is the images that the attributes and the partition both list.

    Parameters
    ----------
    root : path
        The folder that holds ``celeba``, or that folder itself.
    split : {"train", "valid", "test", "all"}
        The partition to load.
    size, cache, on_error, n_jobs, show_progress
        As in `captum_region.datasets.decoding.decode_images`.

    Returns
    -------
    AttributeImages
        RGB images of shape (N, 3, height, width). The attributes are bool, 1 being True; their index is the file name.
        The identities are integers, or None where there is no identity file.

    Raises
    ------
    FileNotFoundError
        If a folder or label file is missing, or an image and `on_error` is "raise".
    ValueError
        If a label file is malformed, the split is empty, an argument is invalid or an image damaged.

    References
    ----------
    Liu, Luo, Wang, Tang, "Deep Learning Face Attributes in the Wild", ICCV 2015.
    """
    return _load(
        _list_celeba(root, split),
        size=size,
        cache=cache,
        on_error=on_error,
        n_jobs=n_jobs,
        show_progress=show_progress,
    )


def load_fairface(
    root: str | os.PathLike[str],
    split: str = "train",
    *,
    size: int | tuple[int, int] = 64,
    cache: str | os.PathLike[str] | None = None,
    on_error: str = "raise",
    n_jobs: int | None = None,
    show_progress: bool = False,
) -> AttributeImages:
    """Load FairFace: age group, gender and race of faces.

    ``root/`` holds ``fairface_label_train.csv`` and ``fairface_label_val.csv`` with the columns ``file`` (relative to
    `root`, as in ``train/1.jpg``), ``age``, ``gender``, ``race`` and ``service_test``.

    Parameters
    ----------
    root : path
        The folder that holds the label files and the images.
    split : {"train", "validation", "all"}
        The part to load.
    size, cache, on_error, n_jobs, show_progress
        As in `captum_region.datasets.decoding.decode_images`.

    Returns
    -------
    AttributeImages
        RGB images of shape (N, 3, height, width). The attributes are ``age`` (ordered categorical of `AGE_GROUPS`),
        ``gender`` ("Male", "Female"), ``race`` (one of FairFace's seven) and what other columns there are; their index
        is the file. No identities.

    Raises
    ------
    FileNotFoundError
        If a label file is missing, or an image and `on_error` is "raise".
    ValueError
        If a label file is malformed, the split is empty, an argument is invalid or an image damaged.

    References
    ----------
    Kärkkäinen, Joo, "FairFace: Face Attribute Dataset for Balanced Race, Gender, and Age", WACV 2021.
    """
    return _load(
        _list_fairface(root, split),
        size=size,
        cache=cache,
        on_error=on_error,
        n_jobs=n_jobs,
        show_progress=show_progress,
    )


def load_utkface(
    root: str | os.PathLike[str],
    *,
    size: int | tuple[int, int] = 64,
    cache: str | os.PathLike[str] | None = None,
    on_error: str = "raise",
    n_jobs: int | None = None,
    show_progress: bool = False,
) -> AttributeImages:
    """Load UTKFace: age, gender and race of faces, read from the file names.

    The files ``[age]_[gender]_[race]_[date&time].jpg.chip.jpg`` (0 male, 1 female; 0 White, 1 Black, 2 Asian, 3 Indian,
    4 Others) lie in ``root/images``, ``root/UTKFace`` or `root` itself, the first of these that there is.

    Parameters
    ----------
    root : path
        The folder of the data set.
    size, cache, on_error, n_jobs, show_progress
        As in `captum_region.datasets.decoding.decode_images`. A file name without the labels (UTKFace has some) is an
        error that `on_error` covers.

    Returns
    -------
    AttributeImages
        RGB images of shape (N, 3, height, width), in the order of the file names. The attributes are ``age`` (int),
        ``age_group`` (ordered categorical of `AGE_GROUPS`), ``gender`` ("Male", "Female"), ``race`` ("White", "Black",
        "Asian", "Indian", "Others") and ``Male`` (bool); their index is the file name. No identities.

    Raises
    ------
    FileNotFoundError
        If the folder is missing.
    ValueError
        If there is no image, an argument is invalid, or `on_error` is "raise" and a file name has no labels or an
        image is damaged.

    References
    ----------
    Zhang, Song, Qi, "Age Progression/Regression by Conditional Adversarial Autoencoder", CVPR 2017.
    """
    return _load(
        _list_utkface(root, on_error),
        size=size,
        cache=cache,
        on_error=on_error,
        n_jobs=n_jobs,
        show_progress=show_progress,
    )


def load_table(
    table: str | os.PathLike[str] | pd.DataFrame,
    image_column: str = "image",
    *,
    root: str | os.PathLike[str] | None = None,
    identity_column: str | None = None,
    size: int | tuple[int, int] = 64,
    cache: str | os.PathLike[str] | None = None,
    on_error: str = "raise",
    n_jobs: int | None = None,
    show_progress: bool = False,
) -> AttributeImages:
    """Load the images that a table lists, with its other columns as their attributes.

    The table's author decides which files are read: images may lie anywhere that the reader may read, as a table of
    several data sets needs it. What is no image is refused and none of it is told, so that a stranger's table can
    bring in pictures of this machine, and nothing else.

    Parameters
    ----------
    table : path or DataFrame
        A .csv (commas), .tsv (tabs) or .parquet file with a row an image, or such a table. It is not changed. Text is
        UTF-8, or UTF-16 with its mark.
    image_column : str
        The column of image files, relative to `root` or absolute. An image may be listed once only: the rows of an
        image listed twice could end up on both sides of a train-test split.
    root : path, optional
        Where the images are; by default the folder of the table's file, for a DataFrame the working directory.
    identity_column : str, optional
        The column that says which person an image shows; it becomes the identities and is no attribute.
    size, cache, on_error, n_jobs, show_progress
        As in `captum_region.datasets.decoding.decode_images`.

    Returns
    -------
    AttributeImages
        RGB images of shape (N, 3, height, width), in the table's order. The attributes are the other
        columns; their index is the image as the table names it.

    Raises
    ------
    FileNotFoundError
        If the table or `root` is missing, or an image and `on_error` is "raise".
    ValueError
        If the table cannot be read, a column is missing, has gaps or repeats an image, the table is empty, an argument
        is invalid or an image damaged.
    TypeError
        If what names an image in a DataFrame is no name.

    Examples
    --------
    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Image.new("RGB", (90, 110)).save(f"{folder}/anna.png")
    ...     table = pd.DataFrame({"image": ["anna.png", "bob.png"], "Smiling": [True, False]})
    ...     faces = load_table(table, root=folder, cache=folder, size=(55, 45), on_error="skip")
    >>> faces.images.shape, faces.attributes["Smiling"].to_dict()
    ((1, 3, 55, 45), {'anna.png': True})
    >>> faces.skipped["reason"].tolist()
    ['there is no such file']
    """
    return _load(
        _list_table(table, image_column, root, identity_column),
        size=size,
        cache=cache,
        on_error=on_error,
        n_jobs=n_jobs,
        show_progress=show_progress,
    )


def read_attributes(
    kind: str, root: str | os.PathLike[str], split: str | None = None, *, on_error: str = "raise"
) -> pd.DataFrame:
    """Read the attributes of a data set, and none of its images.

    Parameters
    ----------
    kind : {"celeba", "fairface", "utkface", "table"}
        What to read as `load_celeba`, `load_fairface`, `load_utkface` or `load_table` does.
    root : path
        The data set's folder, or the table's file.
    split : str, optional
        The part of CelebA or FairFace; by default "train". The other kinds have none.
    on_error : {"raise", "skip"}
        What to do with a file of UTKFace whose name lacks the labels. Whether an image can be decoded shows when it is.

    Returns
    -------
    DataFrame
        The attributes that the reader would give, one row an image. ``attrs["skipped"]`` lists the images left out, as
        records of ``image`` and ``reason``.

    Raises
    ------
    FileNotFoundError
        If a folder or label file is missing.
    ValueError
        If there is no such kind or split, or the reader would refuse the labels.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     table = pd.DataFrame({"image": ["anna.png", "bob.png"], "Smiling": [True, False]})
    ...     table.to_csv(f"{folder}/faces.csv", index=False)
    ...     read_attributes("table", f"{folder}/faces.csv")
              Smiling
    image
    anna.png     True
    bob.png     False
    """
    check_on_error(on_error)
    if kind in ("utkface", "table") and split is not None:
        raise ValueError(f"split must be None for {kind}, which has no parts, got {split!r}")
    split = "train" if split is None else split
    match kind:
        case "celeba":
            listing = _list_celeba(root, split)
        case "fairface":
            listing = _list_fairface(root, split)
        case "utkface":
            listing = _list_utkface(root, on_error)
        case "table":
            listing = _list_table(root)
        case _:
            raise ValueError(f"kind must be celeba, fairface, utkface or table, got {kind!r}")
    listing.attributes.attrs["skipped"] = [] if listing.skipped is None else listing.skipped.to_dict("records")
    return listing.attributes


@dataclass(frozen=True)
class _Listing:
    """The images of a data set, named in the index of their attributes, before any is opened."""

    folder: Path
    attributes: pd.DataFrame
    identities: NDArray[Any] | None = None
    skipped: pd.DataFrame | None = None

    def __post_init__(self) -> None:
        # However they are spelt.
        paths = self.attributes.index.map(os.path.normpath)
        repeated = self.attributes.index[paths.duplicated()]
        if len(repeated):
            raise ValueError(
                f"an image may be listed once only, {repeated[0]} is listed again ({len(repeated)} such rows)"
            )
        object.__setattr__(self, "attributes", self.attributes.rename_axis(index="image"))


def _list_celeba(root: str | os.PathLike[str], split: str) -> _Listing:
    if split not in (*_CELEBA_SPLITS, "all"):
        raise ValueError(f"split must be one of {', '.join(_CELEBA_SPLITS)} and all, got {split!r}")
    folder = _first_folder(root, "celeba", "")
    path = _celeba_file(folder, "list_attr_celeba")
    attributes = _celeba_rows(path, allowed=(-1, 1), has_names=True) == 1
    if split != "all":
        path = _celeba_file(folder, "list_eval_partition")
        partition = _celeba_rows(path, allowed=tuple(_CELEBA_SPLITS.values())).iloc[:, 0]
        attributes = attributes[partition.reindex(attributes.index) == _CELEBA_SPLITS[split]]
    if attributes.empty:
        raise ValueError(f"split {split!r} is empty: {path} lists no image of it")
    images = _first_folder(folder, "img_align_celeba/img_align_celeba", "img_align_celeba")
    return _Listing(images, attributes, _celeba_identities(folder, attributes.index))


def _list_fairface(root: str | os.PathLike[str], split: str) -> _Listing:
    if split not in _FAIRFACE_SPLITS:
        raise ValueError(f"split must be one of {', '.join(_FAIRFACE_SPLITS)}, got {split!r}")
    folder = _first_folder(root, "")
    labels = pd.concat([_fairface_rows(folder / f"fairface_label_{part}.csv") for part in _FAIRFACE_SPLITS[split]])
    if labels.empty:
        raise ValueError(f"split {split!r} is empty: the label files in {folder} list no image of it")
    return _Listing(folder, labels.assign(age=pd.Categorical(labels["age"], categories=AGE_GROUPS, ordered=True)))


def _list_utkface(root: str | os.PathLike[str], on_error: str) -> _Listing:
    folder = _first_folder(root, "images", "UTKFace", "")
    found = sorted(name for name in os.listdir(folder) if _is_image(name))
    labels = {name: match.groups() for name in found if (match := _UTKFACE_NAME.fullmatch(name))}
    unnamed = [name for name in found if name not in labels]
    reason = "the file name is not [age]_[gender]_[race]_[date&time].jpg with gender 0-1 and race 0-4"
    if unnamed and on_error == "raise":
        raise ValueError(f"{folder / unnamed[0]}: {reason}; on_error='skip', --skip-damaged, leaves such images out")
    if not labels:
        raise ValueError(f"no image named [age]_[gender]_[race]_[date&time].jpg in {folder}")
    codes = pd.DataFrame.from_dict(labels, orient="index", columns=["age", "gender", "race"]).astype(int)
    decades = pd.cut(codes["age"], [0, 3, *range(10, 80, 10), np.inf], right=False, labels=AGE_GROUPS)
    attributes = pd.DataFrame(
        {
            "age": codes["age"],
            "age_group": decades,
            "gender": codes["gender"].map(dict(enumerate(_UTKFACE_GENDERS))),
            "race": codes["race"].map(dict(enumerate(_UTKFACE_RACES))),
            "Male": codes["gender"] == 0,
        }
    )
    return _Listing(folder, attributes, skipped=pd.DataFrame({"image": unnamed, "reason": reason}, dtype=object))


def _list_table(
    table: str | os.PathLike[str] | pd.DataFrame,
    image_column: str = "image",
    root: str | os.PathLike[str] | None = None,
    identity_column: str | None = None,
) -> _Listing:
    if isinstance(table, pd.DataFrame):
        source, rows = "table", table
    else:
        source, rows = str(table), _read_table(Path(table), text_column=image_column)
        root = Path(table).parent if root is None else root
    wanted = [image_column] if identity_column is None else [image_column, identity_column]
    if missing := [column for column in wanted if column not in rows.columns]:
        columns = ", ".join(map(str, rows.columns))
        hint = "; a .csv has commas between its values, a .tsv tabs" if rows.shape[1] == 1 else ""
        raise ValueError(f"{source} has no column {missing[0]!r}; its columns are {columns}{hint}")
    for column in wanted:
        if gaps := np.flatnonzero(rows[column].isna()).tolist():
            raise ValueError(f"{source}, column {column!r}: no value in row {gaps[0] + 1} ({len(gaps)} such rows)")
    if rows.empty:
        raise ValueError(f"{source} lists no image")
    for row, name in enumerate(rows[image_column], start=1):
        if not isinstance(name, str | os.PathLike | int | np.integer) or isinstance(name, bool):
            raise TypeError(f"{source}, column {image_column!r}, row {row}: must name an image, got {name!r}")
    names = pd.Index([os.fspath(name) if isinstance(name, os.PathLike) else str(name) for name in rows[image_column]])
    return _Listing(
        _first_folder("." if root is None else root, ""),
        rows.drop(columns=wanted).set_axis(names),
        None if identity_column is None else rows[identity_column].to_numpy(),
    )


def _load(
    listing: _Listing,
    *,
    size: int | tuple[int, int],
    cache: str | os.PathLike[str] | None,
    on_error: str,
    n_jobs: int | None,
    show_progress: bool,
) -> AttributeImages:
    """Decode the images of a listing."""
    decoded = decode_images(
        listing.folder,
        listing.attributes.index.tolist(),
        size,
        cache=cache,
        on_error=on_error,
        n_jobs=n_jobs,
        show_progress=show_progress,
    )
    identities, skipped = listing.identities, listing.skipped
    return AttributeImages(
        decoded.images,
        listing.attributes.iloc[decoded.kept],
        identities=None if identities is None else identities[decoded.kept],
        skipped=decoded.skipped if skipped is None else pd.concat([skipped, decoded.skipped], ignore_index=True),
    )


def _first_folder(root: str | os.PathLike[str], *below: str) -> Path:
    """Return the first of the folders `below` the root that exists."""
    folders = [Path(root).expanduser() / name for name in below]
    for folder in folders:
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"there is no folder {' or '.join(map(str, folders))}")


def _is_image(name: str) -> bool:
    # Archives made on a Mac hold a hidden "._" file beside each image.
    return name.lower().endswith(_IMAGE_SUFFIXES) and not name.startswith(".")


def _celeba_file(folder: Path, name: str) -> Path:
    for path in (folder / f"{name}.txt", folder / f"{name}.csv"):
        if path.is_file():
            return path
    raise FileNotFoundError(f"there is no {name}.txt or {name}.csv in {folder}")


def _celeba_rows(path: Path, allowed: tuple[int, ...] | None = None, has_names: bool = False) -> pd.DataFrame:
    """Read integers by image; where `has_names`, a text file begins with a count and the names of its columns."""
    text = path.read_text("utf-8-sig")
    count = None
    if path.suffix == ".csv":
        header, _, text = text.partition("\n")
        names, separator = header.strip().split(",")[1:], ","
    elif has_names:
        total, header, text = (text + "\n\n").split("\n", 2)
        if not total.strip().isdecimal():
            raise ValueError(f"{path}, line 1: must be the number of images, got {total.strip()!r}")
        count, names, separator = int(total), header.split(), r"\s+"
    else:
        names, separator = ["value"], r"\s+"
    if not text.strip():
        raise ValueError(f"{path} lists no image")
    try:
        rows = pd.read_csv(StringIO(text), sep=separator, header=None, index_col=0, dtype={0: str})
    except pd.errors.ParserError as error:
        raise ValueError(f"{path}, lines counted after the header: {error}") from error
    if rows.shape[1] != len(names):
        raise ValueError(f"{path}, row of {rows.index[0]}: {rows.shape[1]} values for the {len(names)} columns {names}")
    if count is not None and count != len(rows):
        raise ValueError(f"{path} has {len(rows)} rows of images, its first line says {count}")
    if rows.index.has_duplicates:
        raise ValueError(f"{path} lists {rows.index[rows.index.duplicated()][0]} more than once")
    numbers = rows.apply(pd.to_numeric, errors="coerce").to_numpy()
    good = np.isin(numbers, allowed) if allowed else numbers % 1 == 0
    if not good.all():
        row, column = np.argwhere(~good)[0]
        wanted = f"one of {allowed}" if allowed else "an integer"
        at, value = f"{path}, row {row + 1} ({rows.index[row]})", str(rows.iat[row, column])
        raise ValueError(f"{at}: {names[column]} must be {wanted}, got {value}")
    return pd.DataFrame(numbers.astype(int), rows.index, names)


def _celeba_identities(folder: Path, images: pd.Index[str]) -> NDArray[Any] | None:
    try:
        path = _celeba_file(folder, "identity_CelebA")
    except FileNotFoundError:
        return None
    identities = _celeba_rows(path).iloc[:, 0]
    unknown = images.difference(identities.index)
    if len(unknown):
        raise ValueError(f"{path} has no row for {unknown[0]} ({len(unknown)} such images)")
    return identities.loc[images].to_numpy()


def _fairface_rows(path: Path) -> pd.DataFrame:
    rows = _read_table(path)
    if missing := {"file", *_FAIRFACE_LABELS} - set(rows.columns):
        raise ValueError(f"{path} has no column {min(missing)!r}; its columns are {', '.join(rows.columns)}")
    for column, allowed in _FAIRFACE_LABELS.items():
        wrong = np.flatnonzero(~rows[column].isin(allowed))
        if len(wrong):
            at = f"{path}, row {wrong[0] + 1} ({rows['file'].iloc[wrong[0]]})"
            raise ValueError(f"{at}: {column} must be one of {allowed}, got {rows[column].iloc[wrong[0]]!r}")
    return rows.set_index("file")


def _read_table(path: Path, text_column: str | None = None) -> pd.DataFrame:
    """Read a file with a header; the values of `text_column` are not taken for numbers."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no table {path}")
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        try:
            return pd.read_parquet(path)
        except (ImportError, OSError, ValueError) as error:
            raise ValueError(f"{path}: {error}") from error
    if suffix not in (".csv", ".tsv"):
        raise ValueError(f"table must be a .csv, .tsv or .parquet file or a DataFrame, got {path}")
    separator = "," if suffix == ".csv" else "\t"
    try:
        text = _text(path)
        header = pd.read_csv(StringIO(text), sep=separator, header=None, nrows=1, dtype=str).iloc[0].dropna()
        if header.duplicated().any():  # pandas would give the second another name
            raise ValueError(f"column {header[header.duplicated()].iloc[0]!r} is there twice")
        with warnings.catch_warnings():
            # Rows that are longer than the header; without index_col=False their first value would name the row.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            types = None if text_column is None else {text_column: str}
            return pd.read_csv(StringIO(text), sep=separator, dtype=types, index_col=False)
    except pd.errors.ParserWarning as error:
        raise ValueError(f"{path}: rows have more values than the header has columns") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _text(path: Path) -> str:
    """Return a file's text: UTF-8, or UTF-16 where the file begins with its mark, as Excel writes it."""
    content = path.read_bytes()
    try:
        text = content.decode("utf-16" if content[:2] in (BOM_UTF16_LE, BOM_UTF16_BE) else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(f"line {line} is not of UTF-8, in which tables must be stored: {error}") from error
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise ValueError(f"line {line} is not of UTF-8, in which tables must be stored: it holds a zero")
    return text

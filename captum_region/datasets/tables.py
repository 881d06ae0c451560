"""Reader of any table of images, and of the text of tables."""

import os
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from io import StringIO
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import pandas as pd

from captum_region.datasets.images import AttributeImages, quoted
from captum_region.datasets.listing import Decoding, Listing, first_folder, load_listing

# How pandas reads text: "None" and "NA" are categories like others.
_CELLS: dict[str, Any] = {"skipinitialspace": True, "keep_default_na": False}


def load_table(
    table: str | os.PathLike[str] | pd.DataFrame,
    image_column: str = "image",
    *,
    root: str | os.PathLike[str] | None = None,
    identity_column: str | None = None,
    size: int | tuple[int, int] = 64,
    **decoding: Unpack[Decoding],
) -> AttributeImages:
    """Load the images that a table lists, with its other columns as their attributes.

    A table may name any file that this process can read, so that it can combine several data sets. A file that is not
    an image is refused and nothing of its content is shown: an untrusted table can load pictures from this machine, and
    nothing else.

    Parameters
    ----------
    table : path or DataFrame
        A .csv (commas), .tsv (tabs) or .parquet file with one row per image, or such a table, which is not changed.
        Text is UTF-8, or UTF-16 with a byte order mark. Blanks around names and values are dropped. Only an empty cell
        is a missing value: "None" and "NA" are text.
    image_column : str
        The column of image files, relative to `root` or absolute. An image may be listed once only: the rows of an
        image listed twice could end up on both sides of a train-test split.
    root : path, optional
        The folder of the images; by default that of the table's file, for a DataFrame the working directory.
    identity_column : str, optional
        The column that says which person an image shows. It becomes the identities, not an attribute.
    size : int or (height, width), default=64
        The size to resize to.
    **decoding
        ``cache``, ``on_error``, ``n_jobs`` and ``show_progress`` of `captum_region.datasets.decoding.decode_images`.

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
        If a value in the image column of a DataFrame is not a file name.

    See Also
    --------
    read_attributes : The attributes alone, without decoding images.
    from_dataset : Images of another library's data set.

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
    listing = list_table(table, image_column, root, identity_column)
    return load_listing(listing, size, **decoding)


def list_table(
    table: str | os.PathLike[str] | pd.DataFrame,
    image_column: str = "image",
    root: str | os.PathLike[str] | None = None,
    identity_column: str | None = None,
) -> Listing:
    """List the images of a table."""
    if isinstance(table, pd.DataFrame):
        source, rows = "table", table
    else:
        source, rows = str(table), read_table(Path(table), text_column=image_column)
        root = Path(table).parent if root is None else root
    wanted = [image_column] if identity_column is None else [image_column, identity_column]
    if missing := [column for column in wanted if column not in rows.columns]:
        hint = "; a .csv has commas between its values, a .tsv tabs" if rows.shape[1] == 1 else ""
        hint = "; name another with image_column" if missing[0] == image_column and not hint else hint
        raise ValueError(f"{source} has no column {missing[0]!r}; its columns are {quoted(rows.columns)}{hint}")
    for column in wanted:
        if gaps := np.flatnonzero(rows[column].isna()).tolist():
            raise ValueError(f"{source}, column {column!r}: no value in row {gaps[0] + 1} ({len(gaps)} such rows)")
    if rows.empty:
        raise ValueError(f"{source} lists no image")
    for row, name in enumerate(rows[image_column], start=1):
        if not isinstance(name, str | os.PathLike | int | np.integer) or isinstance(name, bool):
            raise TypeError(f"{source}, column {image_column!r}, row {row}: must name an image, got {name!r}")
    names = pd.Index([os.fspath(name) if isinstance(name, os.PathLike) else str(name) for name in rows[image_column]])
    return Listing(
        first_folder("." if root is None else root, ""),
        rows.drop(columns=wanted).set_axis(names),
        None if identity_column is None else rows[identity_column].to_numpy(),
    )


def read_table(path: Path, text_column: str | None = None) -> pd.DataFrame:
    """Read a file with a header; the values of `text_column` are not taken for numbers."""
    path = path.expanduser()
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
        cells = pd.read_csv(StringIO(_text(path)), sep=separator, header=None, dtype=str, **_CELLS).map(str.strip)
        names = cells.iloc[0]
        if len(twice := names[names.duplicated() & (names != "")]):  # pandas would give the second another name
            raise ValueError(f"column {twice.iloc[0]!r} occurs twice")
        # Without the blanks, a value may be a number or missing.
        text, types = cells.to_csv(header=False, index=False), None if text_column is None else {text_column: str}
        return pd.read_csv(StringIO(text), dtype=types, na_values=[""], low_memory=False, **_CELLS)
    except ValueError as error:
        hint = "; a .csv has commas between its values, a .tsv tabs" if "Error tokenizing" in str(error) else ""
        raise ValueError(f"{path}: {str(error).strip()}{hint}") from error


def _text(path: Path) -> str:
    """Return a file's text: UTF-8, or UTF-16 if the file begins with its byte order mark, as Excel writes it."""
    content = path.read_bytes()
    try:
        text = content.decode("utf-16" if content[:2] in (BOM_UTF16_LE, BOM_UTF16_BE) else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(f"line {line} is not UTF-8, save the table as UTF-8: {error}") from error
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise ValueError(f"line {line} is not UTF-8, save the table as UTF-8: it has a zero byte")
    return text

"""The attributes of a data set without its images, for every reader."""

import os

import pandas as pd

from captum_region.datasets.celeba import list_celeba
from captum_region.datasets.decoding import check_on_error
from captum_region.datasets.fairface import list_fairface
from captum_region.datasets.listing import Listing
from captum_region.datasets.tables import list_table
from captum_region.datasets.utkface import list_utkface


def read_attributes(
    kind: str,
    root: str | os.PathLike[str],
    split: str | None = None,
    *,
    on_error: str = "raise",
    image_column: str = "image",
) -> pd.DataFrame:
    """Read the attributes of a data set without its images.

    Parameters
    ----------
    kind : {"celeba", "fairface", "utkface", "table"}
        The data set, read as by `load_celeba`, `load_fairface`, `load_utkface` or `load_table`.
    root : path
        The data set's folder, or the table's file.
    split : str, optional
        The part of CelebA or FairFace; by default "train". The other kinds have none.
    on_error : {"raise", "skip"}
        What to do with a UTKFace file whose name does not contain the labels. Images are not opened, so damaged ones
        are not noticed.
    image_column : str
        The column of a table that names the images.

    Returns
    -------
    DataFrame
        The attributes that the reader would give, one row per image. ``attrs["skipped"]`` lists the skipped images, as
        records of ``image`` and ``reason``.

    Raises
    ------
    FileNotFoundError
        If a folder or label file is missing.
    ValueError
        If `kind` or `split` is unknown, or the labels are malformed.

    See Also
    --------
    load_celeba, load_fairface, load_table, load_utkface : The images too.

    Examples
    --------
    >>> import tempfile
    >>> import pandas as pd
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     table = pd.DataFrame({"image": ["anna.png", "bob.png"], "Smiling": [True, False]})
    ...     table.to_csv(f"{folder}/faces.csv", index=False)
    ...     read_attributes("table", f"{folder}/faces.csv")
              Smiling
    image
    anna.png     True
    bob.png     False
    """
    listing = list_images(kind, root, split, on_error=on_error, image_column=image_column)
    listing.attributes.attrs["skipped"] = [*listing.skipped]
    return listing.attributes


def list_images(
    kind: str,
    root: str | os.PathLike[str],
    split: str | None = None,
    *,
    on_error: str = "raise",
    image_column: str = "image",
) -> Listing:
    """List the images of a data set, none of which is opened; see `read_attributes`."""
    check_on_error(on_error)
    if kind in ("utkface", "table") and split is not None:
        raise ValueError(f"split must be None for {kind}, which has no parts, got {split!r}")
    split = "train" if split is None else split
    if kind in ("celeba", "fairface"):
        return (list_celeba if kind == "celeba" else list_fairface)(root, split)
    if kind in ("utkface", "table"):
        return list_utkface(root, on_error) if kind == "utkface" else list_table(root, image_column)
    raise ValueError(f"kind must be celeba, fairface, utkface or table, got {kind!r}")

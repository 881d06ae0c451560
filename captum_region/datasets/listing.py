"""The images that a data set's labels list and their decoding, which all readers share."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, Unpack

import pandas as pd
from numpy.typing import NDArray

from captum_region.datasets.decoding import decode_images
from captum_region.datasets.images import AttributeImages

AGE_GROUPS = ("0-2", "3-9", "10-19", "20-29", "30-39", "40-49", "50-59", "60-69", "more than 70")
"""FairFace's age groups, in order; the last begins at 70."""


@dataclass(frozen=True)
class Listing:
    """The images of a data set, named in the index of their attributes, before any is opened."""

    folder: Path
    attributes: pd.DataFrame
    identities: NDArray[Any] | None = None
    skipped: Sequence[dict[str, str]] = ()

    def __post_init__(self) -> None:
        # However the path is written: with dots, or absolute.
        paths = self.attributes.index.map(lambda name: os.path.abspath(self.folder / name))
        if len(twice := self.attributes.index[paths.duplicated()]):
            raise ValueError(f"images may be listed only once, {twice[0]!r} is listed again ({len(twice)} such rows)")
        object.__setattr__(self, "attributes", self.attributes.rename_axis(index="image"))


class Decoding(TypedDict, total=False):
    """The options of `decode_images` that all readers pass on."""

    cache: str | os.PathLike[str] | None
    on_error: str
    n_jobs: int | None
    show_progress: bool


def load_listing(listing: Listing, size: int | tuple[int, int], **decoding: Unpack[Decoding]) -> AttributeImages:
    """Decode the images of a listing."""
    names = listing.attributes.index.tolist()
    decoded = decode_images(listing.folder, names, size, **decoding)
    skipped = [*listing.skipped, *decoded.skipped.to_dict("records")]
    return AttributeImages(
        decoded.images,
        listing.attributes.iloc[decoded.kept],
        None if listing.identities is None else listing.identities[decoded.kept],
        pd.DataFrame(skipped, columns=["image", "reason"], dtype=object),
    )


def first_folder(root: str | os.PathLike[str], *below: str) -> Path:
    """Return the first of the folders `below` the root that exists."""
    folders = [Path(root).expanduser() / name for name in below]
    for folder in folders:
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"root must hold the data set: there is no folder {' or '.join(map(str, folders))}")

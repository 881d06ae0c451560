"""The figures of a page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from captum_region.io.files import replacing
from captum_region.plotting import data_url, png_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Picture:
    """A figure of the page, with its words."""

    name: str
    figure: Figure
    alt: str
    caption: str


def write_pictures(pictures: Iterable[Picture], folder: Path) -> list[dict[str, Any]]:
    """Write pictures as PNG files, by their names, and return of each what a page needs to show it."""
    folder.mkdir(exist_ok=True)
    shown = []
    for picture in pictures:
        png, entry = embedded(picture)
        with replacing(folder / f"{picture.name}.png") as path:
            path.write_bytes(png)
        shown.append(entry)
    return shown


def embedded(picture: Picture) -> tuple[bytes, dict[str, Any]]:
    """Return a picture as PNG, and as what a page needs to show it."""
    figure = picture.figure
    figure.set_facecolor("white")
    png = png_of(figure, dpi=160, metadata={"Software": None})
    width, height = (round(96 * inches) for inches in figure.get_size_inches())
    words = {"name": picture.name, "alt": picture.alt, "caption": picture.caption}
    return png, {**words, "source": data_url(png), "width": width, "height": height}

"""The figures of a page."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from captum_region.html import data_url

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Picture:
    """A figure of the page, with its words."""

    name: str
    figure: Figure
    alt: str
    caption: str


def embedded(picture: Picture) -> tuple[bytes, dict[str, Any]]:
    """Return a picture as PNG, and as what a page needs to show it: as SVG, if that is smaller."""
    from matplotlib import rc_context

    figure = picture.figure
    png = _saved(figure, dpi=160, format="png", metadata={"Software": None})
    kind, data = "png", png
    if not any(ax.images for ax in figure.axes):
        figure.set_layout_engine("none")  # the layout is costly, and known now
        # The salt makes the same figure the same text.
        with rc_context({"svg.hashsalt": "captum_region"}):
            svg = _saved(figure, format="svg", metadata={"Date": None, "Creator": None})
        kind, data = min((kind, data), ("svg+xml", svg), key=lambda pair: len(pair[1]))
    width, height = (round(96 * inches) for inches in figure.get_size_inches())
    words = {"name": picture.name, "alt": picture.alt, "caption": picture.caption}
    return png, {**words, "source": data_url(data, kind), "width": width, "height": height}


def _saved(figure: Figure, **options: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, facecolor="white", **options)
    return buffer.getvalue()

"""What objects show of themselves in a notebook."""

from __future__ import annotations

import base64
import io
from html import escape
from typing import TYPE_CHECKING

from PIL import Image

from captum_region.plotting import drawn, image_array, print_png

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike


def png_source(image: ArrayLike) -> str:
    """Return the data: URL of an image (see `captum_region.plotting.image_array`) as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(image_array(image)).save(buffer, "PNG", optimize=True)
    return data_url(buffer.getvalue())


def plot_tag(plot: Callable[[list[Axes]], object], words: str, *, count: int = 1) -> str:
    """Return what `plot` draws on `count` axes as an HTML image with `words` as its alternative text."""
    buffer = io.BytesIO()
    figure = drawn((3.4 * count, 2.7), plot, ncols=count)
    figure.set_facecolor("white")
    print_png(figure, buffer, dpi=100)
    return f'<img src="{data_url(buffer.getvalue())}" alt="{escape(words)}">'


def data_url(image: bytes) -> str:
    """Return the data: URL of a PNG file's content."""
    return f"data:image/png;base64,{base64.b64encode(image).decode('ascii')}"

"""What objects show of themselves in a notebook."""

from __future__ import annotations

import base64
import io
from html import escape
from typing import TYPE_CHECKING

from PIL import Image

from captum_region.plotting import STYLE, image_array

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike


def png_source(image: ArrayLike) -> str:
    """Return the data: URL of an image (see `captum_region.plotting.image_array`) as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(image_array(image)).save(buffer, "PNG", optimize=True)
    return _address(buffer)


def plot_tag(plot: Callable[[Sequence[Axes]], object], words: str, *, count: int = 1) -> str:
    """Return what `plot` draws on `count` axes as an HTML image with `words` as its alternative text."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    buffer = io.BytesIO()
    with rc_context(STYLE):
        figure = Figure(figsize=(3.4 * count, 2.7), layout="constrained")
        plot(list(figure.subplots(1, count, squeeze=False).flat))
        figure.savefig(buffer, format="png", dpi=100, facecolor="white")
    return f'<img src="{_address(buffer)}" alt="{escape(words)}">'


def _address(png: io.BytesIO) -> str:
    return f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode('ascii')}"

"""The images that the page shows one by one, as PNG within it, and what its slider and menu need."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib import colormaps
from PIL import Image

from captum_region.plotting import COLORMAP, image_array
from fairlearn_bridge.noise import PERTURBATIONS, REACHES, quantile_mask
from fairlearn_bridge.report.figures import scale_top

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike, NDArray

    from fairlearn_bridge.report.run import Run

STEPS = 100  # of the slider, from quantile 0 to 1
MAP_OPACITY = 0.6


def mask_levels(pixel_map: ArrayLike) -> NDArray[np.uint8]:
    """Return at how many of the slider's steps, from the first on, each pixel lies above the quantile.

    So a page can draw the very masks of `quantile_mask`: at step k it has the pixels whose level is above k.

    Parameters
    ----------
    pixel_map : array-like, shape (height, width)

    Returns
    -------
    ndarray of uint8, shape (height, width)

    Examples
    --------
    >>> mask_levels([[0.1, 0.2], [0.4, 0.3]])
    array([[ 1, 26],
           [76, 51]], dtype=uint8)
    """
    values = torch.as_tensor(np.asarray(pixel_map))
    levels = torch.zeros(values.shape, dtype=torch.uint8)
    for step in range(STEPS):
        levels += quantile_mask(values, step / STEPS)
    return levels.numpy()


def strip_content(run: Run) -> dict[str, Any] | None:
    """Return the examples and what is needed to draw masks and schemes over them; None if the run has none."""
    maps, config = run.maps, run.results["config"]
    images = maps["example_images"]
    if not len(images):
        return None
    donors = _of_examples(maps, "donor_images", images.shape)
    donor_maps = _of_examples(maps, "donor_maps", maps["example_maps"].shape)
    has_donors = donors is not None and donor_maps is not None
    first = maps["example_schemes"][:1].tolist() or ["general_mask"]
    quantile = config.get("quantile")
    examples = []
    drawn = []
    for number, (image, pixel_map) in enumerate(zip(images, maps["example_maps"], strict=True)):
        name = str(maps["example_names"][number]) if "example_names" in maps else f"image {number + 1}"
        examples.append({"name": name, "label": str(maps["example_labels"][number]), **sources(run, image, pixel_map)})
        drawn.append({"levels": _text(mask_levels(pixel_map))})
        if donors is not None and donor_maps is not None:
            drawn[-1] |= {"donor": png_source(donors[number]), "donorLevels": _text(mask_levels(donor_maps[number]))}
    return {
        "examples": examples,
        "schemes": [f"{r}_{p}" for r in REACHES for p in PERTURBATIONS if has_donors or p != "transplant"],
        "scheme": first[0].partition("@")[0],
        "step": round(STEPS * quantile) if isinstance(quantile, int | float) else 70,
        "steps": STEPS,
        "data": {
            "width": images.shape[3],
            "height": images.shape[2],
            "noiseStd": config.get("noise_std", 0.5),
            "general": _text(mask_levels(maps["pixel_map"])),
            "examples": drawn,
        },
    }


def sources(run: Run, image: NDArray[np.uint8], pixel_map: NDArray[np.float32]) -> dict[str, str]:
    """Return an image and its map over it, on the scale of all the examples' maps, as sources for the page."""
    picture = image_array(image)
    colors = colormaps[COLORMAP](pixel_map / scale_top(run.maps["example_maps"]))[..., :3]
    under = picture if picture.ndim == 3 else picture[..., None]
    over = 255 * MAP_OPACITY * colors + (1 - MAP_OPACITY) * under
    return {"image": png_source(picture), "map": png_source(over.round().astype(np.uint8))}


def png_source(image: ArrayLike) -> str:
    """Return an image, see `captum_region.plotting.image_array`, as PNG in a data: address."""
    buffer = io.BytesIO()
    Image.fromarray(image_array(image)).save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _of_examples(maps: Mapping[str, NDArray[Any]], name: str, shape: tuple[int, ...]) -> NDArray[Any] | None:
    array = maps.get(name)
    if array is not None and array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {array.shape}")
    return array


def _text(levels: NDArray[np.uint8]) -> str:
    return base64.b64encode(levels.tobytes()).decode("ascii")

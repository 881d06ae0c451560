"""The images that the page shows one by one, as PNG within it, and what its slider and menu need."""

import base64
import re
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from numpy.typing import ArrayLike, NDArray

from captum_region.page import number
from captum_region.plotting import COLORMAP, image_array, png_source, scale_top
from fairlearn_bridge.noise import quantile_mask
from fairlearn_bridge.report.run import Run
from fairlearn_bridge.schemes import SCHEMES

STEPS = 100  # of the slider, from quantile 0 to 1
MAP_OPACITY = 0.6


def mask_levels(pixel_map: ArrayLike) -> NDArray[np.uint8]:
    """Return for each pixel at how many of the slider's steps, counted from the first, it is above the quantile.

    With it a page draws the masks of `quantile_mask`: that of step k has the pixels whose level is above k.

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
    """Return the examples and what is needed to draw masks and schemes over them; None if there are no examples."""
    maps, config = run.maps, run.results["config"]
    images = maps["example_images"]
    if not len(images):
        return None
    quantile, top = config.get("quantile"), _top(run)
    names = maps.get("example_names", [f"image {number}" for number in range(1, len(images) + 1)])
    examples = [
        {"name": str(name), "label": str(label), "image": png_source(image), **map_over(image, pixel_map, top)}
        for name, label, image, pixel_map in zip(
            names, maps["example_labels"], images, maps["example_maps"], strict=True
        )
    ]
    drawn = [{"levels": _text(mask_levels(pixel_map))} for pixel_map in maps["example_maps"]]
    if "donor_images" in maps and "donor_maps" in maps:
        for entry, donor, donor_map in zip(drawn, maps["donor_images"], maps["donor_maps"], strict=True):
            entry |= {"donor": png_source(donor), "donorLevels": _text(mask_levels(donor_map))}
    return {
        "examples": examples,
        "schemes": [scheme for scheme in SCHEMES if "donor" in drawn[0] or not scheme.endswith("_transplant")],
        "scheme": re.split("[@+]", str(maps["example_schemes"][0]))[0] if len(maps["example_schemes"]) else "",
        "step": round(STEPS * quantile) if isinstance(quantile, int | float) and 0 <= quantile <= 1 else 70,
        "steps": STEPS,
        "data": {
            "width": images.shape[3],
            "height": images.shape[2],
            "noiseStd": config.get("noise_std", 0.5),
            "general": _text(mask_levels(maps["pixel_map"])),
            "examples": drawn,
        },
    }


def confident_content(run: Run) -> list[tuple[str, list[dict[str, Any]]]]:
    """Return the most and the least confident images, each under a heading; empty if the run has no such images."""
    records = run.confident.to_dict("records")
    if not records:
        return []
    images, maps = (run.maps.get(name, np.array([])) for name in ("confident_images", "confident_maps"))
    if not len(images) == len(maps) == len(records):
        raise ValueError(
            f"confident_images and confident_maps must hold {len(records)} images, as 'confident' does, got "
            f"{len(images)} and {len(maps)}"
        )
    top = _top(run)
    cards = [
        {"name": row["image"], "label": row["label"], "mean": number(row["mean"]), "max": number(row["max"])}
        | {"image": png_source(image), **map_over(image, pixel_map, top)}
        for row, image, pixel_map in zip(records, images, maps, strict=True)
    ]
    half = len(cards) // 2
    return [("Most confident", cards[:half]), ("Least confident", cards[half:])]


def _top(run: Run) -> float:
    """Return the upper end of the scale of all such maps of the page."""
    maps = [run.maps[name].ravel() for name in ("example_maps", "confident_maps") if name in run.maps]
    return scale_top(np.concatenate(maps))


def map_over(image: ArrayLike, pixel_map: NDArray[np.float32], top: float) -> dict[str, Any]:
    """Return a map over its image as a source for the page, and its size; `top` is the upper end of the colours."""
    colors = colormaps[COLORMAP](pixel_map / top)[..., :3]
    over = 255 * MAP_OPACITY * colors + (1 - MAP_OPACITY) * np.atleast_3d(image_array(image))
    height, width = pixel_map.shape
    return {"map": png_source(over.round().astype(np.uint8)), "width": width, "height": height}


def _text(levels: NDArray[np.uint8]) -> str:
    return base64.b64encode(levels.tobytes()).decode("ascii")

"""Mixed precision: bfloat16 where it is asked for, or where a device has units for it and maps keep their ranks."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from scipy.stats import ConstantInputWarning, spearmanr
from torch import Tensor

from captum_region.batches import check_images, take

if TYPE_CHECKING:
    from accelerate import Accelerator

    from captum_region.attribution import RegionAttribution
    from captum_region.batches import ImageSource

# The least rank correlation of a map in bfloat16 with that in float32, and how many maps are compared.
AGREEMENT = 0.999
_MAPS = 16


class Precision(NamedTuple):
    """What maps are computed in, ``"bf16"`` or ``"no"``, and why, if `choose_precision` chose."""

    mixed_precision: str
    reason: str | None


def check_mixed_precision(
    mixed_precision: str, accelerator: Accelerator | None, known: tuple[str, ...] = ("no", "bf16")
) -> str:
    """Return the accelerator's mixed precision if it has one, else the one given.

    Raises
    ------
    ValueError
        If it is none of `known`.
    """
    if accelerator is not None and accelerator.mixed_precision != "no":
        mixed_precision = accelerator.mixed_precision
    if mixed_precision not in known:
        wanted = f"{', '.join(map(repr, known[:-1]))} or {known[-1]!r}"
        raise ValueError(f"mixed_precision must be {wanted}, got {mixed_precision!r}")
    return mixed_precision


def autocast(device: torch.device, mixed_precision: str) -> AbstractContextManager[Any]:
    """Return torch's context for "bf16"; for "no" a null context, in which a user's own autocast stays in force."""
    return nullcontext() if mixed_precision == "no" else torch.autocast(device.type, torch.bfloat16)


def has_bfloat16_units(device: torch.device) -> bool:
    """Return whether a CPU or CUDA device has units for bfloat16, as far as torch knows; others count as having none.

    Where a device has none, torch emulates it, slower than float32.
    """
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # A CPU's units are used by oneDNN, which torch for macOS is built without.
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if hasattr(torch.cpu, "get_capabilities"):
        known = torch.cpu.get_capabilities()
        return any(known.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))
    # Before it torch had no public way to know, and none for ARM; every processor with AMX has it for bfloat16.
    return any(getattr(torch.cpu, name, bool)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))


def choose_precision(
    attribution: RegionAttribution,
    images: ImageSource,
    target: int | None = None,
    *,
    has_units: bool | None = None,
) -> Precision:
    """Choose bfloat16 for maps if the device has units for it and the ranks of a few maps stay the same.

    Where there are no units, no map is computed. Else the maps of at most 16 images, spread over all, are computed in
    bfloat16 and in float32. Bfloat16 is chosen if the rank correlation (Spearman's) over the regions is at least 0.999
    for each image; a constant map has no ranks, so that float32 is chosen.

    Parameters
    ----------
    attribution : RegionAttribution
    images, target
        As in `RegionAttribution.region_map`.
    has_units : bool, optional
        Whether the device has units for bfloat16. By default what torch says of the classifier's device, which is no
        for devices other than CPUs and CUDA devices.

    Returns
    -------
    Precision
        A named tuple of ``mixed_precision``, ``"bf16"`` or ``"no"``, and ``reason``.

    Raises
    ------
    TypeError, ValueError
        If the images are not of the attribution's size, or no images.

    See Also
    --------
    attribute_dataset : With ``mixed_precision="auto"`` it chooses so.

    Examples
    --------
    >>> from captum_region import DenseRegionClassifier, RegionAttribution, RegionGrid
    >>> classifier = DenseRegionClassifier(RegionGrid(16, 8, 2), num_classes=2, random_state=0).eval()
    >>> choose_precision(RegionAttribution(classifier), torch.zeros(2, 3, 16, 16), has_units=False)
    Precision(mixed_precision='no', reason='cpu has no units for bfloat16')
    """
    images = check_images(images, image_size=attribution.grid.image_size)
    device = getattr(attribution.forward_func, "device", torch.device("cpu"))
    if not (has_bfloat16_units(device) if has_units is None else has_units):
        return Precision("no", f"{device.type} has no units for bfloat16")
    if not len(images):
        return Precision("no", "there is no map to compare")
    some = take(images, np.unique(np.linspace(0, len(images) - 1, _MAPS).round().astype(int)))
    with torch.autocast(device.type, enabled=False):
        exact = attribution.region_map(some, target)
    with autocast(device, "bf16"):
        least = rank_agreement(attribution.region_map(some, target), exact)
    maps = f"the ranks of {len(some)} maps in bfloat16 and float32"
    if np.isnan(least):
        return Precision("no", f"{maps} cannot be compared: one is constant")
    if least < AGREEMENT:
        return Precision("no", f"{maps} agree to {least:.4f}, below {AGREEMENT}")
    return Precision("bf16", f"{device.type} has units for bfloat16, and {maps} agree to {least:.4f}")


def rank_agreement(first: Tensor, second: Tensor) -> float:
    """Return the least of the rank correlations (Spearman's) of two maps of an image; NaN if one is constant.

    Examples
    --------
    >>> maps = torch.tensor([[[0.1, 0.2, 0.4]], [[1.0, 2.0, 3.0]]])
    >>> rank_agreement(maps, maps**2), rank_agreement(maps, torch.tensor([[[0.0, 1, 2]], [[0, 2, 1]]]))
    (1.0, 0.5)
    """
    pairs = zip(first.flatten(1).cpu().numpy(), second.flatten(1).cpu().numpy(), strict=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstantInputWarning)
        return float(np.min([spearmanr(*pair).statistic for pair in pairs]))

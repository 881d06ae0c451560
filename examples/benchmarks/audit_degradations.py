"""The degradations of the study of audits: formats at rates, codecs that learn, distortions and pruning."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import features

from captum_region.randomness import seeded
from fairlearn_bridge.audit import Distortion, ModelCodec, PCACodec, PillowCodec, Pruning, quality_for_rate, train_codec
from fairlearn_bridge.audit.degradations import cases_of
from fairlearn_bridge.samples import groups_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from audit_study import StudyConfig
    from numpy.typing import NDArray

    from captum_region.datasets import AttributeImages

# JPEG is twice: with the chroma at a half of the resolution, as is usual, and in full.
FORMATS = {
    "jpeg 4:2:0": PillowCodec("jpeg", 50, "4:2:0"),
    "jpeg 4:4:4": PillowCodec("jpeg", 50, "4:4:4"),
    "webp": PillowCodec("webp", 50),
    **({"avif": PillowCodec("avif", 50)} if features.check("avif") else {}),
    "jpeg2000": PillowCodec("jpeg2000", 50),
}
SETS = ("unbalanced", "balanced")
DISTORTIONS: dict[str, list[float]] = {"blur": [1, 2], "noise": [0.05, 0.1], "contrast": [0.5], "downsampling": [2]}
_PRUNED = [0.5, 0.7, 0.9]
# Of a neural codec: a step of few images is fast, and many steps are needed.
_BATCH = 4
# Images on which rates are measured, equally many of each group.
_CALIBRATED_ON = 40


def calibration_set(train: AttributeImages, config: StudyConfig) -> Any:
    """Return the images on which rates are measured."""
    return train.images[training_set(train, config, "balanced", 0, _CALIBRATED_ON)]


def formats(config: StudyConfig, calibration: Any, rates: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the formats of files at each rate that they reach, and note it in `rates`."""
    found: dict[str, Any] = {}
    for name, codec in FORMATS.items() if "codecs" in config.parts else ():
        found |= _at_rates(name, codec, config.bpp, calibration, rates)
    return found


def distortions_and_pruning(config: StudyConfig, train: AttributeImages) -> dict[str, Any]:
    """Return what is no codec, by name."""
    found: dict[str, Any] = {}
    if "distortions" in config.parts:
        found |= {kind: Distortion(kind, severities) for kind, severities in DISTORTIONS.items()}
    if "pruning" in config.parts:
        kept = Pruning(_PRUNED, reestimate_on=None)
        found |= {"pruned": kept, "pruned, statistics anew": Pruning(_PRUNED, reestimate_on=train.images[:400])}
    return found


def names_for(config: StudyConfig) -> list[str]:
    """Return the names of the degradations of images, also of those whose rate may not be reached."""
    at: list[tuple[str, float]] = []
    at += product(FORMATS, config.bpp) if "codecs" in config.parts else ()
    for part, bpp in (("pca", config.pca_bpp), ("neural", config.neural_bpp)):
        at += product([f"{part}, {kind}" for kind in SETS], bpp) if part in config.parts else ()
    names = [f"{name} at {rate:g}" for name, rate in at]
    if "distortions" in config.parts:
        names += [f"{kind} {severity:g}" for kind, severities in DISTORTIONS.items() for severity in severities]
    return names


def chosen(degradations: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return the degradations of these names alone, which may be one severity of several.

    Raises
    ------
    ValueError
        If one is not there.
    """
    cases = {case.name: case for case in cases_of(degradations)}
    if missing := [name for name in names if name not in cases]:
        raise ValueError(f"--retrain must be of {', '.join(cases)}, whose rate is reached; got {', '.join(missing)}")
    found: dict[str, Any] = {}
    for name in names:
        case = cases[name]
        if isinstance(case.what, Distortion):
            earlier = found[case.degradation].severities if case.degradation in found else ()
            found[case.degradation] = replace(case.what, severities=(*earlier, case.severity))
        else:
            found[name] = case.what
    return found


def learned(
    config: StudyConfig,
    train: AttributeImages,
    seed: int,
    calibration: Any,
    rates: list[dict[str, Any]],
    checkpoint_dir: Path | None,
    show_progress: bool,
) -> Iterator[tuple[str, Any]]:
    """Yield the codecs that learn, of a seed, with their names, and note the rates that they reach."""
    for kind in SETS:
        images = train.images[training_set(train, config, kind, seed, config.learned_from)]
        if "pca" in config.parts:
            most = min(config.components, len(images), int(np.prod(images.shape[1:])))
            pca = PCACodec(most, random_state=seed).fit(images)
            yield from _at_rates(f"pca, {kind}", pca, config.pca_bpp, calibration, rates, seed=seed)
        if "neural" in config.parts:
            from compressai.models import ScaleHyperprior  # type: ignore[import-not-found, unused-ignore]  # optional

            with seeded(seed):
                model = ScaleHyperprior(24, 36)
            options: dict[str, Any] = {"random_state": seed, "checkpoint_dir": checkpoint_dir}
            options |= {"steps": config.steps, "batch_size": _BATCH, "show_progress": show_progress}
            for bpp in config.neural_bpp:  # the second training starts from what the first has learnt
                train_codec(model, images, bpp, **options)
                yield f"neural, {kind} at {bpp:g}", ModelCodec(model, f"neural, {kind}", severity=bpp)


def _at_rates(
    name: str, codec: Any, wanted: Sequence[float], calibration: Any, rates: list[dict[str, Any]], **of: Any
) -> Iterator[tuple[str, Any]]:
    """Yield a codec at each rate that it reaches."""
    for bpp in wanted:
        row = {"codec": name, "bpp": bpp, **of}
        try:
            reached = quality_for_rate(codec, calibration, bpp)
        except ValueError as error:
            if "the lowest found" not in str(error):
                raise
            rates.append(row | {"reached": None, "why": str(error)})
            continue
        rates.append(row | {"reached": reached.rate, "quality": reached.quality})
        yield f"{name} at {bpp:g}", reached.codec


def training_set(train: AttributeImages, config: StudyConfig, kind: str, seed: int, count: int) -> NDArray[np.intp]:
    """Return the positions of the images that a codec learns from: as many as there are, at most `count`."""
    labels = groups_of(train, config.groups[:1])
    names = np.unique(labels).tolist()
    shares = dict.fromkeys(names, 1 / len(names))
    unbalanced = {name: 0.8 if name == config.majority else 0.2 / (len(names) - 1) for name in names}
    # Both sets are of the size that both can have.
    limits = [(labels == name).sum() / max(shares[name], unbalanced[name]) for name in names]
    size = int(min(count, *limits))
    chosen = unbalanced if kind == "unbalanced" else shares
    generator = np.random.default_rng((seed, SETS.index(kind)))
    parts = [generator.permutation(np.flatnonzero(labels == name))[: round(chosen[name] * size)] for name in names]
    return generator.permutation(np.concatenate(parts))

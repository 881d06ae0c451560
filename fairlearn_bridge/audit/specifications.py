"""Degradations and classifiers as a command names them: jpeg:5, pca:64, blur:1,2,4, module:name."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairlearn_bridge.audit.codecs.base import Codec
from fairlearn_bridge.audit.codecs.pca import PCACodec
from fairlearn_bridge.audit.codecs.pillow import FORMATS, SUBSAMPLINGS, PillowCodec
from fairlearn_bridge.audit.codecs.rate import quality_for_rate
from fairlearn_bridge.audit.distortions import DISTORTIONS, Distortion

if TYPE_CHECKING:
    from collections.abc import Sequence

    from captum_region.batches import ImageData

CODECS = (*FORMATS, "pca")
# Components of principal components where the rate decides how many are used.
_MOST_COMPONENTS = 256
# Images on which rates are measured.
_CALIBRATED_ON = 100


def check_codec(text: str, *, for_rate: bool) -> None:
    """Raise ValueError if a codec is not well named, or has a quality where the rate decides it, or none elsewhere.

    Parameters
    ----------
    text : str
        See `codecs_of`.
    for_rate : bool
    """
    name, qualities, subsampling = _parts(text)
    if name not in CODECS:
        return
    if for_rate and qualities:
        raise ValueError(f"codecs must be without a quality where bpp is given, as in {name!r}; got {text!r}")
    if not for_rate and not qualities:
        raise ValueError(f"codecs must have a quality unless bpp is given, as in {name + ':50'!r}; got {text!r}")
    for quality in qualities or [_lowest(name)]:
        if name == "pca":
            if subsampling is not None or quality < 1 or quality % 1:
                raise ValueError(f"pca must be followed by its number of components, as in 'pca:64'; got {text!r}")
        else:
            PillowCodec(name, quality, subsampling)


def _lowest(name: str) -> float:
    return 1 if name == "pca" else FORMATS[name].qualities[0]


def _parts(text: str) -> tuple[str, list[Any], str | None]:
    """Return the name of a codec, its qualities and its subsampling."""
    name, _, rest = text.partition(":")
    if name not in CODECS:
        if not rest.isidentifier():
            raise ValueError(f"codecs must be of {', '.join(CODECS)}, or module:name of your own; got {text!r}")
        return text, [], None
    if rest in SUBSAMPLINGS:  # jpeg:4:2:0 has a subsampling and no quality
        return name, [], rest
    first, _, after = rest.partition(":")
    return name, _numbers(first, text), after or None


def _numbers(text: str, whole: str) -> list[Any]:
    """Return comma-separated numbers, integers where they are."""
    try:
        found = [float(part) for part in text.split(",") if part]
    except ValueError as error:
        raise ValueError(f"{whole!r} must have numbers after the colon, as in 'jpeg:5' or 'blur:1,2,4'") from error
    return [int(number) if number % 1 == 0 else number for number in found]


def codecs_of(
    texts: Sequence[str], bpp: Sequence[float], images: ImageData, n_jobs: int | None = None
) -> tuple[dict[str, list[Codec]], list[dict[str, Any]]]:
    """Return codecs by name, and the rates that were asked for and reached.

    Parameters
    ----------
    texts : sequence of str
        ``name:quality`` or several qualities with commas, of `PillowCodec` or pca; ``:4:4:4``, ``:4:2:2`` or ``:4:2:0``
        at the end chooses the subsampling. Or ``module:name`` of a `Codec`, or of a function that returns one.
    bpp : sequence of float
        Bits per pixel, for each of which a quality is found; the texts have none then.
    images : ndarray or Tensor
        What codecs are trained on; rates are measured on the first hundred.
    n_jobs : int, optional

    Returns
    -------
    codecs : dict of str to list of Codec
    rates : list of dict
        ``codec``, ``bpp``, ``reached``, ``quality``.

    Raises
    ------
    ValueError
        If a text does not fit, or a rate cannot be reached: the message names the codec and the lowest rate.
    """
    codecs: dict[str, list[Codec]] = {}
    rates: list[dict[str, Any]] = []
    for text in texts:
        check_codec(text, for_rate=bool(bpp))
        for codec in _variants(text, images):
            name = str(getattr(codec, "name", type(codec).__name__))
            chosen = codecs.setdefault(name, [])
            if not bpp:
                chosen.append(codec)
            for rate in bpp:
                try:
                    reached = quality_for_rate(codec, images[:_CALIBRATED_ON], rate, n_jobs=n_jobs)
                except (TypeError, ValueError) as error:
                    raise ValueError(f"{name} at {rate:g} bits per pixel: {error}") from error
                row = {"codec": name, "bpp": rate, "reached": reached.rate, "quality": reached.quality}
                if all(row["quality"] != other["quality"] for other in rates if other["codec"] == name):
                    chosen.append(reached.codec)
                rates.append(row)
    return codecs, rates


def _variants(text: str, images: ImageData) -> list[Codec]:
    """Return the codecs of a text, one for each quality; one of any quality where there is none."""
    name, qualities, subsampling = _parts(text)
    if name not in CODECS:
        return [own_codec(name)]
    if name != "pca":
        return [PillowCodec(name, quality, subsampling) for quality in qualities or [_lowest(name)]]
    most = min(len(images), int(images.shape[1] * images.shape[2] * images.shape[3]))
    if qualities and max(qualities) > most:
        raise ValueError(
            f"codecs must have at most as many components as there are training images or values of an image, {most}; "
            f"got {text!r}"
        )
    # As many as images would be all that they show, to the last bit.
    count = int(max(qualities)) if qualities else min(_MOST_COMPONENTS, max(most - 1, 1))
    largest = PCACodec(count).fit(images)
    return [largest.at_quality(quality) for quality in qualities] if qualities else [largest]


def distortion_of(text: str) -> Distortion:
    """Return a distortion: ``name:severity``, several severities with commas, or a name alone, with its own.

    Raises
    ------
    ValueError
        If there is no such distortion, or a severity is out of range.
    """
    name, _, severities = text.partition(":")
    if name not in DISTORTIONS:
        raise ValueError(f"distortions must be of {', '.join(DISTORTIONS)}, got {text!r}")
    return Distortion(name, _numbers(severities, text))


def own_codec(text: str) -> Codec:
    """Return the codec ``module:name``, or what the function of that name returns.

    Raises
    ------
    ValueError
        If there is none, or it is not a codec.
    """
    found = own_object(text, "codecs")
    codec = found() if callable(found) and not (isinstance(found, Codec) and not isinstance(found, type)) else found
    if isinstance(codec, type) or not isinstance(codec, Codec):
        raise ValueError(f"codecs must have encode and decode, got {type(codec).__name__} from {text!r}")
    return codec


def own_classifier(text: str) -> Any:
    """Return the classifier that the function ``module:name`` returns.

    Raises
    ------
    ValueError
        If there is no such function.
    """
    function = own_object(text, "model")
    if not callable(function):
        raise ValueError(f"model must name a function that returns a classifier, got {type(function).__name__}")
    return function()


def own_object(text: str, argument: str) -> Any:
    """Return an object of a module, which is looked for in the current folder too."""
    module, _, name = text.partition(":")
    if not module or not name:
        raise ValueError(f"{argument} must be module:name, as in 'mine:classifier'; got {text!r}")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{argument} {text!r} cannot be imported: {error}") from error

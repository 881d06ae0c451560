"""What can be audited, each degradation at each severity as one case of the engine's loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from joblib import delayed

from fairlearn_bridge.audit.codecs.base import Codec
from fairlearn_bridge.audit.distortions import Distortion
from fairlearn_bridge.audit.pruning import ModelChange, Pruning

if TYPE_CHECKING:
    from joblib import Parallel
    from numpy.typing import NDArray

Degradation = Codec | Distortion | Pruning | ModelChange | Callable[[Any], Any]
Degradations = Degradation | Iterable[Degradation] | Mapping[str, Degradation | Iterable[Degradation]]
# Images that a thread encodes at a time.
_CHUNK = 8
_GREY = 128


@dataclass(frozen=True)
class Case:
    """A degradation at one severity: of the classifier, unless a subclass says otherwise.

    Attributes
    ----------
    name : str
        Of both together, which no other case has.
    degradation : str
    severity : object
    what : Degradation
    """

    name: str
    degradation: str
    severity: Any
    what: Any

    changes_images = False

    def classifier(self, classifier: Any) -> Any:
        """Return the classifier, degraded."""
        return self.what.changed(classifier, self.severity)

    def degraded(
        self, images: NDArray[np.uint8], seeds: NDArray[np.int64], parallel: Parallel
    ) -> tuple[Any, NDArray[np.float64] | None]:
        """Return images, degraded, and of a codec their sizes in bytes; random draws are from the images' seeds."""
        return images, None

    def overhead(self, shape: tuple[int, ...]) -> float:
        """Return the bytes that a file has besides its content."""
        return np.nan


class _ImageCase(Case):
    changes_images = True

    def classifier(self, classifier: Any) -> Any:
        return classifier


class _FunctionCase(_ImageCase):
    def degraded(self, images: NDArray[np.uint8], seeds: NDArray[np.int64], parallel: Parallel) -> tuple[Any, None]:
        return self.what(images.copy()), None  # which may write to what it gets


class _DistortionCase(_ImageCase):
    def degraded(self, images: NDArray[np.uint8], seeds: NDArray[np.int64], parallel: Parallel) -> tuple[Any, None]:
        return self.what(images, self.severity, seeds), None


class _CodecCase(_ImageCase):
    def degraded(
        self, images: NDArray[np.uint8], seeds: NDArray[np.int64], parallel: Parallel
    ) -> tuple[Any, NDArray[np.float64]]:
        parts = [images[start : start + _CHUNK] for start in range(0, len(images), _CHUNK)]
        if getattr(self.what, "threads", False):
            done = parallel(delayed(_coded)(self.what, part) for part in parts)
        else:
            done = [_coded(self.what, part) for part in parts]
        decoded, sizes = zip(*done, strict=True)
        return np.concatenate(decoded), np.concatenate(sizes)

    def overhead(self, shape: tuple[int, ...]) -> float:
        """Return the bytes of the container: what the codec says, or the file of a flat grey image takes."""
        own = getattr(self.what, "overhead", None)
        if callable(own):
            return float(own(shape))
        return float(len(self.what.encode(np.full((1, *shape), _GREY, np.uint8))[0]))


def _coded(codec: Codec, images: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    data = codec.encode(images)
    if len(data) != len(images):
        raise ValueError(f"encode must return the bytes of each of {len(images)} images, got {len(data)}")
    _, channels, height, width = images.shape
    return codec.decode(data, (channels, height, width)), np.array([len(one) for one in data], float)


def cases_of(degradations: Degradations) -> list[Case]:
    """Return the cases of degradations, in order.

    Parameters
    ----------
    degradations
        See `fairlearn_bridge.audit.audit`.

    Raises
    ------
    TypeError, ValueError
        If there is none, two cases have the same name, or one is not a degradation.
    """
    cases = [case for name, what, listed in _named(degradations) for case in _cases(name, what, listed=listed)]
    if not cases:
        raise ValueError("degradations must hold at least one, got none")
    names = [case.name for case in cases]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        named = ", ".join(twice)
        raise ValueError(
            f"degradations must have different names, got {named} twice; leave one out or name them in a dict"
        )
    return cases


def _named(degradations: Any) -> Iterator[tuple[str | None, Any, bool]]:
    """Yield the degradations, the name that a mapping gives each, and whether others may share it."""
    if isinstance(degradations, Mapping):
        for name, given in degradations.items():
            if _is_one(given):
                yield str(name), given, False
            else:
                yield from ((str(name), each, True) for each in given)
    elif _is_one(degradations):
        yield None, degradations, True
    else:
        yield from ((None, each, True) for each in degradations)


def _is_one(given: Any) -> bool:
    return isinstance(given, Codec | Distortion | Pruning | ModelChange) or callable(given)


def _cases(name: str | None, what: Any, *, listed: bool) -> Iterator[Case]:
    own = getattr(what, "name", None) or getattr(what, "__name__", type(what).__name__)
    called = str(own) if name is None else name
    if isinstance(what, Distortion | Pruning | ModelChange):
        kind = _DistortionCase if isinstance(what, Distortion) else Case
        for severity in what.severities:
            yield kind(f"{called} {_shown(severity)}", called, severity, what)
    elif isinstance(what, Codec) or callable(what):
        severity = getattr(what, "severity", None)
        full = f"{called} {_shown(severity)}" if listed and severity is not None else called
        yield (_CodecCase if isinstance(what, Codec) else _FunctionCase)(full, called, severity, what)
    else:
        raise TypeError(
            "degradations must be codecs, with encode and decode, distortions, prunings or functions of images, "
            f"got {type(what).__name__}"
        )


def _shown(severity: Any) -> str:
    return f"{severity:g}" if isinstance(severity, int | float) and not isinstance(severity, bool) else str(severity)

"""make_stack: synthetic stacks whose labels depend on one slice of the window, or on all alike."""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from captum_region.datasets.decoding import height_width
from captum_region.randomness import RandomState, draw_seed
from captum_region.stacks.stack import Stack

DEPENDENCES = ("previous", "centre", "next", "all")
# A pixel of an object is brighter than this, any other is not.
THRESHOLD = 127


def make_stack(
    depends_on: str = "centre",
    *,
    slices: int = 16,
    size: int | tuple[int, int] = 64,
    coverage: float = 0.35,
    random_state: RandomState = None,
) -> Stack:
    """Draw a stack whose labels are known functions of its slices.

    Each slice holds bright blobs of its own, drawn independently of the other slices, and fine texture of its own. The
    texture never crosses the threshold between object and background: the pixels of the objects are exactly those
    above 127. So nothing about the objects of one slice can be learnt from another, and a network must look at the
    right one.

    Let O[i] be the objects of slice i, ``stack.images[i] > 127``. The label of slice i is

    - "previous": O[i - 1];
    - "centre": O[i];
    - "next": O[i + 1];
    - "all": the majority of O[i - 1], O[i] and O[i + 1], that is where at least two of them hold.

    At the ends the stack is mirrored, as `SliceWindows` does with ``border="reflect"``: O[-1] is O[1].

    Parameters
    ----------
    depends_on : {"previous", "centre", "next", "all"}, default="centre"
        The slices that decide the label.
    slices : int, default=16
        At least 2.
    size : int or (height, width), default=64
    coverage : float, default=0.35
        The share of a slice that its objects cover, in (0, 1).
    random_state : int, NumPy generator or None
        With an int, the content of slice i depends on it and on i alone, not on `slices` or `depends_on`.

    Returns
    -------
    Stack
        uint8 images and boolean labels, both of shape (slices, height, width), named after `depends_on`.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit; the message names it.

    Examples
    --------
    >>> stack = make_stack("previous", slices=5, size=32, random_state=0)
    >>> bool((stack.labels[1:] == (stack.images[:-1] > 127)).all())
    True
    """
    if depends_on not in DEPENDENCES:
        raise ValueError(f"depends_on must be one of {', '.join(map(repr, DEPENDENCES))}, got {depends_on!r}")
    if isinstance(slices, bool) or not isinstance(slices, int | np.integer):
        raise TypeError(f"slices must be an integer, got {slices!r}")
    if slices < 2:
        raise ValueError(f"slices must be at least 2, got {slices}")
    if not 0 < coverage < 1:
        raise ValueError(f"coverage must lie in (0, 1), got {coverage}")
    shape, seed = height_width(size), draw_seed(random_state)
    images = np.stack([_draw_slice(shape, coverage, np.random.default_rng((seed, number))) for number in range(slices)])
    padded = np.pad(images > THRESHOLD, ((1, 1), (0, 0), (0, 0)), mode="reflect")
    objects = {"previous": padded[:-2], "centre": padded[1:-1], "next": padded[2:]}
    labels = objects.get(depends_on)
    if labels is None:
        labels = np.sum([*objects.values()], axis=0) >= 2
    return Stack(images, labels.copy(), depends_on)


def _draw_slice(shape: tuple[int, int], coverage: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return a slice with blobs above the threshold, and texture that does not cross it."""
    blobs = gaussian_filter(rng.standard_normal(shape), max(1.0, min(shape) / 16), mode="wrap")
    texture = gaussian_filter(rng.standard_normal(shape), 0.7, mode="wrap")
    distance = 40 + (25 / texture.std()) * texture
    side = np.where(blobs > np.quantile(blobs, 1 - coverage), 1, -1)
    return (THRESHOLD + 0.5 + side * np.clip(distance, 1, 120)).astype(np.uint8)

"""attribute_overlap: how much of what shows the target lies where a spurious attribute would be perturbed."""

import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from captum_region import RegionAttribution
from captum_region.batches import Checked, ImageSource, check_images
from captum_region.labels import check_classes
from captum_region.randomness import RandomState, draw_seed
from fairlearn_bridge.noise import quantile_mask
from fairlearn_bridge.regions import train_regions
from fairlearn_bridge.validation import check_number, from_names


def map_overlap(target_map: ArrayLike | Tensor, spurious_map: ArrayLike | Tensor, quantile: float = 0.5) -> float:
    """Return the share of the target's map that lies where the spurious attribute's map is above its quantile.

    That is where a general scheme perturbs, see `quantile_mask`: the share of what the images say of the target, as far
    as its map says it, that is perturbed too.

    Parameters
    ----------
    target_map, spurious_map : array-like or Tensor, shape (height, width)
        Mean maps of confidence, such as ``target_pixel_map_`` and ``pixel_map_`` of `AttributionNoiseMitigator`. Values
        below 0 count as 0.
    quantile : float, default=0.5
        In [0, 1], as that of the mitigator.

    Returns
    -------
    float
        In [0, 1]. Maps that have nothing to do with each other give 1 - `quantile`, the share of the pixels that is
        perturbed; 1 means that all of the target's map is. The same map twice gives at least 1 - `quantile`: the more,
        the fewer pixels it is made of.

    Raises
    ------
    ValueError
        If the maps differ in shape or are no maps, the target's has no value above 0, or the quantile is out of range.

    See Also
    --------
    attribute_overlap : Computes both maps first.

    Examples
    --------
    >>> mouth, eyes = [[0.0, 0.0], [0.2, 0.6]], [[0.3, 0.3], [0.1, 0.2]]
    >>> map_overlap(mouth, mouth), map_overlap(mouth, eyes), map_overlap([[0.1, 0.1], [0.1, 0.1]], eyes)
    (1.0, 0.0, 0.5)
    """
    given = (each.cpu() if isinstance(each, Tensor) else each for each in (target_map, spurious_map))
    target, spurious = (np.asarray(each, dtype=float) for each in given)
    if target.ndim != 2 or target.shape != spurious.shape:
        raise ValueError(
            f"target_map and spurious_map must be of one shape (height, width), got {target.shape} and {spurious.shape}"
        )
    for name, values in (("target_map", target), ("spurious_map", spurious)):
        if not np.isfinite(values).all():
            raise ValueError(f"{name} must be finite, got {np.count_nonzero(~np.isfinite(values))} NaN or infinite")
    evidence = target.clip(min=0)
    if not evidence.any():
        raise ValueError(f"target_map must have a value above 0, its largest is {target.max(initial=0)}")
    return float(evidence[quantile_mask(spurious, quantile).numpy()].sum() / evidence.sum())


@dataclass(frozen=True, eq=False)
class AttributeOverlap:
    """How far the information about a target lies where a spurious attribute would be perturbed.

    Attributes
    ----------
    overlap : float
        See `map_overlap`.
    chance : float
        The share of the pixels that would be perturbed, about 1 - `quantile`: what `overlap` is if the two have nothing
        to do with each other.
    quantile : float
    target_map, spurious_map : ndarray of float32, shape (height, width)
        Mean confidence about each, in [0, 1].
    """

    overlap: float
    chance: float
    quantile: float
    target_map: NDArray[np.float32] = field(repr=False)
    spurious_map: NDArray[np.float32] = field(repr=False)


def attribute_overlap(
    data: ImageSource,
    target: ArrayLike | str,
    spurious: ArrayLike | str,
    *,
    quantile: float = 0.5,
    region_epochs: int | None = None,
    random_state: RandomState = None,
    checkpoint_dir: str | os.PathLike[str] | None = None,
    show_progress: bool = False,
) -> AttributeOverlap:
    """Measure before any mitigation how much of the information about the target it would perturb.

    Two region classifiers are trained, as `AttributionNoiseMitigator` trains them: of the spurious attribute within the
    classes of the target, and of the target within the values of the spurious attribute. `map_overlap` compares their
    mean maps. Where both attributes show in the same places, perturbing takes the target's information too.

    Parameters
    ----------
    data : images, AttributeImages or data set
        The images to train on.
    target, spurious : array-like of shape (N,), or str
        The labels of the target, and the values of the spurious attribute; or their names where `data` has labels.
    quantile : float, default=0.5
        As that of `AttributionNoiseMitigator`: 0.5 perturbs half of the pixels.
    region_epochs : int, optional
        As that of `AttributionNoiseMitigator`.
    random_state : int, NumPy generator or None, default=None
        Decides both trainings.
    checkpoint_dir : path, optional
        A folder that keeps both trainings, see `fit_region_classifier`. Needs a `random_state`.
    show_progress : bool, default=False
        Progress bars on stderr.

    Returns
    -------
    AttributeOverlap

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit, by name, or one of the two takes a single value within each value of the other.

    See Also
    --------
    find_confounders : Which attributes go along with the target.
    map_overlap : Of maps that are there.

    Examples
    --------
    >>> from captum_region.datasets import make_faces
    >>> faces = make_faces(60, size=16, random_state=0)
    >>> found = attribute_overlap(faces, "Male", "Smiling", region_epochs=1, random_state=0)
    >>> found.target_map.shape, found.chance, 0 <= found.overlap <= 1
    ((16, 16), 0.5, True)
    """
    check_number("quantile", quantile, 0, 1)
    if checkpoint_dir is not None and random_state is None:
        raise ValueError("random_state must be given with checkpoint_dir: it identifies the trainings")
    images, labels, values = from_names(data, target, spurious)
    images = check_images(images, name="data")
    labels = check_classes(labels, len(images), name="target", least=2)
    values = check_classes(values, len(images), name="spurious", least=2)
    # Of one seed both would begin with the same weights, and what the maps have of chance would be alike.
    seeds = np.random.default_rng(draw_seed(random_state)).integers(2**32, size=2).tolist()

    def mean_pixels(attribute: NDArray[Any], within: NDArray[Any], seed: int) -> NDArray[np.float32]:
        training: dict[str, Any] = {"checkpoint_dir": checkpoint_dir, "show_progress": show_progress}
        training["region_epochs"] = region_epochs
        classifier, _ = train_regions(images, attribute, within, random_state=seed, **training)
        attribution = RegionAttribution(classifier)
        return attribution.mean_pixels(Checked(images), show_progress=show_progress).numpy()

    spurious_map, target_map = mean_pixels(values, labels, seeds[0]), mean_pixels(labels, values, seeds[1])
    chance = float(quantile_mask(spurious_map, quantile).float().mean())
    return AttributeOverlap(map_overlap(target_map, spurious_map, quantile), chance, quantile, target_map, spurious_map)

"""Whether a region classifier's confidence is its accuracy: reliability, calibration error, temperature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn import functional as F

from captum_region.batches import batches, check_images
from captum_region.classifiers import RegionClassifier, check_evaluating
from captum_region.randomness import RandomState, draw_seed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import ArrayLike, NDArray

    from captum_region.batches import ImageData, ImageSource


__all__ = [
    "Calibration",
    "balanced_subset",
    "fit_temperature",
    "measure_calibration",
    "of_logits",
]


@dataclass(frozen=True)
class Calibration:
    """How a region classifier's confidence compares with its accuracy, over all patches of some images.

    Attributes
    ----------
    bins : DataFrame
        One row a bin of confidence (the highest probability), from ``lower`` to below ``upper`` (the last to 1):
        ``patches`` (their
        number), ``confidence`` and ``accuracy`` (their means in the bin, in [0, 1]; NaN in an empty one).
    error : float
        Expected calibration error: the mean over patches of ``|accuracy - confidence|`` of their bin, in [0, 1].
    accuracy : float
        Mean over regions of the balanced accuracy.
    images : int
        How many images were used.
    """

    bins: pd.DataFrame
    error: float
    accuracy: float
    images: int


def balanced_subset(
    labels: ArrayLike, *, limit: int | None = None, random_state: RandomState = None
) -> NDArray[np.intp]:
    """Return positions that hold each label equally often, as often as the rarest allows, in ascending order.

    Parameters
    ----------
    labels : array-like of shape (N,)
    limit : int, optional
        No more than so many positions.
    random_state : int, NumPy generator or None
        Decides which images of the commoner labels are taken.

    Raises
    ------
    ValueError
        If there is no label, or `limit` is below one of each.

    Examples
    --------
    >>> balanced_subset(["a", "b", "a", "a", "b"], random_state=0).size
    4
    """
    names, codes = np.unique(np.asarray(labels), return_inverse=True)
    if not len(names):
        raise ValueError("labels must hold at least one, got none")
    each = np.bincount(codes).min() if limit is None else min(np.bincount(codes).min(), limit // len(names))
    if each < 1:
        raise ValueError(f"limit must allow one of each of the {len(names)} labels, got {limit}")
    order = np.random.default_rng(draw_seed(random_state)).permutation(len(codes))
    chosen = [order[codes[order] == code][:each] for code in range(len(names))]
    return np.sort(np.concatenate(chosen))


def measure_calibration(
    classifier: RegionClassifier,
    images: ImageSource,
    labels: ArrayLike,
    *,
    bins: int = 100,
    batch_size: int = 16,
    show_progress: bool = False,
) -> Calibration:
    """Compare confidence with accuracy over every patch of `images` (De Coninck et al. 2024, section 3.3, Figure 2).

    A classifier trained on balanced classes is calibrated for balanced classes: give it images that are, see
    `balanced_subset`.

    Parameters
    ----------
    classifier : RegionClassifier
        In eval mode, as training and loading leave it.
    images : ndarray or Tensor, shape (N, C, height, width)
        uint8, or float in [0, 1]; none that it was trained on. Or another source of images as in
        `RegionAttribution.region_map`.
    labels : array-like of shape (N,)
        Among the labels it was trained with.
    bins : int, default=100
        Bins of equal width in [0, 1].
    batch_size : int, default=16
        Images at a time.
    show_progress : bool, default=False
        A progress bar on stderr.

    Returns
    -------
    Calibration

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit, named in the message.
    """
    images, target = _checked(classifier, images, labels)
    return of_logits(_logits(classifier, images, target, batch_size, show_progress, "calibration"), bins=bins)


def of_logits(batches_of_logits: Iterable[tuple[Tensor, Tensor]], *, bins: int = 100) -> Calibration:
    """Compare confidence with accuracy as `measure_calibration` does, where the logits are at hand.

    Parameters
    ----------
    batches_of_logits : iterable of (Tensor of shape (N, classes, rows, cols), Tensor of shape (N,))
        Logits and class numbers, at least of one image.
    bins : int, default=100

    Returns
    -------
    Calibration

    Raises
    ------
    ValueError
        If `bins` is below 1.
    """
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    edges = np.linspace(0, 1, bins + 1)
    sums: NDArray[np.float64] = np.zeros((3, bins))  # over the patches of each bin: of 1, of confidence, of hits
    right, each = torch.zeros(0, dtype=torch.float64), torch.zeros(0, dtype=torch.float64)
    for logits, expected in batches_of_logits:
        confidence, predicted = logits.softmax(1).max(1)
        hits = (predicted == expected[:, None, None]).double()
        values = confidence.double().flatten().numpy()
        # A confidence of 1, which float32 rounds to, belongs to the last bin.
        at = np.minimum(np.searchsorted(edges, values, side="right") - 1, bins - 1)
        sums += [np.bincount(at, weights, bins) for weights in (None, values, hits.flatten().numpy())]
        if not len(each):
            right, each = right.new_zeros(logits.shape[1]), each.new_zeros(logits.shape[1])
        right.index_add_(0, expected, hits.mean((1, 2)))
        each += expected.bincount(minlength=len(each))
    if not len(each):
        raise ValueError("batches_of_logits must hold the logits of at least one image, got none")
    with np.errstate(invalid="ignore"):  # 0 / 0 in an empty bin
        patches, (confidence, accuracy) = sums[0].astype(int), sums[1:] / sums[0]
    table = pd.DataFrame(
        {
            "lower": edges[:-1],
            "upper": edges[1:],
            "patches": patches,
            "confidence": confidence,
            "accuracy": accuracy,
        }
    )
    error = (np.abs(accuracy - confidence) * patches)[patches > 0].sum() / patches.sum()
    return Calibration(table, float(error), float((right / each)[each > 0].mean()), int(each.sum()))


def fit_temperature(
    classifier: RegionClassifier,
    images: ImageSource,
    labels: ArrayLike,
    *,
    batch_size: int = 16,
    show_progress: bool = False,
) -> float:
    """Set ``classifier.temperature`` to what makes the labels of all patches of `images` likeliest.

    Temperature scaling (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017): the logits are divided by
    one number, so no prediction changes. Label smoothing makes a classifier too modest, which a temperature below 1
    undoes. It takes 4 bytes a patch and class of memory.

    Parameters
    ----------
    classifier : RegionClassifier
        Its ``temperature`` is set in place.
    images, labels, batch_size, show_progress
        As in `measure_calibration`; images it was neither trained on nor is to be judged by.

    Returns
    -------
    float
        The temperature, in [0.05, 20].

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit, named in the message.
    """
    images, target = _checked(classifier, images, labels)
    found = list(_logits(classifier, images, target, batch_size, show_progress, "temperature"))
    logits = torch.cat([part for part, _ in found]) * classifier.temperature.cpu()  # as before any temperature
    expected = target[:, None, None].expand(-1, *classifier.grid.shape)

    def surprise(log_temperature: float) -> float:
        return float(F.cross_entropy(logits / float(np.exp(log_temperature)), expected))

    best = minimize_scalar(surprise, bounds=(np.log(0.05), np.log(20)), method="bounded", options={"xatol": 1e-4})
    classifier.temperature.fill_(float(np.exp(best.x)))
    return float(classifier.temperature)


def _checked(classifier: RegionClassifier, images: ImageSource, labels: ArrayLike) -> tuple[ImageData, Tensor]:
    """Return the images, and the class number of each."""
    if not isinstance(classifier, RegionClassifier):
        raise TypeError(f"classifier must be a RegionClassifier, got {type(classifier).__name__}")
    check_evaluating(classifier)
    images = check_images(images, image_size=classifier.grid.image_size, channels=classifier.in_channels)
    target = classifier.encode(labels)
    if len(target) != len(images) or not len(target):
        raise ValueError(
            f"labels must have one label for each of the images, at least one; got {len(target)} labels "
            f"for {len(images)} images"
        )
    return images, torch.from_numpy(target)


def _logits(
    classifier: RegionClassifier, images: ImageData, target: Tensor, batch_size: int, show_progress: bool, desc: str
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the logits of all regions and the class numbers of each batch of images, on the CPU."""
    start = 0
    with torch.inference_mode():
        for batch in batches(images, batch_size, show_progress=show_progress, desc=desc):
            logits = classifier.forward_grid(batch.to(classifier.device)).float().cpu()
            yield logits, target[start : start + len(batch)]
            start += len(batch)

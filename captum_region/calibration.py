"""Whether a region classifier's confidence is its accuracy: reliability, calibration error, temperature."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn import functional as F

from captum_region.batches import ImageData, ImageSource, batches, check_images
from captum_region.classifiers import RegionClassifier
from captum_region.evaluation import check_evaluating
from captum_region.labels import class_codes
from captum_region.randomness import RandomState, draw_seed
from captum_region.validation import check_count

# Of temperatures that are fitted.
LOWEST, HIGHEST = 0.05, 20.0

__all__ = ["Calibration", "balanced_subset", "fit_temperature", "measure_calibration", "of_logits"]


@dataclass(frozen=True)
class Calibration:
    """How a region classifier's confidence compares with its accuracy, over all patches of some images.

    Attributes
    ----------
    bins : DataFrame
        A row for each bin of confidence (the highest probability): its ends ``lower`` and ``upper``, the number of
        ``patches``, and their mean ``confidence`` and ``accuracy``, in [0, 1], NaN in an empty bin.
    error : float
        Expected calibration error: the mean over patches of ``|accuracy - confidence|`` of their bin, in [0, 1].
    accuracy : float
        Mean over regions of the balanced accuracy.
    images : int
        Number of images.

    See Also
    --------
    captum_region.plotting.plot_reliability : Draw it as a reliability diagram.
    """

    bins: pd.DataFrame
    error: float
    accuracy: float
    images: int


def balanced_subset(
    labels: ArrayLike, *, limit: int | None = None, random_state: RandomState = None
) -> NDArray[np.intp]:
    """Return the positions of a subset with equally many of each label, in ascending order.

    Parameters
    ----------
    labels : array-like of shape (N,)
    limit : int, optional
        The largest number of positions; by default all of the rarest label are taken.
    random_state : int, NumPy generator or None
        Decides which images of the commoner labels are taken.

    Returns
    -------
    ndarray of int, shape (M,)

    Raises
    ------
    ValueError
        If there are no labels, some are missing, or `limit` is below the number of different ones.

    See Also
    --------
    measure_calibration : Needs balanced images.

    Examples
    --------
    >>> balanced_subset(["a", "b", "a", "a", "b"], random_state=0).size
    4
    """
    names, codes = class_codes(labels, name="labels")
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
    """Compare confidence with accuracy over every patch of `images`.

    A classifier trained on balanced classes is calibrated for balanced classes: give it balanced images, see
    `balanced_subset`.

    Parameters
    ----------
    classifier : RegionClassifier
        In eval mode, as training and loading leave it.
    images : ndarray or Tensor, shape (N, C, height, width)
        uint8, or float in [0, 1], other than those it was trained on. Or another source of images as in
        `RegionAttribution.region_map`.
    labels : array-like of shape (N,)
        Labels that it was trained with.
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
        If an argument does not fit; the message names it.

    See Also
    --------
    fit_temperature : Improve the calibration.

    References
    ----------
    De Coninck, Leroux, Simoens, "Mitigating Bias Using Model-Agnostic Data Attribution", CVPR Workshops 2024, section
    3.3 and Figure 2.

    Naeini, Cooper, Hauskrecht, "Obtaining Well Calibrated Probabilities Using Bayesian Binning", AAAI 2015: the
    expected calibration error.
    """
    images, target = _checked(classifier, images, labels)
    return of_logits(_logits(classifier, images, target, batch_size, show_progress, "calibration"), bins=bins)


def of_logits(batches_of_logits: Iterable[tuple[Tensor, Tensor]], *, bins: int = 100) -> Calibration:
    """Compare confidence with accuracy as `measure_calibration` does, from logits.

    Parameters
    ----------
    batches_of_logits : iterable of (Tensor of shape (N, classes, rows, cols), Tensor of shape (N,))
        Logits and class numbers, of at least one image.
    bins : int, default=100
        Bins of equal width in [0, 1].

    Returns
    -------
    Calibration

    Raises
    ------
    ValueError
        If `bins` is below 1, or there are no logits.
    """
    check_count("bins", bins)
    sums: NDArray[np.float64] = np.zeros((3, bins))  # over the patches of each bin: of 1, of confidence, of hits
    counts: NDArray[np.float64] = np.zeros((2, 1))  # over the images of each class: of 1, of the share of hits
    for logits, expected in batches_of_logits:
        confidence, predicted = (found.numpy() for found in logits.softmax(1).double().max(1))
        hits = predicted == expected.numpy()[:, None, None]
        sums += [
            np.histogram(confidence, bins, (0, 1), weights=weights)[0] for weights in (None, confidence, hits * 1.0)
        ]
        counts = counts + [np.bincount(expected, weights, logits.shape[1]) for weights in (None, hits.mean((1, 2)))]
    if not counts.any():
        raise ValueError("batches_of_logits must hold the logits of at least one image, got none")
    patches, (images, right) = sums[0].astype(int), counts
    with np.errstate(invalid="ignore"):  # 0 / 0 in an empty bin
        confidence, accuracy = sums[1:] / sums[0]
    edges = np.linspace(0, 1, bins + 1)
    columns = {"lower": edges[:-1], "upper": edges[1:], "patches": patches, "confidence": confidence}
    error = np.nansum(np.abs(accuracy - confidence) * patches) / patches.sum()
    balanced = (right[images > 0] / images[images > 0]).mean()
    return Calibration(pd.DataFrame(columns | {"accuracy": accuracy}), float(error), float(balanced), int(images.sum()))


def fit_temperature(
    classifier: RegionClassifier,
    images: ImageSource,
    labels: ArrayLike,
    *,
    batch_size: int = 16,
    show_progress: bool = False,
) -> float:
    """Set ``classifier.temperature`` so that the labels of all patches of `images` become most likely.

    Temperature scaling divides the logits by one number, so no prediction changes. A classifier trained with label
    smoothing is underconfident, which a temperature below 1 corrects. This needs 16 bytes of memory for each patch and
    class.

    Parameters
    ----------
    classifier : RegionClassifier
        Its ``temperature`` is set in place.
    images, labels, batch_size, show_progress
        As in `measure_calibration`, with images used neither for training nor for evaluation.

    Returns
    -------
    float
        The temperature, in [0.05, 20].

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit; the message names it. Also if the temperature changes no logit, as of a subclass
        that does not divide them by it.

    See Also
    --------
    measure_calibration : Measure the effect.

    References
    ----------
    Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.
    """
    images, target = _checked(classifier, images, labels)
    found = list(_logits(classifier, images, target, batch_size, show_progress, "temperature"))
    before = classifier.temperature.clone()
    try:
        classifier.temperature.mul_(2)
        halved, _ = next(iter(_logits(classifier, images, target, batch_size, False, "temperature")))
    finally:
        classifier.temperature.copy_(before)
    if torch.equal(halved, found[0][0]) and halved.any():
        raise ValueError(f"classifier must divide its logits by its temperature, {type(classifier).__name__} does not")
    logits = torch.cat([part for part, _ in found]) * before.cpu()  # undo the present one
    expected = target[:, None, None].expand(-1, *classifier.grid.shape)

    def loss(log_temperature: float) -> float:
        return float(F.cross_entropy(logits / float(np.exp(log_temperature)), expected))

    best = minimize_scalar(loss, bounds=np.log((LOWEST, HIGHEST)), method="bounded", options={"xatol": 1e-4})
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
        got = f"{len(target)} labels for {len(images)} images"
        raise ValueError(f"labels must have one label for each image, and at least one; got {got}")
    return images, torch.from_numpy(target)


def _logits(
    classifier: RegionClassifier, images: ImageData, target: Tensor, batch_size: int, show_progress: bool, desc: str
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the logits of all regions and the class numbers of each batch of images, on the CPU."""
    found = batches(images, batch_size, show_progress=show_progress, desc=desc)
    with torch.inference_mode():
        for number, batch in enumerate(found):
            expected = target[number * batch_size :][: len(batch)]
            yield classifier.forward_grid(batch.to(classifier.device)).float().cpu(), expected

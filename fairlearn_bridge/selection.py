"""How well a classifier would do on images missing from the training data, estimated from held-out ones."""

from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from torch import Tensor

from captum_region.batches import as_floats, take
from captum_region.randomness import RandomState, draw_seed
from captum_region.validation import check_count
from fairlearn_bridge.metrics import alignment, area_under_roc, stratified_resamples
from fairlearn_bridge.noise import transplant
from fairlearn_bridge.samples import Samples
from fairlearn_bridge.validation import class_positions

RESAMPLES = 200
_BATCH = 1024  # images that are floats at a time


class CrossedAUC(NamedTuple):
    """An area under the ROC curve, and its standard error by the bootstrap over held-out images."""

    auc: float
    standard_error: float


def estimate_crossed_auc(
    classifier: Any,
    held_out: Samples,
    donors: Samples,
    mask: Tensor,
    *,
    draws: int = 4,
    min_images: int = 10,
    random_state: RandomState = None,
) -> CrossedAUC:
    """Estimate the bias-conflicting AUC: among images whose spurious attribute goes against the bias of their class.

    Biased data hold few such images or, in the protocol of De Coninck et al. 2024, none of one class (no blond man).
    What the classifier would say of them is estimated by differences: into an image of that class, without the
    spurious attribute, the region of an image with it is transplanted, and that of an image without it, both donors
    from one other class. The difference of the two answers, in log-probabilities, is the effect of the spurious
    attribute, since what the donors' class and the transplant itself do is in both; it is added to the answer to the
    untouched image.

    It sees what the spurious attribute does within the mask, as donors of another class show it. Where images of the
    missing cell differ in other ways too, or answers are already close to 0 or 1, it is too optimistic: use it to
    compare classifiers, not to report how good one is.

    Parameters
    ----------
    classifier : fitted classifier
        With ``predict_proba`` and ``classes_``; at least two classes.
    held_out : Samples
        Images that it has not been trained on; drawn as the training images, that is biased.
    donors : Samples
        Whose regions are transplanted, such as the training images.
    mask : bool Tensor or array, shape (height, width)
        Where the spurious attribute is, as from `quantile_mask`.
    draws : int, default=4
        Pairs of donors for each image; the mean effect counts.
    min_images : int, default=10
        Cells of fewer held-out images are filled up with estimates.
    random_state : int, NumPy generator or None, default=None
        Decides the donors.

    Returns
    -------
    CrossedAUC
        ``auc`` in [0, 1], 0.5 by chance, of more than two classes the mean over pairs of classes, and its
        ``standard_error``.

    Raises
    ------
    ValueError
        If the mask or a number does not fit; if a class has no held-out image or no donor, or no bias-conflicting image
        and none can be estimated, as no other class has the values of the spurious attribute.

    See Also
    --------
    AttributionNoiseMitigator : Chooses scheme and quantile by it.
    """
    check_count("draws", draws)
    check_count("min_images", min_images, 0)
    mask = torch.as_tensor(mask)
    if mask.shape != held_out.X.shape[2:]:
        raise ValueError(
            f"mask must have the shape of the images, {tuple(held_out.X.shape[2:])}, got {tuple(mask.shape)}"
        )
    if donors.X.shape[1:] != held_out.X.shape[1:]:
        wanted, got = tuple(held_out.X.shape[1:]), tuple(donors.X.shape[1:])
        raise ValueError(f"donors must be images of the shape of the held-out ones, {wanted}, got {got}")
    # A classifier may know more classes than there are images of.
    occurring = {*classifier.classes_} & {*donors.y, *held_out.y}
    for name, samples in (("donors", donors), ("held_out", held_out)):
        if absent := occurring - set(samples.y):
            raise ValueError(f"{name} must hold images of every class, missing: {', '.join(map(str, absent))}")
    generator = np.random.default_rng(draw_seed(random_state))
    answers = _log_probability(classifier, held_out.X)
    code = class_positions(classifier, held_out.y)
    aligned = alignment(donors.y, donors.confounder)
    labels, found = [], []
    numbers = {number: label for number, label in enumerate(classifier.classes_) if label in occurring}
    for number, label in numbers.items():
        for value in np.unique(donors.confounder):
            if value == aligned[label]:
                continue
            cell = answers[(code == number) & (held_out.confounder == value)]
            if len(cell) < min_images:
                estimated = _estimate(classifier, held_out, donors, mask, label, value, answers, draws, generator)
                cell = np.concatenate([cell, estimated])
            labels.append(np.full(len(cell), number))
            found.append(cell)
    y, probability = np.concatenate(labels), softmax(np.concatenate(found), axis=1)
    if missing := set(numbers) - set(y):
        names = ", ".join(str(classifier.classes_[number]) for number in sorted(missing))
        raise ValueError(f"donors must show each value of the spurious attribute in a class besides {names}")
    strata = [np.flatnonzero(y == number) for number in np.unique(y)]
    resampled = _mean_auc(probability[stratified_resamples(strata, RESAMPLES, generator)], y)
    return CrossedAUC(float(_mean_auc(probability, y)), float(np.std(resampled)))


def _mean_auc(probability: NDArray[np.float64], y: NDArray[np.intp]) -> Any:
    """Return the mean area over pairs of classes, by the probability of either, for any number of resamples at once."""
    areas = []
    for pair in combinations(np.unique(y), 2):
        of_pair = np.isin(y, pair)
        areas += [area_under_roc(probability[..., of_pair, number], y[of_pair] == number) for number in pair]
    return np.mean(areas, axis=0)


def _estimate(
    classifier: Any,
    held_out: Samples,
    donors: Samples,
    mask: Tensor,
    label: Any,
    value: Any,
    answers: NDArray[np.float64],
    draws: int,
    generator: np.random.Generator,
) -> NDArray[np.float64]:
    """Return the log-probabilities that images of `label` would get if their spurious attribute were `value`."""
    estimates = []
    for present in np.unique(held_out.confounder[held_out.y == label]):
        receivers = np.flatnonzero((held_out.y == label) & (held_out.confounder == present))
        # Classes other than this one that show both values.
        pools = [
            [np.flatnonzero((donors.y == other) & (donors.confounder == shown)) for shown in (value, present)]
            for other in np.unique(donors.y)
            if other != label
        ]
        pools = [pair for pair in pools if min(map(len, pair)) > 0]
        if present == value or not pools:
            continue
        effect = np.zeros_like(answers[receivers])
        for draw in range(draws):
            given = [generator.choice(pool, len(receivers)) for pool in pools[draw % len(pools)]]
            for part in np.array_split(np.arange(len(receivers)), -(-len(receivers) // _BATCH)):
                images = as_floats(take(held_out.X, receivers[part])).cpu()
                regions = (as_floats(take(donors.X, chosen[part])).cpu() for chosen in given)
                with_it, without = (
                    _log_probability(classifier, transplant(images, region, mask[None, None]).numpy())
                    for region in regions
                )
                effect[part] += (with_it - without) / draws
        estimates.append(answers[receivers] + effect)
    return np.concatenate(estimates) if estimates else np.empty((0, answers.shape[1]))


def _log_probability(classifier: Any, X: Any) -> NDArray[np.float64]:
    return np.asarray(np.log(classifier.predict_proba(X).clip(1e-6)))

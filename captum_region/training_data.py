"""What a region classifier learns from: labels as class numbers, and how often each image is drawn."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.class_weight import compute_sample_weight
from torch import Tensor

from captum_region.batches import ImageData, ImageSource, check_images, check_weights
from captum_region.classifiers import RegionClassifier
from captum_region.datasets.conversion import from_dataset, is_dataset
from captum_region.datasets.images import AttributeImages
from captum_region.labels import check_classes, hold_out


@dataclass(frozen=True)
class TrainingData:
    """Images with their classes, checked.

    Attributes
    ----------
    images : ndarray or Tensor, shape (N, C, height, width)
    target : integer Tensor, shape (N,)
        Class numbers.
    names : ndarray of shape (classes,)
        The label of each class number.
    probability : Tensor of shape (N,)
        Proportional to how often an image is drawn.
    validation : (images, integer Tensor) or None
    apart : Tensor of shape (N,), or None
        The weights of the images kept apart, which sum to 1; those trained on have weight 0. None if none are.
    """

    images: ImageData
    target: Tensor
    names: NDArray[Any]
    probability: Tensor
    validation: tuple[ImageData, Tensor] | None
    apart: Tensor | None

    @property
    def drawn(self) -> int:
        """How many images are drawn in an epoch."""
        return int((self.probability > 0).sum())


def training_data(
    classifier: RegionClassifier,
    images: ImageSource,
    labels: ArrayLike | None,
    *,
    within: ArrayLike | None,
    validation: tuple[ImageSource, ArrayLike | None] | None,
    sample_weight: str | ArrayLike | None,
    apart_seed: int | None = None,
) -> TrainingData:
    """Check the images, labels and weights that `fit_region_classifier` is given; with `apart_seed` keep some apart.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit; the message names it.
    """
    images, labels, within = _with_labels(classifier, images, labels, within, name="images")
    labels = check_classes(labels, len(images), name="labels")
    within = None if within is None else check_classes(within, len(images), name="within")
    names, target = np.unique(labels, return_inverse=True)
    if len(names) != classifier.num_classes:
        wanted = f"{classifier.num_classes} values, the classifier's classes"
        raise ValueError(f"labels must take {wanted}, got {list(names)}")
    probability = _draw_probability(labels, within, sample_weight, len(images))
    valid = None if validation is None else _check_validation(classifier, validation, names)
    apart = None
    if apart_seed is None or np.count_nonzero(probability) > _SMALL:
        held = np.zeros(len(images), bool)
    else:
        held = _kept_apart(target, within, probability, apart_seed)
    if held.any():
        of_rest, of_held = ((labels[part], None if within is None else within[part]) for part in (~held, held))
        apart = torch.zeros(len(images), dtype=torch.double)
        apart[held] = torch.from_numpy(_balanced(*of_held)) / held.sum()
        if isinstance(sample_weight, str):
            probability[~held] = _balanced(*of_rest)
        probability[held] = 0
    return TrainingData(images, torch.from_numpy(target), names, torch.from_numpy(probability), valid, apart)


def within_class_weights(labels: ArrayLike, within: ArrayLike) -> NDArray[np.float64]:
    """Return sample weights that make `labels` independent of `within`, as far as the images allow.

    Classes of `within` in which `labels` takes one value only get weight 0. In the others, each pair of class and
    value gets the same total weight. If several classes remain that have all values, `labels` is then independent of
    `within`; if one remains (only women are ever blond), `within` is constant. A class that lacks some of three or more
    values stays told apart by them.

    Parameters
    ----------
    labels : array-like of shape (N,)
        The spurious attribute (the confounder).
    within : array-like of shape (N,)
        The target's labels.

    Returns
    -------
    ndarray of shape (N,)
        Weights, of mean 1 over those above 0.

    Raises
    ------
    ValueError
        If `labels` takes one value only in each class.

    See Also
    --------
    captum_region.fit_region_classifier : Uses these weights if `within` is given.

    Examples
    --------
    >>> within_class_weights(labels=[0, 0, 0, 1, 1], within=["man", "man", "woman", "woman", "woman"])
    array([0.  , 0.  , 1.5 , 0.75, 0.75])
    """
    pairs = pd.DataFrame({"label": np.asarray(labels), "within": np.asarray(within)})
    counts = (pairs.groupby("within")["label"].transform("nunique") > 1).to_numpy()
    if not counts.any():
        raise ValueError("within must have a class in which labels take several values; in each they take one")
    weights = np.zeros(len(pairs))
    weights[counts] = compute_sample_weight("balanced", pairs[counts].groupby(["within", "label"]).ngroup())
    return weights


def _with_labels(
    classifier: RegionClassifier, images: ImageSource, labels: ArrayLike | None, within: ArrayLike | None, *, name: str
) -> tuple[ImageData, Any, Any]:
    """Return the images, and their labels, which may be given by name or, if there is one attribute, left out."""
    size = classifier.grid.image_size
    if is_dataset(images):
        images = from_dataset(images, size=size)
    if isinstance(images, AttributeImages):
        if labels is None and images.attributes.shape[1] != 1:
            raise ValueError(f"labels must name one of the attributes of {name}, {[*images.attributes]}, got None")
        labels = images.labels(images.attributes.columns[0]) if labels is None else labels
        labels, within = (images.labels(value) if isinstance(value, str) else value for value in (labels, within))
    elif labels is None:
        raise ValueError(f"labels must be given, as {name} hold none; got None")
    return check_images(images, name=name, image_size=size, channels=classifier.in_channels), labels, within


def _check_validation(
    classifier: RegionClassifier, validation: tuple[ImageSource, ArrayLike | None], names: NDArray[Any]
) -> tuple[ImageData, Tensor]:
    """Return the images and their class numbers."""
    if not isinstance(validation, tuple | list) or len(validation) != 2:
        raise TypeError(f"validation must be (images, labels), got {type(validation).__name__}")
    images, labels = validation
    images, labels, _ = _with_labels(classifier, images, labels, None, name="validation images")
    values = check_classes(labels, len(images), name="labels of validation")
    if unknown := {*values.tolist()} - {*names.tolist()}:
        raise ValueError(
            "validation must have labels that training images have too; others are: "
            f"{', '.join(map(str, sorted(unknown)))}"
        )
    return images, torch.from_numpy(np.searchsorted(names, values))


def _draw_probability(
    labels: ArrayLike, within: ArrayLike | None, weight: str | ArrayLike | None, count: int
) -> NDArray[np.float64]:
    """Return how often each image is drawn, in proportion."""
    if within is not None:
        if not isinstance(weight, str):
            raise ValueError("sample_weight must be 'balanced' if within is given")
        return _balanced(labels, within)
    if not isinstance(weight, str):
        return check_weights(weight, count)
    if weight != "balanced":
        raise ValueError(f"sample_weight must be 'balanced', an array or None, got {weight!r}")
    return _balanced(labels, None)


def _balanced(labels: ArrayLike, within: ArrayLike | None) -> NDArray[np.float64]:
    """Return weights that make the labels equally frequent, within classes if those are given."""
    if within is not None:
        return within_class_weights(labels, within)
    return np.asarray(compute_sample_weight("balanced", np.asarray(labels)))


# The share of the images that is kept apart, of each pair of a label and a class; and with more images than this, none:
# there the region classifiers of trainings that ended early were clearly less accurate than those of whole ones.
_APART, _SMALL = 0.2, 300


def _kept_apart(
    target: NDArray[np.intp], within: ArrayLike | None, probability: NDArray[np.float64], seed: int
) -> NDArray[np.bool_]:
    """Return which images to keep apart: a share of each label, of the classes in which every label has enough."""
    classes = np.zeros(len(target), int) if within is None else np.unique(np.asarray(within), return_inverse=True)[1]
    used = probability > 0
    held = np.zeros(len(target), bool)
    held[used] = hold_out(target[used], classes[used], _APART, seed)
    for number in np.unique(classes):
        of_class = classes == number
        if set(target[used & of_class]) - set(target[held & of_class]):
            held[of_class] = False
    return held


def draw_order(probability: Tensor, generator: torch.Generator) -> Tensor:
    """Return the images of one epoch: each once if all weights are equal, else as many draws with replacement."""
    drawn = probability.nonzero().squeeze(1)
    if probability[drawn].unique().numel() == 1:
        return drawn[torch.randperm(len(drawn), generator=generator)]
    return torch.multinomial(probability, len(drawn), replacement=True, generator=generator)

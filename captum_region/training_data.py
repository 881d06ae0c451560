"""What a region classifier learns from: labels as class numbers, how often each image is drawn, random patches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from sklearn.utils.class_weight import compute_sample_weight
from torch import Tensor

from captum_region.batches import check_images, check_weights, take
from captum_region.datasets.conversion import from_dataset, is_dataset
from captum_region.datasets.images import AttributeImages
from captum_region.labels import check_classes

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from captum_region.batches import ImageData, ImageSource
    from captum_region.classifiers import RegionClassifier


@dataclass(frozen=True)
class TrainingData:
    """Images with their classes, checked.

    Attributes
    ----------
    images : ndarray or Tensor, shape (N, C, height, width)
    target : integer Tensor, shape (N,)
        Class numbers.
    names : ndarray of shape (classes,)
        The labels that they number.
    probability : Tensor of shape (N,)
        In proportion to how often an image is drawn.
    validation : (images, integer Tensor) or None
    """

    images: ImageData
    target: Tensor
    names: NDArray[Any]
    probability: Tensor
    validation: tuple[ImageData, Tensor] | None

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
) -> TrainingData:
    """Check what `fit_region_classifier` is given to learn from.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit, named in the message.
    """
    images, labels, within = _with_labels(classifier, images, labels, within, name="images")
    names, target = _encode(classifier, labels, len(images))
    probability = _draw_probability(labels, within, sample_weight, len(images))
    valid = None if validation is None else _check_validation(classifier, validation, names)
    return TrainingData(images, target, names, probability, valid)


def within_class_weights(labels: ArrayLike, within: ArrayLike) -> NDArray[np.float64]:
    """Return sample weights that make `labels` independent of `within`, as far as the images allow.

    Only the classes of `within` in which `labels` takes several values count; there, each pair of class and value
    gets the same total weight. Where all classes count, `labels` then tells nothing of `within`; where one counts
    (only women are ever blond), it tells nothing because `within` is constant. Images of other classes weigh 0.

    Parameters
    ----------
    labels : array-like of shape (N,)
        The confounder.
    within : array-like of shape (N,)
        The target's labels.

    Returns
    -------
    ndarray of shape (N,)
        Weights of mean 1 over the images that count.

    Raises
    ------
    ValueError
        If in no class `labels` takes several values.

    Examples
    --------
    >>> within_class_weights(labels=[0, 0, 0, 1, 1], within=["man", "man", "woman", "woman", "woman"])
    array([0.  , 0.  , 1.5 , 0.75, 0.75])
    """
    pairs = pd.DataFrame({"label": np.asarray(labels), "within": np.asarray(within)})
    counts = (pairs.groupby("within")["label"].transform("nunique") > 1).to_numpy()
    if not counts.any():
        raise ValueError("within must have a class in which labels take several values; in each they take just one")
    weights = np.zeros(len(pairs))
    weights[counts] = compute_sample_weight("balanced", pairs[counts].groupby(["within", "label"]).ngroup())
    return weights


def _with_labels(
    classifier: RegionClassifier,
    images: ImageSource,
    labels: ArrayLike | None,
    within: ArrayLike | None,
    *,
    name: str,
) -> tuple[ImageData, Any, Any]:
    """Return the images, and the labels that are with them where these are given by name or left out."""
    size = classifier.grid.image_size
    if is_dataset(images):
        images = from_dataset(images, size=size)
    if isinstance(images, AttributeImages):
        if labels is None and images.attributes.shape[1] != 1:
            raise ValueError(f"labels must name one of the attributes of {name}, {[*images.attributes]}, got None")
        labels = images.labels(images.attributes.columns[0]) if labels is None else labels
        labels, within = (images.labels(value) if isinstance(value, str) else value for value in (labels, within))
    elif labels is None:
        raise ValueError(f"labels must be given, for {name} have none with them; got None")
    return check_images(images, name=name, image_size=size, channels=classifier.in_channels), labels, within


def _encode(classifier: RegionClassifier, labels: ArrayLike, count: int) -> tuple[NDArray[Any], Tensor]:
    names, target = np.unique(check_classes(labels, count, name="labels"), return_inverse=True)
    if len(names) != classifier.num_classes:
        raise ValueError(
            f"labels must take {classifier.num_classes} values, the classifier's classes, got {list(names)}"
        )
    return names, torch.from_numpy(target)


def _check_validation(
    classifier: RegionClassifier, validation: tuple[ImageSource, ArrayLike | None], names: NDArray[Any]
) -> tuple[ImageData, Tensor]:
    """Return the images and their class numbers."""
    if not isinstance(validation, tuple | list) or len(validation) != 2:
        raise TypeError(f"validation must be (images, labels), got {type(validation).__name__}")
    images, labels = validation
    images, labels, _ = _with_labels(classifier, images, labels, None, name="validation images")
    values = np.asarray(labels)
    unknown = set(values.tolist()) - set(names.tolist())
    if unknown or len(values) != len(images):
        raise ValueError(f"validation must have a known label an image; unknown labels: {sorted(unknown)}")
    return images, torch.from_numpy(np.searchsorted(names, values))


def _draw_probability(
    labels: ArrayLike, within: ArrayLike | None, weight: str | ArrayLike | None, count: int
) -> Tensor:
    if within is not None:
        if not isinstance(weight, str):
            raise ValueError("sample_weight must be 'balanced' where within is given")
        return torch.from_numpy(within_class_weights(labels, check_classes(within, count, name="within")))
    if isinstance(weight, str):
        if weight != "balanced":
            raise ValueError(f"sample_weight must be 'balanced', an array or None, got {weight!r}")
        return torch.from_numpy(compute_sample_weight("balanced", np.asarray(labels)))
    return torch.from_numpy(check_weights(weight, count))


def random_patches(
    classifier: RegionClassifier,
    images: ImageData,
    target: Tensor,
    index: Tensor,
    positions: int,
    generator: torch.Generator,
    share: slice,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return patches (N * P) x C x k x k, their regions and their classes, on the classifier's device.

    They are those of a `share` of the images. The draws are those for all, so that each process draws the same.
    """
    grid = classifier.grid
    # Two at least: batch normalisation cannot train on one value a channel.
    positions = max(positions, 2) if len(index) == 1 else positions
    region = torch.randint(grid.num_regions, (len(index), positions), generator=generator)
    index, region = index[share], region[share].to(classifier.device)
    patches = grid.extract(take(images, index.numpy()).to(classifier.device), region).flatten(0, 1)
    expected = target[index].repeat_interleave(positions).to(classifier.device)
    return patches, region.flatten(), expected


def draw_order(probability: Tensor, generator: torch.Generator) -> Tensor:
    """Return the images of one epoch: each once where all weigh the same, else as many draws with replacement."""
    drawn = probability.nonzero().squeeze(1)
    if probability[drawn].unique().numel() == 1:
        return drawn[torch.randperm(len(drawn), generator=generator)]
    return torch.multinomial(probability, len(drawn), replacement=True, generator=generator)

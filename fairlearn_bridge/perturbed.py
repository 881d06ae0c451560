"""PerturbedDataset: the perturbation of training images for a training loop of one's own."""

import os
from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from torch import Tensor
from torch.utils.data import Dataset

from captum_region.batches import as_floats, check_images
from captum_region.datasets.conversion import from_dataset, is_dataset, pixels_of
from captum_region.randomness import RandomState, draw_seed
from captum_region.validation import check_count
from fairlearn_bridge.mitigator import AttributionNoiseMitigator
from fairlearn_bridge.noise import AttributionNoise


class PerturbedDataset(Dataset[Any]):
    """A torch Dataset whose images come perturbed, anew each time: for a training loop of one's own.

    The images are perturbed as the `AttributionNoiseMitigator` would, one by one. What an image gets depends on the
    seed, its position, the epoch and how often it was drawn before in that epoch: not on the batch, the order or the
    number of a DataLoader's workers, whether forked or spawned. It is a training set: evaluate on the data set itself.

    The data set's own transforms come before the perturbation. They must leave the images as the noise was fitted to
    them: of one size, in [0, 1] and in place, as ``Resize`` and ``ToTensor`` do. What is random (a flip, a crop, a
    rotation) and the normalisation come after, as `transform`.

    Parameters
    ----------
    dataset : map-style Dataset, Hugging Face dataset or sequence
        The images that `noise` was fitted to, in the same order. Its items are tuples, of which the first is the image,
        or mappings. An image is a PIL image, an array, a Tensor of shape (C, height, width), uint8 or float in [0, 1],
        or as Hugging Face keeps it. All but tensors become RGB of the size that the noise has.
    noise : AttributionNoise
        Fitted, as by `fit_noise` or as ``noise_`` of a mitigator.
    transform : callable, optional
        Tensor -> image, applied to the perturbed image, a float Tensor in [0, 1] of shape (C, height, width).
    image_column : str, default="image"
        For items that are mappings: the name of the image.
    random_state : int, NumPy generator or None, default=None
        Decides the perturbations.

    Raises
    ------
    TypeError, ValueError
        If the noise is not fitted or was fitted to another number of images; on reading, if an item's image does not
        fit.

    See Also
    --------
    fit_noise : Fits the noise to a data set.
    AttributionNoiseMitigator : Trains an `ImageClassifier` so.

    Examples
    --------
    >>> from torch.utils.data import DataLoader, TensorDataset
    >>> data = TensorDataset(torch.full((4, 3, 8, 8), 0.5), torch.tensor([0, 1, 0, 1]))
    >>> noise = AttributionNoise("general_noise", 0.75).fit(torch.arange(64.0).view(1, 8, 8))
    >>> perturbed = PerturbedDataset(data, noise, random_state=0)
    >>> images, labels = next(iter(DataLoader(perturbed, batch_size=4)))
    >>> (images != 0.5).float().mean(dim=(0, 1, 3)).tolist()
    [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0]
    """

    def __init__(
        self,
        dataset: Any,
        noise: AttributionNoise,
        *,
        transform: Callable[[Tensor], Any] | None = None,
        image_column: str = "image",
        random_state: RandomState = None,
    ) -> None:
        if not isinstance(noise, AttributionNoise) or not hasattr(noise, "mask_"):
            raise TypeError(f"noise must be a fitted AttributionNoise, got {noise!r}")
        if not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
            raise TypeError(f"dataset must have a length and items by number, got a {type(dataset).__name__}")
        if noise.num_images not in (None, len(dataset)):
            raise ValueError(f"dataset must hold the {noise.num_images} images of the noise, got {len(dataset)}")
        self.dataset, self.noise = dataset, noise
        self.transform, self.image_column = transform, image_column
        self.seed = draw_seed(random_state)
        # Shared with workers, those that stay from epoch to epoch too: the epoch or -1, and how often each was drawn.
        self._epoch = torch.full((1,), -1).share_memory_()
        self._drawn = torch.zeros(len(dataset), dtype=torch.int32).share_memory_()

    def __len__(self) -> int:
        return len(self.dataset)

    def set_epoch(self, epoch: int) -> Self:
        """Begin an epoch by its number, as of a ``DistributedSampler``.

        Needed where several processes train, as an image comes to another process in another epoch, and where training
        resumes; else each time that an image is drawn counts as an epoch of its own.
        """
        self._epoch.fill_(check_count("epoch", epoch, 0))
        self._drawn.zero_()
        return self

    def __getitem__(self, index: int) -> Any:
        """Return the item at `index` with its image perturbed; a mapping as a dict, else a tuple."""
        position = range(len(self))[int(index)]
        item = self.dataset[position]
        if isinstance(item, Mapping):
            if self.image_column not in item:
                raise ValueError(f"dataset must have an image_column {self.image_column!r}, it has {[*item]}")
            return {**item, self.image_column: self._perturb(item[self.image_column], position)}
        if not isinstance(item, tuple | list):
            raise TypeError(f"dataset must give tuples or mappings, item {position} is a {type(item).__name__}")
        image, *labels = item
        return self._perturb(image, position), *labels

    def _perturb(self, image: Any, position: int) -> Any:
        height, width = self.noise.mask_.shape[-2:]
        what = f"item {position}'s image"
        if not isinstance(image, Tensor):
            image = torch.from_numpy(np.array(pixels_of(image, (height, width), what)))
        images = as_floats(torch.as_tensor(check_images(image[None], name=what, image_size=(height, width))))
        perturbed = self.noise(images, torch.tensor([position]), self._generator(position))[0]
        return perturbed if self.transform is None else self.transform(perturbed)

    def _generator(self, position: int) -> torch.Generator:
        epoch, drawn = int(self._epoch), int(self._drawn[position])
        self._drawn[position] += 1
        # Processes that are given no epoch must not repeat what another one drew; torchrun and accelerate set RANK.
        rank = int(os.environ.get("RANK", "0")) if epoch < 0 else 0
        words = np.random.SeedSequence([self.seed, position, epoch + 1, drawn, rank]).generate_state(1, np.uint64)
        return torch.Generator().manual_seed(int(words[0] >> np.uint64(1)))


class _Untrained(BaseEstimator):  # type: ignore[misc]
    """Takes the place of a classifier that the user trains."""

    def __init__(self, batch_transform: Any = None, random_state: Any = None) -> None:
        self.batch_transform, self.random_state = batch_transform, random_state

    def fit(self, X: Any, y: NDArray[Any]) -> Self:
        self.classes_ = np.unique(y)
        return self


def fit_noise(
    data: Any,
    y: ArrayLike | str,
    *,
    sensitive_features: ArrayLike | str,
    size: int | tuple[int, int] | None = None,
    image_column: str = "image",
    random_state: RandomState = None,
    **parameters: Any,
) -> AttributionNoise:
    """Find where the spurious attribute shows in training images, and return the perturbation of those regions.

    A region classifier is trained on the images within the classes of `y`, as the `AttributionNoiseMitigator` does.

    Parameters
    ----------
    data : torch Dataset, Hugging Face dataset, AttributeImages or array of shape (N, C, height, width)
        The training images. A data set is read once, by `captum_region.datasets.from_dataset`; its transforms must not
        be random, nor normalise, see `PerturbedDataset`.
    y : array-like of shape (N,), or str
        The target's labels, or their name: ``"label"`` for a data set of (image, label).
    sensitive_features : array-like of shape (N,) or (N, attributes), or str
        The spurious attribute (confounder), or its name.
    size : int or (height, width), optional
        The size to resize a data set's images to; by default their own.
    image_column : str, default="image"
        For a data set whose items are mappings: the name of the image.
    random_state : int, NumPy generator or None, default=None
        Decides the region classifier's training.
    **parameters
        Of `AttributionNoiseMitigator`: ``scheme``, ``quantile``, ``region_classifier``, ``protect_target`` ... There
        is no choice among several: that would take a classifier to train.

    Returns
    -------
    AttributionNoise
        Fitted: a callable (images, index, generator) -> images for batches, see `AttributionNoise`, and for
        `PerturbedDataset`.

    Raises
    ------
    TypeError, ValueError
        If a parameter or the data do not fit, by name.

    See Also
    --------
    PerturbedDataset : Applies it to a data set.

    Examples
    --------
    >>> from captum_region.datasets import make_faces
    >>> faces = make_faces(60, size=16, random_state=0)
    >>> noise = fit_noise(faces, "Male", sensitive_features="Blond_Hair", region_epochs=1, random_state=0)
    >>> noise.mask_.shape
    torch.Size([60, 16, 16])
    """
    if size is not None and not is_dataset(data):
        raise ValueError(f"size must be left out for images of one size, it resizes a data set's; got {size}")
    if image_column != "image" and not is_dataset(data):
        raise ValueError(f"image_column must be left out for images, it is of a data set; got {image_column!r}")
    if is_dataset(data):
        data = from_dataset(data, size=size, image_column=image_column)
    mitigator = AttributionNoiseMitigator(_Untrained(), random_state=random_state, **parameters)
    for name in ("scheme", "quantile"):
        if np.ndim(getattr(mitigator, name)) or getattr(mitigator, name) == "auto":
            raise ValueError(f"{name} must be one, a choice takes a classifier to train; got {parameters[name]!r}")
    if mitigator.apply_at_predict:
        raise ValueError("apply_at_predict must be left out: the noise is for training images")
    return mitigator.fit(data, y, sensitive_features=sensitive_features).noise_

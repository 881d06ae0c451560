"""RegionClassifier: what both kinds have in common, and any network that classifies patches, region by region."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from captum_region.grid import RegionGrid
from captum_region.validation import check_count

Progress = Callable[[Sequence[Tensor]], Iterable[Tensor]]


@dataclass(frozen=True)
class Recipe:
    """The defaults of `fit_region_classifier` for a kind of region classifier.

    Attributes
    ----------
    epochs : int
        Passes over the training images.
    batch_size : int
        Images in a step.
    positions_per_image : int
        Random regions of each image in a step.
    lr : float
        Highest learning rate of AdamW.
    weight_decay : float
        Weight decay of AdamW.
    schedule : {"step", "onecycle", "average"}
        ``"step"`` divides the rate by 10 after 4/9 and 8/9 of the training, that is every 40 of the paper's 90 epochs;
        ``"onecycle"`` is torch's ``OneCycleLR``; ``"average"`` keeps the rate, after a short rise, and averages the
        weights of the last steps, so that the training may end at any time.
    min_steps : int, default=0
        With few images, the number of epochs is raised until there are at least so many steps.
    patience : float, default=0
        Of `early`: the training ends when the last share of its epochs, in (0, 1), brought no improvement.
    early : Recipe, optional
        The recipe of a training for which no number of epochs is given. It ends early, see `fit_region_classifier`;
        its own number of epochs is the most. By default such a training takes this recipe's number of epochs.
    """

    epochs: int
    batch_size: int
    positions_per_image: int
    lr: float
    weight_decay: float
    schedule: Literal["step", "onecycle", "average"]
    min_steps: int = 0
    patience: float = 0
    early: "Recipe | None" = None


class RegionClassifier(nn.Module, ABC):
    """Predicts an attribute of the whole image from one region of it.

    A subclass implements `forward`. It may override `forward_grid`, to compute all regions faster than one by one, and
    `recipe`, the defaults of its training. Images and patches are uint8 or float in [0, 1], normalised by `normalize`.

    Parameters
    ----------
    grid : RegionGrid
    num_classes : int
        Number of classes of the attribute, at least 2.
    class_names : sequence of str, optional
        Names of the classes, in the order of the logits; "0", "1", ... by default.
    in_channels : int, default=3
        Channels of the images.

    Attributes
    ----------
    mean, std : Tensor of shape (in_channels,)
        Buffers for the normalisation of images in [0, 1]. Initially 0.5; for a pretrained backbone set them in place
        (``classifier.mean[:] = ...``) to those it was trained with.
    temperature : Tensor of shape ()
        Buffer: the logits are divided by it. 1 until `captum_region.calibration.fit_temperature` sets it.

    See Also
    --------
    DenseRegionClassifier, PatchRegionClassifier : The two kinds.
    fit_region_classifier : Training.
    """

    # De Coninck et al. 2024, section 3.1.
    recipe: ClassVar[Recipe] = Recipe(
        epochs=90, batch_size=256, positions_per_image=1, lr=1e-3, weight_decay=0.01, schedule="step"
    )
    mean: Tensor
    std: Tensor
    temperature: Tensor

    def __init__(
        self, grid: RegionGrid, num_classes: int, *, class_names: Sequence[str] | None = None, in_channels: int = 3
    ) -> None:
        super().__init__()
        if not isinstance(grid, RegionGrid):
            raise TypeError(f"grid must be a RegionGrid, got {type(grid).__name__}")
        self.grid = grid
        self.num_classes = check_count("num_classes", num_classes, 2)
        self.in_channels = check_count("in_channels", in_channels)
        self.class_names = class_names if class_names is not None else [str(label) for label in range(num_classes)]
        self.register_buffer("mean", torch.full((in_channels,), 0.5))
        self.register_buffer("std", torch.full((in_channels,), 0.5))
        self.register_buffer("temperature", torch.ones(()))

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the logits."""
        return self._class_names

    @class_names.setter
    def class_names(self, names: Sequence[str]) -> None:
        if len(names) != self.num_classes:
            raise ValueError(f"class_names must have {self.num_classes} names, got {list(names)}")
        self._class_names = tuple(str(name) for name in names)

    def encode(self, labels: ArrayLike) -> NDArray[np.intp]:
        """Return the class numbers of labels.

        Labels are identified by their name. If the classes have been renamed since training, booleans are classes 0
        and 1, and other labels, if they take as many values as there are classes, are numbered in sorted order.

        Parameters
        ----------
        labels : array-like of shape (N,)
            Not every class need occur.

        Returns
        -------
        ndarray of int, shape (N,)

        Raises
        ------
        ValueError
            If labels are missing or not among the classes.

        Examples
        --------
        >>> from captum_region import DenseRegionClassifier
        >>> classifier = DenseRegionClassifier(RegionGrid(8, 4, 4), 2, class_names=["man", "woman"])
        >>> classifier.encode(["woman", "woman"]), classifier.encode([True, False])
        (array([1, 1]), array([1, 0]))
        """
        values = np.asarray(labels)
        if values.ndim != 1 or pd.isna(values).any():
            raise ValueError(f"labels must be one-dimensional with no missing values, got shape {values.shape}")
        found, codes = np.unique(values, return_inverse=True)
        number = {name: at for at, name in enumerate(self.class_names)}
        if values.dtype == bool and not any(str(label) in number for label in found):
            # Of classes 1 and 2, images of the first alone have labels that are all 1, which were taken for True.
            coded = [str(int(label)) for label in found]
            found = np.array(coded) if all(label in number for label in coded) else found
        known = [str(label) in number for label in found]
        numbers: Any
        if all(known):
            numbers = [number[str(label)] for label in found]
        elif values.dtype == bool and self.num_classes == 2:
            numbers = found
        elif len(found) == self.num_classes and not any(known):
            numbers = range(self.num_classes)
        else:
            names = ", ".join(self.class_names)
            raise ValueError(f"labels must be among the classes {names}; got {found[:9].tolist()}")
        return np.asarray(numbers, dtype=np.intp)[codes]

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.mean.device

    def normalize(self, images: Tensor) -> Tensor:
        """Return uint8 images, or float ones in [0, 1], as normalised floats of the weights' dtype."""
        images = images.to(self.mean.dtype) / 255 if images.dtype == torch.uint8 else images.to(self.mean.dtype)
        return (images - self.mean[:, None, None]) / self.std[:, None, None]

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments beyond grid, classes and channels, as JSON values."""
        return {}

    @abstractmethod
    def forward(self, patches: Tensor, region: Tensor) -> Tensor:
        """Classify patches, with logits that were divided by ``temperature``.

        Parameters
        ----------
        patches : Tensor, shape (N, C, k, k)
            uint8, or float in [0, 1].
        region : integer Tensor, shape (N,)
            The region of each patch.

        Returns
        -------
        Tensor, shape (N, classes)
            Logits.
        """

    def forward_grid(self, images: Tensor, *, regions_per_pass: int = 256, progress: Progress = iter) -> Tensor:
        """Classify every region of whole images.

        Parameters
        ----------
        images : Tensor, shape (N, C, height, width)
            uint8, or float in [0, 1].
        regions_per_pass : int, default=256
            How many patches go through the network at once. It changes the memory needed, not the result.
        progress : callable, default=iter
            Wraps the sequence of passes, as ``tqdm`` does to show a bar.

        Returns
        -------
        Tensor, shape (N, classes, rows, cols)
            Logits.
        """
        return forward_regions(self, self.grid, images, regions_per_pass=regions_per_pass, progress=progress)


def forward_regions(
    forward: Any, grid: RegionGrid, images: Tensor, *, regions_per_pass: int = 256, progress: Progress = iter
) -> Tensor:
    """Classify every region of `images` by calling ``forward(patches, region) -> logits`` on batches of patches.

    Parameters
    ----------
    forward : callable
        (N x C x k x k patches, N regions) -> N x classes logits.
    grid : RegionGrid
    images : Tensor, shape (N, C, height, width)
    regions_per_pass : int, default=256
        At most this many patches go into one call, or one region of every image if that is more.
    progress : callable, default=iter
        Wraps the sequence of passes, as ``tqdm`` does to show a bar.

    Returns
    -------
    Tensor, shape (N, classes, rows, cols)

    Raises
    ------
    ValueError
        If `regions_per_pass` is below 1, the images have another size, or `forward` does not return logits.
    """
    check_count("regions_per_pass", regions_per_pass)
    grid.check_images(images)
    at_once = max(1, regions_per_pass // max(1, len(images)))
    regions = torch.arange(grid.num_regions, device=images.device)
    logits = []
    for chunk in progress(regions.split(at_once)):
        region = chunk.expand(len(images), -1)
        patches = grid.extract(images, region).flatten(0, 1)
        found = forward(patches, region.flatten())
        if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(patches):
            got = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(f"the classifier must give {len(patches)} x classes logits for as many patches, got {got}")
        logits.append(found.unflatten(0, (len(images), len(chunk))))
    return torch.cat(logits, 1).movedim(1, 2).unflatten(2, grid.shape)

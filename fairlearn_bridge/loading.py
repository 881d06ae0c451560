"""What skorch's loop reads: images with their labels and weights, a whole batch at a time."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import BatchSampler, Dataset, Subset

from captum_region.batches import ImageData, take


class TrainingImages(Dataset[Any]):
    """Images with what a training step needs of each; a whole batch is read at once, uint8 as it is stored."""

    def __init__(self, images: ImageData, target: NDArray[np.intp], weight: NDArray[np.float32]) -> None:
        self.images, self.target, self.weight = images, target, weight

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        return self.__getitems__([index])

    def __getitems__(self, index: list[int]) -> Any:
        rows = np.asarray(index)
        inputs = {"images": take(self.images, rows), "index": torch.from_numpy(rows)}
        inputs["weight"] = torch.from_numpy(self.weight[rows])
        return inputs, torch.from_numpy(self.target[rows])


class NoSingleImages(BatchSampler):
    """Batches, of which a last one of a single image is joined to the one before: batch normalisation needs two."""

    def __iter__(self) -> Iterator[list[int]]:
        batches = list(super().__iter__())
        if len(batches) > 1 and len(batches[-1]) == 1:
            batches[-2:] = [batches[-2] + batches[-1]]
        yield from batches


def are_training_images(X: Any) -> bool:
    """Return whether X is a part of the images that are being trained on, as skorch's own scoring hands it over.

    It may also be a batch of them.
    """
    is_batch = isinstance(X, Mapping) and "images" in X
    return is_batch or isinstance(X, TrainingImages) or (isinstance(X, Subset) and are_training_images(X.dataset))


def as_it_is(batch: Any) -> Any:
    """Return what ``__getitems__`` gives, which is a whole batch."""
    return batch

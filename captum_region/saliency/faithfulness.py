"""What a map is worth to a classifier: the explained one, and a fresh one that must do without the map's top."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from captum_region.classifiers import DenseRegionClassifier
from captum_region.grid import RegionGrid
from captum_region.randomness import RandomState, draw_seed
from captum_region.training import fit_region_classifier, region_accuracy

if TYPE_CHECKING:
    import os

    from numpy.typing import ArrayLike

    from captum_region.batches import ImageData


def deletion_insertion(
    model: nn.Module, images: Tensor, maps: Tensor, *, target: Tensor, baseline: Tensor, steps: int = 20
) -> pd.DataFrame:
    """Return how a model's probability of the target falls, or rises, as a map's top pixels are taken, or put in.

    Petsiuk, Das, Saenko, "RISE", BMVC 2018: the area under the probability over the share of pixels changed. A low
    deletion and a high insertion speak for the map, as an explanation of this model. They insert into a blurred image;
    here one baseline serves both.

    Parameters
    ----------
    model : nn.Module
        Images to logits.
    images : Tensor, shape (N, C, height, width)
        Float in [0, 1].
    maps : Tensor, shape (N, height, width)
    target : integer Tensor, shape (N,)
    baseline : Tensor, broadcasts to an image
        What a pixel is replaced by, and insertion begins with.
    steps : int, default=20
        In how many equal steps.

    Returns
    -------
    DataFrame with columns ``deletion`` and ``insertion``, a row an image
        In [0, 1].
    """
    count = maps[0].numel()
    order = maps.flatten(1).argsort(dim=1, descending=True, stable=True)
    rank = order.argsort(dim=1).view_as(maps)[:, None]
    blank = baseline.expand_as(images)
    deleted: list[Tensor] = []
    inserted: list[Tensor] = []
    with torch.no_grad():
        for step in range(steps + 1):
            top = rank < count * step / steps
            for curve, mixed in (
                (deleted, torch.where(top, blank, images)),
                (inserted, torch.where(top, images, blank)),
            ):
                curve.append(model(mixed).softmax(1).gather(1, target[:, None])[:, 0])
    area = {
        name: torch.trapezoid(torch.stack(curve), dx=1 / steps, dim=0).cpu()
        for name, curve in (("deletion", deleted), ("insertion", inserted))
    }
    return pd.DataFrame(area)


def information_left(
    train: tuple[ImageData, Tensor | None, ArrayLike],
    test: tuple[ImageData, Tensor | None, ArrayLike],
    *,
    quantile: float = 0.8,
    epochs: int | None = None,
    random_state: RandomState = None,
    device: str | torch.device = "cpu",
    checkpoint_dir: str | os.PathLike[str] | None = None,
) -> float:
    """Return how well an attribute is still known when the top of a map is masked in all images: lower is better.

    A fresh classifier of the whole image is trained on masked images and judged on masked images, after Hooker, Erhan,
    Kindermans, Kim, "A Benchmark for Interpretability Methods in Deep Neural Networks" (ROAR), NeurIPS 2019. What
    matters here is not what one model used but where the information could be. The shape of a mask that differs from
    image to image can itself tell the label; the mean map's cannot.

    Parameters
    ----------
    train, test : (images, maps, labels)
        Images of shape (N, C, height, width), uint8; maps of shape (N, height, width), or None to mask nothing; two
        classes of labels.
    quantile : float, default=0.8
        The share of pixels, highest in their image's map, that become the mean colour of the training images is 1 minus
        this. Pixels of equal value are taken in a random order, the same in all images: every map masks as many.
    epochs : int, optional
        Of the fresh classifier; its recipe's by default.
    random_state : int, NumPy generator or None
    device : str or torch.device, default="cpu"
        Where the fresh classifier is trained.

    Returns
    -------
    float
        Balanced accuracy on the test images, in [0, 1].

    Raises
    ------
    ValueError
        If `quantile` does not lie in [0, 1), the images are not square, or an argument does not fit.
    """
    if not 0 <= quantile < 1:
        raise ValueError(f"quantile must lie in [0, 1), got {quantile}")
    side, width = train[0].shape[2:]
    if side != width:
        raise ValueError(f"train images must be square, got {side} x {width}")
    # One region, the whole image: the package's own trainer then trains an ordinary classifier.
    seed = draw_seed(random_state)
    classifier = DenseRegionClassifier(
        RegionGrid(side, side, 1), len(np.unique(np.asarray(train[2]))), random_state=seed
    )
    colour = torch.as_tensor(np.asarray(train[0])).float().mean((0, 2, 3)).round()
    order = torch.randperm(side * side, generator=torch.Generator().manual_seed(seed))
    masked = [_masked(images, maps, quantile, colour, order) for images, maps, _ in (train, test)]
    fit_region_classifier(
        classifier,
        masked[0],
        train[2],
        epochs=epochs,
        positions_per_image=1,
        random_state=seed,
        device=device,
        checkpoint_dir=checkpoint_dir,
    )
    return float(region_accuracy(classifier, masked[1], classifier.encode(test[2])).mean())


def _masked(images: ImageData, maps: Tensor | None, quantile: float, colour: Tensor, order: Tensor) -> Tensor:
    given = torch.as_tensor(np.asarray(images))
    if maps is None:
        return given
    values = maps.flatten(1)
    count = round((1 - quantile) * values.shape[1])
    top = order[values[:, order].argsort(dim=1, descending=True, stable=True)[:, :count]]
    mask = torch.zeros_like(values, dtype=torch.bool).scatter_(1, top, True).view_as(maps)
    return torch.where(mask[:, None], colour.to(given.dtype)[:, None, None], given)

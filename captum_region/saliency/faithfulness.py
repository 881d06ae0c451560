"""How much a map's top pixels matter: to the explained model, and to a new one that is trained without them."""

import os

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from captum_region.batches import ImageData, as_floats
from captum_region.classifiers import DenseRegionClassifier
from captum_region.evaluation import check_evaluating
from captum_region.grid import RegionGrid
from captum_region.randomness import RandomState, draw_seed
from captum_region.training import fit_region_classifier, region_accuracy
from captum_region.validation import check_count


def deletion_insertion(
    model: nn.Module, images: Tensor, maps: Tensor, *, target: Tensor, baseline: Tensor, steps: int = 20
) -> pd.DataFrame:
    """Return how a model's probability of the target changes as a map's top pixels are deleted, or inserted.

    Both are areas under the probability over the share of pixels changed. A low deletion and a high insertion speak for
    the map as an explanation of this model. RISE inserts into a blurred image; here one baseline serves both.

    Parameters
    ----------
    model : nn.Module
        Images to logits.
    images : Tensor, shape (N, C, height, width)
        Floats in [0, 1], or uint8.
    maps : Tensor, shape (N, height, width)
    target : integer Tensor, shape (N,)
    baseline : Tensor, broadcasts to an image
        What replaces a deleted pixel, and what insertion starts from.
    steps : int, default=20
        Number of equal steps.

    Returns
    -------
    DataFrame with columns ``deletion`` and ``insertion``, a row per image
        In [0, 1].

    Raises
    ------
    ValueError
        If `model` is in train mode or does not give logits of two classes or more, `steps` is below 1, there is not a
        map for each image, or a target is no class.

    See Also
    --------
    information_left : Measures the data, not one model.

    References
    ----------
    Petsiuk, Das, Saenko, "RISE: Randomized Input Sampling for Explanation of Black-box Models", BMVC 2018.
    """
    check_evaluating(model, "model")
    check_count("steps", steps)
    images, maps = as_floats(images), _maps_of(images, maps)
    count = maps[0].numel()
    order = maps.flatten(1).argsort(dim=1, descending=True, stable=True)
    rank = order.argsort(dim=1).view_as(maps)[:, None]
    curves: dict[str, list[Tensor]] = {"deletion": [], "insertion": []}
    with torch.no_grad():
        for step in range(steps + 1):
            top = rank < count * step / steps
            mixed = {"deletion": torch.where(top, baseline, images), "insertion": torch.where(top, images, baseline)}
            for name, curve in curves.items():
                logits = logits_of(model, mixed[name], target)
                curve.append(logits.softmax(1).gather(1, target[:, None])[:, 0])
    areas = {name: torch.trapezoid(torch.stack(curve), dx=1 / steps, dim=0).cpu() for name, curve in curves.items()}
    return pd.DataFrame(areas)


def logits_of(model: nn.Module, images: Tensor, target: Tensor) -> Tensor:
    """Return a model's logits of images; raise ValueError if they are not of classes, or a target is none of these."""
    logits: Tensor = model(images)
    if logits.ndim != 2 or len(logits) != len(images) or logits.shape[1] < 2:
        raise ValueError(f"model must give logits of shape N x classes, at least 2, got {tuple(logits.shape)}")
    if int(target.max()) >= logits.shape[1]:
        raise ValueError(f"target must be below the {logits.shape[1]} classes of model, got {int(target.max())}")
    return logits


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
    """Return the remove-and-retrain (ROAR) accuracy: of a classifier trained without each map's top; lower is better.

    A new classifier of the whole image is trained on masked images and tested on masked images. It measures where the
    information is, not what one model uses. If a mask differs from image to image, its shape alone can reveal the
    label; that of the mean map cannot.

    Parameters
    ----------
    train, test : (images, maps, labels)
        Images of shape (N, C, height, width), uint8; maps of shape (N, height, width), or None to mask nothing; two
        classes of labels, shape (N,).
    quantile : float, default=0.8
        1 minus the share of pixels, highest in their image's map, that get the mean colour of the training images.
        Pixels of equal value are taken in a random order, the same in all images: every map masks as many.
    epochs : int, optional
        Training epochs; those of the classifier's recipe by default.
    random_state : int, NumPy generator or None
    device : str or torch.device, default="cpu"
        Where the classifier is trained.
    checkpoint_dir : path, optional
        Where the state of the training is kept, see `fit_region_classifier`.

    Returns
    -------
    float
        Balanced accuracy on the test images, in [0, 1].

    Raises
    ------
    ValueError
        If `quantile` does not lie in [0, 1), the images are not square, those of `train` and `test` differ in size or
        type, or an argument does not fit.

    See Also
    --------
    deletion_insertion : Measures one model, without training.

    References
    ----------
    Hooker, Erhan, Kindermans, Kim, "A Benchmark for Interpretability Methods in Deep Neural Networks", NeurIPS 2019.
    """
    if not 0 <= quantile < 1:
        raise ValueError(f"quantile must lie in [0, 1), got {quantile}")
    side, width = train[0].shape[2:]
    if side != width:
        raise ValueError(f"train images must be square, got {side} x {width}")
    # With one region, the whole image, the package's trainer trains an ordinary classifier.
    seed = draw_seed(random_state)
    given, others = (torch.as_tensor(np.asarray(images)) for images, _, _ in (train, test))
    if given.shape[1:] != others.shape[1:] or given.is_floating_point() != others.is_floating_point():
        raise ValueError(
            f"test images must be of the shape and type of train images, {tuple(given.shape[1:])} and {given.dtype}, "
            f"got {tuple(others.shape[1:])} and {others.dtype}"
        )
    classes = len(np.unique(train[2]))
    grid = RegionGrid(side, side, 1)
    classifier = DenseRegionClassifier(grid, classes, in_channels=given.shape[1], random_state=seed)
    colour = given.float().mean((0, 2, 3))
    colour = colour if given.is_floating_point() else colour.round()
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


def _maps_of(images: ImageData, maps: Tensor) -> Tensor:
    maps, wanted = torch.as_tensor(maps), (len(images), *images.shape[2:])
    if maps.shape != wanted:
        raise ValueError(f"maps must have shape {wanted}, one of each image's pixels, got {tuple(maps.shape)}")
    return maps


def _masked(images: ImageData, maps: Tensor | None, quantile: float, colour: Tensor, order: Tensor) -> Tensor:
    given = torch.as_tensor(np.asarray(images))
    if maps is None:
        return given
    maps = _maps_of(images, maps)
    values = maps.flatten(1)
    count = round((1 - quantile) * values.shape[1])
    top = order[values[:, order].argsort(dim=1, descending=True, stable=True)[:, :count]]
    mask = torch.zeros_like(values, dtype=torch.bool).scatter_(1, top, True).view_as(maps)
    return torch.where(mask[:, None], colour.to(given.dtype)[:, None, None], given)

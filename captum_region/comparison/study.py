"""The comparison with saliency methods on synthetic faces, whose truth is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
import torch
from torch import Tensor, nn

from captum_region.attribution import RegionAttribution
from captum_region.batches import batches
from captum_region.classifiers import DenseRegionClassifier, PatchRegionClassifier
from captum_region.comparison.saliency import (
    SaliencyComparison,
    captum_methods,
    compare_saliency,
    deletion_insertion,
    floors,
    information_left,
    region_methods,
)
from captum_region.datasets import make_faces
from captum_region.grid import RegionGrid
from captum_region.randomness import seeded
from captum_region.training import fit_region_classifier

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    from captum_region.comparison.saliency import Method
    from captum_region.datasets import Faces


class WholeImageClassifier(nn.Module):
    """A small convolutional network, to be explained: three blocks of convolution, normalisation, ReLU and pooling.

    Parameters
    ----------
    size : int
        Side of the images in pixels.
    random_state : int
        Decides the initial weights.

    Attributes
    ----------
    last : nn.Module
        The layer for Grad-CAM.
    """

    def __init__(self, size: int, random_state: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        with seeded(random_state):
            for wide_in, wide_out in ((3, 16), (16, 32), (32, 64)):
                convolution = nn.Conv2d(wide_in, wide_out, 3, padding=1)
                layers += [convolution, nn.BatchNorm2d(wide_out), nn.ReLU(), nn.MaxPool2d(2)]
            layers[-1:] = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 2)]
        # One region, the whole image: the package's own trainer then trains an ordinary classifier.
        self.classifier = PatchRegionClassifier(
            RegionGrid(size, size, 1), 2, nn.Sequential(*layers), random_state=random_state
        )
        backbone = self.classifier.backbone
        self.last = [module for module in backbone.modules() if isinstance(module, nn.ReLU)][-1]

    def forward(self, images: Tensor) -> Tensor:
        """Classify images in [0, 1], N x 3 x size x size: N x 2 logits."""
        logits: Tensor = self.classifier(images, torch.zeros(len(images), dtype=torch.long, device=images.device))
        return logits

    def fit(self, images: NDArray[np.uint8], labels: ArrayLike, *, epochs: int | None, random_state: int) -> None:
        """Train it in place."""
        fit_region_classifier(
            self.classifier, images, labels, epochs=epochs, batch_size=64, lr=3e-3, random_state=random_state
        )


@dataclass(frozen=True)
class Study:
    """What `study_attribute` found for one attribute and seed.

    Attributes
    ----------
    comparison : SaliencyComparison
        On test faces that have the attribute.
    model : DataFrame
        One row a method: ``deletion`` and ``insertion`` of the explained model, means over images.
    left : DataFrame
        One row a method: ``information_left``, see `captum_region.comparison.saliency.information_left`; and the row
        ``nothing masked``. Empty where it was not asked for.
    accuracy : float
        Of the explained model on the test faces.
    faces : Faces
        The test faces that have the attribute.
    truth : ndarray of bool, shape (N, size, size)
    """

    comparison: SaliencyComparison
    model: pd.DataFrame
    left: pd.DataFrame
    accuracy: float
    faces: Faces
    truth: NDArray[np.bool_]


def study_attribute(
    attribute: str,
    *,
    seed: int = 0,
    size: int = 48,
    train: int = 2000,
    test: int = 100,
    epochs: int | None = 15,
    region_epochs: int | None = None,
    retrain: bool = True,
    quantile: float = 0.8,
    show_progress: bool = False,
) -> Study:
    """Train a model to be explained and a region classifier on the same faces, and compare all methods on new ones.

    Parameters
    ----------
    attribute : str
        Of `captum_region.datasets.make_faces`.
    seed : int, default=0
        Decides faces and trainings.
    size : int, default=48
        Side of the images in pixels; regions have a quarter of it.
    train, test : int, default=2000 and 100
        Faces to train on, and to draw the test faces from (those that have the attribute count).
    epochs, region_epochs : int, optional
        Of the explained model, and of the region classifier (its recipe's by default).
    retrain : bool, default=True
        Measure also what a fresh classifier still knows when each map's top is masked: a training a method.
    quantile : float, default=0.8
        Of that masking.
    show_progress : bool, default=False
        Progress bars on stderr.

    Returns
    -------
    Study
    """
    faces = make_faces(train, size, random_state=2 * seed)
    new = make_faces(test, size, random_state=2 * seed + 1)
    labels = faces.binary(attribute)
    model = WholeImageClassifier(size, seed)
    model.fit(faces.images, labels, epochs=epochs, random_state=seed)
    with torch.no_grad():
        predicted = model(torch.from_numpy(new.images).float() / 255).argmax(1).numpy()
    grid = RegionGrid.for_images(size)
    region = DenseRegionClassifier(grid, 2, random_state=seed)
    fit_region_classifier(
        region, faces.images, labels, epochs=region_epochs, random_state=seed, show_progress=show_progress
    )
    background = torch.from_numpy(faces.images[:64]).float() / 255
    window, stride = grid.patch_size // 2, grid.patch_size // 4
    methods = (
        captum_methods(model, model.last, background=background, window=window, stride=stride, random_state=seed)
        | region_methods(RegionAttribution(region), faces.images)
        | floors(seed)
    )
    with_it = new.subset(new.binary(attribute))
    truth = with_it.truth(attribute)
    comparison = compare_saliency(with_it.images, truth, methods, target=1, show_progress=show_progress)
    images = torch.from_numpy(with_it.images).float() / 255
    target = torch.ones(len(images), dtype=torch.long)
    rows = {
        name: deletion_insertion(model, images, maps, target=target, baseline=background.mean(0)).mean()
        for name, maps in comparison.maps.items()
    }
    left = {}
    if retrain:
        blank = {"nothing masked": lambda batch, target: torch.zeros(len(batch), *batch.shape[2:])}
        held_out = make_faces(max(test, train // 4), size, random_state=2 * seed + 1)
        for name, method in (blank | methods).items():
            known, asked = (_with_maps(method, part, part.binary(attribute)) for part in (faces, held_out))
            left[name] = information_left(known, asked, quantile=quantile, epochs=epochs, random_state=seed)
    return Study(
        comparison,
        pd.DataFrame(rows).T,
        pd.DataFrame({"information_left": left}),
        float((predicted == new.binary(attribute)).mean()),
        with_it,
        truth,
    )


def _with_maps(method: Method, faces: Faces, labels: NDArray[np.bool_]) -> tuple[NDArray[np.uint8], Tensor, ArrayLike]:
    """Return images, what `method` gives for each, and labels."""
    # One target for all: a mask of each image's own label would tell the label by its shape.
    target = torch.ones(len(labels), dtype=torch.long)
    parts = zip(batches(faces.images, 64), target.split(64), strict=True)
    return faces.images, torch.cat([method(batch.float() / 255, its) for batch, its in parts]), labels

"""The region classifier of a spurious attribute, trained on the training images themselves."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from captum_region import DenseRegionClassifier, RegionClassifier, RegionGrid, RegionTraining, fit_region_classifier
from captum_region.batches import Checked, ImageData, check_images
from captum_region.validation import check_count


def train_regions(
    X: ImageData,
    attribute: NDArray[Any],
    within: NDArray[Any],
    *,
    region_epochs: int | None,
    random_state: int,
    **training: Any,
) -> tuple[DenseRegionClassifier, RegionTraining]:
    """Train a region classifier of `attribute` within the classes of `within`; `training` is `fit_region_classifier`'s.

    Plainly trained, it would find in biased data what goes along with the attribute. Return it, and how it was trained.
    """
    if region_epochs is not None:
        check_count("region_epochs", region_epochs)
    height, width = X.shape[2:]
    grid = RegionGrid.for_images((height, width))
    classes = len(np.unique(attribute))
    classifier = DenseRegionClassifier(grid, classes, in_channels=X.shape[1], random_state=random_state)
    options = {"within": within, "epochs": region_epochs, "random_state": random_state, **training}
    return classifier, fit_region_classifier(classifier, Checked(X), attribute, **options)


def check_region_epochs(region_epochs: int | None, *, trains: bool) -> None:
    """Raise ValueError if the epochs are not a number of such, or given where no region classifier is trained."""
    if region_epochs is not None:
        check_count("region_epochs", region_epochs)
        if not trains:
            raise ValueError(f"region_epochs must be left out with a trained region_classifier, got {region_epochs}")


def check_varies_within(name: str, values: NDArray[Any], of: str, within: NDArray[Any]) -> None:
    """Raise ValueError if `values` take but one in each class of `within`: it would be all that can be learnt."""
    if not (pd.Series(values).groupby(within).nunique() > 1).any():
        raise ValueError(f"{name} must take several values in a class of {of}; in each it takes one")


def number_of(attribute: str, names: Sequence[str]) -> int:
    """Return the number of the class in which a spurious attribute is present, of a region classifier's `names`.

    It is that of its own name where groups are in words, as "hat" and "not hat"; else the second, as True.
    """
    return [*names].index(attribute) if attribute in names else 1


def check_region_classifier(classifier: Any, X: ImageData, name: str = "region_classifier") -> None:
    """Raise TypeError or ValueError if it is no region classifier, None aside, or not one of such images as X."""
    if not isinstance(classifier, RegionClassifier | None):
        raise TypeError(f"{name} must be a RegionClassifier, got {type(classifier).__name__}")
    if classifier is not None:
        check_images(Checked(X), name="X", image_size=classifier.grid.image_size, channels=classifier.in_channels)

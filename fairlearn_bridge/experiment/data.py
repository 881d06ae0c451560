"""A run's images: the protocol's sets, drawn, named and digested."""

from dataclasses import dataclass
from typing import TypeGuard

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from captum_region.datasets import AttributeImages, Faces, make_faces
from captum_region.datasets.faces import ATTRIBUTES
from captum_region.datasets.images import first_equal
from fairlearn_bridge.experiment.configuration import ExperimentConfig
from fairlearn_bridge.protocol import confounded_split
from fairlearn_bridge.samples import Samples


@dataclass(frozen=True)
class ExperimentData:
    """The images of each set of the protocol, and how many there are of each cell."""

    biased: AttributeImages
    balanced: AttributeImages
    validation: AttributeImages
    test: AttributeImages
    counts: pd.DataFrame
    skipped: pd.DataFrame

    @property
    def sets(self) -> dict[str, AttributeImages]:
        """The sets by name."""
        return {name: getattr(self, name) for name in ("biased", "balanced", "validation", "test")}


def split_data(config: ExperimentConfig, train: AttributeImages, test: AttributeImages | None = None) -> ExperimentData:
    """Draw the protocol's sets from images, the test set from `test` if there is a partition for it."""
    parts = [train] if test is None else [train, test]
    target, confounder = (
        np.concatenate([part.binary(name) for part in parts]) for name in (config.target, config.confounder)
    )
    is_train = np.repeat([True, False], [len(train), len(target) - len(train)])
    if all(part.identities is not None for part in parts):
        identities = np.concatenate([np.asarray(part.identities) for part in parts])
    else:  # at least an image that is repeated is kept out of one of two sets
        identities = first_equal(*(part.images for part in parts))
    split = confounded_split(
        pd.Series(target, name=config.target),
        pd.Series(confounder, name=config.confounder),
        train_size=config.train_size,
        test_per_cell=config.test_per_cell,
        validation_per_cell=config.validation_per_cell,
        identities=identities,
        train_pool=None if test is None else is_train,
        test_pool=None if test is None else ~is_train,
        random_state=config.random_state,
    )
    return ExperimentData(
        biased=train.subset(split.biased),
        balanced=train.subset(split.balanced),
        validation=train.subset(split.validation),
        test=train.subset(split.test) if test is None else test.subset(split.test - len(train)),
        counts=split.counts,
        skipped=pd.concat([part.skipped for part in parts], ignore_index=True),
    )


def synthetic_data(config: ExperimentConfig, size: int) -> ExperimentData:
    """Draw just the synthetic faces that the protocol needs, of each cell as many as it needs."""
    if config.train_size is None or config.test_per_cell is None:
        raise ValueError("train_size and test_per_cell must be given for synthetic faces")
    extra = config.test_per_cell + config.validation_per_cell
    quarter = -(-config.train_size // 4)
    # For each cell what the larger of its shares in the biased and the balanced set takes, and some for rounding.
    needed = {(True, False): 2 * quarter, (False, True): -(-config.train_size // 3), (False, False): quarter}
    needed[True, True] = quarter
    cells = np.repeat(list(needed), [count + extra + 2 for count in needed.values()], axis=0)
    attributes = {config.target: cells[:, 0], config.confounder: cells[:, 1]}
    return split_data(config, make_faces(len(cells), size, attributes=attributes, random_state=config.random_state))


def samples_of(config: ExperimentConfig, images: AttributeImages, *, with_twins: bool = False) -> Samples:
    """Return images with their target and spurious attribute, and with counterfactuals of synthetic ones on demand."""
    twins = images.twin(config.confounder) if with_twins and has_twins(images, config.confounder) else None
    return Samples(images.images, images.binary(config.target), images.binary(config.confounder), twins=twins)


def has_twins(images: AttributeImages, attribute: str) -> TypeGuard[Faces]:
    """Return whether images can be drawn with an attribute toggled; a property, as brightness@0.5, cannot be."""
    return isinstance(images, Faces) and attribute in ATTRIBUTES


def cell_names(config: ExperimentConfig, samples: Samples, positions: NDArray[np.intp]) -> NDArray[np.str_]:
    """Return the target and the spurious attribute of images in words, as ``Male, not Blond_Hair``."""
    known = {config.target: samples.y, config.confounder: samples.confounder}
    words = [np.where(has[positions], name, f"not {name}") for name, has in known.items()]
    return np.array([", ".join(of_image) for of_image in zip(*words, strict=True)])


def image_names(images: AttributeImages, positions: NDArray[np.intp]) -> NDArray[np.str_]:
    """Return the file names of images that have one, and else their numbers."""
    return np.array([f"image {name}" if isinstance(name, int) else name for name in images.attributes.index[positions]])

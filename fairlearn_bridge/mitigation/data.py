"""The images of a mitigation: sets of their own or split off, what cannot be learnt refused, what is odd noted."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from captum_region.datasets import AttributeImages, Faces, make_faces
from captum_region.datasets.faces import ATTRIBUTES
from captum_region.labels import check_classes
from captum_region.page import listed
from fairlearn_bridge.holdout import holdout_split
from fairlearn_bridge.inspection import MAX_VALUES, name_of
from fairlearn_bridge.samples import Samples, groups_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from fairlearn_bridge.mitigation.configuration import MitigationConfig

# The share of the synthetic training faces that go against the bias.
CONFLICTING = 0.05
_NAMED = 5  # classes in a message
SETS = ("train", "validation", "test")


@dataclass(frozen=True)
class MitigationData:
    """Images to train on, to choose the threshold by and to measure on.

    Attributes
    ----------
    train, validation, test : AttributeImages
    split_off : tuple of str
        Which of the latter two were split off from the images to train on.
    """

    train: AttributeImages
    validation: AttributeImages
    test: AttributeImages
    split_off: tuple[str, ...] = ()

    @property
    def sets(self) -> dict[str, AttributeImages]:
        """The three sets by name."""
        return {name: getattr(self, name) for name in SETS}


def mitigation_data(
    config: MitigationConfig,
    train: AttributeImages,
    validation: AttributeImages | None = None,
    test: AttributeImages | None = None,
) -> MitigationData:
    """Split off the sets that are not given, and check that there is something to learn.

    Raises
    ------
    ValueError
        If an attribute is missing or does not fit, a set has no image of a class, the images differ in size, or a
        spurious attribute is constant in the training images, or within each class there.
    """
    given = {name: one for name, one in (("validation", validation), ("test", test)) if one is not None}
    for name, one in given.items():
        if one.images.shape[1:] != train.images.shape[1:]:
            raise ValueError(f"{name} must have images of {train.images.shape[1:]}, got {one.images.shape[1:]}")
    train, given = _of_one_kind(config.confounders, train, given)
    split_off = tuple(name for name in SETS[1:] if name not in given)
    check_learnable(config, train)  # before it is split, that the numbers are those of the user's table
    if split_off:
        shares = {"validation": config.validation_share, "test": config.test_share}
        firsts = train.firsts()
        once = np.unique(firsts)
        distinct = train.subset(once)
        split = holdout_split(
            distinct.labels(config.target),
            groups_of(distinct, config.confounders),
            **{name: shares[name] if name in split_off else 0 for name in shares},
            identities=distinct.identities,
            random_state=config.random_state,
        )
        # What repeats an image goes where that goes.
        parts = {name: np.isin(firsts, once[getattr(split, name)]) for name in ("train", *split_off)}
        given |= {name: train.subset(parts[name]) for name in split_off}
        train = replace(train.subset(parts["train"]), skipped=train.skipped)
        check_learnable(config, train)
    data = MitigationData(train, given["validation"], given["test"], split_off)
    _check_classes_of_sets(config, data)
    return data


def _of_one_kind(
    names: Sequence[str], train: AttributeImages, others: dict[str, AttributeImages]
) -> tuple[AttributeImages, dict[str, AttributeImages]]:
    """Return the sets with numeric spurious attributes as text, but for those of 0 and 1 alone in all of them.

    A set in which a third value happens to be missing would else have groups of other names.
    """
    sets = {"": train, **others}
    for name in names:
        columns = {key: one.attributes[name] for key, one in sets.items() if name in one.attributes}
        every = pd.concat(list(columns.values())).dropna() if columns else pd.Series(dtype=float)
        if pd.api.types.is_numeric_dtype(every) and not every.isin([0, 1]).all():
            for key, values in columns.items():
                text = values.astype(str).where(values.notna())
                sets[key] = replace(sets[key], attributes=sets[key].attributes.assign(**{name: text}))
    return sets.pop(""), sets


def _check_classes_of_sets(config: MitigationConfig, data: MitigationData) -> None:
    """Raise ValueError if a set has other classes than the training set."""
    classes = set(data.train.labels(config.target).tolist())
    for name in SETS[1:]:
        found = set(getattr(data, name).labels(config.target).tolist())
        if found == classes:
            continue
        odd = [name_of(config.target, label) for label in sorted(found ^ classes, key=str)]
        named = listed(odd if len(odd) <= _NAMED else [*odd[:_NAMED], f"{len(odd) - _NAMED} more"])
        if name in data.split_off:
            raise ValueError(
                f"target {config.target} has too few images of {named} for each of the training and {name} sets: "
                "group classes, or raise the share that is split off"
            )
        which = "which the training set does not have" if found - classes else "which it has not"
        raise ValueError(f"the {name} set must hold the classes of the training set; it differs in {named}, {which}")


def check_learnable(config: MitigationConfig, train: AttributeImages) -> None:
    """Raise ValueError if a spurious attribute or the target is constant, or both say the same."""
    labels = _few(train.labels(config.target), f"target {config.target}", least=2)
    for name in config.confounders:
        values = _few(groups_of(train, (name,)), f"confounder {name}")
        seen = pd.crosstab(labels, values) > 0
        if seen.shape[1] == 1:
            raise ValueError(f"confounder {name} must take two values at least, all training images have {values[0]}")
        if seen.sum(axis=1).max() == 1:
            pairs = [f"{name_of(config.target, label)}: {row.idxmax()}" for label, row in seen.iterrows()]
            raise ValueError(
                f"confounder {name} takes one value within each class of {config.target} ({'; '.join(pairs)}): nothing "
                "in these images says which of the two is to be learnt; a few images of another cell are needed"
            )


def _few(values: NDArray[Any], name: str, least: int = 1) -> NDArray[Any]:
    """Return labels, checked; ValueError if they are not classes, or so many that each would have few images."""
    labels: NDArray[Any] = check_classes(values, len(values), name=name, least=least)
    if (count := len(np.unique(labels))) > MAX_VALUES:
        raise ValueError(f"{name} must take at most {MAX_VALUES} values, it takes {count}: group them first")
    return labels


def samples_of(config: MitigationConfig, images: AttributeImages) -> Samples:
    """Return images with their target and, in words, their spurious attributes."""
    return Samples(images.images, images.labels(config.target), groups_of(images, config.confounders))


def twins_of(config: MitigationConfig, test: AttributeImages) -> dict[str, AttributeImages]:
    """Return, of synthetic faces, the counterfactuals for each spurious attribute."""
    if not isinstance(test, Faces):
        return {}
    return {
        name: replace(test, images=test.twin(name), attributes=test.attributes.assign(**{name: ~test.attributes[name]}))
        for name in config.confounders
        if name in ATTRIBUTES
    }


def cells_of(config: MitigationConfig, images: AttributeImages) -> NDArray[np.str_]:
    """Return the cell of each image in words, as ``Smiling, dark``."""
    return groups_of(images, (config.target, *config.confounders))


def counts_of(config: MitigationConfig, data: MitigationData) -> pd.DataFrame:
    """Return the images of each set (rows) and cell (columns), those of no image too."""
    sets = list(data.sets.values())
    parts = [
        np.unique(np.concatenate([groups_of(one, names) for one in sets]))
        for names in ((config.target,), config.confounders)
    ]
    every = [f"{label}, {value}" for label, value in itertools.product(*parts)]
    rows = {name: pd.Series(cells_of(config, one)).value_counts() for name, one in data.sets.items()}
    return pd.DataFrame(rows).T.reindex(columns=every).fillna(0).astype(int)


def leaks(data: MitigationData) -> list[str]:
    """Return remarks on persons and images that are in the training set and in another one too."""
    remarks = []
    of_train = {hash(image.tobytes()) for image in data.train.images}
    for name in SETS[1:]:
        other = getattr(data, name)
        if data.train.identities is not None and other.identities is not None:
            shared = set(data.train.identities.tolist()) & set(other.identities.tolist())
            if shared:
                remarks.append(f"{len(shared)} persons are in both the training and the {name} set.")
        same = sum(hash(image.tobytes()) in of_train for image in other.images)
        if same:
            remarks.append(f"{same} images of the {name} set are in the training set too: their accuracy says little.")
    if data.split_off and data.train.identities is None and not isinstance(data.train, Faces):
        remarks.append("Who is shown is not known: images of one person may be in several sets.")
    return remarks


def synthetic_parts(config: MitigationConfig, size: int, train_size: int) -> tuple[Faces, Faces]:
    """Draw faces to demonstrate: biased ones, of which one in twenty goes against the bias, and unbiased ones to test.

    Parameters
    ----------
    config : MitigationConfig
        Whose target and spurious attributes are attributes of `make_faces`.
    size : int
        In pixels.
    train_size : int
        Number of biased faces, of which the validation set is split off; half as many are for tests.
    """
    if unknown := [name for name in (config.target, *config.confounders) if name not in ATTRIBUTES]:
        raise ValueError(f"target and confounders of faces must be of {', '.join(ATTRIBUTES)}, got {unknown[0]!r}")
    rng = np.random.default_rng(config.random_state)

    def drawn(count: int, conflicting: float) -> Faces:
        has_target = rng.random(count) < 0.5
        attributes = {name: has_target ^ (rng.random(count) < conflicting) for name in config.confounders}
        return make_faces(count, size, attributes={config.target: has_target, **attributes}, random_state=rng)

    return drawn(train_size, CONFLICTING), drawn(-(-train_size // 2), 0.5)

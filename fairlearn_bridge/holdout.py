"""holdout_split: training, validation and test images of a data set as it is, no person in two of them."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from captum_region.labels import check_classes
from captum_region.randomness import RandomState, draw_seed
from fairlearn_bridge.validation import check_identities, check_number, check_sensitive

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

# Persons are split into at most so many parts, unless the share is smaller; some parts are held out.
_PARTS = 10


@dataclass(frozen=True)
class HoldoutSplit:
    """Positions of images in three roles; each image is in one of them.

    Attributes
    ----------
    train, validation, test : ndarray of int
        In ascending order.

    See Also
    --------
    holdout_split : Makes it.
    """

    train: NDArray[np.intp]
    validation: NDArray[np.intp]
    test: NDArray[np.intp]


def holdout_split(
    target: ArrayLike,
    confounder: ArrayLike,
    *,
    validation: float = 0.15,
    test: float = 0.2,
    identities: ArrayLike | None = None,
    random_state: RandomState = None,
) -> HoldoutSplit:
    """Split images into training, validation and test sets that all have the same shares of each cell.

    No image is left out. A cell is a combination of the target and the spurious attribute. With `identities`, no person
    is in two of the sets, and the shares are as near as tenths and whole persons allow; without, each set has its share
    of each cell, rounded down, so that a tiny cell stays in the training set.

    Parameters
    ----------
    target : array-like of shape (N,)
        Labels of any number of classes.
    confounder : array-like of shape (N,) or (N, attributes)
        The spurious attribute; of several, their combination.
    validation, test : float, default=0.15 and 0.2
        Shares of all images, at least 0 and together below 1. At 0 the set is empty.
    identities : array-like of shape (N,), optional
        Who each image shows.
    random_state : int, NumPy generator or None

    Returns
    -------
    HoldoutSplit

    Raises
    ------
    ValueError
        If an argument does not fit, an identity is missing, or there are too few persons.

    See Also
    --------
    confounded_split : Draws the sets of a controlled experiment from a data set that has all cells.

    Examples
    --------
    >>> smiling, lighting = np.repeat([True, False], 50), np.tile(["dark"] * 4 + ["bright"], 20)
    >>> split = holdout_split(smiling, lighting, validation=0.2, test=0.3, random_state=0)
    >>> len(split.train), len(split.validation), len(split.test)
    (50, 20, 30)
    """
    labels = check_classes(target, len(np.asarray(target)), name="target")
    groups = check_sensitive(confounder, len(labels))
    for name, share in (("validation", validation), ("test", test)):
        check_number(name, share, 0, 1)
    if validation + test >= 1:
        raise ValueError(f"validation and test must add up to less than 1, got {validation:g} and {test:g}")
    cells = pd.DataFrame({"label": labels, "confounder": groups}).groupby(["label", "confounder"]).ngroup().to_numpy()
    persons = None if identities is None else pd.factorize(check_identities(identities, len(labels)))[0]
    generator = np.random.default_rng(draw_seed(random_state))
    left, parts = np.arange(len(labels)), {}
    for name, share in (("test", test), ("validation", validation)):
        wanted, seed = share * np.bincount(cells), draw_seed(generator)
        if persons is None or share == 0:
            is_held = _held(cells[left], wanted, seed)
        else:
            share *= len(labels) / max(len(left), 1)  # of what is left
            is_held = _held_persons(name, cells[left], persons[left], wanted, share, seed)
        parts[name], left = left[is_held], left[~is_held]
    return HoldoutSplit(left, **parts)


def _held(cells: NDArray[Any], wanted: NDArray[Any], seed: int) -> NDArray[np.bool_]:
    """Return which images to hold out, of each cell the wanted number, rounded down."""
    shuffled = pd.Series(cells).sample(frac=1, random_state=seed)
    is_held = shuffled.groupby(shuffled).cumcount() < shuffled.map(dict(enumerate(np.floor(wanted + 1e-9))))
    return np.asarray(is_held.sort_index())


def _held_persons(
    name: str, cells: NDArray[Any], persons: NDArray[Any], wanted: NDArray[Any], share: float, seed: int
) -> NDArray[np.bool_]:
    """Return which images to hold out, all of a person or none, of each cell about the wanted number."""
    parts = max(2, round(min(1 / share, len(cells) + 1)))
    if (count := len(np.unique(persons))) < parts:
        raise ValueError(f"identities must name at least {parts} persons to keep some for {name}, got {count}")
    if (most := int(np.bincount(cells).max())) < parts:
        raise ValueError(f"target must have a cell of at least {parts} images to split, the largest has {most}")
    # The share as so many of so many parts, of which there cannot be more than persons.
    finest = min(max(parts, _PARTS), count, most)
    part = Fraction(share).limit_denominator(finest)
    taken, parts = (part.numerator, part.denominator) if part else (1, parts)
    if taken == parts:  # none would be left
        taken, parts = finest - 1, finest
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of cells with fewer images than there are parts
        folds = StratifiedGroupKFold(parts, shuffle=True, random_state=seed)
        every = [chosen for _, chosen in folds.split(cells, cells, persons)]
    # It balances the cells of all its parts; where persons differ in their numbers of images, some may be off.
    is_held, held = np.zeros(len(cells), bool), np.zeros(len(wanted))
    for number in range(1, taken + 1):
        sizes = [held + np.bincount(cells[one], minlength=len(wanted)) for one in every]
        best = int(np.argmin([np.abs(size - wanted * number / taken).sum() for size in sizes]))
        held = sizes[best]
        is_held[every.pop(best)] = True
    return is_held

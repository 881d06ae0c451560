"""confounded_split: training images in which a spurious attribute goes with the target, and unbiased test images."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from captum_region.labels import as_plain
from captum_region.randomness import RandomState, draw_seed
from fairlearn_bridge.validation import check_identities

Cell = tuple[bool, bool]

# De Coninck et al. 2024, section 4.1, in sixths: of men (target) 3000 without the spurious attribute, of women 2000
# with it and 1000 without.
BIASED_SHARES: dict[Cell, float] = {
    (True, False): 3 / 6,
    (False, True): 2 / 6,
    (False, False): 1 / 6,
    (True, True): 0.0,
}


@dataclass(frozen=True)
class ConfoundedSplit:
    """Positions of images in four disjoint roles (biased and balanced training sets may share images).

    Attributes
    ----------
    biased : ndarray of int
        Training set in which the spurious attribute goes along with the target.
    balanced : ndarray of int
        Training set of equal size, each target class half with and half without the spurious attribute as far as the
        images allow: the control without the bias.
    validation : ndarray of int
        As many images of each cell, in no other set; for tuning a control that needs balanced data.
    test : ndarray of int
        As many images of each cell, in no other set.
    counts : DataFrame
        Images by set (rows) and cell (columns: target, confounder).

    See Also
    --------
    confounded_split : Makes it.
    """

    biased: NDArray[np.intp]
    balanced: NDArray[np.intp]
    validation: NDArray[np.intp]
    test: NDArray[np.intp]
    counts: pd.DataFrame


def confounded_split(
    target: ArrayLike,
    confounder: ArrayLike,
    *,
    train_size: int | None = 6000,
    shares: Mapping[Cell, float] | None = None,
    test_per_cell: int | None = 182,
    validation_per_cell: int = 0,
    identities: ArrayLike | None = None,
    train_pool: ArrayLike | None = None,
    test_pool: ArrayLike | None = None,
    random_state: RandomState = None,
) -> ConfoundedSplit:
    """Draw the protocol of De Coninck et al. 2024, section 4.1, from images with two binary attributes.

    No image, and where identities are known no person, of the test or validation set is in a training set.

    Parameters
    ----------
    target : array-like of bool, shape (N,)
        What is to be classified (Male). Messages use the name of a Series.
    confounder : array-like of bool, shape (N,)
        The spurious attribute, which goes with it in the biased set (Blond_Hair).
    train_size : int or None, default=6000
        Images of either training set, rounded to whole cells. None takes as many as the images allow, 6000 at most.
    shares : mapping of (target, confounder) to float, optional
        Share of each cell in the biased set, adding up to 1. The paper's by default: 1/2 target without the spurious
        attribute, none with it, 1/3 non-target with it and 1/6 without.
    test_per_cell : int or None, default=182
        Test images of each cell; 182 is the paper's. None takes as many as the smallest cell has, or a quarter of
        them where training images come from the same pool, 182 at most.
    validation_per_cell : int, default=0
        Validation images of each cell, drawn from the training pool.
    identities : array-like of shape (N,), optional
        Who each image shows.
    train_pool, test_pool : bool array-like of shape (N,), optional
        Where to draw training (and validation) and test images from, such as a data set's own partitions. All images
        by default.
    random_state : int, NumPy generator or None

    Returns
    -------
    ConfoundedSplit

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit, or a cell has too few images: the message says which, how many there are, and
        what size would do.

    Warns
    -----
    UserWarning
        If a cell is too small for a balanced training set. The rest of its class makes up for it, as in the paper
        (54/46 for blond men).

    See Also
    --------
    Samples : Images with their labels.

    References
    ----------
    De Coninck, Leroux, Simoens, "Mitigating Bias Using Model-Agnostic Data Attribution", CVPR Workshops 2024.

    Examples
    --------
    >>> male = np.repeat([True, False], 50)
    >>> blond = np.tile([True, False], 50)
    >>> split = confounded_split(male, blond, train_size=36, test_per_cell=4, random_state=0)
    >>> split.counts
    target     True         False
    confounder True  False  True  False
    biased         0    18    12      6
    balanced       9     9     9      9
    validation     0     0     0      0
    test           4     4     4      4
    """
    named = {"target": target, "confounder": confounder}
    count = np.asarray(target).size
    has_target, has_confounder = (_boolean(name, values, count) for name, values in named.items())
    person = np.arange(count) if identities is None else check_identities(identities, count)
    for_training, for_test = (
        np.ones(count, bool) if pool is None else _boolean(name, pool, count)
        for name, pool in (("train_pool", train_pool), ("test_pool", test_pool))
    )
    if others := set(shares or {}) - set(BIASED_SHARES):
        raise ValueError(f"shares must be of the cells {[*BIASED_SHARES]}, got {sorted(others, key=str)} too")
    shares = BIASED_SHARES if shares is None else {cell: float(shares.get(cell, 0)) for cell in BIASED_SHARES}
    if min(shares.values()) < 0 or not np.isclose(sum(shares.values()), 1):
        raise ValueError(f"shares must be at least 0 and add up to 1, got {dict(shares)}")

    draw = _Draw(
        {cell: (has_target == cell[0]) & (has_confounder == cell[1]) for cell in BIASED_SHARES},
        tuple(str(getattr(values, "name", None) or name) for name, values in named.items()),
        np.random.default_rng(draw_seed(random_state)),
    )
    if test_per_cell is None:
        smallest = min(draw.available(for_test).values())
        test_per_cell = min(182, smallest // 4 if (for_test & for_training).any() else smallest)
    if test_per_cell < 1:
        raise ValueError(f"test_per_cell must be at least 1, got {test_per_cell}; a cell of the test pool may be empty")
    test = draw.cells("test_per_cell", for_test, dict.fromkeys(BIASED_SHARES, test_per_cell))
    pool = for_training & ~np.isin(person, person[test])
    validation = draw.cells("validation_per_cell", pool, dict.fromkeys(BIASED_SHARES, validation_per_cell))
    pool &= ~np.isin(person, person[validation])
    left = draw.available(pool)
    largest = int(min(left[cell] / share for cell, share in shares.items() if share > 0) + 1e-9)
    counted = ", ".join(f"{count} {draw.named(cell)}" for cell, count in left.items())
    if largest < 4:
        raise ValueError(
            f"too few images are left for training, {counted}: validation_per_cell takes {validation_per_cell} of each "
            f"cell, test_per_cell {test_per_cell}"
        )
    train_size = min(largest, 6000) if train_size is None else train_size
    if not 4 <= train_size <= largest:
        raise ValueError(
            f"train_size must lie in 4 to {largest} for these shares, got {train_size}; left for training: {counted}"
        )
    biased = draw.cells("train_size", pool, {cell: round(share * train_size) for cell, share in shares.items()})
    balanced = draw.balanced(pool, len(biased))
    sets = {"biased": biased, "balanced": balanced, "validation": validation, "test": test}
    rows = [[members[chosen].sum() for members in draw.members.values()] for chosen in sets.values()]
    columns = pd.MultiIndex.from_tuples(draw.members, names=["target", "confounder"])
    counts = pd.DataFrame(rows, list(sets), columns).sort_index(axis=1, ascending=False)
    return ConfoundedSplit(**sets, counts=counts)


@dataclass(frozen=True)
class _Draw:
    """Random draws from the four cells of target and spurious attribute: which images are of each."""

    members: Mapping[Cell, NDArray[np.bool_]]
    names: tuple[str, ...]
    generator: np.random.Generator

    def named(self, cell: tuple[bool, ...]) -> str:
        return " and ".join(name if value else f"not {name}" for name, value in zip(self.names, cell, strict=False))

    def available(self, pool: NDArray[np.bool_]) -> dict[Cell, int]:
        return {cell: int((pool & members).sum()) for cell, members in self.members.items()}

    def cells(self, argument: str, pool: NDArray[np.bool_], sizes: Mapping[Cell, int]) -> NDArray[np.intp]:
        """Return `sizes` images of each cell, in random order."""
        chosen = []
        for cell, size in sizes.items():
            images = np.flatnonzero(pool & self.members[cell])
            if not 0 <= size <= len(images):
                raise ValueError(f"{argument} needs {size} images of {self.named(cell)}, there are {len(images)}")
            chosen.append(self.generator.choice(images, size, replace=False))
        return self.generator.permutation(np.concatenate(chosen)).astype(np.intp)

    def balanced(self, pool: NDArray[np.bool_], total: int) -> NDArray[np.intp]:
        sizes: dict[Cell, int] = {}
        available = self.available(pool)
        for value in (True, False):
            size = total // 2 if value else total - total // 2
            with_it = min(available[value, True], size // 2)
            without = min(available[value, False], size - with_it)
            with_it = min(size - without, available[value, True])
            sizes |= {(value, True): with_it, (value, False): without}
            if abs(with_it - without) > 1 or with_it + without < size:
                warnings.warn(
                    f"the balanced training set is not quite balanced: of {self.named((value,))} it has {with_it} "
                    f"images with {self.names[1]} and {without} without, where {size} were wanted",
                    stacklevel=3,
                )
        return self.cells("train_size", pool, sizes)


def _boolean(name: str, values: ArrayLike, count: int) -> NDArray[np.bool_]:
    array: NDArray[Any] = np.asarray(values)
    if array.shape != (count,):
        raise ValueError(f"{name} must have a value for each of the {count} images, got shape {array.shape}")
    array = as_plain(array)  # booleans of a column that had gaps are objects
    if array.dtype != bool and not (array.dtype.kind in "iuf" and np.isin(array, (0, 1)).all()):
        raise TypeError(f"{name} must be boolean, or 0 and 1, got {array.dtype} {pd.unique(array)[:5]}")
    return array.astype(bool)

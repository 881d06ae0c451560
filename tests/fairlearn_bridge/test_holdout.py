"""holdout_split: disjoint roles, persons in one of them, cells in proportion, refusals."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairlearn_bridge import holdout_split

ROLES = ("train", "validation", "test")


def biased(n=2000, persons=400, seed=0):
    rng = np.random.default_rng(seed)
    race = rng.choice(["a", "b", "c"], n)
    lighting = np.where(rng.random(n) < np.where(race == "a", 0.05, 0.8), "dark", "bright")
    return race, lighting, rng.integers(0, persons, n)


def shares(race, lighting, chosen):
    """The share of each cell's images that is in a role."""
    return (pd.crosstab(race[chosen], lighting[chosen]) / pd.crosstab(race, lighting)).to_numpy()


SHARES = st.sampled_from([0, 0.05, 0.15, 0.4])


@given(st.integers(0, 2**32 - 1), SHARES, SHARES, st.booleans())
@settings(max_examples=50)
def test_each_image_has_one_role_and_so_has_each_person(seed, validation, test, known):
    race, lighting, person = biased(300, 60, seed % 5)
    options = {"validation": validation, "test": test, "random_state": seed}
    split = holdout_split(race, lighting, identities=person if known else None, **options)
    every = np.concatenate([getattr(split, role) for role in ROLES])
    np.testing.assert_array_equal(np.sort(every), np.arange(300))
    assert all((np.diff(getattr(split, role)) > 0).all() for role in ROLES)
    if known:
        of_role = [set(person[getattr(split, role)]) for role in ROLES]
        assert sum(map(len, of_role)) == len(set(person))


def test_without_persons_each_set_has_its_share_of_each_cell_rounded_down():
    race, lighting, _ = biased()
    split = holdout_split(race, lighting, validation=0.15, test=0.2, random_state=3)
    sizes = pd.crosstab(race, lighting)
    found = {role: pd.crosstab(race[getattr(split, role)], lighting[getattr(split, role)]) for role in ROLES}
    np.testing.assert_array_equal(found["test"], np.floor(0.2 * sizes + 1e-9))
    np.testing.assert_array_equal(found["validation"], np.floor(0.15 * sizes + 1e-9))


def test_with_persons_the_shares_are_near():
    race, lighting, person = biased(4000, 800)
    split = holdout_split(race, lighting, validation=0.15, test=0.2, identities=person, random_state=0)
    np.testing.assert_allclose(shares(race, lighting, split.test), 0.2, atol=0.05)
    np.testing.assert_allclose(shares(race, lighting, split.validation), 0.15, atol=0.05)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.4, 0.5, 0.7])
def test_with_persons_any_share_is_had_not_only_one_of_so_many_equal_parts(share):
    race, lighting, person = biased(1000, 1000)
    split = holdout_split(race, lighting, validation=0, test=share, identities=person, random_state=0)
    assert len(split.test) == pytest.approx(1000 * share, abs=15)
    np.testing.assert_allclose(shares(race, lighting, split.test), share, atol=0.06)


def test_with_persons_a_share_of_nearly_all_leaves_a_tenth():
    race, lighting, person = biased(2000, 800)
    split = holdout_split(race, lighting, validation=0, test=0.96, identities=person, random_state=0)
    assert len(split.test) == pytest.approx(1800, abs=30)
    split = holdout_split(race, lighting, validation=0.5, test=0.48, identities=person, random_state=0)
    assert len(split.test) == pytest.approx(1000, abs=60)
    assert len(split.validation) == pytest.approx(0.9 * (2000 - len(split.test)), abs=30)


def test_a_cell_of_two_images_stays_in_training_and_a_share_of_0_is_empty():
    target, lighting = np.repeat([True, False], 50), np.repeat([True, True, False], [50, 48, 2])
    split = holdout_split(target, lighting, validation=0, random_state=0)
    assert {98, 99} <= set(split.train)
    assert len(split.validation) == 0
    assert len(split.test) == 10 + 9


def test_several_confounders_are_combined_and_the_seed_decides():
    race, lighting, person = biased()
    both = np.column_stack([lighting, np.where(person % 2, "x", "y")])
    one = holdout_split(race, both, random_state=1)
    again, other = (holdout_split(race, both, random_state=seed) for seed in (1, 2))
    np.testing.assert_array_equal(one.test, again.test)
    assert set(one.test) != set(other.test)
    combined = np.char.add(both[:, 0], both[:, 1])
    np.testing.assert_allclose(shares(race, combined, one.test), 0.2, atol=0.04)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"test": 1.2}, "test must be a number in"),
        ({"validation": 0.5, "test": 0.5}, "validation and test must add up to less than 1"),
        ({"identities": [1, 2]}, "identities must have shape"),
        ({"identities": np.arange(40) % 3}, "identities must name at least 5 persons to keep some for test, got 3"),
        ({"identities": [np.nan, *range(39)]}, "identities must be known of all images, 1 of 40 are missing"),
        ({"target": np.arange(40) / 3}, "target must be classes"),
        ({"confounder": np.zeros(3)}, "sensitive_features should be a 1d array"),
    ],
)
def test_what_does_not_fit_is_named(given, words):
    arguments = {"target": np.arange(40) % 2, "confounder": np.arange(40) % 4 < 2} | given
    with pytest.raises(ValueError, match=words):
        holdout_split(**arguments, random_state=0)

"""confounded_split: counts, disjointness, persons, refusals."""

import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from captum_region.datasets import AttributeImages, make_faces
from fairlearn_bridge import confounded_split
from fairlearn_bridge.experiment import ExperimentConfig, split_data


def population(n=4000, seed=0):
    rng = np.random.default_rng(seed)
    return rng.random(n) < 0.5, rng.random(n) < 0.4, rng.integers(0, n // 3, n)


def count(target, confounder, chosen):
    return {
        (t, c): int(((target[chosen] == t) & (confounder[chosen] == c)).sum())
        for t in (True, False)
        for c in (True, False)
    }


def test_the_papers_numbers():
    target, confounder = np.repeat([True, False], 7000), np.tile([True, False], 7000)
    split = confounded_split(target, confounder, random_state=0)
    assert count(target, confounder, split.biased) == {
        (True, True): 0,
        (True, False): 3000,
        (False, True): 2000,
        (False, False): 1000,
    }
    assert set(count(target, confounder, split.balanced).values()) == {1500}
    assert set(count(target, confounder, split.test).values()) == {182}
    assert split.counts.loc["biased", (False, True)] == 2000
    assert split.counts.loc["test"].sum() == len(split.test) == 728


@given(st.integers(0, 2**32 - 1), st.integers(4, 600), st.integers(1, 40), st.integers(0, 20))
def test_no_image_and_no_person_in_two_roles(seed, train_size, test_per_cell, validation_per_cell):
    target, confounder, person = population(seed=seed % 7)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        split = confounded_split(
            target,
            confounder,
            train_size=train_size,
            test_per_cell=test_per_cell,
            validation_per_cell=validation_per_cell,
            identities=person,
            random_state=seed,
        )
    trained = set(person[split.biased]) | set(person[split.balanced])
    assert not trained & set(person[split.test])
    assert not trained & set(person[split.validation])
    assert not set(person[split.validation]) & set(person[split.test])
    for chosen in (split.biased, split.balanced, split.validation, split.test):
        assert len(set(chosen)) == len(chosen)
    assert len(split.balanced) == len(split.biased)
    assert abs(len(split.biased) - train_size) <= 2
    cells = count(target, confounder, split.balanced)
    assert max(cells.values()) - min(cells.values()) <= 1


def test_splits_keep_to_their_pools_and_follow_the_seed():
    target, confounder, _ = population()
    train_pool = np.arange(4000) < 3000
    draws = [
        confounded_split(
            target,
            confounder,
            train_size=300,
            test_per_cell=50,
            train_pool=train_pool,
            test_pool=~train_pool,
            random_state=s,
        )
        for s in (0, 0, 1)
    ]
    assert (draws[0].test >= 3000).all()
    assert (draws[0].biased < 3000).all()
    assert (draws[0].balanced < 3000).all()
    assert np.array_equal(draws[0].biased, draws[1].biased)
    assert not np.array_equal(draws[0].biased, draws[2].biased)


def test_size_none_takes_as_many_images_as_there_are():
    # 30 of the rarest cell: 539 women with glasses made 1617 images in the same way.
    target = np.repeat([True, False, False], [400, 30, 100])
    confounder = np.repeat([False, True, False], [400, 30, 100])
    target, confounder = np.r_[target, [True] * 8], np.r_[confounder, [True] * 8]
    with pytest.warns(UserWarning, match="not quite balanced: of target it has 6"):
        split = confounded_split(target, confounder, train_size=None, test_per_cell=None, random_state=0)
    assert list(split.counts.loc["test"]) == [2, 2, 2, 2]
    assert list(split.counts.loc["biased"]) == [0, 42, 28, 14]
    assert list(split.counts.loc["balanced"]) == [6, 36, 21, 21]


def test_messages_name_the_attributes():
    target, confounder = (
        pd.Series([True, False] * 20, name="Male"),
        pd.Series([True, True, False, False] * 10, name="Hat"),
    )
    with pytest.raises(ValueError, match="test_per_cell needs 11 images of Male and not Hat, there are 10"):
        confounded_split(target, confounder, test_per_cell=11)
    with pytest.raises(ValueError, match=r"left for training: .*8 Male and not Hat"):
        confounded_split(target, confounder, train_size=5000, test_per_cell=2)


def test_the_shares_of_the_cells_can_be_chosen():
    target, confounder, _ = population()
    shares = {(True, True): 0.05, (True, False): 0.45, (False, True): 0.45, (False, False): 0.05}
    split = confounded_split(target, confounder, train_size=400, shares=shares, test_per_cell=5, random_state=0)
    assert list(split.counts.loc["biased"]) == [20, 180, 180, 20]
    with pytest.raises(ValueError, match="add up to 1"):
        confounded_split(target, confounder, shares={(True, True): 0.5})


def test_shares_of_cells_that_there_are_not_are_refused():
    shares = {(True, False): 0.5, (False, True): 0.5, ("x", 1): 0.3}
    with pytest.raises(ValueError, match=r"shares must be of the cells \[.*\], got \[\('x', 1\)\] too"):
        confounded_split(*population()[:2], train_size=60, test_per_cell=4, shares=shares)


def test_a_class_too_small_for_half_of_a_balanced_set_is_told():
    target = np.arange(400) < 40
    confounder = np.arange(400) % 2 == 0
    shares = {(True, False): 0.05, (False, True): 0.6, (False, False): 0.35}
    with pytest.warns(UserWarning, match="of target it has 19 images .* and 19 without, where 100 were wanted"):
        split = confounded_split(target, confounder, train_size=200, shares=shares, test_per_cell=1, random_state=0)
    assert list(split.counts.loc["balanced"]) == [19, 19, 50, 50]


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"train_size": 5000}, ValueError, r"train_size must lie in 4 to \d+ .* got 5000"),
        ({"test_per_cell": 2000}, ValueError, "test_per_cell needs 2000 images of target"),
        ({"test_per_cell": 0}, ValueError, "test_per_cell must be at least 1"),
        ({"identities": [1, 2]}, ValueError, "identities"),
        ({"train_pool": [True]}, ValueError, "train_pool"),
        ({"random_state": -1}, ValueError, "random_state"),
    ],
)
def test_impossible_sizes_are_refused(arguments, error, words):
    target, confounder, _ = population()
    with pytest.raises(error, match=words):
        confounded_split(target, confounder, **{"train_size": 100, "test_per_cell": 5} | arguments)


def test_attributes_must_be_binary():
    with pytest.raises(TypeError, match="target must be boolean"):
        confounded_split(["m", "w"], [True, False])
    with pytest.raises(TypeError, match="confounder must be boolean"):
        confounded_split([0, 1], [0, 2])
    for missing in (pd.Series([True, None, False], dtype="boolean"), [None, True, False]):
        with pytest.raises(TypeError, match="target must be boolean, or 0 and 1, got object"):
            confounded_split(missing, [True, False, True])
    with pytest.raises(ValueError, match="confounder must have a value"):
        confounded_split([0, 1], [0])


def test_an_image_that_is_repeated_is_not_both_trained_and_tested_on():
    faces = make_faces(400, 16, random_state=0)
    images = AttributeImages(faces.images, faces.attributes)
    assert images.firsts().tolist() == [*range(400)]
    images = images.subset(np.r_[np.arange(400), np.arange(0, 400, 2)])
    assert images.firsts().tolist() == [*range(400), *range(0, 400, 2)]
    config = ExperimentConfig("Male", "Blond_Hair", train_size=80, validation_per_cell=5, test_per_cell=10)
    for parts in ((images,), (images.subset(slice(400)), images.subset(slice(400, None)))):
        data = split_data(config, *parts)
        sets = [set(getattr(data, name).attributes.index) for name in ("biased", "validation", "test")]
        assert len(set().union(*sets)) == sum(map(len, sets))


def test_booleans_of_a_column_that_had_gaps_are_booleans():
    target, confounder = np.arange(80) % 2 == 0, np.arange(80) % 3 == 0
    sizes = {"train_size": 12, "test_per_cell": 2, "random_state": 0}
    expected = confounded_split(target, confounder, **sizes)
    np.testing.assert_array_equal(confounded_split(target.astype(object), confounder, **sizes).biased, expected.biased)
    with pytest.raises(TypeError, match="target must be boolean"):
        confounded_split(np.where(target, "a", "b").astype(object), confounder, **sizes)


def test_where_nothing_is_left_for_training_the_message_says_what_takes_it():
    target, confounder = np.arange(40) % 2 == 0, np.arange(40) // 2 % 2 == 0
    with pytest.raises(
        ValueError, match=r"too few images are left for training, .*: validation_per_cell takes 8 of each"
    ):
        confounded_split(target, confounder, test_per_cell=2, validation_per_cell=8, random_state=0)

"""What is estimated of images that are not there."""

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax
from sklearn.metrics import roc_auc_score

from fairlearn_bridge import estimate_crossed_auc
from fairlearn_bridge.samples import Samples

MASK = torch.zeros(8, 8, dtype=torch.bool)
MASK[:, :5] = True  # so wide that the first column is wholly the donor's, and the last not at all


def samples(target, confounder, seed=0):
    """Return 8 px images whose first column is the confounder, and whose last tells the target with noise."""
    target, confounder = np.asarray(target), np.asarray(confounder)
    images = np.full((len(target), 3, 8, 8), 0.5, np.float32)
    images[..., 0] = confounder[:, None, None]
    noise = np.random.default_rng(seed).normal(0, 0.15, len(target))
    images[..., 7] = (0.2 + 0.2 * target + noise).clip(0, 1)[:, None, None]
    return Samples(images, target, confounder)


class Reader:
    """Says 1 for a bright last column, less so by `lean` for a bright first one."""

    classes_ = np.array([0, 1])

    def __init__(self, lean):
        self.lean = lean

    def log_odds(self, X):
        X = np.asarray(X, float)
        return 10 * (X[:, 0, 0, 7] - 0.3) - self.lean * X[:, 0, 0, 0]

    def predict_proba(self, X):
        p = expit(self.log_odds(X))
        return np.stack([1 - p, p], 1)


def protocol(n=120, seed=0):
    """Return the paper's biased cells: of 1 half without the confounder, of 0 a third with it and a sixth without."""
    target = np.repeat([1, 0, 0], [n // 2, n // 3, n // 6])
    confounder = np.repeat([0, 1, 0], [n // 2, n // 3, n // 6])
    return samples(target, confounder, seed)


@pytest.mark.parametrize("lean", [0, 1, 4])
def test_the_empty_cell_is_shifted_by_what_the_confounder_does(lean):
    held_out, donors = protocol(), protocol(60, seed=1)
    reader = Reader(lean)
    odds = reader.log_odds(held_out.X)
    # Images of 1 with the confounder would get `lean` less; those of 0 without it are there.
    shifted, there = odds[held_out.y == 1] - lean, odds[(held_out.y == 0) & (held_out.confounder == 0)]
    by_hand = (np.sign(shifted[:, None] - there[None]) / 2 + 0.5).mean()
    found = estimate_crossed_auc(reader, held_out, donors, MASK, random_state=0)
    assert found.auc == pytest.approx(by_hand, abs=1e-9)
    assert found.auc == estimate_crossed_auc(reader, held_out, donors, MASK, random_state=1).auc
    assert found == estimate_crossed_auc(reader, held_out, donors, MASK, random_state=0)
    # Hanley and McNeil's formula (1982), with their approximation of the two correlations.
    pairs, squares = len(shifted) * len(there), found.auc**2
    of_ones, of_zeros = found.auc / (2 - found.auc), 2 * squares / (1 + found.auc)
    spread = (len(shifted) - 1) * (of_ones - squares) + (len(there) - 1) * (of_zeros - squares)
    expected = np.sqrt((found.auc * (1 - found.auc) + spread) / pairs)
    assert found.standard_error == pytest.approx(expected, rel=0.35)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"draws": 0}, "draws must be an integer of at least 1, got 0"),
        ({"mask": np.ones((4, 8), bool)}, r"mask must have the shape of the images, \(8, 8\), got \(4, 8\)"),
        (
            {"donors": Samples(np.zeros((4, 3, 4, 4), np.uint8), [0, 0, 1, 1], [0, 1, 0, 1])},
            r"donors must be images of the shape of the held-out ones, \(3, 8, 8\), got \(3, 4, 4\)",
        ),
        ({"donors": samples([1, 1], [0, 1])}, "donors must hold images of every class, missing: 0"),
    ],
)
def test_what_does_not_fit_is_named(given, words):
    arguments = {"held_out": protocol(), "donors": protocol(60, seed=1), "mask": MASK} | given
    with pytest.raises(ValueError, match=words):
        estimate_crossed_auc(Reader(1), **arguments)


def test_a_mask_of_numpys_is_one_too():
    arguments = Reader(1), protocol(), protocol(60, seed=1)
    given, wanted = (estimate_crossed_auc(*arguments, mask, random_state=0) for mask in (MASK.numpy(), MASK))
    assert given == wanted


def test_images_of_a_cell_that_is_not_empty_count_unchanged():
    held_out = samples(np.arange(80) % 2, np.arange(80) // 2 % 2)
    donors = protocol(60, seed=1)
    reader = Reader(2)
    crossed = held_out.y == held_out.confounder
    plain = roc_auc_score(held_out.y[crossed], reader.log_odds(held_out.X)[crossed])
    assert estimate_crossed_auc(reader, held_out, donors, MASK).auc == pytest.approx(plain, abs=1e-9)
    filled = estimate_crossed_auc(reader, held_out, donors, MASK, min_images=21).auc
    odds = reader.log_odds(held_out.X)
    # Then the others of each class count too, as if they had the other value.
    moved = np.where(crossed, odds, odds - 2 * (1 - 2 * held_out.confounder))
    # Class 0's without the confounder cannot be estimated from class 1's donors, who all lack it.
    of_both = (held_out.y == 1) | crossed
    assert filled == pytest.approx(roc_auc_score(held_out.y[of_both], moved[of_both]), abs=1e-9)


def test_three_classes_and_names():
    rng = np.random.default_rng(0)
    y = np.array(["a", "b", "c"])[np.arange(180) % 3]
    confounder = np.where(y == "a", "with", np.where(rng.random(180) < 0.5, "with", "without"))
    data = Samples(rng.random((180, 3, 8, 8)).astype(np.float32), y, confounder)

    class Classifier:
        classes_ = np.array(["a", "b", "c"])

        def predict_proba(self, X):
            return softmax(4 * np.asarray(X, float)[:, :, 0, 7], axis=1)

    crossed = (y == "a") | (confounder != np.select([y == "b", y == "c"], ["without", "without"], "with"))
    plain = roc_auc_score(y[crossed], Classifier().predict_proba(data.X)[crossed], multi_class="ovo")
    assert estimate_crossed_auc(Classifier(), data, data, MASK, min_images=1).auc == pytest.approx(plain, abs=1e-9)


def test_what_cannot_be_estimated_is_refused():
    data = samples(np.arange(40) % 2, np.arange(40) % 2)
    with pytest.raises(
        ValueError, match="donors must show each value of the spurious attribute in a class besides 0, 1"
    ):
        estimate_crossed_auc(Reader(1), data, data, MASK)
    women = samples(np.zeros(20, int), np.arange(20) % 2)
    with pytest.raises(ValueError, match="held_out must hold images of every class, missing: 1"):
        estimate_crossed_auc(Reader(1), women, protocol(), MASK)


def test_classes_without_images_are_left_out():
    class WithAThird(Reader):
        classes_ = np.array([0, 1, 2])

        def predict_proba(self, X):
            return np.c_[super().predict_proba(X), np.zeros(len(X))]

    arguments = (protocol(), protocol(60, seed=1), MASK)
    expected = estimate_crossed_auc(Reader(1), *arguments, random_state=0)
    assert estimate_crossed_auc(WithAThird(1), *arguments, random_state=0).auc == pytest.approx(expected.auc)

"""Smoothing and its choice: by hand, and that the choice finds what was put in."""

import numpy as np
import pytest
import torch

from captum_region.saliency.choice import choose_methods, mean_of, smoothed
from captum_region.saliency.localisation import rank_accuracy

IMAGES = torch.zeros(4, 3, 24, 24)
TRUTH = np.zeros((4, 24, 24), dtype=bool)
TRUTH[:, 6:16, 8:18] = True


def fixed(maps):
    """A method that gives these maps, in batches of two."""
    return lambda images, target: maps[: len(images)]


def test_a_smoothed_map_is_its_convolution_with_a_gaussian():
    point = torch.zeros(2, 25, 25)
    point[0, 12, 12] = 1
    found = smoothed(fixed(point), 2.0)(torch.zeros(2, 3, 25, 25), torch.tensor([0, 0]))
    along = np.exp(-0.5 * (np.arange(-8, 9) / 2.0) ** 2)
    along /= along.sum()
    np.testing.assert_allclose(found[0, 4:21, 4:21], np.outer(along, along), atol=1e-6)
    assert (found[1] == 0).all()  # images do not run into each other
    method = fixed(point)
    assert smoothed(method, 0) is method
    for sigma in (-1, np.nan, np.inf):
        with pytest.raises(ValueError, match="sigma must be"):
            smoothed(method, sigma)


def test_the_mean_of_methods():
    both = mean_of([fixed(torch.ones(2, 4, 4)), fixed(torch.full((2, 4, 4), 3.0))])
    assert (both(torch.zeros(2, 3, 4, 4), torch.tensor([0, 0])) == 2).all()


def test_noise_is_smoothed_and_the_better_variant_chosen():
    rng = np.random.default_rng(0)
    noisy = torch.from_numpy(TRUTH[:2] + rng.normal(0, 1, (2, 24, 24))).float()
    exact, empty = torch.from_numpy(TRUTH[:2]).float(), torch.zeros(2, 24, 24)
    candidates = {
        "noisy": {"empty": fixed(empty), "noise alone": fixed(noisy - exact), "both": fixed(noisy)},
        "exact": {"": fixed(exact)},
        "empty": {"": fixed(empty)},
    }
    target = torch.tensor([1, 1])
    methods, scores = choose_methods(IMAGES, TRUTH, candidates, target=1, batch_size=2)
    assert len(scores) == 5 * 8
    chosen = scores[scores["chosen"]].set_index("method")
    assert chosen.index.to_list() == ["noisy", "exact", "empty"]
    assert chosen.loc["noisy", "variant"] == "both"
    assert chosen.loc["noisy", "sigma"] in (1, 1.5, 2)
    # Nothing is better than what is exact, and of maps that say nothing the first is taken.
    assert chosen.loc[["exact", "empty"], "sigma"].to_list() == [0, 0]
    assert chosen.loc[["exact", "empty"], "score"].to_list() == [1, 0]
    best = smoothed(fixed(noisy), chosen.loc["noisy", "sigma"])(IMAGES[:2], target)
    assert chosen.loc["noisy", "score"] == pytest.approx(rank_accuracy(best, TRUTH[:2]).mean())
    assert torch.equal(methods["noisy"](IMAGES[:2], target), best)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"truth": TRUTH[:3]}, r"truth must have shape \(4, 24, 24\)"),
        ({"candidates": {"a": {}}}, "candidates must hold at least one variant of each method, got none of a"),
        ({"sigmas": []}, "sigmas must hold"),
        ({"sigmas": [0, -1]}, "sigmas must hold"),
        ({"sigmas": [0, np.nan]}, "sigmas must hold"),
        ({"measure": "insertion"}, "measure must be one of pointing_game, .* got 'insertion'"),
        ({"candidates": {"a": {"": lambda images, target: images}}}, r"methods\['a'\] must give maps of \(24, 24\)"),
    ],
)
def test_invalid_arguments_are_named_in_the_error(changed, words):
    arguments = {"images": IMAGES, "truth": TRUTH, "candidates": {"a": {"": fixed(IMAGES[:, 0])}}} | changed
    with pytest.raises(ValueError, match=words):
        choose_methods(**arguments, target=1)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.uint8, torch.float16, torch.bfloat16])
def test_maps_of_any_type_are_smoothed_as_floats(dtype):
    maps = (torch.arange(64).view(1, 8, 8) % 5 > 2).to(dtype)
    found = smoothed(lambda images, targets: maps, 1.0)(torch.zeros(1, 3, 8, 8), torch.zeros(1))
    wanted = smoothed(lambda images, targets: maps.float(), 1.0)(torch.zeros(1, 3, 8, 8), torch.zeros(1))
    torch.testing.assert_close(found, wanted)

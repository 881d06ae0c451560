"""Distortions: identities, hand-computed values, and what they refuse."""

import numpy as np
import pytest
import torch

from captum_region.datasets import make_faces
from fairlearn_bridge.audit import Distortion
from fairlearn_bridge.audit.distortions import DISTORTIONS

SEEDS = np.arange(4)


@pytest.fixture(scope="module")
def images():
    return make_faces(4, 32, random_state=0).images


@pytest.mark.parametrize(("name", "identity"), [("brightness", 1), ("contrast", 1), ("downsampling", 1), ("noise", 0)])
def test_some_severity_changes_nothing(images, name, identity):
    assert (Distortion(name, [identity])(images, identity, SEEDS) == images).all()


@pytest.mark.parametrize("name", DISTORTIONS)
def test_severities_are_in_order_and_images_stay_images(images, name):
    distortion = Distortion(name)
    distorted = [distortion(images, severity, SEEDS) for severity in distortion.severities]
    assert all(each.dtype == np.uint8 and each.shape == images.shape for each in distorted)
    errors = [float(((each.astype(float) - images) ** 2).mean()) for each in distorted]
    assert min(errors) > 0
    if name not in ("brightness", "contrast"):  # there the last severity is in the other direction
        assert errors == sorted(errors)
    state = torch.get_rng_state()
    assert (distortion(images, distortion.severities[0], SEEDS) == distorted[0]).all()
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(32, 64), (64, 32), (32, 32)])
def test_as_much_as_asked_is_occluded_of_images_of_any_shape(shape, share):
    images = np.zeros((4, 3, *shape), np.uint8)
    occluded = Distortion("occlusion")(images, share, SEEDS)
    np.testing.assert_allclose((occluded == 128).mean((1, 2, 3)), share, atol=0.04)


def test_hand_computed_values():
    grey = np.full((1, 3, 16, 16), 100, np.uint8)
    assert (Distortion("brightness")(grey, 0.5, SEEDS[:1]) == 50).all()
    for name in ("blur", "contrast", "downsampling"):
        distortion = Distortion(name)
        distorted = distortion(grey, distortion.severities[-1], SEEDS[:1]).astype(int)
        assert np.abs(distorted - 100).max() <= 1, name  # torchvision rounds the mean
    occluded = Distortion("occlusion")(grey, 0.25, SEEDS[:1])
    assert (occluded == 128).sum() == 3 * 8 * 8
    noisy = Distortion("noise")(np.full((1, 3, 64, 64), 128, np.uint8), 0.1, SEEDS[:1])
    assert noisy.std() == pytest.approx(25.5, rel=0.03)


def test_random_draws_depend_on_the_seed_alone(images):
    noise = Distortion("noise")
    both = noise(images, 0.1, np.array([5, 6, 5, 6]))
    assert (noise(images[2:3], 0.1, np.array([5])) == both[2:3]).all()
    same = noise(images[[0, 0]], 0.1, np.array([5, 6]))
    assert (same[0] != same[1]).any()


def test_a_function_is_a_distortion_at_its_severities(images):
    inverted = Distortion("inverted", [1, 2], lambda images, times: 255 - images if times == 1 else images)
    assert (inverted(images, 1, SEEDS) == 255 - images).all()
    assert (inverted(images, 2, SEEDS) == images).all()
    shuffled = Distortion("shuffled", [1], lambda images, _: images[..., torch.randperm(32)], is_random=True)
    assert (shuffled(images, 1, SEEDS) == shuffled(images, 1, SEEDS)).all()
    assert (shuffled(images, 1, SEEDS) != shuffled(images, 1, SEEDS + 1)).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fog",), "name must be one of blur, noise, .* without a function, got 'fog'"),
        (("blur", [0]), r"severities of blur must be numbers in \[0.1, 100\], got 0"),
        (("jpeg", [5.5]), "severities of jpeg must be integers"),
        (("blur", [1], None, True), "is_random must be left out without a function"),
        (("own", [], lambda images, _: images), "severities must be given with a function"),
    ],
)
def test_what_does_not_fit_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Distortion(*arguments)


@pytest.mark.parametrize("shape", [(8, 8), (12, 12), (1, 40), (7, 5)])
@pytest.mark.parametrize("share", [0.001, 0.3, 0.9])
def test_no_image_is_too_small_to_be_occluded(shape, share):
    images = np.zeros((3, 3, *shape), np.uint8)
    hidden = (Distortion("occlusion")(images, share, SEEDS[:3]) == 128).any(1)
    height, width = (max(1, round(side * share**0.5)) for side in shape)
    assert hidden.sum((1, 2)).tolist() == [height * width] * 3


def test_blur_reaches_along_each_side_as_far_as_it_can():
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 64), np.uint8)
    flat = Distortion("blur")(images, 4, SEEDS[:2]).astype(float).std(3).mean()
    square = np.random.default_rng(0).integers(0, 256, (2, 3, 64, 64), np.uint8)
    # Across its rows noise is averaged less, as there are fewer, but along them as in a square image.
    assert flat < 3 * Distortion("blur")(square, 4, SEEDS[:2]).astype(float).std(3).mean()


@pytest.mark.parametrize("name", ["brightness", "contrast"])
def test_colours_of_four_channels_are_not_changed(name):
    with pytest.raises(ValueError, match="images must have 1 or 3 channels for brightness and contrast, got 4"):
        Distortion(name)(np.zeros((1, 4, 8, 8), np.uint8), 0.5, SEEDS[:1])

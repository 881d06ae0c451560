"""What is taken as images: channels first, of the classifier's number, uint8 or floats in [0, 1]."""

from pathlib import Path

import numpy as np
import pytest
import torch

from captum_region.batches import check_images, take


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [None, (16, 20)])
def test_channels_that_come_last_are_refused(channels, size):
    for make in (np.zeros, torch.zeros):
        with pytest.raises(ValueError, match=rf"X must have shape .* channels first, got \(2, 16, 20, {channels}\)"):
            check_images(make((2, 16, 20, channels)), name="X", image_size=size)


@pytest.mark.parametrize(
    "shape",
    [
        (2, 3, 16, 1),  # three channels of one column
        (2, 4, 16, 4),
        (2, 1, 1, 4),  # rows of four numbers
        (2, 3, 4, 4),
        (2, 16, 4, 4),  # 16 channels are usual in hyperspectral images, 4 rows of them are not an image's width
        (2, 16, 20, 5),
        (0, 3, 16, 16),
    ],
)
def test_narrow_images_with_channels_first_are_taken(shape):
    assert check_images(np.zeros(shape, np.uint8)).shape == shape


def test_images_of_the_wanted_size_count_as_channels_first():
    images = np.zeros((2, 16, 16, 4), np.uint8)
    assert check_images(images, image_size=(16, 4), channels=16) is images
    with pytest.raises(ValueError, match="images must have 3 channels, as the classifier has; got 16"):
        check_images(images, image_size=(16, 4), channels=3)
    with pytest.raises(ValueError, match=r"images must be 8 x 8 pixels, got \(16, 16\)"):
        check_images(np.zeros((2, 3, 16, 16), np.uint8), image_size=(8, 8))


@pytest.mark.parametrize("value", [-0.01, 1.01, np.nan, np.inf, -np.inf])
def test_floats_outside_are_refused_wherever_they_are(value):
    images = np.full((600, 1, 2, 3), 0.5, np.float32)
    images[0], images[1] = 0, 1
    for made in (images, torch.from_numpy(images), images.astype(np.float16), images.astype(float)):
        check_images(made)
    for at in (0, 300, 599):
        wrong = images.copy()
        wrong[at, 0, 1, 2] = value
        for made in (wrong, torch.from_numpy(wrong)):
            with pytest.raises(ValueError, match=r"images of float type must lie in \[0, 1\], got "):
                check_images(made)
    assert not check_images(images[:, :, :0]).size


def of_files():
    """Return how many bytes of files this process holds in memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssFile"))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells what a process holds of files")
def test_checking_a_memory_map_releases_its_memory(tmp_path):
    np.save(tmp_path / "images.npy", np.zeros((10_000, 3, 16, 16), np.float32))  # 31 MB
    images = np.load(tmp_path / "images.npy", mmap_mode="r")
    check_images(np.array(images[:600]))  # which maps the code that it takes
    before = of_files()
    assert isinstance(check_images(images), np.memmap)
    assert of_files() - before < 5 * 10**6


@pytest.mark.parametrize("dtype", [">f4", ">f8", np.longdouble])
def test_floats_that_torch_does_not_know_are_converted(dtype):
    images = np.random.default_rng(0).random((3, 3, 8, 8))
    checked = check_images(images.astype(dtype))
    np.testing.assert_allclose(take(checked, slice(None)).numpy(), images, atol=1e-6)

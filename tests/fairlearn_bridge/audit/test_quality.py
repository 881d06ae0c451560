"""PSNR and SSIM against their definitions."""

import numpy as np
import pytest
import torch

from captum_region.datasets import make_faces
from fairlearn_bridge.audit.quality import psnr, ssim


@pytest.fixture
def pair():
    images = torch.from_numpy(make_faces(3, 40, random_state=0).images)[..., :33]
    noise = torch.randint(-20, 21, images.shape, generator=torch.Generator().manual_seed(0))
    return images, (images.int() + noise).clamp(0, 255).byte()


def test_psnr_is_the_mean_squared_error_in_decibels(pair):
    images, noisy = pair
    error = ((images.numpy().astype(float) - noisy.numpy()) ** 2).mean((1, 2, 3))
    np.testing.assert_allclose(psnr(images, noisy), 10 * np.log10(255**2 / error), rtol=1e-6)
    assert np.isposinf(psnr(images, images)).all()


def test_ssim_is_the_mean_over_windows(pair):
    images, noisy = pair
    x, y = (np.tensordot([0.299, 0.587, 0.114], part[0].numpy() / 255.0, 1) for part in pair)
    offset = np.arange(11) - 5
    window = np.exp(-(offset[:, None] ** 2 + offset**2) / (2 * 1.5**2))
    window /= window.sum()
    values = []
    for top in range(x.shape[0] - 10):
        for left in range(x.shape[1] - 10):
            a, b = (part[top : top + 11, left : left + 11] for part in (x, y))
            mean_a, mean_b = (window * a).sum(), (window * b).sum()
            var_a, var_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
            both = (window * (a - mean_a) * (b - mean_b)).sum()
            value = (2 * mean_a * mean_b + 1e-4) / (mean_a**2 + mean_b**2 + 1e-4)
            values.append(value * (2 * both + 9e-4) / (var_a + var_b + 9e-4))
    assert ssim(images, noisy)[0] == pytest.approx(np.mean(values), abs=1e-5)
    assert np.mean(values) < 0.9
    np.testing.assert_allclose(ssim(images, images), 1, atol=1e-5)


def test_ssim_equals_that_of_scikit_image(pair):
    metrics = pytest.importorskip("skimage.metrics")
    one, other = (part.float().mean(1, keepdim=True).byte() for part in pair)
    expected = [
        metrics.structural_similarity(
            a[0].numpy(), b[0].numpy(), data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        for a, b in zip(one, other, strict=True)
    ]
    np.testing.assert_allclose(ssim(one, other), expected, atol=1e-5)


def test_ssim_of_images_smaller_than_its_window_is_not_defined():
    assert np.isnan(ssim(torch.zeros(2, 3, 10, 40, dtype=torch.uint8), torch.zeros(2, 3, 10, 40))).all()

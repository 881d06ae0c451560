"""WinogradConv2d is the convolution that it was made of."""

import pytest
import torch
from torch import nn

from captum_region.winograd import WinogradConv2d, use_winograd


@pytest.mark.parametrize("size", [(4, 4), (8, 8), (5, 7), (4, 9), (3, 8), (1, 1)], ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_it_is_the_convolution(size, bias):
    torch.manual_seed(0)
    convolution = nn.Conv2d(256, 24, 3, padding=1, bias=bias)
    images = torch.randn(2 * WinogradConv2d.tiles_per_pass + 3, 256, *size).to(memory_format=torch.channels_last)
    with torch.no_grad():
        outputs = WinogradConv2d(convolution)(images)
        exact = convolution.double()(images.double()).float()
    assert outputs.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(outputs, exact, rtol=0, atol=1e-4)
    assert exact.std() > 0.1


def test_a_kernel_of_one_pixel_shifts_the_image():
    convolution = nn.Conv2d(256, 256, 3, padding=1, bias=False)
    images = torch.randn(2, 256, 6, 10, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        nn.init.zeros_(convolution.weight)[:, :, 0, 2] = torch.eye(256)
        shifted = WinogradConv2d(convolution)(images)
    torch.testing.assert_close(shifted[:, :, 1:, :-1], images[:, :, :-1, 1:], rtol=0, atol=1e-5)
    assert shifted[:, :, 0].abs().max() < 1e-5 > shifted[:, :, :, -1].abs().max()


def test_only_what_fits_is_replaced():
    wide = {"in_channels": 256, "out_channels": 8, "kernel_size": 3, "padding": 1}
    others = [
        {"in_channels": 255},
        {"kernel_size": 5},
        {"stride": 2},
        {"padding": 0},
        {"padding": "same"},
        {"dilation": 2},
        {"groups": 2},
        {"padding_mode": "reflect"},
    ]
    network = nn.Sequential(
        nn.ReLU(), nn.Sequential(nn.Conv2d(**wide)), *(nn.Conv2d(**wide | other) for other in others)
    )
    use_winograd(network)
    assert isinstance(network[1][0], WinogradConv2d)
    assert [type(layer) for layer in network[2:]] == [nn.Conv2d] * len(others)

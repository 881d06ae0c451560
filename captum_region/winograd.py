"""3 x 3 convolutions with a quarter of the multiplications, for the patch kind on processors."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Lavin & Gray 2016, "Fast Algorithms for Convolutional Neural Networks", section 4.3: F(4 x 4, 3 x 3). Rows and columns
# are transformed at once, as one matrix product: sums one by one cost more than is saved.
_INPUT = [
    [4.0, 0, -5, 0, 1, 0],
    [0, -4, -4, 1, 1, 0],
    [0, 4, -4, -1, 1, 0],
    [0, -2, -1, 2, 1, 0],
    [0, 2, -1, -2, 1, 0],
    [0, 4, 0, -5, 0, 1],
]
_FILTER = [
    [1 / 4, 0, 0],
    [-1 / 6] * 3,
    [-1 / 6, 1 / 6, -1 / 6],
    [1 / 24, 1 / 12, 1 / 6],
    [1 / 24, -1 / 12, 1 / 6],
    [0, 0, 1.0],
]
_OUTPUT = [[1.0, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]
_OF_INPUT, _OF_FILTER, _OF_OUTPUT = (
    torch.kron(one, one) for one in (torch.tensor(_INPUT), torch.tensor(_FILTER), torch.tensor(_OUTPUT))
)


class WinogradConv2d(nn.Module):
    """A 3 x 3 convolution by Winograd's minimal filtering, in float32 on a processor and without gradients.

    For each pair of channels, 4 x 4 pixels of the output take 36 multiplications in place of 144. PyTorch's own
    convolutions do so on a GPU, through cuDNN, and do not on a processor.

    Parameters
    ----------
    convolution : nn.Conv2d
        One that `fits`; it is kept for images under 4 x 4 pixels, where nothing would be gained.

    References
    ----------
    Lavin & Gray 2016, "Fast Algorithms for Convolutional Neural Networks", section 4.3: F(4 x 4, 3 x 3).
    """

    # How many tiles of 4 x 4 pixels at once: all that a pass makes of them should stay in the processor's cache.
    tiles_per_pass = 64

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution

    @cached_property
    def _filters(self) -> Tensor:
        """36 x channels in x channels out; made at the first image that is large enough."""
        weight = self.convolution.weight.detach().flatten(2)
        return torch.einsum("pk,ock->pco", _OF_FILTER, weight).contiguous()

    @staticmethod
    def fits(layer: nn.Module) -> bool:
        """Return whether `layer` is a convolution of this form, of so many channels that it pays (measured)."""
        return (
            isinstance(layer, nn.Conv2d)
            and layer.kernel_size == (3, 3)
            and layer.stride == layer.padding == layer.dilation == (1, 1)
            and layer.padding_mode == "zeros"
            and layer.groups == 1
            and layer.in_channels >= 256
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return what the convolution returns, to rounding; channels last in memory."""
        height, width = images.shape[2:]
        if min(height, width) < 4:
            return F.conv2d(images, self.convolution.weight, self.convolution.bias, padding=1)
        rows, columns = -(-height // 4), -(-width // 4)
        # The last tiles may reach over the edge. They are 6 x 6 x N x rows x columns x channels.
        padded = F.pad(images.permute(0, 2, 3, 1), (0, 0, 1, 4 * columns - width + 1, 1, 4 * rows - height + 1))
        tiles = padded.unfold(1, 6, 4).unfold(2, 6, 4).permute(4, 5, 0, 1, 2, 3)
        outputs = images.new_empty(len(images), rows, 4, columns, 4, self.convolution.out_channels)
        bias = 0.0 if self.convolution.bias is None else self.convolution.bias
        at_once = max(1, self.tiles_per_pass // (rows * columns))
        for some, place in zip(tiles.split(at_once, 2), outputs.split(at_once), strict=True):
            transformed = _OF_INPUT @ some.reshape(36, -1)
            products = transformed.view(36, -1, images.shape[1]) @ self._filters
            place = place.permute(2, 4, 0, 1, 3, 5)
            torch.add((_OF_OUTPUT @ products.flatten(1)).view(place.shape), bias, out=place)
        pixels = outputs.view(len(images), 4 * rows, 4 * columns, -1)[:, :height, :width]
        return pixels.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


def use_winograd(network: nn.Module) -> None:
    """Replace, in place, each convolution of `network` that fits."""
    for name, layer in list(network.named_modules()):
        if WinogradConv2d.fits(layer):
            network.set_submodule(name, WinogradConv2d(layer))

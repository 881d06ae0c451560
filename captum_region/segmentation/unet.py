"""SmallUNet: a segmentation network that needs no other package."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SmallUNet(nn.Module):
    """A U-Net: an encoder that halves the image `depth` times, a decoder that doubles it, and skip connections.

    Each level is two 3 x 3 convolutions with batch normalisation and ReLU. The decoder doubles by nearest neighbours.

    Parameters
    ----------
    in_channels : int, default=3
    classes : int, default=1
        Channels of the logits.
    width : int, default=16
        Channels of the first level; each further one has twice as many.
    depth : int, default=3
        How often the image is halved. Height and width must be multiples of ``2**depth``.

    Raises
    ------
    ValueError
        If `width` or `depth` is below 1.

    References
    ----------
    Ronneberger, Fischer, Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation", MICCAI 2015; here
    padded, and with batch normalisation.

    Examples
    --------
    >>> SmallUNet(in_channels=5, classes=2)(torch.zeros(1, 5, 32, 40)).shape
    torch.Size([1, 2, 32, 40])
    """

    def __init__(self, in_channels: int = 3, classes: int = 1, *, width: int = 16, depth: int = 3) -> None:
        super().__init__()
        if width < 1 or depth < 1:
            raise ValueError(f"width and depth must be at least 1, got {width} and {depth}")
        self.depth = depth
        widths = [width * 2**level for level in range(depth + 1)]
        self.down = nn.ModuleList(_level(before, after) for before, after in pairwise([in_channels, *widths]))
        self.up = nn.ModuleList(_level(below + skip, skip) for skip, below in reversed([*pairwise(widths)]))
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, N x classes x height x width."""
        skips: list[Tensor] = []
        features = images
        for number, level in enumerate(self.down):
            features = level(features if number == 0 else F.max_pool2d(features, 2))
            skips.append(features)
        features = skips.pop()
        for level in self.up:
            features = level(torch.cat([F.interpolate(features, scale_factor=2.0), skips.pop()], 1))
        return self.head(features)


def _level(before: int, after: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (before, after):
        layers += [nn.Conv2d(channels, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)

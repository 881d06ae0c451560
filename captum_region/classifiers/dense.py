"""DenseRegionClassifier: all regions of an image in one pass."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from captum_region.classifiers.base import Progress, Recipe, RegionClassifier
from captum_region.grid import RegionGrid
from captum_region.randomness import RandomState, draw_seed, seeded
from captum_region.validation import check_count


class _Convolution(NamedTuple):
    """One unpadded convolution: kernel, stride on a patch, and stride and dilation on a whole image."""

    kernel: int
    stride: int
    dense_stride: int
    dilation: int


def plan_convolutions(patch_size: int, stride: int, step_until: int = 6) -> list[_Convolution]:
    """Choose unpadded convolutions that turn a k x k patch into one pixel and use each of its pixels.

    On a patch they step by 2 until `step_until` pixels or fewer are left, then shrink by kernels of 3; of a patch of 8
    pixels or fewer the first does not step. On a whole image, a step beyond the grid's stride becomes a dilation of the
    following convolutions, and the stride of the last one is chosen so that the outputs are one stride of the grid
    apart.

    Parameters
    ----------
    patch_size, stride : int
        Of the grid, in pixels.
    step_until : int, default=6
        In pixels. With 8 the networks take 1.6 to three times as long to train and classify regions no better; 0.01 to
        0.025 more of the top pixels of their maps lie inside the truth (docs/results/maps.md).

    Returns
    -------
    list of _Convolution
    """
    left, patch_step, dense_step = patch_size, 1, 1
    plan: list[_Convolution] = []
    while left > 1:
        even = left % 2 == 0
        # Kernels of 3 (for an even number of pixels 4) at stride 2 leave no pixel out. Without a step, an even number
        # takes its kernel of 2 first: 4 pixels go as 2 x 2, then 3 x 3.
        kernel, step = (3 + even, 2) if left > step_until and (plan or patch_size > 8) else (3 - even, 1)
        last = left == kernel
        dense = stride // dense_step if last else math.gcd(step, stride // dense_step)
        plan.append(_Convolution(kernel, step, dense, patch_step // dense_step))
        left = (left - kernel) // step + 1
        patch_step, dense_step = patch_step * step, dense_step * dense
    return plan or [_Convolution(1, 1, stride, 1)]


class DenseRegionClassifier(RegionClassifier):
    """All regions of an image in one pass, with the same logits as when each is cut out and classified alone.

    The network is a stack of unpadded convolutions with a receptive field of exactly k, which turn a k x k patch into
    one pixel. On a whole image they give at each position the same value as on the patch there: an unpadded convolution
    reads only its window, and batch normalisation in eval mode and ReLU act on each pixel alone. Where the patch form
    has a larger stride than the grid, the dense form uses the grid's stride and dilates the following convolutions (the
    "a trous" algorithm). The region's embedding, if there is one, is added to its features before a head of 1 x 1
    convolutions.

    One map of a 128 px image (k = 32, stride 2, 49 x 49 regions) takes 0.56 GMAC, where the paper's ResNet18 takes 2401
    passes of 0.56 GMAC; one of a 64 px image (k = 16, stride 1, 49 x 49 regions) takes 0.22 GMAC. In eval mode each
    normalisation is folded into its convolution. ``examples/benchmarks/speed.py`` times it.

    Parameters
    ----------
    grid : RegionGrid
        The convolutions are chosen for its patch size and stride, which may be any.
    num_classes : int
    width : int, default=32
        Channels of the first convolution; the next ones have 2, 3, then 4 times as many.
    position_embedding : bool, default=True
        Whether the network knows which region it sees, so that it can expect of each place what is usual there. Where
        images are not aligned, nothing is; on synthetic faces it did no harm there (docs/results/mitigation.md).
    class_names, in_channels
        As in `RegionClassifier`.
    random_state : int, NumPy generator or None
        Decides the initial weights.

    Raises
    ------
    ValueError
        If `width` is below 1.
    TypeError
        If `position_embedding` is not a bool.

    See Also
    --------
    PatchRegionClassifier : Any network, patch by patch.

    References
    ----------
    Long, Shelhamer, Darrell, "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015, section 3: the
    "a trous" algorithm.

    Examples
    --------
    >>> from captum_region import RegionGrid
    >>> classifier = DenseRegionClassifier(RegionGrid(64, 16, 1), num_classes=2, random_state=0).eval()
    >>> classifier.forward_grid(torch.zeros(1, 3, 64, 64)).shape
    torch.Size([1, 2, 49, 49])
    """

    step_until = 6
    # On 600 to 3,000 faces, 600 steps were too few for the maps of hard attributes, and 2,400 overfitted.
    recipe = Recipe(
        epochs=8,
        batch_size=128,
        positions_per_image=4,
        lr=4e-3,
        weight_decay=0.01,
        schedule="onecycle",
        min_steps=1200,
        # Half as many patches at most: small batches learn more from each, and averaged weights need no annealing.
        early=Recipe(
            epochs=8,
            batch_size=32,
            positions_per_image=2,
            lr=4e-3,
            weight_decay=0.01,
            schedule="average",
            min_steps=4800,
            patience=1 / 3,
        ),
    )

    def __init__(
        self,
        grid: RegionGrid,
        num_classes: int,
        *,
        width: int = 32,
        position_embedding: bool = True,
        class_names: Sequence[str] | None = None,
        in_channels: int = 3,
        random_state: RandomState = None,
    ) -> None:
        super().__init__(grid, num_classes, class_names=class_names, in_channels=in_channels)
        width = check_count("width", width)
        if not isinstance(position_embedding, bool):
            raise TypeError(f"position_embedding must be True or False, got {position_embedding!r}")
        self.width, self.position_embedding = width, position_embedding
        self._plan = plan_convolutions(grid.patch_size, grid.stride, self.step_until)
        widths = [in_channels, *(width * min(depth, 4) for depth in range(1, len(self._plan) + 1))]
        with seeded(draw_seed(random_state)):
            self.convolutions: Any = nn.ModuleList(
                nn.Conv2d(wide_in, wide_out, step.kernel, bias=False)
                for step, wide_in, wide_out in zip(self._plan, widths[:-1], widths[1:], strict=True)
            )
            self.norms: Any = nn.ModuleList(nn.BatchNorm2d(wide) for wide in widths[1:])
            if position_embedding:
                self.embedding = nn.Embedding(grid.num_regions, widths[-1])
                nn.init.normal_(self.embedding.weight, std=0.3)
            self.head = nn.Sequential(
                nn.Conv2d(widths[-1], widths[-1], 1), nn.ReLU(), nn.Conv2d(widths[-1], num_classes, 1)
            )

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments beyond grid, classes and channels."""
        return {"width": self.width} | ({} if self.position_embedding else {"position_embedding": False})

    def _features(self, images: Tensor, *, dense: bool) -> Tensor:
        # Most convolutions on CPUs and GPUs are fastest with channels last.
        features = self.normalize(images).contiguous(memory_format=torch.channels_last)
        for step, convolution, norm in zip(self._plan, self.convolutions, self.norms, strict=True):
            stride, dilation = (step.dense_stride, step.dilation) if dense else (step.stride, 1)
            weight, shift = convolution.weight, None
            if not norm.training:
                # In eval mode the normalisation, a factor and shift for each channel, is folded into the convolution.
                scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
                weight, shift = weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale
            weight = weight.contiguous(memory_format=torch.channels_last)
            if features.shape[2:] == weight.shape[2:]:
                # One window is left, and so one product of matrices: convolutions take three times as long for it.
                features = _linear(features, weight, shift)
            else:
                features = F.conv2d(features, weight, shift, stride=stride, dilation=dilation)
            features = F.relu_(norm(features) if norm.training else features)
        return features

    def forward(self, patches: Tensor, region: Tensor) -> Tensor:
        """Classify patches; see `RegionClassifier.forward`."""
        features = self._features(patches, dense=False)
        if self.position_embedding:
            features = features + self.embedding(region)[:, :, None, None]
        head: Any = self.head
        first, _, last = head
        features = F.relu(_linear(features, first.weight, first.bias))
        return _linear(features, last.weight, last.bias).flatten(1) / self.temperature

    def forward_grid(self, images: Tensor, *, regions_per_pass: int = 256, progress: Progress = iter) -> Tensor:
        """Classify every region of whole images in one pass; `regions_per_pass` has no effect here."""
        self.grid.check_images(images)
        (images,) = progress([images])  # one pass, so one step of the bar
        features = self._features(images, dense=True)
        if self.position_embedding:
            features = features + self.embedding.weight.T.unflatten(1, self.grid.shape)
        return self.head(features).contiguous() / self.temperature


def _linear(features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return the convolution of features N x C x k x k with a k x k kernel, N x channels x 1 x 1."""
    rows, kernel = (each.movedim(1, -1).flatten(1) for each in (features, weight))
    return F.linear(rows, kernel, bias)[:, :, None, None]

"""RegionClassifier and its two kinds: one that sees patches one by one, one that does all regions in one pass."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from captum_region.grid import RegionGrid
from captum_region.randomness import RandomState, draw_seed, seeded

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


Progress = Callable[[Sequence[Tensor]], Iterable[Tensor]]


@dataclass(frozen=True)
class Recipe:
    """The defaults of `fit_region_classifier` for a kind of region classifier.

    Attributes
    ----------
    epochs : int
        Passes over the training images.
    batch_size : int
        Images in a step.
    positions_per_image : int
        Random regions of each image in a step.
    lr : float
        Highest learning rate of AdamW.
    weight_decay : float
        Weight decay of AdamW.
    schedule : {"step", "onecycle"}
        ``"step"`` divides the rate by 10 after 4/9 and 8/9 of the training, that is every 40 of the paper's 90 epochs;
        ``"onecycle"`` is torch's ``OneCycleLR``.
    min_steps : int, default=0
        With few images, the number of epochs is raised until there are at least so many steps.
    """

    epochs: int
    batch_size: int
    positions_per_image: int
    lr: float
    weight_decay: float
    schedule: Literal["step", "onecycle"]
    min_steps: int = 0


class RegionClassifier(nn.Module, ABC):
    """Predicts an attribute of the whole image from one region of it.

    A subclass implements `forward`. It may override `forward_grid`, to compute all regions faster than one by one, and
    `recipe`, the defaults of its training. Images and patches are uint8 or float in [0, 1], normalised by `normalize`.

    Parameters
    ----------
    grid : RegionGrid
    num_classes : int
        Number of classes of the attribute, at least 2.
    class_names : sequence of str, optional
        Names of the classes, in the order of the logits; "0", "1", ... by default.
    in_channels : int, default=3
        Channels of the images.

    Attributes
    ----------
    mean, std : Tensor of shape (in_channels,)
        Buffers for the normalisation of images in [0, 1]. Initially 0.5; for a pretrained backbone set them in place
        (``classifier.mean[:] = ...``) to those it was trained with.
    temperature : Tensor of shape ()
        Buffer: the logits are divided by it. 1 until `captum_region.calibration.fit_temperature` sets it.

    See Also
    --------
    DenseRegionClassifier, PatchRegionClassifier : The two kinds.
    fit_region_classifier : Training.
    """

    # De Coninck et al. 2024, section 3.1.
    recipe: ClassVar[Recipe] = Recipe(
        epochs=90, batch_size=256, positions_per_image=1, lr=1e-3, weight_decay=0.01, schedule="step"
    )
    mean: Tensor
    std: Tensor
    temperature: Tensor

    def __init__(
        self, grid: RegionGrid, num_classes: int, *, class_names: Sequence[str] | None = None, in_channels: int = 3
    ) -> None:
        super().__init__()
        if not isinstance(grid, RegionGrid):
            raise TypeError(f"grid must be a RegionGrid, got {type(grid).__name__}")
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, got {num_classes}")
        self.grid = grid
        self.num_classes = num_classes
        self.class_names = class_names if class_names is not None else [str(label) for label in range(num_classes)]
        self.in_channels = in_channels
        self.register_buffer("mean", torch.full((in_channels,), 0.5))
        self.register_buffer("std", torch.full((in_channels,), 0.5))
        self.register_buffer("temperature", torch.ones(()))

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the logits."""
        return self._class_names

    @class_names.setter
    def class_names(self, names: Sequence[str]) -> None:
        if len(names) != self.num_classes:
            raise ValueError(f"class_names must have {self.num_classes} names, got {list(names)}")
        self._class_names = tuple(str(name) for name in names)

    def encode(self, labels: ArrayLike) -> NDArray[np.intp]:
        """Return the class numbers of labels.

        Labels are identified by their name. If the classes have been renamed since training, booleans are classes 0
        and 1, and other labels, if they take as many values as there are classes, are numbered in sorted order.

        Parameters
        ----------
        labels : array-like of shape (N,)
            Not every class need occur.

        Returns
        -------
        ndarray of int, shape (N,)

        Raises
        ------
        ValueError
            If labels are missing or not among the classes.

        Examples
        --------
        >>> classifier = DenseRegionClassifier(RegionGrid(8, 4, 4), 2, class_names=["man", "woman"])
        >>> classifier.encode(["woman", "woman"]), classifier.encode([True, False])
        (array([1, 1]), array([1, 0]))
        """
        values = np.asarray(labels)
        if values.ndim != 1 or pd.isna(values).any():
            raise ValueError(f"labels must be one-dimensional with no missing values, got shape {values.shape}")
        found, codes = np.unique(values, return_inverse=True)
        number = {name: at for at, name in enumerate(self.class_names)}
        known = [str(label) in number for label in found]
        numbers: Any
        if all(known):
            numbers = [number[str(label)] for label in found]
        elif values.dtype == bool and self.num_classes == 2:
            numbers = found
        elif len(found) == self.num_classes and not any(known):
            numbers = range(self.num_classes)
        else:
            names = ", ".join(self.class_names)
            raise ValueError(f"labels must be among the classes {names}; got {found[:9].tolist()}")
        return np.asarray(numbers, dtype=np.intp)[codes]

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.mean.device

    def normalize(self, images: Tensor) -> Tensor:
        """Return uint8 images, or float ones in [0, 1], as normalised floats of the weights' dtype."""
        images = images.to(self.mean.dtype) / 255 if images.dtype == torch.uint8 else images.to(self.mean.dtype)
        return (images - self.mean[:, None, None]) / self.std[:, None, None]

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments beyond grid, classes and channels, as JSON values."""
        return {}

    @abstractmethod
    def forward(self, patches: Tensor, region: Tensor) -> Tensor:
        """Classify patches.

        Parameters
        ----------
        patches : Tensor, shape (N, C, k, k)
            uint8, or float in [0, 1].
        region : integer Tensor, shape (N,)
            The region of each patch.

        Returns
        -------
        Tensor, shape (N, classes)
            Logits.
        """

    def forward_grid(self, images: Tensor, *, regions_per_pass: int = 256, progress: Progress = iter) -> Tensor:
        """Classify every region of whole images.

        Parameters
        ----------
        images : Tensor, shape (N, C, height, width)
            uint8, or float in [0, 1].
        regions_per_pass : int, default=256
            How many patches go through the network at once. It changes the memory needed, not the result.
        progress : callable, default=iter
            Wraps the sequence of passes, as ``tqdm`` does to show a bar.

        Returns
        -------
        Tensor, shape (N, classes, rows, cols)
            Logits.
        """
        return forward_regions(self, self.grid, images, regions_per_pass=regions_per_pass, progress=progress)


def check_evaluating(classifier: RegionClassifier) -> None:
    """Raise ValueError in train mode, in which batches change the classifier and results depend on the batch."""
    if classifier.training:
        raise ValueError("classifier must be in eval mode, got one in train mode; call its eval() first")


def forward_regions(
    forward: Any, grid: RegionGrid, images: Tensor, *, regions_per_pass: int = 256, progress: Progress = iter
) -> Tensor:
    """Classify every region of `images` by calling ``forward(patches, region) -> logits`` on batches of patches.

    Parameters
    ----------
    forward : callable
        (N x C x k x k patches, N regions) -> N x classes logits.
    grid : RegionGrid
    images : Tensor, shape (N, C, height, width)
    regions_per_pass : int, default=256
        At most this many patches go into one call, or one region of every image if that is more.
    progress : callable, default=iter
        Wraps the sequence of passes, as ``tqdm`` does to show a bar.

    Returns
    -------
    Tensor, shape (N, classes, rows, cols)

    Raises
    ------
    ValueError
        If `regions_per_pass` is below 1, the images have another size, or `forward` does not return logits.
    """
    if regions_per_pass < 1:
        raise ValueError(f"regions_per_pass must be at least 1, got {regions_per_pass}")
    grid.check_images(images)
    at_once = max(1, regions_per_pass // max(1, len(images)))
    regions = torch.arange(grid.num_regions, device=images.device)
    logits = []
    for chunk in progress(regions.split(at_once)):
        region = chunk.expand(len(images), -1)
        patches = grid.extract(images, region).flatten(0, 1)
        found = forward(patches, region.flatten())
        if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(patches):
            got = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(f"the classifier must give {len(patches)} x classes logits for as many patches, got {got}")
        logits.append(found.unflatten(0, (len(images), len(chunk))))
    every: Tensor = torch.cat(logits, 1).movedim(1, 2).unflatten(2, grid.shape)
    return every


def cifar_resnet18(in_channels: int, num_classes: int) -> nn.Module:
    """Return torchvision's ResNet18 in its CIFAR form: a 3 x 3 first convolution of stride 1, no max pooling."""
    from torchvision.models import resnet18  # takes seconds to import, which the dense kind need not wait for

    network: Any = resnet18(num_classes=num_classes)
    network.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    return network  # type: ignore[no-any-return]


def _widen_first_convolution(network: nn.Module, in_channels: int) -> None:
    """Let `network` take one channel more than `in_channels`, by a zero weight in its first convolution.

    The network's output stays the same until training changes that weight.
    """
    convolutions = ((name, layer) for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d))
    name, layer = next(convolutions, ("", None))
    if layer is None or layer.in_channels != in_channels or layer.groups != 1:
        return
    wide = copy.deepcopy(layer)
    wide.in_channels = in_channels + 1
    wide.weight = nn.Parameter(F.pad(layer.weight.detach(), (0, 0, 0, 0, 0, 1)))
    network.set_submodule(name, wide)


class PatchRegionClassifier(RegionClassifier):
    """Any image classifier as a region classifier: an embedding of the region is an additional input channel.

    By default the network of the paper: a ResNet18 in its CIFAR form, with the region's embedding (a learnt k x k
    image) concatenated to the patch. A map takes one pass of the network for each region; at k = 32 that is 0.56 GMAC
    each, 1.3 TMAC for 2401 regions.

    Parameters
    ----------
    grid : RegionGrid
    num_classes : int
    backbone : "resnet18", a torchvision model's name, or nn.Module, default="resnet18"
        ``"resnet18"`` is the paper's CIFAR form. Other names are models of ``torchvision.models``, with random weights.
        A module is copied; it takes N x channels x k x k and returns N x num_classes logits. If the first convolution
        of a model or module takes `in_channels` channels, one is added for the embedding, and its weights are kept.
    class_names, in_channels
        As in `RegionClassifier`.
    random_state : int, NumPy generator or None
        Decides the initial weights.

    Raises
    ------
    TypeError, ValueError
        If the backbone is not a module or known name, or does not return N x num_classes for N patches of size k.

    See Also
    --------
    DenseRegionClassifier : All regions in one pass.

    References
    ----------
    De Coninck, Leroux, Simoens, "Mitigating Bias Using Model-Agnostic Data Attribution", CVPR Workshops 2024, section
    3.1.

    Examples
    --------
    >>> classifier = PatchRegionClassifier(RegionGrid(16, 8, 4), num_classes=2, random_state=0).eval()
    >>> classifier(torch.zeros(5, 3, 8, 8), torch.tensor([0, 1, 2, 3, 8])).shape
    torch.Size([5, 2])
    """

    def __init__(
        self,
        grid: RegionGrid,
        num_classes: int,
        backbone: str | nn.Module = "resnet18",
        *,
        class_names: Sequence[str] | None = None,
        in_channels: int = 3,
        random_state: RandomState = None,
    ) -> None:
        super().__init__(grid, num_classes, class_names=class_names, in_channels=in_channels)
        self.backbone_name = backbone if isinstance(backbone, str) else None
        with seeded(draw_seed(random_state)):
            self.embedding = nn.Embedding(grid.num_regions, grid.patch_size**2)
            self.backbone = self._build_backbone(backbone)
            self._check_backbone()  # in which lazy modules draw their weights

    def _build_backbone(self, backbone: str | nn.Module) -> nn.Module:
        if backbone == "resnet18":
            return cifar_resnet18(self.in_channels + 1, self.num_classes)
        if isinstance(backbone, str):
            from torchvision import models

            # Of this module only: detection models would download weights.
            if backbone not in models.list_models(models):
                raise ValueError(f"backbone must be a module or a torchvision model's name, got {backbone!r}")
            network: nn.Module = models.get_model(backbone, weights=None, num_classes=self.num_classes)
        elif isinstance(backbone, nn.Module):
            network = copy.deepcopy(backbone)
        else:
            raise TypeError(f"backbone must be a module or a torchvision model's name, got {type(backbone).__name__}")
        _widen_first_convolution(network, self.in_channels)
        return network

    def _check_backbone(self) -> None:
        """Run the backbone on empty patches, so that a wrong shape is an error here and not in training."""
        k = self.grid.patch_size
        # On a copy in eval mode: the trial must not change batch statistics or lazily made weights.
        trial = copy.deepcopy(self).eval()
        wanted = f"backbone must take N x {self.in_channels + 1} x {k} x {k} and give N x {self.num_classes} logits"
        try:
            with torch.no_grad():
                logits = trial(torch.zeros(2, self.in_channels, k, k), torch.zeros(2, dtype=torch.long))
        except (RuntimeError, ValueError, TypeError) as error:
            raise ValueError(f"{wanted}; on such patches it failed: {error}") from error
        if not isinstance(logits, Tensor) or logits.shape != (2, self.num_classes):
            raise ValueError(f"{wanted}, got {tuple(logits.shape) if isinstance(logits, Tensor) else type(logits)}")

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments beyond grid, classes and channels; None for a user's module."""
        return {"backbone": self.backbone_name}

    def forward(self, patches: Tensor, region: Tensor) -> Tensor:
        """Classify patches; see `RegionClassifier.forward`."""
        k = self.grid.patch_size
        indicator = self.embedding(region).view(-1, 1, k, k)
        logits: Tensor = self.backbone(torch.cat([self.normalize(patches), indicator], 1)) / self.temperature
        return logits

    def forward_grid(self, images: Tensor, *, regions_per_pass: int = 256, progress: Progress = iter) -> Tensor:
        """Classify every region of whole images; see `RegionClassifier.forward_grid`.

        Without gradients, in eval mode and for 1,000 patches or more, a copy of the network with channels-last weights
        is used: the same function to rounding, and faster on most processors (``examples/benchmarks/speed.py`` measures
        it).
        """
        fast = self
        # The copy costs as much as some hundred patches.
        if not (torch.is_grad_enabled() or self.training) and len(images) * self.grid.num_regions >= 1000:
            fast = copy.deepcopy(self).to(memory_format=torch.channels_last)
        if self.device.type == "cpu":
            # The output of a layer of more pixels would have left the processor's cache when the next one reads it.
            regions_per_pass = min(regions_per_pass, max(1, 2**16 // self.grid.patch_size**2))
        return forward_regions(fast, self.grid, images, regions_per_pass=regions_per_pass, progress=progress)


class _Convolution(NamedTuple):
    """One unpadded convolution: kernel, stride on a patch, and stride and dilation on a whole image."""

    kernel: int
    stride: int
    dense_stride: int
    dilation: int


def plan_convolutions(patch_size: int, stride: int) -> list[_Convolution]:
    """Choose unpadded convolutions that turn a k x k patch into one pixel and use each of its pixels.

    On a patch they step by 2 until 8 pixels or fewer are left, then shrink by kernels of 3. On a whole image, a step
    beyond the grid's stride becomes a dilation of the following convolutions, and the stride of the last one is chosen
    so that the outputs are one stride of the grid apart.

    Parameters
    ----------
    patch_size, stride : int
        Of the grid, in pixels.

    Returns
    -------
    list of _Convolution
    """
    left, patch_step, dense_step = patch_size, 1, 1
    plan: list[_Convolution] = []
    while left > 1:
        even = left % 2 == 0
        # Kernels of 3 (for an even number of pixels 4) at stride 2 leave no pixel out. Of 8 pixels or fewer, an even
        # number takes its kernel of 2 first: 4 pixels go as 2 x 2, then 3 x 3.
        kernel, step = (3 + even, 2) if left > 8 else (3 - even, 1)
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
    "a trous" algorithm). The region's embedding is added to its features before a head of 1 x 1 convolutions.

    One map of a 128 px image (k = 32, stride 2, 49 x 49 regions) takes 0.96 GMAC, where the paper's ResNet18 takes 2401
    passes of 0.56 GMAC; one of a 64 px image (k = 16, stride 1, 49 x 49 regions) takes 0.53 GMAC. In eval mode each
    normalisation is folded into its convolution. ``examples/benchmarks/speed.py`` times it.

    Parameters
    ----------
    grid : RegionGrid
        The convolutions are chosen for its patch size and stride, which may be any.
    num_classes : int
    width : int, default=32
        Channels of the first convolution; the next ones have 2, 3, then 4 times as many.
    class_names, in_channels
        As in `RegionClassifier`.
    random_state : int, NumPy generator or None
        Decides the initial weights.

    Raises
    ------
    ValueError
        If `width` is below 1.

    See Also
    --------
    PatchRegionClassifier : Any network, patch by patch.

    Examples
    --------
    >>> classifier = DenseRegionClassifier(RegionGrid(64, 16, 1), num_classes=2, random_state=0).eval()
    >>> classifier.forward_grid(torch.zeros(1, 3, 64, 64)).shape
    torch.Size([1, 2, 49, 49])
    """

    # On 600 to 3,000 faces, 600 steps were too few for the maps of hard attributes, and 2,400 overfitted.
    recipe = Recipe(
        epochs=8, batch_size=128, positions_per_image=4, lr=4e-3, weight_decay=0.01, schedule="onecycle", min_steps=1200
    )

    def __init__(
        self,
        grid: RegionGrid,
        num_classes: int,
        *,
        width: int = 32,
        class_names: Sequence[str] | None = None,
        in_channels: int = 3,
        random_state: RandomState = None,
    ) -> None:
        super().__init__(grid, num_classes, class_names=class_names, in_channels=in_channels)
        if width < 1:
            raise ValueError(f"width must be at least 1, got {width}")
        self.width = width
        self._plan = plan_convolutions(grid.patch_size, grid.stride)
        widths = [in_channels, *(width * min(depth, 4) for depth in range(1, len(self._plan) + 1))]
        with seeded(draw_seed(random_state)):
            self.convolutions: Any = nn.ModuleList(
                nn.Conv2d(wide_in, wide_out, step.kernel, bias=False)
                for step, wide_in, wide_out in zip(self._plan, widths[:-1], widths[1:], strict=True)
            )
            self.norms: Any = nn.ModuleList(nn.BatchNorm2d(wide) for wide in widths[1:])
            self.embedding = nn.Embedding(grid.num_regions, widths[-1])
            nn.init.normal_(self.embedding.weight, std=0.3)
            self.head = nn.Sequential(
                nn.Conv2d(widths[-1], widths[-1], 1), nn.ReLU(), nn.Conv2d(widths[-1], num_classes, 1)
            )

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments beyond grid, classes and channels."""
        return {"width": self.width}

    def _features(self, images: Tensor, *, dense: bool) -> Tensor:
        # Most convolutions on CPUs and GPUs are fastest with channels last.
        features = self.normalize(images).contiguous(memory_format=torch.channels_last)
        for step, convolution, norm in zip(self._plan, self.convolutions, self.norms, strict=True):
            stride, dilation = (step.dense_stride, step.dilation) if dense else (step.stride, 1)
            weight, shift = convolution.weight, None
            if not norm.training:
                # In eval mode the normalisation, a factor and shift for each channel, is folded into the convolution.
                scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
                weight = (weight * scale[:, None, None, None]).contiguous(memory_format=torch.channels_last)
                shift = norm.bias - norm.running_mean * scale
            features = F.conv2d(features, weight, shift, stride=stride, dilation=dilation)
            features = F.relu_(norm(features) if norm.training else features)
        return features

    def forward(self, patches: Tensor, region: Tensor) -> Tensor:
        """Classify patches; see `RegionClassifier.forward`."""
        features = self._features(patches, dense=False) + self.embedding(region)[:, :, None, None]
        logits: Tensor = self.head(features).flatten(1) / self.temperature
        return logits

    def forward_grid(self, images: Tensor, *, regions_per_pass: int = 256, progress: Progress = iter) -> Tensor:
        """Classify every region of whole images in one pass; `regions_per_pass` has no effect here."""
        self.grid.check_images(images)
        (images,) = progress([images])  # one pass, so one step of the bar
        place = self.embedding.weight.T.unflatten(1, self.grid.shape)
        logits: Tensor = self.head(self._features(images, dense=True) + place).contiguous() / self.temperature
        return logits

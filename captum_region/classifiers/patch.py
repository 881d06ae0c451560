"""PatchRegionClassifier: any image classifier, patch by patch."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from captum_region.classifiers.base import Progress, RegionClassifier, forward_regions
from captum_region.evaluation import evaluating
from captum_region.first_layer import widen_first_layer
from captum_region.grid import RegionGrid
from captum_region.randomness import RandomState, draw_seed, seeded


def cifar_resnet18(in_channels: int, num_classes: int) -> nn.Module:
    """Return torchvision's ResNet18 in its CIFAR form: a 3 x 3 first convolution of stride 1, no max pooling."""
    from torchvision.models import resnet18  # takes seconds to import, which the dense kind need not wait for

    network: Any = resnet18(num_classes=num_classes)
    network.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    return network


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
    >>> from captum_region import RegionGrid
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
        widen_first_layer(network, self.in_channels)
        return network

    def _check_backbone(self) -> None:
        """Run the backbone on empty patches, so that a wrong shape is an error here and not in training."""
        k = self.grid.patch_size
        # In eval mode, in which batch statistics stay; of lazy modules it makes the weights.
        wanted = f"backbone must take N x {self.in_channels + 1} x {k} x {k} and give N x {self.num_classes} logits"
        try:
            with evaluating(self), torch.no_grad():
                logits = self(torch.zeros(2, self.in_channels, k, k), torch.zeros(2, dtype=torch.long))
        except (RuntimeError, ValueError, TypeError, AssertionError) as error:
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
        found = self.backbone(torch.cat([self.normalize(patches), indicator], 1))
        # In training, some networks give those of auxiliary heads too, such as torchvision's googlenet.
        return getattr(found, "logits", found) / self.temperature

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

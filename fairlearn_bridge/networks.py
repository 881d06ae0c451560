"""The networks of `ImageClassifier`: the paper's small one, and pretrained ones with weights from a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from captum_region.evaluation import evaluating
from captum_region.segmentation.weights import PACKAGED, load_packaged, read_weights

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

# What torchvision's weights were trained with; EfficientNet-Lite0's with 0.5 and 0.5.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_HALF = (0.5, 0.5, 0.5)
# Heads that help only in training from nothing.
_AUXILIARY = ("aux1", "aux2", "AuxLogits")


class SmallCNN(nn.Module):
    """The target classifier of De Coninck et al. 2024: three convolutions, three linear layers, much dropout.

    Three blocks of 5 x 5 convolution ("same"), dropout 0.1, batch normalisation, 2 x 2 max pooling and LeakyReLU 0.1,
    with 6, 12 and 24 channels; then 1000 and 100 units, each with dropout 0.5 and LeakyReLU 0.1 (section 4.1, and the
    authors' code for what it leaves out).

    Parameters
    ----------
    image_shape : (int, int, int)
        Channels, height and width. A side of fewer than 8 pixels is not pooled.
    num_classes : int

    See Also
    --------
    ImageClassifier : Trains it.

    References
    ----------
    De Coninck, Leroux, Simoens, "Mitigating Bias Using Model-Agnostic Data Attribution", CVPR Workshops 2024.
    """

    def __init__(self, image_shape: Sequence[int], num_classes: int) -> None:
        super().__init__()
        channels, height, width = image_shape
        pool = tuple(2 if side >= 8 else 1 for side in (height, width))
        layers: list[nn.Module] = []
        for narrow, wide in ((channels, 6), (6, 12), (12, 24)):
            layers += [
                nn.Conv2d(narrow, wide, 5, padding=2),
                nn.Dropout(0.1),
                nn.BatchNorm2d(wide),
                nn.MaxPool2d(pool),
                nn.LeakyReLU(0.1),
            ]
        layers.append(nn.Flatten())
        for narrow, wide in ((24 * (height // pool[0] ** 3) * (width // pool[1] ** 3), 1000), (1000, 100)):
            layers += [nn.Linear(narrow, wide), nn.Dropout(0.5), nn.LeakyReLU(0.1)]
        self.layers = nn.Sequential(*layers, nn.Linear(100, num_classes))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, N x num_classes, for images in [0, 1], N x C x H x W."""
        return self.layers(images * 2 - 1)


class PretrainedClassifier(nn.Module):
    """A classifier of torchvision, or EfficientNet-Lite0, with weights from a file and a last layer of its own.

    Images are normalised inside by `mean` and `std`, which are buffers; grey ones are given to all three colours.
    ``ImageClassifier("resnet18", module__weights="resnet18.safetensors", module__freeze=True)`` trains one.

    Parameters
    ----------
    backbone : str
        A classifier of ``torchvision.models``, such as ``"resnet18"``, or ``"efficientnet-lite0"``, which needs
        ``pip install 'captum-region[stacks]'``.
    image_shape : (int, int, int)
        Channels, 1 or 3, height and width.
    num_classes : int
    weights : path or "efficientnet-lite0", optional
        A state dict, as safetensors or as torch saves it; reading it executes no code. Of a head for other classes the
        weights are left out. Or those of ImageNet that the extra has for EfficientNet-Lite0. By default random.
    freeze : bool, default=False
        Train the last layer alone: the rest keeps its weights, and its batch statistics, and has no dropout.
    mean, std : sequence of 3 floats, optional
        By default ImageNet's, as torchvision's weights want them; 0.5 for EfficientNet-Lite0.

    Raises
    ------
    TypeError, ValueError
        If a parameter does not fit, or the weights are not those of the backbone.
    ImportError
        If timm or the package with EfficientNet-Lite0's weights is missing.

    See Also
    --------
    ImageClassifier : Trains it.

    Examples
    --------
    >>> network = PretrainedClassifier("resnet18", (3, 32, 32), 2, freeze=True)
    >>> [name for name, weight in network.named_parameters() if weight.requires_grad]
    ['network.fc.weight', 'network.fc.bias']
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: str,
        image_shape: Sequence[int],
        num_classes: int,
        *,
        weights: str | os.PathLike[str] | None = None,
        freeze: bool = False,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if image_shape[0] not in (1, 3):
            raise ValueError(f"image_shape must have 1 or 3 channels for {backbone}, got {tuple(image_shape)}")
        self.backbone, self.freeze = backbone, freeze
        self.network = _build(backbone, num_classes, image_shape[1])
        default = (_HALF, _HALF) if backbone == PACKAGED else (IMAGENET_MEAN, IMAGENET_STD)
        for name, given, usual in (("mean", mean, default[0]), ("std", std, default[1])):
            self.register_buffer(name, _per_colour(name, usual if given is None else given))
        self.head = _head_of(self.network)
        if weights is not None:
            self._load(weights)
        if freeze:
            self.network.requires_grad_(False)
            self.network.get_submodule(self.head).requires_grad_(True)
        self._check_size(image_shape)

    def _check_size(self, image_shape: Sequence[int]) -> None:
        """Run the network on an empty image, so that a wrong size is an error here and not in training."""
        if next(self.parameters()).is_meta:
            return
        try:
            with evaluating(self), torch.no_grad():
                self(torch.zeros(1, *image_shape))
        except (RuntimeError, ValueError, AssertionError) as error:
            raise ValueError(f"{self.backbone} cannot take images of {tuple(image_shape)}: {error}") from error

    def _load(self, weights: str | os.PathLike[str]) -> None:
        if weights == PACKAGED:
            if self.backbone != PACKAGED:
                raise ValueError(f"weights {PACKAGED!r} are for the backbone of that name, got {self.backbone!r}")
            whole = _build(self.backbone, 1000, 224)
            load_packaged(whole)
            kept = whole.state_dict()
        else:
            kept = {name.removeprefix("module."): value for name, value in read_weights(weights).items()}
        own = self.network.state_dict()
        kept = {name: value for name, value in kept.items() if not name.startswith(_AUXILIARY)}
        for name in (f"{self.head}.weight", f"{self.head}.bias"):
            if name in own and (name not in kept or kept[name].shape != own[name].shape):
                kept[name] = own[name]  # of other classes
        if differing := sorted({*kept} ^ {*own}):
            raise ValueError(
                f"weights must be those of {self.backbone}, {weights} differs in {', '.join(differing[:3])} ..."
            )
        try:
            self.network.load_state_dict(kept)
        except RuntimeError as error:
            raise ValueError(f"weights must fit {self.backbone}, those of {weights} do not: {error}") from error
        for name, value in self.network.state_dict().items():
            if not bool(value.isfinite().all()):
                raise ValueError(f"weights must be finite, {name} of {weights} is not")

    def config(self) -> dict[str, Any]:
        """Return the arguments that, with image shape and classes, make a network of these weights' shapes."""
        return {"backbone": self.backbone, "freeze": self.freeze}

    def train(self, mode: bool = True) -> Self:
        """Set the mode; what is frozen stays in eval mode."""
        super().train(mode)
        if self.freeze:
            self.network.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, N x num_classes, for images in [0, 1], N x C x H x W."""
        return self.network((images - self.mean) / self.std)


def _per_colour(name: str, values: Sequence[float]) -> Tensor:
    found = torch.tensor(values, dtype=torch.float32, device="cpu")
    if found.shape != (3,) or not bool(found.isfinite().all()) or (name == "std" and not bool((found > 0).all())):
        raise ValueError(f"{name} must be 3 numbers{' above 0' * (name == 'std')}, got {values!r}")
    return found[:, None, None]


def _build(backbone: str, num_classes: int, height: int) -> nn.Module:
    if backbone == PACKAGED:
        try:
            import timm
        except ImportError as error:
            raise ImportError(
                f"timm must be installed for the backbone {PACKAGED!r}: pip install 'captum-region[stacks]'"
            ) from error
        return timm.create_model("tf_efficientnet_lite0", num_classes=num_classes)
    from torchvision import models  # takes seconds

    if not isinstance(backbone, str) or backbone not in models.list_models(models):
        raise ValueError(f"backbone must be {PACKAGED!r} or a classifier of torchvision.models, got {backbone!r}")
    more: dict[str, Any] = {"image_size": height} if backbone.startswith("vit_") else {}
    if backbone in ("googlenet", "inception_v3"):
        more = {"init_weights": False, "aux_logits": False}  # or they return several outputs in training
    try:
        built: Any = models.get_model(backbone, weights=None, num_classes=num_classes, **more)
    except AssertionError as error:
        raise ValueError(f"{backbone} cannot take images {height} pixels high: {error}") from error
    return built


def _head_of(network: nn.Module) -> str:
    """Return the name of the last layer with weights, which gives the logits."""
    layers: list[str] = [name for name, layer in network.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    return layers[-1]

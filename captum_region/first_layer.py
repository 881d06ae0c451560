"""The first convolution of a network: widened, or freed of what it learnt about colours.

A network for stacks of slices often takes the previous, the centre and the next slice as the red, green and blue of an
encoder pretrained on photographs. Its first layer treats the three differently, for no reason in the stack.
"""

import copy
import functools
import logging
import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from captum_region.randomness import RandomState, draw_seed
from captum_region.validation import check_count

__all__ = ["channel_normalization", "find_first_layer", "neutralize_first_layer", "widen_first_layer"]

# out x channels x height x width -> out x channels x height x width, of as many channels as are wanted
Neutralizer = Callable[[Tensor], Tensor]

TIES = ("none", "uniform", "reflect")

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
_CONSTANTS = re.compile(r"(?:(?:pixel|image|img|input|channel)_)?(?:mean|std)s?")
_logger = logging.getLogger(__name__)


def find_first_layer(
    model: nn.Module, layer: str | None = None, in_channels: int | None = None
) -> tuple[str, nn.Conv2d]:
    """Return the name of a network's first convolution, and the convolution.

    Parameters
    ----------
    model : nn.Module
    layer : str, optional
        Its name, as in ``model.named_modules()``. By default the first convolution in the order in which the model's
        modules were registered, which for nearly all networks is the one that sees the image.
    in_channels : int, optional
        The number of channels that it takes: convolutions with another number are passed over. With `layer`, it must
        have this number.

    Returns
    -------
    str
        Its name, for example ``"encoder.conv1"``; empty if the model itself is the convolution.
    nn.Conv2d
        With one group and initialised weights.

    Raises
    ------
    TypeError
        If `model` is not a module.
    ValueError
        If there is no convolution, or the first one cannot be treated: it has several groups (is depthwise), is not a
        Conv2d (but for example a Conv3d, or quantised), or is lazy and not yet initialised. The message names it.

    See Also
    --------
    neutralize_first_layer : Makes it treat its channels alike.
    captum_region.channels.kernel_asymmetry : How differently it treats them.

    Examples
    --------
    >>> network = nn.Sequential(nn.BatchNorm2d(3), nn.Sequential(nn.Conv2d(3, 8, 3)))
    >>> find_first_layer(network)
    ('1.0', Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1)))
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    convolutions = {name: module for name, module in model.named_modules() if _is_convolution(module)}
    if layer is None:
        fitting = [name for name, module in convolutions.items() if in_channels in (None, module.in_channels)]
        if not fitting:
            which = "" if in_channels is None else f" with {in_channels} input channels"
            raise ValueError(f"model must have a Conv2d{which}, it has {_named(convolutions)}")
        layer = fitting[0]
    elif layer not in (modules := dict(model.named_modules())):
        raise ValueError(f"layer must name a module of the model, got {layer!r}; it has {_named(convolutions)}")
    else:
        convolutions[layer] = modules[layer]
    found = convolutions[layer]
    _check_convolution(layer, found)
    if in_channels not in (None, found.in_channels):
        raise ValueError(f"layer {layer!r} must take {in_channels} channels, it takes {found.in_channels}")
    return layer, found


def _is_convolution(module: Any) -> bool:
    # Quantised convolutions are no subclass of torch's others; they have no modules within, as blocks have.
    is_leaf = isinstance(module, nn.Module) and not next(module.children(), None)
    is_other = is_leaf and hasattr(module, "in_channels") and hasattr(module, "kernel_size")
    return isinstance(module, nn.modules.conv._ConvNd) or is_other


def _named(convolutions: Mapping[str, Any]) -> str:
    few = [f"{name!r} ({type(module).__name__}, {module.in_channels})" for name, module in convolutions.items()][:4]
    return "no convolution" if not few else f"{', '.join(few)}{', ...' if len(convolutions) > len(few) else ''}"


def _check_convolution(name: str, layer: Any) -> None:
    refused = None
    if not isinstance(layer, nn.Conv2d):
        module = type(layer).__module__
        refused = f"a quantised {type(layer).__name__}" if "quantized" in module else f"a {type(layer).__name__}"
    elif isinstance(layer.weight, nn.parameter.UninitializedParameter):
        refused = "lazy and not initialised: run the model once on an image first"
    elif layer.groups != 1:
        kind = "depthwise, with" if layer.groups == layer.in_channels else "one with"
        refused = f"{kind} groups={layer.groups}"
    if refused:
        raise ValueError(f"layer {name!r} must be a Conv2d with groups=1, it is {refused}; name another as layer")


def neutralize_first_layer(
    model: nn.Module,
    how: str | Neutralizer = "uniform",
    layer: str | None = None,
    in_place: bool = False,
    *,
    in_channels: int | None = None,
    tie: str = "none",
    random_state: RandomState = None,
) -> nn.Module:
    """Free a network's first convolution of what it learnt about colours, so that it can start on slices unbiased.

    Only this layer's weight changes. Its type, device, bias, ``requires_grad`` and the keys of the model's state dict
    are kept. `find_first_layer` tells which layer it is; it is also logged, at level INFO.

    Parameters
    ----------
    model : nn.Module
        Pretrained, for example an encoder for RGB images, or a whole segmentation network.
    how : {"uniform", "reflect", "green", "luma", "reinit", "none"} or callable, default="uniform"
        What replaces the kernels R, G, B (of a layer of any number of channels: its first, ..., last):

        - ``"uniform"``: each channel gets their mean. The remedy of the paper.
        - ``"reflect"``: channels at the same distance from the centre share their mean, and the centre keeps its
          kernel. Previous and next are then alike, and the centre may count more. Needs an odd number.
        - ``"green"``: each channel gets G, scaled filter by filter so that the response to a grey stack stays as near
          (in least squares) to what it was as G allows.
        - ``"luma"``: the same with 0.299 R + 0.587 G + 0.114 B.
        - ``"reinit"``: new random kernels, drawn as torch draws those of a new layer.
        - ``"none"``: they stay.
        - A callable gets a copy of the weight, out x channels x height x width, and returns the new one.
    layer : str, optional
        The name of the convolution, see `find_first_layer`.
    in_place : bool, default=False
        Change `model` itself; by default a copy is changed.
    in_channels : int, optional
        How many slices the network is to take, if not as many as it takes now; for example 5 for one pretrained on RGB
        images. The kernels are made so that a grey stack, the same slice in all channels, gets the response that it
        had: ``"uniform"`` gives each channel the sum over this number, ``"reflect"`` leaves the centre its kernel and
        divides the rest among the others, ``"green"`` and ``"luma"`` are scaled as above. ``"none"`` repeats the
        kernels, R, G, B, R, G, each times the old number over the new, as timm and segmentation-models-pytorch do;
        this keeps the response only roughly, and gives the centre of five slices B. A callable must return so many
        channels.
    tie : {"none", "uniform", "reflect"}, default="none"
        Keep the channels equal, or previous and next, in training too, by a parametrization
        (`torch.nn.utils.parametrize`). It also takes away an asymmetry that the data call for. A tied layer's key in
        the state dict is ``parametrizations.weight.original``, and a model is saved by its state dict.
        ``torch.nn.utils.parametrize.remove_parametrizations(layer, "weight")`` unties it.
    random_state : int, NumPy generator or None
        For ``how="reinit"``.

    Returns
    -------
    nn.Module
        `model` or its copy. With another number of channels, the layer has a new parameter: make the optimiser after
        this.

    Raises
    ------
    TypeError
        If `model` is not a module, or `how` returns no tensor.
    ValueError
        If an argument is unknown or does not fit the layer, `how` gives a weight of another shape or one that is not
        finite, or the layer cannot be treated, see `find_first_layer`; also one whose weight is already computed from
        other parameters (tied, pruned, or with weight norm).

    Warns
    -----
    UserWarning
        If the model itself normalises its input differently by channel, which is a second source of asymmetry; see
        `channel_normalization`.

    See Also
    --------
    captum_region.channels.ChannelAttribution : Whether a network leans to one slice.

    Notes
    -----
    Averages keep the response to a grey stack, not the energy: the filters that tell colours apart vanish. Where the
    slices differ, the statistics of the layers behind it shift, so train (or recalibrate batch norm) after this.
    Networks with weight standardisation keep the symmetry, but not the response.

    References
    ----------
    Molnar, Szabo, Horvath, "Unintended Bias in 2D+ Image Segmentation and Its Effect on Attention Asymmetry", arXiv
    2505.14105. The other choices, and the rules for other numbers of slices, are ours.

    Examples
    --------
    >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 1))
    >>> neutral = neutralize_first_layer(network)
    >>> stack = torch.rand(1, 3, 8, 8)
    >>> torch.allclose(neutral(stack), neutral(stack.flip(1)), atol=1e-6)
    True
    >>> neutralize_first_layer(network, "reflect", in_channels=5)(torch.rand(1, 5, 8, 8)).shape
    torch.Size([1, 2, 6, 6])
    """
    if tie not in TIES:
        raise ValueError(f"tie must be one of {', '.join(TIES)}, got {tie!r}")
    if tie == "uniform" and how == "reflect":
        raise ValueError('how="reflect" would have no effect, as tie="uniform" makes all channels equal')
    name, convolution = find_first_layer(model, layer)
    width = check_count("in_channels", convolution.in_channels if in_channels is None else in_channels)
    if tie == "reflect":
        _check_odd("tie", width)
    weight = _neutral(name, convolution, how, width, random_state)
    changed: Any = model if in_place else copy.deepcopy(model)
    treated = changed.get_submodule(name)
    assert isinstance(treated, nn.Conv2d)
    _set_weight(treated, weight)
    from captum_region.segmentation import SegmentationNetwork  # which all of segmentation comes with

    if isinstance(changed, SegmentationNetwork) and changed.in_channels != width:
        changed.set_in_channels(width)
    if tie != "none":
        parametrize.register_parametrization(treated, "weight", _Tie(tie))
    _logger.info("first layer: %r, how=%r, tie=%r", name, how, tie)
    uneven = dict(_differing(_applied(model), _lengths(model)))
    if uneven and not (how == "none" and tie == "none"):
        warnings.warn(
            f"the model's normalisation differs by channel, a second source of asymmetry: {_described(uneven)}; "
            "give all slices the same mean and standard deviation",
            UserWarning,
            stacklevel=2,
        )
    return changed


def _neutral(name: str, layer: nn.Conv2d, how: str | Neutralizer, width: int, random_state: RandomState) -> Tensor:
    """Return the new weight of a layer, checked, in a type of 32 bits or more."""
    if not callable(how) and how not in (names := (*_RULES, "reinit")):
        raise ValueError(f"how must be a callable or one of {', '.join(names)}, got {how!r}")
    if "weight" not in dict(layer.named_parameters(recurse=False)):
        raise ValueError(
            f"layer {name!r} must have a weight of its own; it is computed from other parameters, "
            "as by a tie, weight norm or pruning: remove that first"
        )
    old = layer.weight.detach().clone()
    if old.dtype in (torch.float16, torch.bfloat16):
        old = old.float()
    wanted = (len(old), width, *old.shape[2:])
    if callable(how):
        new = how(old)
        if not isinstance(new, Tensor):
            raise TypeError(f"how must return a tensor, got {type(new).__name__}")
    elif how == "reinit":
        generator = torch.Generator().manual_seed(draw_seed(random_state))
        new = nn.init.kaiming_uniform_(torch.empty(wanted), a=math.sqrt(5), generator=generator)
    else:
        new = _RULES[how](old, width)
    if new.shape != wanted:
        raise ValueError(f"how must give layer {name!r} a weight of shape {wanted}, got {tuple(new.shape)}")
    if not bool(new.isfinite().all()):
        raise ValueError(f"how must give layer {name!r} a finite weight, got NaN or infinity")
    return new.detach()


def _unchanged(weight: Tensor, width: int) -> Tensor:
    channels = weight.shape[1]
    if width == channels:
        return weight
    if width == 1:
        return weight.sum(1, keepdim=True)
    return weight[:, torch.arange(width, device=weight.device) % channels] * (channels / width)


def _uniform(weight: Tensor, width: int) -> Tensor:
    return (weight.sum(1, keepdim=True) / width).expand(-1, width, -1, -1)


def _reflect(weight: Tensor, width: int) -> Tensor:
    channels = weight.shape[1]
    _check_odd("how", channels)
    _check_odd("how", width)
    if width == channels:
        return (weight + weight.flip(1)) / 2
    if width == 1:
        return weight.sum(1, keepdim=True)
    if channels == 1:
        raise ValueError('how="reflect" needs a layer of 3 channels or more, it has 1; use "uniform"')
    centre = weight[:, channels // 2]
    wide = ((weight.sum(1) - centre) / (width - 1))[:, None].repeat(1, width, 1, 1)
    wide[:, width // 2] = centre
    return wide


def _check_odd(argument: str, channels: int) -> None:
    if channels % 2 == 0:
        raise ValueError(f'{argument}="reflect" needs an odd number of channels, which has a centre; got {channels}')


def _colour(mixture: tuple[float, float, float], weight: Tensor, width: int) -> Tensor:
    """Return a mixture of R, G and B in each channel, scaled for grey stacks.

    The factor is that of least squares, not the ratio of sums: both are exact for proportional kernels, but the sum of
    an edge filter is near 0, and a ratio of two such would be any number.
    """
    if weight.shape[1] != 3:
        raise ValueError(f'how="green" and "luma" need a layer for RGB, of 3 channels; it has {weight.shape[1]}')
    kernel = (weight * weight.new_tensor(mixture)[:, None, None]).sum(1, keepdim=True)
    total, places = weight.sum(1, keepdim=True), (1, 2, 3)
    energy = kernel.square().sum(places, keepdim=True)
    scale = (kernel * total).sum(places, keepdim=True) / energy.clamp_min(torch.finfo(energy.dtype).tiny)
    return (scale * kernel / width).expand(-1, width, -1, -1)


_RULES: dict[str, Callable[[Tensor, int], Tensor]] = {
    "uniform": _uniform,
    "reflect": _reflect,
    "green": functools.partial(_colour, (0.0, 1.0, 0.0)),
    "luma": functools.partial(_colour, _LUMA),
    "none": _unchanged,
}


def _set_weight(layer: nn.Conv2d, weight: Tensor) -> None:
    old = layer.weight
    if weight.shape == old.shape:
        # In place: an optimiser that knows the parameter still does.
        with torch.no_grad():
            old.copy_(weight)
        return
    layer.in_channels = weight.shape[1]
    new = weight.to(old, copy=True).contiguous()
    layer.weight = nn.Parameter(new, requires_grad=old.requires_grad)


class _Tie(nn.Module):
    """Makes channels equal: all of them, or those at the same distance from the centre."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, weight: Tensor) -> Tensor:
        if self.kind == "reflect":
            return (weight + weight.flip(1)) / 2
        return weight.mean(1, keepdim=True).expand_as(weight)

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight

    def extra_repr(self) -> str:
        return self.kind


def widen_first_layer(model: nn.Module, in_channels: int) -> None:
    """Let a model take one channel more than `in_channels`, by a zero weight in its first convolution, in place.

    The output stays the same until training changes that weight.

    Parameters
    ----------
    model : nn.Module
        Left as it is if it has no Conv2d, or the first has several groups or does not take `in_channels` channels.
    in_channels : int

    Examples
    --------
    >>> network = nn.Sequential(nn.Conv2d(3, 8, 3))
    >>> widen_first_layer(network, 3)
    >>> network[0].weight.shape, network[0].weight[:, 3].any().item()
    (torch.Size([8, 4, 3, 3]), False)
    """
    layer = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    if layer is not None and layer.in_channels == in_channels and layer.groups == 1:
        _set_weight(layer, F.pad(layer.weight.detach(), (0, 0, 0, 0, 0, 1)))
        layer.weight.requires_grad_()  # of a frozen model too: what the new channel is for has to be learnt


def channel_normalization(model: nn.Module) -> dict[str, tuple[float, ...]]:
    """Return the means and standard deviations of a model's input normalisation that differ by channel.

    They are a second source of asymmetry: with ImageNet's usual ones the same grey value enters a network as three
    different numbers. Give all slices the same.

    Parameters
    ----------
    model : nn.Module

    Returns
    -------
    dict of str to tuple of float
        The constants by where they were found: ``mean``, ``std``, ``pixel_mean`` and the like among the buffers and
        attributes of the modules (also torchvision's Normalize), and what the model says of the preparation of its
        images, such as timm's ``pretrained_cfg`` or a function from segmentation-models-pytorch. Empty if all channels
        are treated alike, or the normalisation happens elsewhere.

    Raises
    ------
    TypeError
        If `model` is not a module.

    Examples
    --------
    >>> from torchvision.transforms import Normalize
    >>> normalize = Normalize((0.485, 0.456, 0.406), (0.25, 0.25, 0.25))
    >>> channel_normalization(nn.Sequential(normalize, nn.Conv2d(3, 8, 3)))
    {'0.mean': (0.485, 0.456, 0.406)}
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    return dict(_differing([*_applied(model), *_recommended(model)], _lengths(model)))


def _lengths(model: nn.Module) -> set[int]:
    """Return how many channels a normalisation can have: a longer mean is something else."""
    first: Any = next(filter(_is_convolution, model.modules()), None)
    return {3} if first is None else {3, first.in_channels}


def _applied(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield what modules hold under the names of such constants."""
    for path, module in model.named_modules():
        for name, value in {**module._buffers, **module._parameters, **vars(module)}.items():
            if _CONSTANTS.fullmatch(name):
                yield f"{path}.{name}".lstrip("."), value


def _recommended(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield constants of configurations, transforms and functions that are attributes of modules."""
    seen: set[int] = set()  # timm has one configuration under two names
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if not name.startswith("_") and id(value) not in seen:
                seen.add(id(value))
                yield from _of_preparation(f"{path}.{name}".lstrip("."), value)


def _of_preparation(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, functools.partial):
        value = value.keywords
    elif isinstance(parts := getattr(value, "transforms", None), Sequence):  # torchvision's Compose
        for number, part in enumerate(parts):
            yield from _of_preparation(f"{path}.{number}", part)
        return
    elif not isinstance(value, Mapping | nn.ModuleDict):
        value = getattr(value, "__dict__", {})
    for name, constants in value.items():
        if isinstance(name, str) and _CONSTANTS.fullmatch(name):
            yield f"{path}.{name}", constants


def _differing(found: Any, lengths: set[int]) -> Iterator[tuple[str, tuple[float, ...]]]:
    for path, value in found:
        if not isinstance(value, Tensor | np.ndarray | list | tuple):
            continue
        try:
            numbers = np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value, dtype=float).ravel()
        except (TypeError, ValueError):  # a list of something else
            continue
        if numbers.size in lengths and np.ptp(numbers) > 0:
            yield path, tuple(round(number, 7) for number in numbers.tolist())  # float32 has no more digits


def _described(constants: Mapping[str, tuple[float, ...]]) -> str:
    return ", ".join(f"{name} = {values}" for name, values in constants.items())

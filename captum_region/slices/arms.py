"""The arms of a comparison: what is done to a network's first layer before it is trained on stacks."""

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from captum_region.evaluation import device_of
from captum_region.first_layer import find_first_layer, neutralize_first_layer

Change = Callable[[nn.Module], nn.Module]
Network = nn.Module | Callable[[int], nn.Module]


def _mirrored(weight: torch.Tensor) -> torch.Tensor:
    return weight.flip(1)


@dataclass(frozen=True)
class Arm:
    """One way to start.

    Attributes
    ----------
    description : str
    change : dict
        Arguments of `neutralize_first_layer`.
    own : callable, optional
        The user's: model -> model.
    mirrored : bool
        Reverse the order of the kernels too.
    flip_z : bool
        Reverse the order of the slices in half of the training patches.
    """

    description: str
    change: Mapping[str, Any] = field(default_factory=lambda: {"how": "none"})
    own: Change | None = None
    mirrored: bool = False
    flip_z: bool = False

    def applied(self, network: nn.Module, window: int, seed: int) -> nn.Module:
        """Return a network of this arm, which takes windows of `window` slices; `network` stays as it is."""
        with warnings.catch_warnings():
            # Who applies arms says it once for all.
            warnings.filterwarnings("ignore", message="the model's normalisation differs")
            if self.own is not None:
                made = self.own(copy.deepcopy(network))
                if not isinstance(made, nn.Module):
                    raise TypeError(f"arms must give a torch.nn.Module, got {type(made).__name__}")
                return made.eval()
            made = neutralize_first_layer(network, in_channels=window, random_state=seed, **self.change)
            if self.mirrored:
                neutralize_first_layer(made, _mirrored, in_place=True)
        return made.eval()


_ARMS = {
    "pretrained": Arm("the network as it is given: R, G and B see previous, centre and next"),
    "unchanged": Arm("the network as it is given, whatever its weights are"),
    "swapped": Arm(
        "the kernels in reverse order, of three slices R and B swapped: an asymmetry that turns with them is due to "
        "the weights",
        mirrored=True,
    ),
    "random": Arm("the first layer drawn anew", {"how": "reinit"}),
    "uniform": Arm("each slice gets the mean kernel of R, G and B", {"how": "uniform"}),
    "reflect": Arm(
        "slices as far from the centre get the same kernel, of three slices the mean of R and B; the centre keeps its "
        "own",
        {"how": "reflect"},
    ),
    "green": Arm("each slice gets the kernel of G, scaled", {"how": "green"}),
    "luma": Arm("each slice gets the kernels' mixture for grey values", {"how": "luma"}),
    "flipped": Arm("as given, and half of the training patches with their slices in reverse order", flip_z=True),
    "uniform tied": Arm(
        "uniform, and kept so in training: no slice can count more than another", {"how": "uniform", "tie": "uniform"}
    ),
    "reflect tied": Arm(
        "reflect, and kept so in training: previous and next cannot differ", {"how": "reflect", "tie": "reflect"}
    ),
}
ARMS: dict[str, str] = {name: arm.description for name, arm in _ARMS.items()}
"""The arms that `compare_first_layers` knows by name, each with what it is."""

# They compare what a layer learnt about colours, and mean nothing for one that has learnt nothing.
OF_COLOURS = ("pretrained", "swapped", "flipped", "green", "luma")


def arms_of(arms: Sequence[str] | Mapping[str, str | Change]) -> dict[str, Arm]:
    """Return arms by name; TypeError or ValueError if one is unknown."""
    if isinstance(arms, str) or not isinstance(arms, Sequence | Mapping):
        raise TypeError(f"arms must be names, or a mapping of names to names or callables, got {arms!r}")
    asked: Mapping[str, Any] = arms if isinstance(arms, Mapping) else dict(zip(arms, arms, strict=True))
    if not asked or len(asked) < len(arms):
        raise ValueError(f"arms must hold at least one arm, each once, got {list(arms)}")
    found = {}
    for name, value in asked.items():
        if callable(value):
            found[name] = Arm("your own", own=value)
        elif value in _ARMS:
            found[name] = _ARMS[value]
        else:
            raise ValueError(f"arms must be of {', '.join(_ARMS)}, or callables model -> model; got {value!r}")
    return found


def network_of(network: Network, seed: int) -> nn.Module:
    """Return the network of a seed, before anything is changed in it."""
    made = network(seed) if callable(network) and not isinstance(network, nn.Module) else network
    if not isinstance(made, nn.Module):
        raise TypeError(f"network must be a torch.nn.Module or a callable that makes one, got {type(made).__name__}")
    return made


def check_arms(arms: Mapping[str, Arm], network: Network, seed: int, window: int, size: int) -> None:
    """Raise an error if an arm cannot be made of the network, or takes no windows of `window` slices of a size."""
    check_pretrained(arms, network, seed)
    given = network_of(network, seed)
    for name, arm in arms.items():
        made = arm.applied(given, window, seed)
        if arm.own is None:
            continue
        images = torch.zeros(1, window, size, size, device=device_of(made))
        try:
            with torch.inference_mode():
                made(images)
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"arms must take windows of {window} slices, {name} does not: {error}") from error


def check_pretrained(arms: Mapping[str, Arm], network: Network, seed: int) -> None:
    """Raise ValueError for arms of colours if the network's first layer is drawn anew for each seed."""
    of_colours = [_ARMS[name] for name in OF_COLOURS]
    named = [name for name, arm in arms.items() if arm in of_colours]
    if not named or isinstance(network, nn.Module):
        return
    first, second = (find_first_layer(network_of(network, each))[1].weight for each in (seed, (seed + 1) % 2**32))
    if not torch.equal(first, second):
        raise ValueError(
            f"arms must leave out {', '.join(named)}: the first layer of network is random (it differs by seed), so it "
            "knows no colours; give pretrained weights, or compare random, uniform, reflect, or unchanged"
        )

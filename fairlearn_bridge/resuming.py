"""The state of a classifier's training, from which an interrupted one resumes."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from skorch import NeuralNet
from skorch.callbacks import Callback
from torch import Tensor, nn

from captum_region.io.snapshot import Snapshots, random_states, set_random_states

# Parts whose state each process has for itself, as they see its images alone.
_OWN = ("batch_transform", "loss_reduction")


class KeepState(Callback):  # type: ignore[misc]
    """Keeps the state of the training after an epoch; must be the last of the callbacks."""

    def __init__(self, snapshots: Snapshots) -> None:
        self.snapshots = snapshots

    def on_epoch_end(self, net: NeuralNet, **kwargs: Any) -> None:
        """Keep the state, if it is time."""
        if net.checkpoint_dir is not None and net.processes.from_main(self.snapshots.is_due):
            keep(net, self.snapshots, complete=False)


def keep(net: Any, snapshots: Snapshots, *, complete: bool) -> None:
    """Save the state of a training; each of its processes calls this, and the main one writes."""
    if net.checkpoint_dir is not None:
        state = state_of(net, complete=complete)
        net.processes.from_main(lambda: snapshots.save(lambda: state))


def state_of(net: Any, *, complete: bool) -> dict[str, Any]:
    """Return all that an `ImageClassifier`'s training needs to resume after an epoch."""
    states = {name: part.state_dict() for name, part in _parts_of(net).items()}
    return {
        "complete": complete,
        "parts": {name: state for name, state in states.items() if not name.startswith(_OWN)},
        "own": net.processes.of_each({name: state for name, state in states.items() if name.startswith(_OWN)}),
        # skorch's Freezer and Unfreezer set these once, in an epoch that is not run again.
        "trainable": {name: [one.requires_grad for one in each] for name, each in _parameters_of(net).items()},
        "history": list(net.history_),
        "callbacks": {name: _of_callback(callback) for name, callback in net.callbacks_},
        "random": (net.generator_.get_state(), random_states()),
    }


def load_state(net: Any, kept: dict[str, Any]) -> None:
    """Let a training go on where that was of which `state_of` gave this."""
    parts = _parts_of(net)
    for name, state in (kept["parts"] | kept["own"][net.processes.rank]).items():
        parts[name].load_state_dict(state)
    for name, each in _parameters_of(net).items():
        for parameter, is_trainable in zip(each, kept["trainable"][name], strict=True):
            parameter.requires_grad_(is_trainable)
    net.history_[:] = kept["history"]
    for name, callback in net.callbacks_:
        for attribute, (kind, value) in kept["callbacks"][name].items():
            if kind == "state_dict":
                getattr(callback, attribute).load_state_dict(value)
            else:
                setattr(callback, attribute, value)
    net.generator_.set_state(kept["random"][0])
    set_random_states(kept["random"][1])


def _parts_of(net: Any) -> dict[str, Any]:
    """Return what of a training has a ``state_dict``, by name; also what mitigators have made a partial of."""
    names = [f"{name}_" for name in net._modules + net._criteria + net._optimizers]
    found = {name: getattr(net, name) for name in [*names, *_OWN]}
    while name := next((name for name, part in found.items() if isinstance(part, partial)), None):
        part = found.pop(name)
        found |= {f"{name}.{at}": each for at, each in enumerate((part.func, *part.args))}
    return {name: part for name, part in found.items() if hasattr(part, "state_dict")}


def _parameters_of(net: Any) -> dict[str, list[nn.Parameter]]:
    return {name: [*part.parameters()] for name, part in _parts_of(net).items() if isinstance(part, nn.Module)}


def _of_callback(callback: Callback) -> dict[str, Any]:
    """Return what of a callback's state can be kept: names to ("state_dict" or "value", that)."""
    state: dict[str, Any] = {}
    for name, value in vars(callback).items():
        if name.endswith("_") and hasattr(value, "state_dict") and not isinstance(value, type):
            state[name] = "state_dict", value.state_dict()
        elif name.endswith("_") and isinstance(value, int | float | str | Tensor | Mapping | None):
            state[name] = "value", value
    return state

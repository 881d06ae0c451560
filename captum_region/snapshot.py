"""The state of a training, kept as it goes: one safetensors file, which holds no code and is whole or not there."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from joblib.hashing import NumpyHasher
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from captum_region.files import replacing

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator

FORMAT = 1
# A snapshot is taken when the training since the last one took this many times as long as that one: 5 % at most.
_SHARE = 20


class _Hasher(NumpyHasher):  # type: ignore[misc]
    """joblib's hash, the same in every process for modules too: a tensor's pickle is not."""

    def save(self, obj: Any) -> None:
        if isinstance(obj, Tensor):
            obj = type(obj).__name__, str(obj.dtype), obj.detach().cpu().numpy()
        super().save(obj)


def digest(value: Any) -> str:
    """Return the MD5 digest of whatever pickles, as hex; equal arrays agree, be they memory maps or not.

    Examples
    --------
    >>> digest({"a": torch.zeros(2), "b": None}) == digest({"b": None, "a": torch.zeros(2)})
    True
    """
    found: str = _Hasher("md5", coerce_mmap=True).hash(value)
    return found


class Snapshots:
    """Keeps the state of one training in a folder, under a name made of all that decides the training.

    So a training that was stopped finds its state when it is begun again, and another one never takes it for its own.

    Parameters
    ----------
    folder : path or None
        Made, with its parents. With None nothing is kept.
    key : callable
        Gives what decides the training: see `digest`. Called only where something is kept.
    """

    def __init__(self, folder: str | os.PathLike[str] | None, key: Callable[[], Any]) -> None:
        self.path = None if folder is None else Path(folder) / f"{digest(key())}.safetensors"
        self._next = 0.0

    def load(self) -> Any:
        """Return the state that was kept last, or None.

        Raises
        ------
        ValueError
            If the file is damaged or of another format version.
        """
        if self.path is None or not self.path.exists():
            return None
        with self.restoring(), safe_open(self.path, "pt") as file:
            packed = json.loads((file.metadata() or {})["state"])
            if type(packed["format"]) is not int or packed["format"] != FORMAT:
                raise ValueError(f"its format is version {packed['format']!r}, this package reads {FORMAT}")
            return _unpack(packed["state"], {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118

    @contextmanager
    def restoring(self) -> Iterator[None]:
        """Name the file in whatever is raised where its state is put to use: it may be a stranger's."""
        try:
            yield
        except Exception as error:  # on a state of wrong types, torch raises nearly any
            raise ValueError(f"{self.path} is no state of a training, remove it to begin anew: {error}") from error

    def save(self, state: Callable[[], Any]) -> None:
        """Keep what `state` gives: nested dicts, lists and tuples of tensors and of what JSON has."""
        if self.path is None:
            return
        start = time.monotonic()
        tensors: dict[str, Tensor] = {}
        text = json.dumps({"format": FORMAT, "state": _pack(state(), tensors)})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.path) as beside:
            beside.write_bytes(save(tensors, {"state": text}))
        end = time.monotonic()
        self._next = end + _SHARE * (end - start)

    def save_sometimes(self, state: Callable[[], Any]) -> None:
        """Keep the state if that takes little of the time that has passed since it was kept last."""
        if time.monotonic() >= self._next:
            self.save(state)


def random_states() -> dict[str, Any]:
    """Return the states of torch's global generators, of the CPU and of CUDA devices."""
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()}


def set_random_states(states: dict[str, Any]) -> None:
    """Set what `random_states` has returned, on a machine with as many CUDA devices; else those stay as they are."""
    torch.set_rng_state(states["cpu"])
    if len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])


def _pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Return `value` as JSON has it, a container as [its kind, its items], and move its tensors into `tensors`."""
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().contiguous().clone()  # safetensors takes none that share memory
        return ["tensor", name]
    if isinstance(value, dict):
        return ["dict", [[key, _pack(item, tensors)] for key, item in value.items()]]
    if isinstance(value, list | tuple):
        return [type(value).__name__, [_pack(item, tensors) for item in value]]
    return value


def _unpack(value: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(value, list):
        return value
    kind, items = value
    if kind == "tensor":
        return tensors[items]
    if kind == "dict":
        return {key: _unpack(item, tensors) for key, item in items}
    return (tuple if kind == "tuple" else list)(_unpack(item, tensors) for item in items)

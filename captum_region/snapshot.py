"""The state of a training, kept as it goes: one safetensors file, which holds no code and is whole or not there."""

from __future__ import annotations

import json
import pickle
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from joblib.hashing import NumpyHasher
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from captum_region.files import replacing

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from captum_region.randomness import RandomState

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
    """Keeps the state of one training, or what came out of it, in a folder, named by all that decides it.

    So a training that was stopped finds its state when it is begun again, and another one never takes it for its own.

    Parameters
    ----------
    folder : path or None
        Made, with its parents. With None nothing is kept.
    random_state : RandomState
        The user's.
    key : callable
        Gives all else that decides the training: see `digest`. Called only where something is kept.

    Raises
    ------
    ValueError
        If something is to be kept and `random_state` is None, or the key does not pickle.
    """

    def __init__(
        self, folder: str | os.PathLike[str] | None, random_state: RandomState, key: Callable[[], Any]
    ) -> None:
        self.path = None
        self._next = 0.0
        if folder is None:
            return
        if random_state is None:
            raise ValueError("random_state must be given where checkpoint_dir is: a training is told by it")
        try:
            name = digest(key())
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            # Its first words: joblib adds all that it was hashing.
            raise ValueError(f"checkpoint_dir must come with parameters that pickle: {error.args[0]}") from error
        self.path = Path(folder) / f"{name}.safetensors"

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
        """Keep what `state` gives: nested dicts, lists and tuples of tensors, tables, arrays and what JSON has."""
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
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return ["array", _pack(torch.tensor(value), tensors)]
    if isinstance(value, pd.DataFrame):
        columns = {name: value[name].to_numpy() for name in value}
        return ["table", _pack({name: _numbers_or_list(column) for name, column in columns.items()}, tensors)]
    if isinstance(value, dict):
        return ["dict", [[key, _pack(item, tensors)] for key, item in value.items()]]
    if isinstance(value, list | tuple):
        return [type(value).__name__, [_pack(item, tensors) for item in value]]
    return value


def _numbers_or_list(column: NDArray[Any]) -> Any:
    return column if column.dtype.kind in "biuf" else column.tolist()


def _unpack(value: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(value, list):
        return value
    kind, items = value
    if kind == "tensor":
        return tensors[items]
    if kind == "array":
        return _unpack(items, tensors).numpy()
    if kind == "table":
        return pd.DataFrame(_unpack(items, tensors))
    if kind == "dict":
        return {key: _unpack(item, tensors) for key, item in items}
    return (tuple if kind == "tuple" else list)(_unpack(item, tensors) for item in items)

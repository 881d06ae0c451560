"""The state of a training, kept as it goes: one file, which is whole or not there, and runs nothing when it is read."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from captum_region.digest import digest, digest_of
from captum_region.files import replacing
from captum_region.provenance import git_state, joined, provenance, versions

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator

    from captum_region.randomness import RandomState

FORMAT = 2
# Of what a training learns, in either package. To be raised by whoever changes that: what was kept is then left alone.
SEMANTICS = 1
# A snapshot is taken when the training since the last one took this many times as long as that one: 5 % at most.
_SHARE = 20


class Snapshots:
    """Keeps the state of one training, or what came out of it, in a folder, named by all that decides it.

    So a training that was stopped finds its state when it is begun again, and another one never takes it for its own.
    The name covers what the caller's key does, `SEMANTICS` and the versions of the packages.

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
        self._provenance: dict[str, Any] = {}
        if folder is None:
            return
        if random_state is None:
            raise ValueError("random_state must be given where checkpoint_dir is: a training is told by it")
        try:
            name = digest((SEMANTICS, versions(), key()))
        except TypeError as error:
            raise ValueError(f"checkpoint_dir must come with parameters that pickle: {error}") from error
        self.path = Path(folder) / f"{name}.pt"

    @property
    def git(self) -> str | None:
        """The commit that made what is kept, or else this one; both, where this one resumed the other's training."""
        found: str | None = self._provenance.get("git", git_state())
        return found

    def load(self) -> Any:
        """Return the state that was kept last, or None.

        Raises
        ------
        ValueError
            If the file is damaged or of another format version.
        """
        if self.path is None or not self.path.exists():
            return None
        with self.restoring():
            name, content = self.path.read_bytes().split(b"\n", 1)
            if name.decode() != digest_of([content]):
                raise ValueError("its content has been changed")
            kept = torch.load(BytesIO(content), map_location="cpu", weights_only=True)
            if type(kept["format"]) is not int or kept["format"] != FORMAT:
                raise ValueError(f"its format is version {kept['format']!r}, this package reads {FORMAT}")
            self._provenance = dict(kept["provenance"])
            return kept["state"]

    @contextmanager
    def restoring(self) -> Iterator[None]:
        """Name the file in whatever is raised where its state is put to use: it may be a stranger's."""
        try:
            yield
        except Exception as error:  # on a state of wrong types, torch raises nearly any
            raise ValueError(f"{self.path} is no state of a training, remove it to begin anew: {error}") from error

    def save(self, state: Callable[[], Any]) -> None:
        """Keep what `state` gives: nested dicts, lists and tuples of tensors, arrays, numbers and texts.

        Read again, an array is a tensor, or a list where it holds no numbers.
        """
        if self.path is None:
            return
        start = time.monotonic()
        self._provenance = provenance() | self._provenance | {"git": joined([self.git, git_state()])}
        content = BytesIO()
        torch.save(_plain({"format": FORMAT, "provenance": self._provenance, "state": state()}), content)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.path) as beside:
            beside.write_bytes(digest_of([content.getvalue()]).encode() + b"\n" + content.getvalue())
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


def columns(table: pd.DataFrame) -> dict[str, Any]:
    """Return a table as `Snapshots.save` takes it."""
    return {str(name): table[name].to_numpy() for name in table}


def table_of(columns: dict[str, Any]) -> pd.DataFrame:
    """Return the table whose `columns` were kept."""
    values = {name: value.numpy() if isinstance(value, Tensor) else value for name, value in columns.items()}
    return pd.DataFrame(values)


def _plain(value: Any) -> Any:
    """Return `value` in the types that `torch.load` makes without running code; equal values become equal bytes."""
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()  # of a view, without what it is a view of
    if isinstance(value, np.ndarray):
        return torch.tensor(value) if value.dtype.kind in "biuf" else _plain(value.tolist())
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return (tuple if isinstance(value, tuple) else list)(map(_plain, value))
    if not isinstance(value, bool | int | float | str | bytes | None):
        raise TypeError(f"a state must hold tensors, arrays, numbers and texts, got {type(value).__name__}")
    return sys.intern(value) if type(value) is str else value

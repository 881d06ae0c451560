"""The state of a training, saved at intervals in one file, from which it resumes; reading it executes no code."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from captum_region.io.digest import digest, digest_of
from captum_region.io.files import replacing
from captum_region.io.provenance import git_state, joined, provenance, versions
from captum_region.randomness import RandomState

FORMAT = 2
# The version of what trainings learn, in both packages: raise it with a change of that, and kept states are not used.
SEMANTICS = 11
# The state is saved when this many times as long has passed as the last save took: 5 % of the time at most.
_SHARE = 20


class Snapshots:
    """Keeps the state of one training, or its result, in a file of a folder.

    The file's name is a digest of the key, `SEMANTICS` and the versions of the packages. So a training finds its own
    state when it is started again, and no other.

    Parameters
    ----------
    folder : path or None
        Made, with its parents. With None nothing is kept.
    random_state : int, NumPy generator or None
        The user's.
    key : callable
        Returns all else that decides the training, see `digest`. Called only if there is a folder.

    Raises
    ------
    ValueError
        If there is a folder and `random_state` is None, or the key does not pickle.
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
            raise ValueError("random_state must be given with checkpoint_dir: it identifies the training")
        try:
            name = digest((SEMANTICS, versions(), key()))
        except TypeError as error:
            raise ValueError(f"checkpoint_dir must come with parameters that pickle: {error}") from error
        self.path = Path(folder) / f"{name}.pt"

    @property
    def git(self) -> str | None:
        """The commit that made the kept state, or else this one; both if this one resumed a training of the other."""
        return self._provenance.get("git", git_state())

    def load(self) -> Any:
        """Return the state that was saved last, or None.

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
        """Turn errors in the use of the state, whose source may be untrusted, into one that names the file."""
        try:
            yield
        except Exception as error:  # on a state of wrong types, torch raises nearly any
            raise ValueError(f"{self.path} is not a valid state, remove it to start again: {error}") from error

    def save(self, state: Callable[[], Any]) -> None:
        """Save what `state` returns: nested dicts, lists and tuples of tensors, arrays, tables, numbers and strings.

        An array is read back as a tensor, or as a list if it does not hold numbers; see `table_of` for a table.
        """
        if self.path is None:
            return
        start = time.monotonic()
        self._provenance = provenance() | self._provenance | {"git": joined([self.git, git_state()])}
        content = BytesIO()
        torch.save(_plain({"format": FORMAT, "provenance": self._provenance, "state": state()}), content)
        with replacing(self.path) as beside:
            beside.write_bytes(digest_of([content.getvalue()]).encode() + b"\n" + content.getvalue())
        end = time.monotonic()
        self._next = end + _SHARE * (end - start)

    def is_due(self) -> bool:
        """Return whether enough time has passed since the last save."""
        return self.path is not None and time.monotonic() >= self._next

    def save_sometimes(self, state: Callable[[], Any]) -> None:
        """Save the state if it is due."""
        if self.is_due():
            self.save(state)


def random_states() -> dict[str, Any]:
    """Return the states of torch's global generators, of the CPU and of CUDA devices."""
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()}


def set_random_states(states: dict[str, Any]) -> None:
    """Set what `random_states` returned; CUDA's only on a machine with as many CUDA devices."""
    torch.set_rng_state(states["cpu"])
    if len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])


def table_of(columns: dict[str, Any]) -> pd.DataFrame:
    """Return the table that `Snapshots.save` was given, from what `Snapshots.load` returns of it: its columns."""
    values = {name: value.numpy() if isinstance(value, Tensor) else value for name, value in columns.items()}
    return pd.DataFrame(values)


def _plain(value: Any) -> Any:
    """Return `value` in types that `torch.load` reads without executing code; equal values become equal bytes."""
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()  # of a view, only its own values
    if isinstance(value, pd.DataFrame):
        return {str(name): _plain(value[name].to_numpy()) for name in value}
    if isinstance(value, np.ndarray):
        return torch.tensor(value) if value.dtype.kind in "biuf" else _plain(value.tolist())
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return (tuple if isinstance(value, tuple) else list)(map(_plain, value))
    if not isinstance(value, bool | int | float | str | bytes | None):
        raise TypeError(f"a state must hold tensors, arrays, tables, numbers and strings, got {type(value).__name__}")
    return sys.intern(value) if type(value) is str else value

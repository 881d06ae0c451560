"""Random seeds and generators; the global random states are neither read nor set."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

# torch's global generators belong to the whole process: the threads that use them take turns. Re-entrant, as a training
# predicts and makes modules.
_turn = threading.RLock()


def _forget_turn() -> None:
    # In a forked process the thread that holds the lock does not exist, and would never release it.
    global _turn
    _turn = threading.RLock()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_forget_turn)

RandomState = int | np.random.RandomState | np.random.Generator | None


def draw_seed(random_state: RandomState) -> int:
    """Return a seed below 2**32: `random_state` itself if an int, drawn from it if a generator, fresh if None.

    Unlike scikit-learn's ``check_random_state``, None does not use NumPy's global state.

    Raises
    ------
    TypeError, ValueError
        If `random_state` is of another type, or an int out of range.
    """
    if random_state is None:
        return int(np.random.SeedSequence().generate_state(1)[0])
    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(2**32))
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(2**32, dtype=np.uint64))
    if isinstance(random_state, bool) or not isinstance(random_state, int | np.integer):
        raise TypeError(f"random_state must be None, an int or a NumPy generator, got {random_state!r}")
    if not 0 <= random_state < 2**32:
        raise ValueError(f"random_state must lie in 0 to 2**32 - 1, got {random_state}")
    return int(random_state)


def set_seed(seed: int) -> None:
    """Do what ``torch.manual_seed`` does; where there is no accelerator, without its milliseconds at every batch.

    It notes the stack of its caller for each kind of device that is not there.
    """
    (torch.manual_seed if torch.accelerator.is_available() else torch.default_generator.manual_seed)(seed)


@contextmanager
def seeded(seed: int, *, numpy: bool = False) -> Iterator[None]:
    """Run a block with torch's global generators, if asked NumPy's too, at `seed`, and restore them afterwards.

    For code that takes no generator: initial weights of modules, dropout, a DataLoader. Threads of one process take
    turns, so that each draws what it would draw alone; so a block must not wait for another thread that enters one.
    Threads that use the global generators without this function are not kept apart.
    """
    devices = range(torch.cuda.device_count())
    with _turn, torch.random.fork_rng(devices=devices):
        set_seed(seed)
        if not numpy:
            yield
            return
        state = np.random.get_state()  # noqa: NPY002
        try:
            np.random.seed(seed)  # noqa: NPY002
            yield
        finally:
            np.random.set_state(state)  # noqa: NPY002

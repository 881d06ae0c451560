"""Progress on stderr that does not flood a log: bars, and stages that are timed."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm.auto import tqdm


def progress_bar(*args: Any, **options: Any) -> Any:
    """Return a tqdm bar; if stderr is a file or a pipe, it is updated every ten seconds, not ten times a second."""
    # Not in a notebook, which replaces stderr and shows a widget.
    if sys.stderr is sys.__stderr__ and not os.isatty(2):
        options.setdefault("mininterval", 10)
    return tqdm(*args, **options)


@contextmanager
def stage(name: str, seconds: dict[str, float], quiet: bool) -> Iterator[None]:
    """Print the name of a stage on stderr, and note in `seconds` how long it took."""
    if not quiet:
        print(f"{name} ...", file=sys.stderr, flush=True)
    start = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - start

"""Progress bars on stderr that do not flood a log."""

import os
import sys
from typing import Any

from tqdm.auto import tqdm


def progress_bar(*args: Any, **options: Any) -> Any:
    """Return a tqdm bar; if stderr is a file or a pipe, it is updated every ten seconds, not ten times a second."""
    # Not in a notebook, which replaces stderr and shows a widget.
    if sys.stderr is sys.__stderr__ and not os.isatty(2):
        options.setdefault("mininterval", 10)
    return tqdm(*args, **options)

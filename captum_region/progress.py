"""Progress bars on stderr that do not flood a log."""

from __future__ import annotations

import os
import sys
from typing import Any

from tqdm.auto import tqdm


def progress_bar(*args: Any, **options: Any) -> Any:
    """Return a tqdm bar; where stderr is a file or a pipe it is written every ten seconds, not ten times a second."""
    # A notebook has put its own stderr in place, where the bar is a widget.
    if sys.stderr is sys.__stderr__ and not os.isatty(2):
        options.setdefault("mininterval", 10)
    return tqdm(*args, **options)

"""What a result depends on besides its settings: the command, the versions, the state of the code."""

import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

version = cache(metadata.version)  # which reads a file

PACKAGES = ("captum-region", "captum", "fairlearn", "numpy", "scikit-learn", "skorch", "torch", "torchvision")


def provenance() -> dict[str, Any]:
    """Return the command, the time, the versions and the code's state in git, as JSON values.

    ``git`` is the commit of the code, with ``-dirty`` appended if files differ from it, or None if the package is not
    a git checkout. The command can be pasted into a shell.
    """
    program = Path(sys.argv[0])
    called = ["python", "-m", program.parent.name] if program.name == "__main__.py" else [program.name]
    return {
        "command": shlex.join([*called, *sys.argv[1:]]),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "git": git_state(),
    }


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages on which a result depends."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def joined(states: Iterable[str | None]) -> str | None:
    """Return the git states of the parts of a result, joined, each once.

    Examples
    --------
    >>> joined(["1a2b", "1a2b", "3c4d-dirty"])
    '1a2b, 3c4d-dirty'
    """
    return ", ".join(dict.fromkeys(state for state in states if isinstance(state, str))) or None


@cache  # what runs is what was imported
def git_state() -> str | None:
    """Return the ``git`` of `provenance`."""
    file = Path(__file__)

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(file.parent), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", file.name)  # or it would be the state of a repository around the environment
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return None

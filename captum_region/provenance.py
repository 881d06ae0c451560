"""What a result depends on besides its settings: the command, the versions, the state of the code."""

from __future__ import annotations

import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("captum-region", "captum", "fairlearn", "numpy", "scikit-learn", "skorch", "torch", "torchvision")


def provenance() -> dict[str, Any]:
    """Return the command, the time, the versions and the code's state in git, as JSON can hold them.

    ``git`` is the commit that the code is run from, with ``-dirty`` behind it where files differ from it, or None where
    the package is installed and no checkout.
    """
    return {
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "git": _git_state(Path(__file__)),
    }


def _git_state(file: Path) -> str | None:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(file.parent), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", file.name)  # or it would be the state of whatever is around an environment
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return None

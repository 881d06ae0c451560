"""What several tests use."""

import subprocess
import sys

import pytest


@pytest.fixture(scope="session")
def command():
    """Run a package's command as a user does, in a process of its own; fail unless it exits with `check`."""

    def run(module, *arguments, check=0):
        done = subprocess.run(
            [sys.executable, "-m", module, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == check, done.stderr
        return done

    return run

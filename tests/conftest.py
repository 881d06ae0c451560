"""What several tests use."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


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


@pytest.fixture(scope="session")
def interrupted():
    """Press Ctrl-C in the midst of a command, as soon as `ready` is true; return its one line about it."""

    def run(ready, module, *arguments):
        with subprocess.Popen(
            [sys.executable, "-m", module, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # Whoever started the tests in the background may have them ignore it, which children inherit.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        ) as process:
            give_up = time.monotonic() + 200
            while not ready() and process.poll() is None and time.monotonic() < give_up:
                time.sleep(0.005)
            # The terminal tells the processes that it has started too.
            os.killpg(process.pid, signal.SIGINT)
            stdout, stderr = process.communicate()
        assert process.returncode == 130, stderr
        assert stdout == ""
        *before, told = stderr.splitlines()
        assert told.startswith("stopped: ")
        assert not any("Traceback" in line for line in before)
        return told

    return run


@pytest.fixture(scope="session")
def documented():
    """Return the files that a command leaves in --out, as docs/commands.md has them."""
    rows = re.findall(r"^\| (.+?) \| (.+?) \|", (ROOT / "docs" / "commands.md").read_text(), re.MULTILINE)
    files = {command: names for commands, names in rows for command in re.findall("`(.+?)`", commands)}
    return lambda command: {name.rstrip("/") for name in re.findall("`(.+?)`", files[command])}


@pytest.fixture(scope="session")
def listed():
    """Return the names in a folder, hidden ones left out."""
    return lambda folder: {path.name for path in folder.iterdir() if not path.name.startswith(".")}

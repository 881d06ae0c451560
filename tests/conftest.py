"""What several tests use."""

import os
import pickle
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from typer.testing import CliRunner

# Property tests take a minute with the second, which tests/test_properties.py runs them with.
settings.register_profile("quick", max_examples=30, deadline=None)
settings.register_profile(
    "thorough",
    max_examples=1000,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("quick")

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def command():
    """Run a command, or a script, as a user does, in a process of its own; fail unless it exits with `check`."""

    def run(module, *arguments, check=0):
        program = [ROOT / module] if module.endswith(".py") else ["-m", module]
        done = subprocess.run(
            [sys.executable, *program, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == check, done.stderr
        return done

    return run


@pytest.fixture(scope="session")
def refused():
    """Run a command in this process, which must refuse with exit code 2; return its one line on stderr."""

    def run(app, *arguments):
        done = CliRunner().invoke(app, list(map(str, arguments)))
        assert done.exit_code == 2, (done.stderr, done.exception)
        (line,) = done.stderr.splitlines()
        return line

    return run


@pytest.fixture(scope="session")
def launched():
    """Start a script, or -m a module, in two processes on the CPU, as accelerate does."""
    options = ["--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
    options += ["--dynamo_backend", "no", "--main_process_port", "0"]  # a free one

    def start(*arguments):
        return subprocess.Popen(
            [sys.executable, "-m", "accelerate.commands.launch", *options, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )

    return start


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


class _Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def trap(tmp_path):
    """An object to be pickled into a file that is then read: the test fails if that unpickles it."""
    made = _Trap(tmp_path / "sprung")
    yield made
    assert not made.path.exists()
    pickle.loads(pickle.dumps(made))
    assert made.path.exists()  # as it would have been


# One interpreter that forks before it has computed anything: a child is killed, the next goes on.
KILLING = """
import os, random, signal, sys, time

def child(out):
    pid = os.fork()
    if pid == 0:
        try:
            work(out)
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return pid

def begun(out):
    pid = child(out)
    while not os.path.exists(out):
        assert os.waitpid(pid, os.WNOHANG) == (0, 0)
        time.sleep(0.002)
    return pid

folder = sys.argv[1]
pid, start = begun(folder + "/whole"), time.monotonic()
assert os.waitpid(pid, 0)[1] == 0
duration = time.monotonic() - start
rng, runs, kills = random.Random(0), 0, 0
for _ in range(20):
    pid = begun(f"{folder}/cut{runs}")
    time.sleep(rng.uniform(0, duration))
    os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    assert status in (0, signal.SIGKILL)
    runs += status == 0
    kills += status != 0
assert os.waitpid(child(f"{folder}/cut{runs}"), 0)[1] == 0
print(kills)
"""


@pytest.fixture(scope="session")
def kill_and_resume():
    """Kill ``work(out)``, which `code` defines, at 20 random moments after `out` is there, each time run again.

    Return the folders of an undisturbed run and of those that were killed in their midst once or more.
    """

    def run(code, folder):
        ran = subprocess.run(
            [sys.executable, "-c", code + KILLING, folder], capture_output=True, text=True, timeout=300, check=False
        )
        assert ran.returncode == 0, ran.stderr
        assert int(ran.stdout) >= 4, "few kills came before the end"
        return folder / "whole", sorted(folder.glob("cut*"))

    return run


@pytest.fixture(scope="session")
def documented():
    """Return the files that a command leaves in --out, as docs/commands.md has them."""
    rows = re.findall(r"^\| (.+?) \| (.+?) \|", (ROOT / "docs" / "commands.md").read_text(), re.MULTILINE)
    files = {command: names for commands, names in rows for command in re.findall("`(.+?)`", commands)}
    return lambda command: {name.rstrip("/") for name in re.findall("`(.+?)`", files[command])}


@pytest.fixture(scope="session")
def states():
    """Return the files in which a run keeps the states and results of its trainings."""
    return lambda out: list((out / "checkpoints").glob("[!.]*.safetensors"))


@pytest.fixture(scope="session")
def listed():
    """Return the names in a folder, hidden ones left out."""
    return lambda folder: {path.name for path in folder.iterdir() if not path.name.startswith(".")}

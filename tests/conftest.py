"""What several tests use."""

import gc
import json
import os
import pickle
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from io import BytesIO
from pathlib import Path

# One thread, here and in the processes that tests start: sums over several are rounded otherwise, and results are
# compared to the byte. And torch's threads get in each other's way where several processes share the cores.
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from typer.testing import CliRunner

from captum_region.io.digest import digest_of

# `make test` takes the second. A busy machine is no error, and `pytest` alone draws the same cases in each run.
UNHURRIED = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("quick", max_examples=30, derandomize=True, **UNHURRIED)
settings.register_profile("thorough", max_examples=100, **UNHURRIED)
settings.load_profile("quick")

torch.set_num_threads(1)  # if something has imported it before

ROOT = Path(__file__).parents[1]
# Seconds after which a process is taken to hang: far more than it needs on a busy machine.
HANGS = 500


def pytest_collection():
    """Collect no garbage while modules are imported, which stay."""
    gc.disable()


def pytest_collection_modifyitems(items):
    """Put the longest tests first: at the end the processes share short ones."""
    items.sort(key=lambda item: item.path.name != "test_examples.py")


def pytest_collection_finish():
    """Collect garbage, but not among what was imported."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """Give a test, and the fixtures set up for it, the same start whichever tests ran before in this process."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


class _Forked:
    """A process forked by forking.py, used like one of `subprocess.Popen` with pipes."""

    def __init__(self, ask, arguments, env):
        self._ask = ask
        self._folder = tempfile.TemporaryDirectory()
        self._output = [Path(self._folder.name, name) for name in ("stdout", "stderr")]
        for path in self._output:
            path.touch()
        files = dict(zip(("stdout", "stderr"), map(str, self._output), strict=True))
        given = {"arguments": [str(part) for part in arguments], "cwd": os.getcwd(), "env": os.environ | env}
        self.pid = ask(**given, **files)
        self.returncode = None

    def poll(self):
        if self.returncode is None:
            self.returncode = self._ask(pid=self.pid)
        return self.returncode

    def wait(self, timeout=HANGS):
        give_up = time.monotonic() + timeout
        while self.poll() is None:
            assert time.monotonic() < give_up
            time.sleep(0.02)
        return self.returncode

    def communicate(self, timeout=HANGS):
        self.wait(timeout)
        return [path.read_text() for path in self._output]

    def __enter__(self):
        return self

    def __exit__(self, *error):
        try:
            if self.poll() is None:
                os.killpg(self.pid, signal.SIGKILL)
                self.wait()
        finally:
            self._folder.cleanup()


@pytest.fixture(scope="session")
def forked():
    """Start a script, or -m a module, in a process that need not import the packages; names are of its environment."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, Path(__file__).with_name("forking.py")], **pipes) as server:

        def ask(**request):
            server.stdin.write(json.dumps(request) + "\n")
            server.stdin.flush()
            return json.loads(server.stdout.readline())

        yield lambda *arguments, **env: _Forked(ask, arguments, env)
        server.kill()


@pytest.fixture(scope="session")
def command(forked):
    """Run a command, or a script, as a user does, in a process of its own; fail unless it exits with `check`."""

    def run(module, *arguments, check=0):
        with forked(*([ROOT / module] if module.endswith(".py") else ["-m", module]), *arguments) as process:
            stdout, stderr = process.communicate()
        assert process.returncode == check, stderr
        return subprocess.CompletedProcess(arguments, process.returncode, stdout, stderr)

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
def launched(forked):
    """Start a script, or -m a module, in two processes on the CPU, as accelerate does."""
    options = ["--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
    options += ["--dynamo_backend", "no", "--main_process_port", "0"]  # a free one

    def start(*arguments):
        return forked("-m", "accelerate.commands.launch", *options, *arguments)

    return start


@pytest.fixture(scope="session")
def in_two(forked):
    """Run a script in two processes, as a launcher does but without its imports; return what each wrote."""

    def run(*arguments):
        with socket.create_server(("localhost", 0)) as free:
            port = str(free.getsockname()[1])
        common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": port}
        ranks = [{"RANK": rank, "LOCAL_RANK": rank, **common} for rank in "01"]
        with forked(*arguments, **ranks[0]) as main, forked(*arguments, **ranks[1]) as other:
            written = main.communicate(), other.communicate()
            assert (main.returncode, other.returncode) == (0, 0), written
        return written

    return run


@pytest.fixture(scope="session")
def wait_until():
    """Wait until `ready` is true, which must be before a process ends."""

    def wait(ready, process):
        give_up = time.monotonic() + HANGS
        while not ready():
            assert process.poll() is None, f"ended too early: {process.communicate()}"
            assert time.monotonic() < give_up
            time.sleep(0.005)

    return wait


@pytest.fixture(scope="session")
def interrupted(forked, wait_until):
    """Press Ctrl-C in the midst of a command, as soon as `ready` is true; return its one line about it."""

    def run(ready, module, *arguments):
        with forked("-m", module, *arguments) as process:
            wait_until(ready, process)
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


# One interpreter that forks before it has computed anything: a child is killed, the next resumes.
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
while kills < 5:
    pid, start = begun(f"{folder}/cut{runs}"), time.monotonic()
    moment = start + rng.uniform(0, duration)
    while time.monotonic() < moment and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    assert status in (0, signal.SIGKILL)
    runs += status == 0
    kills += status != 0
    if status == 0:  # on a busy machine the first run may have taken far longer
        duration = min(duration, time.monotonic() - start)
assert os.waitpid(child(f"{folder}/cut{runs}"), 0)[1] == 0
"""


@pytest.fixture(scope="session")
def kill_and_resume(forked):
    """Kill ``work(out)``, which `code` defines, five times at random moments after `out` is there, and run it again.

    Return the folders of an undisturbed run and of those that were run until they were complete.
    """

    def run(code, folder):
        (script := folder / "killing.py").write_text(code + KILLING)
        with forked(script, folder) as process:
            _, stderr = process.communicate()
        assert process.returncode == 0, stderr
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
    return lambda out: list((out / "checkpoints").glob("[!.]*.pt"))


@pytest.fixture
def path_for_all(tmp_path):
    """Return tmp_path, into which pytest lets its own user alone; root becomes another where permissions matter."""
    for folder in (tmp_path, *tmp_path.parents):
        if os.geteuid() == 0 and not folder.stat().st_mode & 0o001:
            folder.chmod(0o755)
    return tmp_path


@pytest.fixture(scope="session")
def written():
    """Return what a file has anew when it is written again: not its time of access, which reading moves."""

    def of(path):
        status = path.stat()
        return status.st_ino, status.st_mtime_ns, status.st_size

    return of


@pytest.fixture(scope="session")
def made_at():
    """Change the commit at which what a file keeps was made."""

    def change(path, git):
        kept = torch.load(BytesIO(path.read_bytes().split(b"\n", 1)[1]), weights_only=True)
        kept["provenance"]["git"] = git
        torch.save(kept, content := BytesIO())
        path.write_bytes(digest_of([content.getvalue()]).encode() + b"\n" + content.getvalue())

    return change


@pytest.fixture(scope="session")
def listed():
    """Return the names in a folder, hidden ones left out."""
    return lambda folder: {path.name for path in folder.iterdir() if not path.name.startswith(".")}

"""Files that are whole or not there, and folders that one process at a time writes into."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

if TYPE_CHECKING:
    from collections.abc import Iterator

# How the names begin of what is not whole yet.
PARTIAL = ".partial-"
# The folder in a run's folder that keeps what a run which was stopped goes on from.
CHECKPOINTS = "checkpoints"


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a name beside `path` to write to; when the block ends well it becomes `path`, else it is removed.

    Examples
    --------
    >>> folder = Path(tempfile.mkdtemp())
    >>> with replacing(folder / "table.csv") as beside:
    ...     _ = beside.write_text("a,b")
    >>> [file.name for file in folder.iterdir()]
    ['table.csv']
    """
    path = Path(path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{PARTIAL}{path.name}-", suffix=path.suffix)
    os.close(handle)
    beside = Path(name)
    try:
        yield beside
        with beside.open("rb") as file:
            os.fsync(file.fileno())  # or a power cut could leave the new name with none of the bytes
        # mkstemp makes files that only their owner can read.
        umask = os.umask(0)
        os.umask(umask)
        beside.chmod(0o666 & ~umask)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def locked(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Keep other processes out of `folder`, made with its parents, and clear away what a killed one left half written.

    Raises
    ------
    BlockingIOError
        If another process is in it.

    Examples
    --------
    >>> with locked(tempfile.mkdtemp()) as folder, locked(folder):
    ...     pass
    Traceback (most recent call last):
    BlockingIOError: ... is being written by another process
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise BlockingIOError(f"{folder} is being written by another process") from error
    try:
        for left in [*folder.rglob(f"{PARTIAL}*")]:
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
        yield folder
    finally:
        lock.release()

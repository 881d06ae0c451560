"""Files written completely or not at all, folders with one writing process at a time, JSON that may be untrusted."""

import json
import math
import os
import re
import shutil
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from filelock import FileLock, Timeout

if TYPE_CHECKING:
    import pandas as pd

# How the names of incomplete files begin.
PARTIAL = ".partial-"
_LOCK = ".lock"
# The folder inside a run's folder that holds what a stopped run resumes from.
CHECKPOINTS = "checkpoints"
# What is called so in it: states of trainings, whole or not, and folders of those that trainings are made of.
_STATE = re.compile(rf"[0-9a-f]{{32}}(\.pt)?|{re.escape(PARTIAL)}[0-9a-f]{{32}}\.pt-\w+\.pt")
# In seconds: a process that is writing a file writes far more often than this.
_STALE = 3600


def read_json(path: str | os.PathLike[str], version: int, *, largest: int = 2**25) -> dict[str, Any]:
    """Read a JSON object whose ``format`` says its version.

    Parameters
    ----------
    path : path
    version : int
        The one format version that is read.
    largest : int, default=2**25
        In bytes: parsed, a file may take some forty times as much memory.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is too large, does not hold a JSON object, or has another format version than `version`.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "results.json"
    >>> _ = path.write_text('{"format": 3}')
    >>> read_json(path, 1)
    Traceback (most recent call last):
    ValueError: ...results.json is of format version 3, this package reads version 1
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}")
    if (size := path.stat().st_size) > largest:
        raise ValueError(f"{path} must have at most {largest:,} bytes, it has {size:,}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged, it is not JSON: {error}") from error
    if not isinstance(content, dict) or "format" not in content:
        raise ValueError(f"{path} must hold a JSON object that says its format version")
    found = content["format"]
    if type(found) is not int or found != version:  # True is 1 in Python
        raise ValueError(f"{path} is of format version {found!r}, this package reads version {version}")
    return content


def plain_name(text: str) -> str:
    """Return `text`, such as the name of an attribute, as part of a file's name.

    Examples
    --------
    >>> plain_name("race=East Asian/../x")
    'race=East_Asian____x'
    """
    return "".join(letter if letter.isalnum() or letter in "_-=" else "_" for letter in text)


def check_place(
    out: Path, files: Iterable[str], folders: Iterable[str] = (), *, saved: Mapping[str, Collection[str]] | None = None
) -> None:
    """Raise an error now if something in `out` is in the way of results, rather than after the trainings.

    `saved` are folders that `replacing_folder` is to write, with the names of their files.
    """
    saved = {} if saved is None else saved
    for name in files:
        if (out / name).is_dir():
            raise ValueError(f"{out / name} must be a file, it is a folder")
    for name in (CHECKPOINTS, *folders, *saved):
        if (out / name).exists() and not (out / name).is_dir():
            raise ValueError(f"{out / name} must be a folder, it is a file")
    for name, names in saved.items():
        _check_replaceable(out / name, names, name)
    if (out / CHECKPOINTS).is_symlink():  # it is removed in the end, which a link cannot be
        raise ValueError(f"{out / CHECKPOINTS} must be a folder of its own, it is a link")


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a file beside `path` to write; if the block ends without an error it becomes `path`, or else is removed.

    The folder is made if needed.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with replacing(folder / "table.csv") as beside:
    ...     _ = beside.write_text("a,b")
    >>> [file.name for file in folder.iterdir()]
    ['table.csv']
    """
    path = Path(path)
    beside = path.with_name(f"{PARTIAL}{path.name}-{uuid4().hex[:8]}{path.suffix}")
    path.parent.mkdir(parents=True, exist_ok=True)
    beside.touch(exist_ok=False)
    try:
        yield beside
        with beside.open("rb") as file:
            os.fsync(file.fileno())  # or a power cut could leave the new name with none of the bytes
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def replacing_folder(folder: str | os.PathLike[str], names: Collection[str], kind: str) -> Iterator[Path]:
    """Yield a folder to fill; if the block ends without an error it becomes `folder`, or else is removed.

    Raises
    ------
    FileExistsError
        If `folder` exists and holds other files than `names`, those of a `kind` such as "classifier".
    ValueError
        If `folder` is the current one: it could not be replaced under the process.

    Examples
    --------
    >>> folder = Path(tempfile.mkdtemp()) / "saved"
    >>> with replacing_folder(folder, {"a.txt"}, "text") as beside:
    ...     _ = (beside / "a.txt").write_text("a")
    >>> [file.name for file in folder.iterdir()]
    ['a.txt']
    """
    folder = Path(folder).resolve()  # where a link leads is replaced, not the link
    if folder == Path.cwd():
        raise ValueError(f"folder must not be the current one, got {folder}")
    _check_replaceable(folder, names, kind)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{PARTIAL}{folder.name}-") as beside:
        whole = Path(beside) / "new"
        whole.mkdir()
        yield whole
        if folder.exists():
            shutil.move(folder, Path(beside) / "old")
        whole.rename(folder)


def _check_replaceable(folder: Path, names: Collection[str], kind: str) -> None:
    if folder.exists() and not {path.name for path in folder.iterdir()} <= {*names}:
        raise FileExistsError(f"folder must be new or hold a {kind.replace('_', ' ')}, but {folder} holds other files")


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a whole text file, or nothing, into a folder that is made if needed."""
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], content: Mapping[str, Any]) -> str:
    """Write a whole JSON file, or nothing, into a folder that is made if needed; return its text."""
    text = json.dumps(plain(content), indent=1, allow_nan=False) + "\n"
    write_text(path, text)
    return text


def plain(value: Any) -> Any:
    """Return `value` as JSON knows it: None for what is not finite, and as text what it does not know.

    Examples
    --------
    >>> plain({"a": (1, float("inf")), "b": Path("c")})
    {'a': [1, None], 'b': 'c'}
    """
    if hasattr(value, "tolist"):  # NumPy's
        value = value.tolist()
    if isinstance(value, dict):
        return {key.item() if hasattr(key, "item") else key: plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, bool | int | str | None) else str(value)


def records(table: "pd.DataFrame") -> list[dict[Any, Any]]:
    """Return the rows of a table as JSON values."""
    return plain(table.astype(object).where(table.notna(), None).to_dict("records"))


def remove_states(folder: Path) -> None:
    """Remove the states of trainings in `folder`, and the folder itself if there is nothing else in it."""
    for path in folder.glob("*"):
        if path.is_dir() and _STATE.fullmatch(path.name):
            remove_states(path)
        elif _STATE.fullmatch(path.name):
            path.unlink(missing_ok=True)
    with suppress(OSError):  # there is none, or it holds files of the user's
        folder.rmdir()


def remove_files(folder: Path, names: Iterable[str]) -> None:
    """Remove files of `folder`, and the folder itself if there is nothing else in it."""
    for name in names:
        (folder / name).unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


def remove_pictures(folder: Path) -> None:
    """Remove the pictures of a page in `folder`, and the folder itself if there is nothing else in it."""
    remove_files(folder, [picture.name for picture in folder.glob("*.png")])


def clear_partials(found: Iterable[Path], *, stale: float = _STALE) -> None:
    """Remove what killed processes have left half written, of the files and folders `found`.

    Other processes may be at work there, in a cache for example: what was written to in the last `stale` seconds is
    left alone.
    """
    for left in found:
        with suppress(OSError):  # another process was faster, or it is another user's
            written = max(path.stat().st_mtime for path in (left, *left.rglob("*")))
            if time.time() - written >= stale:
                shutil.rmtree(left) if left.is_dir() else left.unlink()


@contextmanager
def locked(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Keep other processes out of `folder`, made with its parents, and remove what killed ones left half written.

    A new folder into which nothing was written before an error is removed again.

    Raises
    ------
    BlockingIOError
        If another process is in it.

    Examples
    --------
    >>> import tempfile
    >>> with locked(tempfile.mkdtemp()) as folder, locked(folder):
    ...     pass
    Traceback (most recent call last):
    BlockingIOError: ... is being written by another process
    """
    folder = Path(folder)
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(folder / _LOCK, timeout=0).acquire()
    except Timeout as error:
        raise BlockingIOError(f"{folder} is being written by another process") from error
    with lock:
        # States are written under this lock alone. Other files below may be those of processes that are at work.
        clear_partials([*(folder / CHECKPOINTS).rglob(f"{PARTIAL}*")], stale=0)
        clear_partials([*folder.rglob(f"{PARTIAL}*")])
        try:
            yield folder
        except BaseException:
            # The block may have removed it itself, and must not fail of that.
            if is_new and folder.exists() and [path.name for path in folder.iterdir()] == [_LOCK]:
                (folder / _LOCK).unlink()
                folder.rmdir()
            raise

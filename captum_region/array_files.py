"""Arrays from .npy and .npz files, which may be damaged or a stranger's: then a ValueError names the file."""

from __future__ import annotations

import math
import os
import zipfile
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import DTypeLike, NDArray


def open_array(
    path: str | os.PathLike[str], shape: tuple[int, ...], dtype: DTypeLike
) -> np.memmap[tuple[int, ...], np.dtype[Any]]:
    """Memory-map a .npy file, read-only.

    Parameters
    ----------
    path : path
    shape : tuple of int
    dtype : dtype
        What the file must hold.

    Raises
    ------
    OSError
        If there is no such file, or it may not be opened.
    ValueError
        If the file is damaged or holds another array; the message names the file.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "maps.npy"
    >>> np.save(path, np.ones((2, 3)))
    >>> float(open_array(path, (2, 3), float).sum())
    6.0
    >>> open_array(path, (2, 4), float)
    Traceback (most recent call last):
    ValueError: ...maps.npy is damaged: it must hold float64 of shape (2, 4), it holds float64 of shape (2, 3)
    """
    with _damage_named(path), Path(path).open("rb") as file:
        found = _read_header(file)
        # Before it is mapped: a damaged header may tell any size.
        if found != (tuple(shape), False, np.dtype(dtype)):
            raise ValueError(
                f"it must hold {np.dtype(dtype)} of shape {shape}, it holds {found[2]} of shape {found[0]}"
            )
        start, wanted = file.tell(), math.prod(shape) * found[2].itemsize
        if (size := file.seek(0, os.SEEK_END) - start) != wanted:
            raise ValueError(f"it must hold {wanted:,} bytes of values, it holds {size:,}")
        return np.memmap(file, found[2], "r", offset=start, shape=found[0])


def read_arrays(path: str | os.PathLike[str], *, largest: int = 2**30) -> dict[str, NDArray[Any]]:
    """Read all arrays of an .npz file.

    Parameters
    ----------
    path : path
    largest : int, default=2**30
        How many bytes the arrays may take together: a small file can unpack to any size.

    Raises
    ------
    OSError
        If there is no such file, or it may not be opened.
    ValueError
        If the file is damaged, or its arrays are too large; the message names the file.
    """
    # Opened here: NumPy leaves a file open that it cannot read.
    with _damage_named(path), Path(path).open("rb") as file:
        with zipfile.ZipFile(file) as archive:
            _check_sizes(archive, largest)
        file.seek(0)
        with np.load(file, allow_pickle=False) as arrays:
            return {str(name): arrays[name] for name in arrays.files}


@contextmanager
def _damage_named(path: str | os.PathLike[str]) -> Iterator[None]:
    """Make one ValueError that names the file of what NumPy and zipfile raise: nearly anything, as headers are code."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and error.filename is not None:  # the system does not let us open it
            raise
        raise ValueError(f"{path} is damaged: {error or type(error).__name__}") from error


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    return np.lib.format.read_array_header_2_0(file)


def _check_sizes(archive: zipfile.ZipFile, largest: int) -> None:
    """Raise ValueError if arrays are larger than `largest`, or than the files that hold them."""
    if (total := sum(member.file_size for member in archive.infolist())) > largest:
        raise ValueError(f"its arrays must take at most {largest:,} bytes, they take {total:,}")
    for member in archive.infolist():
        with archive.open(member) as file:
            shape, _, dtype = _read_header(file)
        if math.prod(shape) * dtype.itemsize > member.file_size:
            raise ValueError(f"{member.filename} says that it has shape {shape}, its file has {member.file_size} bytes")

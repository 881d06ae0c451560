"""Arrays from .npy and .npz files, which may be damaged or untrusted: a ValueError names the file."""

import math
import os
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


def open_array(
    path: str | os.PathLike[str], shape: tuple[int, ...] | None = None, dtype: DTypeLike | None = None
) -> np.memmap[tuple[int, ...], np.dtype[Any]]:
    """Memory-map a .npy file, read-only.

    Parameters
    ----------
    path : path
    shape : tuple of int, optional
        The shape that the array must have; by default any.
    dtype : dtype, optional
        The type that its values must have; by default any.

    Returns
    -------
    memmap of `dtype`, of shape `shape`, in C order

    Raises
    ------
    OSError
        If the file is missing or must not be opened.
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
    with _damage_named(path):
        found: np.memmap[tuple[int, ...], np.dtype[Any]] = np.lib.format.open_memmap(path, mode="r")
        shape, dtype = found.shape if shape is None else shape, found.dtype if dtype is None else np.dtype(dtype)
        if (found.shape, found.dtype) != (shape, dtype):
            raise ValueError(f"it must hold {dtype} of shape {shape}, it holds {found.dtype} of shape {found.shape}")
        if not found.flags.c_contiguous:
            raise ValueError("it must be stored in C order, it is stored in Fortran order")
        if (size := os.path.getsize(path)) != found.offset + found.nbytes:
            raise ValueError(f"it must have {found.offset + found.nbytes:,} bytes, it has {size:,}")
        return found


def write_rows(file: IO[bytes], rows: Iterable[NDArray[np.uint8]]) -> tuple[int, tuple[int, ...]]:
    """Write uint8 arrays of one shape, one after the other, as one array of a .npy file.

    They are written, not assigned to a memory map: a full disk is then an OSError, not a crash.

    Parameters
    ----------
    file : binary file
        An empty file, open for writing.
    rows : iterable of ndarray of uint8
        At least one. How many there are need not be known before.

    Returns
    -------
    int
        Where in the file the values begin.
    tuple of int
        The shape of the whole array.
    """
    count = 0
    for count, row in enumerate(rows, start=1):
        if count == 1:
            write_header(file, (0, *row.shape))
            start = file.tell()
        file.write(row.data)
    file.seek(0)
    write_header(file, (count, *row.shape))
    return start, (count, *row.shape)


def read_arrays(path: str | os.PathLike[str], *, largest: int = 2**30) -> dict[str, NDArray[Any]]:
    """Read all arrays of an .npz file.

    Parameters
    ----------
    path : path
    largest : int, default=2**30
        How many bytes the arrays may have together: a small file can unpack to any size.

    Returns
    -------
    dict of str to ndarray
        The arrays by name.

    Raises
    ------
    OSError
        If the file is missing or must not be opened.
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
    """Turn what NumPy and zipfile raise, which is nearly anything, into a ValueError that names the file."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.filename is not None:  # the file is missing or must not be opened
            raise
        raise ValueError(f"{path} is damaged: {error or type(error).__name__}") from error


def write_header(file: IO[bytes], shape: tuple[int, ...], dtype: str = "|u1") -> None:
    """Write the header of a .npy file, which NumPy pads, so that the first axis can be rewritten in place."""
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})


def _check_sizes(archive: zipfile.ZipFile, largest: int) -> None:
    """Raise ValueError if arrays are larger than `largest`, or than the files that hold them."""
    if (total := sum(member.file_size for member in archive.infolist())) > largest:
        raise ValueError(f"its arrays must have at most {largest:,} bytes, they have {total:,}")
    for member in archive.infolist():
        with archive.open(member) as file:
            is_first = np.lib.format.read_magic(file) == (1, 0)
            read = np.lib.format.read_array_header_1_0 if is_first else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
        if math.prod(shape) * dtype.itemsize > member.file_size:
            raise ValueError(f"{member.filename} says that it has shape {shape}, its file has {member.file_size} bytes")

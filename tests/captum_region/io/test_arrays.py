"""Reading .npy and .npz files: a damaged one is a ValueError that names it, whatever NumPy makes of it."""

import io
from contextlib import contextmanager, nullcontext

import numpy as np
import pytest

from captum_region.io.arrays import _damage_named, open_array, read_arrays

VALUES = np.arange(12, dtype=np.uint8).reshape(3, 4)


def npy(array=VALUES):
    np.save(file := io.BytesIO(), array)
    return file.getvalue()


@contextmanager
def or_damaged(path):
    """Let a block raise nothing but that `path` is damaged; some bytes do not matter."""
    try:
        yield
    except ValueError as error:
        if not str(error).startswith(f"{path} is damaged: "):
            raise


def test_an_array_is_mapped_and_read_only(tmp_path):
    path = tmp_path / "a.npy"
    path.write_bytes(npy())
    found = open_array(path, (3, 4), np.uint8)
    np.testing.assert_array_equal(found, VALUES)
    assert found.mode == "r"
    path.write_bytes(npy(VALUES[:0]))
    assert open_array(path, (0, 4), np.uint8).shape == (0, 4)


def test_any_byte_of_a_header_may_be_damaged(tmp_path):
    path, whole = tmp_path / "a.npy", npy()
    for at in range(len(whole) - VALUES.size):
        for byte in (0, ord("'"), ord("("), ord("9"), ord("L"), ord("\\"), 255):
            path.write_bytes(whole[:at] + bytes([byte]) + whole[at + 1 :])
            with nullcontext() if path.read_bytes() == whole else or_damaged(path):
                np.testing.assert_array_equal(open_array(path, (3, 4), np.uint8), VALUES)


@pytest.mark.parametrize(
    "other", [b"", b"\x93NUMPY", npy()[:-1], npy(np.asfortranarray(VALUES)), npy(VALUES.astype(int)), npy(VALUES.T)]
)
def test_other_contents_than_the_array_are_refused(other, tmp_path):
    (tmp_path / "a.npy").write_bytes(other)
    with pytest.raises(ValueError, match=r"a\.npy is damaged"):
        open_array(tmp_path / "a.npy", (3, 4), np.uint8)


def test_any_byte_of_an_archive_may_be_damaged(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, a=VALUES, b=np.array(["x", "yz"]))
    found, whole = read_arrays(path), path.read_bytes()
    np.testing.assert_array_equal(found["a"], VALUES)
    assert found["b"].tolist() == ["x", "yz"]
    for at in range(0, len(whole), 3):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        with or_damaged(path):
            read_arrays(path)


def test_a_file_that_cannot_be_opened_is_not_damaged(tmp_path):
    for read in (read_arrays, lambda path: open_array(path, (3, 4), np.uint8)):
        with pytest.raises(FileNotFoundError, match="none"):
            read(tmp_path / "none")
        with pytest.raises(IsADirectoryError):
            read(tmp_path)


def test_too_little_memory_is_not_a_damaged_file(tmp_path):
    with pytest.raises(MemoryError), _damage_named(tmp_path / "a.npz"):
        np.empty(2**60, np.uint8)


def test_an_archive_that_unpacks_to_more_than_allowed_is_refused(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", a=np.zeros(10**6, np.uint8))
    with pytest.raises(ValueError, match=r"a\.npz is damaged: its arrays must have at most 1,000 bytes, they have"):
        read_arrays(tmp_path / "a.npz", largest=1000)

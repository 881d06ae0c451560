"""Folders are left without what runs have left, and with what is the user's or being written."""

import json
import os
import time

import numpy as np
import pytest

from captum_region.io.files import clear_partials, locked, remove_pictures, remove_states, replacing, write_json

STATE = "0123456789abcdef" * 2
OLD = time.time() - 3601


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_states_are_removed_and_nothing_else(tmp_path):
    states = tmp_path / "checkpoints"
    for path in (states / f"{STATE}.pt", states / STATE / f"{STATE}.pt"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    remove_states(states)
    assert not states.exists()
    remove_states(states)  # of which there are none
    (states / STATE).mkdir(parents=True)
    for name in (
        "epoch=9.ckpt",
        f"{STATE}.pt",
        f".partial-{STATE}.pt-01ab23cd.pt",
        f"{STATE}/notes.txt",
        f"{STATE}/{STATE}.pt",
    ):
        (states / name).touch()
    remove_states(states)
    assert names(states) == [STATE, f"{STATE}/notes.txt", "epoch=9.ckpt"]


def test_pictures_are_removed_and_nothing_else(tmp_path):
    plots = tmp_path / "plots"
    plots.mkdir()
    for name in ("bias.png", "paper_figure.svg"):
        (plots / name).touch()
    remove_pictures(plots)
    assert names(plots) == ["paper_figure.svg"]
    (plots / "paper_figure.svg").unlink()
    remove_pictures(plots)
    assert not plots.exists()


def test_half_written_states_are_removed_at_once_by_the_process_that_has_the_folder(tmp_path):
    (composite := tmp_path / "checkpoints" / STATE).mkdir(parents=True)
    for folder in (tmp_path, tmp_path / "checkpoints", composite):
        (folder / f".partial-{STATE}.pt-01ab23cd.pt").touch()
    with locked(tmp_path):
        pass
    assert names(tmp_path / "checkpoints") == [STATE]
    assert (tmp_path / f".partial-{STATE}.pt-01ab23cd.pt").exists()  # somebody else's, perhaps


def test_a_folder_in_which_nothing_was_written_is_not_left(tmp_path):
    def fail_in(folder, *written):
        with locked(folder):
            for name in written:
                (folder / name).touch()
            raise ValueError("oops")

    (tmp_path / "old").mkdir()
    for name, written in {"new": (), "old": (), "begun": ("table.csv",)}.items():
        with pytest.raises(ValueError, match="oops"):
            fail_in(tmp_path / name, *written)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["begun", "old"]


def test_a_folder_that_the_block_removes_hides_no_error(tmp_path):
    def fail_in(folder):
        with locked(folder):
            (folder / ".lock").unlink()
            folder.rmdir()
            raise ValueError("oops")

    with pytest.raises(ValueError, match="oops"):
        fail_in(tmp_path / "new")
    assert names(tmp_path) == []


def test_the_folder_of_a_file_is_made(tmp_path):
    with replacing(tmp_path / "new" / "deep" / "a.csv") as beside:
        beside.write_text("a,b")
    assert names(tmp_path) == ["new", "new/deep", "new/deep/a.csv"]
    with pytest.raises(OSError, match=r"a\.csv"), replacing(tmp_path / "new" / "deep" / "a.csv" / "b.csv"):
        pass
    assert (tmp_path / "new" / "deep" / "a.csv").read_text() == "a,b"


def test_what_is_being_written_is_left_alone(tmp_path):
    for folder in ("cache", "model"):
        (tmp_path / folder).mkdir()
    at_work, killed = tmp_path / "cache" / ".partial-a.npy", tmp_path / "cache" / ".partial-b.npy"
    for path in (at_work, killed):
        path.touch()
    os.utime(killed, (OLD, OLD))
    for name, is_old in (("at_work", False), ("killed", True)):
        (folder := tmp_path / f".partial-{name}-1").mkdir()
        (folder / "weights").touch()
        os.utime(folder, (OLD, OLD))
        if is_old:
            os.utime(folder / "weights", (OLD, OLD))
    clear_partials([*tmp_path.rglob(".partial-*")])
    assert names(tmp_path) == [
        ".partial-at_work-1",
        ".partial-at_work-1/weights",
        "cache",
        "cache/.partial-a.npy",
        "model",
    ]
    at_work.unlink()
    killed.touch()
    os.utime(killed, (OLD, OLD))
    with (
        locked(tmp_path),
        pytest.raises(BlockingIOError, match="is being written by another process"),
        locked(tmp_path),
    ):
        pass
    assert not killed.exists()


def test_json_knows_no_nan_and_takes_numpys_values(tmp_path):
    content = {np.int64(3): np.array([1.0, np.nan]), "b": [float("inf"), np.float32(0.5)], "c": (tmp_path, None)}
    text = write_json(tmp_path / "a.json", content)
    assert json.loads(text) == {"3": [1.0, None], "b": [None, 0.5], "c": [str(tmp_path), None]}

"""The overlap of two maps, worked out by hand, and that of attributes whose places in the images are known."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from captum_region.datasets import make_faces
from captum_region.io.files import locked
from fairlearn_bridge import attribute_overlap, map_overlap
from fairlearn_bridge.cli import app

RAMP = np.array([[1.0, 2.0], [3.0, 4.0]])


@pytest.mark.parametrize(
    ("target_map", "spurious_map", "quantile", "expected"),
    [
        (RAMP, RAMP, 0.5, 0.7),  # identical: 3 and 4 of 10
        (RAMP, RAMP, 0.75, 0.4),
        (np.eye(2), 3 * np.eye(2), 0.5, 1.0),  # identical but for the scale, and nothing outside
        (np.eye(2), 1 - np.eye(2), 0.5, 0.0),  # disjoint
        (np.ones((2, 2)), RAMP, 0.5, 0.5),  # a target that shows everywhere: chance
        (np.ones((2, 2)), RAMP, 0.75, 0.25),
        (RAMP, np.ones((2, 2)), 0.5, 0.0),  # nothing is above the quantile, so nothing would be perturbed
        (RAMP, [[1, 1], [1, 2]], 0.5, 0.4),  # ties at the quantile are not above it
        (RAMP, [[1, 1], [2, 2]], 0.5, 0.7),
        ([[-5.0, 1.0], [1.0, 2.0]], RAMP, 0.75, 0.5),  # values below 0 count as 0
        (RAMP, RAMP, 0, 1.0),
        (RAMP, RAMP, 1, 0.0),
        (pd.DataFrame(RAMP), torch.tensor(RAMP), 0.5, 0.7),
    ],
)
def test_the_overlap_is_the_share_of_the_targets_map_that_is_perturbed(target_map, spurious_map, quantile, expected):
    assert map_overlap(target_map, spurious_map, quantile) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((RAMP, np.eye(3)), r"of one shape \(height, width\), got \(2, 2\) and \(3, 3\)"),
        ((RAMP[0], RAMP[0]), "of one shape"),
        ((0 * RAMP, RAMP), "target_map must have a value above 0, its largest is 0.0"),
        ((RAMP, np.nan * RAMP), "spurious_map must be finite, got 4 NaN or infinite"),
        ((RAMP, RAMP, 1.5), r"quantile must be a number in \[0, 1\], got 1.5"),
    ],
)
def test_maps_that_do_not_fit_are_named(arguments, words):
    with pytest.raises(ValueError, match=words):
        map_overlap(*arguments)


@pytest.fixture(scope="module")
def planted():
    """Noise of 16 px in which the target lights up a corner in red, one attribute the same corner in blue, one another.

    Three in four images go along with the target.
    """
    generator = np.random.default_rng(0)
    images = generator.integers(0, 20, (160, 3, 16, 16), np.uint8)
    target = np.arange(160) % 2 == 1
    same, other = target ^ (generator.random((2, 160)) < 0.25)
    for labels, channel, place in ((target, 0, slice(0, 6)), (same, 2, slice(0, 6)), (other, 2, slice(10, 16))):
        images[labels, channel, place, place] += 120
    return images, target, same, other


@pytest.mark.slow
def test_attributes_in_the_same_place_overlap_and_others_do_not(planted, tmp_path):
    images, target, same, other = planted
    options = {"quantile": 0.75, "region_epochs": 60, "random_state": 0, "checkpoint_dir": tmp_path}
    found = [attribute_overlap(images, target, spurious, **options) for spurious in (same, other)]
    assert found[0].overlap > 0.6
    assert found[1].overlap < 0.1
    for one in found:
        assert one.chance == pytest.approx(0.25, abs=0.02)
        assert one.target_map.shape == one.spurious_map.shape == (16, 16)
        assert one.target_map[:6, :6].mean() > 3 * one.target_map[10:, 10:].mean()
        assert map_overlap(one.target_map, one.spurious_map, 0.75) == one.overlap
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("[!.]*.pt")}
    assert len(kept) == 4
    again = attribute_overlap(images, target, same, **options)
    np.testing.assert_array_equal(again.target_map, found[0].target_map)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("[!.]*.pt")} == kept


def test_arguments_that_do_not_fit_are_named(planted, tmp_path):
    images, target, same, _ = planted
    for labels, options, words in (
        ((target, same), {"quantile": 2}, "quantile must be a number"),
        ((target, same), {"checkpoint_dir": tmp_path}, "random_state must be given with checkpoint_dir"),
        ((target[:-1], same), {}, "target should be a 1d array"),
        ((target, np.ones(160)), {}, "spurious must hold at least 2 classes"),
        ((target, target), {}, "within must have a class in which labels take several values"),
    ):
        with pytest.raises(ValueError, match=words):
            attribute_overlap(images, *labels, **options)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A table of 60 faces, with a column that is missing for three of them."""
    folder = tmp_path_factory.mktemp("faces")
    faces = make_faces(60, size=16, random_state=0)
    names = [f"{number}.png" for number in range(60)]
    for name, image in zip(names, faces.images, strict=True):
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / name)
    hair = pd.Series(np.where(faces.attributes["Blond_Hair"], "blond", "dark")).where(np.arange(60) > 2)
    faces.attributes.assign(image=names, hair=hair.to_numpy()).to_csv(folder / "faces.csv", index=False)
    return folder / "faces.csv"


def test_inspect_prints_and_writes_the_overlap(table, tmp_path, documented, listed, refused):
    data = ["inspect", "--data", "table", "--root", str(table), "--target", "Male"]
    chosen = ["--overlap", "hair=blond", "--overlap", "Smiling", "--mask-quantile", "0.7"]
    training = ["--size", "16", "--region-epochs", "1", "--seed", "1", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*data, *chosen, *training])
    assert done.exit_code == 0, done.output
    written = json.loads((tmp_path / "out" / "inspect.json").read_text())["overlaps"]
    assert [row["attribute"] for row in written] == ["hair=blond", "Smiling"]
    for row in written:
        assert row["quantile"] == 0.7
        assert row["chance"] == pytest.approx(0.3, abs=0.01)
        line = next(line for line in reversed(done.stdout.splitlines()) if line.split()[:1] == [row["attribute"]])
        assert line.split()[1:] == [f"{row['overlap']:.2f}", f"{row['chance']:.2f}"]
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "out" / "overlap.csv"), pd.DataFrame(written))
    assert listed(tmp_path / "out") == documented("inspect") | {"overlap.csv", "overlap.png"}
    with Image.open(tmp_path / "out" / "overlap.png") as picture:
        assert picture.height > 0.8 * picture.width  # a row for each
    assert "are for --overlap: give them with it" in refused(app, *data, "--seed", "1")
    small = ["--size", "16", "--quiet", "--out", tmp_path / "other"]
    told = refused(app, *data, "--overlap", "Smiling", "--overlap", "age", *small)  # before it trains for Smiling
    assert "'age' is not an attribute" in told
    assert not (tmp_path / "other").exists()
    assert "--region-epochs must be" in refused(app, *data, "--overlap", "Smiling", "--region-epochs", 0, *small)
    with locked(tmp_path / "out"):
        told = refused(app, *data, "--overlap", "Smiling", "--out", tmp_path / "out", "--force")
    assert "is being written by another process" in told
    (tmp_path / "taken" / "overlap.csv").mkdir(parents=True)
    told = refused(app, *data, "--overlap", "Smiling", "--out", tmp_path / "taken", "--force")
    assert told.endswith("overlap.csv must be a file, it is a folder")

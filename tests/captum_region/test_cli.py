"""The command captum-region as a user runs it: real subprocesses on small data."""

import io
import json
import os
import re
import shutil
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from captum_region import (
    DenseRegionClassifier,
    PatchRegionClassifier,
    RegionGrid,
    RegionMaps,
    load_classifier,
    save_classifier,
)
from captum_region.cli import app
from captum_region.cli.reading import set_apart
from captum_region.datasets import AttributeImages, load_table, make_faces
from captum_region.io.files import locked


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A user's own table, 300 images in a folder, as options of a command."""
    folder = tmp_path_factory.mktemp("own")
    faces = make_faces(300, 20, random_state=0)
    for number, image in enumerate(faces.images):
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{number}.png")
    names = [f"{number}.png" for number in range(300)]
    hair = np.where(faces.attributes["Wearing_Hat"], "hat", np.where(faces.attributes["Blond_Hair"], "blond", "dark"))
    table = {"image": names, "hair": hair, "Male": faces.attributes["Male"].astype(int)}
    pd.DataFrame(table).to_csv(folder / "own.csv", index=False)
    return ["--data", "table", "--root", folder / "own.csv", "--cache", folder / "cache"]


@pytest.fixture(scope="module")
def trained(source, tmp_path_factory, command):
    """A classifier of three kinds of hair, and what training it said."""
    out = tmp_path_factory.mktemp("trained") / "hair"
    done = command("captum_region", "train", *source, "--attribute", "hair", "--size", 20, "--epochs", 3, "--out", out)
    return out, done


@pytest.mark.slow
def test_train_on_one_value_within_a_target(source, tmp_path, command, documented, listed):
    options = ["--attribute", "hair=blond", "--within", "Male", "--size", "20", "--epochs", "1", "--quiet", "--json"]
    out = tmp_path / "classifier"
    done = command("captum_region", "train", *source, *options, "--limit", 230, "--out", out)
    assert done.stderr == ""
    assert done.stdout == (out / "training.json").read_text()
    result = json.loads(done.stdout)
    assert result["versions"]["torch"] == version("torch")
    assert result["seed"] == 0
    assert re.fullmatch("[0-9a-f]{32}", result["data"])
    assert result["git"] is None or re.fullmatch("[0-9a-f]{40}(-dirty)?", result["git"])
    assert result["images"] == 230  # of 240: a fifth is kept apart
    assert listed(out) == documented("train")
    loaded = load_classifier(out / "classifier")
    assert loaded.class_names == ("not hair=blond", "hair=blond")


def test_held_out_images_are_drawn_at_random():
    age = np.arange(200)  # as UTKFace's file names sort
    pixels = np.random.default_rng(0).integers(0, 256, (200, 3, 4, 4), np.uint8)
    images = AttributeImages(pixels, pd.DataFrame({"age": age}))
    train, test = set_apart(images, None)
    assert sorted([*train.attributes["age"], *test.attributes["age"]]) == age.tolist()
    assert len(test) == 40
    assert {number // 50 for number in train.attributes["age"][:40]} == {0, 1, 2, 3}
    again, _ = set_apart(images, None)
    np.testing.assert_array_equal(again.attributes["age"], train.attributes["age"])
    assert set_apart(images, train) == (images, train)
    repeated = images.subset(np.r_[np.arange(200), np.arange(0, 200, 3)])
    ages = [set(part.attributes["age"]) for part in set_apart(repeated, None)]
    assert ages[0].isdisjoint(ages[1])


@pytest.mark.slow
def test_train_the_patch_kind(source, tmp_path):
    options = ["--attribute", "Male", "--kind", "patch", "--size", "20", "--limit", "40", "--epochs", "1", "--quiet"]
    done = CliRunner().invoke(app, list(map(str, ["train", *source, *options, "--out", tmp_path / "out"])))
    assert done.exit_code == 0, done.output
    assert "accuracy" not in done.stdout  # its map of every held-out image would take hours
    assert json.loads((tmp_path / "out" / "training.json").read_text())["mean_region_accuracy"] is None
    assert isinstance(load_classifier(tmp_path / "out" / "classifier"), PatchRegionClassifier)


@pytest.mark.slow
def test_a_stopped_attribute_resumes_and_leaves_the_same_store(
    source, trained, tmp_path, command, interrupted, refused, documented, listed, written
):
    classifier, done = trained
    assert "region classifier: 100%" in done.stderr
    assert "best region accuracy" in done.stdout
    assert load_classifier(classifier / "classifier").class_names == ("blond", "dark", "hat")
    out = tmp_path / "maps"
    options = [classifier, *source, "--batch-size", "1", "--out", out]
    done = command("captum_region", "attribute", *options, "--by", "Male", "--json")
    assert "region maps: 100%" in done.stderr
    assert done.stdout == (out / "maps.json").read_text()
    assert listed(out) == documented("attribute")
    maps = RegionMaps(out)
    assert maps.maps.shape == (300, 16, 16)
    np.testing.assert_array_equal(np.load(out / "mean_map.npy"), maps.mean().numpy())
    with Image.open(out / "mean_map.png") as picture:
        assert picture.size[0] > 3 * 400  # all images, and each value of Male
    whole = (out / "maps.npy").read_bytes()
    stopped = tmp_path / "stopped"
    options[-1] = stopped
    store = stopped / "maps.npy"
    told = interrupted(
        lambda: store.exists() and store.stat().st_size > 1000, "captum_region", "attribute", *options, "--quiet"
    )
    assert told.startswith(f"stopped: {stopped / 'maps.json'} keeps what was done")
    assert 0 < json.loads((stopped / "maps.json").read_text())["done"] < 300
    assert "holds files already" in refused(app, "attribute", *options, "--quiet")
    assert "computes the rest" in refused(app, "attribute", *options, "--quiet", "--check")
    done = command("captum_region", "attribute", *options, "--mixed-precision", "auto", "--force")
    assert "mixed precision: no, as in the maps that are there" in done.stderr
    assert store.read_bytes() == whole
    assert "another confidence" in refused(app, "attribute", *options, "--confidence", "margin", "--force", "--quiet")
    before = written(store)
    checked = CliRunner().invoke(app, list(map(str, ["attribute", *options, "--check", "--quiet"])))
    assert checked.exit_code == 0
    assert "computed again, the first and the last batch are equal" in checked.stdout
    assert written(store) == before


@pytest.fixture
def untrained(tmp_path):
    """A classifier of few regions, which costs next to no time."""
    classifier = DenseRegionClassifier(RegionGrid(64, 16, 16), 2, width=2, random_state=0)
    save_classifier(classifier, tmp_path / "untrained")
    return tmp_path / "untrained"


def test_only_the_partition_that_is_used_is_decoded(untrained, tmp_path, refused):
    for part in ("train", "val"):
        (tmp_path / "data" / part).mkdir(parents=True)
        rows = {"file": [], "age": "20-29", "gender": ["Male", "Female"] * 4, "race": "White", "service_test": True}
        for number in range(8):
            rows["file"].append(f"{part}/{number}.png")
            Image.new("RGB", (64, 64), (number, 0, 0)).save(tmp_path / "data" / part / f"{number}.png")
        pd.DataFrame(rows).to_csv(tmp_path / "data" / f"fairface_label_{part}.csv", index=False)
    source = ["--data", "fairface", "--root", tmp_path / "data", "--cache", tmp_path / "cache", "--quiet", "--force"]
    attribute = ["attribute", untrained, *source, "--out", tmp_path / "maps"]
    calibrate = ["calibrate", untrained, *source, "--attribute", "gender=Male", "--out", tmp_path / "calibration"]
    for part, ends, fails in (("val", attribute, calibrate), ("train", calibrate, attribute)):
        file = tmp_path / "data" / part / "0.png"
        whole = file.read_bytes()
        file.write_bytes(b"")
        done = CliRunner().invoke(app, list(map(str, ends)))
        assert done.exit_code == 0, done.stderr
        assert f"{part}/0.png: the file is empty" in refused(app, *fails)
        file.write_bytes(whole)
    assert len(RegionMaps(tmp_path / "maps")) == 8
    assert json.loads((tmp_path / "calibration" / "calibration.json").read_text())["images"] == 8


def in_memory(what):
    """Return how many bytes this process holds in memory, VmRSS, or has held, VmHWM."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(what))


def test_a_difference_that_check_finds_is_exit_code_1(source, untrained, tmp_path, written):
    def run(*more, check=0):
        given = ["attribute", untrained, *source, "--limit", 20, "--out", tmp_path / "maps", "--quiet", *more]
        done = CliRunner().invoke(app, list(map(str, given)))
        assert done.exit_code == check, (done.output, done.exception)
        assert done.stderr == ""
        return done.stdout

    run()
    store = tmp_path / "maps" / "maps.npy"
    before = written(store)
    found = json.loads(run("--check", "--json"))
    assert [(row["what"], row["equal"]) for row in found[:3]] == [
        ("classifier", True),
        ("images", True),
        ("confidence", True),
    ]
    assert [row["what"].partition(" at ")[0][:12] for row in found[3:]] == ["map of image"] * 2
    assert all(row["equal"] for row in found)
    told = run("--check", "--confidence", "margin", check=1).splitlines()
    assert told == ["differs: confidence: was negative_entropy, is margin", "2 of 3 comparisons are equal"]
    assert written(store) == before
    maps = np.load(store, mmap_mode="r+")
    maps[19, 1, 2] += 0.5
    maps.flush()
    differs, counted = run("--check", check=1).splitlines()
    assert differs.startswith("differs: map of image 19 at row 1, column 2: was ")
    assert counted == "4 of 5 comparisons are equal"
    *same, row = json.loads(run("--check", "--json", check=1))
    assert all(each["equal"] for each in same)
    assert not row["equal"]
    assert row["then"] == pytest.approx(row["now"] + 0.5, abs=0.002)


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="Linux forgets a peak when it is asked to")
def test_attribute_holds_a_batch_of_the_images_at_a_time(untrained, tmp_path):
    image = io.BytesIO()
    Image.new("RGB", (64, 64), (10, 20, 40)).save(image, "bmp")
    for number in range(4000):
        (tmp_path / f"{number}.bmp").write_bytes(image.getvalue())
    pd.DataFrame({"image": [f"{number}.bmp" for number in range(4000)]}).to_csv(tmp_path / "own.csv", index=False)
    options = ["--data", "table", "--root", tmp_path / "own.csv", "--cache", tmp_path / "cache", "--quiet", "--force"]

    def run(limit):
        command = ["attribute", untrained, *options, "--out", tmp_path / str(limit), "--limit", limit]
        done = CliRunner().invoke(app, list(map(str, command)))
        assert done.exit_code == 0, done.stderr

    run(1)  # decodes all, and imports what it needs
    before = in_memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    run(3999)  # 49 MB of images
    assert in_memory("VmHWM") - before < 25 * 10**6


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--temperature"]])
def test_calibrate_writes_error_bins_and_temperature(options, source, trained, tmp_path, command, documented, listed):
    out = tmp_path / "calibration"
    options = [*options, "--json"]
    done = command("captum_region", "calibrate", trained[0], *source, "--attribute", "hair", "--out", out, *options)
    assert done.stdout == (out / "calibration.json").read_text()
    assert listed(out) | {"classifier"} == documented("calibrate")
    result = json.loads(done.stdout)
    bins = pd.read_csv(out / "reliability.csv")
    assert len(bins) == 100
    assert bins["patches"].sum() == result["images"] * 256
    gap = ((bins["confidence"] - bins["accuracy"]).abs() * bins["patches"]).sum() / bins["patches"].sum()
    error = result["calibration_error_with_temperature" if "--temperature" in options else "calibration_error"]
    assert gap == pytest.approx(error, rel=1e-6)
    with Image.open(out / "reliability.png") as picture:
        assert picture.size[0] > 400
    if "--temperature" in options:
        better = error < result["calibration_error"]
        assert (out / "classifier").is_dir() == better
        if better:
            assert float(load_classifier(out / "classifier").temperature) == pytest.approx(result["temperature"])


def test_results_in_the_way_are_reported_before_any_training(source, tmp_path, refused):
    for command, name, words in (
        ("train", "history.csv/x", "must be a file, it is a folder"),
        ("train", "classifier/notes.txt", "folder must be new or hold a classifier"),
        ("compare", "table.csv/x", "must be a file, it is a folder"),
        ("slices", "runs.csv/x", "must be a file, it is a folder"),
    ):
        out = tmp_path / command / name.partition("/")[0]
        (out / name).parent.mkdir(parents=True)
        (out / name).touch()
        data = source if command == "train" else ["--data", "faces", "--images", 40]
        arguments = [] if command == "slices" else [*data, "--attribute", "Male"]
        assert words in refused(app, command, *arguments, "--quiet", "--force", "--out", out)
        assert sorted(path.name for path in out.iterdir() if path.name != ".lock") == [name.partition("/")[0]]


def test_calibrate_refuses_an_attribute_with_other_values(source, untrained, tmp_path, refused):
    other = load_classifier(untrained)
    other.class_names = ("old", "young")
    save_classifier(other, tmp_path / "ages")
    arguments = [*source, "--attribute", "hair", "--out", tmp_path / "out", "--quiet"]
    told = refused(app, "calibrate", tmp_path / "ages", *arguments)
    assert (
        "--attribute must be the one that the classifier was trained for, with the values old, young; got hair" in told
    )
    assert told.endswith("with blond, dark, hat")


def test_calibrate_leaves_no_checkpoint_of_another_run(source, untrained, tmp_path, command, refused):
    out = tmp_path / "calibration"
    arguments = ["calibrate", untrained, *source, "--attribute", "Male", "--out", out, "--quiet", "--limit", 8]
    (out / "classifier").mkdir(parents=True)
    with locked(out):
        assert "is being written by another process" in refused(app, *arguments, "--force")
    command("captum_region", *arguments, "--force")
    assert (out / "classifier").is_dir()  # it was of no calibration
    command("captum_region", *arguments, "--force")
    assert not (out / "classifier").exists()
    (out / "classifier").mkdir()
    (out / "training.json").touch()
    command("captum_region", *arguments, "--force")
    assert (out / "classifier").is_dir()  # a training's
    (out / "training.json").unlink()
    (out / "classifier").rmdir()
    # But not the one that is calibrated.
    shutil.copytree(untrained, out / "classifier")
    command("captum_region", *["calibrate", out / "classifier", *arguments[2:]], "--force")
    assert (out / "classifier").is_dir()
    told = refused(app, *arguments[:-1], 3, "--temperature", "--force")
    assert "--limit must leave two images of each class for --temperature, got 1 of one" in told


def test_train_leaves_test_images_of_a_class_of_their_own_out(tmp_path, command):
    # The last fifth of a table is the test.
    faces = make_faces(60, 16, random_state=0)
    for number, image in enumerate(faces.images):
        Image.fromarray(image.transpose(1, 2, 0)).save(tmp_path / f"{number}.png")
    names = [f"{number}.png" for number in range(60)]
    values = np.where(faces.attributes["Male"], "a", "b")
    table = pd.DataFrame({"image": names, "mark": values})
    everyone = load_table(table, root=tmp_path, size=16)
    _, held_out = set_apart(everyone, None)
    alone = held_out.attributes.index[0]
    table.loc[table["image"] == alone, "mark"] = "c"
    table.to_csv(tmp_path / "own.csv", index=False)
    options = ["--data", "table", "--root", tmp_path / "own.csv", "--attribute", "mark", "--size", 16, "--epochs", 1]
    done = command("captum_region", "train", *options, "--out", tmp_path / "out")
    assert "1 images of the test are of classes that no training image has" in done.stderr
    assert load_classifier(tmp_path / "out" / "classifier").class_names == ("a", "b")


def test_calibrate_takes_held_out_images_of_the_first_two_of_three_numbers(tmp_path, command, refused):
    for number in range(40):
        Image.new("RGB", (16, 16), (6 * number, 0, 0)).save(tmp_path / f"{number}.png")
    table = pd.DataFrame({"image": [f"{number}.png" for number in range(40)], "k": 2})
    options = ["--data", "table", "--root", tmp_path / "own.csv", "--quiet", "--cache", tmp_path / "cache"]
    held_out = set_apart(load_table(table, root=tmp_path, size=16, cache=tmp_path / "cache"), None)[1]
    table.loc[table["image"].isin(held_out.attributes.index), "k"] = [0, 1] * 4
    table.loc[:1, "k"] = [0, 1]  # to train on too
    table.to_csv(tmp_path / "own.csv", index=False)
    made = DenseRegionClassifier(RegionGrid(16, 8, 4), 3, class_names=["0", "1", "2"], width=2, random_state=0)
    save_classifier(made, tmp_path / "numbers")
    calibrate = ["calibrate", tmp_path / "numbers", *options, "--attribute", "k", "--out", tmp_path / "out"]
    command("captum_region", *calibrate)
    assert json.loads((tmp_path / "out" / "calibration.json").read_text())["images"] == 8
    made.class_names = ["1", "2", "3"]
    save_classifier(made, tmp_path / "numbers")
    assert "with the values 1, 2, 3; got k, with False, True" in refused(app, *calibrate, "--force")


def test_calibrate_tells_of_a_temperature_at_an_end_of_its_range(source, tmp_path, command):
    blind = DenseRegionClassifier(RegionGrid(20, 8, 4), 2, width=2, random_state=0)  # which has learnt nothing
    for parameter in blind.parameters():
        parameter.data.mul_(30)
    save_classifier(blind, tmp_path / "blind")
    options = [*source, "--attribute", "Male", "--limit", 60, "--temperature", "--out", tmp_path / "out", "--quiet"]
    done = command("captum_region", "calibrate", tmp_path / "blind", *options)
    assert "the temperature is at an end of its range, 0.05 to 20" in done.stderr


def test_calibrate_knows_what_the_classifier_was_trained_for(refused, tmp_path):
    made = DenseRegionClassifier(
        RegionGrid(16, 8, 4), 2, class_names=["not Wearing_Hat", "Wearing_Hat"], random_state=0
    )
    save_classifier(made, tmp_path / "hat")
    options = ["--data", "faces", "--attribute", "Smiling", "--quiet", "--out", tmp_path / "out"]
    made.class_names = ["indoor", "outdoor"]
    save_classifier(made, tmp_path / "light")
    told = refused(app, "calibrate", tmp_path / "light", *options)  # of an attribute that is binary too
    assert told.endswith("with the values indoor, outdoor; got Smiling, with False, True")
    told = refused(app, "calibrate", tmp_path / "hat", *options)
    assert "--attribute must be Wearing_Hat, which the classifier was trained for, got Smiling" in told


@pytest.mark.parametrize("option", ["patch_size", "stride"])
def test_a_patch_size_or_stride_of_0_is_refused(option, tmp_path, refused):
    name = f"--{option.replace('_', '-')}"
    options = ["--data", "faces", "--size", 16, "--attribute", "Male", "--quiet", name, 0]
    assert f"{name} must be at least 1, got 0" in refused(app, "train", *options, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["calibrate", "--attribute", "Male"], "with the values blond, dark, hat; got Male, with False, True"),
        (["calibrate", "--attribute", "hair", "--limit", "2"], "limit must allow one of each of the 3 labels"),
        (["attribute", "--confidence", "certainty"], "confidence must be"),
        (["attribute", "--by", "age"], "'age' is not an attribute"),
        (["attribute", "--data", "bogus"], "--data must be"),
    ],
)
def test_invalid_input_ends_with_one_line_and_exit_code_2(arguments, words, source, trained, tmp_path, refused):
    name, *options = arguments
    out = tmp_path / "out"
    assert words in refused(app, name, trained[0], *source, *options, "--out", out, "--quiet")
    assert not out.exists()

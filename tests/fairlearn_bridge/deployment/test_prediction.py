"""fairlearn-bridge predict: what it writes, in processes of its own that are killed, and what it refuses."""

import json
import os
import signal

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from torch import nn

from captum_region.datasets import load_table
from captum_region.datasets.readers import list_images
from captum_region.io.files import locked
from fairlearn_bridge import ImageClassifier, ThresholdShift, load_mitigator, save_mitigator
from fairlearn_bridge.cli import app
from fairlearn_bridge.deployment.prediction import predict_files

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (40, 3, 12, 16), np.uint8)
Y = np.array(["no", "yes"])[RNG.integers(0, 2, 40)]


def images_in(folder, count):
    """Write a table of `count` images, of which seven differ."""
    folder.mkdir()
    for number in range(7):
        Image.fromarray(RNG.integers(0, 256, (20, 24, 3), np.uint8)).save(folder / f"0-{number}.png")
    names = [f"{number // 7}-{number % 7}.png" for number in range(count)]
    for name in names[7:]:
        (folder / name).hardlink_to(folder / f"0{name[name.index('-') :]}")
    pd.DataFrame({"image": names, "age": 3}).to_csv(folder / "new.csv", index=False)
    return folder / "new.csv"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    classifier = ImageClassifier(max_epochs=1, random_state=0)
    estimator = ThresholdShift(classifier).fit(X, Y, validation=(X, Y))
    save_mitigator(estimator, tmp_path_factory.mktemp("saved") / "model")
    return tmp_path_factory.getbasetemp() / "saved0" / "model"


def arguments(model, table, out, *more):
    return ["predict", model, "--data", "table", "--root", table, "--out", out, *more]


def test_a_row_an_image_as_the_estimator_predicts(model, tmp_path, command, listed):
    table = images_in(tmp_path / "images", 10)
    done = command("fairlearn_bridge", *arguments(model, table, tmp_path / "deep" / "p.csv", "--json", "--quiet"))
    found = pd.read_csv(tmp_path / "deep" / "p.csv")
    images = load_table(table, size=(12, 16), cache=tmp_path)
    estimator = load_mitigator(model)
    assert found["image"].tolist() == images.attributes.index.tolist()
    assert found["prediction"].tolist() == estimator.predict(images).tolist()
    assert np.array_equal(found[["probability_no", "probability_yes"]].to_numpy(), estimator.predict_proba(images))
    assert found["skipped"].isna().all()
    counts = found["prediction"].value_counts()
    summary = {"images": 10, "predicted": {label: int(counts.get(label, 0)) for label in ("no", "yes")}, "skipped": []}
    assert json.loads(done.stdout) == summary
    assert listed(tmp_path / "deep") == {"p.csv"}


@pytest.mark.slow
def test_killed_and_stopped_it_resumes_with_the_same_bytes(model, tmp_path, command, forked, interrupted, wait_until):
    table = images_in(tmp_path / "images", 2500)
    command("fairlearn_bridge", *arguments(model, table, tmp_path / "whole.csv"))
    out = tmp_path / "cut.csv"
    state = tmp_path / "cut.csv.part" / "state.json"
    with forked("-m", "fairlearn_bridge", *arguments(model, table, out)) as process:
        wait_until(state.exists, process)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    killed = json.loads(state.read_text())["done"]
    assert 0 < killed < 2500
    assert not out.exists()
    with (tmp_path / "cut.csv.part" / "rows.csv").open("a") as file:
        file.write("1-1.png,ye")  # half a row
    later = lambda: json.loads(state.read_text())["done"] > killed  # noqa: E731
    told = interrupted(later, "fairlearn_bridge", *arguments(model, table, out))
    assert told == f"stopped: {state} keeps what was done, and the same command resumes from there"
    command("fairlearn_bridge", *arguments(model, table, out))
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert not state.parent.exists()


def test_predictions_of_others_are_not_continued(model, tmp_path, refused):
    table = images_in(tmp_path / "images", 600)
    broken = tmp_path / "images" / "80-0.png"
    broken.unlink()
    broken.write_bytes(b"no image")
    out = tmp_path / "p.csv"
    assert "--skip-damaged leaves such images out" in refused(app, *arguments(model, table, out, "--quiet"))
    assert json.loads((tmp_path / "p.csv.part" / "state.json").read_text())["done"] == 512
    save_mitigator(ImageClassifier(max_epochs=1, random_state=1).fit(X, Y), tmp_path / "other")
    assert "another model" in refused(app, *arguments(tmp_path / "other", table, out, "--quiet"))
    listing = list_images("table", table)
    summary = predict_files(load_mitigator(model), model, listing, out, skip_damaged=True)
    assert summary["skipped"] == [{"image": "80-0.png", "reason": "not an image of a supported format"}]
    found = pd.read_csv(out)
    assert (len(found), sum(summary["predicted"].values())) == (600, 599)
    assert found["prediction"].isna().sum() == 1
    assert found.set_index("image")["skipped"].dropna().to_dict() == {"80-0.png": "not an image of a supported format"}


def test_force_starts_over_with_another_model(model, tmp_path, refused):
    table = images_in(tmp_path / "images", 300)
    out = tmp_path / "p.csv"
    (tmp_path / "images" / "42-0.png").write_bytes(b"")  # of all its links
    assert "0-0.png: the file is empty" in refused(app, *arguments(model, table, out, "--quiet"))
    assert not (tmp_path / "p.csv.part").exists()  # nothing was done
    out.write_text("mine")
    assert "exists already" in refused(app, *arguments(model, table, out))
    assert out.read_text() == "mine"
    predict_files(load_mitigator(model), model, list_images("table", table), out, skip_damaged=True)
    assert pd.read_csv(out)["skipped"].eq("the file is empty").sum() == 43


@pytest.mark.parametrize("options", [[], ["--force"]])
def test_a_folder_of_the_users_is_refused_and_kept(options, model, tmp_path, refused):
    table = images_in(tmp_path / "images", 300)
    out, part = tmp_path / "p.csv", tmp_path / "p.csv.part"
    part.mkdir()
    (part / "notes.txt").write_text("mine")
    told = refused(app, *arguments(model, table, out, "--quiet", *options))
    assert f"{part} must be new or hold unfinished predictions of this command alone, it holds notes.txt too" in told
    assert {path.name: path.read_text() for path in part.iterdir()} == {"notes.txt": "mine"}
    assert not out.exists()


def test_what_a_killed_process_left_is_removed_in_the_end(model, tmp_path, command):
    table = images_in(tmp_path / "images", 3)
    part = tmp_path / "p.csv.part"
    part.mkdir()
    for name in ("rows.csv", ".lock", ".partial-state.json-01ab23cd.json"):
        (part / name).touch()
    command("fairlearn_bridge", *arguments(model, table, tmp_path / "p.csv"))
    assert not part.exists()
    assert len(pd.read_csv(tmp_path / "p.csv")) == 3


@pytest.mark.slow
def test_what_another_writes_there_meanwhile_stays(model, tmp_path, forked, wait_until):
    table = images_in(tmp_path / "images", 2500)
    out, part = tmp_path / "p.csv", tmp_path / "p.csv.part"
    with forked("-m", "fairlearn_bridge", *arguments(model, table, out)) as process:
        wait_until((part / "state.json").exists, process)
        (part / "notes.txt").write_text("mine")
        assert process.wait() == 0
    assert len(pd.read_csv(out)) == 2500
    assert [path.name for path in part.iterdir()] == ["notes.txt"]


def test_an_image_without_labels_has_a_row_too(model, tmp_path, command):
    names = [f"{20 + number}_{number % 2}_0_2017.jpg" for number in range(5)]
    root = tmp_path / "UTKFace"
    root.mkdir()
    for name in (*names, "39_1_2017.jpg", "61_3_2017.jpg"):  # as some of UTKFace's
        Image.fromarray(RNG.integers(0, 256, (20, 24, 3), np.uint8)).save(root / name)
    (root / names[1]).write_bytes(b"")
    (root / "61_3_2017.jpg").write_bytes(b"")
    out = tmp_path / "p.csv"
    given = ["predict", model, "--data", "utkface", "--root", tmp_path, "--out", out, "--quiet", "--skip-damaged"]
    summary = json.loads(command("fairlearn_bridge", *given, "--json").stdout)
    found = pd.read_csv(out, index_col="image")
    assert found.index.tolist() == [*names, "39_1_2017.jpg", "61_3_2017.jpg"]
    skipped = [{"image": name, "reason": "the file is empty"} for name in (names[1], "61_3_2017.jpg")]
    assert (summary["images"], sum(summary["predicted"].values()), summary["skipped"]) == (7, 5, skipped)
    assert found.index[found["prediction"].isna()].tolist() == [row["image"] for row in skipped]
    assert found["skipped"].dropna().tolist() == ["the file is empty"] * 2
    said = command("fairlearn_bridge", *given, "--force").stdout
    assert said.splitlines()[-1] == "skipped: 2"
    # That labels are not known is no damage.
    for name in (names[1], "61_3_2017.jpg"):
        (root / name).unlink()
    command("fairlearn_bridge", *given[:-1], "--force")
    assert pd.read_csv(out)["prediction"].notna().tolist() == [True] * 5


def test_bad_input_is_one_line(model, tmp_path, refused):
    table = images_in(tmp_path / "images", 8)
    out = tmp_path / "p.csv"
    assert f"there is no {tmp_path / 'none' / 'mitigator.json'}" in refused(
        app, *arguments(tmp_path / "none", table, out)
    )
    assert "no column 'picture'" in refused(app, *arguments(model, table, out, "--image-column", "picture"))
    assert "module must be left out" in refused(app, *arguments(model, table, out, "--module", "torch.nn:Linear"))
    assert "--data" in refused(app, "predict", model, "--data", "faces", "--root", ".", "--out", out)
    with locked(tmp_path / "p.csv.part"):
        assert "another process" in refused(app, *arguments(model, table, out, "--quiet"))
    grey = ImageClassifier(max_epochs=1, random_state=0).fit(X[:, :1], Y)
    save_mitigator(grey, tmp_path / "grey")
    assert "3 channels" in refused(app, *arguments(tmp_path / "grey", table, out, "--quiet"))
    assert not out.exists()


def test_a_folder_is_refused_before_anything_is_predicted(model, tmp_path, refused):
    table = images_in(tmp_path / "images", 3)
    place = tmp_path / "folder"
    place.mkdir()
    assert "is a folder; name a file with --out" in refused(app, *arguments(model, table, place, "--force"))
    assert [one.name for one in tmp_path.iterdir() if one.name.startswith("folder")] == ["folder"]


def test_a_network_of_ones_own_is_named(tmp_path, command):
    table = images_in(tmp_path / "images", 8)
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n\ndef network():\n"
        "    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))\n"
    )
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    save_mitigator(ImageClassifier(network, max_epochs=1, random_state=0).fit(X, Y), tmp_path / "run" / "model")
    out, here = tmp_path / "p.csv", os.getcwd()
    os.chdir(tmp_path)
    try:
        done = command("fairlearn_bridge", *arguments(tmp_path / "run", table, out, "--module", "mine:network"))
    finally:
        os.chdir(here)
    assert len(pd.read_csv(out)) == 8
    assert done.stdout.startswith("no: ")

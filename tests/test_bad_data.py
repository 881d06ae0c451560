"""What all commands make of bad data: one line that names it, or a list of what was left out."""

import json
import os
import re

import numpy as np
import pandas as pd
import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

from captum_region import DenseRegionClassifier, RegionGrid, save_classifier
from captum_region.cli import app as captum_region
from captum_region.cli.running import errors_in_one_line
from captum_region.datasets import make_faces
from fairlearn_bridge.cli import app as fairlearn_bridge

COUNT = 300


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images, one of them damaged, and a classifier of them."""
    folder = tmp_path_factory.mktemp("own")
    for number, image in enumerate(make_faces(COUNT, 16, random_state=0).images):
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{number}.png")
    (folder / "broken.png").write_bytes(b"no image")
    grid = RegionGrid.for_images(16)
    save_classifier(DenseRegionClassifier(grid, 2, width=2, random_state=0), folder / "classifier")
    return folder


@pytest.fixture(scope="module")
def attributes():
    """A table without gaps, with names that terminals, file systems and pages may stumble over."""
    male, smiling = (np.arange(COUNT) // step % 2 for step in (1, 2))
    return {
        "image": [f"{number}.png" for number in range(COUNT)],
        "Male": male,
        "smiling/[/bold]": smiling,
        "height [cm]": np.where(male, "<b>tall</b>", "$x_{"),
    }


@pytest.fixture
def run(folder, tmp_path):
    """Run a command on a table in this process; return what it said and its --out."""

    def call(app, command, table, *options, check=0):
        (folder / "table.csv").unlink(missing_ok=True)
        pd.DataFrame(table).to_csv(folder / "table.csv", index=False)
        words = [word.format(classifier=folder / "classifier") for word in command.split()]
        cache = [] if words[0] == "inspect" else ["--cache", str(folder / "cache"), "--quiet"]
        data = ["--data", "table", "--root", str(folder / "table.csv"), "--out", str(tmp_path / "out"), *cache]
        done = CliRunner().invoke(app, [*words, *data, *options])
        assert done.exit_code == check, (done.output, done.exception)
        assert done.exception is None or isinstance(done.exception, SystemExit)
        return done, tmp_path / "out"

    return call


TRAIN = (captum_region, "train --size 16 --epochs 1")
ATTRIBUTE = (captum_region, "attribute {classifier}")
CALIBRATE = (captum_region, "calibrate {classifier}")
SMALL = "--size 16 --epochs 1 --region-epochs 1 --batch-size 8 --jobs 1 --others none --schemes general_mask"
SMALL += " --test-per-cell 4 --train-size 24"
RUN = (fairlearn_bridge, f"run {SMALL} --target Male")
SWEEP = (fairlearn_bridge, f"sweep {SMALL} --target Male --seeds 1 --validation-per-cell 4 --quantile 0.5")
COMPARE = (
    captum_region,
    "compare --masks mask --size 16 --limit 4 --epochs 1 --region-epochs 1 --retrain none --without XRAI",
)
INSPECT = (fairlearn_bridge, "inspect")


@pytest.mark.parametrize(
    ("command", "options", "results"),
    [
        (TRAIN, ["--attribute", "smiling/[/bold]"], "training.json"),
        (TRAIN, ["--attribute", "height [cm]"], "training.json"),
        (ATTRIBUTE, ["--by", "height [cm]"], "maps.json"),
        (CALIBRATE, ["--attribute", "Male"], "calibration.json"),
        pytest.param(RUN, ["--confounder", "height [cm]=<b>tall</b>"], "results.json", marks=pytest.mark.slow),
        pytest.param(SWEEP, ["--confounder", "smiling/[/bold]"], "sweep.json", marks=pytest.mark.slow),
    ],
)
def test_image_columns_of_another_name_and_damaged_images(command, options, results, run, attributes):
    table = {"photo" if name == "image" else name: [*values, values[0]] for name, values in attributes.items()}
    table["photo"][-1] = "broken.png"
    if results == "results.json" and "tall" in options[1]:
        table["height [cm]"][:COUNT] = np.where(np.arange(COUNT) // 2 % 2, "<b>tall</b>", "$x_{")
    done, _ = run(*command, table, *options, check=2)
    assert "no column 'image'; its columns are 'photo', 'Male'" in done.stderr
    assert "name another with --image-column" in done.stderr
    options = [*options, "--image-column", "photo"]
    done, out = run(*command, table, *options, check=2)
    assert done.stderr.startswith("error: ")
    assert "broken.png: not an image of a supported format" in done.stderr
    assert "; --skip-damaged leaves such images out" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (out / results).exists()
    _, out = run(*command, table, *options, "--skip-damaged", "--force")
    found = json.loads((out / results).read_text())["skipped"]
    assert found == [{"image": "broken.png", "reason": "not an image of a supported format"}]
    pages = [page.read_text() for page in out.glob("*.html")]
    assert len(pages) == (results == "results.json")
    assert not any("<b>tall" in page for page in pages)
    assert all("&lt;b&gt;tall" in page for page in pages if "tall" in options[1])


def test_inspect_takes_an_image_column_of_another_name(run, attributes):
    table = {"photo" if name == "image" else name: values for name, values in attributes.items()}
    done, _ = run(*INSPECT, table, "--target", "Male", check=2)
    assert "name another with --image-column" in done.stderr
    _, out = run(*INSPECT, table, "--target", "Male", "--image-column", "photo", "--force")
    assert (out / "inspect.json").exists()


def test_inspect_lists_skipped_file_names(tmp_path):
    for name in (*(f"{age}_{age % 2}_{age % 5}_1.jpg" for age in range(20, 60)), "39_1_2017.jpg"):
        (tmp_path / name).touch()
    command = [
        "inspect",
        "--data",
        "utkface",
        "--root",
        str(tmp_path),
        "--target",
        "Male",
        "--out",
        str(tmp_path / "out"),
    ]
    refused = CliRunner().invoke(fairlearn_bridge, command)
    assert refused.exit_code == 2
    assert "39_1_2017.jpg: the file name is not" in refused.stderr
    done = CliRunner().invoke(fairlearn_bridge, [*command, "--skip-damaged"])
    assert done.exit_code == 0, done.output
    (skipped,) = json.loads((tmp_path / "out" / "inspect.json").read_text())["skipped"]
    assert skipped["image"] == "39_1_2017.jpg"


def test_names_in_brackets_stay_in_the_terminal(run, attributes):
    done, _ = run(*INSPECT, attributes, "--target", "Male")
    assert "height [cm]" in done.stdout
    assert "smiling/[/bold]" in done.stdout


def without_a_value(values):
    return [None, *values[1:]]


@pytest.mark.parametrize(
    ("command", "options", "change", "words"),
    [
        (TRAIN, ["--attribute", "Male"], {"Male": [1] * COUNT}, "--attribute Male must have at least two values"),
        (CALIBRATE, ["--attribute", "Male"], {"Male": [1] * COUNT}, "--attribute Male must have at least two values"),
        (INSPECT, ["--target", "Male"], {"Male": [1] * COUNT}, "target must take at least two values, it takes [1]"),
        (TRAIN, ["--attribute", "Male"], {"Male": range(COUNT)}, "labels must be classes, got 240 different"),
        (TRAIN, ["--attribute", "Male"], {"Male": without_a_value([1] * COUNT)}, "the first is 0.png"),
        (TRAIN, ["--attribute", "x=a"], {"x": without_a_value(["a", "b"] * (COUNT // 2))}, "'x' is missing for 1 of"),
        (ATTRIBUTE, ["--by", "x=a"], {"x": without_a_value(["a", "b"] * (COUNT // 2))}, "the first is 0.png"),
        (RUN, ["--confounder", "x"], {"x": without_a_value([0, 1] * (COUNT // 2))}, "the first is 0.png"),
        (
            RUN,
            ["--confounder", "x=a"],
            {"x": without_a_value(["a", "b"] * (COUNT // 2))},
            "'x' is missing for 1 of 300",
        ),
        (SWEEP, ["--confounder", "x"], {"x": [0] * COUNT}, "--test-per-cell needs 4 images of not Male and x"),
    ],
)
def test_attributes_with_one_value_or_missing_values_are_refused(command, options, change, words, run, attributes):
    done, out = run(*command, attributes | change, *options, check=2)
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list(out.glob("[!.]*.*"))


def test_missing_values_of_unused_attributes_do_no_harm(run, attributes):
    table = attributes | {"x": without_a_value(["a", "b"] * (COUNT // 2))}
    _, out = run(*TRAIN, table, "--attribute", "Male")
    assert json.loads((out / "training.json").read_text())["images"] == 240
    _, out = run(*INSPECT, table, "--target", "x=a", "--force")
    assert json.loads((out / "inspect.json").read_text())["target_missing"] == 1


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize("command", [TRAIN, CALIBRATE])
def test_no_image_or_one_image_is_refused(command, count, run, attributes):
    table = {name: values[:count] for name, values in attributes.items()}
    done, _ = run(*command, table, "--attribute", "Male", check=2)
    assert ("lists no image", "a fifth of the images is kept for the test, but there is only one image")[
        count
    ] in done.stderr


@pytest.mark.parametrize("name", ["classifier.json", "weights.safetensors"])
def test_a_damaged_checkpoint_is_one_line(name, folder, run, attributes, tmp_path):
    classifier = DenseRegionClassifier(RegionGrid.for_images(16), 2, width=2, random_state=0)
    save_classifier(classifier, tmp_path / "saved")
    (tmp_path / "saved" / name).write_bytes((tmp_path / "saved" / name).read_bytes()[:-9])
    done, _ = run(captum_region, f"attribute {tmp_path / 'saved'}", attributes, check=2)
    assert len(done.stderr.strip().splitlines()) == 1
    assert str(tmp_path / "saved") in done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--data", "celeba"], "error: --image-column is for --data table, got --data celeba"),
        (["--data", "faces"], "error: --image-column is for --data table, got --data faces"),
        (["--root", "nowhere"], "error: --root must be a .csv, .tsv or .parquet file, got nowhere"),
        (["--size", "0"], "error: --size must be a positive int"),
    ],
)
def test_errors_of_a_reader_name_options(options, words, run, attributes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nowhere").touch()
    done, _ = run(*TRAIN, attributes, "--attribute", "Male", "--image-column", "image", *options, check=2)
    assert done.stderr.startswith(words)


def test_a_folder_without_the_data_set(tmp_path):
    command = [
        "train",
        "--data",
        "celeba",
        "--attribute",
        "Male",
        "--root",
        str(tmp_path),
        "--out",
        str(tmp_path / "x"),
    ]
    done = CliRunner().invoke(captum_region, command)
    assert done.exit_code == 2
    assert done.stderr.startswith("error: --root must hold the data set: there is no list_attr_celeba.txt")


def test_skipping_is_not_advised_where_no_image_is_left(run, attributes):
    table = attributes | {"image": [f"away/{name}" for name in attributes["image"]]}
    done, _ = run(*TRAIN, table, "--attribute", "Male", check=2)
    assert f"none of {COUNT} images can be read, the first is" in done.stderr
    assert "--skip-damaged" not in done.stderr


@pytest.mark.parametrize("options", [TRAIN, RUN], ids=["train", "run"])
def test_an_enormous_size_is_one_line(options, run, attributes):
    names = ["--attribute", "Male"] if options is TRAIN else ["--confounder", "smiling/[/bold]"]
    done, _ = run(*options, attributes, *names, "--size", "1000000", check=2)
    assert re.fullmatch("error: .*(memory|allocate|too big).*\n", done.stderr)


def test_memory_that_torch_lacks_is_one_line_and_a_fault_of_ours_is_not(capsys):
    with pytest.raises(typer.Exit) as stopped, errors_in_one_line(debug=False):
        torch.empty(2**50)
    assert stopped.value.exit_code == 2
    assert re.fullmatch("error: .*allocate memory.*\n", capsys.readouterr().err)
    with pytest.raises(RuntimeError, match="a fault"), errors_in_one_line(debug=False):
        raise RuntimeError("a fault")


def test_what_goes_wrong_while_ctrl_c_is_on_its_way_is_no_error_of_the_user(capsys):
    def rmtree():
        file = os.open(os.devnull, os.O_RDONLY)
        try:
            os.close(file)
            raise KeyboardInterrupt  # before it can note that the file is closed
        finally:
            os.close(file)

    with pytest.raises(typer.Exit) as stopped, errors_in_one_line(debug=False):
        rmtree()
    assert stopped.value.exit_code == 130
    assert capsys.readouterr().err.startswith("stopped: nothing was saved")


@pytest.mark.parametrize("options", [TRAIN, COMPARE, RUN, SWEEP], ids=["train", "compare", "run", "sweep"])
def test_a_link_that_could_not_be_removed_in_the_end_is_refused_at_once(options, run, attributes, tmp_path):
    names = ["--confounder", "smiling/[/bold]"] if options in (RUN, SWEEP) else ["--attribute", "Male"]
    (tmp_path / "out").mkdir()
    for target in ("elsewhere", "nowhere"):
        (tmp_path / "elsewhere").mkdir(exist_ok=True)
        (tmp_path / "out" / "checkpoints").symlink_to(tmp_path / target)
        done, out = run(*options, attributes, *names, "--force", check=2)
        assert "must be a folder of its own, it is a link" in done.stderr
        assert [path.name for path in out.iterdir()] == ["checkpoints"]
        (out / "checkpoints").unlink()


def test_settings_that_are_nested_without_end_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a long path would be broken into lines
    (tmp_path / "deep.toml").write_text("quantile = " + "[" * 10**5)
    done = CliRunner().invoke(fairlearn_bridge, ["sweep", "--config", "deep.toml", "--out", "out"])
    assert done.exit_code == 2
    assert "deep.toml: maximum recursion" in done.stderr

"""fairlearn-bridge mitigate as a user runs it, on tiny faces and on a table of images."""

import json
import random
import time

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from captum_region.cli.reading import Source
from captum_region.datasets import make_faces
from fairlearn_bridge.cli import app
from fairlearn_bridge.deployment.prediction import part_of

SMALL = ["--epochs", "1", "--region-epochs", "1", "--batch-size", "32", "--jobs", "1"]
FACES = ["--size", "16", "--train-size", "160", "--others", "jtt", *SMALL]


@pytest.fixture(scope="module")
def done(command, tmp_path_factory):
    out = tmp_path_factory.mktemp("mitigate") / "model"
    return out, command("fairlearn_bridge", "mitigate", *FACES, "--json", "--out", out)


def test_report_says_that_a_model_is_not_a_run(done, refused):
    assert "results.json is damaged, or not of fairlearn-bridge run" in refused(app, "report", done[0], "--force")


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """A user's own images: a table to train and test on, one to validate on, and one without labels."""
    folder = tmp_path_factory.mktemp("own")
    rng = np.random.default_rng(0)
    mouth = rng.choice(["open", "closed", "smile"], 240)
    light = np.where(rng.random(240) < np.where(mouth == "smile", 0.9, 0.3), "dark", "bright")
    faces = make_faces(240, 16, attributes={"Smiling": mouth == "smile", "Dark_Skin": light == "dark"}, random_state=0)
    for number, image in enumerate(faces.images):
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{number}.png")
    table = pd.DataFrame({"image": [f"{number}.png" for number in range(240)], "mouth": mouth, "light": light})
    table["hat"], table["person"] = rng.integers(0, 2, 240), np.arange(240) // 2
    table["always"], table["same"] = 1, np.where(mouth == "smile", "y", "n")
    table[:180].to_csv(folder / "faces.csv", index=False)
    table[180:].to_csv(folder / "validation.csv", index=False)
    table[["image"]].to_csv(folder / "new.csv", index=False)
    return folder


def options(tables, **given):
    """The options of a mitigation of the tables."""
    found = {"--data": "table", "--root": tables / "faces.csv", "--target": "mouth", "--confounder": "light"}
    found |= {"--size": 16, "--cache": tables / "cache"} | {f"--{name}": value for name, value in given.items()}
    return [part for pair in found.items() for part in pair]


@pytest.mark.slow
def test_it_writes_every_documented_file(done, documented, listed):
    out, process = done
    assert listed(out) == documented("mitigate")
    assert process.stdout == (out / "results.json").read_text()
    results = json.loads(process.stdout)
    assert [row["name"] for row in results["mitigators"]] == ["original", "specific_transplant", "jtt"]
    assert results["split_off"] == ["validation"]
    assert {path.name for path in (out / "model").iterdir()} == {
        "mitigator.json",
        "weights.safetensors",
        "model_card.md",
    }
    for text in (
        "drawing faces ...",
        "training the classifiers ...",
        "note: The threshold was chosen with few",
        "model: ",
    ):
        assert text in process.stderr
    assert "<title>Male without Blond_Hair, on faces</title>" in (out / "report.html").read_text()


@pytest.mark.slow
def test_a_mitigation_stopped_and_killed_resumes_and_ends_with_the_same_results(
    done, command, forked, interrupted, states, tmp_path
):
    whole, _ = done
    out = tmp_path / "model"
    run = ["fairlearn_bridge", "mitigate", *FACES, "--out", out]
    told = interrupted(lambda: len(states(out)) >= 1, *run)
    assert told.startswith(f"stopped: {out / 'checkpoints'} keeps what was done, and the same command with --force")
    assert not (out / "model").exists()
    # At the end of the block it is killed, at any moment, unless it was faster than the first.
    seconds = sum(json.loads((whole / "results.json").read_text())["seconds"].values())
    moment = time.monotonic() + random.uniform(0, seconds / 2)
    with forked("-m", *run, "--force") as process:
        while time.monotonic() < moment and process.poll() is None:
            time.sleep(0.005)
        assert process.poll() in (None, 0), process.communicate()
    process = command(*run, "--force", "--quiet")
    assert "specific_transplant" in process.stdout
    assert not (out / "checkpoints").exists()
    for name in ("table.csv", "groups.csv", "predictions.csv", "model/weights.safetensors"):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name


@pytest.mark.slow
def test_check_repeats_a_part_and_writes_nothing(done, written):
    out, _ = done
    before = {path: written(path) for path in out.rglob("*")}
    again = ["mitigate", *FACES, "--check", "--quiet", "--out", str(out)]
    same = CliRunner().invoke(app, [*again, "--json"])
    assert same.exit_code == 0, same.stdout
    assert {"predictions of the model", "train images"} <= {row["what"] for row in json.loads(same.stdout)}
    other = CliRunner().invoke(app, [*again, "--scheme", "general_noise"])
    assert other.exit_code == 1
    assert "differs: setting scheme: was specific_transplant, is general_noise" in other.stdout
    assert {path: written(path) for path in out.rglob("*")} == before


@pytest.mark.slow
def test_ones_own_table_with_several_confounders_and_the_model_that_predicts_as_measured(command, tables, tmp_path):
    out = tmp_path / "out"
    given = {"validation": tables / "validation.csv", "identity-column": "person", "scheme": "general_mask", "out": out}
    done = command("fairlearn_bridge", "mitigate", *options(tables, **given), "--confounder", "brightness@0.5", *SMALL)
    assert "mouth has more than two values: the likeliest is predicted" in done.stderr
    assert "accuracy in cell" in done.stdout
    assert "smile, dark, not brightness@0.5" in done.stdout
    results = json.loads((out / "results.json").read_text())
    assert results["config"]["confounders"] == ["light", "brightness@0.5"]
    assert results["images"]["validation"] == 60
    assert results["images"]["train"] + results["images"]["test"] == 180
    assert results["split_off"] == ["test"]
    assert results["threshold"] is None
    kept = pd.read_csv(out / "predictions.csv")
    kept = kept[kept["mitigator"] == "general_mask"].set_index("image")["decided"]
    persons = kept[kept.index.isin([f"{number}.png" for number in range(180)])].index.str.split(".").str[0].astype(int)
    assert len(set(persons // 2)) * 2 == len(persons)  # of each person both images
    csv = tmp_path / "new.csv"
    command(
        "fairlearn_bridge", "predict", out, "--data", "table", "--root", tables / "new.csv", "--out", csv, "--quiet"
    )
    predicted = pd.read_csv(csv).set_index("image")["prediction"]
    pd.testing.assert_series_equal(predicted[kept.index], kept, check_names=False)
    assert not part_of(csv).exists()


@pytest.mark.slow
def test_the_model_of_two_classes_predicts_by_its_threshold(command, tables, tmp_path):
    out = tmp_path / "out"
    given = {"target": "mouth=smile", "scheme": "general_noise+reweighing", "out": out}
    done = command("fairlearn_bridge", "mitigate", *options(tables, **given), *SMALL, "--quiet", "--json")
    results = json.loads(done.stdout)
    assert "flip_rate" not in results["measures"]  # no twins of photographs
    assert any(note.startswith("Who is shown is not known") for note in results["notes"])
    csv = tmp_path / "new.csv"
    command(
        "fairlearn_bridge", "predict", out / "model", *options(tables)[:2], "--root", tables / "new.csv", "--out", csv
    )
    predicted = pd.read_csv(csv).set_index("image")
    kept = pd.read_csv(out / "predictions.csv")
    kept = kept[kept["mitigator"] == "general_noise+reweighing"].set_index("image")
    assert (predicted.loc[kept.index, "prediction"] == kept["decided"]).all()
    np.testing.assert_allclose(predicted.loc[kept.index, "probability_True"], kept["score"], atol=1e-6)
    assert ((kept["score"] >= results["threshold"]) == kept["decided"]).all()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"confounder": "same", "target": "mouth=smile"},
            "error: --confounder same takes one value within each class of",
        ),
        (
            {"confounder": "always"},
            "error: --confounder always must take two values at least, all training images have",
        ),
        ({"confounder": "shade"}, "'shade' is not an attribute of these images"),
        (
            {"confounder": "mouth"},
            "error: --confounder must be another attribute than the target, got 'mouth' for both",
        ),
        ({"target": "always"}, "error: --target always must hold at least 2 classes"),
        ({"target": "person"}, "error: --target person must take at most 50 values, it takes 90: group them first"),
        ({"scheme": "blur"}, "scheme must be one of"),
        ({"others": "hope"}, "others must be of reweighing"),
        ({"test-share": 1.5}, "error: --test-share must be a number in (0, 1)"),
        ({"test-share": 0.5, "validation-share": 0.5}, "error: --validation-share and test_share must add up to less"),
        ({"train-size": 10}, "--train-size is for --data faces"),
        ({"size": 0}, "--size must be a positive int"),
        ({"validation": "nowhere.csv"}, "there is no table nowhere.csv"),
        ({"identity-column": "who"}, "has no column 'who'"),
        ({"data": "imagenet"}, "--data must be one of"),
        (
            {"data": "celeba", "test": "test.csv"},
            "--validation and --test are tables for --data table, got --data celeba",
        ),
        ({"data": "faces", "identity-column": "who"}, "--identity-column is for --data table, got --data faces"),
        ({"data": "faces", "target": "mouth"}, "target and confounders of faces must be of Male"),
        ({"backbone": "no-net"}, "--backbone must be"),
    ],
)
def test_what_cannot_be_done_is_one_line(refused, tables, tmp_path, given, words):
    line = refused(app, "mitigate", *options(tables, **given), "--quiet", "--out", tmp_path / "out")
    assert words in line
    assert not (tmp_path / "out" / "model").exists()


def test_a_target_must_be_named_unless_faces_are_drawn(refused, tables, tmp_path):
    line = refused(app, "mitigate", "--data", "table", "--root", tables / "faces.csv", "--out", tmp_path / "out")
    assert line == "error: --target must be given, unless --data is faces"


def test_results_in_the_way_are_reported_before_any_training(refused, tmp_path):
    (tmp_path / "out" / "table.csv").mkdir(parents=True)
    line = refused(app, "mitigate", *FACES, "--quiet", "--force", "--out", tmp_path / "out")
    assert line == f"error: {tmp_path / 'out' / 'table.csv'} must be a file, it is a folder"
    (tmp_path / "own" / "model").mkdir(parents=True)
    (tmp_path / "own" / "model" / "notes.txt").touch()
    line = refused(app, "mitigate", *FACES, "--quiet", "--force", "--out", tmp_path / "own")
    assert line == f"error: folder must be new or hold a model, but {tmp_path / 'own' / 'model'} holds other files"


@pytest.mark.parametrize(("partition", "sizes"), [("0012", (2, 1, 1)), ("0011", (2, None, 2))])
def test_celeba_has_its_own_sets(partition, sizes, tmp_path):
    names = [f"{number}.jpg" for number in range(4)]
    (tmp_path / "img_align_celeba").mkdir()
    for number, name in enumerate(names):
        Image.new("RGB", (18, 22), (60 * number,) * 3).save(tmp_path / "img_align_celeba" / name)
    rows = "\n".join(f"{name} {1 if number % 2 else -1}" for number, name in enumerate(names))
    (tmp_path / "list_attr_celeba.txt").write_text(f"4\nSmiling\n{rows}\n")
    of_image = zip(names, partition, strict=True)
    (tmp_path / "list_eval_partition.txt").write_text("".join(f"{name} {number}\n" for name, number in of_image))
    sets = Source("celeba", tmp_path, cache=tmp_path / "cache", quiet=True).load_sets(16)
    assert tuple(None if one is None else len(one) for one in sets) == sizes
    assert sets[-1].attributes.index[-1] == "3.jpg"

"""The commands as a user runs them: real subprocesses on small data."""

import json
import re
import shutil
import subprocess
import sys
from importlib.metadata import version

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from captum_region import load_classifier
from captum_region.cli import app as captum_region_app
from captum_region.datasets import make_faces
from fairlearn_bridge import summarize
from fairlearn_bridge.cli import app

SMALL = ["--epochs", "1", "--region-epochs", "1", "--batch-size", "32", "--jobs", "1"]
DEMO = ["--size", "24", "--train-size", "120", "--test-per-cell", "15", *SMALL, "--seeds", "1"]


@pytest.fixture(scope="module")
def demo(command, tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "run"
    return out, command("fairlearn_bridge", "demo", *DEMO, "--out", out)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A user's own table of images: files in a folder, a csv beside."""
    folder = tmp_path_factory.mktemp("own")
    faces = make_faces(300, 20, random_state=0)
    for number, image in enumerate(faces.images):
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{number}.png")
    names = [f"{number}.png" for number in range(300)]
    hair = np.where(faces.attributes["Blond_Hair"], "blond", "dark")
    attributes = faces.attributes[["Male"]].astype(int)
    pd.DataFrame({"image": names, "hair": hair, **attributes}).to_csv(folder / "own.csv", index=False)
    return folder / "own.csv"


@pytest.mark.slow
def test_demo_writes_every_documented_file_and_says_what_could_not_run(demo, documented, listed):
    out, done = demo
    assert listed(out) == documented("demo") == documented("run")
    results = json.loads((out / "results.json").read_text())
    arms = ["original", "balanced", "threshold shifted"]
    arms += ["reweighing", "resampling", "group_dro", "jtt", "lff", "last_layer", "low_spuriosity", "masktune"]
    arms += ["correlation_remover", "adversarial", "threshold_optimizer"]
    arms += ["general_transplant@elsewhere", "general_transplant@random"]
    arms += ["general_transplant", "general_mask@predict", "general_noise"]
    assert [entry["name"] for entry in results["mitigators"]] == arms
    # The biased set has no blond men, without whom these cannot do their work: this is reported, and the others run.
    not_run = {row["mitigator"] for row in results["trainings"] if row["status"] == "not applicable"}
    assert not_run == {"resampling", "group_dro", "last_layer", "threshold_optimizer"}
    assert "group_dro: not applicable: no training image of class True" in done.stderr
    assert results["random_states"] == [0]
    counts = {(row["set"], row["target"], row["confounder"]): row["images"] for row in results["counts"]}
    assert [counts["biased", *cell] for cell in ((True, True), (True, False), (False, True), (False, False))] == [
        0,
        60,
        40,
        20,
    ]
    assert all(counts["test", t, c] == 15 for t in (True, False) for c in (True, False))
    assert "training the region classifier" in done.stderr
    # A bar of a log is drawn when it begins and ends, and every ten seconds.
    assert done.stderr.count("\r") <= 3 * done.stderr.count(" 0%|")
    assert "<html" in (out / "report.html").read_text()


@pytest.mark.slow
def test_the_tables_of_a_demo_are_those_of_its_predictions(demo):
    out, done = demo
    results = json.loads((out / "results.json").read_text())
    arms = [row["mitigator"] for row in results["trainings"] if row["status"] == "done"]
    predictions = pd.read_csv(out / "predictions.csv")
    assert len(predictions) == len(arms) * 60
    alike = predictions.groupby("mitigator")["predicted"].nunique() == 1
    shown = {"ERM baseline" if name == "original" else name for name in alike.index[alike]}
    told = {text.split(" puts all")[0] for text in results["caveats"] if " puts all test images into one class" in text}
    assert told == shown
    assert told
    table = pd.read_csv(out / "table.csv").set_index(["mitigator", "measure"])
    for name in arms:
        of_arm = predictions[predictions["mitigator"] == name]
        right = (
            (of_arm["predicted"] == of_arm["target"])
            .groupby([of_arm["seed"], of_arm["group"], of_arm["confounder"]])
            .mean()
        )
        assert table.loc[(name, "accuracy"), "mean"] == pytest.approx(right.mean())
        assert table.loc[(name, "worst_cell"), "mean"] == pytest.approx(right.groupby("seed").min().mean())
        assert table.loc[(name, "flip_rate"), "mean"] == pytest.approx(of_arm["flipped"].mean())
        assert ("ERM baseline" if name == "original" else name) in done.stdout.replace("\n", " ")
    # The best scheme is compared with the ERM baseline and the controls, image by image.
    ran = [name for name in arms if name in ("original", "threshold shifted") or "transplant@" in name]
    pairs = pd.DataFrame(results["differences"])
    assert pairs["other"].unique().tolist() == ran
    (best,) = pairs["mitigator"].unique()
    schemes = [name for name in ("general_transplant", "general_mask@predict", "general_noise") if name in arms]
    means = table["mean"].unstack("measure")
    assert means.loc[best, "worst_cell"] == means.loc[schemes, "worst_cell"].max()
    of_original = pairs[pairs["other"] == "original"].set_index("measure")
    wanted = summarize(predictions, aligned={True: False, False: True}, reference="original").loc[best]
    for measure, row in of_original.iterrows():
        for name, key in (("difference", "difference"), ("low", "difference_low"), ("high", "difference_high")):
            assert row[name] == pytest.approx(wanted[measure, key], abs=1e-12)
    # One seed is one set of initial weights: an unmitigated model and its shifted threshold have the same scores.
    scores = predictions.set_index("mitigator")["score"]
    np.testing.assert_array_equal(scores["original"], scores["threshold shifted"])
    wide = table.reset_index().pivot(index="mitigator", columns="measure", values="mean").loc[arms].drop("balanced")
    assert set(results["pareto_front"]) == {
        name
        for name, row in wide.iterrows()
        if not (
            (wide["accuracy"] >= row["accuracy"])
            & (wide["gap"].abs() <= abs(row["gap"]))
            & ((wide["accuracy"] > row["accuracy"]) | (wide["gap"].abs() < abs(row["gap"])))
        ).any()
    }


@pytest.mark.slow
def test_the_maps_of_a_demo_are_of_its_region_classifier(demo):
    out, _ = demo
    results = json.loads((out / "results.json").read_text())
    assert load_classifier(out / "region_classifier").class_names == ("False", "True")
    calibration = results["region_classifier"]["calibration"]
    maps = np.load(out / "maps.npz")
    assert calibration["images"] == 60
    assert sum(row["patches"] for row in calibration["bins"]) == 60 * maps["mean_map"].size
    means = [row["mean"] for row in results["confident"]]
    assert means == sorted(means, reverse=True)
    assert len(means) == len(maps["confident_images"]) == 12
    assert maps["donor_images"].shape == maps["example_images"].shape
    assert maps["pixel_map"].shape == (24, 24)
    assert maps["truth_mean"].max() > 0.3


@pytest.mark.slow
def test_a_stopped_demo_resumes_and_ends_with_the_same_results(
    demo, command, interrupted, documented, listed, states, tmp_path
):
    whole, _ = demo
    out = tmp_path / "run"
    options = [*DEMO, "--out", out]
    told = interrupted(lambda: len(states(out)) >= 3, "fairlearn_bridge", "demo", *options)
    assert told.startswith(f"stopped: {out / 'checkpoints'} keeps what was done")
    assert not (out / "table.csv").exists()
    done = command("fairlearn_bridge", "demo", *options, "--force", "--json", "--quiet")
    assert done.stdout == (out / "results.json").read_text()
    assert listed(out) == documented("demo")
    for name in ("table.csv", "predictions.csv", "maps.npz"):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name


@pytest.mark.slow
def test_report_and_demo_overwrite_only_with_force(command, demo):
    out, _ = demo
    page = (out / "report.html").read_text()
    refused = CliRunner().invoke(app, ["report", str(out)])
    assert refused.exit_code == 2
    assert refused.stderr.startswith(f"error: {out / 'report.html'} exists already")
    (out / "report.html").write_text("")
    assert command("fairlearn_bridge", "report", out, "--force").stdout.strip() == str(out / "report.html")
    assert (out / "report.html").read_text() == page
    before = (out / "results.json").read_bytes()
    refused = command("fairlearn_bridge", "demo", "--out", out, check=2)
    assert "--force" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert (out / "results.json").read_bytes() == before


@pytest.mark.slow
def test_run_on_ones_own_table(command, table, tmp_path):
    out, cache = tmp_path / "run", tmp_path / "cache"
    arguments = ["--data", "table", "--root", table, "--target", "Male", "--confounder", "hair=blond", "--out", out]
    options = ["--size", "20", "--cache", cache, "--schemes", "specific_mask,general_mask@auto", "--quiet"]
    options += ["--test-per-cell", "8", "--others", "jtt,exponentiated_gradient"]
    done = command("fairlearn_bridge", "run", *arguments, *options, *SMALL)
    assert "specific_mask" in done.stdout
    assert "training" not in done.stderr
    results = json.loads((out / "results.json").read_text())
    assert results["confounder"] == "hair=blond"
    assert [entry["name"] for entry in results["mitigators"] if entry["kind"] == "mitigator"] == [
        "jtt",
        "exponentiated_gradient",
    ]
    assert {row["status"] for row in results["trainings"]} == {"done"}
    told = {entry["name"]: entry["description"] for entry in results["mitigators"]}
    assert re.search(r"Chosen, seed by seed: general_mask (1|0\.\d)\.$", told["general_mask@auto"])
    predicted = pd.read_csv(out / "predictions.csv")["predicted"]
    assert predicted.dtype == bool
    assert "flip_rate" not in results["measures"]  # no twins of photographs
    # Files are told by their names.
    files = {f"{number}.png" for number in range(300)}
    assert {row["image"] for row in results["confident"]} <= files
    assert set(np.load(out / "maps.npz")["example_names"].tolist()) <= files


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--confounder", "Hat"], "'Hat' is not an attribute"),
        (["--confounder", "hair"], "name one of its values, as in 'hair="),
        (["--confounder", "Male"], "confounder must be another attribute"),
        (["--confounder", "hair=blond", "--schemes", "blur"], "scheme must be one of"),
        (["--confounder", "hair=blond", "--others", "hope"], "others must be of reweighing, resampling"),
        (["--confounder", "hair=blond", "--quantile", "3"], "quantile"),
        (["--confounder", "hair=blond", "--train-size", "9000"], "--train-size must lie in"),
        (["--confounder", "hair=blond", "--epochs", "0"], "epochs must be an integer of at least 1, got 0"),
        (["--confounder", "hair=blond", "--batch-size", "0"], "--batch-size must be an integer of at least 1, got 0"),
        (["--confounder", "hair=blond", "--seeds", "0"], "seeds must be an integer of at least 1, got 0"),
        (["--confounder", "hair=blond", "--seed", "-1"], "--seed must lie in 0 to"),
        (["--confounder", "hair=blond", "--root", "nowhere.csv"], "nowhere.csv"),
        (["--confounder", "hair=blond", "--data", "imagenet"], "--data must be one of"),
    ],
)
def test_invalid_input_ends_with_one_line_and_exit_code_2(refused, arguments, words, table, tmp_path):
    out = tmp_path / "run"
    given = {"--data": "table", "--root": table, "--target": "Male", "--out": out, "--cache": tmp_path / "cache"}
    given |= dict(zip(arguments[::2], arguments[1::2], strict=True))
    assert words in refused(app, "run", *(part for pair in given.items() for part in pair), "--quiet")
    assert not out.exists()


def test_a_learning_rate_below_0_is_refused_before_any_training(refused, table, tmp_path):
    arguments = ["--data", "table", "--root", table, "--target", "Male", "--confounder", "hair=blond", "--quiet"]
    options = ["--size", "20", "--cache", tmp_path / "cache", "--test-per-cell", "8", "--others", "none", "--lr=-1"]
    line = refused(app, "run", *arguments, *options, "--out", tmp_path / "run", *SMALL)
    assert line == "error: --lr must be a number in (0, inf), got -1.0"
    assert not (tmp_path / "run").exists()


TINY = ["--size", "16", "--train-size", "120", "--test-per-cell", "8", "--schemes", "general_mask@predict", *SMALL]


@pytest.mark.slow
def test_a_diverged_training_has_failed(refused, tmp_path):
    arguments = [*TINY, "--others", "none", "--lr", "1e30", "--quiet", "--out", tmp_path / "run"]
    line = refused(app, "demo", *arguments)
    assert line.startswith("error: no mitigator could run; the first: FloatingPointError: ")


def test_a_failed_training_is_reported_and_the_others_are_kept(tmp_path, states, fails_with_seed_1):
    out = tmp_path / "run"
    arguments = ["demo", *TINY, "--others", "broken", "--seeds", "2", "--quiet", "--out", str(out), "--force"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 1, done.stderr
    assert "broken: 1 of 2 seeds; seed 1 failed: KeyError: 'oops'" in done.stderr
    assert re.search(r"broken.*\n.*\(1 of 2 seeds\)", done.stdout)
    assert "mitigator, 1 of 2 seeds" in (out / "report.html").read_text()
    seeds = pd.read_csv(out / "table.csv").set_index("mitigator")["seeds"]
    assert seeds["broken"].eq(1).all()
    assert seeds["original"].eq(2).all()
    # What the same command with --force then need not do again: the region classifier, both trainings of three arms
    # (the threshold is kept with the original), and one of the fourth.
    assert len(states(out)) == 1 + 2 * 3 + 1
    (out / "plots" / "of_another.png").write_bytes(b"")
    assert CliRunner().invoke(app, arguments).exit_code == 1
    assert (out / "plots" / "worst_cell.png").exists()
    assert not (out / "plots" / "of_another.png").exists()


def test_unwritable_results_are_reported_before_any_training(refused, tmp_path):
    for name, make, words in (
        ("checkpoints", lambda path: path.symlink_to(tmp_path), "must be a folder of its own, it is a link"),
        ("plots", lambda path: path.write_text(""), "must be a folder, it is a file"),
        ("table.csv", lambda path: path.mkdir(), "must be a file, it is a folder"),
    ):
        out = tmp_path / f"with {name}"
        out.mkdir()
        make(out / name)
        line = refused(app, "demo", *TINY, "--quiet", "--out", out, "--force")
        assert line == f"error: {out / name} {words}"
        assert {path.name for path in out.iterdir()} <= {name, ".lock"}


def test_images_too_large_for_memory_are_reported_in_one_line(refused, tmp_path):
    line = refused(app, "demo", *TINY, "--size", 10**6, "--quiet", "--out", tmp_path / "run")
    assert re.match("error: (Unable to allocate|out of memory)", line)


@pytest.mark.slow
def test_check_repeats_a_part_and_writes_nothing(demo, refused, tmp_path, written):
    out = demo[0]
    before = {path: written(path) for path in out.rglob("*")}
    arguments = ["demo", *DEMO, "--out", out, "--quiet", "--check"]
    found = CliRunner().invoke(app, list(map(str, [*arguments, "--json"])))
    assert found.exit_code == 0, found.stdout
    assert {row["what"] for row in json.loads(found.stdout)} >= {
        "biased images",
        "test images",
        "mean of the examples' maps",
        "loss of the ERM baseline's first epoch",
    }
    # Another seed draws the same faces: another split of them, and other weights.
    other = CliRunner().invoke(app, list(map(str, [*arguments, "--seed", 5])))
    assert other.exit_code == 1
    assert "differs: setting random_state: was 0, is 5" in other.stdout
    assert "differs: biased images: " in other.stdout
    assert {path: written(path) for path in out.rglob("*")} == before
    assert "results.json" in refused(app, "demo", *DEMO, "--out", tmp_path / "none", "--quiet", "--check")
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_check_of_incomplete_results_says_what_is_missing(demo, refused, tmp_path):
    out = shutil.copytree(demo[0], tmp_path / "run")
    check = ["demo", *DEMO, "--out", out, "--quiet", "--check"]
    arrays = dict(np.load(out / "maps.npz"))
    np.savez(out / "maps.npz", **{name: array for name, array in arrays.items() if name != "example_maps"})
    assert "maps.npz must hold the arrays example_maps" in refused(app, *check)
    np.savez(out / "maps.npz", **arrays)
    results = json.loads((out / "results.json").read_text())
    for row in results["trainings"]:
        row["losses"] = []
    (out / "results.json").write_text(json.dumps(results))
    assert "results.json must hold the losses of the ERM baseline" in refused(app, *check)
    del results["trainings"]
    (out / "results.json").write_text(json.dumps(results))
    assert "it lacks trainings" in refused(app, *check)


def test_help_has_an_example_and_version_is_the_packages():
    assert "Example:" in CliRunner().invoke(app, ["run", "--help"]).stdout
    versions = [CliRunner().invoke(either, ["--version"]).stdout.split()[1] for either in (app, captum_region_app)]
    assert versions == [version("captum-region")] * 2


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("run --data ta", ["table"]),
        ("run --data table --root {table} --target ", ["hair", "Male"]),
        ("sweep --confounder Eye", ["Eyeglasses"]),
        ("demo --schemes general_mask,specific_n", ["general_mask,specific_noise"]),
        ("demo --others jtt,fas", ["jtt,fast"]),
        ("demo --device cu", ["cuda"]),
        ("run --data celeba --root nowhere --target Mal", ["Male"]),
    ],
)
def test_the_shell_completes_values(words, completed, table):
    line = f"fairlearn-bridge {words.format(table=table)}"
    asked = {"_FAIRLEARN_BRIDGE_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    done = CliRunner().invoke(app, [], env=asked, prog_name="fairlearn-bridge")
    assert done.stdout.split() == completed


def test_an_unknown_device_is_refused(tmp_path):
    done = CliRunner().invoke(app, ["demo", "--device", "gpu", "--out", str(tmp_path / "out")])
    assert done.exit_code == 2
    assert "Invalid value for '--device': gpu" in done.stderr
    assert not (tmp_path / "out").exists()


def test_the_command_line_does_not_import_torch():
    code = (
        "import sys, captum_region.cli, fairlearn_bridge.cli; print({'torch', 'sklearn', 'pandas'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"

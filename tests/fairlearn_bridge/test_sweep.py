"""The sweep: what it writes, how it chooses, and that a stopped one resumes."""

import json
import re
import resource
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from fairlearn_bridge.cli import app
from fairlearn_bridge.experiment import ExperimentConfig, synthetic_data
from fairlearn_bridge.schemes import scheme_parameters
from fairlearn_bridge.sweep import SweepResults, run_sweep

SETTINGS = """
confounder = ["Blond_Hair", "Eyeglasses"]
schemes = "specific_noise,general_mask@random"
quantile = [0.7, 0.5]
train-size = 120
test_per_cell = 15
validation_per_cell = 6
size = 16
epochs = 1
region_epochs = 1
seeds = 2
batch_size = 32
jobs = 1
"""
TABLES = ("table.csv", "table1.csv", "validation.csv")


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    path = tmp_path_factory.mktemp("sweep") / "sweep.toml"
    path.write_text(SETTINGS)
    return path


@pytest.fixture(scope="module")
def swept(settings, tmp_path_factory, command):
    out = tmp_path_factory.mktemp("sweep") / "out"
    done = command("fairlearn_bridge", "sweep", "--config", settings, "--out", out, "--seed", "3", "--quiet")
    return out, done


@pytest.mark.slow
def test_a_sweep_writes_what_it_says(swept, documented, listed):
    out, done = swept
    assert listed(out) == documented("sweep")
    plots = {f"figure{number}_{name}.png" for number in (7, 8) for name in ("Blond_Hair", "Eyeglasses")}
    assert {path.name for path in (out / "plots").iterdir()} == plots
    table = pd.read_csv(out / "table.csv").set_index(["confounder", "mitigator", "measure"]).sort_index()
    arms = {"original", "balanced", "threshold shifted"}
    arms |= {f"{scheme} {q}" for scheme in ("specific_noise", "general_mask@random") for q in (0.5, 0.7)}
    for confounder in ("Blond_Hair", "Eyeglasses"):
        assert set(table.loc[confounder].index.get_level_values("mitigator")) == arms
    assert (table.loc["Blond_Hair", "original"]["difference"] == 0).all()
    assert (table.loc["Blond_Hair", "balanced"]["balanced_difference_high"] == 0).all()
    both = table.loc["Eyeglasses", "original"], table.loc["Eyeglasses", "balanced"]
    for name, other in (("", ""), ("_low", "_high")):
        np.testing.assert_allclose(both[0][f"balanced_difference{name}"], -both[1][f"difference{other}"], atol=1e-12)
    random = table.loc[("Eyeglasses", "general_mask@random 0.5", "accuracy")]
    assert (random["scheme"], random["quantile"], random["kind"]) == ("general_mask@random", 0.5, "control")
    # Table 1 shows, of each scheme, the quantile with the best worst-group accuracy on the validation images.
    validation = pd.read_csv(out / "validation.csv").set_index(["confounder", "mitigator"])["worst_cell"]
    table1 = pd.read_csv(out / "table1.csv")
    assert len(table1) == 2 * 2
    for row in table1.to_dict("records"):
        confounder, best = row["confounder"], f"{row['scheme']} {row['quantile']:g}"
        assert validation[confounder, best] == max(validation[confounder, f"{row['scheme']} {q}"] for q in (0.5, 0.7))
        for column, name in (("original", "original"), ("balanced", "balanced"), ("scheme", best)):
            assert row[f"gap {column}"] == table.loc[(confounder, name, "gap"), "mean"]
    recorded = json.loads((out / "sweep.json").read_text())
    assert recorded["quantiles"] == [0.5, 0.7]
    pd.testing.assert_frame_equal(pd.DataFrame(recorded["table1"]), table1, rtol=1e-12)
    assert set(recorded["seconds"]) == {"Blond_Hair", "Eyeglasses"}
    assert "confounder" not in recorded["config"]  # of two
    assert recorded["random_states"] == [3, 4]  # --seed goes with the file
    assert "general_mask@random" in done.stdout


@pytest.mark.slow
def test_a_scheme_that_chooses_its_quantile_has_one_row(tmp_path, states, made_at):
    sizes = {"train_size": 120, "test_per_cell": 15, "validation_per_cell": 6, "batch_size": 32}
    config = ExperimentConfig(
        "Male", "Blond_Hair", schemes=("general_mask@auto",), others=(), epochs=1, region_epochs=1, **sizes
    )
    results = run_sweep([config], lambda one: synthetic_data(one, 16), [0.5], tmp_path, quiet=True)
    chosen = results.trainings.set_index("mitigator")["chosen"]
    assert re.fullmatch(r"general_mask (1|0\.[35-9])", chosen["general_mask@auto"])
    assert (chosen.drop("general_mask@auto") == "").all()
    table1 = results.table1()
    assert list(table1.index) == [("Blond_Hair", "general_mask@auto")]
    assert table1["quantile"].isna().all()
    assert [path.name for path in (tmp_path / "plots").iterdir()] == ["figure7_Blond_Hair.png"]  # 8 is by quantile
    # Results that are found again are those of the commit that made them.
    for path in states(tmp_path):
        made_at(path, "0123")
    again = run_sweep([config], lambda one: synthetic_data(one, 16), [0.5], tmp_path, quiet=True)
    assert set(again.trainings["git"]) == {"0123"}
    assert json.loads((tmp_path / "sweep.json").read_text())["git"] == "0123"


@pytest.fixture
def kept(states, written):
    return lambda out: {path: written(path) for path in states(out)}


@pytest.mark.slow
def test_a_stopped_and_a_killed_sweep_resume(settings, swept, tmp_path, command, forked, interrupted, wait_until, kept):
    out = tmp_path / "out"
    arguments = ["sweep", "--config", settings, "--out", out, "--seed", 3, "--quiet", "--force"]
    told = interrupted(lambda: len(kept(out)) >= 2, "fairlearn_bridge", *arguments)
    assert (
        told
        == f"stopped: {out / 'checkpoints'} keeps what was done, and the same command with --force resumes from there"
    )
    with forked("-m", "fairlearn_bridge", *arguments) as process:  # which is killed
        wait_until(lambda: len(kept(out)) >= 5, process)
    before = kept(out)
    assert 5 <= len(before) < len(kept(swept[0]))
    done = command("fairlearn_bridge", *arguments, "--json")
    assert done.stdout == (out / "sweep.json").read_text()
    after = kept(out)
    assert sum(after[path] != before[path] for path in before) <= 1  # read, not trained anew, but for the one under way
    for name in TABLES:
        assert (out / name).read_bytes() == (swept[0] / name).read_bytes()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("quantiles = [0.5]", "sets quantiles, the options are"),
        ('config = "other.toml"', "sets config, the options are"),
        ("quantile = ", "sweep.toml"),
        ("quantile = " + 10**4 * "[", "sweep.toml"),
        ("quantile = [0.5, 0.5]", "each once, got [0.5, 0.5]"),
        ("quantile = [0.5, 0.50000001]", "each once, got [0.5, 0.50000001]"),
        ("seeds = 0", "seeds must be an integer of at least 1, got 0"),
        ('schemes = "specific_mask@predict"', "general_mask and general_noise in @predict"),
        ("quantile = 1.7", "quantiles must be a number in [0, 1], got 1.7"),
        ("region_epochs = 0", "--region-epochs must be an integer of at least 1, got 0"),
        ('confounder = "Moustache"', "Dark_Skin, got ['Moustache']"),
        (
            'size = 16\ntrain_size = 60\ntest_per_cell = 8\nconfounder = ["Smiling", "nope"]',
            "Dark_Skin, got ['nope']",
        ),
    ],
)
def test_invalid_settings_are_refused(text, words, tmp_path):
    (tmp_path / "sweep.toml").write_text(text)
    arguments = ["sweep", "--config", tmp_path / "sweep.toml", "--out", tmp_path / "out", "--quiet"]
    done = CliRunner().invoke(app, list(map(str, arguments)))
    assert done.exit_code == 2
    told = "".join(done.stderr.replace("│", " ").split())  # typer sets its errors in a box
    assert words.replace(" ", "") in told
    assert not (tmp_path / "out").exists()


TINY = ["--confounder", "Blond_Hair", "--size", 16, "--train-size", 120, "--test-per-cell", 8, "--epochs", 1]
TINY += ["--validation-per-cell", 6, "--region-epochs", 1, "--batch-size", 32, "--jobs", 1, "--quantile", 0.5]
TINY += ["--schemes", "general_mask", "--quiet", "--force"]


@pytest.mark.slow
def test_a_full_disk_ends_a_sweep_and_loses_nothing_that_was_done(tmp_path, refused, kept):
    out = tmp_path / "out"

    def arguments(seeds):
        return list(map(str, ["sweep", *TINY, "--out", out, "--seeds", seeds]))

    done = CliRunner().invoke(app, arguments(1))
    assert done.exit_code == 0, done.stderr
    before = kept(out)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, hard))
    try:
        told = refused(app, *arguments(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert told.startswith("error: [Errno 27] File too large")
    assert kept(out) == before
    (out / "plots" / "of_another.png").write_bytes(b"")
    done = CliRunner().invoke(app, arguments(2))
    assert done.exit_code == 0, done.stderr
    assert {path.name for path in (out / "plots").iterdir()} == {"figure7_Blond_Hair.png", "figure8_Blond_Hair.png"}
    assert (pd.read_csv(out / "table.csv")["seeds"] == 2).all()
    assert kept(out).items() >= before.items()


def test_a_failed_training_of_a_sweep_is_named(tmp_path, fails_with_seed_1):
    arguments = ["sweep", *TINY, "--out", tmp_path / "out", "--seeds", 2, "--others", "broken"]
    done = CliRunner().invoke(app, list(map(str, arguments)))
    assert done.exit_code == 1
    assert "broken: 1 of 2 seeds; seed 1 failed: KeyError: 'oops'" in done.stderr
    assert done.stdout.endswith("Blond_Hair, broken: the mean over 1 of 2 seeds\n")


def test_a_sweep_takes_numpys_numbers(tmp_path):
    config = ExperimentConfig(
        *("Male", "Blond_Hair"),
        **{"schemes": ("general_mask",), "train_size": 60, "test_per_cell": 4, "validation_per_cell": 4},
        **{"epochs": 1, "region_epochs": 1, "others": (), "random_state": np.int64(0), "quantile": np.float32(0.5)},
    )
    run_sweep([config], lambda one: synthetic_data(one, 16), [np.float64(0.5)], tmp_path, quiet=True)
    assert json.loads((tmp_path / "sweep.json").read_text())["random_states"] == [0]


@pytest.mark.parametrize("option", ["--train-size", "--test-per-cell"])
def test_a_size_of_0_is_refused(option, refused, tmp_path):
    small = ["--size", "16", "--region-epochs", "1", "--quiet", "--out", tmp_path / "out"]
    assert f"{option} must" in refused(app, "sweep", option, "0", *small)


def test_results_without_validation_or_crossed_cells_still_make_a_table():
    rows = [
        ("A", arm, scheme, quantile, "accuracy", value, value - 0.5, -0.1, 0.1)
        for arm, scheme, quantile, value in (
            ("original", None, np.nan, 0.5),
            ("balanced", None, np.nan, 0.9),
            ("s 0.5", "s", 0.5, 0.6),
            ("s 0.7", "s", 0.7, 0.7),
        )
    ]
    columns = ["confounder", "mitigator", "scheme", "quantile", "measure", "mean", "difference"]
    table = pd.DataFrame(rows, columns=[*columns, "difference_low", "difference_high"])
    validation = pd.DataFrame({"confounder": "A", "mitigator": ["s 0.5", "s 0.7"], "worst_cell": [0.4, 0.3]})
    table1 = SweepResults(table, validation).table1()
    assert table1.loc[("A", "s"), ("quantile", "")] == 0.5
    assert table1.loc[("A", "s"), ("accuracy", "scheme")] == 0.6
    assert "crossed_auc" not in table1.columns.get_level_values(0)
    alone = SweepResults(table[table["mitigator"] != "balanced"], validation).table1()  # which could not run
    assert alone.loc[("A", "s"), ("accuracy", "scheme")] == 0.6
    assert ("accuracy", "balanced") not in alone


def test_run_sweep_refuses_invalid_quantiles_and_configs(tmp_path):
    config = ExperimentConfig("Male", "Blond_Hair", train_size=24, test_per_cell=2, validation_per_cell=2)
    for quantiles in ([], [0.5, 0.5]):
        with pytest.raises(ValueError, match="quantiles must be given, each once"):
            run_sweep([config], lambda one: synthetic_data(one, 16), quantiles, tmp_path)
    (tmp_path / "table.csv").mkdir()
    with pytest.raises(ValueError, match=r"table.csv must be a file, it is a folder"):
        run_sweep([config], lambda one: synthetic_data(one, 16), [0.5], tmp_path)
    with pytest.raises(ValueError, match="validation_per_cell must be at least 1"):
        run_sweep([replace(config, validation_per_cell=0)], lambda one: synthetic_data(one, 16), [0.5], tmp_path)
    for others in (config, replace(config, target="Smiling", confounder="Eyeglasses")):
        with pytest.raises(ValueError, match="configs must have one target and a confounder each"):
            run_sweep([config, others], lambda one: synthetic_data(one, 16), [0.5], tmp_path)


def test_scheme_names_and_their_suffixes():
    assert scheme_parameters("specific_noise") == {"scheme": "specific_noise"}
    for text in ("general_transplant@predict", "general_mask@", "general_mask@nowhere", "general_blur@random"):
        with pytest.raises(ValueError, match="schem"):
            scheme_parameters(text)

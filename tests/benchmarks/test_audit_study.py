"""The study of audits: what it draws, what it computes of all seeds together, and the command."""

import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from audit_degradations import SETS, chosen, names_for, training_set
from audit_study import Study, StudyConfig, check_majority, configured
from audit_summary import by_case, compared, names_of, shares

from captum_region.datasets import AttributeImages, make_faces
from fairlearn_bridge.audit import Distortion, PillowCodec

ROOT = Path(__file__).parents[2]


def found(drops, psnr, again=None):
    """An audit in which all originals are right, and `drops` says which are lost, by degradation.

    `again` says which are lost by a classifier that was trained anew.
    """
    count = len(next(iter(drops.values())))
    target = np.zeros(count, int)
    outcomes = {
        name: SimpleNamespace(predicted=np.asarray(lost, int), psnr=np.asarray(psnr, float))
        for name, lost in drops.items()
    }
    for name, lost in (again or {}).items():
        outcomes[name].retrained = np.asarray(lost, int)
    table = pd.DataFrame({"bpp": 0.5, "psnr": 30.0, "accuracy": 0.5, "flips": 0.5}, index=list(drops))
    original = SimpleNamespace(predicted=target)
    classes = np.array([0, 1])
    return SimpleNamespace(
        names=list(drops), outcomes=outcomes, original=original, target=target, classes=classes, table=lambda: table
    )


def test_training_sets_have_equal_sizes_and_the_shares_that_they_are_named_for():
    groups = np.repeat(["a", "b", "c"], [100, 60, 40])
    images = AttributeImages(np.zeros((200, 3, 8, 8), np.uint8), pd.DataFrame({"race": groups}))
    config = StudyConfig("gender", ("race",), majority="a")
    counts = [pd.Series(groups[training_set(images, config, kind, 0, 1000)]).value_counts() for kind in SETS]
    assert counts[0].to_dict() == {"a": 96, "b": 12, "c": 12}  # all of "c" are in a balanced set of 120
    assert counts[1].to_dict() == {"a": 40, "b": 40, "c": 40}
    first, again, other = (training_set(images, config, "balanced", seed, 30).tolist() for seed in (0, 0, 1))
    assert first == again != other
    assert len(set(first)) == 30


def test_the_bias_is_of_the_mean_over_seeds():
    groups = np.repeat(["a", "b"], 200)
    half, none = np.arange(400) % 2, np.zeros(400)
    only_b = np.where(groups == "b", half, 0)
    psnr = np.where(half, 20.0, 30.0)
    study = Study([found({"x": only_b, "y": none}, psnr), found({"x": none, "y": none, "z": none}, psnr)])
    assert names_of(study.audits) == ["x", "y"]
    table = by_case(study, groups, StudyConfig("gender", ("race",), majority="a", draws=200))
    row = table.loc["x"]
    assert (row["bias"], row["drop of a"], row["drop of b"], row["others"]) == (0.25, 0, 0.25, 0.25)
    assert row["bias_low"] < 0.25 < row["bias_high"]
    assert row["bias_sd"] == pytest.approx(0.5 / np.sqrt(2))
    assert (row["worst"], row["best"], row["psnr_range"]) == ("b", "a", 0)
    # The images of b that are lost have the lowest PSNR, but so have others.
    assert row["psnr_auc"] == pytest.approx(1 - 100 / 300 / 2)
    assert row["p"] == 1 / 201
    assert row["p_holm"] == 2 / 201
    assert table.loc["y", ["bias", "p", "p_holm"]].tolist() == [0, 1, 1]


def test_pairs_at_one_rate_are_compared():
    groups = np.repeat(["a", "b"], 200)
    only_b = np.where(groups == "b", np.arange(400) % 2, 0)
    drops = {"pca, unbalanced at 1": only_b, "pca, balanced at 1": 0 * only_b, "jpeg 4:2:0 at 1": only_b}
    study = Study([found(drops | {"jpeg 4:4:4 at 1": only_b, "webp at 1": only_b}, np.full(400, 30.0))])
    table = compared(study, groups, StudyConfig("gender", ("race",), draws=100))
    assert table[["first", "second"]].to_numpy().tolist() == [
        ["pca, unbalanced at 1", "pca, balanced at 1"],
        ["jpeg 4:2:0 at 1", "jpeg 4:4:4 at 1"],
    ]
    assert table["difference"].tolist() == [0.5, 0]
    assert table["p"].tolist() == [1 / 101, 1]


def test_shares_sum_to_the_drop_and_their_contrasts_to_the_bias():
    groups = np.repeat(["a", "b"], [100, 300])
    quarter = np.arange(400) % 4 == 0
    none = np.zeros(400)
    lost = np.where(groups == "b", np.arange(400) % 2, quarter)  # half of b, a quarter of a
    still_lost = np.where(groups == "b", quarter, 0)
    one = found({"control": none, "x": lost}, none, {"control": none, "x": still_lost})
    # With the second seed, the classifier that is trained anew on originals is wrong for a quarter of all.
    other = found({"control": none, "x": lost}, none, {"control": quarter, "x": still_lost})
    study = Study(retrained=[one, other])
    table = shares(study, groups, StudyConfig("gender", ("race",), draws=200))
    row = table.loc["x"]
    assert (row["worst"], row["best"], row["bias"]) == ("b", "a", 0.25)
    assert row["drop"] == (100 / 4 + 300 / 2) / 400
    assert (row["unrecoverable of a"], row["unrecoverable of b"]) == (0, 0.25)
    assert (row["recoverable of a"], row["recoverable of b"]) == (0.25, 0.25)
    assert (row["unrecoverable_contrast"], row["recoverable_contrast"]) == (0.25, 0)
    assert (row["unrecoverable_p"], row["recoverable_p"] > 0.05) == (1 / 201, True)
    assert row["unrecoverable_p_holm"] == 2 / 201
    assert row["unrecoverable_contrast_low"] < 0.25 < row["unrecoverable_contrast_high"]
    # The control loses an eighth of each group: so much less is unrecoverable.
    assert table.loc["control", ["drop", "unrecoverable", "recoverable"]].tolist() == [0, 0.125, -0.125]
    assert (row["net_unrecoverable of a"], row["net_unrecoverable of b"]) == (-0.125, 0.125)
    for kind in ("", "net_"):
        assert row[f"{kind}unrecoverable"] + row[f"{kind}recoverable"] == pytest.approx(row["drop"], abs=1e-12)
        contrasts = [row[f"{kind}{share}_contrast"] for share in ("unrecoverable", "recoverable")]
        assert sum(contrasts) == pytest.approx(row["bias"], abs=1e-12)
    assert np.isnan(table.loc["control", "recoverable_contrast"])


def test_shares_of_a_small_group_that_only_varies_more_are_not_contrasts():
    rng, groups = np.random.default_rng(0), np.repeat(["a", "b"], [500, 50])
    rate, none, p = np.where(groups == "a", 0.05, 0.5), np.zeros(550), []
    for _ in range(80):
        wrong = rng.random(550) < 0.5
        changed = [wrong ^ (rng.random(550) < rate) for _ in range(2)]  # as many decisions are lost as won
        one = found({"control": wrong, "x": changed[0]}, none, {"control": wrong, "x": changed[1]})
        one.original.predicted = wrong.astype(int)
        row = shares(Study(retrained=[one]), groups, StudyConfig("gender", ("race",), draws=199)).loc["x"]
        p += [row["unrecoverable_p"], row["recoverable_p"]]
    # Not studentised, 28 % were below 0.05.
    assert np.mean(np.array(p) < 0.05) < 0.12


def test_which_group_loses_most_is_found_anew_in_each_draw():
    groups, every = np.repeat(["a", "b"], 60), np.arange(120)
    lost = np.isin(every % 60, range(20)) | (every == 119)  # b loses one more than a
    still_lost = np.where(groups == "b", lost, 0)  # all of b's, none of a's
    none = np.zeros(120)
    study = Study(retrained=[found({"control": none, "x": lost}, none, {"control": none, "x": still_lost})])
    row = shares(study, groups, StudyConfig("gender", ("race",), draws=400)).loc["x"]
    assert row["unrecoverable_contrast"] == pytest.approx(21 / 60)
    # Where a loses most, the contrast turns round.
    assert row["unrecoverable_contrast_low"] < -0.2
    assert row["unrecoverable_contrast_high"] > 0.2


def test_degradations_to_retrain_for_are_chosen_by_name_and_severity():
    codec = PillowCodec("jpeg", 50)
    given = {"jpeg at 1": codec, "webp at 1": PillowCodec("webp", 50), "blur": Distortion("blur", [1, 2, 3])}
    assert chosen(given, ["blur 3", "jpeg at 1", "blur 1"]) == {
        "blur": Distortion("blur", [3, 1]),
        "jpeg at 1": codec,
    }
    with pytest.raises(ValueError, match=r"--retrain must be of jpeg at 1, .* whose rate is reached; got avif at 1"):
        chosen(given, ["avif at 1"])


def test_a_majority_that_is_no_group_is_refused():
    faces = make_faces(20, 16, random_state=0)
    check_majority(StudyConfig("Smiling", ("Dark_Skin",), majority="Dark_Skin"), faces)
    check_majority(StudyConfig("Smiling", ("Dark_Skin",), parts=("codecs",)), faces)
    for majority in (None, "dark_skin"):
        with pytest.raises(ValueError, match=f"--majority must be one of Dark_Skin, not Dark_Skin, got {majority}"):
            check_majority(StudyConfig("Smiling", ("Dark_Skin",), majority=majority), faces)


def test_unknown_degradations_to_retrain_for_are_refused():
    assert configured("utkface", {"retrain": ["blur 2"], "parts": ["distortions"]}).retrain == ("blur 2",)
    config = StudyConfig("gender", ("race",), parts=("pca", "distortions"), pca_bpp=(0.01,))
    names = ["blur 1", "blur 2", "noise 0.05", "noise 0.1", "contrast 0.5", "downsampling 2"]
    assert names_for(config) == ["pca, unbalanced at 0.01", "pca, balanced at 0.01", *names]
    for part, name in (("distortions", "blur 3"), ("distortions", "pca, balanced at 0.01"), ("pruning", "pruned 0.5")):
        with pytest.raises(ValueError, match=f"--retrain must be of .*, got {name}"):
            configured("utkface", {"retrain": [name], "parts": [part]})


@pytest.mark.slow
def test_the_command_writes_what_it_found_and_resumes(tmp_path, command, forked, wait_until):
    options = ["--size", 24, "--images", 80, "--test-images", 90, "--epochs", 1, "--seeds", 4, "--out"]
    parts = ["--part", "pca", "--part", "pruning", "--pca-bpp", 0.3, "--majority", "Dark_Skin", "--quiet"]
    parts += ["--retrain", "pca, balanced at 0.3", "--draws", 100]
    script, kept = "examples/benchmarks/audit_study.py", tmp_path / "stopped-checkpoints"
    done = command(script, *parts, *options, tmp_path / "whole.json")
    results = json.loads((tmp_path / "whole.json").read_text())
    assert len(results["accuracy"]) == 4  # so that it is still running when the first is done
    found = results["groupings"]["Dark_Skin"]
    names = [row["name"] for row in found["degradations"]]
    assert names[:2] == ["pca, unbalanced at 0.3", "pca, balanced at 0.3"]
    assert len(names) == 8
    assert all(name in done.stdout for name in names)
    assert [row["first"] for row in found["comparisons"]] == names[:1]
    assert [row["name"] for row in found["shares"]] == ["control", "pca, balanced at 0.3"]
    retrained = found["shares"][1]
    assert retrained["drop"] == found["degradations"][1]["drop"]
    assert retrained["unrecoverable"] + retrained["recoverable"] == pytest.approx(retrained["drop"], abs=1e-12)
    assert all(row["reached"] <= 0.3 for row in results["rates"])
    assert not list(tmp_path.glob("*-checkpoints"))
    with forked(ROOT / script, *parts, *options, tmp_path / "stopped.json") as process:
        wait_until((kept / "so_far.json").exists, process)
        os.killpg(process.pid, signal.SIGINT)
        _, stderr = process.communicate()
    assert process.returncode == 130, stderr
    assert f"stopped: {kept} keeps what was done, and the same command resumes from there" in stderr
    command(script, *parts, *options, tmp_path / "stopped.json")
    assert json.loads((tmp_path / "stopped.json").read_text())["groupings"] == results["groupings"]

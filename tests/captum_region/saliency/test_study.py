"""The study on synthetic faces, small: every method is measured in every way, and the results are whole."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupShuffleSplit

from captum_region.cli import app
from captum_region.datasets import AttributeImages, make_faces
from captum_region.io.digest import digest
from captum_region.saliency.methods import floors
from captum_region.saliency.results import StudyResults, best_others
from captum_region.saliency.study import SLOW, information_table, study_attribute

TRAIN, TEST = make_faces(60, 16, random_state=0), make_faces(24, 16, random_state=1)
QUICK = {"epochs": 1, "region_epochs": 1, "retrain_epochs": 1, "limit": 5, "without": ("XRAI",)}
COSTLY = ["XRAI", "KernelShap", "Occlusion", "GradientShap", "IntegratedGradients", "GuidedGradCam"]


# A network that has seen 60 faces once gives Grad-CAM maps of zeros.
@pytest.mark.filterwarnings("ignore:measures are NaN where")
@pytest.mark.slow
def test_every_method_is_measured_in_every_way(tmp_path):
    results = StudyResults(settings={"data": "faces"})
    for seed in (1, 2):
        results.studies["Blond_Hair", seed] = study_attribute(TRAIN, TEST, "Blond_Hair", seed=seed, **QUICK)
    study = results.studies["Blond_Hair", 1]
    names = set(study.comparison.maps)
    assert {"LayerGradCam", "KernelShap", "RegionAttribution", "MultiScaleRegionAttribution, mean", "random"} <= names
    assert "XRAI" not in names
    assert set(study.left["method"]) == (names - set(SLOW)) | {"nothing masked"}
    assert study.left["information_left"].between(0, 1).all()
    assert study.truth.shape == (5, 16, 16)
    assert study.images.binary("Blond_Hair").all()
    assert 0 <= study.accuracy <= 1
    assert study.not_run == {}

    results.write(tmp_path)
    written = json.loads((tmp_path / "comparison.json").read_text())
    assert [run["seed"] for run in written["studies"]] == [1, 2]
    assert {row["method"] for row in written["table"]} == names | {"nothing masked"}
    assert {row["method"] for row in written["cost"]} == names
    scores = pd.read_csv(tmp_path / "scores.csv")
    assert len(scores) == 2 * 5 * len(names)
    table = pd.read_csv(tmp_path / "table.csv").set_index(["measure", "method"])
    by_hand = scores[scores["method"] == "Saliency"].groupby("seed")["pixel_auc"].mean().mean()
    assert table.loc[("pixel_auc", "Saliency"), "mean"] == pytest.approx(by_hand)
    with Image.open(tmp_path / "maps_Blond_Hair.png") as picture:
        assert picture.width < picture.height  # a row a method, a column an image
    rich, best = results.rich_tables()
    assert best.row_count == 7  # of each measure but IoU, which follows from the rank accuracy
    assert rich.row_count == len(names) + 1

    fewer = {"retrain": "none", "without": COSTLY}
    again = study_attribute(TRAIN, TEST, "Blond_Hair", seed=1, **(QUICK | fewer))
    assert again.left.empty
    scores = study.comparison.scores
    same = scores[scores["method"].isin(again.comparison.maps)].reset_index(drop=True)
    assert again.comparison.scores.reset_index(drop=True).equals(same)


def test_the_best_other_is_no_region_map():
    rows = [
        ("RegionAttribution, mean", 0.9, 0.1),
        ("A", 0.5, -0.3),
        ("B", 0.6, -0.2),
        ("MultiScaleRegionAttribution", 0.8, 0),
    ]
    table = pd.DataFrame(rows, columns=["method", "mean", "difference"])
    table = table.assign(low=table["difference"] - 0.1, high=table["difference"] + 0.2, attribute="hat")
    table = pd.concat([table.assign(measure="pixel_auc"), table.assign(measure="deletion")])
    found = best_others(table, "MultiScaleRegionAttribution").set_index("measure")
    assert found["method"].to_dict() == {"pixel_auc": "B", "deletion": "A"}  # a low deletion is better
    row = found.loc["pixel_auc", ["mean", "reference", "difference", "low", "high"]]
    assert row.to_list() == pytest.approx([0.6, 0.8, 0.2, 0.0, 0.3])


def test_information_left_is_compared_by_seed():
    left = pd.DataFrame(
        {
            "seed": [0, 1, 2, 0, 1, 2],
            "method": ["a"] * 3 + ["b"] * 3,
            "information_left": [0.5, 0.6, 0.7, 0.6, 0.7, 0.83],
        }
    )
    row = information_table(left, "a").set_index("method").loc["b"]
    assert row["difference"] == pytest.approx(0.11)
    # Student's t with two degrees of freedom is 4.303 at 97.5 %; the differences are 0.1, 0.1, 0.13.
    half = 4.303 * np.std([0.1, 0.1, 0.13], ddof=1) / np.sqrt(3)
    assert (row["low"], row["high"]) == pytest.approx((0.11 - half, 0.11 + half), abs=1e-4)
    one = information_table(left[left["seed"] == 0], "a").set_index("method").loc["b"]
    assert np.isnan(one["low"])
    with pytest.raises(ValueError, match="reference must be one of a, b"):
        information_table(left, "c")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"attribute": "Bald"}, "'Bald' is not an attribute"),
        ({"test": TEST.subset(~TEST.binary("Smiling"))}, "test must hold images with Smiling"),
        ({"test": TEST.subset(TEST.binary("Smiling"))}, "test must hold images without Smiling too"),
        ({"train": make_faces(4, (16, 20), random_state=0)}, "train must hold square images, got 16 x 20"),
        ({"test": AttributeImages(TEST.images, TEST.attributes)}, "truth must be given"),
        ({"choice": TEST.subset(~TEST.binary("Smiling"))}, "choice must hold images with Smiling"),
        ({"test": make_faces(12, 24, random_state=0)}, r"test must hold images of 16 x 16, .* got \(24, 24\)"),
        ({"choice": make_faces(12, 24, random_state=0)}, r"choice must hold images of 16 x 16, .* got \(24, 24\)"),
        ({"truth": lambda images: np.ones((len(images), 4, 4))}, r"truth must have shape \(\d+, 16, 16\)"),
        ({"limit": -3}, "limit must be an integer of at least 1, got -3"),
        ({"quantile": 1.0, "epochs": 0}, r"quantile must lie in \[0, 1\), got 1.0"),  # a training tells of its epochs
    ],
)
def test_bad_input_is_named_before_anything_is_trained(changed, words):
    arguments = {"train": TRAIN, "test": TEST, "attribute": "Smiling"} | changed
    with pytest.raises(ValueError, match=words):
        study_attribute(**arguments)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"without": ["Gradcam"]}, "without must name methods, of 'Saliency', .* got 'Gradcam'"),
        ({"retrain": ["Gradcam"]}, "retrain must name methods, of 'Saliency', .* got 'Gradcam'"),
        ({"retrain": "some"}, "retrain must be fast, all, none or names"),
        ({"retrain_epochs": 0}, "retrain_epochs must be an integer of at least 1, got 0"),
        ({"region_epochs": 0}, "region_epochs must be an integer of at least 1, got 0"),
    ],
)
def test_unknown_methods_are_named_in_the_error(changed, words):
    with pytest.raises(ValueError, match=words):
        study_attribute(TRAIN, TEST, "Smiling", **(QUICK | changed))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_one_seed_with_retraining_has_no_interval_of_it_and_is_printed(command, tmp_path):
    options = ["--size", 16, "--images", 40, "--epochs", 1, "--region-epochs", 1, "--retrain-epochs", 1, "--limit", 3]
    options += [word for name in COSTLY for word in ("--without", name)]
    options += ["--retrain", "LayerGradCam", "--retrain", "MultiScaleRegionAttribution", "--no-choose"]
    done = command("captum_region", "compare", "--data", "faces", "--attribute", "Smiling", *options, "--out", tmp_path)
    assert "and the best method that is not a region map" in done.stdout


@pytest.mark.slow
def test_a_stopped_comparison_resumes(command, interrupted, states, documented, listed, tmp_path):
    out = tmp_path / "out"
    common = ["--size", 16, "--images", 40, "--epochs", 1, "--region-epochs", 1, "--limit", 3]
    common += [*(word for name in COSTLY for word in ("--without", name)), "--retrain", "none"]
    common += ["--data", "faces", "--attribute", "Smiling", "--seeds", 2, "--out", out]
    # The first seed's three classifiers and what was found with them.
    told = interrupted(lambda: len(states(out)) >= 4, "captum_region", "compare", *common, "--quiet")
    assert told.startswith(f"stopped: {out / 'checkpoints'} keeps what was done")
    done = command("captum_region", "compare", *common, "--force")
    assert "Smiling: explained model" in done.stdout
    assert done.stderr.count("saliency: 100%") == 1  # the first seed was done before
    assert {name.replace("Smiling", "ATTRIBUTE") for name in listed(out)} == documented("compare")
    results = json.loads((out / "comparison.json").read_text())
    assert [study["images"] for study in results["studies"]] == [3, 3]
    drawn = make_faces(40, 16, random_state=2), make_faces(10, 16, random_state=3)
    digests = results["digests"]
    assert [digests["1"][part] for part in ("train", "test")] == [digest(faces.images) for faces in drawn]
    # Each seed has images of its own, but for those to choose on.
    assert len({digest for its in digests.values() for digest in its.values()}) == 5


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # maps of an untrained classifier are flat
def test_a_kept_study_is_read_and_that_of_another_seed_is_not(tmp_path):
    train, test = make_faces(40, 16, random_state=0), make_faces(20, 16, random_state=1)
    options = {"limit": 2, "epochs": 1, "region_epochs": 1, "without": COSTLY[:2] + COSTLY[3:], "retrain": "none"}
    options |= {"checkpoint_dir": tmp_path, "choice": make_faces(8, 16, random_state=2)}
    first, again, other = (study_attribute(train, test, "Smiling", seed=seed, **options) for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(first.comparison.scores, again.comparison.scores)
    assert again.comparison.seconds == first.comparison.seconds  # read: measured anew they would differ
    pd.testing.assert_frame_equal(first.choice, again.choice)
    assert first.choice.groupby("method")["chosen"].sum().eq(1).all()
    assert set(first.choice["variant"]) == {"", "4 px", "2 px", "4 px and 2 px"}  # the windows of Occlusion
    assert set(first.chosen()) == set(first.comparison.maps)
    of_occlusion = first.choice[(first.choice["method"] == "Occlusion") & first.choice["chosen"]]
    assert first.chosen()["Occlusion"] == of_occlusion[["variant", "sigma"]].to_dict("records")[0]
    assert not other.comparison.maps["random"].equal(first.comparison.maps["random"])


def test_compare_refuses_data_without_masks_and_a_missing_reference(refused, tmp_path):
    options = ["--attribute", "Smiling", "--out", tmp_path / "out"]
    assert refused(app, "compare", "--data", "celeba", *options).startswith("error: --data must be faces")
    line = refused(app, "compare", "--data", "faces", "--without", "MultiScaleRegionAttribution", *options)
    assert "which the others are compared with" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_compare_takes_masks_from_a_table(command, refused, tmp_path):
    faces = make_faces(50, 20, random_state=3)
    masks = faces.truth("Wearing_Hat")
    rows = []
    for number, (image, mask) in enumerate(zip(faces.images, masks, strict=True)):
        Image.fromarray(image.transpose(1, 2, 0)).save(tmp_path / f"{number}.png")
        Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / f"{number}_mask.png")
        rows.append((f"{number}.png", f"{number}_mask.png", bool(faces.binary("Wearing_Hat")[number])))
    rows.append(("broken.png", "0_mask.png", True))
    (tmp_path / "broken.png").write_bytes(b"no image")
    pd.DataFrame(rows, columns=["photo", "mask", "hat/[/bold]"]).to_csv(tmp_path / "table.csv", index=False)
    options = [
        "--root",
        tmp_path / "table.csv",
        "--image-column",
        "photo",
        "--skip-damaged",
        "--attribute",
        "hat/[/bold]",
        "--size",
        20,
        "--epochs",
        1,
        "--retrain",
        "none",
    ]
    options += ["--region-epochs", 1]
    options += [word for name in COSTLY for word in ("--without", name)]
    options += ["--no-choose", "--cache", tmp_path / "cache", "--quiet"]
    out = tmp_path / "out"
    done = command("captum_region", "compare", "--data", "table", "--masks", "mask", "--out", out, *options)
    assert [row["image"] for row in json.loads((out / "comparison.json").read_text())["skipped"]] == ["broken.png"]
    assert "hat/[/bold]: explained model" in done.stdout
    scores = pd.read_csv(out / "scores.csv").set_index(["method", "image"])
    # The centre needs no training: its area under the ROC is that of the masks as they were drawn.
    _, apart = next(GroupShuffleSplit(1, test_size=0.2, random_state=0).split(range(50), groups=range(50)))
    apart = np.random.default_rng(0).permutation(apart)
    first = next(number for number in apart if faces.binary("Wearing_Hat")[number])
    centre = floors(0)["centre"](torch.zeros(1, 3, 20, 20), torch.tensor([1]))
    expected = roc_auc_score(masks[first].ravel(), centre.ravel())
    assert scores.loc[("centre", 0), "pixel_auc"] == pytest.approx(expected)
    line = refused(app, "compare", "--data", "table", "--masks", "hut", "--out", tmp_path / "b", *options)
    assert "--masks must be a column" in line

"""mitigate: sets, thresholds and measures against what can be worked out from its predictions; refusals by name."""

import html
import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score

from captum_region import DenseRegionClassifier, RegionGrid, load_classifier
from captum_region.datasets import AttributeImages, make_faces
from fairlearn_bridge import MitigationConfig, load_mitigator, mitigate, worst_group_threshold
from fairlearn_bridge.arms import build_arms
from fairlearn_bridge.mitigation import check_mitigation, mitigation_data, pictures, synthetic_parts, write_mitigation
from fairlearn_bridge.mitigation.data import samples_of
from fairlearn_bridge.mitigation.words import headline

TINY = {"epochs": 2, "region_epochs": 1, "batch_size": 32, "lr": 3e-3}
CONFIG = MitigationConfig("Male", ("Blond_Hair",), others=("reweighing", "last_layer"), **TINY)


def labelled(count=240, seed=0):
    """Faces with attributes of their own: three races of which one is mostly indoors, and a person each two images."""
    rng = np.random.default_rng(seed)
    race = rng.choice(["x", "y", "z"], count)
    indoor = np.where(rng.random(count) < np.where(race == "x", 0.9, 0.3), "indoor", "outdoor")
    attributes = {"Smiling": race == "x", "Wearing_Hat": indoor == "indoor"}
    faces = make_faces(count, 16, attributes=attributes, random_state=seed)
    table = pd.DataFrame({"race": race, "place": indoor, "hat": rng.random(count) < 0.5, "age": rng.random(count)})
    return AttributeImages(faces.images, table, np.arange(count) // 2)


@pytest.fixture(scope="module")
def found():
    biased, test = synthetic_parts(CONFIG, 16, 300)
    return mitigate(CONFIG, biased, None, test)


@pytest.fixture(scope="module")
def folder(found, tmp_path_factory):
    out = tmp_path_factory.mktemp("mitigation")
    return out, write_mitigation(found, out, title="Male, <b>without</b> hair")


def values(found, measure, decision):
    table = found.table[(found.table["measure"] == measure) & (found.table["decision"] == decision)]
    return table.set_index("mitigator")["value"]


def test_the_sets_are_all_images_and_as_biased_as_they_were(found):
    counts = found.counts.sum(axis=1)
    assert counts["train"] + counts["validation"] == 300
    assert counts["test"] == 150
    assert found.data.split_off == ("validation",)
    agree = found.counts[["Male, Blond_Hair", "not Male, not Blond_Hair"]].sum(axis=1) / counts
    assert agree["train"] > 0.9
    assert agree["test"] < 0.65


@pytest.mark.parametrize(("decision", "column"), [("likeliest class", "predicted"), ("chosen threshold", "decided")])
def test_measures_are_those_of_the_predictions(found, decision, column):
    test = found.predictions[found.predictions["set"] == "test"]
    for name, of_one in test.groupby("mitigator"):
        right = of_one[column] == of_one["target"]
        cells = right.groupby([of_one["target"], of_one["confounder"]]).mean()
        assert values(found, "accuracy", decision)[name] == pytest.approx(right.mean())
        assert values(found, "worst_cell", decision)[name] == pytest.approx(cells.min())
        crossed = of_one[(of_one["confounder"] == "Blond_Hair") != of_one["target"]]
        assert values(found, "crossed_auc", decision)[name] == pytest.approx(
            roc_auc_score(crossed["target"], crossed["score"])
        )
        groups = found.groups[(found.groups["mitigator"] == name) & (found.groups["decision"] == decision)]
        by_cell = groups[groups["by"] == "cell"].set_index("group")
        for (target, hair), accuracy in cells.items():
            row = by_cell.loc[f"{'Male' if target else 'not Male'}, {hair}"]
            assert row["accuracy"] == pytest.approx(accuracy)
            interval = binomtest(round(accuracy * row["images"]), int(row["images"])).proportion_ci(method="wilson")
            assert (row["low"], row["high"]) == pytest.approx((interval.low, interval.high))
        for by in ("Male", "Blond_Hair", "cell"):
            of_by = groups[groups["by"] == by]
            assert of_by["images"].sum() == len(of_one)
            assert np.average(of_by["accuracy"], weights=of_by["images"]) == pytest.approx(right.mean())


def test_the_interval_of_the_worst_group_holds_the_true_worst_of_equal_cells(found):
    rows = found.table[found.table["measure"] == "worst_cell"]
    cells = found.groups[found.groups["by"] == "cell"].groupby(["mitigator", "decision"])
    least = cells[["low", "high"]].min()
    for row in rows.itertuples():
        low, high = least.loc[(row.mitigator, row.decision)]
        assert row.low <= low  # all cells together are less certain than each alone
        assert row.low <= row.value <= row.high
        assert row.high >= high


def test_the_threshold_is_the_one_that_validation_images_choose(found):
    validation = found.predictions[found.predictions["set"] == "validation"]
    for name, of_one in validation.groupby("mitigator"):
        chosen = worst_group_threshold(of_one["target"], of_one["score"], sensitive_features=of_one["confounder"])
        assert found.thresholds[name] == chosen
        np.testing.assert_array_equal(of_one["decided"], of_one["score"] >= chosen)


def test_the_model_predicts_what_was_measured(found):
    of_model = found.predictions[found.predictions["mitigator"] == CONFIG.scheme].groupby("set")
    for name, rows in of_model:
        images = getattr(found.data, name).images
        np.testing.assert_array_equal(found.model.predict(images), rows["decided"])
        np.testing.assert_array_equal(found.mitigator.predict(images), rows["predicted"])


def test_the_flip_rate_is_of_faces_with_the_other_hair(found):
    twins = found.data.test.twin("Blond_Hair")
    for decision, model in (("likeliest class", found.mitigator), ("chosen threshold", found.model)):
        flipped = model.predict(twins) != model.predict(found.data.test.images)
        assert values(found, "flip_rate", decision)[CONFIG.scheme] == pytest.approx(flipped.mean())


def test_it_says_which_cells_are_small(found):
    assert any("few validation images of some cells: " in note for note in found.notes)
    assert any("synthetic" in note for note in found.notes)


def test_the_same_call_finds_the_same(found):
    again = mitigate(replace(CONFIG, others=()), found.data.train, found.data.validation, found.data.test)
    rows = found.table[found.table["mitigator"].isin(["original", CONFIG.scheme])].reset_index(drop=True)
    pd.testing.assert_frame_equal(again.table, rows)


def test_a_target_of_three_classes_and_two_confounders():
    images = labelled()
    config = MitigationConfig("race", ("place", "hat"), scheme="general_noise", **TINY)
    found = mitigate(config, images)
    assert found.thresholds == {}
    assert found.model.classes_.tolist() == ["x", "y", "z"]
    assert set(found.table["decision"]) == {"likeliest class"}
    assert set(found.table["measure"]) == {"accuracy", "worst_cell"}  # an AUC is of two classes
    assert found.table["threshold"].isna().all()
    assert found.counts.shape == (3, 12)
    assert set(found.groups["by"]) == {"race", "place", "hat", "cell"}
    # By a bootstrap within a cell of so few images the difference may be 0 for certain.
    assert headline(found).startswith("Whether general_noise raises the worst-group accuracy cannot be told from these")
    assert re.search(r"but the worst group of .* has only \d+ test images?\.$", headline(found))
    assert any("race has more than two values: the likeliest is predicted" in note for note in found.notes)
    persons = [set(getattr(found.data, name).identities.tolist()) for name in ("train", "validation", "test")]
    assert sum(map(len, persons)) == 120


def test_a_rare_third_value_has_one_name_in_all_sets():
    images = labelled()
    scanner = np.arange(240) // 2 % 2
    scanner[:3] = 2
    data = replace(images, attributes=images.attributes.assign(scanner=scanner))
    config = MitigationConfig("place", ("scanner",), **TINY)
    for train, test in ((data, None), (data, data.subset(scanner < 2))):
        sets = mitigation_data(config, train, None, test).sets
        for one in sets.values():
            assert set(samples_of(config, one).confounder) <= {"0", "1", "2"}
    whole = mitigation_data(config, data.subset(scanner < 2))
    assert set(samples_of(config, whole.train).confounder) == {"scanner", "not scanner"}


def test_low_spuriosity_goes_by_the_presence_of_the_attribute():
    config = MitigationConfig("Male", ("Blond_Hair",), others=("low_spuriosity",), **TINY).experiment
    for names, value in ((["Blond_Hair", "not Blond_Hair"], 0), (["not hat", "hat"], 1), (["False", "True"], 1)):
        regions = DenseRegionClassifier(RegionGrid(16, 8, 4), 2, class_names=names)
        assert build_arms(config, regions)["low_spuriosity"].estimator.value == value
    regions = DenseRegionClassifier(RegionGrid(16, 8, 4), 3, class_names=["x", "y", "z"])
    assert "in which y shows least" in build_arms(config, regions)["low_spuriosity"].description


@pytest.mark.parametrize("names", [("None", "glasses"), ("01", "02")])
def test_a_check_reads_classes_as_text(tmp_path, names):
    images = labelled(160)
    table = images.attributes.assign(worn=np.where(images.attributes["place"] == "indoor", *names))
    data = replace(images, attributes=table)
    config = MitigationConfig("worn", ("hat",), **TINY)
    found = mitigate(config, data)
    write_mitigation(found, tmp_path, title="worn")
    checked = check_mitigation(config, mitigation_data(config, data), tmp_path)
    assert checked["equal"].all(), checked


def test_an_image_that_is_repeated_is_in_one_set():
    images = labelled()
    twice = images.subset(np.r_[np.arange(240), 5:65])  # under other persons' names too
    twice = replace(twice, identities=np.r_[np.arange(240), 240 + np.arange(60)])
    for known in (twice, replace(twice, identities=None)):
        data = mitigation_data(MitigationConfig("race", ("hat",)), known)
        names = [set(data.sets[name].attributes.index.tolist()) for name in ("train", "validation", "test")]
        assert sum(map(len, data.sets.values())) == 300
        assert sum(map(len, names)) == 240


def test_a_table_sorted_by_class_and_spurious_attribute_has_its_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "_DONORS", 4)
    images = labelled()
    images = images.subset(np.lexsort([images.attributes["race"], images.attributes["hat"]]))
    monkeypatch.setattr(pictures, "EXAMPLES", 2)  # of fewer cells than there are
    found = mitigate(MitigationConfig("race", ("hat",), **TINY), images)
    write_mitigation(found, tmp_path, title="sorted")
    assert (tmp_path / "report.html").exists()


def test_each_of_two_confounders_has_its_own_auc_and_flip_rate():
    config = MitigationConfig("Male", ("Blond_Hair", "Eyeglasses"), scheme="specific_transplant+reweighing", **TINY)
    biased, test = synthetic_parts(config, 16, 240)
    found = mitigate(config, biased, None, test)
    names = {f"{of}[{one}]" for of in ("crossed_auc", "flip_rate") for one in config.confounders}
    assert set(found.table["measure"]) == {"accuracy", "worst_cell", "auc"} | names
    test = found.predictions[(found.predictions["set"] == "test") & (found.predictions["mitigator"] == "original")]
    glasses = np.array(["not Eyeglasses" not in text for text in test["confounder"]])
    crossed = test[glasses != test["target"]]
    auc = roc_auc_score(crossed["target"], crossed["score"])
    assert values(found, "crossed_auc[Eyeglasses]", "likeliest class")["original"] == pytest.approx(auc)


def test_an_attribute_that_goes_with_no_class_has_no_bias_to_go_against():
    images = labelled(160)
    balanced = images.attributes.assign(sex=np.arange(160) % 2, even=np.arange(160) // 2 % 2)
    data = replace(images, attributes=balanced, identities=None)
    found = mitigate(MitigationConfig("sex", ("even",), scheme="general_mask", **TINY), data, data, data)
    assert set(found.table["measure"]) == {"accuracy", "worst_cell", "auc"}
    assert "160 images of the test set are in the training set too: their accuracy says little." in found.notes


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"confounders": ()}, "confounders must be a tuple with a name at least"),
        ({"confounders": ("place", "place")}, "confounders must be named once each"),
        ({"confounders": ("race",)}, "confounder must be another attribute than the target"),
        ({"scheme": "general_noise@random"}, "scheme must be one to keep, no control"),
        ({"scheme": "blur"}, "scheme must be one of"),
        ({"others": ("hope",)}, "others must be of"),
        ({"region_epochs": 0}, "region_epochs must be an integer of at least 1, got 0"),
        ({"quantile": 2.0}, "quantile"),
        ({"test_share": 0.0}, "test_share must be a number in"),
        ({"epochs": 0}, "epochs must be an integer of at least 1"),
    ],
)
def test_settings_that_do_not_fit_are_named(given, words):
    with pytest.raises(ValueError, match=words):
        MitigationConfig(**{"target": "race", "confounders": ("place",)} | given)


@pytest.mark.parametrize(
    ("target", "confounder", "change", "words"),
    [
        ("race", "place", {"race": "x"}, "target race must hold at least 2 classes"),
        ("race", "place", {"place": "indoor"}, "confounder place must take two values at least, all .* have indoor"),
        (
            "hat",
            "twin",
            {},
            r"confounder twin takes one value within each class of hat \(not hat: a; hat: b\): nothing",
        ),
        ("race", "shade", {}, "'shade' is not an attribute"),
        ("age", "place", {}, "target age must be classes"),
        ("race", "age", {}, "confounder age must be classes"),
        ("race", "years", {}, "confounder years must take at most 50 values, it takes 60: group them first"),
        ("race", "place", {"place": None}, "'place' is missing for 240 of 240 images"),
    ],
)
def test_what_cannot_be_learnt_is_refused(target, confounder, change, words):
    images = labelled()
    made = {"twin": np.where(images.attributes["hat"], "b", "a"), "years": np.arange(240) // 4}
    table = images.attributes.assign(**made, **change)
    with pytest.raises(ValueError, match=words):
        mitigation_data(MitigationConfig(target, (confounder,)), replace(images, attributes=table))


def test_sets_that_do_not_go_together_are_refused():
    config, images = MitigationConfig("race", ("place",)), labelled()
    some = images.subset(images.attributes["race"] != "z")
    with pytest.raises(ValueError, match=r"the test set must hold the classes .* differs in race=z, which it has not"):
        mitigation_data(config, images, None, some)
    with pytest.raises(
        ValueError, match=r"the validation set .* differs in race=z, which the training set does not have"
    ):
        mitigation_data(config, some, images, some)
    small = AttributeImages(images.images[:, :, 2:], images.attributes)
    with pytest.raises(ValueError, match=r"test must have images of \(3, 16, 16\), got \(3, 14, 16\)"):
        mitigation_data(config, images, None, small)


def test_a_cell_without_test_images_is_named_and_left_out():
    images = labelled()
    table = images.attributes
    without = images.subset(~((table["race"] == "x") & (table["place"] == "outdoor")))
    found = mitigate(MitigationConfig("race", ("place",), scheme="general_mask", **TINY), images, None, without)
    assert "No test image is x, outdoor: the worst group is one of the other cells." in found.notes
    assert "120 persons are in both" not in " ".join(found.notes)
    assert any("persons are in both the training and the test set" in note for note in found.notes)
    assert (found.groups[found.groups["by"] == "cell"]["group"] != "x, outdoor").all()


@pytest.mark.slow
def test_what_was_chosen_without_a_balanced_set_is_said():
    config = replace(CONFIG, scheme="general_noise@auto", others=(), epochs=1)
    biased, test = synthetic_parts(config, 16, 200)
    found = mitigate(config, biased, None, test)
    assert found.mitigator.scheme_ == "general_noise"
    assert found.trained.arms[config.scheme].description.endswith(
        f" Chosen: general_noise {found.mitigator.quantile_:g}."
    )


def test_a_training_that_cannot_run_is_an_error():
    biased, test = synthetic_parts(CONFIG, 16, 120)
    with pytest.raises(ValueError, match="the first: FloatingPointError"):
        mitigate(replace(CONFIG, lr=1e30, others=()), biased, None, test)


def test_the_folder_has_the_model_and_all_numbers(found, folder):
    out, results = folder
    assert json.loads((out / "results.json").read_text()) == results
    model = load_mitigator(out / "model")
    np.testing.assert_array_equal(
        model.predict_proba(found.data.test.images), found.model.predict_proba(found.data.test.images)
    )
    predictions = pd.read_csv(out / "predictions.csv")
    assert len(predictions) == len(found.predictions)
    kept = predictions[(predictions["mitigator"] == CONFIG.scheme) & (predictions["set"] == "test")]
    np.testing.assert_array_equal(model.predict(found.data.test.images), kept["decided"])
    assert kept["image"].tolist() == found.data.test.attributes.index.tolist()
    pd.testing.assert_frame_equal(pd.read_csv(out / "table.csv"), found.table, check_names=False)
    assert load_classifier(out / "region_classifier").class_names == ("Blond_Hair", "not Blond_Hair")
    card = (out / "model" / "model_card.md").read_text()
    for text in ("AttributionNoiseMitigator", "True is Male", "not Male, Blond\\_Hair", "few validation images"):
        assert text in card
    assert results["threshold"] == found.thresholds[CONFIG.scheme]


def test_the_page_says_what_was_found(found, folder):
    out, _ = folder
    page = (out / "report.html").read_text()
    assert "<title>Male, &lt;b&gt;without&lt;/b&gt; hair</title>" in page
    text = html.unescape(page)
    for words in (
        "the worst-group accuracy",
        "At the threshold 0.5",
        "in model/",
        "Limitations",
        "few validation images",
    ):
        assert words in text
    assert "nan" not in text.lower().replace("dominan", "")[: text.index("How it was run")].split()
    assert page.count("data:image/png") == 6
    strips = re.search(r"Accuracy on the quarter of each class at both ends: (.+?)\.</figcaption>", text, re.DOTALL)
    assert "the region classifier finds Blond_Hair most and least" in text  # not where it is absent
    assert strips[1].count("a difference of ") == 2
    assert {path.stem for path in (out / "plots").iterdir()} == {
        "accuracy_by_cell",
        "worst_group",
        "region_map",
        "training_images",
        "ranking",
        "training_losses",
    }


def test_of_a_mitigation_that_is_written_over_no_plot_stays(found, tmp_path):
    for _ in range(2):
        write_mitigation(found, tmp_path, title="Male")
        plots = {path.name for path in (tmp_path / "plots").iterdir()}
        assert "worst_group.png" in plots
        assert "of_another.png" not in plots
        (tmp_path / "plots" / "of_another.png").write_bytes(b"")


def test_a_check_compares_with_the_folder(found, folder):
    out, _ = folder
    same = check_mitigation(CONFIG, found.data, out)
    assert same["equal"].all()
    assert {"test images", "predictions of the model", "loss of the ERM baseline's first epoch"} <= set(same["what"])
    other = check_mitigation(replace(CONFIG, quantile=0.7), replace(found.data, test=found.data.validation), out)
    assert list(other["what"][~other["equal"]]) == ["setting quantile", "test images"]
    with pytest.raises(FileNotFoundError, match=r"there is no .*results\.json"):
        check_mitigation(CONFIG, found.data, out / "plots")


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_browser_shows_the_page_on_a_phone_without_errors(browser, folder, theme):
    page = folder[0] / "report.html"
    browser.show(page, width=390, theme=theme)
    assert browser.evaluate("document.documentElement.scrollWidth") <= 390
    assert browser.evaluate("[...document.images].every(image => image.naturalWidth)")
    assert browser.complaints == []
    assert [url for url in browser.requests if not url.startswith("data:")] == [page.as_uri()]

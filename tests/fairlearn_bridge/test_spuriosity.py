"""Spuriosity rankings: the order is that of the evidence; the gap and its interval, worked out by hand."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from typer.testing import CliRunner

from captum_region import DenseRegionClassifier, RegionAttribution, RegionClassifier, RegionGrid, save_classifier
from captum_region.batches import as_floats
from captum_region.datasets import make_faces
from fairlearn_bridge import (
    ImageClassifier,
    LowSpuriosityRetraining,
    load_mitigator,
    rank_by_evidence,
    ranking_gap,
    save_mitigator,
)
from fairlearn_bridge.baselines import last_features
from fairlearn_bridge.catalogue import OTHERS
from fairlearn_bridge.cli import app
from fairlearn_bridge.plotting import plot_ranking
from fairlearn_bridge.spuriosity import ends_of


def brightness(patches, region):
    bright = 8 * (patches.mean((1, 2, 3)) - 0.5)
    return torch.stack([-bright, bright], 1)


ATTRIBUTION = RegionAttribution(brightness, grid=RegionGrid(8, 4, 4))


def test_images_are_ranked_within_their_classes():
    level = np.random.default_rng(0).permutation(20) / 20
    X = np.broadcast_to(level[:, None, None, None], (20, 3, 8, 8)).astype(np.float32)
    y = np.array(["b", "a"] * 10)
    ranking = rank_by_evidence(ATTRIBUTION, X, within=y)
    for name, of_class in ranking.groupby("class"):
        members = np.flatnonzero(y == name)
        assert of_class["image"].tolist() == members[np.argsort(-level[members])].tolist()
        assert of_class["rank"].tolist() == list(range(10))
    # A region's evidence is 2 p - 1 = tanh(8 (level - 0.5)).
    np.testing.assert_allclose(ranking["evidence"], np.tanh(8 * (level[ranking["image"]] - 0.5)), atol=1e-5)
    other = rank_by_evidence(ATTRIBUTION, X, within=y, target=0)
    assert other.loc[other["class"] == "a", "image"].tolist() == ranking.loc[:9, "image"].tolist()[::-1]


def test_the_gap_is_of_both_ends_with_newcombes_interval():
    # 9 of 10 against 3 of 10: 0.6, from 0.1705 to 0.8090 (Newcombe 1998, method 10).
    ranking = pd.DataFrame({"image": np.arange(20), "class": "a", "rank": np.arange(20)})
    right = np.r_[np.arange(10) < 9, np.arange(10) < 3]
    shuffled = ranking.sample(frac=1, random_state=0)
    np.testing.assert_allclose(ranking_gap(shuffled, right, share=0.5), [0.9, 0.3, 0.6, 0.1705, 0.8090], atol=1e-4)
    # Of each class a quarter at each end: the first 2 of 10 and the last 2.
    classes = ranking.assign(**{"class": np.repeat(["a", "b"], 10), "rank": np.tile(np.arange(10), 2)})
    assert ranking_gap(classes, right)[:3] == (1.0, 0.25, 0.75)


def test_what_does_not_fit_is_named():
    ranking = pd.DataFrame({"image": [0, 1], "class": ["a", "a"], "rank": [0, 1]})
    for options, words in (({"share": 0}, "share must be above 0"), ({"share": 0.6}, r"\[0, 0.5\], got 0.6")):
        with pytest.raises(ValueError, match=words):
            ranking_gap(ranking, [True, False], **options)
    with pytest.raises(ValueError, match="is_right must hold a bool for each image"):
        ranking_gap(ranking, [1, 0])
    with pytest.raises(ValueError, match="two images of a class"):
        ranking_gap(ranking.assign(**{"class": ["a", "b"]}), [True, False])
    with pytest.raises(ValueError, match="two images of a class"):
        ranking_gap(ranking.iloc[:0], [True, False])
    with pytest.raises(TypeError, match="target must be the number of the attribute's value, got None"):
        rank_by_evidence(None, np.zeros((2, 3, 8, 8), np.uint8), within=[0, 1], target=None)


def test_ends_are_a_share_of_each_class_at_least_one():
    ranking = pd.DataFrame({"image": [4, 3, 2, 1, 0, 7], "class": list("aaaaab"), "rank": [0, 1, 2, 3, 4, 0]})
    top, bottom = ends_of(ranking.sample(frac=1, random_state=0), 0.4)
    assert (top.tolist(), bottom.tolist()) == ([4, 3, 7], [1, 0, 7])
    assert [end.tolist() for end in ends_of(ranking, 0.01)] == [[4, 7], [0, 7]]
    assert sorted(ends_of(ranking, 1)[1]) == [0, 1, 2, 3, 4, 7]


class Bright(RegionClassifier):
    """Takes brightness for the spurious attribute: an image's evidence is known without a training."""

    def __init__(self):
        super().__init__(RegionGrid(8, 4, 4), 2)

    def forward(self, patches, region):
        return brightness(as_floats(patches), region)


@pytest.fixture(scope="module")
def levels():
    """Return 60 images whose evidence is their level, and their classes, of which the last goes with bright ones."""
    generator = np.random.default_rng(0)
    level = generator.permutation(60)
    y = np.where(generator.random(60) < level / 60, "with", "bare")
    X = 2 * level[:, None, None, None] + generator.integers(0, 100, (60, 3, 8, 8))
    return X.astype(np.uint8), y


BASE = ImageClassifier(max_epochs=2, random_state=0)


class TestLowSpuriosityRetraining:
    def test_the_head_is_of_exactly_the_low_end_of_each_class(self, levels):
        X, y = levels
        fitted = LowSpuriosityRetraining(BASE, region_classifier=Bright(), share=0.2, C=0.3).fit(X, y)
        evidence = (
            rank_by_evidence(RegionAttribution(Bright()), X, within=y).set_index("image")["evidence"].sort_index()
        )
        expected = []
        for label in ("bare", "with"):
            members = np.flatnonzero(y == label)
            expected += members[np.argsort(evidence[members])][: len(members) // 5].tolist()
        assert sorted(fitted.sample_indices_) == sorted(expected)
        features, chosen = last_features(fitted.estimator_, X), fitted.sample_indices_
        head = make_pipeline(StandardScaler(), LogisticRegression(C=0.3, max_iter=1000)).fit(
            features[chosen], y[chosen]
        )
        # Of fewer images at once a processor may round features otherwise, and the head follows them.
        np.testing.assert_allclose(fitted.predict_proba(X), head.predict_proba(features), rtol=2e-3)
        high = LowSpuriosityRetraining(BASE, region_classifier=Bright(), share=0.2, value=0).fit(X, y)
        assert not set(high.sample_indices_) & set(chosen)

    def test_the_network_stays_as_first_trained(self, levels):
        X, y = levels
        original = clone(BASE).fit(X, y)
        before = {name: value.clone() for name, value in original.module_.state_dict().items()}
        fitted = LowSpuriosityRetraining(FrozenEstimator(original), region_classifier=Bright()).fit(X, y)
        alone = LowSpuriosityRetraining(BASE, region_classifier=Bright()).fit(X, y)
        for network in (original.module_, alone.estimator_.module_):
            assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
        np.testing.assert_array_equal(fitted.predict_proba(X), alone.predict_proba(X))
        assert not np.allclose(fitted.predict_proba(X), original.predict_proba(X))

    def test_with_the_whole_of_each_class_every_image_counts(self, levels):
        X, y = levels
        fitted = LowSpuriosityRetraining(BASE, region_classifier=Bright(), share=1).fit(X, y)
        assert sorted(fitted.sample_indices_) == list(range(60))

    def test_labels_of_the_spurious_attribute_train_the_region_classifier_alone(self, levels):
        X, y = levels
        shortcut = X.mean((1, 2, 3)) > 110
        own = LowSpuriosityRetraining(BASE, region_epochs=1, random_state=0).fit(X, y, sensitive_features=shortcut)
        given = LowSpuriosityRetraining(BASE, region_classifier=own.region_classifier_)
        for options in ({}, {"sensitive_features": ~shortcut}):
            np.testing.assert_array_equal(given.fit(X, y, **options).predict_proba(X), own.predict_proba(X))

    def test_it_is_saved_and_loaded(self, levels, tmp_path):
        X, y = levels
        fitted = LowSpuriosityRetraining(BASE, region_classifier=Bright()).fit(X, y)
        save_mitigator(fitted, tmp_path / "model")
        loaded = load_mitigator(tmp_path / "model")
        np.testing.assert_array_equal(loaded.predict_proba(X), fitted.predict_proba(X))

    def test_a_run_gives_it_its_region_classifier(self):
        regions = Bright()
        made = OTHERS["low_spuriosity"].make(BASE, regions)
        assert (type(made), made.region_classifier) == (LowSpuriosityRetraining, regions)
        assert "region_classifier" not in OTHERS["jtt"].make(BASE, regions).get_params()

    @pytest.mark.parametrize(
        ("parameters", "error", "words"),
        [
            ({}, ValueError, "sensitive_features must be given where there is no region_classifier"),
            ({"region_classifier": "bright"}, TypeError, "region_classifier must be a RegionClassifier, got str"),
            ({"region_classifier": Bright(), "share": 0}, ValueError, "share must be above 0"),
            ({"region_classifier": Bright(), "share": 2}, ValueError, r"share must be a number in \[0, 1\], got 2"),
            (
                {"region_classifier": Bright(), "value": -1},
                ValueError,
                "value must be an integer of at least 0, got -1",
            ),
            ({"region_classifier": Bright(), "value": 2}, ValueError, "value must be a class of the region classifier"),
            (
                {"region_classifier": DenseRegionClassifier(RegionGrid(16, 8, 4), 2, random_state=0)},
                ValueError,
                "X must be 16 x 16 pixels",
            ),
        ],
    )
    def test_what_does_not_fit_is_named(self, levels, parameters, error, words):
        with pytest.raises(error, match=words):
            LowSpuriosityRetraining(BASE, **parameters).fit(*levels)


class TestStrips:
    def test_strips_show_both_ends_of_each_class_the_extreme_first(self):
        X = np.broadcast_to(np.arange(6, dtype=np.uint8)[:, None, None, None], (6, 3, 4, 4))
        ranking = pd.DataFrame({"image": [3, 0, 5, 1, 4, 2], "class": [0, 0, 0, 0, 1, 1], "rank": [0, 1, 2, 3, 0, 1]})
        axes = Figure().subplots(4)
        plot_ranking(X, ranking, count=3, names={0: "cat", 1: "dog"}, axes=axes)
        shown = [np.asarray(ax.images[0].get_array())[0, ::4, 0].tolist() for ax in axes]
        assert shown == [[3, 0, 5], [1, 5, 0], [4, 2], [2, 4]]
        assert [ax.texts[0].get_text() for ax in axes] == ["cat, most", "cat, least", "dog, most", "dog, least"]
        with pytest.raises(ValueError, match="count must be at least 1"):
            plot_ranking(X, ranking, count=0)
        with pytest.raises(ValueError, match="axes must be two for each class, 4, got 2"):
            plot_ranking(X, ranking, axes=axes[:2])


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model of the sex of faces of 16 px, and a region classifier, as folders."""
    folder, faces = tmp_path_factory.mktemp("saved"), make_faces(60, size=16, random_state=5)
    save_mitigator(ImageClassifier(max_epochs=1, random_state=0).fit(faces, "Male"), folder / "model")
    save_classifier(DenseRegionClassifier(RegionGrid(16, 8, 4), 2, random_state=0), folder / "region_classifier")
    save_classifier(DenseRegionClassifier(RegionGrid(24, 8, 4), 2, random_state=0), folder / "larger")
    return folder


class TestInspect:
    given = ("inspect", "--data", "faces", "--target", "Male", "--quiet")

    def test_the_accuracy_at_both_ends_is_that_of_the_predictions(self, saved, tmp_path, listed, documented):
        options = ["--model", saved, "--regions", saved, "--out", tmp_path / "out"]
        done = CliRunner().invoke(app, [*self.given, *map(str, options)])
        assert done.exit_code == 0, done.stderr
        assert listed(tmp_path / "out") == documented("inspect") | {"ranking.csv", "ranking.png"}
        found = json.loads((tmp_path / "out" / "inspect.json").read_text())["ranking"]
        assert set(found) == {"all classes", "Male", "not Male"}
        table = pd.read_csv(tmp_path / "out" / "ranking.csv")
        assert len(table) == 1000
        men = table[table["class"]].sort_values("evidence", ascending=False)
        quarter = len(men) // 4
        right = men["predicted"] == men["class"]
        assert found["Male"]["top"] == pytest.approx(right[:quarter].mean())
        assert found["Male"]["bottom"] == pytest.approx(right[-quarter:].mean())
        row = next(line for line in done.stdout.splitlines() if line.startswith(" all classes"))
        assert f"{found['all classes']['difference']:+.2f} [" in row

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (["--model", "model"], "--model and --regions must be given together"),
            (["--model", "model", "--regions", "larger"], "of one size, --model is for 3 x 16 x 16, --regions for 24"),
            (["--model", "nowhere", "--regions", "larger"], "nowhere"),
            (["--target", "Smiling=True", "--model", "model", "--regions", "nowhere"], "nowhere"),
        ],
    )
    def test_what_does_not_fit_is_named(self, refused, saved, monkeypatch, options, words):
        monkeypatch.chdir(saved)
        assert words in refused(app, *self.given, *options)

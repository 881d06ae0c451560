"""Audits with a known truth, and what audits refuse."""

import warnings
from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from fairlearn.metrics import selection_rate
from sklearn.base import BaseEstimator
from sklearn.metrics import recall_score
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

from captum_region.datasets import AttributeImages
from captum_region.io.digest import digest
from fairlearn_bridge import ImageClassifier, Reweighing, Samples, ThresholdShift
from fairlearn_bridge.audit import Distortion, ModelChange, PillowCodec, Pruning, audit
from fairlearn_bridge.audit.keeping import retraining_of

# The groups of tiny images are small; that this is said is tested below.
pytestmark = pytest.mark.filterwarnings("ignore:groups of fewer than 200 images")
QUICK = {"n_bootstrap": 100, "n_permutations": 99}


def test_a_codec_that_flattens_low_contrast_is_biased_by_half_at_equal_psnr(truth):
    codec = truth.raw(truth.flattened)
    found = audit(
        codec,
        truth.table(truth.pattern).fit(truth.images, truth.label),
        truth.images,
        truth.group,
        target=truth.label,
        train=(truth.images, truth.label),
    )
    groups = found.to_frame().loc["raw"]
    assert groups["drop"].to_dict() == {"high": 0.0, "low": 0.5}
    np.testing.assert_allclose(groups["psnr"], 34.151, atol=5e-4)
    row = found.table().loc["raw"]
    assert (row["bias"], row["worst"], row["best"]) == (0.5, "low", "high")
    assert (row["unrecoverable"], row["recoverable"]) == (0.5, 0.0)
    assert row["p_holm"] == row["p"] == 1 / 1001
    assert row["bias_low"] < 0.5 < row["bias_high"]
    assert row["psnr_range"] == pytest.approx(0, abs=1e-9)


def test_a_bijective_codec_is_all_recoverable(truth):
    found = audit(
        {"turned": truth.transposed},
        truth.table().fit(truth.images, truth.label),
        truth.images,
        truth.group,
        target=truth.label,
        train=(truth.images, truth.label),
        **QUICK,
    )
    row = found.table().loc["turned"]
    assert found.to_frame().loc["turned", "drop"].to_dict() == {"high": 0.0, "low": 1.0}
    assert (row["bias"], row["unrecoverable"], row["recoverable"]) == (1.0, 0.0, 1.0)


def test_a_lossless_codec_takes_nothing(truth):
    found = audit(truth.raw(), truth.direction, truth.images, truth.group, **truth.data, **QUICK)
    groups, row = found.to_frame().loc["raw"], found.table().loc["raw"]
    assert (groups[["drop", "loss_increase", "flips", "drop_low", "drop_high"]] == 0).all(axis=None)
    assert np.isposinf(groups["psnr"]).all()
    assert (groups["ssim"] == 1).all()
    assert (row["bias"], row["p"], row["p_holm"], row["loss_p"]) == (0, 1, 1, 1)
    # bpp is 8 bytes / (height width); a flat grey file is as large, so there is no content besides.
    assert row["bpp"] == 8 * 3 * 16 * 16 / (16 * 16)
    assert row["bpp_content"] == 0


def test_shares_sum_to_the_drop(truth):
    degradations = {"flat": truth.flattened, "turned": truth.transposed, "noise": Distortion("noise", [0.3])}
    classifier = truth.table().fit(truth.images[:300], truth.label[:300])
    found = audit(
        degradations,
        classifier,
        truth.images,
        truth.group,
        target=truth.label,
        train=(truth.images[:300], truth.label[:300]),
        **QUICK,
    )
    groups, table = found.to_frame(), found.table()
    assert groups["drop"].any()
    np.testing.assert_allclose(groups["unrecoverable"] + groups["recoverable"], groups["drop"], atol=1e-12, rtol=0)
    np.testing.assert_allclose(table["unrecoverable"] + table["recoverable"], table["bias"], atol=1e-12, rtol=0)


def test_renaming_groups_permutes_rows_and_changes_no_number(truth):
    degradations = {"flat": truth.flattened, "noise 1": Distortion("noise", [0.5])}
    renamed = np.where(truth.group == "low", "a", "z")
    found, other = (
        audit(degradations, truth.direction, truth.images, group, **truth.data, **QUICK)
        for group in (truth.group, renamed)
    )
    expected = found.to_frame().rename(index={"low": "a", "high": "z"}, level="group").sort_index()
    pd.testing.assert_frame_equal(other.to_frame().sort_index(), expected)
    columns = [name for name in found.table() if name not in ("worst", "best")]
    pd.testing.assert_frame_equal(other.table()[columns], found.table()[columns])


def test_the_same_seed_gives_the_same_bytes_whatever_the_batches_and_threads(truth):
    degradations = [Distortion("noise", [0.3]), Distortion("occlusion", [0.3]), PillowCodec("jpeg", 5)]
    kept = []

    def run(**options):
        seen = {}
        options["on_images"] = lambda name, start, images: seen.setdefault(name, []).append(images.copy())
        found = audit(degradations, truth.direction, truth.images, truth.group, **truth.data, **QUICK, **options)
        kept.append({name: np.concatenate(parts) for name, parts in seen.items()})
        return found.table()

    first, second, other = run(), run(batch_size=33, n_jobs=2), run(random_state=1)
    pd.testing.assert_frame_equal(first, second, check_exact=False, rtol=1e-12)
    assert all((kept[0][name] == kept[1][name]).all() for name in kept[0])
    assert (kept[0]["noise 0.3"] != kept[2]["noise 0.3"]).any()
    assert other.loc["jpeg 5", "bias_low"] != first.loc["jpeg 5", "bias_low"]


def test_the_nth_image_of_each_group_gets_the_same_noise(truth):
    seen = {}
    audit(
        Distortion("noise", [0.05]),
        truth.direction,
        np.full_like(truth.images, 128),
        truth.group,
        **truth.data,
        **QUICK,
        on_images=lambda name, start, images: seen.setdefault(start, images.copy()),
    )
    images = np.concatenate([*seen.values()])
    first, second = (images[truth.group == name] for name in ("low", "high"))
    assert (first == second).all()
    assert (first[0] != first[1]).any()


def test_point_values_are_those_of_fairlearn(truth):
    found = audit({"flat": truth.flattened}, truth.direction, truth.images, truth.group, **truth.data, **QUICK)
    frame = found.metric_frame("flat")
    assert frame.by_group["accuracy"].to_dict() == found.to_frame().loc["flat", "accuracy"].to_dict()
    drop = found.metric_frame().by_group["accuracy"] - frame.by_group["accuracy"]
    assert drop.max() - drop.min() == found.table().loc["flat", "bias"]
    own = found.metric_frame("flat", {"recall": recall_score, "selected": selection_rate})
    assert own.by_group["recall"].to_dict() == {"high": 1.0, "low": 0.0}
    drift = found.drift().loc[("flat", "low")]
    assert drift["before"].to_dict() == {0: 0.5, 1: 0.5}
    assert drift["after"].to_dict() == {0: 1.0, 1: 0.0}


def test_a_codec_is_compared_with_another_image_by_image(truth):
    degradations = {"flat": truth.flattened, "turned": truth.transposed, "same": lambda images: images}
    found = audit(degradations, truth.direction, truth.images, truth.group, **truth.data, **QUICK)
    row = found.compare("turned", "flat").loc["drop"]
    assert (row["turned"], row["flat"], row["difference"]) == (1.0, 0.5, 0.5)
    assert 0.4 < row["low"] < 0.5 < row["high"] < 0.6
    assert row["p"] < 0.01
    with pytest.raises(ValueError, match="two degradations, got 'flat' twice"):
        found.compare("flat", "flat")
    with pytest.raises(ValueError, match="name must be one of flat, turned, same, got 'tuned'"):
        found.compare("flat", "tuned")


def without(images, place):
    """Make the first pixel 0 where that at `place` says so."""
    images[..., 0] *= 1 - images[..., place]
    return images


def test_a_stronger_degradation_is_not_more_biased_for_that():
    """Of 7 groups the largest difference grows with the noise; what the first takes more, it takes from all groups."""
    groups, p = np.repeat(list("abcdefg"), 60), []
    images = np.zeros((420, 1, 1, 3), np.uint8)
    images[..., 0] = 1
    for seed in range(30):
        images[:, 0, 0, 1:] = np.random.default_rng(seed).random((420, 2)) < (0.3, 0.01)
        degradations = {name: partial(without, place=place) for place, name in enumerate(["strong", "mild"], 1)}
        given = {"target": np.arange(420) % 10 > 0, "classes": [False, True]}
        found = audit(degradations, lambda images: np.eye(2)[images[:, 0, 0, 0]], images, groups, **given, **QUICK)
        compared = found.compare("strong", "mild", n_permutations=99).loc["drop"]
        assert compared["difference"] > 0
        p.append(compared["p"])
    assert np.mean(np.array(p) < 0.05) < 0.2  # where biases were exchanged, 3 of 4


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(), nn.LazyLinear(2))


def test_networks_are_evaluated_and_left_in_their_mode(truth):
    with torch.random.fork_rng():
        module = network()
        module(torch.zeros(2, 3, 16, 16))
    module[1].eval()
    found = audit(truth.raw(), module, truth.images, truth.group, **truth.data, **QUICK)
    assert module.training
    assert module[4].training
    assert not module[1].training
    expected = module.eval()(torch.from_numpy(truth.images).float() / 255).argmax(1).numpy()
    assert (found.original.predicted == expected).all()


def test_estimators_mitigators_and_names_of_attributes(truth):
    data = AttributeImages(truth.images, pd.DataFrame({"down": truth.label == 1, "contrast": truth.group}))
    data.attributes["half"] = np.arange(400) < 200
    classifier = ImageClassifier(max_epochs=1, random_state=0).fit(data, "down")
    kept = {"target": "down", **QUICK}
    by_name = audit(truth.raw(), classifier, data, "contrast", **kept)
    samples = Samples(truth.images, truth.label == 1, truth.group, truth.group)
    pd.testing.assert_frame_equal(by_name.table(), audit(truth.raw(), classifier, samples, **QUICK).table())
    crossed = audit(truth.raw(), classifier, data, ["contrast", "half"], **kept)
    assert crossed.to_frame().index.get_level_values("group").tolist()[0] == "high, False"
    mitigator = Reweighing(ImageClassifier(max_epochs=1, random_state=0))
    mitigator.fit(truth.images, truth.label == 1, sensitive_features=truth.group)
    again = audit({"same": lambda images: images}, mitigator, samples, train=samples, **QUICK)
    assert (again.to_frame()["recoverable"] == 0).all()  # the control: it is trained as before, with the same seed
    with pytest.raises(ValueError, match="train must be Samples, with a confounder, to train Reweighing"):
        audit(truth.raw(), mitigator, data, "contrast", train=data, **kept)


def test_a_classifier_with_its_own_threshold_decides_by_it(truth):
    shifted = ThresholdShift(ImageClassifier(max_epochs=1, random_state=0))
    shifted.fit(truth.images, truth.label, validation=(truth.images, truth.label))
    shifted.threshold_ = 0.0
    found = audit(truth.raw(), shifted, truth.images, truth.group, target=truth.label, **QUICK)
    assert (found.original.predicted == 1).all()


def test_a_change_of_the_model_changes_no_image(truth):
    change = ModelChange("blind", [1], lambda classifier, severity: lambda images: np.full((len(images), 2), 0.5))
    found = audit([change, truth.raw()], truth.direction, truth.images, truth.group, **truth.data, **QUICK)
    row = found.table().loc["blind 1"]
    assert (row["accuracy"], row["flips"]) == (0.5, 0.5)
    assert np.isnan(row[["psnr", "bpp"]].astype(float)).all()
    with pytest.raises(ValueError, match=r"names must be of degradations that change images, \['raw'\]"):
        found.plot_images(["blind 1"])


def test_small_groups_and_a_target_that_is_the_group_are_warned_of(truth):
    data = {"target": truth.label, "classes": [0, 1], **QUICK}
    with pytest.warns(UserWarning, match="target and groups coincide"):
        audit(truth.raw(), truth.direction, truth.images, truth.label, **data)
    few = slice(0, 398)
    data["target"] = truth.label[few]
    with pytest.warns(UserWarning, match="fewer than 200 images have wide intervals: high: 199, low: 199") as caught:
        audit(truth.raw(), truth.direction, truth.images[few], truth.group[few], **data)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        audit(truth.raw(), truth.direction, truth.images, truth.group, **truth.data, **QUICK)


def wrong_size(images):
    return images[:, :, 1:]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"groups": ["one"] + ["two"] * 399}, "groups must have at least 30 images each, got one: 1"),
        ({"groups": ["one"] * 400}, "groups must hold at least 2 classes"),
        ({"groups": None}, "groups must be given"),
        ({"groups": "race"}, "groups must be one an image where data has no attributes, got 'race'"),
        ({"target": None}, "target must be given"),
        ({"target": [7] * 400}, r"target must be of the classifier's classes, \[0, 1\], got \[7\] too"),
        ({"classes": None}, "classes must be given: function has no classes_"),
        ({"degradations": []}, "degradations must hold at least one, got none"),
        ({"degradations": [PillowCodec("jpeg", 5)] * 2}, "different names, got jpeg 5 twice"),
        ({"degradations": wrong_size}, r"wrong_size must return images of uint8 and shape \(256, 3, 16, 16\)"),
        ({"degradations": [3]}, "degradations must be codecs"),
        ({"classifier": 3}, "classifier must have predict_proba"),
        ({"classifier": lambda images: images}, "classifier must give finite probabilities of shape"),
        ({"classifier": lambda images: np.full((len(images), 2), 3)}, r"probabilities in \[0, 1\], got 3 to 3"),
        ({"train": "self"}, "train must be left out for a classifier that has no fit"),
        ({"n_bootstrap": 0}, "n_bootstrap must be an integer of at least 1, got 0"),
        ({"confidence_level": 1}, "confidence_level must be a number in"),
    ],
)
def test_what_does_not_fit_is_named(truth, change, message):
    given = {"degradations": truth.raw(), "classifier": truth.direction, "groups": truth.group, **truth.data, **change}
    if "train" in change:
        given["train"] = (truth.images, truth.label)
    with pytest.raises((TypeError, ValueError), match=message):
        audit(data=truth.images, **given)


class Nearest(BaseEstimator):
    def fit(self, X, y):
        self.classes_ = np.unique(y)
        self.neighbour_ = KNeighborsClassifier(1).fit(X.reshape(len(X), -1), y)
        return self

    def predict_proba(self, X):
        return self.neighbour_.predict_proba(X.reshape(len(X), -1))


def test_noise_of_training_images_is_not_that_of_test_images():
    grey, label = np.full((200, 3, 8, 8), 128, np.uint8), np.random.default_rng(0).integers(0, 2, 200)
    first = Nearest().fit(grey, label)
    group = np.arange(200) < 100
    found = audit([Distortion("noise", [0.2])], first, grey, group, target=label, train=(grey, label), **QUICK)
    right = found.outcomes["noise 0.2"].retrained == label
    assert 0.35 < right.mean() < 0.65  # there is nothing to be learnt but the noise itself


def test_a_classifier_of_numbers_takes_booleans_that_are_equal_to_them(truth):
    numbers = truth.table().fit(truth.images, truth.label.astype(int))
    found = audit(truth.raw(), numbers, truth.images, truth.group, target=truth.label.astype(bool), **QUICK)
    assert found.table().loc["raw", "accuracy"] == 1


def test_what_cannot_be_pruned_is_refused_before_anything_is_degraded(truth):
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 2))
    seen = []
    degradations = [lambda images: seen.append(0) or images, Pruning([0.5], reestimate_on=truth.images[:8])]
    with pytest.raises(ValueError, match="reestimate_on must be None for a classifier without batch normalisation"):
        audit(degradations, network, truth.images, truth.group, target=truth.label, classes=[0, 1], **QUICK)
    with pytest.raises(TypeError, match=r"the classifier must be an nn\.Module or have one"):
        audit(degradations, truth.direction, truth.images, truth.group, **truth.data, **QUICK)
    assert not seen


def test_shares_need_a_degradation_of_images(truth):
    classifier = ImageClassifier(max_epochs=1, random_state=0).fit(truth.images, truth.label)
    with pytest.raises(ValueError, match="train must be left out where no degradation changes the images"):
        audit(
            Pruning([0.5], reestimate_on=None),
            classifier,
            truth.images,
            truth.group,
            target=truth.label,
            train=(truth.images, truth.label),
        )


def test_a_retraining_is_known_by_all_that_its_classifier_holds():
    class Seeded:
        def __init__(self, seed):
            self.seed = seed

    fresh = SimpleNamespace(images=np.zeros((2, 1, 2, 2)), target=[0, 1], confounder=None)
    same, other = (digest(retraining_of(Seeded(seed), fresh)) for seed in (0, 1))
    assert same == digest(retraining_of(Seeded(0), fresh))
    assert same != other

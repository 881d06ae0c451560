"""AttributionNoiseMitigator: what it perturbs, what it leaves alone, that it takes the shortcut away."""

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV
from torch import nn
from torch.utils.data import TensorDataset

from captum_region import (
    DenseRegionClassifier,
    RegionAttribution,
    RegionGrid,
    attribute_dataset,
    fit_region_classifier,
)
from captum_region.batches import check_images
from captum_region.datasets import AttributeImages
from fairlearn_bridge import (
    JTT,
    AttributionNoiseMitigator,
    BalancedResampling,
    GroupDRO,
    ImageClassifier,
    LearningFromFailure,
    NotApplicableError,
    Reweighing,
    Samples,
    ThresholdShift,
    compare_mitigators,
    estimate_crossed_auc,
)
from fairlearn_bridge.mitigator import _least_within_one_standard_error
from fairlearn_bridge.noise import quantile_mask
from fairlearn_bridge.schemes import SCHEMES


def biased(n=400, seed=0, shortcut=True):
    """Return 16 px images: the target dims the top half a little, the confounder brightens the bottom right corner.

    With `shortcut` no image of target 1 has the confounder, and two thirds of the others have; without, they are
    independent.
    """
    rng = np.random.default_rng(seed)
    target = np.arange(n) % 2
    confounder = (rng.random(n) < 2 / 3) & (target == 0) if shortcut else rng.random(n) < 0.5
    images = rng.integers(60, 160, (n, 3, 16, 16))
    images[target == 1, :, :8] -= 12
    images[confounder, :, 12:, 12:] += 80
    return images.astype(np.uint8), target, confounder.astype(int)


class Linear(nn.Module):
    def __init__(self, image_shape, num_classes):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(image_shape)), num_classes))

    def forward(self, images):
        return self.layers(images * 2 - 1)


BASE = ImageClassifier(Linear, max_epochs=15, lr=3e-3, random_state=0)


@pytest.fixture(scope="module")
def region_classifier():
    images, target, confounder = biased()
    classifier = DenseRegionClassifier(RegionGrid(16, 4, 4), 2, width=8, random_state=0)
    fit_region_classifier(classifier, images, confounder, within=target, epochs=60, random_state=0)
    return classifier


@pytest.mark.slow
@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_takes_the_shortcut_away(scheme, region_classifier):
    X, y, confounder = biased()
    X_test, y_test, confounder_test = biased(400, seed=1, shortcut=False)
    crossed = y_test == confounder_test
    original = BASE.fit(X, y).score(X_test[crossed], y_test[crossed])
    # A linear model averages noise of 0.5 away over the 48 values of the corner; this much it cannot.
    mitigator = AttributionNoiseMitigator(
        BASE, region_classifier=region_classifier, scheme=scheme, quantile=0.85, noise_std=10
    )
    mitigated = mitigator.fit(X, y, sensitive_features=confounder).score(X_test[crossed], y_test[crossed])
    assert original < 0.6
    assert mitigated > original + 0.1


def test_its_own_region_classifier_finds_the_confounder_and_not_the_target():
    X, y, confounder = biased(600)
    mitigator = AttributionNoiseMitigator(BASE, scheme="general_noise", quantile=0.9, region_epochs=60, random_state=0)
    mitigator.fit(X, y, sensitive_features=confounder)
    assert mitigator.region_classifier_.grid == RegionGrid(16, 4, 1)
    peak = np.unravel_index(mitigator.pixel_map_.argmax(), (16, 16))
    assert min(peak) >= 12
    assert mitigator.pixel_map_[:8].mean() < 0.25 * mitigator.pixel_map_[12:, 12:].mean()
    mask = mitigator.noise_.mask_
    assert torch.equal(mask[0], quantile_mask(torch.from_numpy(mitigator.pixel_map_), 0.9))
    again = clone(mitigator).fit(X, y, sensitive_features=confounder)
    assert np.array_equal(mitigator.predict_proba(X), again.predict_proba(X))
    assert np.array_equal(mitigator.region_map_, again.region_map_)


@pytest.mark.slow
def test_a_given_classifier_and_maps_are_used_and_not_changed(region_classifier):
    X, y, confounder = biased(80)
    before = X.copy()
    weights = [value.clone() for value in region_classifier.state_dict().values()]
    mitigator = AttributionNoiseMitigator(BASE, region_classifier=region_classifier, scheme="specific_mask")
    mitigator.fit(X, y, sensitive_features=confounder)
    assert (before == X).all()
    assert all(torch.equal(a, b) for a, b in zip(weights, region_classifier.state_dict().values(), strict=True))
    assert BASE.batch_transform is None
    assert mitigator.estimator is BASE
    assert mitigator.estimator_ is not BASE
    maps = RegionAttribution(region_classifier).region_map(X)
    np.testing.assert_allclose(mitigator.region_map_, maps.mean(0), rtol=1e-5)
    given = clone(mitigator).fit(X, y, sensitive_features=confounder, region_maps=maps.numpy())
    assert np.array_equal(given.predict_proba(X), mitigator.predict_proba(X))


def test_protect_target_spares_the_regions_of_the_target():
    rng = np.random.default_rng(0)
    X, y = rng.integers(60, 160, (600, 3, 16, 16)), np.arange(600) % 2
    confounder = (rng.random(600) < np.where(y == 1, 0.2, 0.8)).astype(int)
    X[confounder == 1, :, 12:, 12:] += 60
    X[confounder == 1, :, :4, :4] += 60
    X[y == 1, :, :4, :4] -= 60  # the target's place too
    X = X.astype(np.uint8)

    def regions(labels, within):
        classifier = DenseRegionClassifier(RegionGrid(16, 4, 4), 2, width=8, random_state=0)
        fit_region_classifier(classifier, X, labels, within=within, epochs=40, random_state=0)
        return classifier

    mitigator = AttributionNoiseMitigator(
        BASE, region_classifier=regions(confounder, y), scheme="general_mask", quantile=1 - 32 / 256, random_state=0
    )
    mask = mitigator.fit(X, y, sensitive_features=confounder).noise_.mask_[0]
    assert mask[:4, :4].all()
    assert mask[12:, 12:].all()
    mitigator.set_params(protect_target=1.0, target_region_classifier=regions(y, confounder), quantile=1 - 16 / 256)
    for scheme in ("general_mask", "specific_mask"):
        spared = clone(mitigator).set_params(scheme=scheme).fit(X, y, sensitive_features=confounder)
        mask = spared.noise_.mask_.float().mean(0)
        assert mask[12:, 12:].mean() > 0.9
        assert mask[:4, :4].mean() < 0.1
        assert spared.target_pixel_map_[:4, :4].min() > spared.target_pixel_map_[12:, 12:].max()
    trained = clone(mitigator).set_params(target_region_classifier=None, region_epochs=1)
    trained.fit(X, y, sensitive_features=confounder)
    assert trained.target_region_classifier_.grid == RegionGrid.for_images(16)


def test_the_region_classifiers_of_attribute_and_target_begin_with_weights_of_their_own():
    X, y, confounder = biased(60)
    short = clone(BASE).set_params(max_epochs=1)
    fitted = AttributionNoiseMitigator(short, protect_target=1.0, region_epochs=1, random_state=0)
    fitted.fit(X, y, sensitive_features=confounder)
    trained = fitted.region_classifier_, fitted.target_region_classifier_
    first, second = (one.convolutions[0].weight.detach().flatten().numpy() for one in trained)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.5  # of the same weights nearly 1, after so short a training


def test_a_second_fit_keeps_nothing_of_the_first(region_classifier):
    X, y, confounder = biased(60)
    fitted = AttributionNoiseMitigator(
        clone(BASE).set_params(max_epochs=1), region_classifier=region_classifier, random_state=0,
        quantile=[0.5, 0.8], protect_target=1.0, target_region_classifier=region_classifier,
    )  # fmt: skip
    fitted.fit(X, y, sensitive_features=confounder)
    found = {"selection_", "target_region_classifier_", "target_pixel_map_"}
    assert found <= vars(fitted).keys()
    fitted.set_params(protect_target=0, target_region_classifier=None).fit(X, y, sensitive_features=confounder)
    assert vars(fitted).keys() & found == {"selection_"}
    fitted.set_params(quantile=0.5).fit(X, y, sensitive_features=confounder)
    assert not vars(fitted).keys() & found


def test_a_clone_shares_the_donors_images(region_classifier):
    X, y, confounder = biased(60)
    short = clone(BASE).set_params(max_epochs=1)
    fitted = AttributionNoiseMitigator(Reweighing(short), region_classifier=region_classifier, random_state=0)
    fitted.fit(X, y, sensitive_features=confounder)
    used = clone(short.set_params(batch_transform=fitted.noise_)).batch_transform
    assert used is not fitted.noise_
    assert np.shares_memory(used.donors_.images, fitted.noise_.donors_.images)


def test_apply_at_predict_hides_the_region_in_prediction(region_classifier):
    X, y, confounder = biased(200)
    mitigator = AttributionNoiseMitigator(
        BASE, region_classifier=region_classifier, scheme="general_mask", quantile=0.8, apply_at_predict=True
    ).fit(X, y, sensitive_features=confounder)
    hidden = mitigator.noise_.mask_[0].numpy()
    other = X.copy()
    other[:, :, hidden] = 255 - other[:, :, hidden]
    assert np.array_equal(mitigator.predict_proba(other), mitigator.predict_proba(X))
    assert not np.array_equal(mitigator.estimator_.predict_proba(other), mitigator.estimator_.predict_proba(X))
    noisy = clone(mitigator).set_params(scheme="general_noise").fit(X, y, sensitive_features=confounder)
    # Whatever images are with it, in whichever place.
    np.testing.assert_allclose(noisy.predict_proba(X[::-1])[::-1], noisy.predict_proba(X), atol=1e-6)
    np.testing.assert_allclose(noisy.predict_proba(X[5:6])[0], noisy.predict_proba(X)[5], atol=1e-6)
    assert not np.allclose(noisy.predict_proba(X), noisy.estimator_.predict_proba(X))


@pytest.mark.slow
def test_labels_may_be_lists_of_strings(region_classifier):
    X, y, confounder = biased(60)
    names, hair = np.array(["woman", "man"])[y], np.array(["dark", "blond"])[confounder]
    mitigator = AttributionNoiseMitigator(BASE, region_classifier=region_classifier, quantile=0.9)
    mitigator.fit(X, list(names), sensitive_features=list(hair), sample_weight=np.ones(60))
    assert list(mitigator.classes_) == ["man", "woman"]
    assert set(mitigator.predict(X)) <= {"man", "woman"}


def test_the_chosen_scheme_and_quantile_take_the_shortcut_away(region_classifier):
    X, y, confounder = biased()
    mitigator = AttributionNoiseMitigator(
        BASE,
        region_classifier=region_classifier,
        scheme=["general_noise", "specific_transplant"],
        quantile=[0.0, 0.85, 1],
        noise_std=10,
        random_state=3,
    ).fit(X, y, sensitive_features=confounder)
    found = mitigator.selection_
    pairs = list(zip(found["scheme"], found["quantile"], strict=True))
    assert pairs == [*[("general_noise", q) for q in (0, 0.85, 1)], *[("specific_transplant", q) for q in (0, 0.85)]]
    best = found.loc[found["crossed_auc"].idxmax()]
    chosen = found[(found["scheme"] == mitigator.scheme_) & (found["quantile"] == mitigator.quantile_)]
    assert best["crossed_auc"] - best["standard_error"] <= chosen["crossed_auc"].item()
    # Not all the image, nor none of it.
    assert mitigator.quantile_ == 0.85
    nothing = found.loc[found["quantile"] == 1, "crossed_auc"].item()
    assert best["crossed_auc"] > nothing + 0.1
    plain = (
        clone(mitigator).set_params(scheme=mitigator.scheme_, quantile=0.85).fit(X, y, sensitive_features=confounder)
    )
    assert np.array_equal(plain.predict_proba(X), mitigator.predict_proba(X))
    assert not hasattr(plain, "selection_")
    few = clone(mitigator).set_params(scheme="general_noise", quantile=[0.85, 1.0])
    beside = clone(few).set_params(n_jobs=2)
    alone = few.fit(X, y, sensitive_features=confounder).selection_
    with joblib.parallel_config(backend="threading"):  # processes take seconds to begin
        weighted = beside.fit(X, y, sensitive_features=confounder, sample_weight=np.ones(400))
    assert weighted.selection_.equals(alone)


def test_among_equally_good_candidates_the_least_perturbing_is_chosen():
    found = pd.DataFrame(
        {
            "quantile": [0.5, 0.7, 0.7, 0.9, 1.0],
            "crossed_auc": [0.9, 0.88, 0.89, 0.87, 0.6],
            "standard_error": [0.025, 0.5, 0.5, 0.5, 0.5],
        }
    )
    assert _least_within_one_standard_error(found) == 2
    assert _least_within_one_standard_error(found.assign(standard_error=0.03)) == 3
    assert _least_within_one_standard_error(found.assign(standard_error=0.0)) == 0


@pytest.mark.slow
@pytest.mark.parametrize("quantile", [0.85, 1])
def test_the_estimate_is_near_the_truth(quantile, region_classifier):
    X, y, confounder = biased()
    mitigator = AttributionNoiseMitigator(
        BASE, region_classifier=region_classifier, scheme="general_transplant", quantile=quantile
    ).fit(X, y, sensitive_features=confounder)
    X_test, y_test, confounder_test = biased(600, seed=1, shortcut=False)
    crossed = y_test == confounder_test
    truth = roc_auc_score(y_test[crossed], mitigator.predict_proba(X_test)[crossed, 1])
    mask = quantile_mask(torch.from_numpy(mitigator.pixel_map_), 0.8)
    held_out = Samples(*biased(400, seed=2))
    estimate = estimate_crossed_auc(mitigator, held_out, Samples(X, y, confounder), mask, random_state=0)
    assert abs(estimate.auc - truth) < 0.05


def test_auto_tries_several_schemes_and_quantiles(region_classifier):
    X, y, confounder = biased(80)
    mitigator = AttributionNoiseMitigator(
        clone(BASE).set_params(max_epochs=1), region_classifier=region_classifier, scheme="auto", quantile=[0.5, 1]
    ).fit(X, y, sensitive_features=confounder)
    assert len(mitigator.selection_) == 3 + 1
    mitigator.set_params(scheme="general_mask", quantile="auto").fit(X, y, sensitive_features=confounder)
    assert list(mitigator.selection_["quantile"]) == [0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 1]
    mitigator.set_params(scheme="auto")
    with pytest.raises(ValueError, match="apply_at_predict needs the scheme general_mask or general_noise, got 'auto'"):
        mitigator.set_params(apply_at_predict=True).fit(X, y, sensitive_features=confounder)


@pytest.mark.parametrize(
    ("parameters", "fit", "error", "words"),
    [
        ({"protect_target": -1}, {}, ValueError, r"protect_target must be a number in \[0, inf\), got -1"),
        ({"protect_target": float("nan")}, {}, ValueError, "protect_target must be a number"),
        ({"target_region_classifier": object()}, {}, ValueError, "must come with protect_target above 0"),
        ({"scheme": "noise"}, {}, ValueError, "scheme must be one of"),
        ({"quantile": 2}, {}, ValueError, "quantile"),
        (
            {"quantile": []},
            {},
            ValueError,
            r"scheme and quantile must not be empty, got 'specific_transplant' and \[\]",
        ),
        ({"quantile": [0.5, 2]}, {}, ValueError, r"quantile must be .* in \[0, 1\].*, got 2"),
        ({"quantile": "automatic"}, {}, ValueError, "quantile must be .*, got 'automatic'"),
        ({"quantile": None}, {}, ValueError, "quantile must be .*, got None"),
        ({"scheme": ["general_noise", "blur"]}, {}, ValueError, "scheme must be one of .*, got 'blur'"),
        ({"validation_fraction": 1}, {}, ValueError, r"validation_fraction must be a number in \(0, 1\), got 1"),
        ({"scheme": "specific_noise", "apply_at_predict": True}, {}, ValueError, "apply_at_predict needs"),
        (
            {"estimator": JTT(BASE), "scheme": "general_mask", "apply_at_predict": True},
            {},
            ValueError,
            "apply_at_predict must be False with JTT, which looks at images",
        ),
        ({"estimator": LogisticRegression()}, {}, TypeError, "batch_transform"),
        ({"estimator": ImageClassifier}, {}, TypeError, "estimator must be a classifier .*, got <class"),
        ({"region_classifier": "eyeglasses"}, {}, TypeError, "region_classifier must be a RegionClassifier, got str"),
        (
            {"target_region_classifier": BASE, "protect_target": 1},
            {},
            TypeError,
            "target_region_classifier must be a RegionClassifier, got ImageClassifier",
        ),
        ({"quantile": [0.5, 1]}, {"sample_weight": [1, 2]}, ValueError, "sample_weight must hold 20 finite weights"),
        ({}, {"sensitive_features": [0]}, ValueError, r"sensitive_features should be a 1d array of shape \(20,\)"),
        ({}, {"sensitive_features": [0, None] * 10}, ValueError, "sensitive_features must not have missing values"),
        ({}, {"y": [0]}, ValueError, r"y should be a 1d array of shape \(20,\)"),
        ({}, {"y": [0] * 20}, ValueError, "y must hold at least 2 classes, got 1 class"),
        ({}, {"sensitive_features": [0] * 20}, ValueError, "sensitive_features must hold at least 2 classes, got 1"),
        (
            {},
            {"sensitive_features": np.linspace(18, 90, 20)},
            ValueError,
            "sensitive_features must be classes, got 18.0",
        ),
        (
            {},
            {"sensitive_features": np.column_stack([np.arange(20) % 2, np.linspace(18, 90, 20)])},
            ValueError,
            "sensitive_features must be classes, got 18.0",
        ),
        (
            {},
            {"sensitive_features": np.arange(20) % 2},
            ValueError,
            "sensitive_features must take several values in a class of y",
        ),
        (
            {"protect_target": 1.0},
            {"y": np.arange(20) % 2, "sensitive_features": np.arange(20) % 4},
            ValueError,
            "^y must take several values in a class of sensitive_features",
        ),
        (
            {"estimator": clone(BASE).set_params(loss_reduction=lambda losses, index: losses.mean())},
            {"sample_weight": np.arange(20)},
            ValueError,
            "sample_weight must be left out with a loss_reduction",
        ),
        ({"estimator": clone(BASE).set_params(mixed_precision="bad")}, {}, ValueError, "mixed_precision must be 'no'"),
        ({"estimator": GroupDRO(BASE, step_size=-1)}, {}, ValueError, "step_size must be a number"),
        ({"estimator": JTT(BASE, first_epochs=0)}, {}, ValueError, "first_epochs must be an integer"),
        ({"estimator": LearningFromFailure(BASE, q=2)}, {}, ValueError, "q must be a number"),
        (
            {"estimator": GroupDRO(BASE)},
            {"sensitive_features": [0, 0, 1, 0] * 5},
            NotApplicableError,
            "no training image of class 1 has the sensitive feature 1",
        ),
        ({}, {"region_maps": np.zeros((20, 13, 13))}, ValueError, "region_maps must come with"),
        ({"confidence": "sure"}, {}, ValueError, "confidence"),
    ],
)
def test_invalid_arguments_are_named_in_the_error(parameters, fit, error, words):
    X, y, confounder = biased(20)
    mitigator = AttributionNoiseMitigator(**{"estimator": BASE} | parameters)
    with pytest.raises(error, match=words):
        mitigator.fit(**{"X": X, "y": y, "sensitive_features": confounder} | fit)
    assert not hasattr(mitigator, "region_classifier_")  # nothing was trained before


def test_images_unlike_the_region_classifiers_are_refused(region_classifier):
    X, y, confounder = biased(60)
    channels = region_classifier.in_channels
    wrong = X[:, :1] if channels > 1 else X.repeat(3, 1)
    words = f"X must have {channels} channels, as the classifier has; got {wrong.shape[1]}"
    for options in (
        {"region_classifier": region_classifier},
        {"target_region_classifier": region_classifier, "protect_target": 1.0},
    ):
        with pytest.raises(ValueError, match=words):
            AttributionNoiseMitigator(BASE, **options).fit(wrong, y, sensitive_features=confounder)
    with pytest.raises(ValueError, match="X must be 16 x 16 pixels"):
        AttributionNoiseMitigator(BASE, region_classifier=region_classifier).fit(
            X[:, :, :-2], y, sensitive_features=confounder
        )


class Counting(np.ndarray):
    """Counts how often the first image is read as part of a batch of all."""

    reads = 0

    def __getitem__(self, index):
        Counting.reads += isinstance(index, slice) and index.start == 0 and index.stop == 256
        return super().__getitem__(index)


@pytest.mark.parametrize("scheme", ["general_transplant", "specific_noise"])
def test_float_images_are_looked_through_at_the_public_edges_alone(region_classifier, scheme):
    X, y, confounder = biased(60)
    X = (X / np.float32(255)).view(Counting)
    Counting.reads = 0
    check_images(X)
    assert Counting.reads == 1
    AttributionNoiseMitigator(
        clone(BASE).set_params(max_epochs=1),
        region_classifier=region_classifier,
        scheme=scheme,
        protect_target=1.0,
        region_epochs=1,
        random_state=0,
    ).fit(X, y, sensitive_features=confounder)
    # By the mitigator and by the estimator, which is one of the user's; before, by each step between them too.
    assert Counting.reads == 3


def test_stored_maps_give_the_same_masks(region_classifier, tmp_path):
    X, y, confounder = biased(60)
    maps = attribute_dataset(RegionAttribution(region_classifier), X, tmp_path / "maps")
    mitigator = AttributionNoiseMitigator(
        clone(BASE).set_params(max_epochs=1),
        region_classifier=region_classifier,
        scheme="specific_mask",
        quantile=0.8,
        random_state=0,
    )
    stored = mitigator.fit(X, y, sensitive_features=confounder, region_maps=maps).noise_.mask_
    given = mitigator.fit(X, y, sensitive_features=confounder, region_maps=maps.maps).noise_.mask_
    assert torch.equal(stored, given)
    computed = mitigator.fit(X, y, sensitive_features=confounder).noise_.mask_
    assert (stored == computed).float().mean() > 0.99  # but for float16


def test_fit_needs_sensitive_features_and_predict_needs_fit():
    X, y, _ = biased(20)
    with pytest.raises(TypeError, match="sensitive_features"):
        AttributionNoiseMitigator(BASE).fit(X, y)
    with pytest.raises(NotFittedError):
        AttributionNoiseMitigator(BASE).predict(X)


def test_labels_may_be_named_where_the_data_hold_them(region_classifier):
    X, y, confounder = biased(60)
    data = AttributeImages(X, pd.DataFrame({"target": y, "square": confounder}))
    mitigator = AttributionNoiseMitigator(clone(BASE).set_params(max_epochs=2), region_classifier=region_classifier)
    named = mitigator.set_params(random_state=0).fit(data, "target", sensitive_features="square").predict_proba(data)
    given = mitigator.fit(X, y, sensitive_features=confounder).predict_proba(X)
    np.testing.assert_array_equal(named, given)
    classifier = clone(BASE).set_params(max_epochs=2)
    for images, labels in ((data, "target"), (TensorDataset(torch.from_numpy(X), torch.from_numpy(y)), y)):
        np.testing.assert_array_equal(
            classifier.fit(images, labels).predict_proba(images), classifier.fit(X, y).predict_proba(X)
        )
    for fitted in (classifier, mitigator):
        assert fitted.score(data, "target") == fitted.score(X, y) == np.mean(fitted.predict(X) == y)
        assert fitted.score(data, "target", y + 1) == fitted.score(X, y, sample_weight=y + 1)
    with pytest.raises(ValueError, match="'hat' is not an attribute"):
        classifier.fit(data, "hat")


class TestMemory:
    def test_a_grid_search_trains_one_region_classifier_a_fold(self, tmp_path, written):
        X, y, confounder = biased(120)
        classifier = clone(BASE).set_params(max_epochs=1)
        mitigator = AttributionNoiseMitigator(
            classifier, region_epochs=1, scheme="specific_mask", memory=tmp_path / "memory", random_state=0
        )
        search = GridSearchCV(mitigator, {"scheme": ["specific_mask", "specific_noise"]}, cv=2)
        search.fit(X, y, sensitive_features=confounder)
        kept = sorted((tmp_path / "memory").iterdir())
        assert len(kept) == 3 * 2  # of each fold and of all images, a region classifier and maps
        before = [written(file) for file in kept]
        best = clone(search.best_estimator_)
        with_memory = best.fit(X, y, sensitive_features=confounder)
        assert [written(file) for file in sorted((tmp_path / "memory").iterdir())] == before
        without = clone(best).set_params(memory=None).fit(X, y, sensitive_features=confounder)
        assert np.array_equal(with_memory.predict_proba(X), without.predict_proba(X))
        assert torch.equal(with_memory.noise_.mask_, without.noise_.mask_)

    @pytest.mark.parametrize(
        "changed",
        [{"random_state": 1}, {"region_epochs": 2}, {"confidence": "margin"}, {"scheme": "general_mask"}, {"X": 1}],
    )
    def test_other_settings_share_less(self, changed, tmp_path):
        X, y, confounder = biased(60)
        settings = {"region_epochs": 1, "scheme": "specific_mask", "memory": str(tmp_path), "random_state": 0}
        for each in ({}, changed):
            images = X ^ np.uint8(each.get("X", 0))
            parameters = settings | {name: value for name, value in each.items() if name != "X"}
            mitigator = AttributionNoiseMitigator(clone(BASE).set_params(max_epochs=1), **parameters)
            mitigator.fit(images, y, sensitive_features=confounder)
        # A classifier and maps of each; other confidences and means are of the same classifier.
        assert len(list(tmp_path.iterdir())) == (3 if changed.keys() & {"confidence", "scheme"} else 4)

    def test_what_cannot_be_a_memory_is_refused(self, tmp_path):
        X, y, confounder = biased(20)
        for options, error, words in (
            ({"memory": joblib.Memory(None)}, TypeError, "memory must be a folder, got Memory"),
            ({"memory": tmp_path, "random_state": None}, ValueError, "random_state must be given with memory"),
        ):
            mitigator = AttributionNoiseMitigator(BASE, **{"random_state": 0} | options)
            with pytest.raises(error, match=words):
                mitigator.fit(X, y, sensitive_features=confounder)
        assert not list(tmp_path.iterdir())


def test_trainings_in_threads_are_those_that_run_alone():
    classifier = ImageClassifier(max_epochs=2)  # the paper's network, which has dropout
    mitigators = {"original": classifier, "mitigated": AttributionNoiseMitigator(classifier, region_epochs=1)}
    train, test = Samples(*biased(60)), Samples(*biased(40, 1, shortcut=False))
    before = torch.get_rng_state()
    alone = compare_mitigators(mitigators, train, test, random_states=(0, 1))
    with joblib.parallel_config(backend="threading"):
        in_threads = compare_mitigators(mitigators, train, test, random_states=(0, 1), n_jobs=4)
    pd.testing.assert_frame_equal(in_threads, alone, check_exact=True)
    assert torch.equal(before, torch.get_rng_state())


class Shown:
    """Perturbs nothing, and remembers whether each image came with its own position."""

    def __init__(self, X):
        self.X, self.is_own, self.seen = torch.from_numpy(X).float() / 255, [], set()

    def __call__(self, images, index, generator):
        self.is_own.append(torch.equal(images, self.X[index]))
        self.seen |= set(index.tolist())
        return images

    def __deepcopy__(self, memo):
        return self  # that of a clone is this


def composed_images():
    X = np.random.default_rng(0).integers(0, 256, (40, 3, 8, 8), np.uint8)
    return X, np.arange(40) % 2, np.arange(40) // 2 % 2


@pytest.mark.parametrize("kind", [Reweighing, BalancedResampling, GroupDRO, JTT, LearningFromFailure])
def test_a_mitigator_within_trains_with_the_perturbation(kind):
    X, y, confounder = composed_images()
    regions = DenseRegionClassifier(RegionGrid(8, 4, 4), 2, width=4, random_state=0)
    inner = kind(ImageClassifier(max_epochs=2, batch_size=16))
    mitigator = AttributionNoiseMitigator(inner, region_classifier=regions, scheme="specific_noise", random_state=3)
    fitted = mitigator.fit(X, y, sensitive_features=confounder)
    # What it does in its two parts.
    alone = clone(inner).set_params(estimator__batch_transform=fitted.noise_, estimator__random_state=3)
    if "random_state" in alone.get_params(deep=False):
        alone.set_params(random_state=3)
    alone.fit(X, y, sensitive_features=confounder)
    np.testing.assert_array_equal(fitted.predict_proba(X), alone.predict_proba(X))
    alone.set_params(estimator__batch_transform=None).fit(X, y, sensitive_features=confounder)
    assert (fitted.predict_proba(X) != alone.predict_proba(X)).any()
    with pytest.raises(ValueError, match=f"sample_weight must be left out with {kind.__name__}"):
        mitigator.fit(X, y, sensitive_features=confounder, sample_weight=np.ones(40))


@pytest.mark.parametrize("kind", [Reweighing, BalancedResampling])
def test_transplants_balance_what_a_mitigator_within_weighs(kind):
    rng, label = np.random.default_rng(0), np.repeat([0, 1], 200)
    confounder = (rng.random(400) < np.where(label, 0.9, 0.1)).astype(int)
    X = np.repeat(confounder * 200, 3 * 64).reshape(400, 3, 8, 8).astype(np.uint8)
    regions = DenseRegionClassifier(RegionGrid(8, 4, 4), 2, width=4, random_state=0)
    inner = kind(ImageClassifier(max_epochs=1))
    fitted = AttributionNoiseMitigator(inner, region_classifier=regions, quantile=0.0, random_state=0)
    fitted.fit(X, label, sensitive_features=confounder)
    index = np.tile(np.arange(400), 100)
    shown = fitted.noise_(torch.from_numpy(X[index] / 255), torch.from_numpy(index), torch.Generator().manual_seed(0))
    if kind is Reweighing:
        weights = fitted.estimator_.sample_weight_
    else:
        weights = np.bincount(fitted.estimator_.sample_indices_, minlength=400)
    for each in (0, 1):
        mine = label[index] == each
        shows = shown[mine].amax((1, 2, 3)) > 0.5
        assert np.average(shows, weights=weights[index][mine]) == pytest.approx(0.5, abs=0.03)


def test_an_estimators_own_transform_comes_after_the_perturbation():
    X, y, confounder = composed_images()
    regions = DenseRegionClassifier(RegionGrid(8, 4, 4), 2, width=4, random_state=0)
    seen = []

    def mirrored(images, index, generator):
        seen.append(images)
        return images.flip(-1)

    base = ImageClassifier(max_epochs=1, random_state=0, batch_transform=mirrored)
    given = {"region_classifier": regions, "scheme": "general_mask", "quantile": 0.2}
    for estimator in (base, GroupDRO(base)):
        seen.clear()
        fitted = AttributionNoiseMitigator(estimator, **given).fit(X, y, sensitive_features=confounder)
        grey = torch.cat(seen).permute(1, 0, 2, 3)[:, :, fitted.noise_.mask_[0]]
        assert len(torch.cat(seen)) == 40
        assert torch.equal(grey, torch.full_like(grey, 0.5))


def test_a_class_with_too_few_images_to_choose_by_is_named():
    X, y, confounder = biased(80, shortcut=False)
    few = (y == 0) | (np.arange(80) < 12)
    regions = DenseRegionClassifier(RegionGrid(16, 4, 4), 2, width=4, random_state=0)
    mitigator = AttributionNoiseMitigator(BASE, region_classifier=regions, quantile=np.array([0.5, 0.9]))
    with pytest.raises(ValueError, match=r"validation_fraction of 0.25 holds out no image of class 1"):
        mitigator.fit(X[few], y[few], sensitive_features=confounder[few])


def test_images_drawn_again_keep_their_positions():
    X, y, confounder = composed_images()
    rare = (y == 0) | (confounder == 0) | (np.arange(40) < 8)
    X, y, confounder = X[rare], y[rare], confounder[rare]
    shown = Shown(X)
    fitted = BalancedResampling(ImageClassifier(max_epochs=1), random_state=0)
    fitted.set_params(estimator__batch_transform=shown).fit(X, y, sensitive_features=confounder)
    assert all(shown.is_own)
    assert shown.seen == set(fitted.sample_indices_.tolist())


def test_what_trains_no_classifier_within_is_refused():
    X, y, confounder = composed_images()
    for inner in (ThresholdShift(ImageClassifier()), AttributionNoiseMitigator(ImageClassifier())):
        with pytest.raises(TypeError, match="or a mitigator of one as GroupDRO"):
            AttributionNoiseMitigator(inner).fit(X, y, sensitive_features=confounder)


@pytest.mark.parametrize("kind", [None, GroupDRO, Reweighing])
def test_the_fitted_classifier_is_left_without_the_perturbation(kind):
    X, y, confounder = composed_images()
    regions = DenseRegionClassifier(RegionGrid(8, 4, 4), 2, width=4, random_state=0)
    given = ImageClassifier(max_epochs=1)
    estimator = given if kind is None else kind(given)
    fitted = AttributionNoiseMitigator(estimator, region_classifier=regions, random_state=3)
    fitted.fit(X, y, sensitive_features=confounder)
    left = fitted.estimator_.get_params()
    assert {value for name, value in left.items() if name.endswith("batch_transform")} == {None}
    assert kind is None or fitted.estimator_.estimator_.batch_transform is None
    clone(fitted.estimator_).fit(X[:20], y[:20], **({} if kind is None else {"sensitive_features": confounder[:20]}))


class Plain(ClassifierMixin, BaseEstimator):
    """A classifier with a batch transform, which draws nothing itself."""

    def __init__(self, batch_transform=None):
        self.batch_transform = batch_transform

    def fit(self, X, y):
        images = torch.from_numpy(X).float() / 255
        seen = self.batch_transform(images, torch.arange(len(X)), torch.Generator().manual_seed(0))
        self.inner_ = LogisticRegression().fit(seen.flatten(1).numpy(), y)
        self.classes_ = self.inner_.classes_
        return self

    def predict_proba(self, X):
        return self.inner_.predict_proba(np.asarray(X).reshape(len(X), -1) / 255)


def test_a_seed_is_given_to_what_takes_one():
    X, y, confounder = composed_images()
    regions = DenseRegionClassifier(RegionGrid(8, 4, 4), 2, width=4, random_state=0)
    mitigator = AttributionNoiseMitigator(Plain(), region_classifier=regions, random_state=0)
    assert mitigator.fit(X, y, sensitive_features=confounder).predict(X).shape == (40,)


@pytest.mark.parametrize("kind", [None, GroupDRO])
def test_candidates_see_each_image_by_its_position_in_x(kind, region_classifier):
    X, y, confounder = biased(80, shortcut=False)
    seen = []

    def shown(images, index, generator):
        masked = torch.from_numpy(X[index]) / 255
        seen.append(((images == masked) | (images == 0.5)).all())
        return images

    base = clone(BASE).set_params(max_epochs=1, batch_transform=shown)
    settings = {"region_classifier": region_classifier, "scheme": "general_mask", "quantile": pd.Series([0.5, 0.9])}
    estimator = base if kind is None else kind(base)
    AttributionNoiseMitigator(estimator, **settings, random_state=0).fit(X, y, sensitive_features=confounder)
    assert len(seen) == 3
    assert all(seen)


def test_one_value_of_the_spurious_attribute_is_named(region_classifier):
    X, y, _ = biased(40)
    mitigator = AttributionNoiseMitigator(BASE, region_classifier=region_classifier)
    with pytest.raises(ValueError, match="sensitive_features must hold at least 2 classes"):
        mitigator.fit(X, y, sensitive_features=np.ones(40))


def test_a_region_classifier_in_train_mode_is_used_as_in_eval_mode_and_stays_as_it_is():
    X, y, confounder = biased(40)
    regions = DenseRegionClassifier(RegionGrid(16, 8, 4), 2, random_state=0)
    before = {name: value.clone() for name, value in regions.state_dict().items()}
    maps = {}
    for mode in (True, False):
        regions.train(mode)
        options = {"region_classifier": regions, "target_region_classifier": regions, "protect_target": 0.5}
        mitigator = AttributionNoiseMitigator(clone(BASE).set_params(max_epochs=1), **options, random_state=0)
        maps[mode] = mitigator.fit(X, y, sensitive_features=confounder).region_map_
        assert regions.training == mode
    np.testing.assert_array_equal(maps[True], maps[False])
    assert all(torch.equal(value, before[name]) for name, value in regions.state_dict().items())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"region_epochs": 0}, "region_epochs must be an integer of at least 1, got 0"),
        (
            {"region_epochs": 5, "region_classifier": True},
            "region_epochs must be left out with a trained region_classi",
        ),
    ],
)
def test_epochs_of_no_training_are_refused(options, words):
    X, y, confounder = biased(40)
    if "region_classifier" in options:
        options["region_classifier"] = DenseRegionClassifier(RegionGrid(16, 8, 4), 2, random_state=0).eval()
    with pytest.raises(ValueError, match=words):
        AttributionNoiseMitigator(BASE, **options).fit(X, y, sensitive_features=confounder)


@pytest.mark.filterwarnings("error")
def test_images_to_predict_may_be_tensors_that_need_a_gradient():
    X, y, confounder = biased(60)
    regions = DenseRegionClassifier(RegionGrid(16, 8, 4), 2, random_state=0).eval()
    base = clone(BASE).set_params(max_epochs=1)
    mitigator = AttributionNoiseMitigator(
        base, scheme="general_mask", region_classifier=regions, apply_at_predict=True, random_state=0
    ).fit(X, y, sensitive_features=confounder)
    images = (torch.from_numpy(X).float() / 255).requires_grad_()
    np.testing.assert_allclose(mitigator.predict_proba(images), mitigator.predict_proba(X), atol=1e-6)
    assert images.grad is None


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_a_choice_takes_epochs_of_regions_and_leaves_the_targets_classifier_as_it_is(backend):
    X, y, confounder = biased(120)
    target_regions = DenseRegionClassifier(RegionGrid(16, 8, 4), 2, random_state=0).train()
    before = {name: value.clone() for name, value in target_regions.state_dict().items()}
    options = {"protect_target": 0.5, "target_region_classifier": target_regions, "region_epochs": 1, "n_jobs": 2}
    mitigator = AttributionNoiseMitigator(
        clone(BASE).set_params(max_epochs=1), scheme="general_mask", quantile=[0.4, 0.5, 0.6, 0.7], random_state=0
    ).set_params(**options)
    with joblib.parallel_backend(backend):
        mitigator.fit(X, y, sensitive_features=confounder)
    assert len(mitigator.selection_) == 4
    assert target_regions.training
    assert all(torch.equal(value, before[name]) for name, value in target_regions.state_dict().items())

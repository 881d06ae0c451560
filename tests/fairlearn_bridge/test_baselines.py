"""The other mitigators: what each weighs, draws or hides, worked out by hand; and that it helps where it should."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from fairlearn.metrics import equalized_odds_difference, plot_model_comparison
from fairlearn.postprocessing import ThresholdOptimizer
from fairlearn.reductions import EqualizedOdds, ExponentiatedGradient
from matplotlib.figure import Figure
from sklearn.base import clone
from sklearn.dummy import DummyClassifier
from sklearn.exceptions import DataConversionWarning, NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch.dataset import ValidSplit
from torch import nn

from captum_region.datasets import AttributeImages
from fairlearn_bridge import (
    JTT,
    AdversarialLastLayer,
    BalancedResampling,
    EmbeddingCorrelationRemoval,
    GroupDRO,
    ImageClassifier,
    LastLayerRetraining,
    LearningFromFailure,
    LowSpuriosityRetraining,
    MaskTune,
    NotApplicableError,
    Reweighing,
    Samples,
    ThresholdShift,
    fit_mitigators,
)
from fairlearn_bridge.baselines import last_features
from fairlearn_bridge.baselines.weighting import _WorstGroups
from fairlearn_bridge.validation import check_sensitive


class Net(nn.Module):
    def __init__(self, image_shape, num_classes):
        super().__init__()
        self.conv = nn.Conv2d(image_shape[0], 4, 3, padding=1)
        self.last = nn.Linear(4 * 16, num_classes)

    def forward(self, images):
        pooled = nn.functional.adaptive_avg_pool2d(self.conv(images * 2 - 1).relu(), 4)
        return self.last(pooled.flatten(1))


BASE = ImageClassifier(Net, max_epochs=12, lr=1e-2, random_state=0)
MITIGATORS = {
    "reweighing": Reweighing(BASE),
    "resampling": BalancedResampling(BASE, random_state=0),
    "group DRO": GroupDRO(BASE, step_size=0.1),
    "JTT": JTT(BASE, first_epochs=4, upweight=40),
    "LfF": LearningFromFailure(clone(BASE).set_params(max_epochs=24, batch_size=32)),  # its weights take their time
    "last layer": LastLayerRetraining(BASE, random_state=0),
    "low spuriosity": LowSpuriosityRetraining(BASE, region_epochs=2, random_state=0),
    "MaskTune": MaskTune(BASE),
    "correlation": EmbeddingCorrelationRemoval(BASE),
    "adversary": AdversarialLastLayer(BASE, random_state=0),
}


def faces(n=300, seed=0, crossed=0.05):
    """Return 12 px images: the target dims the top a little, the shortcut brightens a corner and mostly goes along."""
    rng = np.random.default_rng(seed)
    target = np.arange(n) % 2
    shortcut = np.where(rng.random(n) < crossed, 1 - target, target)
    images = rng.integers(60, 160, (n, 3, 12, 12))
    images[target == 1, :, :6] -= 12
    images[shortcut == 1, :, 9:, 9:] += 80
    return images.astype(np.uint8), target, shortcut


def mirrored(images, index, generator):
    return images.flip(-1)


with_loss = clone(BASE).set_params(loss_reduction=mirrored)


@pytest.fixture(scope="module")
def original():
    return clone(BASE).fit(*faces()[:2])


@pytest.mark.parametrize("name", MITIGATORS)
def test_a_mitigator_is_an_estimator(name):
    X, y, shortcut = faces()
    words = np.array(["man", "woman"])[y]
    mitigator = clone(MITIGATORS[name])
    parameters = mitigator.get_params(deep=False)
    before = X.copy()
    fitted = mitigator.fit(X, words, sensitive_features=shortcut)
    assert fitted is mitigator
    assert fitted.get_params(deep=False) == parameters
    assert (before == X).all()
    assert list(fitted.classes_) == ["man", "woman"]
    probability = fitted.predict_proba(X[:7])
    assert probability.shape == (7, 2)
    assert probability.dtype == np.float64
    np.testing.assert_allclose(probability.sum(1), 1)
    assert (fitted.predict(X[:7]) == fitted.classes_[probability.argmax(1)]).all()
    again = clone(mitigator).fit(X, words, sensitive_features=shortcut)
    np.testing.assert_array_equal(again.predict_proba(X[:7]), probability)


@pytest.mark.parametrize("name", MITIGATORS)
def test_classes_may_be_in_an_order_of_their_own_and_more_than_occur(name):
    X, y, shortcut = faces()
    words = np.array(["man", "woman"])[y]
    mitigator = clone(MITIGATORS[name]).set_params(estimator__classes=["woman", "child", "man"])
    mitigator.fit(X, words, sensitive_features=shortcut)
    probability = mitigator.predict_proba(X)
    assert probability.shape == (len(X), 3)
    np.testing.assert_allclose(probability.sum(1), 1)
    assert mitigator.score(X, words) > (0.45 if name == "JTT" else 0.9)  # it weights the few conflicting ones by 40
    # The score of a comparison is the probability of the class that comes last when sorted, as its AUC takes it.
    samples = Samples(X, words, shortcut)
    predictions, _ = fit_mitigators({name: FrozenEstimator(mitigator)}, samples, samples)
    known = {"sensitive_features": shortcut} if name == "correlation" else {}
    np.testing.assert_array_equal(predictions["score"], mitigator.predict_proba(X, **known)[:, 0])


@pytest.mark.parametrize(
    "name", ["reweighing", "resampling", "group DRO", "JTT", "LfF", "last layer", "correlation", "adversary"]
)
def test_mitigators_beat_the_original_on_bias_conflicting_images(name, original):
    X, y, shortcut = faces()
    X_test, y_test, shortcut_test = faces(400, seed=1, crossed=0.5)
    crossed = y_test != shortcut_test
    mitigated = clone(MITIGATORS[name]).fit(X, y, sensitive_features=shortcut)
    worse = original.score(X_test[crossed], y_test[crossed])
    assert worse < 0.1
    assert mitigated.score(X_test[crossed], y_test[crossed]) > 0.5


@pytest.mark.parametrize("name", MITIGATORS)
def test_labels_may_be_a_column_or_named(name):
    X, y, shortcut = faces(60, crossed=0.5)
    data = AttributeImages(X, pd.DataFrame({"target": y, "square": shortcut}))
    mitigator = clone(MITIGATORS[name]).set_params(estimator__max_epochs=2)
    given = mitigator.fit(X, y, sensitive_features=shortcut).predict_proba(X)
    named = mitigator.fit(data, "target", sensitive_features="square").predict_proba(data)
    np.testing.assert_array_equal(named, given)
    with pytest.warns(DataConversionWarning):
        column = mitigator.fit(X, y[:, None], sensitive_features=pd.DataFrame({"square": shortcut})).predict_proba(X)
    np.testing.assert_array_equal(column, given)


@pytest.mark.parametrize("name", [*MITIGATORS, "threshold"])
def test_prediction_needs_a_fit(name):
    mitigator = {**MITIGATORS, "threshold": ThresholdShift(BASE)}[name]
    for method in (clone(mitigator).predict, clone(mitigator).predict_proba):
        with pytest.raises(NotFittedError):
            method(faces(4)[0])


@pytest.mark.parametrize("name", ["resampling", "group DRO", "last layer"])
def test_an_empty_cell_is_reported(name):
    X, y, shortcut = faces(60, crossed=0)
    with pytest.raises(NotApplicableError, match="no training image of class 0 has the sensitive feature 1: "):
        clone(MITIGATORS[name]).fit(X, y, sensitive_features=shortcut)


@pytest.mark.parametrize("name", ["reweighing", "resampling", "group DRO", "last layer", "correlation", "adversary"])
def test_bad_sensitive_features_are_named(name):
    X, y, shortcut = faces(20)
    for bad, words in (
        (shortcut[:5], r"sensitive_features should be a 1d array of shape \(20,\)"),
        ([None] * 20, "20 missing"),
    ):
        with pytest.raises(ValueError, match=words):
            clone(MITIGATORS[name]).fit(X, y, sensitive_features=bad)


@pytest.mark.parametrize(
    ("mitigator", "words"),
    [
        (GroupDRO(BASE, step_size=0), r"step_size must be a number in \(0, inf\), got 0"),
        (JTT(BASE, first_epochs=0), "first_epochs must be an integer of at least 1, got 0"),
        (LearningFromFailure(BASE, q=0), r"q must be a number in \(0, 1\), got 0"),
        (LearningFromFailure(BASE, momentum=1), "momentum must be below 1"),
        (LearningFromFailure(clone(BASE).set_params(criterion=nn.NLLLoss)), "must have the criterion nn.CrossEntropyL"),
        (LastLayerRetraining(BASE, draws="3"), "draws must be an integer of at least 1, got '3'"),
        (LastLayerRetraining(BASE, draws=1.5), "draws must be an integer of at least 1, got 1.5"),
        (MaskTune(BASE, tune_epochs=0), "tune_epochs must be an integer"),
        (MaskTune(BASE, tune_lr=-1), r"tune_lr must be a number in \(0, inf\), got -1"),
        (AdversarialLastLayer(BASE, batch_size=20.5), "batch_size must be an integer of at least 1, got 20.5"),
        (GroupDRO(with_loss), "estimator must leave loss_reduction to GroupDRO, got <"),
        (LearningFromFailure(with_loss), "estimator must leave loss_reduction to LearningFromFailure, got <"),
        (Reweighing(with_loss), "estimator must leave loss_reduction to Reweighing, got <"),
        (JTT(with_loss), "estimator must leave loss_reduction to JTT, got <"),
        (BalancedResampling(clone(BASE).set_params(train_split=ValidSplit(2))), "estimator must have no train_split"),
        (LastLayerRetraining(BASE, C=0), r"C must be a number in \(0, inf\), got 0"),
        (LowSpuriosityRetraining(BASE, C="1"), r"C must be a number in \(0, inf\), got '1'"),
        (LowSpuriosityRetraining(BASE, value=0.5), "value must be an integer of at least 0, got 0.5"),
        (LowSpuriosityRetraining(BASE, value=2), "value must be a class of the region classifier, below 2, got 2"),
        (EmbeddingCorrelationRemoval(BASE, C=-1), r"C must be a number in \(0, inf\), got -1"),
        (EmbeddingCorrelationRemoval(BASE, alpha=1.5), r"alpha must be a number in \[0, 1\], got 1.5"),
        (AdversarialLastLayer(BASE, constraints="parity"), "constraints must be 'equalized_odds' or .* got 'parity'"),
        (AdversarialLastLayer(BASE, alpha=-1), r"alpha must be a number in \[0, inf\), got -1"),
        (AdversarialLastLayer(BASE, max_iter=0), "max_iter must be an integer of at least 1, got 0"),
    ],
)
def test_bad_parameters_are_named_before_any_training(mitigator, words):
    X, y, shortcut = faces(20, crossed=0.5)
    mitigator = clone(mitigator)
    with pytest.raises(ValueError, match=words):
        mitigator.fit(X, y, sensitive_features=shortcut)
    assert not hasattr(mitigator, "estimator_")


@pytest.mark.parametrize("name", ["MaskTune", "last layer", "low spuriosity", "correlation", "adversary"])
def test_a_network_without_the_layer_that_is_needed_is_refused_before_any_training(name):
    X, y, shortcut = faces(20, crossed=0.5)
    kind, layers = "Linear", [nn.Conv2d(3, 2, 12), nn.Flatten()]
    if name == "MaskTune":
        kind, layers = "Conv2d", [nn.Flatten(), nn.Linear(432, 2)]
    mitigator = clone(MITIGATORS[name]).set_params(estimator=ImageClassifier(nn.Sequential(*layers), max_epochs=1))
    with pytest.raises(ValueError, match=f"estimator must have a module with an nn.{kind}, it has none"):
        mitigator.fit(X, y, sensitive_features=shortcut)
    assert not hasattr(mitigator, "estimator_")


def test_a_spurious_attribute_that_never_varies_is_refused_before_any_training():
    X, y, _ = faces(20)
    mitigator = clone(MITIGATORS["low spuriosity"])
    with pytest.raises(ValueError, match="sensitive_features must take several values in a class of y"):
        mitigator.fit(X, y, sensitive_features=y)
    assert not hasattr(mitigator, "estimator_")


def test_weights_make_class_and_feature_independent():
    y = np.array([0] * 6 + [1] * 4)
    shortcut = np.array([0, 0, 0, 0, 0, 1, 0, 1, 1, 1])
    fitted = Reweighing(LogisticOnImages()).fit(np.zeros((10, 1, 2, 2), np.uint8), y, sensitive_features=shortcut)
    # P(y=0) P(s=0) / P(0, 0) = 0.6 * 0.6 / 0.5, and so on.
    expected = {(0, 0): 0.72, (0, 1): 2.4, (1, 0): 2.4, (1, 1): 0.4 * 0.4 / 0.3}
    np.testing.assert_allclose(fitted.sample_weight_, [expected[pair] for pair in zip(y, shortcut, strict=True)])
    joint = np.array([[fitted.sample_weight_[(y == a) & (shortcut == b)].sum() for b in (0, 1)] for a in (0, 1)]) / 10
    np.testing.assert_allclose(joint, np.outer(joint.sum(1), joint.sum(0)))


class LogisticOnImages(LogisticRegression):
    def fit(self, X, y, sample_weight=None):
        return super().fit(X.reshape(len(X), -1), y, sample_weight)


@pytest.mark.parametrize("kind", [GroupDRO, MaskTune, BalancedResampling, LearningFromFailure])
def test_what_a_training_alone_needs_is_not_left_in_its_classifier(kind):
    X, y, shortcut = faces(80, crossed=0.3)
    given = clone(BASE).set_params(max_epochs=1, batch_transform=mirrored)
    fitted = kind(given).fit(X, y, sensitive_features=shortcut)
    found, wanted = (each.get_params(deep=False) for each in (fitted.estimator_, given))
    assert found == wanted
    clone(fitted.estimator_).fit(X[:20], y[:20])


def test_what_an_estimator_has_of_its_own_goes_by_the_positions_in_x():
    X, y, shortcut = faces(80, crossed=0.3)
    transformed, reduced = set(), set()

    def transform(images, index, generator):
        assert torch.equal(images, torch.from_numpy(X[index]) / 255)
        transformed.update(index.tolist())
        return images

    def reduction(losses, index):
        reduced.update(index.tolist())
        return losses.mean()

    given = clone(BASE).set_params(max_epochs=1, batch_transform=transform, loss_reduction=reduction)
    fitted = BalancedResampling(given, random_state=0).fit(X, y, sensitive_features=shortcut)
    assert transformed == reduced == set(fitted.sample_indices_.tolist())


def test_no_image_has_no_features():
    X, y, shortcut = faces(60, crossed=0.3)
    fitted = LastLayerRetraining(clone(BASE).set_params(max_epochs=1)).fit(X, y, sensitive_features=shortcut)
    with pytest.raises(ValueError, match="X must hold at least one image, got none"):
        fitted.predict_proba(X[:0])


def test_the_shifted_threshold_is_between_the_two_classes_of_y():
    X, y, _ = faces(60)
    short, names = clone(BASE).set_params(max_epochs=1), np.array(["man", "woman"])[y]
    for labels, words in ((y.astype(str), "got \\['0', '1'\\] too"), (np.char.title(names), "Man")):
        of_y = y if words.startswith("got") else names
        with pytest.raises(ValueError, match=f"validation labels must be of the classes of y, .*{words}"):
            ThresholdShift(short).fit(X, of_y, validation=(X, labels))
    third = clone(short).set_params(classes=["man", "other", "woman"])
    with pytest.raises(ValueError, match=r"estimator must have the two classes of y, got \['man', 'other', 'woman'\]"):
        ThresholdShift(third).fit(X, names, validation=(X, names))


def test_the_shifted_threshold_lies_between_two_scores():
    X, y, _ = faces(60)
    fitted = ThresholdShift(clone(BASE).set_params(max_epochs=1)).fit(X, y, validation=(X, y))
    scores = np.unique(fitted.estimator_.predict_proba(X)[:, 1])
    at = np.searchsorted(scores, fitted.threshold_)
    assert fitted.threshold_ == pytest.approx((scores[at - 1] + scores[at]) / 2)
    assert scores[at - 1] < fitted.threshold_ < scores[at]
    with pytest.raises(ValueError, match="constant predictions"):
        ThresholdShift(DummyClassifier()).fit(X, y, validation=(X, y))


def test_resampling_draws_each_cell_equally_often():
    X, y, shortcut = faces(100, crossed=0.2)
    fitted = BalancedResampling(LogisticOnImages(), random_state=3).fit(X, y, sensitive_features=shortcut)
    drawn = fitted.sample_indices_
    counts = [((y == a) & (shortcut == b))[drawn].sum() for a in (0, 1) for b in (0, 1)]
    assert counts == [25] * 4
    # Of a small cell every image is there, as often as any other or once more.
    small = np.flatnonzero((y == 0) & (shortcut == 1))
    often = np.bincount(drawn, minlength=100)[small]
    assert often.max() - often.min() <= 1


def test_the_worst_group_gets_the_weight():
    reduction = _WorstGroups(np.array([0, 0, 1, 1]), step_size=1.0)
    losses = torch.tensor([1.0, 3.0, 0.5], requires_grad=True)
    # Images 0 and 1 are of group 0 (mean 2), image 3 of group 1 (mean 0.5).
    loss = reduction(losses, torch.tensor([0, 1, 3]))
    weight = np.exp([2, 0.5]) / np.exp([2, 0.5]).sum()
    assert loss.item() == pytest.approx(weight @ [2, 0.5], rel=1e-6)
    loss.backward()
    np.testing.assert_allclose(losses.grad, [weight[0] / 2, weight[0] / 2, weight[1]], rtol=1e-5)
    # A group that is not in the batch keeps its share.
    reduction(losses, torch.tensor([0, 1, 0]))
    ratio = reduction.weight[0] / reduction.weight[1]
    assert ratio == pytest.approx(weight[0] / weight[1] * np.exp(1.5), rel=1e-5)


def test_jtt_upweights_the_first_mistakes():
    X, y, _ = faces()
    fitted = JTT(BASE, first_epochs=1, upweight=7).fit(X, y)
    first = clone(BASE).set_params(max_epochs=1).fit(X, y)
    assert (fitted.is_wrong_ == (first.predict(X) != y)).all()
    assert 0 < fitted.is_wrong_.sum() < len(X)
    weighed = clone(BASE).fit(X, y, sample_weight=np.where(fitted.is_wrong_, 7.0, 1.0))
    np.testing.assert_array_equal(fitted.predict_proba(X), weighed.predict_proba(X))


@pytest.mark.parametrize(("optimizer", "lr"), [(torch.optim.AdamW, 1e-2), (torch.optim.SGD, 0.3)])
def test_learning_from_failure_is_the_authors_algorithm(optimizer, lr):
    # The former hides a factor of the whole loss.
    X, y, _ = faces(90)
    base = clone(BASE).set_params(max_epochs=3, batch_size=40, iterator_train__shuffle=False)
    base.set_params(optimizer=optimizer, lr=lr)
    begun, fitted = (LearningFromFailure(clone(base).set_params(max_epochs=n)).fit(X, y) for n in (0, 3))
    networks = begun.biased_module_, begun.estimator_.module_
    assert (networks[0].last.weight != networks[1].last.weight).all()
    optimizers = [optimizer(each.parameters(), lr=lr, weight_decay=1e-3) for each in networks]
    schedulers = [torch.optim.lr_scheduler.ExponentialLR(each, 0.95) for each in optimizers]
    images, target, average = torch.tensor(X) / 255, torch.tensor(y), [{}, {}]
    for _ in range(3):
        for batch in torch.arange(90).split(40):
            logits = [each(images[batch]) for each in networks]
            losses = [nn.functional.cross_entropy(each, target[batch], reduction="none") for each in logits]
            for kept, found in zip(average, losses, strict=True):
                for image, value in zip(batch.tolist(), found.tolist(), strict=True):
                    kept[image] = 0.7 * kept[image] + 0.3 * value if image in kept else value
            weight = weights_of_failures(average, y, batch.tolist())
            right = logits[0].softmax(1).gather(1, target[batch, None])[:, 0].detach()
            (losses[0] * right**0.7 * 0.7).mean().backward()
            (losses[1] * torch.tensor(weight)).mean().backward()
            for each in optimizers:
                each.step()
                each.zero_grad()
        for scheduler in schedulers:
            scheduler.step()
    np.testing.assert_allclose(fitted.sample_weight_, weights_of_failures(average, y, range(90)), atol=1e-4)
    for network, module in zip(networks, (fitted.biased_module_, fitted.estimator_.module_), strict=True):
        for wanted, parameter in zip(network.parameters(), module.parameters(), strict=True):
            torch.testing.assert_close(parameter, wanted, rtol=1e-3, atol=1e-4)


def weights_of_failures(average, y, images):
    biased, debiased = (
        [kept[i] / max(value for j, value in kept.items() if y[j] == y[i]) for i in images] for kept in average
    )
    return [b / (b + d) for b, d in zip(biased, debiased, strict=True)]


def test_learning_from_failure_leaves_a_plain_classifier_and_resumes(tmp_path):
    X, y, _ = faces(60)
    kept = clone(BASE).set_params(max_epochs=2, checkpoint_dir=tmp_path)
    fitted = LearningFromFailure(kept).fit(X, y)
    assert isinstance(fitted.estimator_.module_, Net)
    # A plain classifier made of its weights says the same.
    plain = clone(BASE).set_params(max_epochs=0).fit(X, y)
    plain.module_.load_state_dict(fitted.estimator_.module_.state_dict())
    np.testing.assert_array_equal(plain.predict_proba(X), fitted.predict_proba(X))
    assert pickle.loads(pickle.dumps(fitted)).predict_proba(X).tolist() == fitted.predict_proba(X).tolist()
    again = LearningFromFailure(clone(kept)).fit(X, y)
    np.testing.assert_array_equal(again.sample_weight_, fitted.sample_weight_)
    np.testing.assert_array_equal(again.predict_proba(X), fitted.predict_proba(X))
    assert len(list(tmp_path.iterdir())) == 1


def test_features_are_those_of_the_last_layer(original):
    X = faces(5)[0]
    features = last_features(original, X)
    last = original.module_.last
    logits = torch.from_numpy(features).float() @ last.weight.T + last.bias
    np.testing.assert_allclose(logits.softmax(1).detach(), original.predict_proba(X), atol=1e-6)
    assert not last._forward_pre_hooks
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(partial(last_features, original), [X] * 8):
            np.testing.assert_array_equal(found, features)


def test_masktune_hides_the_pixels_that_the_model_used():
    X, y, shortcut = faces(crossed=0)
    fitted = MaskTune(BASE).fit(X, y)
    assert fitted.masks_.shape == (300, 12, 12)
    share = fitted.masks_.mean((1, 2))
    assert 0 < share.max() < 0.5
    # The shortcut is the corner; that is where it looks, in those that have it.
    where = fitted.masks_[shortcut == 1].mean(0)
    assert where[9:, 9:].mean() > 3 * where[:6].mean()
    first = clone(BASE).fit(X, y)
    assert not np.array_equal(fitted.predict_proba(X), first.predict_proba(X))


class Recording(Net):
    seen: ClassVar[list] = []

    def forward(self, images):
        if self.training:
            Recording.seen.append(images.detach().clone())
        return super().forward(images)


def test_masktune_hides_pixels_before_a_transform_of_the_estimators_own_moves_them():
    X, y, _ = faces(60)
    base = clone(BASE).set_params(module=Recording, batch_transform=mirrored, iterator_train__shuffle=False)
    fitted = MaskTune(base).fit(X, y)
    seen = Recording.seen[-1]
    hidden = torch.from_numpy(fitted.masks_[-len(seen) :])
    assert hidden.any()
    assert (seen.flip(-1).sum(1)[hidden] == 0).all()


def test_the_embedding_is_not_correlated_with_the_sensitive_feature(original):
    X, y, shortcut = faces()
    hair = np.array(["blond", "dark", "red"])[np.where(np.arange(300) % 7 == 0, 2, shortcut)]
    frozen = FrozenEstimator(original)
    fitted = EmbeddingCorrelationRemoval(frozen).fit(X, y, sensitive_features=hair)
    plain = fitted.embed(X)
    embedded = fitted.embed(X, sensitive_features=hair)
    for value in ("blond", "dark", "red"):
        assert np.abs(np.cov(plain.T, hair == value)[-1, :-1]).max() > 0.02
        np.testing.assert_allclose(np.cov(embedded.T, hair == value)[-1, :-1], 0, atol=1e-6)
    # Where it is not known nothing is taken; with alpha 0 nothing either, and the new layer is a plain one.
    features = last_features(original, X)
    np.testing.assert_allclose(plain, StandardScaler().fit_transform(features), atol=1e-12)
    untouched = EmbeddingCorrelationRemoval(frozen, alpha=0).fit(X, y, sensitive_features=hair)
    head = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(features, y)
    expected = head.predict_proba(features)
    np.testing.assert_allclose(untouched.predict_proba(X, sensitive_features=hair), expected, atol=1e-6)
    # So too where it is always the same.
    constant = EmbeddingCorrelationRemoval(frozen).fit(X, y, sensitive_features=["dark"] * 300)
    np.testing.assert_allclose(constant.predict_proba(X), expected, atol=1e-6)


def test_the_sensitive_feature_in_prediction_is_checked(original):
    X, y, shortcut = faces(60)
    fitted = EmbeddingCorrelationRemoval(FrozenEstimator(original)).fit(X, y, sensitive_features=shortcut)
    with pytest.raises(ValueError, match=r"sensitive_features should be .* shape \(60,\), one per image, got \(5,\)"):
        fitted.predict(X, sensitive_features=shortcut[:5])
    with pytest.raises(ValueError, match=r"sensitive_features must have the values it had in fit, \[0, 1\], got \{2\}"):
        fitted.predict_proba(X, sensitive_features=shortcut + 1)


def test_the_sensitive_feature_in_prediction_may_be_what_it_was_in_fit(original):
    X, y, shortcut = faces(60)
    frozen = FrozenEstimator(original)
    frame = pd.DataFrame({"square": shortcut, "even": np.arange(60) % 4 < 2})
    for columns in (["square"], ["square", "even"]):
        known = frame[columns]
        fitted = EmbeddingCorrelationRemoval(frozen).fit(X, y, sensitive_features=known)
        told = fitted.predict_proba(X, sensitive_features=known)
        merged = [",".join(map(str, row)) for row in known.to_numpy()]
        plain = EmbeddingCorrelationRemoval(frozen).fit(X, y, sensitive_features=merged)
        np.testing.assert_array_equal(told, plain.predict_proba(X, sensitive_features=merged))


def test_sensitive_features_are_merged_as_fairlearn_merges_them():
    pairs = np.array([["a,b", "c"], ["a", "b,c"], ["a\\", "b"], ["a", "b"], ["a", "b"]])
    merged = check_sensitive(pairs, 5)
    assert merged.tolist() == ["a\\,b,c", "a,b\\,c", "a\\\\,b", "a,b", "a,b"]
    assert len(set(merged)) == 4
    # fairlearn's own, read off what its ThresholdOptimizer keeps by group.
    optimizer = ThresholdOptimizer(estimator=LogisticRegression(), constraints="demographic_parity", prefit=False)
    rows = np.repeat(pairs, 2, axis=0)
    optimizer.set_params(predict_method="predict").fit(np.arange(10)[:, None], [0, 1] * 5, sensitive_features=rows)
    assert set(optimizer.interpolated_thresholder_.interpolation_dict) == set(merged)


def told_of_shortcut(classifier):
    """Return how far from chance the score orders images of one class by their shortcut."""
    X, y, shortcut = faces(400, seed=1, crossed=0.5)
    score = classifier.predict_proba(X)[:, 1]
    return np.mean([abs(roc_auc_score(shortcut[y == label], score[y == label]) - 0.5) for label in (0, 1)])


def test_the_adversary_hides_the_sensitive_feature_from_the_score(original):
    X, y, shortcut = faces()
    fitted = AdversarialLastLayer(FrozenEstimator(original), alpha=3, random_state=0)
    fitted.fit(X, y, sensitive_features=shortcut)
    assert told_of_shortcut(original) > 0.45
    assert told_of_shortcut(fitted) < 0.25
    other = clone(fitted).set_params(random_state=1).fit(X, y, sensitive_features=shortcut)
    assert not np.array_equal(other.predict_proba(X), fitted.predict_proba(X))


@pytest.mark.parametrize("turned", [False, True])
def test_the_adversarys_game_is_played_to_its_end_whichever_label_sorts_first(original, turned):
    X, y, shortcut = faces()
    X_test, y_test, shortcut_test = faces(400, seed=1, crossed=0.5)
    fitted = AdversarialLastLayer(FrozenEstimator(original), random_state=0)
    fitted.fit(X, y ^ turned, sensitive_features=shortcut)
    crossed = y_test != shortcut_test
    assert fitted.score(X, y ^ turned) > 0.95
    assert fitted.score(X_test[crossed], y_test[crossed] ^ turned) > 0.95
    with pytest.raises(ValueError, match=r"labels must be of the classifier's classes, \[0, 1\], got \[2\] too"):
        fitted.fit(X, y + 1, sensitive_features=shortcut)


def test_the_adversary_takes_any_number_of_classes():
    X, y, shortcut = faces()
    X[:100, :, :, :4] //= 2
    words = np.where(np.arange(300) < 100, "left", np.array(["man", "woman"])[y])
    hair = np.array(["blond", "dark", "red"])[np.where(np.arange(300) % 7 == 0, 2, shortcut)]
    fitted = AdversarialLastLayer(BASE, random_state=0).fit(X, words, sensitive_features=hair)
    probability = fitted.predict_proba(X)
    assert probability.shape == (300, 3)
    np.testing.assert_allclose(probability.sum(1), 1)
    assert fitted.score(X, words) > 0.8


@pytest.mark.parametrize("name", ["correlation", "adversary"])
def test_a_retrained_last_layer_pickles_and_leaves_global_random_state_untouched(name):
    X, y, shortcut = faces(60)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    fitted = clone(MITIGATORS[name]).fit(X, y, sensitive_features=shortcut)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.predict_proba(X), fitted.predict_proba(X))


def test_an_empty_cell_stops_only_mitigators_that_need_it():
    X, y, shortcut = faces(200, crossed=0.3)
    has = (y == 0) | (shortcut == 0)  # as in the paper's biased set
    base = clone(BASE).set_params(max_epochs=2)
    mitigators = {
        "original": base,
        "group DRO": GroupDRO(base),
        "correlation": EmbeddingCorrelationRemoval(base),
        "adversary": AdversarialLastLayer(base),
        "thresholds": ThresholdOptimizer(estimator=base, constraints="equalized_odds", predict_method="predict_proba"),
    }
    X_test, y_test, shortcut_test = faces(100, seed=1, crossed=0.5)
    test = Samples(X_test, y_test, shortcut_test, twins=X_test)
    train = Samples(X[has], y[has], shortcut[has])
    reuse = dict.fromkeys(["correlation", "adversary", "thresholds"], "original")
    predictions, trainings = fit_mitigators(mitigators, train, test, reuse=reuse)
    status = trainings.set_index("mitigator")["status"]
    assert (status == "not applicable").to_dict() == {name: name in ("group DRO", "thresholds") for name in mitigators}
    # Who asks for the confounder of the test images is told it: here the twins differ from them in nothing else.
    flipped = predictions.groupby("mitigator")["flipped"].mean()
    assert flipped["correlation"] > 0 == flipped["adversary"] == flipped["original"]
    fitted = EmbeddingCorrelationRemoval(clone(base).set_params(random_state=0))
    fitted.fit(train.X, train.y, sensitive_features=train.confounder)
    expected = fitted.predict_proba(X_test, sensitive_features=shortcut_test)[:, 1]
    scores = predictions.loc[predictions["mitigator"] == "correlation", "score"]
    np.testing.assert_allclose(scores, expected)


@pytest.mark.filterwarnings("ignore:Setting a")  # fairlearn 0.15 with pandas 3
def test_fairlearns_own_mitigators_run_beside():
    X, y, shortcut = faces(200, crossed=0.2)
    base = clone(BASE).set_params(max_epochs=4)
    train = Samples(X, y, shortcut)
    X_test, y_test, shortcut_test = faces(100, seed=1, crossed=0.5)
    twins = X_test.copy()
    twins[shortcut_test == 1, :, 9:, 9:] -= 80
    twins[shortcut_test == 0, :, 9:, 9:] += 80
    mitigators = {
        "original": base,
        "reduction": ExponentiatedGradient(base, EqualizedOdds(), max_iter=3),
        "thresholds": ThresholdOptimizer(estimator=base, constraints="equalized_odds", predict_method="predict_proba"),
    }
    test = Samples(X_test, y_test, shortcut_test, twins=twins)
    predictions, trainings = fit_mitigators(mitigators, train, test)
    assert (trainings["status"] == "done").all(), trainings["reason"].tolist()
    assert predictions["score"].between(0, 1).all()
    assert set(predictions["predicted"]) == {0, 1}
    again, _ = fit_mitigators(mitigators, train, test)
    assert again.equals(predictions)
    # They take 0 and 1 alone; what a class is called makes no difference.
    names = np.array(["no", "yes"])
    called = [replace(samples, y=names[samples.y]) for samples in (train, test)]
    found, trainings = fit_mitigators(mitigators, *called)
    assert (trainings["status"] == "done").all(), trainings["reason"].tolist()
    assert (found["predicted"] == names[predictions["predicted"]]).all()
    np.testing.assert_array_equal(found[["score", "flipped"]], predictions[["score", "flipped"]])
    three = replace(train, y=np.arange(len(train.y)) % 3)
    _, trainings = fit_mitigators({name: mitigators[name] for name in ("original", "thresholds")}, three, three)
    assert trainings["status"].tolist() == ["done", "not applicable"]
    # Where class and shortcut always go together, both say that they cannot.
    biased = Samples(*faces(100, crossed=0))
    _, trainings = fit_mitigators(mitigators, biased, test)
    assert trainings.set_index("mitigator")["status"].to_dict()["thresholds"] == "not applicable"
    assert "Degenerate labels" in trainings["reason"].iloc[2]


def test_fairlearn_plots_the_comparison():
    X, y, shortcut = faces(100, crossed=0.2)
    predicted = clone(BASE).set_params(max_epochs=1).fit(X, y).predict(X)
    ax = plot_model_comparison(
        x_axis_metric=accuracy_score,
        y_axis_metric=equalized_odds_difference,
        y_true=y,
        y_preds={"original": predicted, "truth": y},
        sensitive_features=shortcut,
        ax=Figure().subplots(),
        show_plot=False,
    )
    places = np.concatenate([dots.get_offsets() for dots in ax.collections])
    assert [1.0, 0.0] in places.tolist()

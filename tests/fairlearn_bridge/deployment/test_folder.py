"""Saved models: round trips to the bit, what a folder says, and what is refused."""

import copy
import io
import json
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from fairlearn.metrics import MetricFrame, count
from safetensors.torch import load_file, save, save_file
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score
from sklearn.model_selection import FixedThresholdClassifier
from torch import nn

from captum_region import DenseRegionClassifier, RegionGrid
from fairlearn_bridge import (
    AdversarialLastLayer,
    AttributionNoiseMitigator,
    BalancedResampling,
    EmbeddingCorrelationRemoval,
    ImageClassifier,
    LastLayerRetraining,
    LowSpuriosityRetraining,
    ModelCard,
    Reweighing,
    ThresholdShift,
    load_mitigator,
    save_mitigator,
)
from fairlearn_bridge.deployment.folder import decide
from fairlearn_bridge.deployment.state import kinds

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (72, 3, 12, 16), np.uint8)
Y = RNG.integers(0, 2, 72)
S = np.tile([0, 1, 1], 24)
FILES = ["mitigator.json", "model_card.md", "weights.safetensors"]


class Net(nn.Module):
    def __init__(self, image_shape, num_classes, width=4):
        super().__init__()
        self.conv = nn.Conv2d(image_shape[0], width, 3)
        self.norm = nn.BatchNorm2d(width)
        self.last = nn.Linear(width, num_classes)

    def forward(self, images):
        return self.last(self.norm(self.conv(images)).relu().mean((2, 3)))


class Probabilities(Net):
    def forward(self, images):
        return super().forward(images).softmax(1)


class Masked(nn.Module):
    """A network of rows that its buffer hides from each other, as an attention with a causal mask."""

    def __init__(self, image_shape, num_classes):
        super().__init__()
        self.register_buffer("mask", torch.full((image_shape[1],) * 2, -torch.inf).triu(1))
        self.last = nn.Linear(image_shape[2], num_classes)

    def forward(self, images):
        rows = images.mean(1)
        attention = (rows @ rows.transpose(1, 2) + self.mask).softmax(2)
        return self.last((attention @ rows).mean(1))


def fitted(kind=ImageClassifier, labels=Y, base=None, **parameters):
    base = ImageClassifier(max_epochs=1, batch_size=32, random_state=0) if base is None else base
    if kind is ImageClassifier:
        return base.fit(X, labels)
    if kind in (AttributionNoiseMitigator, LowSpuriosityRetraining):
        regions = DenseRegionClassifier(RegionGrid((12, 16), 4, 4), 2, random_state=0).eval()
        parameters = {"region_classifier": regions, "random_state": 0} | parameters
    needs = {"validation": (X, labels)} if kind is ThresholdShift else {"sensitive_features": S}
    return kind(base, **parameters).fit(X, labels, **needs)


def change(folder, changes, *path):
    """Change what a model's folder says of itself; `path` leads to the part."""
    file = folder / "mitigator.json"
    content = json.loads(file.read_text())
    part = content
    for step in path:
        part = part[step]
    part |= changes
    file.write_text(json.dumps(content))


@pytest.fixture(scope="module")
def classifier():
    return fitted()


@pytest.fixture
def saved(classifier, tmp_path):
    save_mitigator(classifier, tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("kind", [ImageClassifier, *kinds().values()], ids=lambda kind: kind.__name__)
def test_every_mitigator_predicts_after_a_round_trip_as_before(kind, tmp_path):
    estimator = fitted(kind)
    save_mitigator(estimator, tmp_path / "deep" / "model")
    loaded = load_mitigator(tmp_path / "deep" / "model")
    assert type(loaded) is kind
    assert np.array_equal(loaded.predict_proba(X), estimator.predict_proba(X))
    assert np.array_equal(loaded.predict(X), estimator.predict(X))
    assert np.array_equal(decide(loaded, loaded.predict_proba(X)), estimator.predict(X))
    assert np.array_equal(loaded.classes_, estimator.classes_)
    assert sorted(file.name for file in (tmp_path / "deep" / "model").iterdir()) == FILES
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["model"]
    save_mitigator(loaded, tmp_path / "again")  # what was loaded can be kept too
    first, second = (
        load_file(folder / "weights.safetensors") for folder in (tmp_path / "deep" / "model", tmp_path / "again")
    )
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    "labels",
    [
        Y.astype(bool),
        Y.astype(np.int8) - 1,
        np.array(["ä <b>", "no"])[Y],
        np.array(["a", "b"], object)[Y],
        Y / 1,
        np.arange(72) % 3,
    ],
    ids=["bool", "int8", "str", "object", "float", "three"],
)
def test_classes_keep_values_and_type(labels, tmp_path):
    estimator = fitted(labels=labels)
    save_mitigator(estimator, tmp_path / "model")
    loaded = load_mitigator(tmp_path / "model")
    assert loaded.classes_.dtype == estimator.classes_.dtype
    assert loaded.predict(X).tolist() == estimator.predict(X).tolist()
    assert loaded.class_counts_.tolist() == np.unique(labels, return_counts=True)[1].tolist()


def test_classes_in_another_order_stay_so(tmp_path):
    estimator = ImageClassifier(max_epochs=1, classes=np.array([1, 0]), random_state=0).fit(X, Y)
    save_mitigator(estimator, tmp_path / "model")
    assert load_mitigator(tmp_path / "model").predict(X).tolist() == estimator.predict(X).tolist()


@pytest.mark.parametrize("scheme", ["general_mask", "general_noise"])
def test_a_mitigator_that_perturbs_in_prediction_does_so_after_loading(scheme, tmp_path):
    estimator = fitted(AttributionNoiseMitigator, scheme=scheme, apply_at_predict=True)
    save_mitigator(estimator, tmp_path / "model")
    loaded = load_mitigator(tmp_path / "model")
    assert np.array_equal(loaded.predict_proba(X), estimator.predict_proba(X))
    assert not np.array_equal(loaded.estimator_.predict_proba(X), estimator.predict_proba(X))
    assert np.array_equal(loaded.region_map_, estimator.region_map_)
    keeps = {"perturbation": lambda images, mask, generator: images, "apply_at_predict": True}
    own = fitted(AttributionNoiseMitigator, scheme=scheme, **keeps)
    with pytest.raises(TypeError, match="a function is not"):
        save_mitigator(own, tmp_path / "own")


def test_sensitive_features_work_in_prediction_after_loading(tmp_path):
    estimator = fitted(EmbeddingCorrelationRemoval, alpha=0.5, C=0.3)
    save_mitigator(estimator, tmp_path / "model")
    loaded = load_mitigator(tmp_path / "model")
    expected = estimator.predict_proba(X, sensitive_features=S)
    assert np.array_equal(loaded.predict_proba(X, sensitive_features=S), expected)
    assert not np.array_equal(loaded.predict_proba(X), expected)
    assert (loaded.alpha, loaded.C) == (0.5, 0.3)


def test_three_classes_and_retrained_heads(tmp_path):
    for kind in (LastLayerRetraining, AdversarialLastLayer):
        estimator = fitted(kind, labels=np.arange(72) % 3, random_state=1) if kind is AdversarialLastLayer else None
        estimator = estimator or kind(ImageClassifier(max_epochs=1, random_state=0), draws=2, random_state=0).fit(
            X, np.arange(72) % 3, sensitive_features=np.arange(72) // 36
        )
        save_mitigator(estimator, tmp_path / "model")
        assert np.array_equal(load_mitigator(tmp_path / "model").predict_proba(X), estimator.predict_proba(X))


def test_rows_are_scaled_after_loading_as_before(tmp_path):
    rows = pd.DataFrame(RNG.normal(3, 9, (72, 6)).astype(np.float32), columns=list("abcdef"))
    estimator = ImageClassifier(max_epochs=1, random_state=0).fit(rows, Y)
    save_mitigator(estimator, tmp_path / "model")
    loaded = load_mitigator(tmp_path / "model")
    assert np.array_equal(loaded.predict_proba(rows), estimator.predict_proba(rows))
    assert loaded.feature_names_in_.tolist() == list("abcdef")
    with pytest.raises(ValueError, match="feature names"):
        loaded.predict(rows[list("bacdef")])


def test_the_threshold_of_scikit_learns_classifier_is_kept(classifier, tmp_path):
    middle = float(np.median(classifier.predict_proba(X)[:, 0]))
    for positive in (0, classifier.classes_[1]):  # as a user may name it
        threshold = middle if positive == 0 else 1 - middle
        options = {"pos_label": positive, "response_method": "predict_proba"}
        estimator = FixedThresholdClassifier(FrozenEstimator(classifier), threshold=threshold, **options)
        save_mitigator(estimator, tmp_path / "model")
        loaded = load_mitigator(tmp_path / "model")
        assert loaded.predict(X).tolist() == estimator.predict(X).tolist()
        assert decide(loaded, loaded.predict_proba(X)).tolist() == estimator.predict(X).tolist()
        assert {*loaded.predict(X).tolist()} == {0, 1}


@pytest.mark.parametrize(
    ("labels", "parameters", "words"),
    [
        (Y, {"pos_label": "zz"}, r"pos_label must be one of \[0, 1\], got 'zz'"),
        (np.arange(72) % 3, {}, r"estimator must have two classes for its threshold, got 3: \[0, 1, 2\]"),
        (np.arange(72) % 3, {"pos_label": 1}, "estimator must have two classes"),
        (Y, {"threshold": np.array(0.3)}, r"threshold must be a number or 'auto', got array\(0.3\)"),
        (Y, {"response_method": "decision_function"}, "response_method must be 'predict_proba' or 'auto'"),
    ],
)
def test_a_threshold_that_cannot_predict_is_refused(labels, parameters, words, tmp_path):
    estimator = FixedThresholdClassifier(FrozenEstimator(fitted(labels=labels)), **{"threshold": 0.3} | parameters)
    for each in (estimator, FrozenEstimator(estimator)):
        with pytest.raises(ValueError, match=words):
            save_mitigator(each, tmp_path / "model")
    assert [*tmp_path.iterdir()] == []


def test_a_frozen_threshold_is_kept(classifier, tmp_path):
    probabilities = classifier.predict_proba(X)[:, 1]
    options = {"threshold": float(np.quantile(probabilities, 0.9)), "pos_label": 1, "response_method": "predict_proba"}
    shifted = ThresholdShift(FrozenEstimator(classifier)).fit(X, Y, validation=(X, Y))
    for estimator, threshold in (
        (FixedThresholdClassifier(FrozenEstimator(classifier), **options), options["threshold"]),
        (shifted, shifted.threshold_),
    ):
        frozen = FrozenEstimator(FrozenEstimator(estimator))
        save_mitigator(frozen, tmp_path / "model")
        description = json.loads((tmp_path / "model" / "mitigator.json").read_text())
        assert (description["threshold"], description["positive_class"]) == (threshold, 1)
        card = (tmp_path / "model" / "model_card.md").read_text()
        assert f"It predicts 1 from a probability of {threshold:.4g} on." in card
        predicted = frozen.predict(X)
        assert predicted.tolist() == decide(frozen, frozen.predict_proba(X)).tolist()
        assert predicted.tolist() != classifier.predict(X).tolist()
        assert predicted.tolist() == load_mitigator(tmp_path / "model").predict(X).tolist()


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # of torch.compile
@pytest.mark.parametrize(
    "parameters", [{}, {"module": Net}, {"module": Probabilities, "criterion": nn.NLLLoss}], ids=["ours", "own", "NLL"]
)
def test_a_compiled_network_is_saved_as_it_was_before(parameters, tmp_path):
    # The backend needs no compiler of C, which not every machine has.
    parameters = parameters | {"compile": True, "compile__backend": "eager"}
    estimator = ImageClassifier(**parameters, max_epochs=1, random_state=0).fit(X, Y)
    save_mitigator(estimator, tmp_path / "model")
    module = parameters.get("module")
    description = json.loads((tmp_path / "model" / "mitigator.json").read_text())
    assert description["network"] == ("SmallCNN" if module is None else module.__name__)
    # The one who loads it may have compiled it, too.
    for given in [None] if module is None else [module, torch.compile(module((3, 12, 16), 2), backend="eager")]:
        loaded = load_mitigator(tmp_path / "model", given)
        assert np.array_equal(loaded.predict_proba(X), estimator.predict_proba(X))


def test_buffers_may_be_infinite_and_parameters_may_not(tmp_path):
    estimator = ImageClassifier(Masked, max_epochs=1, random_state=0).fit(X, Y)
    save_mitigator(estimator, tmp_path / "model")
    loaded = load_mitigator(tmp_path / "model", Masked)
    assert bool(loaded.module_.mask.isinf().any())
    assert np.array_equal(loaded.predict_proba(X), estimator.predict_proba(X))
    weights = load_file(tmp_path / "model" / "weights.safetensors")
    for name, value in (("last.bias", torch.inf), ("last.bias", torch.nan), ("mask", torch.nan)):
        damaged = {key: item * value if key.endswith(name) else item for key, item in weights.items()}
        save_file(damaged, tmp_path / "model" / "weights.safetensors")
        with pytest.raises(ValueError, match=f"cannot be loaded: {name} holds values that are not finite"):
            load_mitigator(tmp_path / "model", Masked)


def test_weights_that_could_not_be_loaded_are_not_saved(tmp_path):
    estimator = ImageClassifier(Masked, max_epochs=1, random_state=0).fit(X, Y)
    for part, value in (("last.bias", torch.inf), ("mask", torch.nan)):
        broken = copy.deepcopy(estimator)
        broken.module_.state_dict()[part].fill_(value)
        with pytest.raises(ValueError, match=rf"estimator\.module_\.{part} holds values that are not finite"):
            save_mitigator(broken, tmp_path / "model")
    retrained = fitted(AdversarialLastLayer)
    nn.init.constant_(retrained.head_.bias, torch.nan)
    with pytest.raises(ValueError, match=r"estimator\.head_\.bias holds values that are not finite"):
        save_mitigator(retrained, tmp_path / "model")
    assert [*tmp_path.iterdir()] == []


def test_a_network_of_ones_own_is_given_again(tmp_path):
    base = ImageClassifier(Net, module__width=6, max_epochs=1, criterion=nn.NLLLoss, random_state=0)
    estimator = fitted(Reweighing, base=base.set_params(criterion=nn.CrossEntropyLoss))
    save_mitigator(estimator, tmp_path / "model")
    with pytest.raises(ValueError, match=r"module must be given, .*Net"):
        load_mitigator(tmp_path / "model")
    for module in (Net((3, 12, 16), 2, 6), lambda num_classes: Net((3, 12, 16), num_classes, 6)):
        loaded = load_mitigator(tmp_path / "model", module)
        assert np.array_equal(loaded.predict_proba(X), estimator.predict_proba(X))
    for module in (Net, Net((3, 12, 16), 2, 6).half(), nn.Linear(3, 2)):  # too narrow, of lower precision, another
        with pytest.raises(ValueError, match="cannot be loaded"):
            load_mitigator(tmp_path / "model", module)


def test_a_network_that_gives_probabilities_does_so_after_loading(tmp_path):
    network = nn.Sequential(nn.Flatten(), nn.Linear(576, 2), nn.Softmax(1))
    estimator = ImageClassifier(network, criterion=nn.NLLLoss, max_epochs=1, random_state=0).fit(X, Y)
    save_mitigator(estimator, tmp_path / "model")
    assert np.array_equal(load_mitigator(tmp_path / "model", network).predict_proba(X), estimator.predict_proba(X))


def test_a_loaded_mitigator_can_be_trained_anew(tmp_path):
    estimator = fitted(Reweighing)
    save_mitigator(estimator, tmp_path / "model")
    again = clone(load_mitigator(tmp_path / "model")).fit(X, Y, sensitive_features=S)
    assert np.array_equal(again.predict_proba(X), estimator.predict_proba(X))


def test_a_loaded_classifier_keeps_the_shape_that_rows_have(tmp_path):
    rows = X.reshape(len(X), -1)
    estimator = ImageClassifier(image_shape=X.shape[1:], max_epochs=1, random_state=0).fit(rows, Y)
    save_mitigator(estimator, tmp_path / "model")
    again = clone(load_mitigator(tmp_path / "model")).fit(rows, Y)
    assert np.array_equal(again.predict_proba(rows), estimator.predict_proba(rows))


def test_the_card_says_what_is_known(classifier, tmp_path):
    table = pd.DataFrame(
        {"accuracy": [0.9, 0.625], "images": [400, 40]}, index=pd.MultiIndex.from_tuples([("a", 1), ("<i>", "x|y")])
    )
    card = ModelCard("Smiles", "Faces of 2023.", pd.crosstab(Y, S), "Faces of 2024.", table, ["It fails at night."])
    save_mitigator(classifier, tmp_path / "model", card=card)
    text = (tmp_path / "model" / "model_card.md").read_text()
    for words in ("# Smiles", "Faces of 2023.", "Faces of 2024.", "- It fails at night.", "on 72 images", "12 x 16"):
        assert words in text
    assert "The lowest accuracy of a group is 0.62, for \\<i\\>, x\\|y" in text
    assert "| \\<i\\>, x\\|y | 0.625 | 40 |" in text
    save_mitigator(classifier, tmp_path / "model")
    assert "Nothing was measured" in (tmp_path / "model" / "model_card.md").read_text()


def test_the_card_takes_what_fairlearn_and_pandas_give(classifier, tmp_path):
    groups = pd.Series(np.where(S, "women", "men"), name="sex")
    predicted = classifier.predict(X)
    measured = {"y_true": Y, "y_pred": predicted, "sensitive_features": groups}
    several = MetricFrame(metrics={"accuracy": accuracy_score, "images": count}, **measured)
    one = MetricFrame(metrics=accuracy_score, **measured)
    counts = pd.DataFrame({"class": Y, "sex": groups}).value_counts(["class", "sex"])
    low, high = one.by_group.sort_values()
    words = f"The lowest accuracy of a group is {low:.2f}, for {one.by_group.idxmin()}; the highest is {high:.2f}"
    for table, head in ((several.by_group, "accuracy | images"), (one.by_group, "accuracy\\_score")):
        save_mitigator(classifier, tmp_path / "model", card=ModelCard(measurements=table, cells=counts))
        text = (tmp_path / "model" / "model_card.md").read_text()
        assert words in text
        assert f"| sex | {head} |" in text
        assert f"| men | {one.by_group['men']:.3f} |" in text or f"| men | {one.by_group['men']:.3f} | 24 |" in text
        assert "| class / sex | count |" in text
        assert f"| 1, women | {counts[1, 'women']} |" in text
    card = ModelCard(cells=counts.rename(None), measurements=one.by_group.rename("error"))
    save_mitigator(classifier, tmp_path / "model", card=card)
    text = (tmp_path / "model" / "model_card.md").read_text()
    assert "| class / sex | images |" in text
    assert "| sex | error |" in text
    assert "The lowest accuracy" not in text


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"limits": "Faces in profile."}, TypeError, "limits must be a list of sentences, got 'Faces in profile.'"),
        ({"limits": None}, TypeError, "limits must be a list of sentences, got None"),
        ({"limits": [1]}, TypeError, r"limits must be a list of sentences, got \[1\]"),
        ({"title": None}, TypeError, "title must be text, got NoneType"),
        ({"trained_on": ["Faces."]}, TypeError, "trained_on must be text, got list"),
        ({"measured_on": 2024}, TypeError, "measured_on must be text, got int"),
        ({"cells": {"a": 3}}, TypeError, "cells must be a DataFrame or a Series, got dict"),
        ({"measurements": [0.9, 0.8]}, TypeError, "measurements must be a DataFrame or a Series, got list"),
        ({"measurements": pd.Series([0.9, 0.8])}, ValueError, "measurements must be .* a Series with a name"),
        (
            {"measurements": pd.DataFrame([[0.9, 0.8]], columns=[["accuracy"] * 2, ["mean", "low"]])},
            ValueError,
            r"measurements must have the accuracy in one column of numbers, got .*\('accuracy', 'mean'\)",
        ),
        (
            {"measurements": pd.DataFrame({"accuracy": ["91 %", "80 %"]})},
            ValueError,
            "measurements must have the accuracy in one column of numbers, got {'accuracy': '(str|object)'}",
        ),
    ],
)
def test_a_card_that_could_not_be_written_is_refused_when_it_is_made(options, error, words):
    with pytest.raises(error, match=words):
        ModelCard(**options)


def test_what_is_no_card_is_refused_before_anything_is_written(classifier, tmp_path):
    for card in ({"title": "x"}, "Smiles", {}):
        with pytest.raises(TypeError, match=f"card must be a ModelCard, got {type(card).__name__}"):
            save_mitigator(classifier, tmp_path / "model", card=card)
    assert [*tmp_path.iterdir()] == []


def test_the_card_says_of_resampled_images_that_they_were_drawn(tmp_path):
    fitted = BalancedResampling(ImageClassifier(max_epochs=1, random_state=0), random_state=0)
    save_mitigator(fitted.fit(X, Y, sensitive_features=S), tmp_path / "model")
    text = (tmp_path / "model" / "model_card.md").read_text()
    assert f"trained on {len(fitted.sample_indices_)} drawn images" in text
    assert "| class | training drawn images |" in text


def test_what_cannot_be_saved_is_refused(classifier, tmp_path):
    for estimator in (LogisticRegression(), nn.Linear(2, 2), FrozenEstimator(LogisticRegression()), None):
        with pytest.raises(TypeError, match="must"):
            save_mitigator(estimator, tmp_path / "model")
    for estimator in (ImageClassifier(), Reweighing(ImageClassifier())):
        with pytest.raises(NotFittedError):
            save_mitigator(estimator, tmp_path / "model")
    assert not (tmp_path / "model").exists()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="other files"):
        save_mitigator(classifier, tmp_path / "model")
    assert [file.name for file in (tmp_path / "model").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("changes", "path", "words"),
    [
        *(({"format": value}, (), "this package reads version 1") for value in (2, None, True, "1")),
        *(({"estimator": value}, (), "cannot be loaded") for value in (None, 3, [], {}, {"kind": "os.system"})),
        *(({"kind": value}, ("estimator",), "cannot be loaded") for value in (None, ["x"], "Popen", "StandardScaler")),
        *(({"name": value}, ("estimator", "network"), "cannot be loaded") for value in (None, [], "nn.Linear")),
        ({"own": True}, ("estimator", "network"), "module must be given"),
        ({"criterion": "Module"}, ("estimator",), "criterion must be"),
        ({"weights": "x"}, ("estimator",), "does not hold"),
        ({"predict_nonlinearity": "exp"}, ("estimator", "params"), "predict_nonlinearity"),
        ({"batch_size": -3}, ("estimator", "params"), "cannot be loaded"),
        ({"image_shape_": {"tuple": [3, 10**6, 10**6]}}, ("estimator", "fitted"), "must have shape"),
        ({"image_shape_": {"tuple": [3, 12, 1.5]}}, ("estimator", "fitted"), "must be \\(channels"),
        ({"image_shape_": [3, 12, 16]}, ("estimator", "fitted"), "cannot be loaded"),
        ({"predict": 3}, ("estimator", "fitted"), "has no fitted"),
        ({"labels": [0, 0]}, ("estimator", "fitted", "classes_inferred_"), "two different"),
        ({"labels": [0, 1, 2]}, ("estimator", "fitted", "classes_inferred_"), "must have shape"),
        ({"dtype": "U1000000000"}, ("estimator", "fitted", "classes_inferred_"), "cannot be loaded"),
    ],
)  # fmt: skip
def test_a_folder_that_lies_is_refused(saved, changes, path, words):
    change(saved, changes, *path)
    with pytest.raises(ValueError, match=words) as refusal:
        load_mitigator(saved)
    assert str(saved) in str(refusal.value)


def test_fitted_values_cannot_replace_methods(tmp_path):
    save_mitigator(fitted(LastLayerRetraining), tmp_path / "model")
    change(tmp_path / "model", {"predict_proba": 3}, "estimator", "fitted")
    with pytest.raises(ValueError, match="end in _"):
        load_mitigator(tmp_path / "model")


def test_heads_that_do_not_fit_the_network_are_refused(tmp_path):
    save_mitigator(fitted(AdversarialLastLayer), tmp_path / "model")
    weights = load_file(tmp_path / "model" / "weights.safetensors")
    weights["estimator.head_.weight"] = weights["estimator.head_.weight"][:, 1:].contiguous()
    save_file(weights, tmp_path / "model" / "weights.safetensors")
    with pytest.raises(ValueError, match="cannot be loaded"):
        load_mitigator(tmp_path / "model")


def test_damaged_files_are_named(saved, trap):
    weights = saved / "weights.safetensors"
    whole, named = weights.read_bytes(), load_file(weights)
    name = "estimator.module_.layers.0.bias"
    pickled = io.BytesIO()
    torch.save(trap, pickled)
    for content in (
        b"",
        whole[:-1],
        whole[:50],
        b"\xff" * 100,
        pickle.dumps(trap),
        pickled.getvalue(),
        save({**named, name: named[name] * torch.nan}),
        save({**named, name: named[name].double()}),
        save({**named, "estimator.module_.more": torch.zeros(1)}),
        save({key: value for key, value in named.items() if key != name}),
    ):
        weights.write_bytes(content)
        with pytest.raises(ValueError, match="cannot be loaded"):
            load_mitigator(saved)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match="weights"):
        load_mitigator(saved)
    (saved / "mitigator.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        load_mitigator(saved)


def test_a_network_that_is_not_needed_is_refused(saved):
    with pytest.raises(ValueError, match="module must be left out"):
        load_mitigator(saved, Net)

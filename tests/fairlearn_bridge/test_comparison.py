"""Comparisons: every mitigator is trained and measured in the same way, and what ends or fails is told."""

import importlib
import os
import resource
import shutil
import signal
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from fairlearn.postprocessing import ThresholdOptimizer
from fairlearn.reductions import EqualizedOdds, ExponentiatedGradient
from sklearn.base import BaseEstimator, ClassifierMixin, clone

from captum_region import DenseRegionClassifier, RegionGrid
from captum_region.datasets import make_faces
from captum_region.io.provenance import git_state
from fairlearn_bridge import (
    AttributionNoiseMitigator,
    EmbeddingCorrelationRemoval,
    ImageClassifier,
    LastLayerRetraining,
    NotApplicableError,
    Reweighing,
    Samples,
    ThresholdShift,
    compare_mitigators,
    fit_mitigators,
    load_mitigator,
    pareto_front,
    signed_gap,
)
from fairlearn_bridge.validation import positions_in


class Threshold(ClassifierMixin, BaseEstimator):
    """Predicts from the mean brightness; records what fit was given."""

    def __init__(self, random_state=None):
        self.random_state = random_state

    def fit(self, X, y, *, sensitive_features, extra=None):
        self.classes_ = np.unique(y)
        self.given_ = (len(X), extra)
        self.seen_ = np.asarray(sensitive_features)
        return self

    def predict_proba(self, X):
        score = X.mean((1, 2, 3)) / 255 + self.random_state / 1000
        return np.stack([1 - score, score], 1)

    def predict(self, X):
        return self.predict_proba(X)[:, 1] > 0.5


def test_mitigators_are_fitted_predicted_and_summarised():
    rng = np.random.default_rng(0)
    target, confounder = rng.random(80) < 0.5, rng.random(80) < 0.5
    X = np.where(target, 200, 50).astype(np.uint8)[:, None, None, None] * np.ones((1, 3, 4, 4), np.uint8)
    samples = Samples(X, target, confounder, twins=255 - X)
    mitigators = {"one": Threshold(), "two": Threshold()}
    predictions, trainings = fit_mitigators(
        mitigators,
        samples,
        samples,
        train_on={"two": Samples(X[:40], target[:40], confounder[:40])},
        random_states=(0, 3),
    )
    assert len(predictions) == 2 * 2 * 80
    assert list(trainings["mitigator"]) == ["one", "two"] * 2
    assert (predictions["predicted"] == predictions["target"]).all()
    assert predictions["flipped"].all()
    assert (
        (predictions.query("seed == 3")["score"] - predictions.query("seed == 0")["score"].to_numpy())
        .round(6)
        .eq(0.003)
        .all()
    )
    table = compare_mitigators(mitigators, samples, samples, n_bootstrap=10, fit_params={"extra": 1})
    assert table.loc["one", ("worst_cell", "mean")] == 1
    assert table.loc["one", ("flip_rate", "mean")] == 1
    assert list(table.index) == ["one", "two"]
    with pytest.raises(ValueError, match="mitigators must be given"):
        fit_mitigators({}, samples, samples)
    with pytest.raises(ValueError, match="train_on"):
        fit_mitigators(mitigators, samples, samples, train_on={"three": samples})


class Opposite(ClassifierMixin, BaseEstimator):
    """Predicts the opposite of another classifier."""

    def __init__(self, estimator):
        self.estimator = estimator

    def fit(self, X, y):
        self.estimator_ = clone(self.estimator).fit(X, y)
        return self

    def predict_proba(self, X):
        return self.estimator_.predict_proba(X)[:, ::-1]

    def predict(self, X):
        return ~self.estimator_.predict(X)


def test_losses_are_of_the_own_training():
    rng = np.random.default_rng(0)
    samples = Samples(rng.integers(0, 256, (40, 3, 8, 8), np.uint8), np.arange(40) % 2, np.arange(40) // 2 % 2)
    base = ImageClassifier(max_epochs=2, batch_size=16)
    regions = DenseRegionClassifier(RegionGrid(8, 4, 4), 2, width=4, random_state=0)
    mitigators = {
        "original": base,
        "last_layer": LastLayerRetraining(base),
        "nested": AttributionNoiseMitigator(Reweighing(base), region_classifier=regions),
    }
    _, trainings = fit_mitigators(mitigators, samples, samples, reuse={"last_layer": "original"}, random_states=(0,))
    lengths = trainings.set_index("mitigator")["losses"].map(len)
    assert lengths.to_dict() == {"original": 2, "last_layer": 0, "nested": 2}


def test_reuse_trains_the_shared_estimator_once():
    X = np.repeat(np.uint8([0, 255, 0, 255]), 12).reshape(4, 3, 2, 2)
    samples = Samples(X, np.array([False, True] * 2), np.array([False, False, True, True]))
    # Untrained, the frozen classifier would fail: its fit wants sensitive_features, which Opposite does not give.
    mitigators = {"opposite": Opposite(Threshold()), "plain": Threshold()}
    predictions, trainings = fit_mitigators(
        mitigators, samples, samples, reuse={"opposite": "plain"}, random_states=(0, 1)
    )
    assert list(trainings["mitigator"]) == ["opposite", "plain"] * 2
    right = (predictions["predicted"] == predictions["target"]).groupby(predictions["mitigator"]).mean()
    assert right.to_dict() == {"opposite": 0, "plain": 1}
    with pytest.raises(ValueError, match="reuse"):
        fit_mitigators(mitigators, samples, samples, reuse={"opposite": "unknown"})
    with pytest.raises(ValueError, match="train_on must be of mitigators that reuse no other, got opposite"):
        fit_mitigators(mitigators, samples, samples, reuse={"opposite": "plain"}, train_on={"opposite": samples})
    with pytest.raises(ValueError, match="fit_params must be accepted by a mitigator's fit, none takes sample_wieght"):
        fit_mitigators(mitigators, samples, samples, fit_params={"sample_wieght": np.ones(len(samples.y))})


class Hard(ClassifierMixin, BaseEstimator):
    """Predicts, but says no probability."""

    def fit(self, X, y):
        raise AssertionError("it is trained")

    def predict(self, X):
        return np.zeros(len(X))


def test_a_mitigator_without_probabilities_is_not_trained(squares):
    _, trainings = fit_mitigators({"plain": Threshold(), "hard": Hard()}, squares, squares)
    assert trainings["status"].tolist() == ["done", "failed"]
    assert trainings["reason"][1] == "TypeError: Hard has no predict_proba, which the AUC is computed from"


def test_samples_of_unequal_lengths_are_refused():
    X = np.zeros((3, 1, 2, 2), np.uint8)
    with pytest.raises(ValueError, match=r"confounder must have shape \(3,\)"):
        Samples(X, [0, 1, 1], [0, 1])
    with pytest.raises(ValueError, match="twins"):
        Samples(X, [0, 1, 1], [0, 1, 0], twins=X[:2])
    for name, given in (("X", {"X": X.tolist()}), ("twins", {"X": X, "twins": X.tolist()})):
        with pytest.raises(TypeError, match=f"{name} must be an array or Tensor, got list"):
            Samples(**given, y=[0, 1, 1], confounder=[0, 1, 0])
    for name in ("y", "confounder", "groups"):
        labels = {"y": [0, 1, 1], "confounder": [0, 1, 0], "groups": ["a", "b", "b"]}
        with pytest.raises(ValueError, match=f"{name} must not have missing values, got 1 missing"):
            Samples(X, **labels | {name: [0, None, 1]})
    with pytest.raises(ValueError, match="two groups"):
        signed_gap([0, 1], [0, 1], sensitive_features=["a", "a"])


class Counts(Threshold):
    """Notes each training in a file, and fails or is stopped where it is told to."""

    def __init__(self, log, stop=None, random_state=None):
        super().__init__(random_state)
        self.log = log
        self.stop = stop

    def fit(self, X, y, *, sensitive_features):
        with self.log.open("a") as file:
            file.write(f"{self.random_state} ")
        if self.stop is not None and self.stop.exists() and self.random_state == 1:
            raise {"interrupt": KeyboardInterrupt, "full": OSError(28, "No space left"), "fail": KeyError("a")}[
                self.stop.read_text()
            ]
        return super().fit(X, y, sensitive_features=sensitive_features)


def test_a_stopped_comparison_resumes(tmp_path):
    rng = np.random.default_rng(0)
    target, confounder = rng.random(40) < 0.5, rng.random(40) < 0.5
    X = np.where(target, 200, 50).astype(np.uint8)[:, None, None, None] * np.ones((1, 3, 4, 4), np.uint8)
    samples = Samples(X, target, confounder)
    log, stop = tmp_path / "log", tmp_path / "stop"
    mitigators = {"a": Counts(log, stop)}
    options = {"random_states": (0, 1, 2), "checkpoint_dir": tmp_path / "kept"}
    stop.write_text("interrupt")
    with pytest.raises(KeyboardInterrupt):
        fit_mitigators(mitigators, samples, samples, **options)
    assert log.read_text() == "0 1 "
    stop.write_text("full")
    with pytest.raises(OSError, match="No space left"):
        fit_mitigators(mitigators, samples, samples, **options)
    assert log.read_text() == "0 1 1 "  # the first was kept
    stop.write_text("fail")
    predictions, trainings = fit_mitigators(mitigators, samples, samples, **options)
    assert log.read_text() == "0 1 1 1 2 "
    assert list(trainings["status"]) == ["done", "failed", "done"]
    stop.unlink()
    predictions, trainings = fit_mitigators(mitigators, samples, samples, **options)
    assert log.read_text() == "0 1 1 1 2 1 "  # what failed is tried again, and only that
    fresh, _ = fit_mitigators(mitigators, samples, samples, random_states=(0, 1, 2))
    pd.testing.assert_frame_equal(predictions, fresh)
    # Other data are other trainings.
    changed = Samples(255 - X, target, confounder)
    fit_mitigators(mitigators, changed, samples, **options)
    assert log.read_text().split()[-3:] == ["0", "1", "2"]
    assert len(log.read_text().split()) == 6 + 3 + 3


OWN = """
from fairlearn_bridge import Reweighing

class Mine(Reweighing):
    def predict_proba(self, X):
        p = super().predict_proba(X)
        p[:, 0], p[:, 1] = 0.0, 1.0
        return p
"""


def test_a_mitigator_of_ones_own_whose_code_has_changed_is_trained_again(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    target, confounder = np.arange(40) % 2 == 1, np.arange(40) % 4 > 1
    samples = Samples(np.zeros((40, 3, 4, 4), np.uint8), target, confounder)
    predicted = []
    for code in (OWN, OWN, OWN.replace("0.0, 1.0", "1.0, 0.0")):
        shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
        (tmp_path / "mine.py").write_text(code)
        monkeypatch.delitem(sys.modules, "mine", raising=False)
        importlib.invalidate_caches()
        mine = importlib.import_module("mine").Mine(ImageClassifier(max_epochs=1))
        found, _ = fit_mitigators({"mine": mine}, samples, samples, checkpoint_dir=tmp_path / "kept")
        predicted.append(set(found["score"]))
    assert predicted == [{1.0}, {1.0}, {0.0}]
    assert len(list((tmp_path / "kept").glob("*.pt"))) == 2


def test_the_commit_of_a_training_is_kept_with_it(tmp_path, made_at):
    samples = Samples(np.zeros((4, 3, 2, 2), np.uint8), np.arange(4) > 1, np.arange(4) % 2)
    options = {"checkpoint_dir": tmp_path / "kept"}
    _, trainings = fit_mitigators({"a": Counts(tmp_path / "log")}, samples, samples, **options)
    assert list(trainings["git"]) == [git_state()]
    (file,) = (tmp_path / "kept").iterdir()
    made_at(file, "0123")
    _, trainings = fit_mitigators({"a": Counts(tmp_path / "log")}, samples, samples, random_states=(0, 1), **options)
    assert trainings["git"].astype(object).where(trainings["git"].notna(), None).tolist() == ["0123", git_state()]


def test_models_are_saved_as_they_were_measured_and_made_again_where_they_are_missing(tmp_path, squares, written):
    base = ImageClassifier(max_epochs=2)
    mitigators = {"original": base, "reweighing": Reweighing(base)}
    places = {name: tmp_path / "models" / name for name in mitigators}
    options = {"checkpoint_dir": tmp_path / "kept", "models": places, "random_states": (4,)}
    found, _ = fit_mitigators(mitigators, squares, squares, **options)
    for name, of_one in found.groupby("mitigator"):
        model = load_mitigator(places[name])
        np.testing.assert_array_equal(model.predict_proba(squares.X)[:, 1], of_one["score"])
    kept = written(places["original"] / "weights.safetensors")
    shutil.rmtree(places["reweighing"])
    again, _ = fit_mitigators(mitigators, squares, squares, **options)
    pd.testing.assert_frame_equal(again, found)
    assert (places["reweighing"] / "weights.safetensors").exists()
    assert written(places["original"] / "weights.safetensors") == kept
    # What was kept without a model is trained again where one is wanted.
    fit_mitigators(mitigators, squares, squares, checkpoint_dir=tmp_path / "without", random_states=(4,))
    others = {name: tmp_path / "others" / name for name in mitigators}
    fit_mitigators(mitigators, squares, squares, checkpoint_dir=tmp_path / "without", models=others, random_states=(4,))
    assert all((place / "weights.safetensors").exists() for place in others.values())
    # The folders got models of another training: those of this one are made again.
    fit_mitigators(mitigators, squares, squares, **options | {"random_states": (5,)})
    again, _ = fit_mitigators(mitigators, squares, squares, **options)
    pd.testing.assert_frame_equal(again, found)
    for name, of_one in found.groupby("mitigator"):
        np.testing.assert_array_equal(load_mitigator(places[name]).predict_proba(squares.X)[:, 1], of_one["score"])
    with pytest.raises(ValueError, match=r"random_states must be one where models are saved, got \[0, 1\]"):
        fit_mitigators(mitigators, squares, squares, models=places, random_states=(0, 1))
    with pytest.raises(ValueError, match="train_on, reuse and models, got"):
        fit_mitigators(mitigators, squares, squares, models={"other": tmp_path})


def with_labels(y, confounder=(0, 1, 0, 1)):
    return Samples(np.zeros((4, 3, 2, 2), np.uint8), y, confounder)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"reference": "b"}, ValueError, "reference must be one of a, c, got 'b'"),
        ({"confidence_level": 95}, ValueError, r"confidence_level must be a number in \(0, 1\), got 95"),
        ({"n_bootstrap": 0}, ValueError, "n_bootstrap must be an integer of at least 1, got 0"),
        ({"n_bootstrap": 100.0}, ValueError, "n_bootstrap must be an integer of at least 1, got 100.0"),
        ({"random_states": ()}, ValueError, r"random_states must be given, each once, got \[\]"),
        ({"random_states": (0.2, 0.7)}, TypeError, r"random_states must be integers, got \(0.2, 0.7\)"),
        ({"random_states": 3}, TypeError, "random_states must be integers, got 3"),
        ({"random_states": "01"}, TypeError, "random_states must be integers, got '01'"),
        ({"random_states": (1, 1)}, ValueError, "random_states must be given, each once"),
        ({"reuse": {"a": "c", "c": "c"}}, ValueError, "reuse must name mitigators that reuse no other, got c"),
        ({"train": ([], [], [])}, TypeError, "train must be Samples, got tuple"),
        ({"train_on": {"c": [0]}}, TypeError, "c must be Samples, got list"),
        (
            {"test": with_labels(["0", "1"] * 2)},
            ValueError,
            r"test.y must be of the classes of train.y, got \['0', '1'\]",
        ),
        (
            {"test": with_labels(np.arange(4) > 1, ["blond", "not blond"] * 2)},
            ValueError,
            r"test.confounder must have values of train.confounder, got \['blond', 'not blond'\] and \[0, 1\]",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_any_training(tmp_path, options, error, words):
    samples = with_labels(np.arange(4) > 1)
    mitigators = {"a": Counts(tmp_path / "log"), "c": Counts(tmp_path / "log")}
    with pytest.raises(error, match=words):
        compare_mitigators(mitigators, **{"train": samples, "test": samples} | options)
    assert not (tmp_path / "log").exists()


def test_mitigators_are_named_estimators():
    samples = with_labels(np.arange(4) > 1)
    with pytest.raises(TypeError, match="mitigators must be a mapping of names to estimators, got list"):
        fit_mitigators([ImageClassifier()], samples, samples)
    with pytest.raises(TypeError, match="mitigators must be estimators with a fit, got None as b"):
        fit_mitigators({"a": ImageClassifier(), "b": None}, samples, samples)
    assert samples != with_labels(np.arange(4) > 1)  # compared as objects, not array by array
    assert samples in {samples}


def test_labels_that_could_not_be_kept_are_refused_before_any_training(tmp_path):
    days = np.array(["2024-05-01", "2024-05-02"] * 2, "datetime64[D]")
    samples = Samples(np.zeros((4, 3, 2, 2), np.uint8), np.arange(4) > 1, days)
    log = tmp_path / "log"
    with pytest.raises(TypeError, match=r"test\.confounder must hold numbers or strings .* got date"):
        fit_mitigators({"a": Counts(log)}, samples, samples, checkpoint_dir=tmp_path / "kept")
    assert not log.exists()


class Refuses(Threshold):
    def __init__(self, error=None, random_state=None):
        super().__init__(random_state)
        self.error = error

    def fit(self, X, y, *, sensitive_features):
        if self.error is not None:
            raise self.error
        return super().fit(X, y, sensitive_features=sensitive_features)


def test_mitigators_that_cannot_run_are_reported_and_skipped():
    rng = np.random.default_rng(0)
    target, confounder = rng.random(80) < 0.5, rng.random(80) < 0.5
    X = np.where(target, 200, 50).astype(np.uint8)[:, None, None, None] * np.ones((1, 3, 4, 4), np.uint8)
    samples = Samples(X, target, confounder)
    mitigators = {
        "no cell": Refuses(NotApplicableError("no image of that cell")),
        "broken": Refuses(KeyError("oops")),
        "on broken": Opposite(Threshold()),
        "original": Threshold(),
    }
    with pytest.warns(RuntimeWarning) as told:
        table = compare_mitigators(mitigators, samples, samples, reuse={"on broken": "broken"}, n_bootstrap=10)
    assert [str(warning.message) for warning in told] == [
        "no cell, seed 0: not applicable: no image of that cell",
        "broken, seed 0: failed: KeyError: 'oops'",
        "on broken, seed 0: not applicable: it builds on 'broken', which could not run",
    ]
    assert list(table.index) == list(mitigators)
    assert table.iloc[:3].isna().all(axis=None)
    assert table.loc["original", ("accuracy", "mean")] == 1
    assert table.loc["original", ("accuracy", "difference")] == 0
    assert pareto_front(table).to_dict() == {"no cell": False, "broken": False, "on broken": False, "original": True}
    with pytest.raises(RuntimeError, match="no mitigator could run; the first: no image of that cell"):
        fit_mitigators({"no cell": mitigators["no cell"]}, samples, samples)
    with pytest.raises(ValueError, match="missing: fairness"):
        pareto_front(table, less="fairness")


class Killed(Threshold):
    """Ends its process as Linux does where memory is short."""

    def fit(self, X, y, *, sensitive_features):
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def squares():
    """Dark images of one class and bright ones of the other."""
    target = np.arange(48) % 2 == 1
    X = np.where(target, 200, 50).astype(np.uint8)[:, None, None, None] * np.ones((1, 3, 8, 8), np.uint8)
    return Samples(X, target, np.arange(48) % 3 == 0)


@pytest.mark.parametrize(
    ("error", "raised", "words"),
    [
        (MemoryError("too little"), MemoryError, "too little"),
        (torch.OutOfMemoryError("CUDA out of memory"), MemoryError, "a, seed 0: CUDA out of memory"),
        (PermissionError(13, "denied"), PermissionError, "denied"),
    ],
)
def test_errors_of_the_system_end_the_comparison(squares, error, raised, words):
    with pytest.raises(raised, match=words):
        fit_mitigators({"a": Refuses(error), "b": Threshold()}, squares, squares)


@pytest.mark.slow
def test_a_killed_process_ends_the_comparison(squares):
    with pytest.raises(ChildProcessError, match="the process of a training was killed, perhaps for lack of memory"):
        fit_mitigators({"a": Killed(), "b": Threshold()}, squares, squares, n_jobs=2)


# A class and a function of a script, which joblib's processes know by their code alone.
SCRIPT = """
import sys
import numpy as np
from fairlearn_bridge import ImageClassifier, Samples, fit_mitigators

class Brighter:
    def __init__(self, shift):
        self.shift = shift

    def __call__(self, images, index, generator):
        return (images + self.shift).clamp(0, 1)

def darker(images, index, generator):
    return images / 2

random = np.random.default_rng(0)
samples = Samples(random.integers(0, 256, (40, 3, 8, 8), np.uint8), np.arange(40) % 2 == 0, np.arange(40) % 3 == 0)
transforms = {"brighter": Brighter(0.25), "darker": darker}
mitigators = {name: ImageClassifier(max_epochs=1, batch_transform=one) for name, one in transforms.items()}
_, trainings = fit_mitigators(mitigators, samples, samples, n_jobs=int(sys.argv[1]), checkpoint_dir=sys.argv[2])
print(*trainings["status"], *trainings["seconds"])
"""


@pytest.mark.slow
def test_what_a_script_defines_is_trained_in_other_processes_and_kept(command, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    in_two = command(str(tmp_path / "script.py"), 2, tmp_path / "kept").stdout.split()
    assert in_two[:2] == ["done", "done"]
    assert command(str(tmp_path / "script.py"), 1, tmp_path / "kept").stdout.split() == in_two


def test_a_full_disk_ends_the_comparison_and_what_was_trained_is_kept(squares, tmp_path):
    log = tmp_path / "log"
    mitigators = {"first": Counts(log), "network": ImageClassifier(max_epochs=1)}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, hard))  # room for predictions, not for a network
    try:
        with pytest.raises(OSError, match="File too large"):
            fit_mitigators(mitigators, squares, squares, checkpoint_dir=tmp_path / "kept")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    _, trainings = fit_mitigators(mitigators, squares, squares, checkpoint_dir=tmp_path / "kept")
    assert list(trainings["status"]) == ["done", "done"]
    assert log.read_text() == "0 "


class Diverged(Threshold):
    def predict_proba(self, X):
        return super().predict_proba(X) * np.nan


def test_a_training_that_has_diverged_has_failed(squares):
    _, trainings = fit_mitigators({"a": Diverged(), "b": Threshold()}, squares, squares)
    assert list(trainings["status"]) == ["failed", "done"]
    assert trainings["reason"][0].startswith("FloatingPointError: it predicts probabilities that are not finite")


class FailsOnce(Threshold):
    """Scores shifted by the seed, and no training with seed 1."""

    def fit(self, X, y, *, sensitive_features):
        if self.random_state == 1:
            raise KeyError("oops")
        return super().fit(X, y, sensitive_features=sensitive_features)


def test_a_failed_seed_is_reported_and_counted(squares):
    mitigators = {"original": Threshold(), "sometimes": FailsOnce()}
    with pytest.warns(RuntimeWarning, match="sometimes, seed 1: failed: KeyError: 'oops'"):
        table = compare_mitigators(mitigators, squares, squares, random_states=(0, 1), n_bootstrap=5)
    assert table["accuracy", "seeds"].to_dict() == {"original": 2, "sometimes": 1}


def test_continuous_labels_are_refused():
    X, y, age = np.zeros((3, 1, 2, 2), np.uint8), np.array([0, 1, 1]), np.array([31.5, 40.25, 7.0])
    for name in ("y", "confounder", "groups"):
        with pytest.raises(ValueError, match=f"{name} must hold classes, got a continuous variable"):
            Samples(X, **{"y": y, "confounder": y, name: age})


PASSED = []


class Watched(torch.nn.Module):
    """Notes which images pass, by their first pixel, once it is no longer trained."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3 * 8 * 8, 2)

    def forward(self, images):
        if not self.training:
            PASSED.extend((255 * images[:, 0, 0, 0]).round().int().tolist())
        return self.layer(images.flatten(1))


@pytest.mark.filterwarnings("ignore:Setting a")  # fairlearn's reductions, of pandas
def test_each_test_image_passes_the_network_once():
    rng = np.random.default_rng(0)
    X = rng.integers(200, 255, (96, 3, 8, 8), np.uint8)
    y, confounder = np.arange(96) % 2 == 1, np.arange(96) % 3 == 0
    train, test = Samples(X[:48], y[:48], confounder[:48]), Samples(X[48:].copy(), y[48:], confounder[48:])
    test.X[:, 0, 0, 0] = np.arange(48)  # the others have 200 and more there
    base = ImageClassifier(Watched, max_epochs=1)
    region = DenseRegionClassifier(RegionGrid(8, 4, 4), 2, random_state=0)
    mitigators = {
        "original": base,
        "reweighing": Reweighing(base),
        "remover": EmbeddingCorrelationRemoval(base),
        "shift": ThresholdShift(base),
        "noise": AttributionNoiseMitigator(base, region_classifier=region, scheme="general_noise"),
        "optimizer": ThresholdOptimizer(estimator=base, constraints="equalized_odds", predict_method="predict_proba"),
        "reduction": ExponentiatedGradient(base, EqualizedOdds(), max_iter=1),
    }
    for name, mitigator in mitigators.items():
        PASSED.clear()
        params = {"validation": (train.X, train.y)} if name == "shift" else None
        predictions, trainings = fit_mitigators({name: mitigator}, train, test, fit_params=params, random_states=(3,))
        assert list(trainings["status"]) == ["done"], trainings["reason"]
        seen = np.bincount([pixel for pixel in PASSED if pixel < 48], minlength=48)
        assert (seen == seen[0]).all()
        # A reduction mixes several networks.
        assert seen[0] == 1 or name == "reduction"
        assert len(predictions) == 48


def test_labels_of_dtype_object_are_what_they_are():
    faces = make_faces(60, 16, random_state=0)
    target, blond = faces.binary("Male"), faces.binary("Blond_Hair")
    ages = pd.cut(np.where(blond, 20, 50), [0, 30, 60])
    train = Samples(faces.images, target.astype(object), ages)
    assert (train.y.dtype, train.confounder[0] in ("(0, 30]", "(30, 60]")) == (bool, True)
    mitigators = {"original": ImageClassifier(max_epochs=1)}
    _, trainings = fit_mitigators(mitigators, train, train, random_states=(0,))
    assert trainings["status"].tolist() == ["done"]
    assert positions_in([False, True], np.array([True, False], object), "labels").tolist() == [1, 0]
    assert positions_in(np.array([False, True], object), [True, False], "labels").tolist() == [1, 0]

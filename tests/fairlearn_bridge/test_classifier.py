"""ImageClassifier as scikit-learn and fairlearn use one."""

import pickle
from functools import partial

import numpy as np
import pytest
import torch
from fairlearn.metrics import MetricFrame
from fairlearn.postprocessing import ThresholdOptimizer
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import accuracy_score
from sklearn.model_selection import GridSearchCV
from skorch.callbacks import BatchScoring, Callback, Checkpoint, EarlyStopping, EpochScoring, Freezer, Unfreezer
from skorch.dataset import ValidSplit
from skorch.helper import predefined_split
from torch import nn
from torch.utils.data import TensorDataset

from captum_region.randomness import seeded
from fairlearn_bridge import ImageClassifier, SmallCNN, ThresholdShift
from fairlearn_bridge.baselines.base import then
from fairlearn_bridge.baselines.weighting import _WorstGroups
from fairlearn_bridge.loading import TrainingImages


def bright_and_dark(n=60, seed=0, size=8):
    """Return images that are brighter where y is 1, overlapping."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    images = (
        rng.integers(0, 130, (n, 3, size, size))
        + rng.integers(40, 120, n)[:, None, None, None] * y[:, None, None, None]
    )
    return images.astype(np.uint8), y


class Mean(nn.Module):
    """Logistic regression on the mean brightness."""

    def __init__(self, num_classes=2):
        super().__init__()
        self.linear = nn.Linear(1, num_classes)

    def forward(self, images):
        assert images.is_floating_point()
        assert images.min() >= 0
        assert images.max() <= 1
        return self.linear(images.mean((1, 2, 3))[:, None])


def test_the_papers_network():
    network = SmallCNN((3, 128, 128), 2)
    convolutions = [layer for layer in network.layers if isinstance(layer, nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == [6, 12, 24]
    assert {layer.kernel_size for layer in convolutions} == {(5, 5)}
    linear = [layer for layer in network.layers if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == [
        (24 * 16 * 16, 1000),
        (1000, 100),
        (100, 2),
    ]
    assert network(torch.rand(2, 3, 128, 128)).shape == (2, 2)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 7, 20), (2, 8, 1)])
def test_the_papers_network_on_sides_too_short_to_pool(shape):
    assert SmallCNN(shape, 2)(torch.rand(3, *shape)).shape == (3, 2)


def test_it_learns_and_scores():
    X, y = bright_and_dark(200)
    classifier = ImageClassifier(Mean, lr=0.1, max_epochs=30, random_state=0).fit(X, y)
    assert classifier.score(*bright_and_dark(200, seed=1)) > 0.85
    losses = classifier.history[:, "train_loss"]
    assert losses[-1] < losses[0]
    probability = classifier.predict_proba(X)
    assert probability.dtype == np.float64
    np.testing.assert_allclose(probability.sum(1), 1, rtol=1e-12)
    assert (classifier.predict(X) == probability.argmax(1)).all()


@pytest.mark.parametrize(
    "labels", [np.array(["man", "woman"]), np.array([False, True]), np.array([7, 3]), np.array([0, 1])]
)
def test_labels_of_any_kind(labels):
    X, y = bright_and_dark()
    classifier = ImageClassifier(Mean, max_epochs=1, random_state=0).fit(X, labels[y])
    assert list(classifier.classes_) == sorted(labels)
    predicted = classifier.predict(X)
    assert predicted.dtype == labels.dtype
    assert set(predicted) <= set(labels)


def test_more_than_two_classes_and_float_and_tensor_images():
    X, _ = bright_and_dark()
    y = np.arange(len(X)) % 3
    proba = [
        ImageClassifier(max_epochs=1, random_state=0).fit(same, y).predict_proba(same)
        for same in (X, torch.from_numpy(X), X.astype(np.float32) / 255)
    ]
    assert proba[0].shape == (60, 3)
    assert np.array_equal(proba[0], proba[1])
    np.testing.assert_allclose(proba[0], proba[2], atol=1e-5)


def test_random_state_decides_all_and_global_state_is_left_alone():
    X, y = bright_and_dark()
    state = torch.random.get_rng_state()
    first = ImageClassifier(max_epochs=2, random_state=1).fit(X, y)
    again = clone(first).fit(X, y)
    other = ImageClassifier(max_epochs=2, random_state=2).fit(X, y)
    assert np.array_equal(first.predict_proba(X), again.predict_proba(X))
    assert not np.array_equal(first.predict_proba(X), other.predict_proba(X))
    refit = first.predict_proba(X)
    assert np.array_equal(first.fit(X, y).predict_proba(X), refit)  # a second fit starts anew
    assert torch.equal(torch.random.get_rng_state(), state)
    assert np.array_equal(pickle.loads(pickle.dumps(first)).predict_proba(X), refit)


def test_sample_weight_0_is_as_if_the_sample_were_not_there():
    X, y = bright_and_dark(64)
    flipped = np.where(np.arange(64) < 32, y, 1 - y)
    weight = (np.arange(64) < 32) * 5.0
    full = {"lr": 0.05, "max_epochs": 20, "batch_size": 64, "random_state": 0, "optimizer": torch.optim.SGD}
    weighted = ImageClassifier(Mean, **full).fit(X, flipped, sample_weight=weight)
    without = ImageClassifier(Mean, **full).fit(X[:32], y[:32])
    np.testing.assert_allclose(weighted.predict_proba(X), without.predict_proba(X), atol=1e-5)


def test_batch_transform_gets_images_positions_and_a_generator_in_training_only():
    X, y = bright_and_dark(50)
    seen, draws = [], []

    def transform(images, index, generator):
        np.testing.assert_allclose(images, X[index] / np.float32(255), atol=1e-6)
        seen.extend(index.tolist())
        draws.append(torch.rand(1, generator=generator).item())
        return 1 - images

    classifier = ImageClassifier(Mean, lr=0.1, max_epochs=30, batch_transform=transform, random_state=0).fit(X, y)
    assert sorted(seen) == sorted(list(range(50)) * 30)
    assert len(set(draws)) == len(draws)
    count = len(seen)
    plain = ImageClassifier(Mean, lr=0.1, max_epochs=30, random_state=0).fit(X, y)
    assert (classifier.predict(X) == plain.predict(X)).mean() < 0.5  # it learnt the negatives
    assert len(seen) == count


def test_a_module_instance_is_copied_and_the_users_data_stays():
    X, y = bright_and_dark()
    module = Mean()
    before, X_before = [value.clone() for value in module.parameters()], X.copy()
    X.flags.writeable = False
    classifier = ImageClassifier(module, lr=0.1, max_epochs=2).fit(X, y)
    assert classifier.module_ is not module
    assert all(torch.equal(old, new) for old, new in zip(before, module.parameters(), strict=True))
    assert (X_before == X).all()


def test_skorch_parameters_work():
    X, y = bright_and_dark()

    class CountEpochs(Callback):
        epochs = 0

        def on_epoch_end(self, net, **kwargs):
            CountEpochs.epochs += 1

    classifier = ImageClassifier(Mean, max_epochs=3, callbacks=[CountEpochs()], callbacks__lr_scheduler=None).fit(X, y)
    assert CountEpochs.epochs == 3
    assert classifier.get_params()["optimizer__weight_decay"] == 1e-3
    decayed = ImageClassifier(Mean, max_epochs=3, lr=0.1).fit(X, y)
    np.testing.assert_allclose(decayed.history[:, "event_lr"], [0.1, 0.095, 0.09025], rtol=1e-6)


class Wide(Mean):
    def __init__(self, num_classes=2, width=1):
        super().__init__()


class Probabilities(Mean):
    def forward(self, images):
        return super().forward(images).softmax(1)


class Focal(nn.Module):
    """A criterion of one's own, which knows no reduction."""

    def forward(self, logits, target):
        chance = logits.softmax(1).gather(1, target[:, None]).clamp_min(1e-6)
        return (-((1 - chance) ** 2) * chance.log()).mean()


def first_loss(criterion, X, y, **options):
    """Return the loss of the one batch that all images are, before any step."""
    options = {"max_epochs": 1, "batch_size": -1, "random_state": 0} | options
    return ImageClassifier(Mean, criterion=criterion, **options).fit(X, y).history_[0, "train_loss"]


@pytest.mark.parametrize(
    "criterion",
    [
        nn.CrossEntropyLoss(),
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 50.0])),
        nn.CrossEntropyLoss(label_smoothing=0.3, weight=torch.tensor([2.0, 5.0])),
        Focal(),
        Focal,
    ],
)
def test_the_loss_is_what_the_criterion_gives_by_itself(criterion):
    X, y = bright_and_dark()
    y[:40] = 0
    logits = (
        ImageClassifier(Mean, image_shape=X.shape[1:], classes=[0, 1], random_state=0)
        .initialize()
        .infer(torch.from_numpy(X))
    )
    by_itself = criterion() if isinstance(criterion, type) else criterion
    expected = by_itself(logits, torch.from_numpy(y)).item()
    assert first_loss(criterion, X, y) == pytest.approx(expected, rel=1e-5)
    assert getattr(criterion, "reduction", "mean") == "mean"  # the user's own is left alone


def test_a_loss_of_the_whole_batch_cannot_be_weighted():
    X, y = bright_and_dark()
    classifier = ImageClassifier(Mean, criterion=Focal, max_epochs=1)
    assert np.isfinite(classifier.fit(X, y, sample_weight=np.full(60, 3.0)).predict_proba(X)).all()
    with pytest.raises(ValueError, match="criterion must give a loss a sample"):
        classifier.fit(X, y, sample_weight=y + 1)
    with pytest.raises(ValueError, match="criterion must give a loss a sample"):
        clone(classifier).set_params(loss_reduction=lambda losses, index: losses.mean()).fit(X, y)


def test_a_module_that_gives_probabilities_learns_with_nllloss_as_in_skorch():
    X, y = bright_and_dark(200)
    options = {"lr": 0.1, "max_epochs": 10, "random_state": 0}
    logits = ImageClassifier(Mean, **options).fit(X, y)
    probabilities = ImageClassifier(Probabilities, criterion=nn.NLLLoss, **options).fit(X, y)
    np.testing.assert_allclose(probabilities.predict_proba(X), logits.predict_proba(X), atol=1e-4)
    np.testing.assert_allclose(probabilities.history_[:, "train_loss"], logits.history_[:, "train_loss"], rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"module": Mean(), "module__width": 2}, ValueError, "module must be a class where module__width is given"),
        (
            {"criterion": nn.CrossEntropyLoss(), "criterion__label_smoothing": 0.1},
            ValueError,
            "criterion must be a class where criterion__label_smoothing is given",
        ),
        ({"criterion__reduction": "sum"}, ValueError, "criterion must have the reduction 'mean', got 'sum'"),
        ({"module__depth": 2}, TypeError, "depth"),
        ({"dataset": TensorDataset}, TypeError, "dataset must be left out"),
        ({"dataset__length": 3}, TypeError, "dataset must be left out"),
        ({"classes": []}, ValueError, "classes must be None or hold all labels"),
        ({"modul": Mean}, ValueError, "unexpected argument.* modul"),
        ({"callbacks": [EarlyStopping()]}, ValueError, "must not monitor 'valid_loss', as EarlyStopping does, without"),
        ({"callbacks": [("best", Checkpoint())]}, ValueError, "must not monitor 'valid_loss_best', as best does"),
        ({"train_split": predefined_split(TensorDataset(torch.zeros(2)))}, TypeError, "train_split must divide"),
    ],
)
def test_what_could_not_be_heeded_is_refused(options, error, words):
    X, y = bright_and_dark()
    with pytest.raises(error, match=words):
        ImageClassifier(**{"module": Wide, "max_epochs": 1} | options).fit(X, y)


def test_early_stopping_works_with_a_split_and_on_the_training_loss():
    X, y = bright_and_dark()
    stopping = {"lr": 1e-9, "max_epochs": 20}
    for options in (
        {"callbacks": [EarlyStopping(patience=2)], "train_split": ValidSplit(5, stratified=True)},
        {"callbacks": [EarlyStopping("train_loss", patience=2, threshold=0.5)]},
    ):
        assert len(ImageClassifier(Mean, **stopping, **options).fit(X, y).history_) == 3


@pytest.mark.parametrize("epochs", [1, 3])
def test_a_training_that_diverges_is_refused_by_name(epochs):
    X, y = bright_and_dark()
    with pytest.raises(FloatingPointError, match="try a lower lr"):
        ImageClassifier(lr=1e30, max_epochs=epochs, random_state=0).fit(X, y)


def test_initialize_before_fit():
    X, y = bright_and_dark()
    state = torch.random.get_rng_state()
    classifier = ImageClassifier(image_shape=(3, 8, 8), classes=[0, 1], random_state=0).initialize()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert classifier.infer(torch.from_numpy(X)).shape == (60, 2)
    # `fit` begins with the same weights.
    fitted = ImageClassifier(lr=0.0, optimizer__weight_decay=0.0, max_epochs=1, random_state=0).fit(X, y)
    for begun, left in zip(classifier.module_.parameters(), fitted.module_.parameters(), strict=True):
        assert torch.equal(begun, left)
    assert ImageClassifier(Mean()).initialize().infer(torch.from_numpy(X)).shape == (60, 2)
    with pytest.raises(ValueError, match="image_shape must be given to initialize before fit"):
        ImageClassifier(classes=[0, 1]).initialize()
    with pytest.raises(ValueError, match="classes must be given to initialize before fit"):
        ImageClassifier(image_shape=(3, 8, 8)).initialize()


def test_images_of_the_shape_asked_for_are_not_taken_for_channels_last():
    X = np.random.default_rng(0).integers(0, 256, (4, 8, 16, 4), np.uint8)
    with pytest.raises(ValueError, match="channels first"):
        ImageClassifier(max_epochs=1).fit(X, [0, 1, 0, 1])
    classifier = ImageClassifier(image_shape=(8, 16, 4), max_epochs=1, random_state=0).fit(X, [0, 1, 0, 1])
    assert classifier.predict(X).shape == (4,)


class Pooled(nn.Sequential):
    """Batch normalisation of a single value a channel, as at the end of a network for larger images."""

    def __init__(self):
        super().__init__(nn.Conv2d(3, 4, 8), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


@pytest.mark.parametrize("drop_last", [False, True])
def test_a_last_batch_of_one_image_joins_the_one_before(drop_last):
    X, y = bright_and_dark(33)
    options = {"max_epochs": 2, "random_state": 0, "iterator_train__drop_last": drop_last}
    fitted, joined = (ImageClassifier(Pooled, batch_size=size, **options).fit(X, y) for size in (32, 33))
    assert [row["train_batch_size"] for row in fitted.history_[-1]["batches"]] == [32 if drop_last else 33]
    assert np.array_equal(fitted.predict_proba(X), joined.predict_proba(X)) is not drop_last


def test_a_users_loader_is_used():
    X, y = bright_and_dark()
    plain = ImageClassifier(Mean, max_epochs=1, random_state=0).fit(X, y)
    own = {"iterator_train": torch.utils.data.DataLoader, "iterator_train__drop_last": False}
    loaded = ImageClassifier(Mean, max_epochs=1, random_state=0, **own).fit(X, y)
    np.testing.assert_array_equal(loaded.predict_proba(X), plain.predict_proba(X))


@pytest.mark.parametrize("names", [(0, 1), ("dark", "bright")])
def test_a_part_kept_for_validation_is_scored(names):
    X, y = bright_and_dark(200)
    classifier = ImageClassifier(Mean, train_split=ValidSplit(5, stratified=True), max_epochs=3, lr=0.3, random_state=0)
    classifier.fit(X, np.array(names)[y])
    *_, last = classifier.history_
    _, held_out = classifier.get_split_datasets(TrainingImages(X, y, np.ones(200, np.float32)), y)
    right = classifier.predict(X[held_out.indices]) == np.array(names)[y[held_out.indices]]
    assert last["valid_acc"] == pytest.approx(right.mean())
    assert last["valid_acc"] > 0.6


def test_an_interruption_is_not_swallowed():
    class Interrupt(Callback):
        def on_batch_end(self, net, **kwargs):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ImageClassifier(Mean, callbacks=[Interrupt()]).fit(*bright_and_dark())


def test_grid_search_metric_frame_and_threshold_optimizer_take_it():
    X, y = bright_and_dark(80)
    group = np.arange(80) % 2
    search = GridSearchCV(ImageClassifier(Mean, max_epochs=8, random_state=0), {"lr": [1e-6, 0.3]}, cv=2).fit(X, y)
    assert search.best_params_ == {"lr": 0.3}
    frame = MetricFrame(metrics=accuracy_score, y_true=y, y_pred=search.predict(X), sensitive_features=group)
    assert frame.by_group.to_dict() == {value: search.score(X[group == value], y[group == value]) for value in (0, 1)}
    optimizer = ThresholdOptimizer(
        estimator=ImageClassifier(Mean, max_epochs=8, lr=0.3, random_state=0), predict_method="predict_proba"
    )
    optimizer.fit(X, y, sensitive_features=group)
    assert optimizer.predict(X, sensitive_features=group, random_state=0).shape == (80,)


def test_threshold_shift_makes_both_classes_equally_well_recognised():
    X, y = bright_and_dark(300)
    rare = np.flatnonzero((y == 0) | (np.arange(300) % 10 == 0))
    shift = ThresholdShift(ImageClassifier(Mean, max_epochs=20, lr=0.05, random_state=0))
    X_valid, y_valid = bright_and_dark(200, seed=1)
    shift.fit(X[rare], y[rare], validation=(X_valid, y_valid))

    def recall_gap(predicted):
        return abs((predicted[y_valid == 0] == 0).mean() - (predicted[y_valid == 1] == 1).mean())

    assert recall_gap(shift.estimator_.predict(X_valid)) > 0.3
    assert recall_gap(shift.predict(X_valid)) < 0.1
    assert np.array_equal(shift.predict_proba(X), shift.estimator_.predict_proba(X))
    with pytest.raises(ValueError, match="validation labels must hold at least 2 classes"):
        shift.fit(X, y, validation=(X, np.zeros(300)))


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"X": np.zeros((6, 3, 8, 8), np.int64)}, TypeError, "X must be uint8 or float"),
        ({"X": np.zeros((6, 8, 8), np.uint8)}, ValueError, "X must have shape"),
        ({"X": np.zeros((6, 8, 8, 3), np.uint8)}, ValueError, r"channels first, got \(6, 8, 8, 3\)"),
        ({"X": np.zeros(6)}, ValueError, "Expected 2D array"),
        ({"X": np.full((6, 4), np.nan)}, ValueError, "Input X contains NaN"),
        ({"X": np.full((6, 3, 8, 8), np.nan)}, ValueError, "X of float type"),
        ({"y": [0, 1]}, ValueError, r"y should be a 1d array of shape \(6,\)"),
        ({"y": [0] * 6}, ValueError, "at least 2 classes, got 1 class"),
        ({"y": [0, 1, 0, 1, 0, None]}, ValueError, "y must not have missing values, got 1 missing"),
        ({"y": [0.5, 1.25, 2] * 2}, ValueError, "continuous"),
        ({"sample_weight": [1.0]}, ValueError, "sample_weight"),
        ({"sample_weight": [-1.0] * 6}, ValueError, "sample_weight"),
        ({"sample_weight": [0, 1] * 3}, ValueError, "at least 2 classes, got 1 class"),
    ],
)
def test_invalid_arguments_are_named_in_the_error(changed, error, words):
    arguments = {"X": np.zeros((6, 3, 8, 8), np.uint8), "y": [0, 1] * 3} | changed
    with pytest.raises(error, match=words):
        ImageClassifier(Mean).fit(**arguments)


def test_prediction_refuses_other_shapes_and_needs_a_fit():
    X, y = bright_and_dark()
    with pytest.raises(NotFittedError):
        ImageClassifier(Mean).predict(X)
    classifier = ImageClassifier(Mean, max_epochs=1).fit(X, y)
    with pytest.raises(ValueError, match=r"\(3, 8, 8\), got \(3, 4, 8\)"):
        classifier.predict(X[:, :, :4])
    assert classifier.predict(X[:0]).shape == (0,)


class WithDropout(Mean):
    """Draws from the global generator in training."""

    def forward(self, images):
        return super().forward(nn.functional.dropout(images / 2, 0.3, self.training))


def add_noise(images, index, generator):
    return (images + 0.2 * torch.rand(images.shape, generator=generator)).clamp(0, 1)


def test_a_compiled_network_learns_as_one_that_is_not():
    X, y = bright_and_dark()
    settings = {"criterion": nn.NLLLoss, "lr": 0.1, "max_epochs": 3, "random_state": 0}
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2), nn.Softmax(1))
    plain, compiled = (
        ImageClassifier(network, **settings, **more).fit(X, y)
        for more in ({}, {"compile": True, "compile__backend": "eager"})
    )
    np.testing.assert_array_equal(compiled.predict_proba(X), plain.predict_proba(X))
    assert compiled.history_[:, "train_loss"] == plain.history_[:, "train_loss"]


def test_the_number_of_epochs_is_not_negative():
    X, y = bright_and_dark()
    with pytest.raises(ValueError, match="max_epochs must be an integer of at least 0, got -1"):
        ImageClassifier(Mean, max_epochs=-1).fit(X, y)


def test_instances_of_modules_and_criteria_are_set_like_other_parameters():
    X, y = bright_and_dark()
    with seeded(0):
        modules = [nn.Sequential(nn.Flatten(), nn.Linear(192, 2)), nn.Sequential(nn.Flatten(), nn.Linear(192, 2))]
    smoothed = nn.CrossEntropyLoss(label_smoothing=0.1)
    base = ImageClassifier(Mean, max_epochs=1, random_state=0)
    wanted = ImageClassifier(modules[0], criterion=smoothed, max_epochs=1, random_state=0).fit(X, y)
    found = clone(base).set_params(module=modules[0], criterion=smoothed).fit(X, y)
    np.testing.assert_array_equal(found.predict_proba(X), wanted.predict_proba(X))
    assert not np.array_equal(found.set_params(module=modules[1]).fit(X, y).predict_proba(X), wanted.predict_proba(X))
    search = GridSearchCV(base, {"module": modules}, cv=2, error_score="raise").fit(X, y)
    assert search.best_params_["module"] in modules


class Fading:
    """Dims the images more with every batch."""

    count = 0

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]

    def __call__(self, images, index, generator):
        self.count += 1
        return images / self.count


class Stopping(ImageClassifier):
    """Stops at the beginning of an epoch; a callback would make it another training."""

    epochs = None

    def run_single_epoch(self, iterator, **arguments):
        if len(self.history_) == self.epochs:
            raise KeyboardInterrupt
        return super().run_single_epoch(iterator, **arguments)


class TestCheckpointDir:
    X, y = bright_and_dark()

    @pytest.fixture(autouse=True)
    def saved_after_each_epoch(self, monkeypatch):
        # Epochs as short as these are saved once, by the first, and a later stop would resume from there.
        monkeypatch.setattr("captum_region.io.snapshot._SHARE", 0)

    def fit(self, folder, X=X, stop=None, **options):
        settings = {"max_epochs": 6, "batch_size": 16, "random_state": 0, "batch_transform": add_noise} | options
        classifier = Stopping(WithDropout, checkpoint_dir=folder, **settings)
        if stop is None:
            return classifier.fit(X, self.y)
        Stopping.epochs = stop + 1
        with pytest.raises(KeyboardInterrupt):
            classifier.fit(X, self.y)
        Stopping.epochs = None
        return classifier

    @pytest.mark.parametrize("stop", [1, 3, 5])
    def test_a_stopped_training_resumes_and_ends_with_the_same_weights(self, stop, tmp_path, written):
        whole = self.fit(None)
        stopped = self.fit(tmp_path, stop=stop)
        assert len(stopped.history_) == stop + 1
        resumed = self.fit(tmp_path)
        for name, value in whole.module_.state_dict().items():
            torch.testing.assert_close(resumed.module_.state_dict()[name], value, rtol=0, atol=0)
        for column in ("train_loss", "event_lr", "epoch"):
            assert resumed.history_[:, column] == whole.history_[:, column]
        np.testing.assert_array_equal(resumed.predict_proba(self.X), whole.predict_proba(self.X))
        (file,) = tmp_path.iterdir()
        before = written(file)
        assert self.fit(tmp_path).history_[:, "dur"] == resumed.history_[:, "dur"]  # read, not trained again
        assert written(file) == before

    @pytest.mark.parametrize("later", [[], [Unfreezer("linear.weight", at=5)]])
    def test_a_resumed_training_keeps_what_is_frozen(self, later, tmp_path):
        # Set in an epoch that is not run again, and in no state of the module.
        def options():
            return {"callbacks": [Freezer("linear.weight", at=2), *later], "lr": 0.1}

        whole = self.fit(None, **options())
        self.fit(tmp_path, stop=3, **options())
        resumed = self.fit(tmp_path, **options())
        for name, value in whole.module_.state_dict().items():
            torch.testing.assert_close(resumed.module_.state_dict()[name], value, rtol=0, atol=0)
        assert [one.requires_grad for one in resumed.module_.parameters()] == [
            one.requires_grad for one in whole.module_.parameters()
        ]

    def test_a_resumed_loss_keeps_its_state(self, tmp_path):
        group = np.arange(len(self.y)) % 3

        def options():
            return {"loss_reduction": _WorstGroups(group, step_size=1.0), "lr": 0.1}

        whole = self.fit(None, **options())
        self.fit(tmp_path, stop=3, **options())
        resumed = self.fit(tmp_path, **options())
        assert whole.loss_reduction.weight.std() > 0.01
        torch.testing.assert_close(resumed.loss_reduction.weight, whole.loss_reduction.weight, rtol=0, atol=0)
        assert resumed.history_[:, "train_loss"] == whole.history_[:, "train_loss"]

    @pytest.mark.parametrize(
        "wrap", [lambda given: given, lambda given: partial(then, partial(then, given, add_noise), add_noise)]
    )
    def test_a_resumed_transform_keeps_its_state_also_within_others(self, wrap, tmp_path):
        whole = self.fit(None, batch_transform=wrap(Fading()))
        self.fit(tmp_path, stop=3, batch_transform=wrap(Fading()))
        resumed = self.fit(tmp_path, batch_transform=wrap(Fading()))
        assert resumed.history_[:, "train_loss"] == whole.history_[:, "train_loss"]

    @pytest.mark.parametrize(
        "options",
        [{"random_state": 1}, {"lr": 1e-4}, {"batch_transform": None}, {"X": X[::-1]}, {"max_epochs": 7}],
    )
    def test_other_settings_are_another_training(self, options, tmp_path):
        self.fit(tmp_path)
        self.fit(tmp_path, **options)
        assert len(list(tmp_path.iterdir())) == 2

    def test_warm_start_continues_with_the_same_classes_alone(self):
        X, y = np.random.default_rng(0).integers(0, 256, (12, 3, 8, 8), np.uint8), np.arange(12) % 3
        fitted = ImageClassifier(Mean, max_epochs=1, random_state=0, warm_start=True).fit(X, y)
        for other in (y + 1, y % 2, np.arange(12) % 4):
            with pytest.raises(ValueError, match=r"the classes that warm_start continues with, \[0, 1, 2\], got"):
                fitted.fit(X, other)
        assert fitted.fit(X, y).classes_.tolist() == [0, 1, 2]
        named = ImageClassifier(Mean, max_epochs=1, random_state=0, warm_start=True, classes=[0, 1, 2]).fit(X, y % 2)
        assert named.fit(X, y).predict_proba(X).shape == (12, 3)

    def test_warm_start_continues_from_the_current_weights(self, tmp_path):
        twice = [ImageClassifier(Mean, max_epochs=2, random_state=0, warm_start=True, checkpoint_dir=tmp_path)] * 2
        epochs = [len(classifier.fit(self.X, self.y).history_) for classifier in twice]
        assert epochs == [2, 4]
        assert len(list(tmp_path.iterdir())) == 2

    def test_a_resumed_training_keeps_the_count_of_early_stopping(self, tmp_path):
        options = {"max_epochs": 30, "lr": 1e-9, "batch_transform": None}
        stopping = {"callbacks": [EarlyStopping("train_loss", patience=4, threshold=0.5)]}
        whole = self.fit(None, **options, **stopping)
        assert len(whole.history_) == 5
        self.fit(tmp_path, stop=3, **options, **stopping)
        assert len(self.fit(tmp_path, **options, **stopping).history_) == 5
        assert len(self.fit(tmp_path, **options, **stopping).history_) == 5  # complete, though of fewer epochs

    def test_a_missing_seed_and_lambdas_are_refused(self, tmp_path):
        with pytest.raises(ValueError, match="random_state must be given"):
            self.fit(tmp_path, random_state=None)
        with pytest.raises(ValueError, match="checkpoint_dir must come with parameters that pickle"):
            self.fit(tmp_path, batch_transform=(each for each in "ab"))
        assert not list(tmp_path.iterdir())

    def test_functions_without_a_name_count_by_their_code(self, tmp_path):
        for strength in (0.2, 0.2, 0.3):
            classifier = self.fit(tmp_path, max_epochs=1, batch_transform=lambda images, *_, by=strength: images * by)
        assert len(list(tmp_path.iterdir())) == 2
        plain = self.fit(None, max_epochs=1, batch_transform=lambda images, *_: images * 0.3)
        assert classifier.history_[:, "train_loss"] == plain.history_[:, "train_loss"]

    def test_a_number_of_numpy_is_kept(self, tmp_path):
        rate = np.logspace(-3, -2, 2)[0]
        whole, stopped = self.fit(None, lr=rate), self.fit(tmp_path, lr=rate, stop=2)
        assert len(stopped.history_) == 3
        assert self.fit(tmp_path, lr=rate).history_[:, "event_lr"] == whole.history_[:, "event_lr"]


def test_rows_of_another_kind_than_in_fit_are_not_taken_for_brightness():
    X, y = bright_and_dark()
    rows = X.reshape(len(X), -1)
    classifier = ImageClassifier(image_shape=(3, 8, 8), max_epochs=1, random_state=0).fit(rows, y)
    expected = classifier.predict_proba(rows)
    np.testing.assert_allclose(classifier.predict_proba(rows / 255), expected, atol=1e-5)
    for other in (rows.astype(int), rows.astype(float), rows.tolist()):
        with pytest.raises(ValueError, match=r"X of float type must lie in \[0, 1\], got .* to 2"):
            classifier.predict_proba(other)


def test_a_continued_training_keeps_the_scale_of_rows_and_the_shape():
    X, y = bright_and_dark()
    rows = X.reshape(len(X), -1).astype(float)
    classifier = ImageClassifier(image_shape=(3, 8, 8), max_epochs=1, random_state=0, warm_start=True).fit(rows, y)
    scale = classifier.row_scaler_.data_max_.copy()
    classifier.fit(rows[:30] / 2, y[:30])
    np.testing.assert_array_equal(classifier.row_scaler_.data_max_, scale)
    images = ImageClassifier(Mean, max_epochs=1, random_state=0, warm_start=True).fit(X, y)
    with pytest.raises(ValueError, match=r"X must hold images of shape \(3, 8, 8\), got \(3, 4, 4\)"):
        images.fit(X[:, :, :4, :4], y)
    assert images.predict(X).shape == (60,)


@pytest.mark.parametrize("split", [ValidSplit(0.2), ValidSplit(0.2, stratified=True)])
def test_a_random_split_goes_by_random_state(split, tmp_path):
    X, y = bright_and_dark()
    settings = {"max_epochs": 3, "batch_size": 16, "random_state": 0, "train_split": split}
    np.random.seed(1)
    before = np.random.get_state()[1].copy()
    expected = ImageClassifier(**settings).fit(X, y).predict_proba(X)
    assert (np.random.get_state()[1] == before).all()
    np.random.seed(2)
    np.testing.assert_array_equal(ImageClassifier(**settings).fit(X, y).predict_proba(X), expected)

    class Stop(Callback):
        def on_epoch_end(self, net, **kwargs):
            if len(net.history) == 2:
                raise KeyboardInterrupt

    kept = settings | {"checkpoint_dir": tmp_path}
    with pytest.raises(KeyboardInterrupt):
        ImageClassifier(**kept, callbacks=[("stop", Stop())]).fit(X, y)
    np.testing.assert_array_equal(ImageClassifier(**kept).fit(X, y).predict_proba(X), expected)


@pytest.mark.parametrize("outputs", [1, 10])
def test_a_module_with_other_outputs_than_classes_is_refused_before_it_trains(outputs):
    X, y = bright_and_dark()
    classifier = ImageClassifier(Mean(outputs), max_epochs=1, random_state=0)
    with pytest.raises(ValueError, match=rf"logits of shape N x 2 classes, got \(2, {outputs}"):
        classifier.fit(X, y)
    assert not classifier.history_


class Flat(nn.Module):
    """Flattens by view(), as textbooks do."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4 * 64, 2)

    def forward(self, images):
        assert images.view(len(images), -1).shape == (len(images), 3 * 64)
        return self.last(self.first(images).relu().view(len(images), -1))


def test_a_network_that_flattens_by_view_trains():
    X, y = bright_and_dark()
    assert ImageClassifier(Flat, max_epochs=2, random_state=0).fit(X, y).predict(X).shape == (60,)


def test_skorchs_own_ways_of_use(tmp_path):
    X, y = bright_and_dark()
    names = np.array(["dark", "light"])
    settings = {"image_shape": (3, 8, 8), "classes": ["dark", "light"], "random_state": 0}
    scoring = BatchScoring("accuracy", lower_is_better=False, name="right")
    trained = ImageClassifier(max_epochs=2, batch_size=16, callbacks=[scoring], train_split=ValidSplit(4), **settings)
    trained.fit(X, names[y])
    assert 0 <= trained.history[-1, "right"] <= 1
    assert trained.history[-1, "right"] == pytest.approx(trained.history[-1, "valid_acc"])
    trained.save_params(tmp_path / "weights.pt")
    read = ImageClassifier(**settings).initialize()
    read.load_params(tmp_path / "weights.pt")
    # In batches of another size, which a processor may round otherwise.
    np.testing.assert_allclose(read.predict_proba(X), trained.predict_proba(X), rtol=1e-5)
    assert set(read.predict(X)) <= set(names)
    logits = trained.forward(X)
    np.testing.assert_allclose(logits.double().softmax(1).numpy(), trained.predict_proba(X), atol=1e-7)
    with pytest.raises(NotFittedError):
        ImageClassifier().forward(X)
    for callback in ({"use_caching": False}, {"callbacks": [EpochScoring("accuracy", use_caching=False)]}):
        with pytest.raises(ValueError, match="callbacks must have use_caching, of which"):
            ImageClassifier(train_split=ValidSplit(4), **callback).fit(X, y)


def test_a_module_made_anew_has_weights_by_random_state():
    X, y = bright_and_dark()

    class Wide(Mean):
        def __init__(self, num_classes=2, scale=1.0):
            super().__init__(num_classes)
            self.scale = scale

    made = []
    before = torch.get_rng_state()
    for _ in range(2):
        classifier = ImageClassifier(Wide, max_epochs=1, random_state=0).fit(X, y)
        made.append(classifier.set_params(module__scale=2.0).predict_proba(X))
    np.testing.assert_array_equal(*made)
    assert torch.equal(before, torch.get_rng_state())


def test_a_classifier_whose_training_diverged_is_not_fitted():
    X, y = bright_and_dark()
    classifier = ImageClassifier(max_epochs=1, random_state=0).fit(X, y)
    with pytest.raises(FloatingPointError):
        classifier.set_params(lr=1e30, max_epochs=5).fit(X, y)
    with pytest.raises(NotFittedError):
        classifier.predict(X)


def test_labels_and_weights_of_no_kind_are_named():
    X, y = bright_and_dark()
    with pytest.raises(TypeError, match="y must be of one kind, which sorts, got int, str"):
        ImageClassifier().fit(X, np.array([1, "x"] * 30, dtype=object))
    with pytest.raises(ValueError, match="sample_weight must hold 60 numbers, got 'balanced'"):
        ImageClassifier().fit(X, y, sample_weight="balanced")


def test_looking_at_outputs_leaves_the_global_generator_alone():
    images = np.random.default_rng(0).integers(0, 256, (12, 3, 8, 8), np.uint8)
    classifier = ImageClassifier(max_epochs=1, random_state=0).fit(images, np.arange(12) % 2)
    state = torch.get_rng_state()
    classifier.forward(images)
    list(classifier.forward_iter(images))
    classifier.predict(images)
    assert torch.equal(torch.get_rng_state(), state)

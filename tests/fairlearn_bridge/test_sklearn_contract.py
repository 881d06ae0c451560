"""Every estimator of the package behaves as users of scikit-learn and fairlearn expect."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from fairlearn.metrics import plot_model_comparison, selection_rate
from fairlearn.postprocessing import ThresholdOptimizer
from fairlearn.reductions import DemographicParity, ExponentiatedGradient
from scipy.sparse import csr_array
from sklearn import config_context
from sklearn.base import ClassifierMixin, clone
from sklearn.metrics import accuracy_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import nn

import fairlearn_bridge
from captum_region import DenseRegionClassifier, RegionGrid
from fairlearn_bridge import (
    JTT,
    AcceleratedImageClassifier,
    AdversarialLastLayer,
    AttributionNoiseMitigator,
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
    ThresholdShift,
)
from fairlearn_bridge.validation import check_rows_or_images

SHAPE = (3, 8, 8)


class Linear(nn.Module):
    def __init__(self, image_shape, num_classes):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(image_shape)), num_classes))

    def forward(self, images):
        assert images.min() >= 0
        assert images.max() <= 1
        return self.layers(images * 2 - 1)


class Convolution(nn.Module):
    def __init__(self, image_shape, num_classes):
        super().__init__()
        self.convolution = nn.Conv2d(image_shape[0], 4, 1)
        self.linear = nn.Linear(4 * image_shape[1] * image_shape[2], num_classes)

    def forward(self, images):
        return self.linear(self.convolution(images * 2 - 1).relu().flatten(1))


CLASSIFIER = ImageClassifier(Linear, max_epochs=1, lr=0.01, batch_size=16, random_state=0)
LEARNER = ImageClassifier(Linear, max_epochs=3, lr=0.1, batch_size=32, random_state=0)
REGIONS = DenseRegionClassifier(RegionGrid(8, 4, 4), 2, width=4, random_state=0)
SEARCHED = {"scheme": ["general_mask", "specific_noise"], "quantile": [0.5, 0.9]}
MITIGATOR = AttributionNoiseMitigator(CLASSIFIER, region_classifier=REGIONS, random_state=0)


def images_and_labels(n=48):
    """Return images, bright where y is 1, and a sensitive feature that goes along with y in two thirds of them."""
    rng = np.random.default_rng(0)
    y = np.arange(n) % 2
    X = rng.integers(0, 130, (n, *SHAPE)) + 100 * y[:, None, None, None]
    return X.astype(np.uint8), y, np.where(rng.random(n) < 2 / 3, y, 1 - y)


def made_up(y):
    """Return a sensitive feature that takes both values in each class: scikit-learn's checks know of none."""
    labels = pd.Series(np.ravel(np.asarray(y)).tolist()).astype(str)
    return (labels.groupby(labels).cumcount() % 2).to_numpy()


class Supplied:
    def fit(self, X, y):
        return super().fit(X, y, sensitive_features=made_up(y))


class SuppliedAttributionNoiseMitigator(AttributionNoiseMitigator):
    def fit(self, X, y, sample_weight=None):
        return super().fit(X, y, sensitive_features=made_up(y), sample_weight=sample_weight)


class SuppliedReweighing(Supplied, Reweighing):
    pass


class SuppliedBalancedResampling(Supplied, BalancedResampling):
    pass


class SuppliedGroupDRO(Supplied, GroupDRO):
    pass


class SuppliedJTT(Supplied, JTT):
    pass


class SuppliedLearningFromFailure(Supplied, LearningFromFailure):
    pass


class SuppliedMaskTune(Supplied, MaskTune):
    pass


class SuppliedLastLayerRetraining(Supplied, LastLayerRetraining):
    pass


class SuppliedLowSpuriosityRetraining(Supplied, LowSpuriosityRetraining):
    pass


class SuppliedEmbeddingCorrelationRemoval(Supplied, EmbeddingCorrelationRemoval):
    pass


class SuppliedAdversarialLastLayer(Supplied, AdversarialLastLayer):
    pass


class SuppliedThresholdShift(ThresholdShift):
    def fit(self, X, y):
        return super().fit(X, y, validation=(X, y))


ESTIMATORS = [
    ImageClassifier(max_epochs=5, batch_size=32, random_state=0),
    SuppliedAttributionNoiseMitigator(LEARNER, region_epochs=1, quantile=0.9, random_state=0),
    SuppliedReweighing(LEARNER),
    SuppliedBalancedResampling(LEARNER, random_state=0),
    SuppliedGroupDRO(LEARNER),
    SuppliedJTT(LEARNER, upweight=2),
    SuppliedLearningFromFailure(LEARNER),
    SuppliedMaskTune(clone(LEARNER).set_params(module=Convolution)),
    SuppliedLastLayerRetraining(LEARNER, draws=2, random_state=0),
    SuppliedLowSpuriosityRetraining(LEARNER, region_epochs=1, share=0.5, random_state=0),
    SuppliedEmbeddingCorrelationRemoval(LEARNER),
    SuppliedAdversarialLastLayer(LEARNER, max_iter=100, batch_size=32, lr=0.01, random_state=0),
    SuppliedThresholdShift(LEARNER),
]


def expected_failures(estimator):
    """Return scikit-learn's checks that cannot pass, each with its reason."""
    weights_and_copies = "check_sample_weight_equivalence_on_dense_data"
    if isinstance(estimator, ImageClassifier):
        return {
            weights_and_copies: "in one batch equal as far as float32 goes, see the next test; it asks for 1e-7",
            "check_no_attributes_set_in_init": "skorch's constructor sets history_, initialized_ and virtual_params_",
        }
    if isinstance(estimator, AttributionNoiseMitigator):
        return {weights_and_copies: "a copy of an image is given noise of its own"}
    if isinstance(estimator, ThresholdShift):
        return {
            "check_classifiers_train": "predict follows the shifted threshold, predict_proba does not; it wants 0.5"
        }
    return {}


def test_every_estimator_is_checked():
    public = (getattr(fairlearn_bridge, name) for name in fairlearn_bridge.__all__)
    estimators = {kind for kind in public if isinstance(kind, type) and issubclass(kind, ClassifierMixin)}
    checked = {base for estimator in ESTIMATORS for base in type(estimator).__mro__}
    # The same class in several processes, which scikit-learn's checks are not.
    assert estimators - checked == {AcceleratedImageClassifier}


# skorch reads callbacks as soon as they are set, and raises TypeError if they are no list; the check warns of that.
@pytest.mark.filterwarnings("ignore:TypeError occurred during set_params", "ignore:Estimator's parameters changed")
@parametrize_with_checks(ESTIMATORS, expected_failed_checks=expected_failures)
def test_scikit_learns_checks(estimator, check):
    check(estimator)


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda estimator: type(estimator).__name__)
def test_what_no_estimator_takes_is_refused_alike(estimator):
    X, y, _ = images_and_labels()
    rows = X.reshape(len(X), -1)
    with pytest.raises(TypeError, match="Sparse data was passed"):
        clone(estimator).fit(csr_array(rows), y)
    for continuous in (np.linspace(0.1, 0.9, len(X)), y + 0.5):
        with pytest.raises(ValueError, match="Unknown label type: continuous") as raised:
            clone(estimator).fit(X, continuous)
        assert not isinstance(raised.value, NotApplicableError)
    fitted = clone(estimator).fit(X, y)
    assert fitted.n_features_in_ == 192
    with pytest.raises(ValueError, match=r"X must hold images of shape \(3, 8, 8\), got \(1, 8, 8\)"):
        fitted.predict(X[:, :1])
    assert np.array_equal(
        clone(estimator).set_params(**in_shape(estimator)).fit(rows, y).predict(rows), fitted.predict(X)
    )


def in_shape(estimator):
    """Return the parameter that makes rows images."""
    return {"image_shape" if isinstance(estimator, ImageClassifier) else "estimator__image_shape": SHAPE}


READERS = [Reweighing, BalancedResampling, GroupDRO]
READERS += [
    LastLayerRetraining,
    LowSpuriosityRetraining,
    EmbeddingCorrelationRemoval,
    AdversarialLastLayer,
    AttributionNoiseMitigator,
]


@pytest.mark.parametrize("kind", READERS)
def test_a_continuous_sensitive_feature_is_refused(kind):
    X, y, _ = images_and_labels()
    with pytest.raises(ValueError, match="sensitive_features must be classes, got") as raised:
        kind(LEARNER).fit(X, y, sensitive_features=np.linspace(18.0, 90.5, len(X)))
    assert not isinstance(raised.value, NotApplicableError)


def test_a_weight_equals_as_many_copies_in_one_batch():
    X, _, y = images_and_labels()
    weight = np.arange(len(X)) % 4
    learner = clone(CLASSIFIER).set_params(max_epochs=5, batch_size=200)
    weighted = clone(learner).fit(X, y, sample_weight=weight).predict_proba(X)
    copied = clone(learner).fit(X.repeat(weight, 0), y.repeat(weight)).predict_proba(X)
    np.testing.assert_allclose(weighted, copied, rtol=1e-4)
    assert not np.allclose(weighted, clone(learner).fit(X, y).predict_proba(X), rtol=1e-3)


def test_rows_are_flattened_images():
    X, y, _ = images_and_labels()
    for images in (X, X / np.float32(255)):
        rows = images.reshape(len(X), -1)
        classifier = clone(CLASSIFIER).fit(images, y)
        by_rows = clone(CLASSIFIER).set_params(image_shape=SHAPE).fit(rows, y)
        assert classifier.n_features_in_ == by_rows.n_features_in_ == 192
        for same in (images, rows, torch.from_numpy(rows)):
            assert np.array_equal(by_rows.predict_proba(same), classifier.predict_proba(images))
            assert np.array_equal(classifier.predict_proba(same), classifier.predict_proba(images))


def test_rows_of_any_range_are_scaled_by_what_they_were_in_fit():
    X, y, group = images_and_labels()
    images = X / np.float32(256)
    rows = images.reshape(len(X), -1) * 8 - 4
    # Spans the range in every column: the scaling is then known.
    rows[:2], images[:2] = [[-4], [4]], np.reshape([0, 1], (2, 1, 1, 1))
    by_rows = clone(MITIGATOR).set_params(estimator__image_shape=SHAPE).fit(rows, y, sensitive_features=group)
    plain = clone(MITIGATOR).fit(images, y, sensitive_features=group)
    assert np.array_equal(by_rows.predict_proba(rows), plain.predict_proba(images))
    assert np.array_equal(by_rows.region_map_, plain.region_map_)
    beyond = np.where(images > 0.3, np.float32(9), rows.reshape(images.shape)).reshape(rows.shape)
    assert np.array_equal(by_rows.predict_proba(beyond), plain.predict_proba(np.where(images > 0.3, 1, images)))
    with pytest.raises(TypeError, match="not uint8"):
        by_rows.predict(X.reshape(rows.shape))
    by_rows.fit(images.reshape(rows.shape), y, sensitive_features=group)  # nothing of the old scaling is left
    assert np.array_equal(by_rows.predict_proba(images), plain.predict_proba(images))


@pytest.mark.parametrize(
    ("image_shape", "X", "words"),
    [
        ((3, 8), np.zeros((4, 192)), r"image_shape must be \(channels, height, width\), got \(3, 8\)"),
        (SHAPE, np.zeros((4, 190)), r"X must have 192 features for images of \(3, 8, 8\), got 190"),
        (SHAPE, np.zeros((4, 3, 8, 4)), r"X must hold images of shape \(3, 8, 8\), got \(3, 8, 4\)"),
    ],
)
def test_a_misfit_of_image_shape_is_named(image_shape, X, words):
    for estimator in (CLASSIFIER, AttributionNoiseMitigator(CLASSIFIER)):
        name = "image_shape" if estimator is CLASSIFIER else "estimator__image_shape"
        given = {} if estimator is CLASSIFIER else {"sensitive_features": [0, 0, 1, 1]}
        with pytest.raises(ValueError, match=words):
            clone(estimator).set_params(**{name: image_shape}).fit(X, [0, 1, 0, 1], **given)


def test_names_of_columns_are_kept_and_compared():
    X, y, _ = images_and_labels()
    frame = pd.DataFrame(X.reshape(len(X), -1)).add_prefix("pixel")
    classifier = clone(CLASSIFIER).set_params(image_shape=SHAPE).fit(frame, y)
    assert list(classifier.feature_names_in_) == list(frame.columns)
    with pytest.raises(ValueError, match="feature names should match"):
        classifier.predict(frame[frame.columns[::-1]])
    assert not hasattr(classifier.fit(X, y), "feature_names_in_")


def test_a_memory_map_is_not_copied(tmp_path):
    X, _, _ = images_and_labels()
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    assert check_rows_or_images(clone(CLASSIFIER), mapped, None, reset=True) is mapped
    rows = mapped.reshape(len(X), -1)
    assert np.shares_memory(check_rows_or_images(clone(CLASSIFIER), rows, SHAPE, reset=True), mapped)


def polars_series(values):
    return pytest.importorskip("polars").Series(np.asarray(values).tolist())


CONTAINERS = {
    "list": list,
    "series": lambda values: pd.Series(values, index=np.arange(len(values))[::-1]),
    "nullable": lambda values: pd.Series(values).convert_dtypes(),
    "categorical": lambda values: pd.Series(values, dtype="category"),
    "polars": polars_series,
    "torch": torch.as_tensor,
}


NAMES = {"int": [0, 1], "bool": [False, True], "string": ["dark", "bright"]}


@pytest.mark.parametrize(
    ("container", "names"),
    [
        pytest.param(container, names, id=f"{kind}-{container}")
        for kind, names in NAMES.items()
        for container in CONTAINERS
        if (kind, container) != ("string", "torch")  # which has no strings
    ],
)
def test_labels_in_any_container(container, names):
    X, y, group = images_and_labels()
    wrap, names = CONTAINERS[container], np.array(names)
    weight = np.arange(1, len(X) + 1) / 10
    given = {"sensitive_features": names[group], "sample_weight": weight}
    plain = clone(MITIGATOR).fit(X, names[y], **given)
    mitigator = clone(MITIGATOR).fit(X, wrap(names[y]), **{name: wrap(values) for name, values in given.items()})
    assert np.array_equal(mitigator.classes_, plain.classes_)
    assert np.array_equal(mitigator.predict_proba(X), plain.predict_proba(X))
    assert set(mitigator.predict(X)) <= set(names)


def test_sensitive_features_as_a_frame():
    X, y, group = images_and_labels()
    plain, framed = (
        clone(MITIGATOR).fit(X, y, sensitive_features=values) for values in (group, pd.DataFrame({"group": group}))
    )
    assert np.array_equal(framed.predict_proba(X), plain.predict_proba(X))
    # Several columns are one sensitive feature, of as many values as they have combinations: as fairlearn has it.
    two = pd.DataFrame({"group": group, "odd": np.arange(len(X)) % 2 == 1})
    own = clone(MITIGATOR).set_params(region_classifier=None, region_epochs=1)
    several = clone(own).fit(X, y, sensitive_features=two)
    assert several.region_classifier_.num_classes == 4
    told = clone(own).fit(X, y, sensitive_features=[f"{a},{b}" for a, b in two.to_numpy()])
    assert np.array_equal(several.predict_proba(X), told.predict_proba(X))
    with pytest.raises(ValueError, match="sensitive_features must not have missing values, got 24 missing"):
        clone(own).fit(X, y, sensitive_features=two.astype(object).replace({"odd": {True: None}}))


def test_three_classes_of_strings():
    X, _, group = images_and_labels()
    y = np.array(["a", "b", "c"])[np.arange(len(X)) % 3]
    mitigator = clone(MITIGATOR).fit(X, y, sensitive_features=group)
    probability = mitigator.predict_proba(X)
    assert probability.shape == (48, 3)
    assert probability.dtype == np.float64
    assert np.array_equal(mitigator.predict(X), mitigator.classes_[probability.argmax(1)])


def test_classes_may_be_given_in_an_order_of_ones_own_and_more_than_occur():
    X, y, _ = images_and_labels()
    y = np.array(["b", "a"])[y]
    classifier = clone(CLASSIFIER).set_params(max_epochs=20, classes=["b", "a", "c"]).fit(X, y)
    assert classifier.predict_proba(X).shape == (48, 3)
    assert classifier.score(X, y) > 0.9
    with pytest.raises(ValueError, match="classes must hold all labels"):
        classifier.set_params(classes=["a", "c"]).fit(X, y)


def test_a_mitigator_is_pickled_and_a_second_fit_starts_anew():
    X, y, group = images_and_labels()
    mitigator = clone(MITIGATOR).set_params(scheme="specific_transplant")
    first = mitigator.fit(X, y, sensitive_features=group).predict_proba(X)
    assert np.array_equal(pickle.loads(pickle.dumps(mitigator)).predict_proba(X), first)
    assert np.array_equal(mitigator.fit(X, y, sensitive_features=group).predict_proba(X), first)
    assert not np.array_equal(
        mitigator.set_params(random_state=1).fit(X, y, sensitive_features=group).predict_proba(X), first
    )


def test_fit_changes_nothing_of_the_users():
    given = [*images_and_labels(), np.ones(48)]
    before = [values.copy() for values in given]
    for values in given:
        values.flags.writeable = False
    X, y, group, weight = given
    mitigator = clone(MITIGATOR)
    parameters = {name: id(value) for name, value in mitigator.get_params(deep=False).items()}
    mitigator.fit(X, y, sensitive_features=group, sample_weight=weight)
    assert {name: id(value) for name, value in mitigator.get_params(deep=False).items()} == parameters
    assert not hasattr(mitigator.estimator, "classes_")
    assert all(map(np.array_equal, given, before))


def test_partial_fit_is_refused():
    assert not hasattr(CLASSIFIER, "partial_fit")
    with pytest.raises(AttributeError, match="warm_start"):
        CLASSIFIER.partial_fit(*images_and_labels()[:2])


def test_grid_search_over_scheme_and_quantile():
    X, y, group = images_and_labels()
    search = GridSearchCV(MITIGATOR, SEARCHED, cv=2).fit(X, y, sensitive_features=group)
    assert len(search.cv_results_["params"]) == 4
    assert search.best_estimator_.noise_.scheme == search.best_params_["scheme"]
    assert search.predict_proba(X).shape == (48, 2)


def test_sensitive_features_are_routed():
    X, y, group = images_and_labels()
    plain = clone(MITIGATOR).fit(X, y, sensitive_features=group, sample_weight=y + 1.0)
    with config_context(enable_metadata_routing=True):
        asks = (
            clone(MITIGATOR)
            .set_fit_request(sensitive_features=True, sample_weight=True)
            .set_score_request(sample_weight=True)
        )
        pipeline = make_pipeline(FunctionTransformer(), asks)
        routed = clone(pipeline).fit(X, y, sensitive_features=group, sample_weight=y + 1.0)
        assert np.array_equal(routed.predict_proba(X), plain.predict_proba(X))
        grid = {f"attributionnoisemitigator__{name}": values for name, values in SEARCHED.items()}
        search = GridSearchCV(pipeline, grid, cv=2).fit(X, y, sensitive_features=group, sample_weight=y + 1.0)
        assert set(search.best_params_) == set(grid)
        scores = cross_val_score(asks, X, y, cv=2, params={"sensitive_features": group, "sample_weight": y + 1.0})
        assert scores.shape == (2,)
        weighed = make_pipeline(FunctionTransformer(), clone(CLASSIFIER).set_fit_request(sample_weight=True))
        by_hand = clone(CLASSIFIER).fit(X, y, sample_weight=y + 1.0)
        assert np.array_equal(weighed.fit(X, y, sample_weight=y + 1.0).predict_proba(X), by_hand.predict_proba(X))


def test_a_pipeline_hands_sensitive_features_on_without_routing_too():
    X, y, group = images_and_labels()
    pipeline = make_pipeline(FunctionTransformer(), MITIGATOR)
    pipeline.fit(X, y, attributionnoisemitigator__sensitive_features=group)
    assert pipeline.predict(X).shape == (48,)


# fairlearn fills a pandas Series in a way that pandas deprecates.
@pytest.mark.filterwarnings("ignore:Setting a")
@pytest.mark.parametrize("as_rows", [False, True])
def test_fairlearns_mitigators_train_it(as_rows):
    X, y, group = images_and_labels()
    if as_rows:
        X = pd.DataFrame(X.reshape(len(X), -1))
    classifier = clone(CLASSIFIER).set_params(image_shape=SHAPE, max_epochs=3)
    gradient = ExponentiatedGradient(classifier, DemographicParity(), max_iter=2)
    gradient.fit(X, y, sensitive_features=group)
    assert set(gradient.predict(X, random_state=0)) <= {0, 1}
    optimizer = ThresholdOptimizer(estimator=classifier, predict_method="predict_proba")
    optimizer.fit(X, y, sensitive_features=group)
    predicted = optimizer.predict(X, sensitive_features=group, random_state=0)
    rates = [predicted[group == value].mean() for value in (0, 1)]
    assert abs(rates[0] - rates[1]) < 0.3


def test_fairlearn_plots_it_beside_a_mitigator():
    X, y, group = images_and_labels()
    predicted = {
        "original": clone(CLASSIFIER).fit(X, y).predict(X),
        "mitigated": clone(MITIGATOR).fit(X, y, sensitive_features=group).predict(X),
    }
    axes = plot_model_comparison(
        x_axis_metric=accuracy_score,
        y_axis_metric=selection_rate,
        y_true=y,
        y_preds=predicted,
        sensitive_features=group,
        point_labels=True,
        show_plot=False,
    )
    assert {text.get_text() for text in axes.texts} == set(predicted)

"""Mitigators that train as usual, then retrain the last layer."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
import torch
from fairlearn.adversarial import AdversarialFairnessClassifier
from fairlearn.preprocessing import CorrelationRemover
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from captum_region.batches import ImageData
from captum_region.randomness import RandomState, draw_seed, seeded
from captum_region.validation import check_count
from fairlearn_bridge.baselines.base import Mitigator, images_of, need_layer
from fairlearn_bridge.classifier import ImageClassifier
from fairlearn_bridge.validation import check_number, check_sensitive, class_positions


def last_features(classifier: ImageClassifier, X: ImageData) -> NDArray[np.float64]:
    """Return what goes into the last linear layer of a fitted classifier's module, N x features.

    Raises
    ------
    ValueError
        If there is no image.
    """
    *_, last = (layer for layer in classifier.module_.modules() if isinstance(layer, nn.Linear))
    kept: list[Tensor] = []
    with seeded(0):  # a prediction in another thread would go through the hook too
        handle = last.register_forward_pre_hook(lambda layer, inputs: kept.append(inputs[0].flatten(1).cpu()))
        try:
            classifier.predict_proba(X)
        finally:
            handle.remove()
    if not kept:
        raise ValueError("X must hold at least one image, got none")
    return torch.cat(kept).double().numpy()


def fit_head(features: NDArray[np.float64], positions: NDArray[np.intp], C: float) -> Pipeline:
    """Return a logistic regression of standardised features, fitted to the positions of the labels in ``classes_``."""
    return make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=1000)).fit(features, positions)


def _of_all_classes(
    classifier: ImageClassifier, probability: NDArray[np.float64], positions: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Return the probability of each class of a classifier, N x classes: 0 but at the given positions."""
    found = np.zeros((len(probability), len(classifier.classes_)))
    found[:, positions] = probability
    return found


@dataclass(eq=False, repr=False)
class HeadMitigator(Mitigator):
    """A mitigator that retrains the last layer as logistic regressions, its heads."""

    _predicts_with: ClassVar[tuple[str, ...]] = ("estimator_", "heads_")

    def predict_proba(self, X: ImageData) -> NDArray[np.float64]:
        """Return the heads' mean probability of each class, N x classes."""
        check_is_fitted(self, "heads_")
        features = last_features(self.estimator_, X)
        found = [_of_all_classes(self.estimator_, head.predict_proba(features), head.classes_) for head in self.heads_]
        return np.asarray(np.mean(found, axis=0))


@dataclass(eq=False, repr=False, kw_only=True)
class LastLayerRetraining(HeadMitigator):
    """Train as usual, then retrain the last layer on equally many images of each cell of class and sensitive feature.

    Deep feature reweighting, on the training images themselves (the authors' DFR-Tr): the mean of several logistic
    regressions of what goes into the last linear layer, each on its own balanced draw.

    Parameters
    ----------
    estimator : ImageClassifier
        Cloned and trained. Its module has an ``nn.Linear`` as its last.
    draws : int, default=10
        Balanced draws.
    C : float, default=1.0
        Inverse strength of the regressions' penalty, of standardised features.
    random_state : int, NumPy generator or None, default=None
        Decides the draws.

    Attributes
    ----------
    heads_ : list of Pipeline
        The regressions, whose labels are positions in ``classes_``.
    estimator_ : ImageClassifier
        The fitted classifier, its own last layer as first trained.

    See Also
    --------
    LowSpuriosityRetraining : Needs no image of every cell.
    EmbeddingCorrelationRemoval, AdversarialLastLayer : Retrain the last layer in other ways.

    References
    ----------
    Kirichenko, Izmailov, Wilson, "Last Layer Re-Training is Sufficient for Robustness to Spurious Correlations", ICLR
    2023.
    """

    _of_empty_cells: ClassVar[str | None] = "no draw can be balanced"
    draws: int = 10
    C: float = 1.0
    random_state: RandomState = None

    def fit(self, X: ImageData, y: ArrayLike, *, sensitive_features: ArrayLike) -> Self:
        """Train the classifier, then the heads.

        Parameters
        ----------
        X, y
            As in `ImageClassifier.fit`.
        sensitive_features : array-like of shape (N,) or (N, features), or str
            The spurious attribute; of several columns, their combination.

        Returns
        -------
        self

        Raises
        ------
        NotApplicableError
            If a cell is empty.
        ValueError
            If `draws` is below 1, `C` not above 0, or the module has no linear layer.
        """
        self._check_parameters()
        X, cells = self._cells_of(X, y, sensitive_features)
        generator = np.random.default_rng(draw_seed(self.random_state))
        labels = cells["y"].to_numpy()
        need_layer(self.estimator, images_of(self.estimator, X), labels, nn.Linear)
        self.estimator_ = clone(self.estimator).fit(X, labels)
        features, positions = last_features(self.estimator_, X), class_positions(self.estimator_, labels)
        least = int(cells["cell"].value_counts().min())
        self.heads_ = []
        for _ in range(self.draws):
            drawn = np.concatenate(
                [generator.permutation(members)[:least] for members in cells.groupby("cell").indices.values()]
            )
            self.heads_.append(fit_head(features[drawn], positions[drawn], self.C))
        return self

    def _check_parameters(self) -> None:
        check_count("draws", self.draws)
        check_number("C", self.C, 0, inside=True)


@dataclass(eq=False, repr=False, kw_only=True)
class EmbeddingCorrelationRemoval(Mitigator):
    """Train as usual, then retrain the last layer on an embedding uncorrelated with the sensitive feature.

    fairlearn's ``CorrelationRemover`` on what goes into the last linear layer, standardised: each feature less its
    linear regression on the sensitive feature, value by value. In training data where class and sensitive feature go
    together this takes from the embedding what the two share, and so some of the class.

    What is removed from an image's embedding depends on its sensitive feature, so prediction needs it too. Where it is
    not known, the mean of the training images is used instead: nothing is removed, and what the embedding shows of the
    sensitive feature reaches the new layer, which was trained without it.

    Parameters
    ----------
    estimator : ImageClassifier
        Cloned and trained. Its module has an ``nn.Linear`` as its last.
    alpha : float, default=1.0
        How much of the correlation is taken, in [0, 1].
    C : float, default=1.0
        Inverse strength of the new layer's penalty.

    Attributes
    ----------
    sensitive_values_ : ndarray
        The sorted values of the sensitive feature in training.
    scaler_ : StandardScaler
    remover_ : CorrelationRemover
        Of the standardised features, with an indicator of each sensitive value but the first behind them.
    head_ : LogisticRegression
        The new last layer, whose labels are positions in ``classes_``.
    estimator_ : ImageClassifier
        The fitted classifier, its own last layer as first trained.

    See Also
    --------
    AdversarialLastLayer, LastLayerRetraining : Retrain the last layer in other ways.
    """

    _predicts_with: ClassVar[tuple[str, ...]] = ("estimator_", "sensitive_values_", "scaler_", "remover_", "head_")
    alpha: float = 1.0
    C: float = 1.0

    def fit(self, X: ImageData, y: ArrayLike, *, sensitive_features: ArrayLike) -> Self:
        """Train the classifier, fit the remover, train the new layer.

        Parameters
        ----------
        X, y
            As in `ImageClassifier.fit`.
        sensitive_features : array-like of shape (N,) or (N, features), or str
            The spurious attribute; of several columns, their combination.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If `alpha` is not in [0, 1], `C` not above 0, or the module has no linear layer.
        """
        self._check_parameters()
        X, cells = self._cells_of(X, y, sensitive_features)
        labels, sensitive = cells["y"].to_numpy(), cells["sensitive_features"].to_numpy()
        need_layer(self.estimator, images_of(self.estimator, X), labels, nn.Linear)
        self.sensitive_values_ = np.unique(sensitive)
        self.estimator_ = clone(self.estimator).fit(X, labels)
        features = last_features(self.estimator_, X)
        # Scaled before, not after: scaling would blow up the rounding errors that are left of a feature taken whole.
        self.scaler_ = StandardScaler().fit(features)
        columns = np.hstack([self.scaler_.transform(features), self._indicators(sensitive)])
        self.remover_ = CorrelationRemover(
            sensitive_feature_ids=range(features.shape[1], columns.shape[1]), alpha=self.alpha
        )
        embedded, positions = self.remover_.fit_transform(columns), class_positions(self.estimator_, labels)
        self.head_ = LogisticRegression(C=self.C, max_iter=1000).fit(embedded, positions)
        return self

    def _check_parameters(self) -> None:
        check_number("alpha", self.alpha, 0, 1)
        check_number("C", self.C, 0, inside=True)

    def _indicators(self, sensitive: NDArray[Any]) -> NDArray[np.float64]:
        return np.asarray(sensitive[:, None] == self.sensitive_values_[1:], dtype=float)

    def embed(self, X: ImageData, *, sensitive_features: ArrayLike | None = None) -> NDArray[np.float64]:
        """Return the embedding without the correlation, N x features, as the new layer gets it.

        Raises
        ------
        ValueError
            If `sensitive_features` has another length than X, or a value that it did not have in `fit`.
        """
        check_is_fitted(self, "head_")
        features = self.scaler_.transform(last_features(self.estimator_, X))
        if sensitive_features is None:
            indicators = np.tile(self.remover_.sensitive_mean_, (len(features), 1))
        else:
            sensitive = check_sensitive(sensitive_features, len(features))
            if unknown := set(sensitive.tolist()) - set(self.sensitive_values_.tolist()):
                known = self.sensitive_values_.tolist()
                raise ValueError(f"sensitive_features must have the values it had in fit, {known}, got {unknown} too")
            indicators = self._indicators(sensitive)
        return np.asarray(self.remover_.transform(np.hstack([features, indicators])))

    def predict_proba(self, X: ImageData, *, sensitive_features: ArrayLike | None = None) -> NDArray[np.float64]:
        """Return the new layer's probability of each class, N x classes."""
        embedded = self.embed(X, sensitive_features=sensitive_features)
        return _of_all_classes(self.estimator_, self.head_.predict_proba(embedded), self.head_.classes_)

    def predict(self, X: ImageData, *, sensitive_features: ArrayLike | None = None) -> NDArray[Any]:
        """Return the likeliest label of each image, shape (N,)."""
        likeliest = self.predict_proba(X, sensitive_features=sensitive_features).argmax(1)
        return np.asarray(self.classes_[likeliest])


@dataclass(eq=False, repr=False, kw_only=True)
class AdversarialLastLayer(Mitigator):
    """Train as usual, then retrain the last layer against an adversary that predicts the sensitive feature from it.

    fairlearn's ``AdversarialFairnessClassifier`` on what goes into the last linear layer, standardised; both the new
    layer and the adversary are linear.

    Parameters
    ----------
    estimator : ImageClassifier
        Cloned and trained. Its module has an ``nn.Linear`` as its last.
    constraints : {"equalized_odds", "demographic_parity"}, default="equalized_odds"
        Whether the adversary gets the class, and so finds only what the output says about the sensitive feature
        within a class. Where class and sensitive feature go together, demographic parity forbids predicting the class.
    alpha : float, default=1.0
        How much the adversary's loss counts.
    max_iter, batch_size, lr : int, int, float, default=2500, 128 and 1e-3
        Steps of the training of the new layer and the adversary, rounded up to whole passes over the images, and
        images of each; both train by Adam. The result depends on which label sorts first, and the more so the fewer
        steps there are, as the game has not settled. The adversary's rate is ten times `lr`: at the same rate,
        fairlearn's default, the layer outran it on the synthetic faces and learnt to predict the opposite.
    random_state : int, NumPy generator or None, default=None
        Decides the order of the images in this training; initial weights are the same in all, fairlearn's.

    Attributes
    ----------
    scaler_ : StandardScaler
    head_ : nn.Linear
        The new last layer, of the classes that occur in training; with two it has one output, the logit of the second.
    n_iter_ : int
        Steps taken.
    estimator_ : ImageClassifier
        The fitted classifier, its own last layer as first trained.

    See Also
    --------
    EmbeddingCorrelationRemoval, LastLayerRetraining : Retrain the last layer in other ways.

    References
    ----------
    Zhang, Lemoine, Mitchell, "Mitigating Unwanted Biases with Adversarial Learning", AIES 2018.
    """

    _predicts_with: ClassVar[tuple[str, ...]] = ("estimator_", "scaler_", "head_")
    constraints: str = "equalized_odds"
    alpha: float = 1.0
    max_iter: int = 2500
    batch_size: int = 128
    lr: float = 1e-3
    random_state: RandomState = None

    def fit(self, X: ImageData, y: ArrayLike, *, sensitive_features: ArrayLike) -> Self:
        """Train the classifier, then the new layer against the adversary.

        Parameters
        ----------
        X, y
            As in `ImageClassifier.fit`.
        sensitive_features : array-like of shape (N,) or (N, features), or str
            The spurious attribute; of several columns, their combination.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If a parameter is out of range or the module has no linear layer.
        FloatingPointError
            If the game diverges.
        """
        self._check_parameters()
        X, cells = self._cells_of(X, y, sensitive_features)
        need_layer(self.estimator, images_of(self.estimator, X), cells["y"].to_numpy(), nn.Linear)
        seed = draw_seed(self.random_state)
        self.estimator_ = clone(self.estimator).fit(X, cells["y"].to_numpy())
        features = last_features(self.estimator_, X)
        self.scaler_ = StandardScaler().fit(features)
        # fairlearn 0.15 rounds the seed that it draws to 0: its shuffling differs only from rows in another order.
        order = np.random.default_rng(seed).permutation(len(features))
        game = AdversarialFairnessClassifier(
            backend="torch",
            predictor_model=[],
            adversary_model=[],
            constraints=self.constraints,
            alpha=self.alpha,
            learning_rate=self.lr,
            adversary_optimizer=lambda adversary: torch.optim.Adam(adversary.parameters(), lr=10 * self.lr),
            epochs=math.ceil(self.max_iter / math.ceil(len(features) / self.batch_size)),
            batch_size=self.batch_size,
            shuffle=True,
            random_state=seed,
        )
        with seeded(seed):  # fairlearn seeds the global generator, and leaves it so
            game.fit(
                self.scaler_.transform(features)[order],
                # fairlearn wants consecutive numbers, also where a class of the classifier does not occur.
                np.unique(class_positions(self.estimator_, cells["y"]), return_inverse=True)[1][order],
                sensitive_features=pd.factorize(cells["sensitive_features"], sort=True)[0][order],
            )
        self.n_iter_ = int(game.n_iter_)
        # Its layer alone: the rest cannot be pickled.
        self.head_ = game.backendEngine_.predictor_model.layers_[0].double()
        if not all(part.isfinite().all() for part in self.head_.parameters()):
            raise FloatingPointError(f"the new layer became infinite or NaN; try a lower lr than {self.lr}")
        return self

    def _check_parameters(self) -> None:
        if self.constraints not in ("equalized_odds", "demographic_parity"):
            raise ValueError(f"constraints must be 'equalized_odds' or 'demographic_parity', got {self.constraints!r}")
        check_number("alpha", self.alpha, 0)
        check_number("lr", self.lr, 0, inside=True)
        check_count("max_iter", self.max_iter)
        check_count("batch_size", self.batch_size)

    def predict_proba(self, X: ImageData) -> NDArray[np.float64]:
        """Return the new layer's probability of each class, N x classes."""
        check_is_fitted(self, "head_")
        features = torch.from_numpy(self.scaler_.transform(last_features(self.estimator_, X)))
        with torch.no_grad():
            logits = self.head_(features)
        if logits.shape[1] == 1:
            logits = torch.cat([torch.zeros_like(logits), logits], 1)
        occurring = np.flatnonzero(self.estimator_.class_counts_)
        return _of_all_classes(self.estimator_, logits.softmax(1).numpy(), occurring)

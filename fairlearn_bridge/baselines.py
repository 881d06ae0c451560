"""The other mitigators and controls, each a fairlearn-style estimator."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from captum.attr import LayerAttribution, LayerGradCam
from fairlearn.adversarial import AdversarialFairnessClassifier
from fairlearn.preprocessing import CorrelationRemover
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin, clone
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import make_scorer, recall_score
from sklearn.model_selection import TunedThresholdClassifierCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from captum_region.batches import batches, check_images, take
from captum_region.labels import check_classes
from captum_region.randomness import RandomState, draw_seed, seeded
from fairlearn_bridge.validation import check_sensitive, from_names

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from captum_region.batches import ImageData
    from fairlearn_bridge.classifier import ImageClassifier


class NotApplicableError(ValueError):
    """A mitigator cannot do anything with these training data; the message says why."""


def _cells(X: ImageData, y: ArrayLike, sensitive_features: ArrayLike) -> tuple[ImageData, pd.DataFrame]:
    """Return X, its labels and sensitive features, checked, and the number of each image's cell, by which they sort."""
    X, y, sensitive_features = from_names(X, y, sensitive_features)
    table = {
        "y": check_classes(y, len(X), name="y", least=2),
        "sensitive_features": check_sensitive(sensitive_features, len(X)),
    }
    cells = pd.DataFrame(table)
    return X, cells.assign(cell=cells.groupby(["y", "sensitive_features"]).ngroup())


def _need_all_cells(cells: pd.DataFrame, what: str) -> None:
    """Raise NotApplicableError if a class has no image with one of the sensitive feature's values."""
    counts = pd.crosstab(cells["y"], cells["sensitive_features"])
    for label, row in counts.iterrows():
        for value in row.index[row == 0]:
            raise NotApplicableError(f"no training image of class {label} has the sensitive feature {value}: {what}")


class _Mitigator(MetaEstimatorMixin, ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """What has trained an image classifier in its own way, and predicts by it."""

    estimator_: Any

    @property
    def classes_(self) -> NDArray[Any]:
        """The sorted labels."""
        classes: NDArray[Any] = self.estimator_.classes_
        return classes

    def predict_proba(self, X: ImageData) -> NDArray[np.float64]:
        """Return the probability of each class of ``classes_``, N x classes."""
        check_is_fitted(self, "estimator_")
        probability: NDArray[np.float64] = self.estimator_.predict_proba(X)
        return probability

    def predict(self, X: ImageData) -> NDArray[Any]:
        """Return the likeliest label of each image, shape (N,)."""
        likeliest = self.predict_proba(X).argmax(1)  # first: it tells that there has been no fit
        predicted: NDArray[Any] = self.classes_[likeliest]
        return predicted


class Reweighing(_Mitigator):
    """Weigh each image so that class and sensitive feature are independent in the training data.

    Kamiran, Calders, "Data preprocessing techniques for classification without discrimination", Knowledge and
    Information Systems 33, 2012: P(y) P(s) / P(y, s), of its own class y and sensitive feature s. An empty cell has no
    image that could weigh more, and stays empty.

    Parameters
    ----------
    estimator : classifier whose ``fit`` takes ``sample_weight``
        Cloned and trained.

    Attributes
    ----------
    sample_weight_ : ndarray of shape (N,)
    estimator_ : estimator
        The fitted classifier.
    """

    def __init__(self, estimator: Any) -> None:
        self.estimator = estimator

    def fit(self, X: ImageData, y: ArrayLike, *, sensitive_features: ArrayLike) -> Reweighing:
        """Train on X and y, weighed by cell."""
        X, cells = _cells(X, y, sensitive_features)
        share = {
            name: cells.groupby(name)[name].transform("size") / len(cells)
            for name in ("y", "sensitive_features", "cell")
        }
        self.sample_weight_ = (share["y"] * share["sensitive_features"] / share["cell"]).to_numpy()
        self.estimator_ = clone(self.estimator).fit(X, cells["y"].to_numpy(), sample_weight=self.sample_weight_)
        return self


class BalancedResampling(_Mitigator):
    """Train on as many images of each cell of class and sensitive feature, N in all.

    Of a cell that has too few, images are drawn again.

    Parameters
    ----------
    estimator : classifier
        Cloned and trained.
    random_state : int, NumPy generator or None, default=None
        Decides the draws.

    Attributes
    ----------
    sample_indices_ : ndarray of int
        The positions of the images that were drawn, as imbalanced-learn names them.
    estimator_ : estimator
        The fitted classifier.
    """

    def __init__(self, estimator: Any, *, random_state: RandomState = None) -> None:
        self.estimator = estimator
        self.random_state = random_state

    def fit(self, X: ImageData, y: ArrayLike, *, sensitive_features: ArrayLike) -> BalancedResampling:
        """Draw the images and train on them.

        Raises
        ------
        NotApplicableError
            If a cell is empty.
        """
        X, cells = _cells(X, y, sensitive_features)
        X = check_images(X, name="X")
        _need_all_cells(cells, "there is nothing to draw for that cell")
        generator = np.random.default_rng(draw_seed(self.random_state))
        drawn = [
            generator.permutation(np.resize(generator.permutation(members), len(X) // cells["cell"].nunique()))
            for members in cells.groupby("cell").indices.values()
        ]
        self.sample_indices_ = np.sort(np.concatenate(drawn))
        self.estimator_ = clone(self.estimator).fit(
            take(X, self.sample_indices_), cells["y"].to_numpy()[self.sample_indices_]
        )
        return self


class _WorstGroups:
    """The loss of a batch in GroupDRO: the groups' mean losses, weighed by how badly each has done so far."""

    def __init__(self, group: NDArray[np.intp], step_size: float) -> None:
        self.group = torch.tensor(group)  # a copy: pandas may give what cannot be written to
        self.step_size = step_size
        self.weight = torch.full((int(group.max()) + 1,), 1 / (int(group.max()) + 1))

    def state_dict(self) -> dict[str, Tensor]:
        return {"weight": self.weight}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.weight = state["weight"]

    def __call__(self, losses: Tensor, index: Tensor) -> Tensor:
        group = self.group.to(losses.device)[index.to(losses.device)]
        self.weight = self.weight.to(losses.device)
        count = torch.bincount(group, minlength=len(self.weight))
        total = torch.zeros_like(self.weight).index_add(0, group, losses)
        mean = total / count.clamp(min=1)
        self.weight = self.weight * (self.step_size * mean.detach()).exp()
        self.weight = self.weight / self.weight.sum()
        return (self.weight * mean).sum()


class GroupDRO(_Mitigator):
    """Minimise the loss of the worst cell of class and sensitive feature.

    Sagawa, Koh, Hashimoto, Liang, "Distributionally Robust Neural Networks for Group Shifts", ICLR 2020, algorithm 1.
    They add much regularisation; set the estimator's weight decay and epochs accordingly.

    Parameters
    ----------
    estimator : ImageClassifier
        Cloned and trained.
    step_size : float, default=0.01
        How fast the weights of the cells move.

    Attributes
    ----------
    estimator_ : ImageClassifier
        The fitted classifier.
    """

    def __init__(self, estimator: ImageClassifier, *, step_size: float = 0.01) -> None:
        self.estimator = estimator
        self.step_size = step_size

    def fit(self, X: ImageData, y: ArrayLike, *, sensitive_features: ArrayLike) -> GroupDRO:
        """Train for the worst cell.

        Raises
        ------
        NotApplicableError
            If a cell is empty: it may be the worst, and is never seen.
        ValueError
            If `step_size` is not above 0.
        """
        if not self.step_size > 0:
            raise ValueError(f"step_size must be above 0, got {self.step_size}")
        X, cells = _cells(X, y, sensitive_features)
        _need_all_cells(cells, "a worst cell that is never seen cannot be minimised")
        reduction = _WorstGroups(cells["cell"].to_numpy(), self.step_size)
        self.estimator_ = clone(self.estimator).set_params(loss_reduction=reduction).fit(X, cells["y"].to_numpy())
        return self


class JTT(_Mitigator):
    """Just train twice: train shortly, then again with those weighed more that were got wrong.

    Liu et al., "Just Train Twice: Improving Group Robustness without Training Group Information", ICML 2021. It needs
    no sensitive feature, but what it upweighs are mistakes on the training images: where the first training makes
    none, it is the estimator itself.

    Parameters
    ----------
    estimator : ImageClassifier
        Cloned and trained, twice.
    first_epochs : int, default=2
        Epochs of the first training.
    upweight : float, default=20
        The weight of what it gets wrong.

    Attributes
    ----------
    is_wrong_ : ndarray of bool, shape (N,)
    estimator_ : ImageClassifier
        The classifier of the second training.
    """

    def __init__(self, estimator: ImageClassifier, *, first_epochs: int = 2, upweight: float = 20) -> None:
        self.estimator = estimator
        self.first_epochs = first_epochs
        self.upweight = upweight

    def fit(self, X: ImageData, y: ArrayLike, *, sensitive_features: ArrayLike | None = None) -> JTT:
        """Train twice; the sensitive features are not used.

        Raises
        ------
        ValueError
            If `first_epochs` is below 1 or `upweight` not above 0.
        """
        if self.first_epochs < 1 or not self.upweight > 0:
            raise ValueError(
                f"first_epochs must be at least 1 and upweight above 0, got {self.first_epochs} and {self.upweight}"
            )
        X, y = from_names(X, y)
        labels = check_classes(y, len(X), name="y", least=2)
        first = clone(self.estimator).set_params(max_epochs=self.first_epochs).fit(X, labels)
        self.is_wrong_: NDArray[np.bool_] = first.predict(X) != labels
        weight = np.where(self.is_wrong_, self.upweight, 1.0)
        self.estimator_ = clone(self.estimator).fit(X, labels, sample_weight=weight)
        return self


class LastLayerRetraining(_Mitigator):
    """Train as usual, then the last layer anew, on as many images of each cell of class and sensitive feature.

    Deep feature reweighting (Kirichenko, Izmailov, Wilson, "Last Layer Re-Training is Sufficient for Robustness to
    Spurious Correlations", ICLR 2023), on the training images themselves (their DFR-Tr): the mean of several logistic
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
        The regressions.
    estimator_ : ImageClassifier
        The fitted classifier, its own last layer as first trained.
    """

    def __init__(
        self, estimator: ImageClassifier, *, draws: int = 10, C: float = 1.0, random_state: RandomState = None
    ) -> None:
        self.estimator = estimator
        self.draws = draws
        self.C = C
        self.random_state = random_state

    def fit(self, X: ImageData, y: ArrayLike, *, sensitive_features: ArrayLike) -> LastLayerRetraining:
        """Train the classifier, then the heads.

        Raises
        ------
        NotApplicableError
            If a cell is empty.
        ValueError
            If `draws` is below 1 or the module has no linear layer.
        """
        if self.draws < 1:
            raise ValueError(f"draws must be at least 1, got {self.draws}")
        X, cells = _cells(X, y, sensitive_features)
        _need_all_cells(cells, "no draw can be balanced")
        generator = np.random.default_rng(draw_seed(self.random_state))
        labels = cells["y"].to_numpy()
        self.estimator_ = clone(self.estimator).fit(X, labels)
        features = last_features(self.estimator_, X)
        least = int(cells["cell"].value_counts().min())
        self.heads_ = []
        for _ in range(self.draws):
            drawn = np.concatenate(
                [generator.permutation(members)[:least] for members in cells.groupby("cell").indices.values()]
            )
            head = make_pipeline(StandardScaler(), LogisticRegression(C=self.C, max_iter=1000))
            self.heads_.append(head.fit(features[drawn], labels[drawn]))
        return self

    def predict_proba(self, X: ImageData) -> NDArray[np.float64]:
        """Return the heads' mean probability of each class, N x classes."""
        check_is_fitted(self, "heads_")
        features = last_features(self.estimator_, X)
        probability: NDArray[np.float64] = np.mean([head.predict_proba(features) for head in self.heads_], axis=0)
        return probability


def last_features(classifier: ImageClassifier, X: ImageData) -> NDArray[np.float64]:
    """Return what goes into the last linear layer of a fitted classifier's module, N x features.

    Raises
    ------
    ValueError
        If the module has no linear layer.
    """
    layers = [layer for layer in classifier.module_.modules() if isinstance(layer, nn.Linear)]
    if not layers:
        raise ValueError("estimator must have a module with a linear layer, it has none")
    kept: list[Tensor] = []
    handle = layers[-1].register_forward_pre_hook(lambda layer, inputs: kept.append(inputs[0].flatten(1).cpu()))
    try:
        classifier.predict_proba(X)
    finally:
        handle.remove()
    return torch.cat(kept).double().numpy()


class EmbeddingCorrelationRemoval(_Mitigator):
    """Train as usual, then the last layer anew on an embedding that the sensitive feature is not correlated with.

    fairlearn's ``CorrelationRemover`` on what goes into the last linear layer, standardised: each feature less its
    linear regression on the sensitive feature, value by value. In training data where class and sensitive feature go
    together this takes from the embedding what the two share, and so some of the class.

    What is taken from an image depends on its own sensitive feature, so prediction wants it too. An image of which it
    is not known counts as the training images' mean: nothing is taken from it, and what its embedding shows of the
    sensitive feature reaches the new layer, which has never seen any.

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
        The new last layer.
    estimator_ : ImageClassifier
        The fitted classifier, its own last layer as first trained.
    """

    def __init__(self, estimator: ImageClassifier, *, alpha: float = 1.0, C: float = 1.0) -> None:
        self.estimator = estimator
        self.alpha = alpha
        self.C = C

    def fit(self, X: ImageData, y: ArrayLike, *, sensitive_features: ArrayLike) -> EmbeddingCorrelationRemoval:
        """Train the classifier, fit the remover, train the new layer.

        Raises
        ------
        ValueError
            If `alpha` is not in [0, 1] or the module has no linear layer.
        """
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha must lie in [0, 1], got {self.alpha}")
        X, cells = _cells(X, y, sensitive_features)
        labels, sensitive = cells["y"].to_numpy(), cells["sensitive_features"].to_numpy()
        self.sensitive_values_ = np.unique(sensitive)
        self.estimator_ = clone(self.estimator).fit(X, labels)
        features = last_features(self.estimator_, X)
        # Scaled before, not after: scaling would blow up the rounding errors that are left of a feature taken whole.
        self.scaler_ = StandardScaler().fit(features)
        columns = np.hstack([self.scaler_.transform(features), self._indicators(sensitive)])
        self.remover_ = CorrelationRemover(
            sensitive_feature_ids=range(features.shape[1], columns.shape[1]), alpha=self.alpha
        )
        self.head_ = LogisticRegression(C=self.C, max_iter=1000).fit(self.remover_.fit_transform(columns), labels)
        return self

    def _indicators(self, sensitive: NDArray[Any]) -> NDArray[np.float64]:
        indicators: NDArray[np.float64] = (sensitive[:, None] == self.sensitive_values_[1:]).astype(float)
        return indicators

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
            indicators = np.tile(self.remover_.sensitive_mean_, (len(X), 1))
        else:
            sensitive = check_sensitive(sensitive_features, len(X))
            if unknown := set(sensitive.tolist()) - set(self.sensitive_values_.tolist()):
                known = self.sensitive_values_.tolist()
                raise ValueError(f"sensitive_features must have the values it had in fit, {known}, got {unknown} too")
            indicators = self._indicators(sensitive)
        embedded: NDArray[np.float64] = self.remover_.transform(np.hstack([features, indicators]))
        return embedded

    def predict_proba(self, X: ImageData, *, sensitive_features: ArrayLike | None = None) -> NDArray[np.float64]:
        """Return the new layer's probability of each class, N x classes."""
        embedded = self.embed(X, sensitive_features=sensitive_features)
        probability: NDArray[np.float64] = self.head_.predict_proba(embedded)
        return probability

    def predict(self, X: ImageData, *, sensitive_features: ArrayLike | None = None) -> NDArray[Any]:
        """Return the likeliest label of each image, shape (N,)."""
        likeliest = self.predict_proba(X, sensitive_features=sensitive_features).argmax(1)
        predicted: NDArray[Any] = self.classes_[likeliest]
        return predicted


class AdversarialLastLayer(_Mitigator):
    """Train as usual, then the last layer anew against an adversary that reads the sensitive feature off its output.

    Zhang, Lemoine, Mitchell, "Mitigating Unwanted Biases with Adversarial Learning", AIES 2018, by fairlearn's
    ``AdversarialFairnessClassifier`` on what goes into the last linear layer, standardised; both the new layer and the
    adversary are linear.

    Parameters
    ----------
    estimator : ImageClassifier
        Cloned and trained. Its module has an ``nn.Linear`` as its last.
    constraints : {"equalized_odds", "demographic_parity"}, default="equalized_odds"
        Whether the adversary is told the class, and so finds only what the output says of the sensitive feature
        within a class. Where class and sensitive feature go together, demographic parity forbids to tell the class.
    alpha : float, default=1.0
        How much the adversary's loss counts.
    epochs, batch_size, lr : int, int, float, default=50, 128 and 1e-3
        Of the training of the new layer and the adversary, both by Adam. The adversary's rate is ten times `lr`: at the
        same rate, fairlearn's default, the layer outran it on the synthetic faces and learnt to predict the opposite.
    random_state : int, NumPy generator or None, default=None
        Decides the order of the images in this training; initial weights are the same in all, fairlearn's.

    Attributes
    ----------
    scaler_ : StandardScaler
    head_ : nn.Linear
        The new last layer; with two classes it has one output, the logit of the second.
    estimator_ : ImageClassifier
        The fitted classifier, its own last layer as first trained.
    """

    def __init__(
        self,
        estimator: ImageClassifier,
        *,
        constraints: str = "equalized_odds",
        alpha: float = 1.0,
        epochs: int = 50,
        batch_size: int = 128,
        lr: float = 1e-3,
        random_state: RandomState = None,
    ) -> None:
        self.estimator = estimator
        self.constraints = constraints
        self.alpha = alpha
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.random_state = random_state

    def fit(self, X: ImageData, y: ArrayLike, *, sensitive_features: ArrayLike) -> AdversarialLastLayer:
        """Train the classifier, then the new layer against the adversary.

        Raises
        ------
        ValueError
            If a parameter is out of range or the module has no linear layer.
        """
        if self.constraints not in ("equalized_odds", "demographic_parity"):
            raise ValueError(f"constraints must be 'equalized_odds' or 'demographic_parity', got {self.constraints!r}")
        if not (self.alpha >= 0 and self.lr > 0 and self.epochs >= 1 and self.batch_size >= 1):
            raise ValueError(
                "alpha must be at least 0, lr above 0, epochs and batch_size at least 1, got "
                f"{self.alpha}, {self.lr}, {self.epochs} and {self.batch_size}"
            )
        X, cells = _cells(X, y, sensitive_features)
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
            epochs=self.epochs,
            batch_size=self.batch_size,
            shuffle=True,
            random_state=seed,
        )
        with seeded(seed):  # fairlearn seeds the global generator, and leaves it so
            game.fit(
                self.scaler_.transform(features)[order],
                pd.factorize(cells["y"], sort=True)[0][order],
                sensitive_features=pd.factorize(cells["sensitive_features"], sort=True)[0][order],
            )
        # Its layer alone: the rest cannot be pickled.
        self.head_ = game.backendEngine_.predictor_model.layers_[0].double()
        return self

    def predict_proba(self, X: ImageData) -> NDArray[np.float64]:
        """Return the new layer's probability of each class, N x classes."""
        check_is_fitted(self, "head_")
        features = torch.from_numpy(self.scaler_.transform(last_features(self.estimator_, X)))
        with torch.no_grad():
            logits = self.head_(features)
        if len(self.classes_) == 2:
            logits = torch.cat([torch.zeros_like(logits), logits], 1)
        probability: NDArray[np.float64] = logits.softmax(1).numpy()
        return probability


class MaskTune(_Mitigator):
    """Train, hide what the classifier looks at most, and train on a little: it must find something else.

    Taghanaki et al., "MaskTune: Mitigating Spurious Correlations by Forcing to Explore", NeurIPS 2022. What it looks at
    is Captum's LayerGradCam of the last convolution, where it lies two standard deviations above the image's mean. It
    needs no sensitive feature, and hides the target's own region as gladly as the confounder's.

    Parameters
    ----------
    estimator : ImageClassifier
        Cloned and trained. Its module has an ``nn.Conv2d``.
    tune_epochs : int, default=1
        Epochs on the masked images.
    tune_lr : float, optional
        Their learning rate; by default a tenth of the estimator's.

    Attributes
    ----------
    masks_ : ndarray of bool, shape (N, height, width)
        What was hidden: those pixels were 0 in the second training.
    estimator_ : ImageClassifier
        The fitted classifier.
    """

    def __init__(self, estimator: ImageClassifier, *, tune_epochs: int = 1, tune_lr: float | None = None) -> None:
        self.estimator = estimator
        self.tune_epochs = tune_epochs
        self.tune_lr = tune_lr

    def fit(self, X: ImageData, y: ArrayLike, *, sensitive_features: ArrayLike | None = None) -> MaskTune:
        """Train, mask, train on; the sensitive features are not used.

        Raises
        ------
        ValueError
            If `tune_epochs` is below 1 or the module has no convolution.
        """
        if self.tune_epochs < 1:
            raise ValueError(f"tune_epochs must be at least 1, got {self.tune_epochs}")
        X, y = from_names(X, y)
        X = check_images(X, name="X")
        labels = check_classes(y, len(X), name="y", least=2)
        self.estimator_ = clone(self.estimator).fit(X, labels)
        self.masks_ = self._masks(X, labels)
        lr = self.estimator.lr / 10 if self.tune_lr is None else self.tune_lr
        hide = partial(_hide, torch.from_numpy(self.masks_))
        tuned = {"warm_start": True, "max_epochs": self.tune_epochs, "lr": lr, "batch_transform": hide}
        self.estimator_.set_params(**tuned).fit(X, labels)
        return self

    def _masks(self, X: ImageData, labels: NDArray[Any]) -> NDArray[np.bool_]:
        fitted = self.estimator_
        layers = [layer for layer in fitted.module_.modules() if isinstance(layer, nn.Conv2d)]
        if not layers:
            raise ValueError("estimator must have a module with a convolution, it has none")
        target = torch.from_numpy(np.searchsorted(fitted.classes_, labels))
        fitted.module_.eval()
        grad_cam = LayerGradCam(fitted.infer, layers[-1])
        masks = []
        for batch, its in zip(batches(X, 64), target.split(64), strict=True):
            images = fitted._images(batch)
            coarse = grad_cam.attribute(images, its.to(images.device), relu_attributions=True)
            maps = LayerAttribution.interpolate(coarse, tuple(X.shape[2:]), interpolate_mode="bilinear")[:, 0].detach()
            mean, std = (getattr(maps.flatten(1), name)(1)[:, None, None] for name in ("mean", "std"))
            masks.append((maps > mean + 2 * std).cpu().numpy())
        return np.concatenate(masks)


def _hide(masks: Tensor, images: Tensor, index: Tensor, generator: torch.Generator) -> Tensor:
    return images * ~masks[index.cpu()].to(images.device)[:, None]


def _recall_gap(y_true: NDArray[Any], y_pred: NDArray[Any]) -> float:
    recalls = recall_score(y_true, y_pred, average=None, zero_division=0.0)
    return float(recalls.max() - recalls.min())


class ThresholdShift(MetaEstimatorMixin, ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A binary classifier, not mitigated, whose threshold is moved until both classes are recognised equally well.

    The control for every claim of a smaller gap: accuracy by class can be equalised by the threshold alone, with no
    less use of the confounder. It needs validation data in which target and confounder are independent, which the
    mitigators do without.

    Parameters
    ----------
    estimator : classifier with ``predict_proba``
        Cloned and trained.

    Attributes
    ----------
    estimator_ : estimator
        The fitted classifier.
    threshold_ : float
        The least probability of ``classes_[1]`` that is predicted as such.
    classes_ : ndarray of shape (2,)
    """

    def __init__(self, estimator: Any) -> None:
        self.estimator = estimator

    def fit(self, X: ImageData, y: ArrayLike, *, validation: tuple[ImageData, ArrayLike]) -> ThresholdShift:
        """Train on X and y, then choose the threshold on the validation images and labels.

        Raises
        ------
        ValueError
            If y has more than two classes, or the validation data lack one.
        """
        X, y = from_names(X, y)
        X_valid, y_valid = from_names(*validation)
        if len(np.unique(np.asarray(y))) != 2 or len(np.unique(np.asarray(y_valid))) != 2:
            raise ValueError("y and the labels of validation must hold two classes, a threshold lies between two")
        self.estimator_ = clone(self.estimator).fit(X, y)
        self.classes_ = self.estimator_.classes_
        tuned = TunedThresholdClassifierCV(
            self.estimator_,
            scoring=make_scorer(_recall_gap, greater_is_better=False),
            response_method="predict_proba",
            thresholds=np.unique(self.estimator_.predict_proba(X_valid)[:, 1]),
            cv="prefit",
            refit=False,
        )
        self.threshold_ = float(tuned.fit(X_valid, np.asarray(y_valid)).best_threshold_)
        return self

    def predict_proba(self, X: ImageData) -> NDArray[np.float64]:
        """Return the estimator's probabilities, N x 2; the shift does not change them."""
        check_is_fitted(self, "threshold_")
        probability: NDArray[np.float64] = self.estimator_.predict_proba(X)
        return probability

    def predict(self, X: ImageData) -> NDArray[Any]:
        """Return the label of each image by the shifted threshold, shape (N,)."""
        is_second = self.predict_proba(X)[:, 1] >= self.threshold_
        predicted: NDArray[Any] = self.classes_[is_second.astype(int)]
        return predicted

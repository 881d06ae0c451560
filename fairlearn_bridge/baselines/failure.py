"""LearningFromFailure: a network that learns most from the images at which a biased network fails."""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from captum_region.batches import ImageData
from fairlearn_bridge.baselines.base import Mitigator, labels_of, need_no_reduction, restore
from fairlearn_bridge.classifier import ImageClassifier
from fairlearn_bridge.validation import check_number


class _Pair(nn.Module):
    """Two networks of one kind, each with its own initial weights; in evaluation only the debiased one answers."""

    def __init__(
        self, estimator: ImageClassifier, image_shape: tuple[int, int, int], num_classes: int, **module: Any
    ) -> None:
        super().__init__()  # the module's own parameters are those of `estimator` already
        known = {"image_shape": image_shape, "classes": np.arange(num_classes)}
        self.biased, self.debiased = (
            clone(estimator).set_params(**known, random_state=seed).initialize().module_
            for seed in torch.randint(2**32, (2,)).tolist()
        )

    def forward(self, images: Tensor) -> Any:
        if not self.training:
            return self.debiased(images)
        return self.debiased(images), self.biased(images)


class _PairLoss(nn.Module):
    """The cross-entropy of each sample: in training of both networks, N x 2, the debiased one's first."""

    def forward(self, logits: Tensor | tuple[Tensor, Tensor], target: Tensor) -> Tensor:
        if isinstance(logits, Tensor):
            return cross_entropy(logits, target, reduction="none")
        return torch.stack([cross_entropy(each, target, reduction="none") for each in logits], 1)


class _Failures:
    """The loss of a batch: that of the biased network, generalised, and of the other, weighed by the first's failures.

    Of each image and network it keeps a moving average of the cross-entropy, which starts at the first value.
    """

    def __init__(self, target: NDArray[np.intp], q: float, momentum: float) -> None:
        self.target, self.q, self.momentum = torch.tensor(target), q, momentum
        self.average = torch.zeros(len(target), 2)
        self.is_seen = torch.zeros(len(target), 1, dtype=torch.bool)

    def state_dict(self) -> dict[str, Tensor]:
        return {"average": self.average, "is_seen": self.is_seen}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.average, self.is_seen = state["average"], state["is_seen"]

    def weight(self, index: Tensor) -> Tensor:
        """Return how much of a failure each image at `index` is: L_b / (L_b + L_d), each a share of its class's."""
        greatest = torch.stack([self.average[self.target == c].amax(0) for c in range(int(self.target.max()) + 1)])
        debiased, biased = (self.average[index] / greatest[self.target[index]].clamp(min=1e-8)).unbind(1)
        return biased / (debiased + biased + 1e-8)

    def __call__(self, losses: Tensor, index: Tensor) -> Tensor:
        index, found = index.cpu(), losses.detach().float().cpu()
        kept = self.momentum * self.is_seen[index]
        self.average[index] = kept * self.average[index] + (1 - kept) * found
        self.is_seen[index] = True
        debiased, biased = losses.unbind(1)
        # The gradient of the generalised cross-entropy, (1 - p**q) / q, times q, as in the authors' code.
        generalised = biased * self.q * (-self.q * biased.detach()).exp()
        return generalised.mean() + (debiased * self.weight(index).to(losses.device)).mean()


@dataclass(eq=False, repr=False, kw_only=True)
class LearningFromFailure(Mitigator):
    """Train two networks at once: a biased one, and one that learns most from the images at which the first fails.

    The biased network is trained by the generalised cross-entropy, which favours what is learnt easily and so the
    shortcut; the other's loss weighs an image by its share in the two networks' losses. It needs no sensitive feature,
    but takes for bias-conflicting what is difficult for any reason.

    Parameters
    ----------
    estimator : ImageClassifier
        Cloned and trained, with two networks. Its criterion is ``nn.CrossEntropyLoss``, the default, without
        parameters. A class as module gives the two networks initial weights of their own; an instance is copied.
    q : float, default=0.7
        How much the biased network's loss favours easy images, in [0, 1): it weighs them by p**q, of the probability p
        of the right class, and by q. At 0 it would learn nothing.
    momentum : float, default=0.7
        Of the moving average of each image's losses, in [0, 1).

    Attributes
    ----------
    sample_weight_ : ndarray of shape (N,)
        The weight of each image in the end, in [0, 1]: above 0.5 where the biased network does worse.
    biased_module_ : nn.Module
        The biased network.
    estimator_ : ImageClassifier
        The fitted classifier, with the other.

    See Also
    --------
    JTT : Trains one after the other, and weighs mistakes.

    References
    ----------
    Nam, Cha, Ahn, Lee, Shin, "Learning from Failure: Training Debiased Classifier from Biased Classifier", NeurIPS
    2020; the weights as in the authors' code.

    Examples
    --------
    >>> X, y = np.random.default_rng(0).integers(0, 256, (20, 3, 16, 16), np.uint8), ["man", "woman"] * 10
    >>> mitigator = LearningFromFailure(ImageClassifier(max_epochs=1, random_state=0)).fit(X, y)
    >>> mitigator.predict(X[:2]).shape, mitigator.sample_weight_.shape
    ((2,), (20,))
    """

    _only_trains: ClassVar[bool] = True
    q: float = 0.7
    momentum: float = 0.7

    def fit(self, X: ImageData, y: ArrayLike, *, sensitive_features: ArrayLike | None = None) -> Self:
        """Train both networks; the sensitive features are not used.

        Parameters
        ----------
        X, y
            As in `ImageClassifier.fit`.
        sensitive_features : array-like of shape (N,) or (N, features), or str, optional
            Not used.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If `q` or `momentum` is out of range, or the estimator has another criterion or a ``loss_reduction``.
        """
        self._check_parameters()
        X, labels = labels_of(X, y)
        fitted = clone(self.estimator)
        failures = _Failures(np.unique(labels, return_inverse=True)[1], self.q, self.momentum)
        # Where it is trained and kept is no part of what is trained.
        pair = partial(_Pair, clone(self.estimator).set_params(checkpoint_dir=None, device="cpu"))
        fitted.set_params(module=pair, criterion=_PairLoss, loss_reduction=failures).fit(X, labels)
        # What is left is a classifier like the one given, with one network.
        restore(fitted, self.estimator, "module", "criterion", "loss_reduction")
        self.biased_module_, fitted.module_ = fitted.module_.biased, fitted.module_.debiased
        self.estimator_ = fitted.initialize_criterion()
        self.sample_weight_: NDArray[np.float64] = failures.weight(torch.arange(len(labels))).double().numpy()
        return self

    def _check_parameters(self) -> None:
        check_number("q", self.q, 0, 1, inside=True)
        check_number("momentum", self.momentum, 0, 1)
        if self.momentum == 1:
            raise ValueError("momentum must be below 1, at which no loss after the first would count, got 1")
        need_no_reduction(self)
        given = self.estimator.criterion
        if given is not nn.CrossEntropyLoss or self.estimator.get_params_for("criterion"):
            raise ValueError(
                "estimator must have the criterion nn.CrossEntropyLoss, without parameters: the weights are made of "
                f"that loss; got {given!r}"
            )

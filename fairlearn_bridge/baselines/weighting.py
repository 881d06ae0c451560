"""Mitigators that weigh the images: by cell, by draws, by the loss of the worst group."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone
from skorch.utils import multi_indexing
from torch import Tensor

from captum_region.batches import ImageData
from captum_region.randomness import RandomState, draw_seed
from fairlearn_bridge.baselines.base import Mitigator, cells_of, need_no_reduction, restore
from fairlearn_bridge.validation import check_number


class Reweighing(Mitigator):
    """Weight each image so that class and sensitive feature are independent in the training data.

    The weight is P(y) P(s) / P(y, s), of its own class y and sensitive feature s. An empty cell has no
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

    See Also
    --------
    BalancedResampling : Draws images instead of weighting them.

    References
    ----------
    Kamiran, Calders, "Data preprocessing techniques for classification without discrimination", Knowledge and
    Information Systems 33, 2012.
    """

    _only_trains: ClassVar[bool] = True

    def fit(self, X: ImageData, y: ArrayLike, *, sensitive_features: ArrayLike) -> Self:
        """Train on X and y, weighed by cell.

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
            If the estimator has a ``loss_reduction``, which takes the losses without weights.
        """
        self._check_parameters()
        X, cells = self._cells_of(X, y, sensitive_features)
        self.sample_weight_ = _independent(cells)
        self.estimator_ = clone(self.estimator).fit(X, cells["y"].to_numpy(), sample_weight=self.sample_weight_)
        return self

    def _check_parameters(self) -> None:
        need_no_reduction(self)


@dataclass(eq=False, repr=False, kw_only=True)
class BalancedResampling(Mitigator):
    """Train on equally many images of each cell of class and sensitive feature, N in all, rounded down.

    Images of a cell with too few are drawn repeatedly.

    Parameters
    ----------
    estimator : classifier
        Cloned and trained. Without a ``train_split`` of its own: copies of one image would be on both sides.
    random_state : int, NumPy generator or None, default=None
        Decides the draws.

    Attributes
    ----------
    sample_indices_ : ndarray of int
        The positions of the images that were drawn, as imbalanced-learn names them.
    estimator_ : estimator
        The fitted classifier.

    See Also
    --------
    Reweighing : Weights images instead of drawing them.
    """

    _only_trains: ClassVar[bool] = True
    _of_empty_cells: ClassVar[str | None] = "there is nothing to draw for that cell"
    random_state: RandomState = None

    def fit(self, X: ImageData, y: ArrayLike, *, sensitive_features: ArrayLike) -> Self:
        """Draw the images and train on them.

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
            If the estimator has a ``train_split``.
        """
        self._check_parameters()
        X, cells = self._cells_of(X, y, sensitive_features)
        generator = np.random.default_rng(draw_seed(self.random_state))
        drawn = [
            generator.permutation(np.resize(generator.permutation(members), len(X) // cells["cell"].nunique()))
            for members in cells.groupby("cell").indices.values()
        ]
        self.sample_indices_ = np.sort(np.concatenate(drawn))
        drawn_images = multi_indexing(X if hasattr(X, "shape") else np.asarray(X), self.sample_indices_)
        self.estimator_ = for_images_at(self.sample_indices_, self.estimator)
        self.estimator_.fit(drawn_images, cells["y"].to_numpy()[self.sample_indices_])
        restore(self.estimator_, self.estimator, *_BY_POSITION)
        return self

    def _check_parameters(self) -> None:
        if getattr(self.estimator, "train_split", None) is not None:
            raise ValueError(
                "estimator must have no train_split where images are drawn repeatedly, of which copies would be on "
                f"both sides; got {self.estimator.train_split!r}"
            )


# What of a classifier knows images by their positions in X.
_BY_POSITION = ("batch_transform", "loss_reduction")


def for_images_at(positions: NDArray[np.intp], estimator: Any) -> Any:
    """Return a clone to be trained on the images at `positions` of X; what it has of its own goes by those."""
    own = {name: getattr(estimator, name, None) for name in _BY_POSITION}
    moved = {name: partial(_by_position, given, positions) for name, given in own.items() if given is not None}
    return clone(estimator).set_params(**moved)


def _by_position(
    function: Callable[..., Tensor], positions: NDArray[np.intp], first: Tensor, index: Tensor, *rest: Any
) -> Tensor:
    """Call a batch transform or loss reduction with the positions of the images in X."""
    return function(first, torch.from_numpy(positions[index.cpu().numpy()]).to(index.device), *rest)


def weights_in_training(estimator: Any, labels: NDArray[Any], sensitive: NDArray[Any]) -> NDArray[np.float64] | None:
    """Return how much each image counts in the training of a mitigator that gives cells fixed weights, or None."""
    if not isinstance(estimator, Reweighing | BalancedResampling):
        return None
    _, cells = cells_of(labels, labels, sensitive)
    if isinstance(estimator, Reweighing):
        return _independent(cells)
    return np.asarray(1 / cells.groupby("cell")["cell"].transform("size"), dtype=float)


def _independent(cells: pd.DataFrame) -> NDArray[np.float64]:
    """Return weights with which class and sensitive feature are independent."""
    share = {name: cells[name].map(cells[name].value_counts(normalize=True)) for name in cells}
    return np.asarray(share["y"] * share["sensitive_features"] / share["cell"], dtype=float)


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


@dataclass(eq=False, repr=False, kw_only=True)
class GroupDRO(Mitigator):
    """Minimise the loss of the worst group: the cell of class and sensitive feature with the highest mean loss.

    The authors add much regularisation; set the estimator's weight decay and epochs accordingly.

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

    See Also
    --------
    JTT : Needs no sensitive feature.

    References
    ----------
    Sagawa, Koh, Hashimoto, Liang, "Distributionally Robust Neural Networks for Group Shifts", ICLR 2020, algorithm 1.
    """

    _only_trains: ClassVar[bool] = True
    _of_empty_cells: ClassVar[str | None] = "a worst group without images cannot be trained for"
    step_size: float = 0.01

    def fit(self, X: ImageData, y: ArrayLike, *, sensitive_features: ArrayLike) -> Self:
        """Train for the worst group.

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
            If a cell is empty: it may be the worst group, and has no image to train on.
        ValueError
            If `step_size` is not above 0, or the estimator has a ``loss_reduction``.
        """
        self._check_parameters()
        X, cells = self._cells_of(X, y, sensitive_features)
        reduction = _WorstGroups(cells["cell"].to_numpy(), self.step_size)
        self.estimator_ = clone(self.estimator).set_params(loss_reduction=reduction).fit(X, cells["y"].to_numpy())
        restore(self.estimator_, self.estimator, "loss_reduction")
        return self

    def _check_parameters(self) -> None:
        check_number("step_size", self.step_size, 0, inside=True)
        need_no_reduction(self)

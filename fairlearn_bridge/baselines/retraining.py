"""Mitigators that train a second time: with more weight on mistakes, or without the pixels that were used."""

from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import numpy as np
import torch
from captum.attr import LayerAttribution, LayerGradCam
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone
from torch import Tensor, nn

from captum_region.batches import ImageData, batches
from captum_region.validation import check_count
from fairlearn_bridge.baselines.base import (
    Mitigator,
    images_of,
    labels_of,
    need_layer,
    need_no_reduction,
    restore,
    then,
)
from fairlearn_bridge.validation import check_number, class_positions


@dataclass(eq=False, repr=False, kw_only=True)
class JTT(Mitigator):
    """Just train twice: train briefly, then again with more weight on the images that were classified wrong.

    It needs no sensitive feature, but what it upweights are mistakes on the training images: if the first training
    makes none, the result is the plain estimator.

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

    See Also
    --------
    MaskTune, LearningFromFailure : Need no sensitive feature either.

    References
    ----------
    Liu et al., "Just Train Twice: Improving Group Robustness without Training Group Information", ICML 2021.
    """

    first_epochs: int = 2
    upweight: float = 20

    def fit(self, X: ImageData, y: ArrayLike, *, sensitive_features: ArrayLike | None = None) -> Self:
        """Train twice; the sensitive features are not used.

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
            If `first_epochs` is below 1 or `upweight` not above 0, or the estimator has a ``loss_reduction``, which
            takes the losses without weights.
        """
        self._check_parameters()
        X, labels = labels_of(X, y)
        first = clone(self.estimator).set_params(max_epochs=self.first_epochs).fit(X, labels)
        self.is_wrong_: NDArray[np.bool_] = first.predict(X) != labels
        weight = np.where(self.is_wrong_, self.upweight, 1.0)
        self.estimator_ = clone(self.estimator).fit(X, labels, sample_weight=weight)
        return self

    def _check_parameters(self) -> None:
        check_count("first_epochs", self.first_epochs)
        check_number("upweight", self.upweight, 0, inside=True)
        need_no_reduction(self)


@dataclass(eq=False, repr=False, kw_only=True)
class MaskTune(Mitigator):
    """Train, hide the pixels that the classifier uses most, and train a little more: it must use something else.

    What it uses is where Captum's LayerGradCam of the last convolution lies two standard deviations above the image's
    mean. It needs no sensitive feature, and hides the target's own region as readily as the spurious attribute's.

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
        What was hidden: those pixels were 0 in the second training, before the estimator's own ``batch_transform``.
    estimator_ : ImageClassifier
        The fitted classifier.

    See Also
    --------
    AttributionNoiseMitigator : Hides what region maps mark, which need no trained classifier.

    References
    ----------
    Taghanaki et al., "MaskTune: Mitigating Spurious Correlations by Forcing to Explore", NeurIPS 2022.
    """

    tune_epochs: int = 1
    tune_lr: float | None = None

    def fit(self, X: ImageData, y: ArrayLike, *, sensitive_features: ArrayLike | None = None) -> Self:
        """Train, mask, continue training; the sensitive features are not used.

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
            If `tune_epochs` is below 1, `tune_lr` is not above 0, or the module has no convolution.
        """
        self._check_parameters()
        X, labels = labels_of(X, y)
        images = images_of(self.estimator, X)
        need_layer(self.estimator, images, labels, nn.Conv2d)
        self.estimator_ = clone(self.estimator).fit(X, labels)
        self.masks_ = self._masks(images, labels)
        lr = self.estimator.lr / 10 if self.tune_lr is None else self.tune_lr
        hide: Any = partial(_hide, torch.from_numpy(self.masks_))
        if (own := self.estimator_.batch_transform) is not None:
            hide = partial(then, hide, own)  # in this order: masks are in their places
        tuned = {"warm_start": True, "max_epochs": self.tune_epochs, "lr": lr, "batch_transform": hide}
        self.estimator_.set_params(**tuned).fit(X, labels)
        restore(self.estimator_, self.estimator, *tuned)
        return self

    def _check_parameters(self) -> None:
        check_count("tune_epochs", self.tune_epochs)
        if self.tune_lr is not None:
            check_number("tune_lr", self.tune_lr, 0, inside=True)

    def _masks(self, X: ImageData, labels: NDArray[Any]) -> NDArray[np.bool_]:
        fitted = self.estimator_
        *_, last = (layer for layer in fitted.module_.modules() if isinstance(layer, nn.Conv2d))
        target = torch.from_numpy(class_positions(fitted, labels))
        fitted.module_.eval()
        grad_cam = LayerGradCam(fitted.infer, last)
        masks = []
        for batch, its in zip(batches(X, 64), target.split(64), strict=True):
            # Through layers that are frozen, gradients flow from the images.
            images = fitted._images(batch).detach().requires_grad_()
            coarse = grad_cam.attribute(images, its.to(images.device), relu_attributions=True)
            maps = LayerAttribution.interpolate(coarse, tuple(X.shape[2:]), interpolate_mode="bilinear")[:, 0].detach()
            mean, std = (getattr(maps.flatten(1), name)(1)[:, None, None] for name in ("mean", "std"))
            masks.append((maps > mean + 2 * std).cpu().numpy())
        return np.concatenate(masks)


def _hide(masks: Tensor, images: Tensor, index: Tensor, generator: torch.Generator) -> Tensor:
    return images * ~masks[index.cpu()].to(images.device)[:, None]

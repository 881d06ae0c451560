"""Predictions of anything that classifies images: estimators, networks, functions."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.base import clone
from torch import nn

from captum_region.batches import as_floats
from captum_region.evaluation import device_of, evaluating
from fairlearn_bridge.baselines.base import Trainer
from fairlearn_bridge.classifier import ImageClassifier
from fairlearn_bridge.validation import positions_in

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

Probabilities = Callable[["NDArray[np.uint8]"], Any]
# Their predictions are the likeliest classes: they need not be asked a second time.
_LIKELIEST = (ImageClassifier.predict, Trainer.predict)


@dataclass(frozen=True)
class Predictor:
    """A classifier as the audit uses it.

    Attributes
    ----------
    classes : ndarray of shape (K,)
    probabilities : callable
        Images of uint8, N x C x height x width -> N x K.
    labels : callable or None
        Images -> N labels, where they are not the likeliest classes.
    """

    classes: NDArray[Any]
    probabilities: Probabilities
    labels: Callable[[NDArray[np.uint8]], Any] | None = None

    def codes(self, labels: Any, name: str) -> NDArray[np.intp]:
        """Return the positions of labels in the classes; ValueError if one is not among them."""
        return positions_in(self.classes, labels, name)

    def predict(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """Return the positions of the predicted classes, N, and the probabilities of all, N x K.

        Raises
        ------
        ValueError
            If the classifier returns something else.
        """
        given = self.probabilities(images)
        probabilities = np.asarray(given.numpy(force=True) if isinstance(given, torch.Tensor) else given, dtype=float)
        wanted = len(images), len(self.classes)
        if probabilities.shape != wanted or not np.isfinite(probabilities).all():
            raise ValueError(
                f"classifier must give finite probabilities of shape {wanted}, images x classes, "
                f"got {'some that are not finite' if probabilities.shape == wanted else probabilities.shape}"
            )
        if (probabilities < 0).any() or (probabilities > 1 + 1e-6).any():
            low, high = probabilities.min(), probabilities.max()
            raise ValueError(f"classifier must give probabilities in [0, 1], got {low:g} to {high:g}")
        if self.labels is None:
            return probabilities.argmax(1), probabilities
        return self.codes(self.labels(images), "predictions"), probabilities


def predictor_of(classifier: Any, classes: ArrayLike | None = None) -> Predictor:
    """Return a classifier as a `Predictor`.

    Parameters
    ----------
    classifier : object with ``predict_proba``, nn.Module or callable
        See `fairlearn_bridge.audit.audit`.
    classes : array-like of shape (K,), optional
        The labels of its columns, by default its ``classes_``, ``class_names`` or ``classes``.

    Raises
    ------
    TypeError, ValueError
        If it is none of these, or its classes are not known.
    """
    names = ("classes_", "class_names", "classes")
    known = next((getattr(classifier, name) for name in names if getattr(classifier, name, None) is not None), None)
    labels = known if classes is None else classes
    is_estimator = hasattr(classifier, "predict_proba")
    if not is_estimator and not callable(classifier):
        raise TypeError(
            f"classifier must have predict_proba, or be an nn.Module or a function, got {type(classifier).__name__}"
        )
    if labels is None:
        fit_first = "; an estimator has them after fit" if is_estimator else ""
        raise ValueError(f"classes must be given: {type(classifier).__name__} has no classes_{fit_first}")
    array = np.asarray(labels)
    if array.ndim != 1 or len(array) < 2 or len(np.unique(array)) != len(array):
        raise ValueError(f"classes must be at least two different labels, got {labels}")
    if is_estimator:
        own = getattr(type(classifier), "predict", None)
        decides = classifier.predict if own is not None and own not in _LIKELIEST else None
        return Predictor(array, classifier.predict_proba, decides)
    if isinstance(classifier, nn.Module):
        return Predictor(array, lambda images: _softmax(classifier, images))
    return Predictor(array, classifier)


def _softmax(network: nn.Module, images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the probabilities of a network that gives logits of images in [0, 1]."""
    with evaluating(network), torch.inference_mode():
        logits = network(as_floats(torch.from_numpy(np.array(images)).to(device_of(network))))
        return np.asarray(logits.double().softmax(1).numpy(force=True))


def network_of(classifier: Any) -> nn.Module:
    """Return the network inside a classifier: itself, skorch's ``module_``, or that of a mitigator's ``estimator_``.

    Raises
    ------
    TypeError
        If there is none.
    """
    inner = classifier
    while not isinstance(inner, nn.Module):
        name = next((name for name in ("module_", "estimator_") if hasattr(inner, name)), None)
        if name is None:
            raise TypeError(
                "the classifier must be an nn.Module or have one, as a fitted ImageClassifier has; "
                f"got {type(classifier).__name__}"
            )
        inner = getattr(inner, name)
    return inner


def check_trainable(classifier: Any, *, has_confounder: bool) -> None:
    """Raise TypeError or ValueError if a classifier cannot be trained anew."""
    if not callable(getattr(classifier, "fit", None)):
        raise TypeError(
            "train must be left out for a classifier that has no fit, such as a network: it cannot be trained on "
            f"degraded images; got {type(classifier).__name__}"
        )
    if _wants_confounder(classifier) and not has_confounder:
        raise ValueError(f"train must be Samples, with a confounder, to train {type(classifier).__name__}")


def retrained(classifier: Any, images: NDArray[np.uint8], target: NDArray[Any], confounder: NDArray[Any] | None) -> Any:
    """Return a clone of the classifier, with its parameters and not what it has learnt, trained on images."""
    fresh = clone(classifier) if hasattr(classifier, "get_params") else copy.deepcopy(classifier)
    more = {"sensitive_features": confounder} if _wants_confounder(classifier) else {}
    fitted = fresh.fit(images, target, **more)
    return fresh if fitted is None else fitted


def _wants_confounder(classifier: Any) -> bool:
    return "sensitive_features" in inspect.signature(classifier.fit).parameters

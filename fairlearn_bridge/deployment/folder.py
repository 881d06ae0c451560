"""Models in folders: weights as safetensors, the rest as JSON, a card in Markdown; loading executes no code."""

import json
import os
from functools import partial
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.torch import save_file
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import FixedThresholdClassifier
from torch import Tensor, nn

from captum_region.io.checkpoint import check_header, weights_in
from captum_region.io.files import read_json, replacing_folder
from captum_region.io.provenance import provenance
from fairlearn_bridge.baselines import BalancedResampling, ThresholdShift
from fairlearn_bridge.deployment.card import ModelCard
from fairlearn_bridge.deployment.state import Decoder, Encoder, check_finite, network_in, network_of

FORMAT = 1
DESCRIPTION, WEIGHTS, CARD = MODEL_FILES = "mitigator.json", "weights.safetensors", "model_card.md"
# Of an image that a loaded model is tried on, in values; larger ones are not.
_TRIED = 2**22


def save_mitigator(estimator: Any, folder: str | os.PathLike[str], *, card: ModelCard | None = None) -> None:
    """Write a fitted estimator into `folder`: ``mitigator.json``, ``weights.safetensors`` and ``model_card.md``.

    What predictions need is kept: network, classes, image size, threshold; so are the number of training images of each
    class, the versions of the packages, and parameters that are numbers or text. What only training needs is not:
    callbacks, functions, region classifiers, weights of training images. The folder appears complete or not at all.

    Parameters
    ----------
    estimator : ImageClassifier, AttributionNoiseMitigator, or a mitigator of `fairlearn_bridge.baselines`
        Or scikit-learn's ``FixedThresholdClassifier`` of one of them. `AcceleratedImageClassifier` is saved as
        `ImageClassifier`. Of a network of your own the weights are saved, not the code. What skorch's ``compile``
        has compiled is saved as it was before, and rounds as such.
    folder : path
        Made, with its parents. A model saved there before is replaced.
    card : ModelCard, optional
        What the model was trained on, what was measured, and where it fails.

    Raises
    ------
    TypeError
        If the estimator is of another kind, or holds a function that its predictions need, or `card` is no ModelCard.
    ValueError
        If a weight is not finite (buffers, such as a mask, may be infinite), or scikit-learn's classifier for the
        threshold could not predict: there are not two classes, or ``pos_label`` is not one of them.
    sklearn.exceptions.NotFittedError
        If it is not fitted.
    FileExistsError
        If the folder holds other files.
    OSError
        If it cannot be written.

    See Also
    --------
    load_mitigator : Reads it.
    captum_region.save_classifier : The same for region classifiers.

    Examples
    --------
    >>> import tempfile
    >>> from captum_region.datasets import make_faces
    >>> from fairlearn_bridge import ImageClassifier, load_mitigator, save_mitigator
    >>> faces = make_faces(40, size=16, random_state=0)
    >>> classifier = ImageClassifier(max_epochs=1, random_state=0).fit(faces.images, faces.labels("Smiling"))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_mitigator(classifier, f"{folder}/model")
    ...     loaded = load_mitigator(f"{folder}/model")
    >>> bool((loaded.predict_proba(faces.images) == classifier.predict_proba(faces.images)).all())
    True
    """
    if not isinstance(card, ModelCard | None):
        raise TypeError(f"card must be a ModelCard, got {type(card).__name__}")
    encode = Encoder()
    described = encode(estimator, "estimator")
    description = {"format": FORMAT, **_summary(estimator), **provenance(), "estimator": described}
    text = (card or ModelCard()).markdown(description)
    with replacing_folder(folder, MODEL_FILES, "model") as whole:
        (whole / DESCRIPTION).write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
        (whole / CARD).write_text(text, encoding="utf-8")
        with weights_in(folder, whole / WEIGHTS) as path:
            save_file(encode.tensors, path)


def _summary(estimator: Any) -> dict[str, Any]:
    """Return what a reader of the description looks for first; loading does not use it."""
    inner = network_in(estimator)
    counts = getattr(inner, "class_counts_", None)
    classes = np.asarray(estimator.classes_).tolist()
    network = type(network_of(inner))
    threshold, positive = threshold_of(estimator)
    return {
        "method": type(without_threshold(estimator)).__name__,
        "network": network.__name__,
        "needs_module": not network.__module__.startswith("fairlearn_bridge."),
        "classes": classes,
        "class_counts": None if counts is None else counts.tolist(),
        "resampled": _is_resampled(estimator),
        "image_shape": list(inner.image_shape_),
        "threshold": threshold,
        "positive_class": positive,
    }


def _is_resampled(estimator: Any) -> bool:
    """Return whether a mitigator or one within it drew its training images."""
    while estimator is not None and not hasattr(estimator, "sample_indices_"):
        estimator = vars(estimator).get("estimator_", vars(estimator).get("estimator"))
    return isinstance(estimator, BalancedResampling)


def without_threshold(estimator: Any) -> Any:
    """Return an estimator without scikit-learn's classifier for its threshold."""
    while isinstance(estimator, FixedThresholdClassifier | FrozenEstimator):
        estimator = vars(estimator).get("estimator_", estimator.estimator)
    return estimator


def threshold_of(estimator: Any) -> tuple[float | None, Any]:
    """Return the probability from which a class is predicted, and that class; None where the likeliest one is.

    Raises
    ------
    ValueError
        If scikit-learn's classifier for a threshold cannot predict with its own.
    """
    while isinstance(estimator, FrozenEstimator):
        estimator = estimator.estimator
    classes = np.asarray(estimator.classes_).tolist()
    if isinstance(estimator, ThresholdShift):
        return estimator.threshold_, classes[1]
    if isinstance(estimator, FixedThresholdClassifier):
        _check_threshold(estimator, classes)
        threshold = 0.5 if estimator.threshold == "auto" else float(estimator.threshold)
        positive = estimator.pos_label
        return threshold, classes[1] if positive is None else np.asarray(positive).item()
    return None, None


def _check_threshold(estimator: FixedThresholdClassifier, classes: list[Any]) -> None:
    """Raise ValueError unless scikit-learn, which does not look before it predicts, can do so with a threshold."""
    if len(classes) != 2:
        raise ValueError(f"estimator must have two classes for its threshold, got {len(classes)}: {classes}")
    if estimator.threshold != "auto" and not isinstance(estimator.threshold, Real):
        raise ValueError(f"threshold must be a number or 'auto', got {estimator.threshold!r}")
    if estimator.pos_label is not None and estimator.pos_label not in classes:
        raise ValueError(f"pos_label must be one of {classes}, got {estimator.pos_label!r}")
    if estimator.response_method not in ("auto", "predict_proba"):
        raise ValueError(f"response_method must be 'predict_proba' or 'auto', got {estimator.response_method!r}")


def load_mitigator(
    folder: str | os.PathLike[str], module: nn.Module | type[nn.Module] | None = None, *, device: str = "cpu"
) -> Any:
    """Read an estimator that `save_mitigator` wrote; it predicts as it did, bit for bit on one machine.

    The folder may come from an untrusted source: nothing in it is executed, and no memory is used for the network
    before its description is compared with the shapes in the weights' header.

    Parameters
    ----------
    folder : path
    module : nn.Module instance or class, or function that makes one, optional
        Needed if the network was your own: one of the same architecture. A class or function gets ``image_shape`` and
        ``num_classes`` if it takes them, as from `ImageClassifier`.
    device : str, default="cpu"
        Where to compute.

    Returns
    -------
    estimator
        Fitted, with the parameters of mitigators that are numbers or text, and of `ImageClassifier` with ``lr``,
        ``max_epochs``, ``batch_size``, ``optimizer__weight_decay``, ``random_state``, ``image_shape``,
        ``predict_nonlinearity`` and ``mixed_precision``; others have their defaults. To train it anew, `clone` it and
        give those again.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    ValueError
        If the files are damaged, do not fit together, are of another format version or need `module`, or a weight is
        not finite, but for buffers that are infinite.

    See Also
    --------
    save_mitigator : Writes it.
    """
    folder = Path(folder)
    description = read_json(folder / DESCRIPTION, FORMAT)
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise FileNotFoundError(f"there is no {weights}")
    try:
        with safe_open(weights, "pt") as file:
            decode = Decoder(partial(_read, file), partial(_weights_of, weights, file), module, device)
            estimator = decode(description["estimator"])
        _try(estimator)
    except MemoryError:
        raise
    except Exception as error:  # of wrong types, nearly any
        words = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise ValueError(f"{folder} cannot be loaded: {words}") from error
    return estimator


def _read(file: Any, name: str) -> Tensor:
    value: Tensor = file.get_tensor(name)
    check_finite(value, name)
    return value


def _weights_of(path: Path, file: Any, prefix: str, expected: nn.Module | None) -> dict[str, Tensor]:
    """Return a network's tensors; their shapes are compared with the header before one is read."""
    if expected is not None:
        check_header(path, {f"{prefix}{name}": value for name, value in expected.state_dict().items()})
    names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
    return {name.removeprefix(prefix): file.get_tensor(name) for name in names}


def _try(estimator: Any) -> None:
    """Raise an error unless an estimator gives a probability of each class of an empty image."""
    inner = network_in(estimator)
    if int(np.prod(inner.image_shape_)) > _TRIED:
        return
    found = estimator.predict_proba(np.zeros((1, *inner.image_shape_), np.float32))
    if found.shape != (1, len(inner.classes_)) or not np.isfinite(found).all():
        raise ValueError(f"it must give {len(inner.classes_)} finite probabilities an image, got shape {found.shape}")
    decide(estimator, found)


def decide(estimator: Any, probabilities: Any) -> Any:
    """Return the labels that an estimator predicts where it gives these probabilities."""
    classes = np.asarray(estimator.classes_)
    threshold, positive = threshold_of(estimator)
    if threshold is None:
        return classes[probabilities.argmax(1)]
    at = classes.tolist().index(positive)
    return classes[np.where(probabilities[:, at] >= threshold, at, 1 - at)]

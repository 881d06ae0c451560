"""What fitted estimators hold, as JSON values and tensors, and back; only kinds that are listed here are made."""

import inspect
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any

import numpy as np
import torch
from fairlearn.preprocessing import CorrelationRemover
from sklearn.base import BaseEstimator, clone
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import FixedThresholdClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from fairlearn_bridge import baselines
from fairlearn_bridge.baselines.base import Trainer
from fairlearn_bridge.classifier import ImageClassifier
from fairlearn_bridge.distributed import AcceleratedImageClassifier
from fairlearn_bridge.mitigator import AttributionNoiseMitigator
from fairlearn_bridge.networks import PretrainedClassifier, SmallCNN
from fairlearn_bridge.noise import AttributionNoise

# Their fitted state is numbers, arrays and labels.
_PARTS = (CorrelationRemover, LogisticRegression, MinMaxScaler, StandardScaler)
# Of ImageClassifier, what its predictions depend on, or what a further training is like.
_PARAMETERS = (
    *("lr", "max_epochs", "batch_size", "optimizer__weight_decay", "random_state"),
    *("image_shape", "predict_nonlinearity", "mixed_precision"),
)
# Of mitigators, what names places of the machine that trained.
_PLACES = ("checkpoint_dir", "memory", "n_jobs")
_OPTIONAL = ("feature_names_in_", "row_scaler_")
_LABELS = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "str", "object")


def kinds() -> dict[str, type[Trainer]]:
    """Return the mitigators that can be saved, by name."""
    found: list[Any] = [getattr(baselines, name) for name in baselines.__all__]
    every: list[Any] = [each for each in found if isinstance(each, type) and issubclass(each, Trainer)]
    return {kind.__name__: kind for kind in [AttributionNoiseMitigator, *every]}


def network_in(estimator: Any) -> ImageClassifier:
    """Return the `ImageClassifier` inside a fitted estimator.

    Raises
    ------
    TypeError
        If there is none.
    """
    inner = estimator
    while not isinstance(inner, ImageClassifier):
        below = getattr(inner, "estimator_", None) or getattr(inner, "estimator", None)
        if below is None:
            raise TypeError(f"estimator must hold a fitted ImageClassifier, got {type(estimator).__name__}")
        inner = below
    return inner


def network_of(classifier: ImageClassifier) -> nn.Module:
    """Return a classifier's network; of one that skorch's ``compile`` wraps, the network inside, with its names."""
    network: nn.Module = getattr(classifier.module_, "_orig_mod", classifier.module_)
    return network


def check_finite(value: Tensor, name: str, *, is_buffer: bool = False) -> None:
    """Raise ValueError if values are not finite; those of a buffer, such as a mask, may be infinite."""
    if not bool((~value.isnan() if is_buffer else value.isfinite()).all()):
        raise ValueError(f"{name} holds values that are not finite")


@dataclass
class Encoder:
    """Turns values into JSON values; what is an array or a tensor goes to `tensors`, under a name."""

    tensors: dict[str, Tensor] = field(default_factory=dict)

    def __call__(self, value: Any, name: str) -> Any:
        """Return `value` as JSON values.

        Raises
        ------
        TypeError
            If it is of a kind that cannot be saved.
        ValueError
            If it holds a number that is not finite, which `Decoder` refuses.
        """
        if isinstance(value, np.generic):
            value = value.item()
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, Tensor):
            self._keep(value, name)
            return {"tensor": name}
        if isinstance(value, np.ndarray):
            return self._array(value, name)
        if isinstance(value, list | tuple | range):
            kind = "list" if isinstance(value, list) else "tuple"
            return {kind: [self(item, f"{name}.{at}") for at, item in enumerate(value)]}
        if isinstance(value, dict):
            return {"dict": [[self(key, name), self(item, f"{name}.{key}")] for key, item in value.items()]}
        return self._object(value, name)

    def _keep(self, value: Tensor, name: str, *, is_buffer: bool = False) -> None:
        check_finite(value, name, is_buffer=is_buffer)
        self.tensors[name] = value.detach().cpu().contiguous().clone()

    def _array(self, value: np.ndarray[Any, Any], name: str) -> Any:
        if value.dtype.kind == "f":
            # Products of matrices are rounded by their layout in memory.
            by_column = value.ndim == 2 and value.flags.f_contiguous and not value.flags.c_contiguous
            self._keep(torch.from_numpy(np.array(value.T if by_column else value, order="C")), name)
            return {"columns" if by_column else "array": name}
        dtype = "str" if value.dtype.kind == "U" else value.dtype.name
        if dtype not in _LABELS or value.ndim != 1:
            raise TypeError(f"{name} must be a list of numbers, text or booleans to be saved, got {value.dtype}")
        return {"labels": [self(item, name) for item in value.tolist()], "dtype": dtype}

    def _object(self, value: Any, name: str) -> dict[str, Any]:
        kind = type(value)
        described: dict[str, Any] = {"kind": kind.__name__}
        if kind is nn.Linear:
            return described | {
                "weight": self(value.weight, f"{name}.weight"),
                "bias": self(value.bias, f"{name}.bias"),
            }
        if kind is Pipeline:
            return described | {"steps": [[title, self(step, f"{name}.{title}")] for title, step in value.steps]}
        if kind is FixedThresholdClassifier:
            names = ("threshold", "pos_label", "response_method")  # all decide, so none may be left out
            params = {each: self(getattr(value, each), f"{name}.{each}") for each in names}
            inner = self(getattr(value, "estimator_", value.estimator), f"{name}.estimator_")
            return described | {"params": params, "estimator_": inner}
        if kind is FrozenEstimator:
            return self._object(value.estimator, name)
        if kind in (ImageClassifier, AcceleratedImageClassifier):
            return self._classifier(value, name)
        fitted = _fitted_of(value)
        params = value.get_params(deep=False) if isinstance(value, BaseEstimator) else _fields_of(value)
        if kind in _PARTS:
            default = kind().get_params(deep=False)
            params = {each: item for each, item in params.items() if item is not default[each]}
        described["params"] = self._plain(params)
        return described | {"fitted": {each: self(item, f"{name}.{each}") for each, item in fitted.items()}}

    def _plain(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parameters that are numbers, text, or lists of them."""
        return {each: self(item, each) for each, item in params.items() if _is_plain(item) and each not in _PLACES}

    def _classifier(self, value: ImageClassifier, name: str) -> dict[str, Any]:
        value.check_is_fitted(["classes_inferred_"])
        if value.predict_nonlinearity not in ("auto", None):
            raise TypeError(
                "estimator must have the predict_nonlinearity 'auto' or None to be saved, a function is not: "
                f"got {value.predict_nonlinearity!r}"
            )
        criterion = "NLLLoss" if isinstance(value.criterion_, nn.NLLLoss) else "CrossEntropyLoss"
        params = {each: getattr(value, each) for each in _PARAMETERS if _is_plain(getattr(value, each, ...))}
        fitted = {each: vars(value)[each] for each in ("n_features_in_", *_OPTIONAL) if each in vars(value)}
        fitted |= {"classes_inferred_": np.asarray(value.classes_), "image_shape_": value.image_shape_}
        fitted["class_counts_"] = getattr(value, "class_counts_", None)
        network = network_of(value)
        parameters = dict(network.named_parameters(remove_duplicate=False))
        for part, item in network.state_dict().items():
            if not isinstance(item, Tensor):
                raise TypeError(f"the network's state must be tensors to be saved, {part} is {type(item).__name__}")
            self._keep(item, f"{name}.module_.{part}", is_buffer=part not in parameters)
        return {
            "kind": ImageClassifier.__name__,
            "network": describe_network(value),
            "criterion": criterion,
            "params": self._plain(params),
            "fitted": {each: self(item, f"{name}.{each}") for each, item in fitted.items()},
            "weights": f"{name}.module_.",
        }


def _fields_of(noise: AttributionNoise) -> dict[str, Any]:
    return {each.name: getattr(noise, each.name) for each in fields(noise)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple | range):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str | np.generic)


def _fitted_of(value: Any) -> dict[str, Any]:
    """Return the fitted attributes of an object that its predictions need."""
    own = vars(value)
    if type(value) in _PARTS:
        return {each: item for each, item in own.items() if each.endswith("_")}
    if type(value) is AttributionNoise:
        if value.perturbation is not None:
            raise TypeError("estimator must perturb in predict by its scheme to be saved, a function is not")
        return {"mask_": value.mask_.float(), "donors_": None}
    if type(value) not in kinds().values():
        raise TypeError(
            f"estimator must be an ImageClassifier or one of {', '.join(sorted(kinds()))} to be saved, got "
            f"{type(value).__name__}"
        )
    check_is_fitted(value, value._predicts_with)
    names = [*value._predicts_with, *(each for each in _OPTIONAL if each in own)]
    if getattr(value, "apply_at_predict", False):
        names.append("noise_")
    return {each: getattr(value, each) for each in names}


def describe_network(classifier: ImageClassifier) -> dict[str, Any]:
    """Return what makes a classifier's network again, or its name and that it is the user's own."""
    network = network_of(classifier)
    if type(network) is SmallCNN:
        own = _on_meta(lambda: SmallCNN(classifier.image_shape_, len(classifier.classes_)))
        made = {name: item.shape for name, item in own.state_dict().items()}
        if made == {name: item.shape for name, item in network.state_dict().items()}:
            return {"name": SmallCNN.__name__}
    if type(network) is PretrainedClassifier:
        return {"name": PretrainedClassifier.__name__, **network.config()}
    return {"name": f"{type(network).__module__}.{type(network).__qualname__}", "own": True}


def _on_meta(build: Callable[[], nn.Module]) -> nn.Module:
    """Return a network whose tensors have shapes and no memory."""
    with torch.device("meta"):
        return build()


@dataclass
class Decoder:
    """Makes values again that `Encoder` has described, whose source may be untrusted.

    Attributes
    ----------
    read : callable
        Returns the tensor of a name.
    weights_of : callable
        Returns the tensors whose names have a prefix, by the rest of their names, compared with those of a network
        without memory; their values are not checked.
    module : nn.Module, class or None
        The user's own network.
    device : str
    """

    read: Callable[[str], Tensor]
    weights_of: Callable[[str, nn.Module | None], dict[str, Tensor]]
    module: Any
    device: str

    def __call__(self, value: Any) -> Any:
        """Return the value that JSON values describe."""
        if not isinstance(value, dict):
            if value is None or isinstance(value, bool | int | float | str):
                return value
            raise TypeError(f"a list stands where a value must be: {str(value)[:50]}")
        if "kind" in value:
            return self._object(value)
        ((form, content),) = ((key, item) for key, item in value.items() if key != "dtype")
        if form == "tensor":
            return self.read(content)
        if form in ("array", "columns"):
            found = self.read(content).numpy()
            return found.T if form == "columns" else found
        if form in ("list", "tuple"):
            return {"list": list, "tuple": tuple}[form](map(self, content))
        if form == "dict":
            return {self(key): self(item) for key, item in content}
        if form == "labels" and value["dtype"] in _LABELS:
            return np.array([self(item) for item in content], dtype=value["dtype"])
        raise TypeError(f"{form!r} is not known")

    def _object(self, value: dict[str, Any]) -> Any:
        kind = value["kind"]
        if kind == nn.Linear.__name__:
            return self._linear(value)
        if kind == Pipeline.__name__:
            return Pipeline([(str(title), self(step)) for title, step in value["steps"]])
        if kind == ImageClassifier.__name__:
            return self._classifier(value)
        params = {name: self(item) for name, item in value["params"].items() if name not in _PLACES}
        if kind == FixedThresholdClassifier.__name__:
            inner = self(value["estimator_"])
            return FixedThresholdClassifier(FrozenEstimator(inner), **params)
        known = {each.__name__: each for each in (*_PARTS, AttributionNoise)} | kinds()
        if kind not in known:
            raise TypeError(f"kind must be one of {', '.join(sorted(known))}, got {str(kind)[:50]!r}")
        fitted = {name: self(item) for name, item in value["fitted"].items()}
        return self._made(known[kind], params, fitted)

    def _made(self, kind: Any, params: dict[str, Any], fitted: dict[str, Any]) -> Any:
        wanted = getattr(kind, "_predicts_with", ())
        if missing := {*wanted} - {*fitted}:
            raise KeyError(f"{kind.__name__} needs {', '.join(sorted(missing))}")
        if not all(name.endswith("_") and not name.startswith("__") for name in fitted):
            raise TypeError(f"fitted values of {kind.__name__} must have names that end in _")
        if "estimator_" in wanted:
            network_in(fitted["estimator_"])  # raises if there is none
            params["estimator"] = clone(fitted["estimator_"])
        made = kind(**params)
        for name, item in fitted.items():
            is_derived = isinstance(inspect.getattr_static(kind, name, None), property)
            if not is_derived:
                vars(made)[name] = item.bool() if name == "mask_" else item
        return made

    def _linear(self, value: dict[str, Any]) -> nn.Linear:
        weight, bias = self(value["weight"]), self(value["bias"])
        if weight.ndim != 2 or bias.shape != weight.shape[:1]:
            raise ValueError("a linear layer must have a matrix of weights and a bias for each of its rows")
        out_features, in_features = weight.shape
        layer = nn.Linear(in_features, out_features, dtype=weight.dtype, device="meta")
        layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias)
        return layer

    def _classifier(self, value: dict[str, Any]) -> ImageClassifier:
        params = {name: self(value["params"][name]) for name in _PARAMETERS if name in value["params"]}
        fitted = {name: self(item) for name, item in value["fitted"].items()}
        if not fitted.keys() <= {"n_features_in_", *_OPTIONAL, "classes_inferred_", "image_shape_", "class_counts_"}:
            raise TypeError(f"{ImageClassifier.__name__} has no fitted {', '.join(sorted(fitted))}")
        shape, classes = fitted["image_shape_"], fitted["classes_inferred_"]
        if type(shape) is not tuple or len(shape) != 3 or not all(type(side) is int and side > 0 for side in shape):
            raise ValueError(f"image_shape_ must be (channels, height, width), got {str(shape)[:50]}")
        if classes.ndim != 1 or len(classes) < 2 or len({*classes.tolist()}) != len(classes):
            raise ValueError("classes must be at least two different labels")
        network, module = value["network"], self.module
        is_own = network.get("own") is True
        if is_own and module is None:
            raise ValueError(f"module must be given, the user's own network {str(network['name'])[:200]}")
        if not is_own and module is not None:
            raise ValueError(f"module must be left out, the network is {str(network['name'])[:200]}")
        if value["criterion"] not in ("CrossEntropyLoss", "NLLLoss"):
            raise ValueError(f"criterion must be CrossEntropyLoss or NLLLoss, got {str(value['criterion'])[:50]!r}")
        if params.get("predict_nonlinearity", "auto") not in ("auto", None):
            raise ValueError("predict_nonlinearity must be 'auto' or None")
        made = module if is_own else _network_class(network)
        criterion = getattr(nn, value["criterion"])
        classifier = ImageClassifier(made, criterion=criterion, device=self.device, **params)
        classifier.__dict__.update({name: item for name, item in fitted.items() if item is not None})
        build = partial(made, image_shape=shape, num_classes=len(classes))
        expected = None
        if not is_own:
            with suppress(NotImplementedError):  # RegNets compute their sizes with tensors, which must have values
                expected = _on_meta(build)
        weights = self.weights_of(value["weights"], expected)
        classifier.initialize()
        network = network_of(classifier)
        own, parameters = network.state_dict(), dict(network.named_parameters(remove_duplicate=False))
        for name, item in weights.items():
            if name in own and own[name].dtype != item.dtype:
                raise ValueError(f"{name} must be of {own[name].dtype}, got {item.dtype}")
            check_finite(item, name, is_buffer=name in own and name not in parameters)
        network.load_state_dict(weights)
        return classifier


def _network_class(network: dict[str, Any]) -> Any:
    """Return what makes one of this package's networks, of image shape and classes."""
    if network["name"] == SmallCNN.__name__:
        return SmallCNN
    if network["name"] != PretrainedClassifier.__name__ or type(network["freeze"]) is not bool:
        raise ValueError(f"the network must be SmallCNN or PretrainedClassifier, got {str(network['name'])[:50]!r}")
    return partial(PretrainedClassifier, network["backbone"], freeze=network["freeze"])

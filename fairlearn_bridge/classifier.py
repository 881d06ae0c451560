"""ImageClassifier: skorch's classifier for images, fitted to scikit-learn's and fairlearn's needs."""

import copy
import inspect
import math
import os
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from skorch import NeuralNetClassifier
from skorch.callbacks import EarlyStopping, LRScheduler
from skorch.dataset import Dataset as NeuralNetDataset
from skorch.utils import to_device
from torch import Tensor, nn
from torch.utils.data import DataLoader

from captum_region.batches import ImageData, as_floats, check_weights, take
from captum_region.io.snapshot import Snapshots
from captum_region.labels import check_classes
from captum_region.parallel import Processes
from captum_region.precision import has_bfloat16_units
from captum_region.randomness import RandomState, draw_seed, seeded
from captum_region.validation import check_count
from fairlearn_bridge.loading import NoSingleImages, TrainingImages, are_training_images, as_it_is
from fairlearn_bridge.networks import PretrainedClassifier, SmallCNN
from fairlearn_bridge.resuming import KeepState, keep, load_state
from fairlearn_bridge.validation import check_rows_or_images, from_names

BatchTransform = Callable[[Tensor, Tensor, torch.Generator], Tensor]
LossReduction = Callable[[Tensor, Tensor], Tensor]
# Parameters that do not change what is learnt.
_BESIDES = ("checkpoint_dir", "device", "verbose", "warm_start")


class ImageClassifier(NeuralNetClassifier):  # type: ignore[misc]
    """An image classifier as scikit-learn and fairlearn want one, trained by skorch.

    Takes images N x C x H x W, uint8 or float in [0, 1], or the same flattened to rows, N x (C * H * W). Float rows may
    have any range: each column is scaled to [0, 1] from the range it had in `fit`. The module gets floats in [0, 1] and
    returns logits; with ``nn.NLLLoss`` probabilities, as in skorch. All of skorch's parameters (``module__x``,
    ``callbacks``, ``optimizer``, ``device`` ...) work but ``dataset``, which is refused, and so does its ``history``;
    its ``partial_fit`` is left out. Unlike skorch's own classifier it takes labels of any kind,
    gives probabilities in float64 (fairlearn's ThresholdOptimizer needs them), takes `sample_weight`, and trains on all
    the images by default.

    Parameters
    ----------
    module : nn.Module class or instance, or str, default=SmallCNN
        A class whose constructor takes ``image_shape`` or ``num_classes`` is given those of the training data. An
        instance is copied, never trained itself, and takes no ``module__x``. A name, such as ``"resnet18"``, is the
        backbone of a `PretrainedClassifier`, which ``module__weights`` and ``module__freeze`` set up.
    criterion : nn.Module class or instance, default=nn.CrossEntropyLoss
        An instance is copied with its settings, and takes no ``criterion__x``. One without a ``reduction`` works where
        the images have neither weights nor a `loss_reduction`.
    image_shape : (int, int, int), optional
        Channels, height and width of the images in X. By default those of X, and a row is an image of one channel and
        one pixel's height.
    batch_transform : callable, optional
        (images, index, generator) -> images, applied to each batch in training only: images in [0, 1] on the device,
        their positions in the X given to `fit`, and a generator on the device. Mitigators perturb images with it.
    loss_reduction : callable, optional
        (losses of a training batch, index) -> one loss, in place of their weighted mean. Mitigators such as
        `fairlearn_bridge.baselines.GroupDRO` minimise another loss with it.
    random_state : int, NumPy generator or None, default=None
        Decides initial weights, order, dropout and `batch_transform`. The global random states are left alone: as
        dropout draws from torch's, trainings and predictions in threads of one process take turns, with the results
        that each has alone. A callback must therefore not wait for another thread that trains or predicts.
    checkpoint_dir : path, optional
        A folder for the state of the training, which is saved after epochs, so often that it takes at most 5 % of the
        time. An interrupted `fit` resumes when it is called again with the same parameters and data, and ends with the
        same weights, bit for bit on one machine; a complete one is read. Other versions of the packages, or other code
        of your own classes and functions, make it another training. Each has a file of three times the size of the
        weights; reading it executes no code. Needs a
        `random_state`, and parameters that pickle or are functions. Of callbacks, numbers, tensors and attributes with
        a ``state_dict`` are kept; a `batch_transform` or `loss_reduction` with a state needs a ``state_dict``.
    mixed_precision : {"no", "auto"}, default="no"
        With ``"auto"`` the module computes in bfloat16 (``torch.autocast``) where that is faster: on CUDA devices with
        units for it, of compute capability 8 and later. Elsewhere nothing changes.
    callbacks
        skorch's. A schedule of your own comes on top of the decay of the rate, unless it has its name:
        ``callbacks__lr_scheduler=LRScheduler(...)``, or None.
    max_epochs, lr, batch_size, optimizer, optimizer__weight_decay, train_split, verbose
        skorch's. Optimizer, weight decay, batch size and the decay of the rate by 0.95 an epoch (the callback
        ``lr_scheduler``) are those of De Coninck et al. 2024; their rate is 1e-5, ours 1e-3.
    **kwargs
        Any other parameter of ``skorch.NeuralNetClassifier``.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The sorted labels, or skorch's parameter ``classes``.
    class_counts_ : ndarray of int, shape (n_classes,)
        The number of training images of each.
    n_features_in_ : int
        Channels x height x width.
    feature_names_in_ : ndarray of shape (``n_features_in_``,)
        Names of the columns, if X was a data frame of rows.
    module_ : nn.Module
        The trained module.
    history_ : skorch.history.History
        Losses by epoch.

    See Also
    --------
    AttributionNoiseMitigator : Trains one without a shortcut.
    AcceleratedImageClassifier : Trains in several processes.

    Examples
    --------
    >>> import numpy as np
    >>> X, y = np.random.default_rng(0).integers(0, 256, (20, 3, 16, 16), np.uint8), ["man", "woman"] * 10
    >>> classifier = ImageClassifier(max_epochs=1, random_state=0).fit(X, y)
    >>> classifier.predict(X[:2]).shape, classifier.predict_proba(X).dtype
    ((2,), dtype('float64'))
    """

    def __init__(
        self,
        module: type[nn.Module] | nn.Module | str = SmallCNN,
        *,
        image_shape: tuple[int, int, int] | None = None,
        batch_transform: BatchTransform | None = None,
        loss_reduction: LossReduction | None = None,
        random_state: RandomState = None,
        checkpoint_dir: str | os.PathLike[str] | None = None,
        mixed_precision: str = "no",
        criterion: Any = nn.CrossEntropyLoss,
        optimizer: Any = torch.optim.AdamW,
        optimizer__weight_decay: float = 1e-3,
        lr: float = 1e-3,
        max_epochs: int = 10,
        batch_size: int = 128,
        train_split: Any = None,
        iterator_train__shuffle: bool = True,
        iterator_train__collate_fn: Any = as_it_is,
        iterator_valid__collate_fn: Any = as_it_is,
        verbose: int = 0,
        **kwargs: Any,
    ) -> None:
        # Named, not a table of defaults: scikit-learn's repr leaves out what is as the signature has it.
        super().__init__(
            module,
            criterion=criterion,
            optimizer=optimizer,
            optimizer__weight_decay=optimizer__weight_decay,
            lr=lr,
            max_epochs=max_epochs,
            batch_size=batch_size,
            train_split=train_split,
            iterator_train__shuffle=iterator_train__shuffle,
            iterator_train__collate_fn=iterator_train__collate_fn,
            iterator_valid__collate_fn=iterator_valid__collate_fn,
            verbose=verbose,
            **kwargs,
        )
        self.image_shape = image_shape
        self.batch_transform = batch_transform
        self.loss_reduction = loss_reduction
        self.random_state = random_state
        self.checkpoint_dir = checkpoint_dir
        self.mixed_precision = mixed_precision

    @property
    def _default_callbacks(self) -> list[tuple[str, Any]]:
        decay = LRScheduler(policy=torch.optim.lr_scheduler.ExponentialLR, gamma=0.95)
        return [*super()._default_callbacks, ("lr_scheduler", decay)]

    def fit(self, X: ImageData, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Train on images and their labels.

        Parameters
        ----------
        X : array-like or Tensor, shape (N, C, height, width) or (N, n_features)
            Images of uint8, or float in [0, 1]; a memory map is read batch by batch. Or rows, see `image_shape`. Or
            `AttributeImages`, or what `captum_region.datasets.from_dataset` reads.
        y : array-like of shape (N,), or str
            Labels of any kind that sorts, at least two different ones. Where X has labels with it, the name of those.
        sample_weight : array-like of shape (N,), optional
            Weights of at least 0 of the samples' losses; only their proportions count.

        Returns
        -------
        self

        Raises
        ------
        TypeError, ValueError
            If X, y or the weights have another shape or type, or have missing values, or a parameter does not fit.
        FloatingPointError
            If the loss or the module's outputs become infinite or NaN; lower `lr`.
        """
        self._check_parameters()
        X, y = from_names(X, y)
        # A training that is continued has the shape, and the scale of rows, that it began with.
        before = getattr(self, "image_shape_", None) if self.warm_start and self.initialized_ else None
        X = check_rows_or_images(self, X, before or self.image_shape, reset=before is None)
        weight = check_weights(sample_weight, len(X))
        self._check_heeded(weight)
        labels = check_classes(y, len(X), name="y", least=2, weight=weight)
        self._check_continued(np.unique(labels))
        self.classes_inferred_ = np.unique(labels)
        target = pd.Index(self.classes_).get_indexer(pd.Index(labels))
        if (target < 0).any():
            raise ValueError(f"classes must hold all labels of y, got {self.classes} for {self.classes_inferred_}")
        self.image_shape_ = tuple(X.shape[1:])
        self.class_counts_ = np.bincount(target, minlength=len(self.classes_))
        samples = TrainingImages(X, target, (weight / weight.mean()).astype(np.float32))
        own_seed = draw_seed(self.random_state)
        self._seed = seed = self.processes.from_main(lambda: own_seed)
        self.generator_ = torch.Generator(self.device or "cpu").manual_seed(seed)
        with seeded(seed, numpy=True):  # skorch's ValidSplit draws from NumPy's
            if not (self.warm_start and self.initialized_):
                self._initialize()
            self._check_callbacks()
            self._check_outputs(take(X, slice(0, 2)))
            snapshots = self._snapshots(samples, seed)
            self.notify("on_train_begin", X=samples, y=target)
            end = len(self.history_) + self.max_epochs
            kept = self.processes.from_main(snapshots.load)
            if kept is not None:
                with snapshots.restoring():
                    load_state(self, kept)
            try:
                if kept is None or not kept["complete"]:
                    self._train(samples, target, end - len(self.history_), snapshots)
                self.notify("on_train_end", X=samples, y=target)
                self._check_outputs(take(X, slice(0, 64)))
            except FloatingPointError:
                del self.classes_inferred_  # it is not fitted
                raise
        return self

    def initialize(self) -> Any:
        """Make module, criterion and optimizer, as `fit` does; before it, `image_shape` and ``classes`` must be given.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If the module needs one of these that is not known.
        """
        with seeded(draw_seed(self.random_state)):
            self._initialize()
        if self.classes is not None and self.image_shape is not None:
            # All that a prediction needs, after skorch's load_params.
            self.classes_inferred_, self.image_shape_ = np.asarray(self.classes), tuple(self.image_shape)
            self.n_features_in_ = math.prod(self.image_shape)
        return self

    def _initialize(self) -> Any:
        return super().initialize()

    def _check_parameters(self) -> None:
        """Refuse parameters that skorch has and that would have no effect."""
        if self.dataset is not NeuralNetDataset or self.get_params_for("dataset"):
            raise TypeError(f"dataset must be left out, ImageClassifier reads images its own way; got {self.dataset}")
        check_count("max_epochs", self.max_epochs, 0)
        if self.mixed_precision not in ("no", "auto"):
            raise ValueError(f"mixed_precision must be 'no' or 'auto', got {self.mixed_precision!r}")
        if self.classes is not None and not len(self.classes):
            raise ValueError(f"classes must be None or hold all labels of y, got {self.classes}")

    def _check_heeded(self, weight: NDArray[np.float64]) -> None:
        if self.loss_reduction is not None and np.ptp(weight):
            raise ValueError("sample_weight must be left out with a loss_reduction, which weighs the losses itself")

    def _check_continued(self, classes: NDArray[Any]) -> None:
        """Refuse to continue a training with other classes: the module's outputs are of those of before."""
        before = getattr(self, "classes_inferred_", classes)
        is_continued = self.warm_start and self.initialized_ and self.classes is None
        if is_continued and not np.array_equal(before, classes):
            raise ValueError(
                f"y must hold the classes that warm_start continues with, {before.tolist()}, got {classes.tolist()}"
            )

    def _check_callbacks(self) -> None:
        for name, callback in self.callbacks_:
            given = getattr(callback, "use_caching", None)
            if given is not None and not (given if self.use_caching == "auto" else self.use_caching):
                raise ValueError(f"callbacks must have use_caching, of which {name} is without: no batch is read twice")
            monitor = getattr(callback, "monitor", None)
            if not self.train_split and isinstance(monitor, str) and monitor.startswith("valid_"):
                raise ValueError(
                    f"callbacks must not monitor {monitor!r}, as {name} does, without a train_split, which holds out "
                    "images: give one, such as skorch's ValidSplit(5), or monitor 'train_loss'"
                )

    def _check_outputs(self, images: Tensor) -> None:
        """Raise ValueError if the module's outputs are not one a class, FloatingPointError if they are not finite.

        No loss is taken after the last step.
        """
        device = next(self.module_.parameters(), images).device
        outputs: Any = self.evaluation_step((images.to(device), None))
        shape = tuple((outputs[0] if isinstance(outputs, tuple) else outputs).shape)
        if len(shape) != 2 or shape[1] != len(self.classes_):  # of several processes there are more images
            raise ValueError(f"module must give logits of shape N x {len(self.classes_)} classes, got {shape}")
        if not all(part.isfinite().all() for part in (outputs if isinstance(outputs, tuple) else (outputs,))):
            raise FloatingPointError(f"the module's outputs became infinite or NaN; try a lower lr than {self.lr}")

    def get_split_datasets(self, X: Any, y: Any = None, **split_params: Any) -> Any:
        """Divide the images by ``train_split``."""
        parts = super().get_split_datasets(X, y, **split_params)
        if not all(part is None or are_training_images(part) for part in parts):
            raise TypeError("train_split must divide the images that it is given, it returned another kind of data set")
        return parts

    def _snapshots(self, samples: TrainingImages, seed: int) -> Snapshots:
        def key() -> Any:
            params = {name: value for name, value in self.get_params(deep=False).items() if name not in _BESIDES}
            data = samples.images, samples.target, samples.weight, self.classes_
            return type(self), params, self.module_.state_dict(), data, seed

        return Snapshots(self.checkpoint_dir if self.processes.is_main else None, self.random_state, key)

    @property
    def processes(self) -> Processes:
        """Those that train together: this one alone."""
        return Processes(None)

    def _train(self, samples: TrainingImages, target: NDArray[np.intp], epochs: int, snapshots: Snapshots) -> None:
        self.callbacks_.append(("keep_state", KeepState(snapshots)))
        try:
            self.fit_loop(samples, target, epochs=epochs)
        except KeyboardInterrupt:
            # EarlyStopping raises one to stop; skorch's own fit would swallow the user's too.
            early = (callback for _, callback in self.callbacks_ if isinstance(callback, EarlyStopping))
            if not any(callback.misses_ == callback.patience for callback in early):
                raise
        finally:
            self.callbacks_.pop()
        keep(self, snapshots, complete=True)

    @property
    def partial_fit(self) -> Any:
        """Not available: with skorch's ``warm_start=True``, `fit` continues the training."""
        raise AttributeError("ImageClassifier has no partial_fit; with warm_start=True, fit continues the training")

    def predict_proba(self, X: ImageData) -> NDArray[np.float64]:
        """Return the probability of each class of ``classes_`` for images shaped like those of `fit`, N x classes.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.
        TypeError, ValueError
            If X has another type or image shape.
        """
        if are_training_images(X):
            return np.asarray(super().predict_proba(X))
        samples = self.get_dataset(X)
        if not len(samples):
            return np.zeros((0, len(self.classes_)))
        with seeded(0):  # a module may draw in eval mode too, as dropout that is left on does
            return np.asarray(super().predict_proba(samples))

    def predict(self, X: ImageData) -> NDArray[Any]:
        """Return the likeliest label of each image, shape (N,)."""
        likeliest = self.predict_proba(X).argmax(1)
        # skorch's scoring compares it with the numbers of the classes.
        return np.asarray(likeliest if are_training_images(X) else self.classes_[likeliest])

    def score(self, X: ImageData, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Return the accuracy on images and their labels, given as in `fit`."""
        X, y = from_names(X, y)
        return float(super().score(X, y, sample_weight))

    def get_params(self, deep: bool = True, **kwargs: Any) -> dict[str, Any]:
        """Return the parameters, without what skorch keeps among them for its own use."""
        params = super().get_params(deep, **kwargs)
        return {name: value for name, value in params.items() if not name.startswith("_")}

    def set_params(self, **kwargs: Any) -> Self:
        """Set parameters; of an initialized classifier skorch makes the parts anew that they are of."""
        is_made_anew = getattr(self, "initialized_", False) and any(name.startswith("module") for name in kwargs)
        with seeded(draw_seed(self.random_state)) if is_made_anew else nullcontext():
            super().set_params(**kwargs)
        return self

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("module", "criterion"):  # of which skorch refuses instances before it is initialized
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    # What follows adapts skorch's loop.

    def get_dataset(self, X: Any, y: Any = None) -> Any:
        """Return images shaped like those of `fit` as skorch's loops read them."""
        if are_training_images(X):
            return X
        self.check_is_fitted(["classes_inferred_"])
        images = check_rows_or_images(self, X, self.image_shape_, reset=False)
        zeros = np.zeros(len(images), np.intp)
        return TrainingImages(images, zeros, zeros.astype(np.float32))

    def check_data(self, X: Any, y: Any) -> None:
        """Do nothing: `fit` has checked X and y."""

    def initialize_module(self) -> Self:
        """Make the module for the images and classes at hand, or copy the one given."""
        classes = getattr(self, "classes_", None)
        self.module_ = self._make(
            "module",
            image_shape=getattr(self, "image_shape_", self.image_shape),
            num_classes=None if classes is None else len(classes),
        )
        return self

    def initialize_criterion(self) -> Self:
        """Make the criterion, or copy the one given; where it can be, with a loss for each sample, to be weighted."""
        self.criterion_ = self._make("criterion")
        reduction = getattr(self.criterion_, "reduction", None)
        if reduction == "mean":
            self.criterion_.reduction = "none"
        elif reduction not in (None, "none"):
            raise ValueError(f"criterion must have the reduction 'mean', got {reduction!r}")
        return self

    def _make(self, name: str, **known: Any) -> Any:
        """Return the module or criterion, made with what it accepts of `known`; or a copy of an instance."""
        given, params = getattr(self, name), self.get_params_for(name)
        if name == "module" and isinstance(given, str):
            given = partial(PretrainedClassifier, given)
        if not isinstance(given, nn.Module):
            accepted = inspect.signature(given).parameters
            params = {each: value for each, value in known.items() if each in accepted} | params
            for each in (each for each in known if params.get(each, known) is None):
                parameter = "classes" if each == "num_classes" else each
                raise ValueError(f"{parameter} must be given to initialize before fit: the module needs {each}")
            return given(**params)
        if params:
            raise ValueError(
                f"{name} must be a class where {name}__{next(iter(params))} is given, which sets it up; "
                f"got an instance of {type(given).__name__}"
            )
        return copy.deepcopy(given)

    def torch_compile(self, module: nn.Module, name: str) -> Any:
        """Compile the network alone, with ``compile``: of the criterion skorch and this class see what kind it is."""
        return module if name in self._criteria else super().torch_compile(module, name)

    def _get_predict_nonlinearity(self) -> Callable[[Tensor], Tensor]:
        nonlinearity = super()._get_predict_nonlinearity()
        if self.predict_nonlinearity == "auto" and not isinstance(self.criterion_, nn.NLLLoss):
            nonlinearity = partial(torch.softmax, dim=1)
        return lambda outputs: nonlinearity(outputs.double())

    def get_iterator(self, dataset: Any, training: bool = False) -> Any:
        """Return skorch's iterator over batches; in training none is of one image, but where there is only one."""
        loader = super().get_iterator(dataset, training=training)
        if not training and type(loader) is DataLoader and loader.generator is None:
            loader.generator = torch.Generator()  # or it draws from the global one, even to go in order
        size = getattr(loader, "batch_size", None) or 0
        if not training or type(loader) is not DataLoader or not 1 < size < len(dataset) or len(dataset) % size != 1:
            return loader
        given = self.get_params_for("iterator_train")
        # Processes share batches of equal size, over which their batch normalisation is joint.
        if given.get("drop_last") or hasattr(self, "accelerator"):
            return loader
        kept = {name: value for name, value in given.items() if name not in ("batch_size", "shuffle", "sampler")}
        return DataLoader(dataset, batch_sampler=NoSingleImages(loader.sampler, size, drop_last=False), **kept)

    def infer(self, x: Mapping[str, Tensor] | Tensor, **fit_params: Any) -> Any:
        """Run the module on images in [0, 1]."""
        images = self._images(x)
        if self.mixed_precision == "no" or images.device.type != "cuda" or not has_bfloat16_units(images.device):
            return self.module_(images, **fit_params)
        with torch.autocast(images.device.type, torch.bfloat16):
            outputs = self.module_(images, **fit_params)
        return outputs.float() if isinstance(outputs, Tensor) else tuple(each.float() for each in outputs)

    def _images(self, x: Mapping[str, Tensor] | Tensor) -> Tensor:
        """Return a batch as floats in [0, 1] on the device."""
        images: Tensor = to_device(x["images"] if isinstance(x, Mapping) else x, self.device)
        # Convolutions are fastest so; but other networks may flatten by view(), which needs the usual layout.
        is_own = any(isinstance(part, SmallCNN | PretrainedClassifier) for part in self.module_.modules())
        layout = torch.channels_last if is_own else torch.contiguous_format
        return as_floats(images).contiguous(memory_format=layout)

    def train_step(self, batch: Any, **fit_params: Any) -> dict[str, Tensor]:
        """Perturb the batch, then take skorch's step."""
        if self.batch_transform is not None:
            inputs, target = batch
            perturbed = self.batch_transform(self._images(inputs), inputs["index"], self.generator_)
            batch = inputs | {"images": perturbed}, target
        step: dict[str, Tensor] = super().train_step(batch, **fit_params)
        if not step["loss"].isfinite():
            loss, epoch = step["loss"].item(), len(self.history_)
            raise FloatingPointError(f"the loss became {loss} in epoch {epoch}; try a lower lr than {self.lr}")
        return step

    def get_loss(self, y_pred: Tensor, y_true: Tensor, X: Any = None, training: bool = False) -> Tensor:
        """Return the mean loss, each sample's weighted, or what `loss_reduction` makes of the losses in training."""
        target = to_device(y_true, self.device)
        loss: Tensor = super().get_loss(y_pred, target)
        reduction = self.loss_reduction if training else None
        if loss.ndim == 0:
            if reduction is not None or (X["weight"] != 1).any():
                raise ValueError(
                    "criterion must give a loss a sample where there is a sample_weight or loss_reduction, and so have "
                    f"a parameter reduction; got {self.criterion}"
                )
            return loss
        if reduction is not None:
            return reduction(loss, X["index"])
        mean: Tensor = (loss * to_device(X["weight"], self.device)).mean()
        of_classes: Tensor | None = getattr(self.criterion_, "weight", None)
        if of_classes is None:
            return mean
        # torch's own mean is over the weights that the classes have, here of the images of all processes.
        return mean / (self.processes.sum(of_classes[target].mean()) / self.processes.count)

"""AttributionNoiseMitigator: train an image classifier while the spurious attribute's regions are perturbed."""

import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from inspect import signature
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from captum_region import RegionAttribution, RegionClassifier, RegionMaps
from captum_region.batches import Checked, ImageData, as_floats, check_weights, take
from captum_region.confidence import Confidence, resolve_confidence
from captum_region.evaluation import evaluating
from captum_region.io.checkpoint import classifier_digest
from captum_region.io.snapshot import Snapshots
from captum_region.labels import check_classes, hold_out
from captum_region.progress import progress_bar
from captum_region.randomness import RandomState, draw_seed
from fairlearn_bridge.baselines.base import Mitigator, Trainer, restore, then
from fairlearn_bridge.baselines.weighting import for_images_at, weights_in_training
from fairlearn_bridge.classifier import ImageClassifier
from fairlearn_bridge.noise import AttributionNoise, Perturbation, protect, quantile_mask
from fairlearn_bridge.regions import check_region_classifier, check_region_epochs, check_varies_within, train_regions
from fairlearn_bridge.samples import Samples
from fairlearn_bridge.schemes import AT_PREDICT
from fairlearn_bridge.selection import CrossedAUC, estimate_crossed_auc
from fairlearn_bridge.validation import check_number, check_rows_or_images, check_sensitive, from_names

AUTO_SCHEMES = ("general_transplant", "general_mask", "general_noise")
AUTO_QUANTILES = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # of which the last perturbs nothing
# Of the pixels by which candidates are judged: more than most of them perturb, so that what they leave shows.
SELECTION_QUANTILE = 0.5


@dataclass(eq=False, repr=False, kw_only=True)
class AttributionNoiseMitigator(Trainer):
    """Keep a classifier from learning a spurious attribute by perturbing the regions that show it in training.

    A region classifier finds where in the images the information about the spurious attribute is; the most informative
    pixels are perturbed anew in each batch, and the estimator is trained on the result. The spurious attribute is what
    `fit` takes as `sensitive_features`. The method needs aligned images, and a spurious attribute that shows in other
    places than the target: where both show, the target's information is lost too.

    Parameters
    ----------
    estimator : ImageClassifier
        Or any scikit-learn classifier with such a parameter ``batch_transform``. Or another mitigator of one, such as
        ``GroupDRO(ImageClassifier())``, which gets the `sensitive_features` too. It is cloned, never trained. Its own
        ``batch_transform``, such as an augmentation, comes after the perturbation.
    region_classifier : RegionClassifier, optional
        Trained to predict the confounder. By default a `DenseRegionClassifier` is trained on the training images
        themselves, within the classes of y, see `captum_region.training_data.within_class_weights`: plainly trained, it
        would learn the target too, which in biased data goes along with the confounder.
    region_epochs : int, optional
        Epochs of that training, to be left out with a `region_classifier`; by default the number of its recipe, on 300
        images or fewer as many as help, see `fit_region_classifier`.
    scheme : str or sequence of str, default="specific_transplant"
        See `AttributionNoise`; the paper's are ``general_noise``, ``general_mask``, ``specific_noise`` and
        ``specific_mask``. Of several, one is chosen; ``"auto"`` stands for ``general_transplant``, ``general_mask`` and
        ``general_noise``. On CelebA ``specific_transplant`` raised the bias-conflicting AUC of blond hair, eyeglasses
        and hats; of the smile, which shares its region with the target, in some settings only
        (docs/results/mitigation.md).
    quantile : float, sequence of float or "auto", default=0.5
        See `AttributionNoise`. Of several, one is chosen; ``"auto"`` stands for 0.3, 0.5, 0.6, 0.7, 0.8, 0.9 and 1, at
        which nothing is perturbed. Where there is a choice of schemes or quantiles, each is trained on a part of the
        training images and judged on the rest by `estimate_crossed_auc`, which needs no image of a cell that has none;
        of those within one standard error of the best, the one that perturbs the fewest pixels is taken.
    noise_std, perturbation, control, transplant_share
        See `AttributionNoise`.
    protect_target : float, default=0
        Spare pixels that show the target: its mean map, with this weight, is subtracted from the spurious attribute's
        maps, see `fairlearn_bridge.noise.protect`, before the most informative pixels are taken. Above 0, a second
        region classifier is trained for it, to predict `y` within the spurious attribute's values. On CelebA it did
        not change the bias-conflicting AUC for certain, the mean of four attributes (docs/results/mitigation.md).
    target_region_classifier : RegionClassifier, optional
        The second region classifier, if it is already trained.
    apply_at_predict : bool, default=False
        Perturb also the images given to `predict`, by the general mask, all with the same noise. Another method than
        perturbing in training alone: the classifier then never sees the region at all. General schemes of ``mask`` and
        ``noise`` only, and not with mitigators as estimator that look at training images once more, such as `JTT` and
        `LastLayerRetraining`.
    confidence : str or callable, default="negative_entropy"
        See `RegionAttribution`.
    validation_fraction : float, default=0.25
        Share of the training images, of each class and value of the spurious attribute, to choose by, in (0, 1).
    memory : path, optional
        A folder, as ``Pipeline(memory=)`` has one, for region classifiers that are trained here and for region maps.
        Fits with equal images, labels, settings of the regions and `random_state` share them, in several processes too:
        a grid search over schemes trains one region classifier a fold. Without it nothing is shared, but a
        ``checkpoint_dir`` of the estimator keeps region classifiers too. Reading the folder executes no code. Needs a
        `random_state`.
    n_jobs : int, optional
        Trainings at a time, through joblib, where there is a choice; those in threads of one process take turns.
    random_state : int, NumPy generator or None, default=None
        Decides the region classifier's training and, if given, the estimator's ``random_state``.
    show_progress : bool, default=False
        Progress bars on stderr.

    Attributes
    ----------
    region_classifier_ : RegionClassifier
        The one given, or trained.
    region_map_ : ndarray of shape (rows, cols)
        Mean confidence about the spurious attribute over the training images, in [0, 1].
    pixel_map_ : ndarray of shape (height, width)
        The same by pixel.
    target_region_classifier_, target_pixel_map_
        With `protect_target` above 0, the same of the target.
    scheme_, quantile_ : str, float
        Those chosen, or given.
    selection_ : DataFrame
        Where there was a choice, a row a candidate: ``scheme``, ``quantile``, ``crossed_auc``, the estimate, and its
        ``standard_error``.
    noise_ : AttributionNoise
        The fitted perturbation.
    estimator_ : estimator
        The fitted classifier.
    classes_ : ndarray of shape (n_classes,)
    n_features_in_, feature_names_in_
        As of `ImageClassifier`.

    See Also
    --------
    AttributionNoise : The perturbation alone, for another training loop.
    compare_mitigators : Compares it with other mitigators on the same images.

    References
    ----------
    De Coninck, Leroux, Simoens, "Mitigating Bias Using Model-Agnostic Data Attribution", CVPR Workshops 2024.

    Examples
    --------
    >>> from captum_region.datasets import make_faces
    >>> from fairlearn_bridge import AttributionNoiseMitigator, ImageClassifier
    >>> faces = make_faces(60, size=16, random_state=0)
    >>> mitigator = AttributionNoiseMitigator(ImageClassifier(max_epochs=1), region_epochs=1, random_state=0)
    >>> y, blond = faces.attributes["Male"], faces.attributes["Blond_Hair"]
    >>> mitigator.fit(faces.images, y, sensitive_features=blond).predict(faces.images).shape
    (60,)
    """

    _predicts_with: ClassVar[tuple[str, ...]] = (
        *("estimator_", "classes_", "n_features_in_", "image_shape_", "predict_seed_"),
        *("scheme_", "quantile_", "region_map_", "pixel_map_"),
    )
    region_classifier: RegionClassifier | None = None
    region_epochs: int | None = None
    scheme: str | Sequence[str] = "specific_transplant"
    quantile: float | Sequence[float] | str = 0.5
    noise_std: float = 0.5
    perturbation: Perturbation | None = None
    control: str | None = None
    transplant_share: float = 0.5
    protect_target: float = 0.0
    target_region_classifier: RegionClassifier | None = None
    apply_at_predict: bool = False
    confidence: str | Confidence = "negative_entropy"
    validation_fraction: float = 0.25
    memory: str | os.PathLike[str] | None = None
    n_jobs: int | None = None
    random_state: RandomState = None
    show_progress: bool = False

    def fit(
        self,
        X: ImageData,
        y: ArrayLike,
        *,
        sensitive_features: ArrayLike,
        sample_weight: ArrayLike | None = None,
        region_maps: ArrayLike | RegionMaps | None = None,
    ) -> Self:
        """Find the spurious attribute's regions and train the estimator with them perturbed.

        Parameters
        ----------
        X : array-like or Tensor, shape (N, C, height, width) or (N, n_features)
            Images of uint8, or float in [0, 1]; or rows, or `AttributeImages` or a data set, as `ImageClassifier` does.
        y : array-like of shape (N,), or str
            The target's labels. Where X has labels with it, the name of those.
        sensitive_features : array-like of shape (N,) or (N, attributes), or str
            The spurious attribute (confounder), whose information is to be removed; of several, their combination.
            Or its name, as for `y`.
        sample_weight : array-like of shape (N,), optional
            Handed to the estimator.
        region_maps : array-like, shape (N, rows, cols), or (1, rows, cols) for general schemes, or RegionMaps, optional
            What ``RegionAttribution(region_classifier).region_map(X)`` or `attribute_dataset` gave before, or its mean,
            to save the computation; only together with `region_classifier`.

        Returns
        -------
        self

        Raises
        ------
        TypeError, ValueError
            If a parameter or the data do not fit, by name.
        """
        for name in ("target_region_classifier_", "target_pixel_map_", "selection_"):  # not all fits have them
            self.__dict__.pop(name, None)
        candidates = self._candidates()
        resolve_confidence(self.confidence)  # or a wrong name would be found after the regions' training
        if region_maps is not None and self.region_classifier is None:
            raise ValueError("region_maps must come with the region_classifier that made them, got none")
        parameters, prefix = _parameters(self.estimator)
        if prefix and sample_weight is not None:
            raise ValueError(f"sample_weight must be left out with {type(self.estimator).__name__}, which takes none")
        X, y, sensitive_features = from_names(X, y, sensitive_features)
        X = check_rows_or_images(self, X, parameters.get(f"{prefix}image_shape"), reset=True)
        for name in ("region_classifier", "target_region_classifier"):
            check_region_classifier(getattr(self, name), X, name)
        self.image_shape_ = tuple(X.shape[1:])
        labels = check_classes(y, len(X), name="y", least=2)
        least = 2 if self.region_classifier is None or any(noise.is_transplant for noise in candidates) else 1
        confounder = check_sensitive(sensitive_features, len(X), least=least)
        weights = {} if sample_weight is None else {"sample_weight": check_weights(sample_weight, len(X))}
        self._check_before_training(labels, confounder, weights)
        seed = draw_seed(self.random_state)
        self.region_classifier_ = self.region_classifier or self._train_regions(X, confounder, labels, seed)
        grid = self.region_classifier_.grid
        maps = self._region_maps(X, region_maps, general=all(noise.is_general for noise in candidates))
        self.region_map_: NDArray[np.float32] = maps.double().mean(0).float().numpy()
        self.pixel_map_: NDArray[np.float32] = grid.to_pixels(torch.from_numpy(self.region_map_)).numpy()
        if self.protect_target:
            # Of one seed both would begin with the same weights, and what the maps have of chance would be alike.
            target_map = self._target_map(X, labels, confounder, draw_seed(np.random.default_rng(seed)))
            self.target_pixel_map_: NDArray[np.float32] = target_map.numpy()
        noise = candidates[0]
        if len(candidates) > 1:
            self.selection_ = self._select(candidates, Samples(X, labels, confounder), weights, maps, seed)
            noise = candidates[_least_within_one_standard_error(self.selection_)]
        self.scheme_, self.quantile_, self.predict_seed_ = noise.scheme, noise.quantile, seed
        pixel_maps = torch.from_numpy(self.pixel_map_)[None] if noise.is_general else grid.to_pixels(maps)
        if self.protect_target:
            pixel_maps = protect(pixel_maps, target_map, self.protect_target)
        counted = weights.get("sample_weight", weights_in_training(self.estimator, labels, confounder))
        self.noise_ = noise.fit(
            pixel_maps, Checked(X), confounder, labels=labels, sample_weight=counted, random_state=seed
        )
        self.estimator_ = self._with_noise(parameters, prefix, seed)
        if prefix:
            weights = {"sensitive_features": confounder}
        self.estimator_.fit(X, labels, **weights)
        self._take_noise_back()
        self.classes_ = self.estimator_.classes_
        return self

    def predict_proba(self, X: ImageData) -> NDArray[np.float64]:
        """Return the probability of each class of ``classes_``, N x classes."""
        check_is_fitted(self, "estimator_")
        X = check_rows_or_images(self, X, self.image_shape_, reset=False)
        if self.apply_at_predict:
            # One by one with the same draws, or an image's prediction would depend on those before it.
            images, first = as_floats(take(X, slice(None)).detach()), torch.zeros(1, dtype=torch.long)
            generator, perturbed = torch.Generator(), torch.empty_like(images)
            for image, place in zip(images.split(1), perturbed.split(1), strict=True):
                place.copy_(self.noise_(image, first, generator.manual_seed(self.predict_seed_)))
            X = perturbed
        return super().predict_proba(X)

    def _with_noise(self, parameters: dict[str, Any], prefix: str, seed: int) -> Any:
        """Return the estimator, not fitted, with the perturbation in its batches and this mitigator's seed."""
        transform: Any = self.noise_
        if (own := parameters[f"{prefix}batch_transform"]) is not None:
            transform = partial(then, self.noise_, own)  # in this order: masks and donors are in their places
        settings = {f"{prefix}batch_transform": transform}
        if self.random_state is not None:
            settings |= dict.fromkeys({"random_state", f"{prefix}random_state"} & {*parameters}, seed)
        return clone(self.estimator).set_params(**settings)

    def _check_before_training(
        self, labels: NDArray[Any], confounder: NDArray[Any], weights: dict[str, NDArray[np.float64]]
    ) -> None:
        """Raise an error that the trainings of regions, or the estimator's after them, would end with."""
        trains_another = bool(self.protect_target) and self.target_region_classifier is None
        check_region_epochs(self.region_epochs, trains=self.region_classifier is None or trains_another)
        if self.region_classifier is None:
            check_varies_within("sensitive_features", confounder, "y", labels)
        if trains_another:
            check_varies_within("y", labels, "sensitive_features", confounder)
        trained = _classifier_of(self.estimator)
        if isinstance(trained, ImageClassifier):
            trained._check_parameters()
            if weights:
                trained._check_heeded(weights["sample_weight"])
        if trained is not self.estimator:
            self.estimator._check_parameters()
            self.estimator._cells_of(labels, labels, confounder)

    def _take_noise_back(self) -> None:
        """Leave the estimator with its own transform: the noise goes by positions, and a clone has other images."""
        given = _classifier_of(self.estimator)
        is_within = given is not self.estimator
        for fitted in (self.estimator_.estimator, self.estimator_.estimator_) if is_within else (self.estimator_,):
            restore(fitted, given, "batch_transform")

    def _candidates(self) -> list[AttributionNoise]:
        """Return the perturbations to choose from, checked."""
        schemes = _listed(self.scheme, AUTO_SCHEMES)
        quantiles = _listed(self.quantile, AUTO_QUANTILES)
        shared = {name: getattr(self, name) for name in ("noise_std", "perturbation", "control", "transplant_share")}
        candidates = [
            AttributionNoise(scheme, quantile, **shared)
            for scheme in schemes
            for quantile in quantiles
            # At 1 nothing is perturbed, by whichever scheme: that is one candidate.
            if quantile != 1 or scheme == schemes[0]
        ]
        if not candidates:
            raise ValueError(f"scheme and quantile must not be empty, got {self.scheme!r} and {self.quantile!r}")
        for noise in candidates:
            noise.validate()
        if self.apply_at_predict and not {noise.scheme for noise in candidates} <= set(AT_PREDICT):
            raise ValueError(f"apply_at_predict needs the scheme {' or '.join(AT_PREDICT)}, got {self.scheme!r}")
        if self.apply_at_predict and not getattr(self.estimator, "_only_trains", True):
            within = type(self.estimator).__name__
            raise ValueError(f"apply_at_predict must be False with {within}, which looks at images not perturbed too")
        check_number("protect_target", self.protect_target, 0)
        check_number("validation_fraction", self.validation_fraction, 0, 1, inside=True)
        if not isinstance(self.memory, str | os.PathLike | None):
            raise TypeError(f"memory must be a folder, got {type(self.memory).__name__}")
        if self.memory is not None and self.random_state is None:
            raise ValueError("random_state must be given with memory: it identifies what is kept there")
        if self.target_region_classifier is not None and not self.protect_target:
            raise ValueError("target_region_classifier must come with protect_target above 0, got 0")
        return candidates

    def _select(
        self, candidates: list[AttributionNoise], data: Samples, weights: dict[str, Any], maps: Tensor, seed: int
    ) -> pd.DataFrame:
        """Train each candidate on a part of the images and judge it on the rest."""
        held = hold_out(data.y, data.confounder, self.validation_fraction, seed)
        if missing := {*data.y.tolist()} - {*data.y[held].tolist()}:
            raise ValueError(
                f"validation_fraction of {self.validation_fraction:g} holds out no image of class "
                f"{', '.join(map(str, sorted(missing)))}: there are too few to choose a scheme or quantile by"
            )
        train, held_out = (
            Samples(take(data.X, np.flatnonzero(part)), data.y[part], data.confounder[part]) for part in (~held, held)
        )
        mask = quantile_mask(torch.from_numpy(self.pixel_map_), SELECTION_QUANTILE)
        given = _classifier_of(self.estimator)
        place = "estimator" if given is self.estimator else "estimator__estimator"
        own = {place: for_images_at(np.flatnonzero(~held), given)}
        weights = {name: value[~held] for name, value in weights.items()}
        maps = maps if len(maps) == 1 else maps[torch.from_numpy(~held)]

        def score(noise: AttributionNoise) -> CrossedAUC:
            candidate = clone(self).set_params(
                scheme=noise.scheme,
                quantile=noise.quantile,
                region_classifier=self.region_classifier_,
                region_epochs=None,
                target_region_classifier=self.target_region_classifier_ if self.protect_target else None,
                random_state=None if self.random_state is None else seed,
                **own,
            )
            candidate.fit(train.X, train.y, sensitive_features=train.confounder, region_maps=maps, **weights)
            return estimate_crossed_auc(candidate, held_out, train, mask, random_state=seed)

        bar = {"total": len(candidates), "desc": "candidates", "unit": "fit", "disable": not self.show_progress}
        # Around all: threads would put it back into train mode while others use it.
        with evaluating(self.target_region_classifier_) if self.protect_target else nullcontext():
            scores = Parallel(n_jobs=self.n_jobs, return_as="generator")(delayed(score)(noise) for noise in candidates)
            every = zip(candidates, progress_bar(scores, **bar), strict=True)
            rows = [(noise.scheme, noise.quantile, *found) for noise, found in every]
        return pd.DataFrame(rows, columns=["scheme", "quantile", "crossed_auc", "standard_error"])

    def _train_regions(
        self, X: ImageData, attribute: NDArray[Any], within: NDArray[Any], seed: int
    ) -> RegionClassifier:
        """Train a region classifier of the attribute within the classes of the other."""
        trained = _classifier_of(self.estimator)
        classifier, _ = train_regions(
            X,
            attribute,
            within,
            region_epochs=self.region_epochs,
            random_state=seed,
            checkpoint_dir=getattr(trained, "checkpoint_dir", None) if self.memory is None else self.memory,
            device=getattr(trained, "device", None),
            show_progress=self.show_progress,
        )
        return classifier

    def _region_maps(self, X: ImageData, given: ArrayLike | RegionMaps | None, *, general: bool) -> Tensor:
        """Return maps N x rows x cols on the CPU, or only their mean, as 1 x rows x cols, where that will do."""
        if given is not None:
            given = given.maps if isinstance(given, RegionMaps) else np.asarray(given)
            if given.dtype.kind not in "fiu":
                raise TypeError(f"region_maps must hold numbers, got {given.dtype}")
            maps = torch.tensor(given)  # a copy: worker processes get read-only memory
            wanted = (len(X), *self.region_classifier_.grid.shape)
            if maps.shape != wanted and not (general and maps.shape == (1, *wanted[1:])):
                raise ValueError(f"region_maps must have shape {wanted}, got {tuple(maps.shape)}")
            if not maps.isfinite().all():
                raise ValueError("region_maps must be finite, got infinite or missing values")
            return maps
        attribution = RegionAttribution(self.region_classifier_, self.confidence)
        compute = attribution.mean_map if general else attribution.region_map
        maps = self._kept(self.region_classifier_, compute, X)
        return maps[None] if general else maps

    def _target_map(self, X: ImageData, labels: NDArray[Any], confounder: NDArray[Any], seed: int) -> Tensor:
        """Return the target's mean map by pixel, of the classifier given or one trained within the confounder."""
        given = self.target_region_classifier
        self.target_region_classifier_ = given or self._train_regions(X, labels, confounder, seed)
        attribution = RegionAttribution(self.target_region_classifier_, self.confidence)
        return self._kept(self.target_region_classifier_, attribution.mean_pixels, X)

    def _kept(self, classifier: RegionClassifier, compute: Callable[..., Tensor], X: ImageData) -> Tensor:
        """Return maps of a region classifier from the memory, or compute them and keep them there."""

        def key() -> Any:
            return compute.__name__, classifier_digest(classifier), self.confidence, X

        snapshots = Snapshots(self.memory, self.random_state, key)
        kept = snapshots.load()
        with snapshots.restoring():
            if not isinstance(kept, Tensor | None):
                raise TypeError(f"it must hold maps, got {type(kept).__name__}")
        if kept is None:
            with evaluating(classifier):  # one that was just made, or is being trained, is in train mode
                kept = compute(Checked(X), show_progress=self.show_progress).cpu()
            snapshots.save(lambda: kept)
        return kept


def _parameters(estimator: Any) -> tuple[dict[str, Any], str]:
    """Return an estimator's parameters, and the prefix of those of the classifier that it trains."""
    found: dict[str, Any] = getattr(estimator, "get_params", dict)() if not isinstance(estimator, type) else {}
    if "batch_transform" in found:
        return found, ""
    is_mitigator = isinstance(estimator, Mitigator) and "sensitive_features" in signature(estimator.fit).parameters
    if is_mitigator and "estimator__batch_transform" in found:
        return found, "estimator__"
    raise TypeError(
        "estimator must be a classifier that has a parameter batch_transform as ImageClassifier(), or a mitigator of "
        f"one as GroupDRO(ImageClassifier()), got {estimator!r}"
    )


def _classifier_of(estimator: Any) -> Any:
    """Return the classifier whose batches are perturbed: an estimator itself, or that of a mitigator."""
    _, prefix = _parameters(estimator)
    return estimator.estimator if prefix else estimator


def _least_within_one_standard_error(selection: pd.DataFrame) -> int:
    """Return the position of the candidate that perturbs least, among those within a standard error of the best.

    Breiman et al. 1984, *Classification and Regression Trees*, section 3.4.3. Perturbing more also
    removes more of the target.
    """
    best = selection.iloc[int(selection["crossed_auc"].argmax())]
    as_good = selection[selection["crossed_auc"] >= best["crossed_auc"] - best["standard_error"]]
    return int(as_good.sort_values(["quantile", "crossed_auc"]).index[-1])


def _listed(value: Any, automatic: tuple[Any, ...]) -> tuple[Any, ...]:
    if np.ndim(value):
        return tuple(value)
    return automatic if value == "auto" else (value,)

"""The whole comparison with saliency methods: trains the explained model and region classifiers, and measures all."""

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from captum_region.attribution import MultiScaleRegionAttribution, RegionAttribution
from captum_region.batches import ImageData, as_floats, batches, take
from captum_region.classifiers import DenseRegionClassifier, Recipe, RegionClassifier
from captum_region.datasets import AttributeImages, Faces
from captum_region.datasets.images import quoted
from captum_region.grid import RegionGrid
from captum_region.intervals import paired_differences
from captum_region.io.checkpoint import classifier_digest
from captum_region.io.files import records
from captum_region.io.snapshot import Snapshots, table_of
from captum_region.progress import progress_bar
from captum_region.randomness import seeded
from captum_region.saliency.choice import SIGMAS, choose_methods, mean_of
from captum_region.saliency.compare import SaliencyComparison, checked_truth, compare_saliency
from captum_region.saliency.faithfulness import information_left
from captum_region.saliency.methods import Method, captum_methods, floors, region_methods, superpixel_methods
from captum_region.training import fit_region_classifier, region_accuracy
from captum_region.validation import check_count

# Their maps take hundreds of passes, or seconds (XRAI); ROAR needs a map of every training image.
SLOW = ("Occlusion", "KernelShap", "XRAI")
RETRAIN = ("fast", "all", "none")


class WholeImageClassifier(RegionClassifier):
    """A small convolutional network to be explained: three blocks of convolution, normalisation, ReLU and pooling.

    For the package's trainer it is a classifier of one region, the whole image.

    Parameters
    ----------
    size : int
        Side of the images in pixels.
    random_state : int
        Seed of the initial weights.

    Attributes
    ----------
    last : nn.Module
        The layer for Grad-CAM.
    """

    recipe = Recipe(
        epochs=15, batch_size=64, positions_per_image=1, lr=1e-2, weight_decay=0.01, schedule="onecycle", min_steps=400
    )

    def __init__(self, size: int, random_state: int) -> None:
        super().__init__(RegionGrid(size, size, 1), 2)
        layers: list[nn.Module] = []
        with seeded(random_state):
            for wide_in, wide_out in ((3, 16), (16, 32), (32, 64)):
                convolution = nn.Conv2d(wide_in, wide_out, 3, padding=1)
                layers += [convolution, nn.BatchNorm2d(wide_out), nn.ReLU(), nn.MaxPool2d(2)]
            layers[-1:] = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 2)]
        self.network = nn.Sequential(*layers)
        self.to(memory_format=torch.channels_last)  # the faster layout on most machines
        self.last = [module for module in layers if isinstance(module, nn.ReLU)][-1]

    def forward(self, patches: Tensor, region: Tensor | None = None) -> Tensor:
        """Classify images, N x 3 x size x size, uint8 or float in [0, 1]: N x 2 logits."""
        return self.network(self.normalize(patches))


def grids_for(size: int) -> tuple[RegionGrid, RegionGrid]:
    """Return the grids of a `MultiScaleRegionAttribution`: patches of a quarter (as in the paper) and an eighth."""
    usual = RegionGrid.for_images(size)
    return usual, RegionGrid(size, max(1, usual.patch_size // 2), usual.stride)


@dataclass(frozen=True)
class Study:
    """What `study_attribute` found for one attribute and seed.

    Attributes
    ----------
    comparison : SaliencyComparison
        On test images that have the attribute.
    left : DataFrame
        One row per method: ``method`` and its remove-and-retrain (ROAR) accuracy ``information_left`` (see
        `captum_region.saliency.faithfulness.information_left`); the first row is ``nothing masked``.
    choice : DataFrame
        The scores of `choose_methods`; without rows if nothing was chosen.
    accuracy, region_accuracy : float
        Balanced accuracy on the test images: of the explained model, and of the first region classifier, the mean over
        regions.
    images : AttributeImages
        The N test images that were compared; all have the attribute.
    truth : ndarray of bool, shape (N, height, width)
    not_run : dict of str to str
        Methods that could not run, and why.
    git : str or None
        The commit of this package that made the study, see `captum_region.io.provenance.provenance`.
    """

    comparison: SaliencyComparison
    left: pd.DataFrame
    choice: pd.DataFrame
    accuracy: float
    region_accuracy: float
    images: AttributeImages
    truth: NDArray[np.bool_]
    not_run: dict[str, str]
    git: str | None = None

    def chosen(self) -> dict[str, dict[str, Any]]:
        """Return of each method what was chosen: the ``variant``, empty of one alone, and ``sigma`` in pixels."""
        rows = records(self.choice[self.choice["chosen"].astype(bool)])
        return {row["method"]: {"variant": row["variant"], "sigma": row["sigma"]} for row in rows}

    @property
    def images_right(self) -> int:
        """How many of the compared images the explained model gets right."""
        return int(self.comparison.scores.groupby("image")["right"].first().sum())


def study_attribute(
    train: AttributeImages,
    test: AttributeImages,
    attribute: str,
    *,
    choice: AttributeImages | None = None,
    truth: Callable[[AttributeImages], ArrayLike] | None = None,
    limit: int = 100,
    without: Collection[str] = (),
    epochs: int | None = 20,
    region_epochs: int | None = 100,
    retrain: str | Collection[str] = "fast",
    quantile: float = 0.8,
    retrain_epochs: int | None = 10,
    seed: int = 0,
    device: str | torch.device = "cpu",
    checkpoint_dir: str | os.PathLike[str] | None = None,
    show_progress: bool = False,
) -> Study:
    """Train a model to be explained and region classifiers on the same images, and compare all methods on new ones.

    The region classifiers are two `DenseRegionClassifier`, with patches of a quarter and an eighth of the image. The
    first is compared alone, and both together as a `MultiScaleRegionAttribution`.

    Parameters
    ----------
    train, test : AttributeImages
        Square images.
    attribute : str
        A binary attribute, or attribute=value.
    choice : AttributeImages, optional
        Other images, on which `choose_methods` chooses how strongly each method is smoothed, and the window of
        Occlusion: the patch of the first region classifier, of the second, or the mean of both. By default nothing is
        smoothed, and the window is the first patch.
    truth : callable, optional
        Returns masks of shape (n, height, width) for n images that have the attribute; by default the truth of
        synthetic faces.
    limit : int, default=100
        Compare, and choose, on the first images that have the attribute, at most this many.
    without : collection of str, default=()
        Methods to leave out.
    epochs, region_epochs, retrain_epochs : int or None, default=20, 100 and 10
        Training epochs of the explained model, of the region classifiers (small patches contain little, and need many),
        and of each classifier of `retrain`; None is the recipe's number.
    retrain : {"fast", "all", "none"} or collection of str, default="fast"
        The methods whose remove-and-retrain (ROAR) accuracy is measured. Each needs a training, and a map of each
        training and test image, of the class that the explained model predicts. ``"fast"`` leaves out `SLOW`.
    quantile : float, default=0.8
        `retrain` masks the pixels above this quantile of each map.
    seed : int, default=0
        Random seed of the trainings and methods.
    device : str or torch.device, default="cpu"
    checkpoint_dir : path, optional
        A folder for the states of the trainings, and the result. Called again with the same arguments, the function
        reads the result, or resumes where it was stopped.
    show_progress : bool, default=False
        Show progress bars on stderr.

    Returns
    -------
    Study

    Raises
    ------
    ValueError
        If images are not square, no image of `test` or `choice` has the attribute, all of `test` have it, there is no
        truth, `limit` or `quantile` is out of range, or `without` or `retrain` names an unknown method.

    See Also
    --------
    compare_saliency : Measures methods of your own, without training.
    """
    side = _side(train, {"test": test, "choice": choice}, limit, quantile)
    for name, count in (("epochs", epochs), ("region_epochs", region_epochs), ("retrain_epochs", retrain_epochs)):
        if count is not None:
            check_count(name, count)
    labels, expected = train.binary(attribute), test.binary(attribute)
    if expected.all():
        raise ValueError(f"test must hold images without {attribute} too, or no accuracy can be measured; all have it")
    with_it, masks = _with_truth("test", test, attribute, truth, limit)
    chosen_on = None if choice is None else _with_truth("choice", choice, attribute, truth, limit)
    model = WholeImageClassifier(side, seed).to(device)
    classifiers = [DenseRegionClassifier(grid, 2, random_state=seed).to(device) for grid in grids_for(side)]
    # Names are checked before hours of training.
    made, not_run = _candidates(model, classifiers, train.images[:1], train.images[:1], seed)
    _check_names("without", without, [*made, *not_run])
    kept = [name for name in made if name not in without]
    again = _chosen(retrain, kept)
    snapshots = Snapshots(
        checkpoint_dir,
        seed,
        lambda: (
            (train, labels, test.images, expected, masks, chosen_on, list(map(classifier_digest, classifiers))),
            (kept, again, SIGMAS, epochs, region_epochs, quantile, retrain_epochs, seed),
        ),
    )
    found = snapshots.load()
    if found is None:
        training: Any = {"random_state": seed, "checkpoint_dir": checkpoint_dir}
        shown: Any = {"show_progress": show_progress}
        for classifier, passes in zip((model, *classifiers), (epochs, region_epochs, region_epochs), strict=True):
            fit_region_classifier(classifier, train.images, labels, epochs=passes, **training, **shown)
        # The mean map takes a map of every image.
        averaged = train.images if any(name.endswith(", mean") for name in kept) else train.images[:1]
        made, _ = _candidates(model, classifiers, train.images, averaged, seed)
        methods, scores = _choose({name: made[name] for name in kept}, chosen_on, device, show_progress)
        compared = compare_saliency(with_it.images, masks, methods, target=1, model=model, device=device, **shown)
        training |= {"epochs": retrain_epochs, "quantile": quantile, "device": device}
        sets = (train.images, labels), (test.images, expected)
        found = {
            "comparison": vars(compared),
            "choice": scores,
            "left": _retrained({name: methods[name] for name in again}, model, sets, training, show_progress),
            "accuracy": _accuracy(model, test.images, expected),
            "region_accuracy": _accuracy(classifiers[0], test.images, expected),
        }
        snapshots.save(lambda: found)
    with snapshots.restoring():
        measured = found.pop("comparison")
        comparison = SaliencyComparison(**measured | {"scores": table_of(measured["scores"])})
        found |= {name: table_of(found[name]) for name in ("choice", "left")}
        return Study(comparison, images=with_it, truth=masks, not_run=not_run, git=snapshots.git, **found)


def _side(train: AttributeImages, others: dict[str, AttributeImages | None], limit: int, quantile: float) -> int:
    """Return the side of the images, which must be square and of one size; the other arguments must be in range."""
    height, width = train.image_size
    if height != width:
        raise ValueError(f"train must hold square images, got {height} x {width}")
    for name, part in others.items():
        if part is not None and part.image_size != train.image_size:
            raise ValueError(f"{name} must hold images of {height} x {width}, as train does, got {part.image_size}")
    check_count("limit", limit)
    if not 0 <= quantile < 1:
        raise ValueError(f"quantile must lie in [0, 1), got {quantile}")
    return height


def _with_truth(
    name: str,
    images: AttributeImages,
    attribute: str,
    truth: Callable[[AttributeImages], ArrayLike] | None,
    limit: int,
) -> tuple[AttributeImages, NDArray[np.bool_]]:
    """Return the first images that have the attribute, and where it shows in them."""
    with_it = images.subset(np.flatnonzero(images.binary(attribute))[:limit])
    if not len(with_it):
        raise ValueError(f"{name} must hold images with {attribute}, got none")
    if truth is not None:
        return with_it, checked_truth(with_it.images, truth(with_it))[1]
    if not isinstance(with_it, Faces):
        raise ValueError("truth must be given: only for synthetic faces is it known where an attribute shows")
    return with_it, with_it.truth(attribute)


def _candidates(
    model: WholeImageClassifier,
    region_classifiers: Sequence[RegionClassifier],
    images: ImageData,
    averaged: ImageData,
    seed: int,
) -> tuple[dict[str, dict[str, Method]], dict[str, str]]:
    """Return the variants of all methods, the usual one first, and the methods that cannot run with the reason.

    The mean region map is that of the images `averaged`.
    """
    background = as_floats(take(images, slice(64)).to(model.device))
    occlusions = {}
    for grid in (classifier.grid for classifier in region_classifiers):
        window, stride = grid.patch_size, max(1, grid.patch_size // 2)
        options: Any = {"background": background, "window": window, "stride": stride, "random_state": seed}
        methods = captum_methods(model, model.last, **options)
        occlusions[f"{window} px"] = methods["Occlusion"]
    occlusions[" and ".join(occlusions)] = mean_of(list(occlusions.values()))
    not_run = {}
    try:
        methods |= superpixel_methods(model, background=background, random_state=seed)
    except ImportError as error:
        not_run = dict.fromkeys(("KernelShap", "XRAI"), str(error))
    first, several = RegionAttribution(region_classifiers[0]), MultiScaleRegionAttribution(region_classifiers)
    methods |= region_methods(first, averaged)
    methods |= region_methods(several, averaged, name="MultiScaleRegionAttribution")
    candidates = {name: {"": method} for name, method in methods.items()}
    return candidates | {"Occlusion": occlusions} | {name: {"": floor} for name, floor in floors(seed).items()}, not_run


def _choose(
    candidates: dict[str, dict[str, Method]],
    chosen_on: tuple[AttributeImages, NDArray[np.bool_]] | None,
    device: str | torch.device,
    show_progress: bool,
) -> tuple[dict[str, Method], pd.DataFrame]:
    """Return the method to compare of each name, and the scores of the choice."""
    if chosen_on is None:
        usual = {name: next(iter(variants.values())) for name, variants in candidates.items()}
        return usual, pd.DataFrame(columns=["method", "variant", "sigma", "score", "chosen"])
    images, masks = chosen_on
    return choose_methods(images.images, masks, candidates, target=1, device=device, show_progress=show_progress)


def _chosen(retrain: str | Collection[str], methods: list[str]) -> list[str]:
    if isinstance(retrain, str) and retrain not in RETRAIN:
        raise ValueError(f"retrain must be {', '.join(RETRAIN)} or names of methods, got {retrain!r}")
    asked = [retrain] if isinstance(retrain, str) else list(retrain)
    _check_names("retrain", [name for name in asked if name not in RETRAIN], methods)
    groups = {"fast": [name for name in methods if name not in SLOW], "all": methods, "none": []}
    return list(dict.fromkeys(name for ask in asked for name in groups.get(ask, [ask])))


def _check_names(argument: str, names: Collection[str], methods: Collection[str]) -> None:
    if unknown := [name for name in names if name not in methods]:
        raise ValueError(f"{argument} must name methods, of {quoted(methods)}; got {quoted(unknown)}")


def _accuracy(classifier: RegionClassifier, images: ImageData, labels: NDArray[np.bool_]) -> float:
    return float(region_accuracy(classifier, images, labels.astype(int)).mean())


def _retrained(
    methods: dict[str, Method],
    model: WholeImageClassifier,
    sets: tuple[tuple[ImageData, NDArray[np.bool_]], tuple[ImageData, NDArray[np.bool_]]],
    options: dict[str, Any],
    show_progress: bool,
) -> pd.DataFrame:
    """Return the `information_left` of each method, and at first without a mask; nothing if there is no method."""
    masked = {"nothing masked": None, **methods} if methods else {}
    left = []
    for name, method in progress_bar(masked.items(), desc="retraining", unit="method", disable=not show_progress):
        train, test = ((images, _maps(method, model, images), labels) for images, labels in sets)
        left.append((name, information_left(train, test, **options)))
    return pd.DataFrame(left, columns=["method", "information_left"])


def _maps(method: Method | None, model: WholeImageClassifier, images: ImageData) -> Tensor | None:
    """Return a map of each image, of the class that the model predicts: labels must not shape the masks."""
    if method is None:
        return None
    maps = []
    for batch in batches(images, 64):
        scaled = as_floats(batch.to(model.device))
        with torch.no_grad():
            predicted = model(scaled).argmax(1)
        maps.append(method(scaled, predicted).cpu())
    return torch.cat(maps)


def information_table(left: pd.DataFrame, reference: str = "RegionAttribution") -> pd.DataFrame:
    """Return each method's remove-and-retrain (ROAR) accuracy, and how it differs from `reference`, over seeds.

    Parameters
    ----------
    left : DataFrame
        Columns ``seed``, ``method`` and ``information_left``: the `Study.left` of several seeds.
    reference : str, default="RegionAttribution"

    Returns
    -------
    DataFrame
        One row per method: ``mean``, ``std_seeds``, ``difference`` (method minus reference, paired by seed), ``low``
        and ``high``, its 95 % interval by Student's t, NaN for one seed.

    Raises
    ------
    ValueError
        If `reference` is not among the methods.
    """
    values = left.pivot(index="seed", columns="method", values="information_left")[list(dict.fromkeys(left["method"]))]
    if reference not in values:
        raise ValueError(f"reference must be one of {', '.join(map(str, values))}, got {reference!r}")
    return paired_differences(values, reference).rename_axis("method").reset_index()

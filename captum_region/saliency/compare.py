"""Region attribution compared with saliency methods on images whose truth is known: how good, and at what cost.

A saliency method explains one model, the region map explains the data: it also shows what a model does not use.
"""

import time
import tracemalloc
import warnings
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from captum_region.attribution import class_numbers
from captum_region.batches import ImageData, as_floats, batches, check_images
from captum_region.evaluation import check_evaluating
from captum_region.progress import progress_bar
from captum_region.randomness import RandomState, draw_seed
from captum_region.saliency.faithfulness import deletion_insertion, logits_of
from captum_region.saliency.localisation import MEASURES
from captum_region.saliency.methods import Method

# What is measured on the explained model, and the measures of which less is better.
MODEL_MEASURES = ("deletion", "insertion")
LESS_IS_BETTER = ("deletion", "information_left")


@dataclass(frozen=True)
class SaliencyComparison:
    """What `compare_saliency` found.

    Attributes
    ----------
    scores : DataFrame
        One row per method and image: ``method``, ``image``, and the measures of `MEASURES`, NaN where undefined. If a
        model was given also ``deletion``, ``insertion``, and ``right``, whether the model predicts the target.
    seconds : dict of str to float
        Time per image of each method, on this machine, in batches of ``batch_size``.
    memory : dict of str to int
        Peak memory in bytes for one image: of new tensors, and of what Python and NumPy allocate besides.
    maps : dict of str to Tensor, shape (N, height, width)
    """

    scores: pd.DataFrame
    seconds: dict[str, float]
    memory: dict[str, int]
    maps: dict[str, Tensor]

    def table(self, reference: str = "RegionAttribution") -> pd.DataFrame:
        """Return `saliency_table` of the scores."""
        return saliency_table(self.scores, reference)


def saliency_table(
    scores: pd.DataFrame,
    reference: str = "RegionAttribution",
    *,
    same_images: bool = False,
    resamples: int = 2000,
    random_state: RandomState = 0,
) -> pd.DataFrame:
    """Return each method's mean and spread, and how it differs from `reference` on the same images.

    Parameters
    ----------
    scores : DataFrame
        As in `SaliencyComparison`. A column ``seed`` distinguishes several runs; they may differ in their number of
        images, and have equal weight.
    reference : str, default="RegionAttribution"
    same_images : bool, default=False
        Whether equal numbers of ``image`` in several runs are the same image. The bootstrap then draws images once for
        all runs: as if each run had images of its own, intervals would be too narrow.
    resamples : int, default=2000
        Of the bootstrap, which draws runs and, within each, images.
    random_state : int, NumPy generator or None

    Returns
    -------
    DataFrame
        One row per measure and method: ``mean``, ``std`` (over images), ``std_seeds`` (of the runs' means; NaN for one
        run); if the scores have a column ``right``, ``mean_right`` and ``mean_wrong`` over the images of all runs that
        the explained model gets right, or wrong; ``difference`` (mean of method minus reference), ``low`` and ``high``
        (its 95 % percentile bootstrap interval). Images where either is undefined are left out of the difference.

    Raises
    ------
    ValueError
        If there is no such method.

    See Also
    --------
    compare_saliency : Measures the scores.
    """
    methods = list(dict.fromkeys(scores["method"]))
    if reference not in methods:
        raise ValueError(f"reference must be one of {', '.join(methods)}, got {reference!r}")
    if "seed" not in scores:
        scores = scores.assign(seed=0)
    generator = np.random.default_rng(draw_seed(random_state))
    tables = {}
    for measure in (name for name in (*MEASURES, *MODEL_MEASURES) if name in scores):
        values = scores.pivot(index=["seed", "image"], columns="method", values=measure)[methods]
        of_runs = values.groupby("seed").mean()
        differences = values.sub(values[reference], axis=0)
        bootstrap = _bootstrap_of_same if same_images else _bootstrap
        found = [bootstrap(differences[method].dropna(), resamples, generator) for method in methods]
        spread = pd.DataFrame({"mean": of_runs.mean(), "std": values.std(), "std_seeds": of_runs.std()})
        if "right" in scores:
            parts = {"mean_right": scores[scores["right"]], "mean_wrong": scores[~scores["right"]]}
            spread = spread.assign(**{name: part.groupby("method")[measure].mean() for name, part in parts.items()})
        tables[measure] = spread.join(pd.DataFrame(found, methods, ["difference", "low", "high"]))
    return pd.concat(tables, names=["measure", "method"]).reset_index()


def _bootstrap(
    differences: "pd.Series[float]", resamples: int, generator: np.random.Generator
) -> tuple[float, float, float]:
    """Return the mean of the runs' means, and its 95 % interval."""
    runs = [run.to_numpy() for _, run in differences.groupby("seed")]
    if not runs:
        return np.nan, np.nan, np.nan
    # For each place of a resample a mean of each run, of which one is taken.
    size = resamples, len(runs)
    means = np.stack([run[generator.integers(len(run), size=(*size, len(run)))].mean(2) for run in runs])
    chosen = generator.integers(len(runs), size=size)
    drawn = np.take_along_axis(means, chosen[None], 0)[0].mean(1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(np.mean([run.mean() for run in runs])), float(low), float(high)


def _bootstrap_of_same(
    differences: "pd.Series[float]", resamples: int, generator: np.random.Generator
) -> tuple[float, float, float]:
    """Return the same as `_bootstrap` where all runs have the same images, which are drawn for all at once."""
    if not len(differences):
        return np.nan, np.nan, np.nan
    values = differences.unstack("seed").to_numpy()  # NaN where an image is undefined in one run
    count, runs = values.shape
    chosen = generator.integers(runs, size=(resamples, runs))
    drawn = np.empty(resamples)
    for number, of_draw in enumerate(chosen):
        images = values[generator.integers(count, size=count)][:, of_draw]
        drawn[number] = _mean_of_runs(images)
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return _mean_of_runs(values), float(low), float(high)


def _mean_of_runs(values: NDArray[np.float64]) -> float:
    """Return the mean of the runs' means over images, images x runs: runs weigh alike where few images are defined."""
    is_known = ~np.isnan(values)
    counts = is_known.sum(0)
    means = np.where(is_known, values, 0).sum(0)[counts > 0] / counts[counts > 0]
    return float(means.mean()) if len(means) else np.nan


def compare_saliency(
    images: ImageData,
    truth: ArrayLike,
    methods: Mapping[str, Method],
    *,
    target: ArrayLike,
    model: nn.Module | None = None,
    device: str | torch.device | None = None,
    batch_size: int = 16,
    show_progress: bool = False,
) -> SaliencyComparison:
    """Run methods on the same images, and measure how well each finds the truth.

    Parameters
    ----------
    images : ndarray or Tensor, shape (N, C, height, width)
        uint8, or float in [0, 1].
    truth : array-like of bool, shape (N, height, width)
        Where the attribute shows, for example from `captum_region.datasets.Faces.truth`.
    methods : mapping of str to callable
        (images in [0, 1], targets) -> maps; your own, or from `captum_region.saliency.methods` (`captum_methods`,
        `superpixel_methods`, `region_methods`, `floors`).
    target : int or array-like of int, shape (N,)
        The class that is explained, of all images or of each.
    model : nn.Module, optional
        The explained model, images in [0, 1] to logits: adds ``deletion`` and ``insertion`` of
        `captum_region.saliency.faithfulness.deletion_insertion`, with the mean colour of the images as the baseline.
    device : str or torch.device, optional
        Where the methods and the model get images and targets; by default where these are.
    batch_size : int, default=16
        Images at a time.
    show_progress : bool, default=False
        Show a progress bar on stderr.

    Returns
    -------
    SaliencyComparison

    Raises
    ------
    ValueError
        If shapes do not fit, there is no method, a method returns maps of another shape, `model` is in train mode or
        does not give logits of two classes or more, or a target is no class.

    Warns
    -----
    RuntimeWarning
        Once, if measures are undefined, and so NaN: for a constant map, or an empty truth.

    See Also
    --------
    study_attribute : Also trains the model to be explained and the region classifiers.

    Examples
    --------
    >>> from captum_region.saliency.methods import floors
    >>> from captum_region.datasets import make_faces
    >>> faces = make_faces(4, 32, attributes={"Eyeglasses": 1.0}, random_state=0)
    >>> found = compare_saliency(faces.images, faces.truth("Eyeglasses"), floors(0), target=1)
    >>> list(found.maps), found.maps["centre"].shape
    (['random', 'centre'], torch.Size([4, 32, 32]))
    >>> bool(found.scores.groupby("method")["pixel_auc"].mean()["centre"] > 0.9)  # glasses are in the middle
    True
    """
    images, inside = checked_truth(images, truth)
    check_evaluating(model, "model")
    if not methods:
        raise ValueError("methods must hold at least one, got none")
    pairs = with_targets(images, target, batch_size, device)
    colour = torch.cat([part.mean((2, 3)) for part, _ in pairs]).mean(0)[:, None, None]
    right = None if model is None else _is_right(model, pairs)
    maps: dict[str, Tensor] = {}
    seconds, memory, tables = {}, {}, []
    with progress_bar(total=len(methods) * len(images), desc="saliency", unit="map", disable=not show_progress) as bar:
        for name, method in methods.items():
            bar.set_postfix_str(name)
            start = time.perf_counter()
            maps[name] = run_method(name, method, pairs, bar)
            seconds[name] = (time.perf_counter() - start) / len(images)
            memory[name] = _peak_memory(method, pairs[0][0][:1], pairs[0][1][:1])
            measured = {measure: quietly(measure, maps[name], inside) for measure in MEASURES}
            table = pd.DataFrame({"method": name, "image": range(len(images)), **measured})
            if model is not None:
                changed = [
                    deletion_insertion(model, part, values.to(part.device), target=its, baseline=colour)
                    for (part, its), values in zip(pairs, maps[name].split(batch_size), strict=True)
                ]
                table = table.join(pd.concat(changed, ignore_index=True)).assign(right=right)
            tables.append(table)
    scores = pd.concat(tables, ignore_index=True)
    undefined = scores[[*MEASURES]].isna().any(axis=1).groupby(scores["method"], sort=False).sum()
    if undefined.any():
        which = ", ".join(f"{name} ({count} of {len(images)} images)" for name, count in undefined.items() if count)
        warnings.warn(f"measures are NaN where a map or truth is constant: {which}", RuntimeWarning, stacklevel=2)
    return SaliencyComparison(scores, seconds, memory, maps)


def checked_truth(images: ImageData, truth: ArrayLike) -> tuple[ImageData, NDArray[np.bool_]]:
    """Return the checked images and masks; raise ValueError unless there is a mask for each of at least one image."""
    images = check_images(images)
    inside = np.asarray(truth, dtype=bool)
    wanted = (len(images), *images.shape[2:])
    if inside.shape != wanted or not len(images):
        raise ValueError(f"truth must have shape {wanted}, a mask for each of at least one image; got {inside.shape}")
    return images, inside


def with_targets(
    images: ImageData, target: ArrayLike, batch_size: int, device: str | torch.device | None
) -> list[tuple[Tensor, Tensor]]:
    """Return batches of images in [0, 1], each with its targets: class numbers, or the labels of a binary attribute."""
    given = torch.as_tensor(np.asarray(target))
    targets = class_numbers(given.long() if given.dtype == torch.bool else given, len(images)).long()
    if len(targets) and int(targets.min()) < 0:
        raise ValueError(f"target must hold class numbers from 0 on, got {int(targets.min())}")
    targets = targets.expand(len(images))
    parts = [as_floats(batch.to(device)) for batch in batches(images, batch_size)]
    return list(zip(parts, targets.to(parts[0].device).split(batch_size), strict=True))


def run_method(name: str, method: Method, pairs: Sequence[tuple[Tensor, Tensor]], bar: Any) -> Tensor:
    """Return the maps of all images, on the CPU; raise ValueError if they are of another shape."""
    found = []
    for part, its in pairs:
        values = torch.as_tensor(method(part, its)).detach().cpu()
        if values.shape != (len(part), *part.shape[2:]):
            wanted, shape = tuple(part.shape[2:]), tuple(values.shape)
            raise ValueError(f"methods[{name!r}] must give maps of {wanted}, got {shape}")
        found.append(values.float())
        bar.update(len(part))
    return torch.cat(found)


def quietly(measure: str, maps: Tensor, inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return a measure of each map, without a warning where it is undefined."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="undefined for")
        return MEASURES[measure](maps, inside)


def _is_right(model: nn.Module, pairs: Sequence[tuple[Tensor, Tensor]]) -> NDArray[np.bool_]:
    with torch.no_grad():
        found = [logits_of(model, part, its).argmax(1) == its for part, its in pairs]
    return torch.cat(found).cpu().numpy()


class _NewTensors(TorchDispatchMode):
    """Counts the bytes of tensors that come and go while it is on, on any device.

    torch reports the peak of a GPU, not of the CPU; a process reports its peak since it started.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        known = self.live.keys() | {storage._cdata for storage in _storages((args, kwargs))}
        for storage in _storages(out):
            if storage._cdata not in known:
                self.live[storage._cdata] = storage.nbytes()
                weakref.finalize(storage, self.live.pop, storage._cdata, None)
        self.peak = max(self.peak, sum(self.live.values()))
        return out


def _storages(tree: Any) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _peak_memory(method: Method, image: Tensor, target: Tensor) -> int:
    """Return how many bytes a map needs at its peak: those of tensors, and what Python counts, NumPy included."""
    tracemalloc.start()
    try:
        with _NewTensors() as tensors:
            method(image, target)
        return int(tensors.peak + tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()

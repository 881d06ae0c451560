"""Region attribution beside saliency methods, on images whose truth is known: who finds the region, at what cost.

The others explain one model, the region map explains the data: what a model does not use, they should not show.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from captum.attr import (
    GradientShap,
    GuidedGradCam,
    InputXGradient,
    IntegratedGradients,
    KernelShap,
    LayerAttribution,
    LayerGradCam,
    Occlusion,
    Saliency,
)
from torch import Tensor, nn
from tqdm.auto import tqdm

from captum_region.batches import batches, check_images
from captum_region.classifiers import DenseRegionClassifier
from captum_region.comparison.localisation import (
    intersection_over_union,
    mass_accuracy,
    pixel_auc,
    pointing_game,
    rank_accuracy,
)
from captum_region.grid import RegionGrid
from captum_region.randomness import RandomState, draw_seed, seeded
from captum_region.training import fit_region_classifier, region_accuracy

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from captum_region.attribution import RegionAttribution
    from captum_region.batches import ImageData

# N x C x H x W images in [0, 1] and their N targets -> N x H x W
Method = Callable[[Tensor, Tensor], Tensor]

MEASURES: dict[str, Callable[[ArrayLike, ArrayLike], Any]] = {
    "pointing_game": pointing_game,
    "rank_accuracy": rank_accuracy,
    "mass_accuracy": mass_accuracy,
    "pixel_auc": pixel_auc,
    "iou": intersection_over_union,
}


def captum_methods(
    model: nn.Module,
    layer: nn.Module,
    *,
    background: Tensor,
    window: int,
    stride: int,
    random_state: RandomState = None,
) -> dict[str, Method]:
    """Return Captum's saliency methods for `model`, each brought to one value a pixel as its authors do.

    Gradients by the largest absolute value over the channels (Saliency) or the sum of absolute values, Grad-CAM by its
    positive part, interpolated; Occlusion by the sum over the channels of what is lost.

    Parameters
    ----------
    model : nn.Module
        Images to logits. For GuidedGradCam its ReLUs are modules that do not work in place.
    layer : nn.Module
        The layer that Grad-CAM looks at, usually the last convolutional one.
    background : Tensor, shape (B, C, height, width)
        Images that stand for "nothing": their mean is the baseline of IntegratedGradients, Occlusion and KernelShap,
        and GradientShap draws from them.
    window, stride : int
        Of Occlusion, in pixels; `window` also is the side of KernelShap's square superpixels.
    random_state : int, NumPy generator or None
        Decides what GradientShap and KernelShap draw.

    Returns
    -------
    dict of str to callable
        (images, targets) -> maps of shape (N, height, width).
    """
    mean = background.mean(0, keepdim=True)
    channels, height, width = background.shape[1:]
    rows, columns = torch.arange(height) // window, torch.arange(width) // window
    superpixels = (rows[:, None] * (int(columns.max()) + 1) + columns)[None, None].to(background.device)
    seed = draw_seed(random_state)

    def grad_cam(images: Tensor, target: Tensor) -> Tensor:
        coarse = LayerGradCam(model, layer).attribute(images, target, relu_attributions=True)
        fine: Tensor = LayerAttribution.interpolate(coarse, (height, width), interpolate_mode="bilinear")
        return fine[:, 0]

    def integrated(images: Tensor, target: Tensor) -> Tensor:
        method: Any = IntegratedGradients(model)
        return _absolute(method.attribute(images, mean, target, n_steps=32, internal_batch_size=256))

    def gradient_shap(images: Tensor, target: Tensor) -> Tensor:
        method: Any = GradientShap(model)
        # It draws from NumPy's global state too, which is put back.
        state = np.random.get_state()  # noqa: NPY002
        try:
            np.random.seed(seed)  # noqa: NPY002
            with seeded(seed):
                return _absolute(method.attribute(images, background, 16, 0.1, target))
        finally:
            np.random.set_state(state)  # noqa: NPY002

    def kernel_shap(images: Tensor, target: Tensor) -> Tensor:
        method: Any = KernelShap(model)
        options = {"feature_mask": superpixels, "n_samples": 100, "perturbations_per_eval": 64}
        with seeded(seed):
            # One image at a time, as Captum advises.
            pairs = zip(images.split(1), target.split(1), strict=True)
            return torch.cat([method.attribute(image, mean, its, **options).mean(1) for image, its in pairs])

    def occlusion(images: Tensor, target: Tensor) -> Tensor:
        method: Any = Occlusion(model)
        options = {"sliding_window_shapes": (channels, window, window), "strides": (channels, stride, stride)}
        values: Tensor = method.attribute(images, baselines=mean, target=target, perturbations_per_eval=16, **options)
        return values.sum(1)

    def guided(images: Tensor, target: Tensor) -> Tensor:
        method: Any = GuidedGradCam(model, layer)
        with warnings.catch_warnings():
            # It tells of the hooks that it sets, and removes.
            warnings.filterwarnings("ignore", message="Setting backward hooks on ReLU")
            return _absolute(method.attribute(images, target))

    methods: dict[str, Method] = {
        "Saliency": lambda images, target: Saliency(model).attribute(images, target).amax(1),
        "InputXGradient": lambda images, target: _absolute(InputXGradient(model).attribute(images, target)),
        "IntegratedGradients": integrated,
        "GradientShap": gradient_shap,
        "LayerGradCam": grad_cam,
        "GuidedGradCam": guided,
        "Occlusion": occlusion,
        "KernelShap": kernel_shap,
    }
    return {name: partial(_with_gradient, method) for name, method in methods.items()}


def _with_gradient(method: Method, images: Tensor, target: Tensor) -> Tensor:
    """Call a method with images that take gradients already: Captum warns where it has to ask for them."""
    return method(images.detach().clone().requires_grad_(), target).detach()


def _absolute(attributions: Tensor) -> Tensor:
    return attributions.abs().sum(1)


def region_methods(attribution: RegionAttribution, images: ImageData) -> dict[str, Method]:
    """Return the region map in its three forms: of the image, its evidence for the target, and the mean of `images`.

    Parameters
    ----------
    attribution : RegionAttribution
    images : ndarray or Tensor, shape (N, C, height, width)
        What the mean map is taken over; a training set, say.
    """
    mean = attribution.grid.to_pixels(attribution.mean_map(images))
    return {
        "RegionAttribution": lambda batch, target: attribution.pixel_map(batch),
        "RegionAttribution, evidence": lambda batch, target: attribution.pixel_map(batch, target),
        "RegionAttribution, mean": lambda batch, target: mean.to(batch.device).expand(len(batch), -1, -1),
    }


def floors(random_state: RandomState = None) -> dict[str, Method]:
    """Return what needs no network: random values, and the closeness to the centre of the image."""
    generator = torch.Generator().manual_seed(draw_seed(random_state))

    def centre(images: Tensor, target: Tensor) -> Tensor:
        y, x = (torch.linspace(-1, 1, length) for length in images.shape[2:])
        return (-(y[:, None] ** 2) - x**2).exp().expand(len(images), -1, -1)

    return {
        "random": lambda images, target: torch.rand(len(images), *images.shape[2:], generator=generator),
        "centre": centre,
    }


@dataclass(frozen=True)
class SaliencyComparison:
    """What `compare_saliency` found.

    Attributes
    ----------
    scores : DataFrame
        One row a method and image: ``method``, ``image`` and the measures of `MEASURES`; NaN where undefined.
    seconds : dict of str to float
        Time per image of each method, on this machine, in batches of ``batch_size``.
    maps : dict of str to Tensor, shape (N, height, width)
    """

    scores: pd.DataFrame
    seconds: dict[str, float]
    maps: dict[str, Tensor]

    def table(
        self, reference: str = "RegionAttribution", *, resamples: int = 2000, random_state: RandomState = 0
    ) -> pd.DataFrame:
        """Return each method's mean and spread, and how it differs from `reference` on the same images.

        Parameters
        ----------
        reference : str, default="RegionAttribution"
        resamples : int, default=2000
            Of the bootstrap over images.
        random_state : int, NumPy generator or None

        Returns
        -------
        DataFrame
            One row a method and measure: ``mean``, ``std`` (over images), ``difference`` (mean of method minus
            reference), ``low`` and ``high`` (its 95 % percentile bootstrap interval). Images where either is undefined
            do not count in the difference.

        Raises
        ------
        ValueError
            If there is no such method.
        """
        if reference not in self.maps:
            raise ValueError(f"reference must be one of {', '.join(self.maps)}, got {reference!r}")
        generator = np.random.default_rng(draw_seed(random_state))
        rows = []
        for measure in MEASURES:
            values = self.scores.pivot(index="image", columns="method", values=measure)
            for method in self.maps:
                difference = (values[method] - values[reference]).dropna().to_numpy()
                mean = low = high = np.nan
                if len(difference):
                    drawn = generator.integers(len(difference), size=(resamples, len(difference)))
                    mean, (low, high) = difference.mean(), np.quantile(difference[drawn].mean(1), [0.025, 0.975])
                rows.append(
                    {
                        "method": method,
                        "measure": measure,
                        "mean": values[method].mean(),
                        "std": values[method].std(),
                        "difference": mean,
                        "low": low,
                        "high": high,
                    }
                )
        return pd.DataFrame(rows)


def compare_saliency(
    images: ImageData,
    truth: ArrayLike,
    methods: Mapping[str, Method],
    *,
    target: ArrayLike,
    batch_size: int = 16,
    show_progress: bool = False,
) -> SaliencyComparison:
    """Run methods on the same images, and measure how well each finds the truth.

    Parameters
    ----------
    images : ndarray or Tensor, shape (N, C, height, width)
        uint8, or float in [0, 1].
    truth : array-like of bool, shape (N, height, width)
        Where the attribute shows, as `captum_region.datasets.Faces.truth` gives it.
    methods : mapping of str to callable
        (images in [0, 1], targets) -> maps; from `captum_methods`, `region_methods`, `floors`, or one's own.
    target : int or array-like of int, shape (N,)
        The class that is explained, of all images or of each.
    batch_size : int, default=16
        Images at a time.
    show_progress : bool, default=False
        A progress bar on stderr.

    Returns
    -------
    SaliencyComparison

    Raises
    ------
    ValueError
        If shapes do not fit, there is no method, or one gives maps of another shape.
    """
    images = check_images(images)
    inside = np.asarray(truth, dtype=bool)
    wanted = (len(images), *images.shape[2:])
    if inside.shape != wanted or not len(images):
        raise ValueError(f"truth must have shape {wanted}, a mask for each of at least one image; got {inside.shape}")
    if not methods:
        raise ValueError("methods must hold at least one, got none")
    targets = torch.as_tensor(np.broadcast_to(np.asarray(target), len(images)).copy())
    maps: dict[str, Tensor] = {}
    seconds = {}
    with tqdm(total=len(methods) * len(images), desc="saliency", unit="map", disable=not show_progress) as bar:
        for name, method in methods.items():
            bar.set_postfix_str(name)
            parts, took = [], 0.0
            for number, batch in enumerate(batches(images, batch_size)):
                its = targets[number * batch_size :][: len(batch)]
                scaled = batch.float() / 255 if batch.dtype == torch.uint8 else batch
                start = time.perf_counter()
                part = method(scaled, its.to(scaled.device)).detach().cpu()
                took += time.perf_counter() - start
                if part.shape != (len(batch), *inside.shape[1:]):
                    raise ValueError(f"methods[{name!r}] must give maps of {inside.shape[1:]}, got {tuple(part.shape)}")
                parts.append(part)
                bar.update(len(batch))
            maps[name], seconds[name] = torch.cat(parts).float(), took / len(images)
    tables = []
    for name, found in maps.items():
        measured = {measure: function(found, inside) for measure, function in MEASURES.items()}
        tables.append(pd.DataFrame({"method": name, "image": range(len(images)), **measured}))
    return SaliencyComparison(pd.concat(tables, ignore_index=True), seconds, maps)


def deletion_insertion(
    model: nn.Module, images: Tensor, maps: Tensor, *, target: Tensor, baseline: Tensor, steps: int = 20
) -> pd.DataFrame:
    """Return how a model's probability of the target falls, or rises, as a map's top pixels are taken, or put in.

    Petsiuk, Das, Saenko, "RISE", BMVC 2018: the area under the probability over the share of pixels changed. A low
    deletion and a high insertion speak for the map, as an explanation of this model.

    Parameters
    ----------
    model : nn.Module
        Images to logits.
    images : Tensor, shape (N, C, height, width)
        Float in [0, 1].
    maps : Tensor, shape (N, height, width)
    target : integer Tensor, shape (N,)
    baseline : Tensor, broadcasts to an image
        What a pixel is replaced by, and insertion begins with.
    steps : int, default=20
        In how many equal steps.

    Returns
    -------
    DataFrame with columns ``deletion`` and ``insertion``, a row an image
        In [0, 1].
    """
    count = maps[0].numel()
    order = maps.flatten(1).argsort(dim=1, descending=True, stable=True)
    rank = order.argsort(dim=1).view_as(maps)[:, None]
    blank = baseline.expand_as(images)
    deleted: list[Tensor] = []
    inserted: list[Tensor] = []
    with torch.no_grad():
        for step in range(steps + 1):
            top = rank < count * step / steps
            for curve, mixed in (
                (deleted, torch.where(top, blank, images)),
                (inserted, torch.where(top, images, blank)),
            ):
                curve.append(model(mixed).softmax(1).gather(1, target[:, None])[:, 0])
    area = {
        name: torch.trapezoid(torch.stack(curve), dx=1 / steps, dim=0).cpu()
        for name, curve in (("deletion", deleted), ("insertion", inserted))
    }
    return pd.DataFrame(area)


def information_left(
    train: tuple[ImageData, Tensor, ArrayLike],
    test: tuple[ImageData, Tensor, ArrayLike],
    *,
    quantile: float = 0.8,
    epochs: int | None = None,
    random_state: RandomState = None,
) -> float:
    """Return how well an attribute is still known when the top of a map is masked in all images: lower is better.

    A fresh classifier of the whole image is trained on masked images and judged on masked images, after Hooker, Erhan,
    Kindermans, Kim, "A Benchmark for Interpretability Methods in Deep Neural Networks" (ROAR), NeurIPS 2019. What
    matters here is not what one model used but where the information could be. The shape of a mask that differs from
    image to image can itself tell the label; the mean map's cannot.

    Parameters
    ----------
    train, test : (images, maps, labels)
        Images of shape (N, C, height, width), uint8; maps of shape (N, height, width); two classes of labels.
    quantile : float, default=0.8
        Pixels above this quantile of their image's map become the mean colour of the training images.
    epochs : int, optional
        Of the fresh classifier; its recipe's by default.
    random_state : int, NumPy generator or None

    Returns
    -------
    float
        Balanced accuracy on the test images, in [0, 1].

    Raises
    ------
    ValueError
        If `quantile` does not lie in [0, 1), the images are not square, or an argument does not fit.
    """
    if not 0 <= quantile < 1:
        raise ValueError(f"quantile must lie in [0, 1), got {quantile}")
    side, width = train[0].shape[2:]
    if side != width:
        raise ValueError(f"train images must be square, got {side} x {width}")
    # One region, the whole image: the package's own trainer then trains an ordinary classifier.
    seed = draw_seed(random_state)
    classifier = DenseRegionClassifier(
        RegionGrid(side, side, 1), len(np.unique(np.asarray(train[2]))), random_state=seed
    )
    colour = torch.as_tensor(np.asarray(train[0])).float().mean((0, 2, 3)).round()
    masked = [_masked(images, maps, quantile, colour) for images, maps, _ in (train, test)]
    fit_region_classifier(classifier, masked[0], train[2], epochs=epochs, positions_per_image=1, random_state=seed)
    return float(region_accuracy(classifier, masked[1], classifier.encode(test[2])).mean())


def _masked(images: ImageData, maps: Tensor, quantile: float, colour: Tensor) -> Tensor:
    given = torch.as_tensor(np.asarray(images))
    threshold = maps.flatten(1).quantile(quantile, dim=1)[:, None, None]
    return torch.where((maps > threshold)[:, None], colour.to(given.dtype)[:, None, None], given)

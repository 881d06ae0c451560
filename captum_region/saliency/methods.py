"""Methods that map images, in one form: Captum's saliency methods, XRAI, region maps, and two baselines."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from captum import attr
from torch import Tensor, nn
from torch.nn import functional as F

from captum_region.attribution import MultiScaleRegionAttribution, RegionAttribution
from captum_region.batches import ImageData
from captum_region.randomness import RandomState, draw_seed, seeded

# N x C x H x W images in [0, 1] and their N targets -> N x H x W
Method = Callable[[Tensor, Tensor], Tensor]
# XRAI's constants, such as the smallest size of a segment, are for images this large.
_XRAI_SIDE = 224


def captum_methods(
    model: nn.Module,
    layer: nn.Module,
    *,
    background: Tensor,
    window: int,
    stride: int,
    random_state: RandomState = None,
) -> dict[str, Method]:
    """Return Captum's saliency methods for `model`, each reduced to one value per pixel as its authors do.

    Gradients are reduced by the largest absolute value over the channels (Saliency) or the sum of absolute values,
    Grad-CAM to its positive part, interpolated, and Occlusion to the sum over the channels.

    Parameters
    ----------
    model : nn.Module
        Images to logits. For GuidedGradCam its ReLUs must be modules that do not work in place.
    layer : nn.Module
        The layer for Grad-CAM, usually the last convolutional one.
    background : Tensor, shape (B, C, height, width)
        Images that stand for "nothing": their mean is the baseline of IntegratedGradients and Occlusion, and
        GradientShap draws from them.
    window, stride : int
        Of Occlusion, in pixels.
    random_state : int, NumPy generator or None
        Of GradientShap.

    Returns
    -------
    dict of str to callable
        (images, targets) -> maps of shape (N, height, width).

    See Also
    --------
    superpixel_methods, region_methods, floors : More methods of the same form.
    """
    mean = background.mean(0, keepdim=True)
    channels, height, width = background.shape[1:]
    seed = draw_seed(random_state)

    def grad_cam(images: Tensor, target: Tensor) -> Tensor:
        coarse = attr.LayerGradCam(model, layer).attribute(images, target, relu_attributions=True)
        fine: Tensor = attr.LayerAttribution.interpolate(coarse, (height, width), interpolate_mode="bilinear")
        return fine[:, 0]

    def gradient_shap(images: Tensor, target: Tensor) -> Tensor:
        with seeded(seed, numpy=True):
            return _absolute(attr.GradientShap(model).attribute(images, background, 16, 0.1, target))

    def occlusion(images: Tensor, target: Tensor) -> Tensor:
        method = attr.Occlusion(model)
        windows = {"sliding_window_shapes": (channels, window, window), "strides": (channels, stride, stride)}
        values: Tensor = method.attribute(images, **windows, baselines=mean, target=target, perturbations_per_eval=16)
        return values.sum(1)

    def guided(images: Tensor, target: Tensor) -> Tensor:
        with warnings.catch_warnings():
            # It warns of hooks, which it removes again.
            warnings.filterwarnings("ignore", message="Setting backward hooks on ReLU")
            return _absolute(attr.GuidedGradCam(model, layer).attribute(images, target))

    methods: dict[str, Method] = {
        "Saliency": lambda images, target: attr.Saliency(model).attribute(images, target).amax(1),
        "InputXGradient": lambda images, target: _absolute(attr.InputXGradient(model).attribute(images, target)),
        "IntegratedGradients": lambda images, target: _absolute(_integrated(model, images, mean, target)),
        "GradientShap": gradient_shap,
        "LayerGradCam": grad_cam,
        "GuidedGradCam": guided,
        "Occlusion": occlusion,
    }
    return {name: partial(_with_gradient, method) for name, method in methods.items()}


def superpixel_methods(
    model: nn.Module, *, background: Tensor, segments: int = 50, n_samples: int = 200, random_state: RandomState = None
) -> dict[str, Method]:
    """Return the methods with one value per superpixel: Captum's KernelShap on those of SLIC, and XRAI on its own.

    XRAI is that of its authors' package `saliency`, on Captum's IntegratedGradients from black and from white, as they
    advise. Its constants are for images of 224 x 224 pixels: smaller ones are enlarged, and the map is reduced.

    Parameters
    ----------
    model : nn.Module
        Images to logits.
    background : Tensor, shape (B, C, height, width)
        Images whose mean replaces a superpixel that KernelShap leaves out.
    segments : int, default=50
        Approximate number of superpixels of SLIC.
    n_samples : int, default=200
        Number of sets of superpixels that KernelShap tries.
    random_state : int, NumPy generator or None
        Of these sets.

    Returns
    -------
    dict of str to callable
        (images, targets) -> maps of shape (N, height, width).

    Raises
    ------
    ImportError
        Without scikit-image and saliency, that is ``pip install 'captum-region[comparison]'``.

    See Also
    --------
    captum_methods : Methods with a value per pixel.

    References
    ----------
    Kapishnikov, Bolukbasi, Viegas, Terry, "XRAI: Better Attributions Through Regions", ICCV 2019.
    """
    try:
        from saliency.core import xrai
        from skimage.segmentation import slic
    except ImportError as error:
        raise ImportError(f"KernelShap and XRAI need pip install 'captum-region[comparison]': {error}") from error
    mean = background.mean(0, keepdim=True)
    seed = draw_seed(random_state)

    def kernel_shap(images: Tensor, target: Tensor) -> Tensor:
        maps = []
        with seeded(seed):
            # One image at a time, as Captum advises.
            for image, its in zip(images.split(1), target.split(1), strict=True):
                superpixels = torch.from_numpy(slic(_channels_last(image[0]), n_segments=segments, start_label=0))
                if not superpixels.any():
                    maps.append(torch.zeros_like(image[:, 0]))  # one superpixel, with nothing to compare it to
                    continue
                options = {"feature_mask": superpixels.to(image.device)[None, None], "perturbations_per_eval": 64}
                values = attr.KernelShap(model).attribute(image, mean, its, n_samples=n_samples, **options)
                maps.append(values.mean(1))
        return torch.cat(maps)

    def xrai_map(images: Tensor, target: Tensor) -> Tensor:
        black, white = (_integrated(model, images, colour, target) for colour in (0.0, 1.0))
        side = max(_XRAI_SIDE, *images.shape[2:])
        large, gradients = (
            F.interpolate(values.detach(), (side, side), mode="bilinear") for values in (images, (black + white) / 2)
        )
        found = [
            xrai.XRAI().GetMask(_channels_last(image), None, base_attribution=_channels_last(gradient))
            for image, gradient in zip(large, gradients, strict=True)
        ]
        maps = torch.from_numpy(np.stack(found)).float().to(images.device)
        return F.interpolate(maps[:, None], images.shape[2:], mode="area")[:, 0]

    methods: dict[str, Method] = {"KernelShap": kernel_shap, "XRAI": xrai_map}
    return {name: partial(_with_gradient, method) for name, method in methods.items()}


def _channels_last(image: Tensor) -> Any:
    return image.detach().permute(1, 2, 0).double().cpu().numpy()


def _with_gradient(method: Method, images: Tensor, target: Tensor) -> Tensor:
    """Call a method with images that require gradients: Captum warns if it has to set that itself."""
    return method(images.detach().clone().requires_grad_(), target).detach()


def _integrated(model: nn.Module, images: Tensor, baseline: Tensor | float, target: Tensor) -> Any:
    method = attr.IntegratedGradients(model)
    return method.attribute(images, baseline, target, n_steps=50, internal_batch_size=256)


def _absolute(attributions: Tensor) -> Tensor:
    return attributions.abs().sum(1)


def region_methods(
    attribution: RegionAttribution | MultiScaleRegionAttribution, images: ImageData, *, name: str = "RegionAttribution"
) -> dict[str, Method]:
    """Return the region map in three forms: of the image, its evidence for the target, and the mean over `images`.

    Parameters
    ----------
    attribution : RegionAttribution or MultiScaleRegionAttribution
    images : ndarray or Tensor, shape (N, C, height, width)
        The images of the mean map, for example a training set.
    name : str, default="RegionAttribution"
        The start of the methods' names.

    Returns
    -------
    dict of str to callable
        (images, targets) -> maps of shape (N, height, width).

    See Also
    --------
    captum_methods, superpixel_methods, floors : More methods of the same form.
    """
    mean = attribution.mean_pixels(images)
    return {
        name: lambda batch, target: attribution.pixel_map(batch),
        f"{name}, evidence": lambda batch, target: attribution.pixel_map(batch, target),
        f"{name}, mean": lambda batch, target: mean.to(batch.device).expand(len(batch), -1, -1),
    }


def floors(random_state: RandomState = None) -> dict[str, Method]:
    """Return two baselines that any method should beat: random values, and the closeness to the image's centre.

    Parameters
    ----------
    random_state : int, NumPy generator or None

    Returns
    -------
    dict of str to callable
        (images, targets) -> maps of shape (N, height, width).

    See Also
    --------
    captum_methods, superpixel_methods, region_methods : Methods to compare with these.
    """
    generator = torch.Generator().manual_seed(draw_seed(random_state))

    def centre(images: Tensor, target: Tensor) -> Tensor:
        y, x = (torch.linspace(-1, 1, length) for length in images.shape[2:])
        return (-(y[:, None] ** 2) - x**2).exp().expand(len(images), -1, -1)

    return {
        "random": lambda images, target: torch.rand(len(images), *images.shape[2:], generator=generator),
        "centre": centre,
    }

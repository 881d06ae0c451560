"""ChannelAttribution: which channels any Captum method attributes a model's output to, over any number of images."""

import inspect
import warnings
from typing import Any

import numpy as np
import torch
from captum.attr import Attribution, LayerAttribution, LimeBase
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from captum_region.attribution import MultiScaleRegionAttribution, RegionAttribution, Target
from captum_region.channels.segmentation import SegmentationEvidence
from captum_region.channels.shares import ChannelShares, check_level, shares_of, warn_of_zeros
from captum_region.channels.windows import as_inputs, model_of, window_batches
from captum_region.evaluation import check_evaluating
from captum_region.randomness import RandomState, draw_seed, seeded


def channel_mask(inputs: Tensor) -> Tensor:
    """Return the ``feature_mask`` that makes each channel one feature of Captum's perturbation methods.

    Parameters
    ----------
    inputs : Tensor, shape (N, C, ...)

    Returns
    -------
    Tensor of int64, shape (1, C, 1, ...)
        0 to C - 1.

    Raises
    ------
    ValueError
        If the inputs have no channels.

    Examples
    --------
    >>> from captum.attr import ShapleyValues
    >>> stacks = torch.ones(1, 3, 4, 4)
    >>> weighted = ShapleyValues(lambda inputs: (inputs.mean((2, 3)) * torch.tensor([1.0, 2.0, 5.0])).sum(1))
    >>> weighted.attribute(stacks, feature_mask=channel_mask(stacks))[0, :, 0, 0]
    tensor([1., 2., 5.])
    """
    if inputs.ndim < 2:
        raise ValueError(f"inputs must have shape (N, channels, ...), got {tuple(inputs.shape)}")
    return torch.arange(inputs.shape[1], device=inputs.device).view(1, -1, *(1 for _ in inputs.shape[2:]))


class ChannelAttribution:
    """Which channels of its images, such as the slices of stacks, a model's output depends on.

    Wraps any attribution method of Captum that gives a value for each channel. The maps are reduced to the shares of
    the channels batch by batch, so that any number of images fits.

    Parameters
    ----------
    method : captum.attr.Attribution
        For example ``Saliency(model)``, ``IntegratedGradients(evidence)`` with a `segmentation_evidence`, or a
        NoiseTunnel of one. FeatureAblation, ShapleyValues and the other methods that take a ``feature_mask`` get
        `channel_mask`, if no other is given.

    Raises
    ------
    TypeError
        If `method` is not an attribution.
    ValueError
        If its maps are the same in all channels, as those of RegionAttribution, or those of a layer, such as
        LayerGradCam.

    See Also
    --------
    channel_shares : The shares of given attributions.
    captum_region.first_layer.neutralize_first_layer : Takes away what the first layer does to them.

    References
    ----------
    Molnar, Szabo, Horvath, "Unintended Bias in 2D+ Image Segmentation and Its Effect on Attention Asymmetry", arXiv
    2505.14105.

    Examples
    --------
    >>> from captum.attr import Saliency
    >>> from captum_region.channels import segmentation_evidence
    >>> network = torch.nn.Conv2d(3, 1, 1).eval()
    >>> _ = network.weight.data.copy_(torch.tensor([0.3, 0.6, 0.1])[:, None, None])
    >>> evidence = segmentation_evidence(network, region=torch.ones(8, 8))
    >>> found = ChannelAttribution(Saliency(evidence)).attribute(torch.rand(20, 3, 8, 8))
    >>> found.mean.round(3), found.asymmetry.round(3)
    (array([0.3, 0.6, 0.1]), array([-0.5]))
    """

    def __init__(self, method: Attribution) -> None:
        inner = getattr(method, "attribution_method", method)  # NoiseTunnel's
        if not isinstance(inner, Attribution):
            raise TypeError(f"method must be an attribution of captum.attr, got {type(method).__name__}")
        if isinstance(inner, RegionAttribution | MultiScaleRegionAttribution | LayerAttribution):
            why = "a layer's units" if isinstance(inner, LayerAttribution) else "all channels alike"
            name = type(inner).__name__
            raise ValueError(f"method must attribute to each channel of the input, {name} attributes to {why}")
        self.method, self._inner = method, inner

    def attribute(
        self,
        stacks: Any,
        target: Target = None,
        *,
        labels: Any = None,
        groups: ArrayLike | None = None,
        skip_empty: bool = False,
        batch_size: int = 16,
        device: str | torch.device | None = None,
        confidence_level: float = 0.95,
        random_state: RandomState = 0,
        show_progress: bool = False,
        **options: Any,
    ) -> ChannelShares:
        """Return the shares of the channels in the attribution of each image, and their summary.

        Parameters
        ----------
        stacks : ndarray, memmap or Tensor of shape (N, C, height, width), data set, DataLoader or iterable
            The images, or windows of C slices. uint8 ones become floats in [0, 1]; floats are passed on as they are, in
            the type and on the device of the model's weights. The items of a data set or iterable are windows of shape
            (C, height, width), or tuples that start with one.
        target : int, list, Tensor or None, default=None
            The class to attribute, of all images or of each, for a model that gives several. Not needed with
            `segmentation_evidence`.
        labels : array-like or Tensor, shape (N, height, width), optional
            For a `segmentation_evidence` with ``region="label"``: the class of each pixel, or bool masks. If `stacks`
            yields tuples, the second element of each instead.
        groups : array-like, shape (N,), optional
            The volume of each image, for intervals, see `ChannelShares.from_shares`.
        skip_empty : bool, default=False
            Leave out images with an empty mask, which are an error otherwise. Their shares are NaN.
        batch_size : int, default=16
            Images at a time. Lime and KernelShap get one at a time.
        device : str or torch.device, optional
            Where images are moved; by default to the model's device.
        confidence_level : float, default=0.95
            Of the intervals, see `ChannelShares.from_shares`.
        random_state : int, NumPy generator or None, default=0
            Of methods that draw, such as NoiseTunnel. The global states are restored.
        show_progress : bool, default=False
            A progress bar on stderr.
        **options
            For the method's ``attribute``, the same in all calls, for example ``n_steps=32``.

        Returns
        -------
        ChannelShares

        Raises
        ------
        TypeError, ValueError
            If the model is in train mode, there is no image, the mask of an image is empty (the message names it), the
            attributions have not the shape of the images, or their channels are the same by construction of `options`
            (windows or features that contain all channels), or an argument does not fit.

        Warns
        -----
        RuntimeWarning
            If the attribution of an image is 0 everywhere: its shares are NaN. If a pair of slices holds too little
            for an asymmetry, see `slice_asymmetry`.
        """
        check_level(confidence_level)
        if hasattr(stacks, "__len__") and not isinstance(stacks, DataLoader):  # before the work, if that is possible
            _check_lengths(len(stacks), target=target, labels=labels, groups=groups)
        where: dict[str, Any] = {"batch_size": batch_size, "device": device, "show_progress": show_progress}
        of_images = self.image_shares(
            stacks, target, labels=labels, skip_empty=skip_empty, random_state=random_state, **where, **options
        )
        _check_lengths(len(of_images), groups=groups)
        return ChannelShares.from_shares(of_images, groups, confidence_level=confidence_level)

    def image_shares(
        self,
        stacks: Any,
        target: Target = None,
        *,
        labels: Any = None,
        skip_empty: bool = False,
        batch_size: int = 16,
        device: str | torch.device | None = None,
        random_state: RandomState = 0,
        show_progress: bool = False,
        **options: Any,
    ) -> NDArray[np.float64]:
        """Return the shares of the channels for each image, without a summary.

        Parameters
        ----------
        stacks, target, labels, skip_empty, batch_size, device, random_state, show_progress, **options
            As in `attribute`.

        Returns
        -------
        ndarray, shape (N, C)
            NaN for images that are left out, or whose attribution is 0 everywhere; that may be all.

        Raises
        ------
        TypeError, ValueError
            As `attribute`.

        Warns
        -----
        RuntimeWarning
            If the attribution of an image is 0 everywhere.
        """
        evidence = self._evidence(labels, target, options)
        model = model_of(self._inner.forward_func)
        check_evaluating(model, "model")
        generator = np.random.default_rng(
            random_state if isinstance(random_state, np.random.Generator) else draw_seed(random_state)
        )
        parts: list[NDArray[np.float64]] = []
        zeros: list[int] = []
        count = 0
        name = f"{type(self._inner).__name__} by channel"
        for windows, given in window_batches(stacks, batch_size, show_progress=show_progress, desc=name):
            inputs = as_inputs(windows, model, device)
            part = slice(count, count + len(inputs))
            call = self._features(inputs, options) | _cut_target(target, part)
            kept = np.ones(len(inputs), bool)
            if evidence is not None:
                its = _cut_labels(labels, given, part) if evidence.region == "label" else None
                masks = evidence.masks(inputs, its, first=count, check=not skip_empty)
                call["masks"] = masks
                kept = masks.flatten(1).any(1).cpu().numpy()
            shares = self._shares(inputs, call, kept, int(generator.integers(2**32)))
            zeros.extend(count + np.flatnonzero(kept & np.isnan(shares[:, 0])))
            parts.append(shares)
            count += len(inputs)
        if not parts:
            raise ValueError("stacks must hold at least one image, got none")
        _check_lengths(count, target=target, labels=labels)
        warn_of_zeros(np.asarray(zeros, dtype=np.intp))
        return np.concatenate(parts)

    def _evidence(self, labels: Any, target: Target, options: dict[str, Any]) -> SegmentationEvidence | None:
        """Return the function attributed if it needs masks; refuse what would then have no effect."""
        function = self._inner.forward_func
        if labels is not None and getattr(function, "region", None) != "label":
            raise ValueError('labels must be left out, but for a segmentation_evidence with region="label"')
        if not isinstance(function, SegmentationEvidence):
            return None
        given = {"target": target, "additional_forward_args": options.get("additional_forward_args")}
        for name, value in given.items():
            if value is not None:
                raise ValueError(f"{name} must be left out with a segmentation_evidence, which has its class and masks")
        return function

    def _features(self, inputs: Tensor, options: dict[str, Any]) -> dict[str, Any]:
        """Return the method's options, with one feature a channel if it takes features and none are given."""
        channels = inputs.shape[1]
        mask, window = options.get("feature_mask"), options.get("sliding_window_shapes")
        if isinstance(window, tuple) and window and isinstance(window[0], int) and window[0] >= channels:
            raise ValueError(f"sliding_window_shapes must be one channel deep, as (1, 8, 8), got {window}")
        if mask is None and "feature_mask" in inspect.signature(self._inner.attribute).parameters:
            return {**options, "feature_mask": channel_mask(inputs)}
        if isinstance(mask, Tensor) and bool((mask == mask[:, :1]).all()) and mask.shape[1] in (1, channels):
            raise ValueError("feature_mask must tell channels apart, got the same features in all; leave it out")
        return options

    def _shares(self, inputs: Tensor, call: dict[str, Any], kept: NDArray[np.bool_], seed: int) -> NDArray[np.float64]:
        """Return the shares of a batch, NaN for images that are not kept."""
        shares = np.full(inputs.shape[:2], np.nan)
        index = torch.from_numpy(np.flatnonzero(kept)).to(inputs.device)
        if not len(index):
            return shares
        one_by_one = isinstance(self._inner, LimeBase)  # which fits a model to each
        # Captum's methods draw from the global generators.
        with seeded(seed, numpy=True):
            found = [self._attributed(inputs, call, some) for some in (index.split(1) if one_by_one else [index])]
        shares[index.cpu().numpy()] = np.concatenate([shares_of(values) for values in found])
        return shares

    def _attributed(self, inputs: Tensor, call: dict[str, Any], index: Tensor) -> Tensor:
        is_part = len(index) < len(inputs)
        # Captum warns if it has to ask for gradients itself.
        images = (inputs[index] if is_part else inputs).detach().requires_grad_()
        of_images = {
            name: value[index.to(value.device)] if is_part and len(value) == len(inputs) else value
            for name, value in call.items()
            if name in ("target", "masks") and isinstance(value, Tensor)
        }
        call = call | of_images
        if (masks := call.pop("masks", None)) is not None:
            call["additional_forward_args"] = (masks,)  # Lime takes a tuple only
        with warnings.catch_warnings():
            # Of hooks, which Captum removes again.
            warnings.filterwarnings("ignore", message="Setting (forward, )?backward hooks")
            values = self.method.attribute(images, **call)
        values = values[0] if isinstance(values, tuple) else values  # with the convergence delta, if asked for
        # A value for each channel may come without its pixels.
        sizes = zip(values.shape[2:], images.shape[2:], strict=False)
        if (
            values.shape[:2] != images.shape[:2]
            or values.ndim != images.ndim
            or not all(size in (1, whole) for size, whole in sizes)
        ):
            wanted, got = tuple(images.shape), tuple(values.shape)
            raise ValueError(f"method must give attributions of the shape of the images, {wanted}, got {got}")
        return values.detach()


def _cut_target(target: Target, part: slice) -> dict[str, Any]:
    if target is None:
        return {}
    index = torch.as_tensor(target)
    if index.is_floating_point() or index.dtype == torch.bool or bool((index < 0).any()):
        raise ValueError(f"target must be a class number or one for each image, got {target!r}")
    if index.ndim > 1 and index.numel() != len(index):
        raise ValueError(f"target must be one class or one for each image, got shape {tuple(index.shape)}")
    index = index.flatten()
    return {"target": int(index) if len(index) == 1 else index[part]}


def _cut_labels(labels: Any, given: Tensor | None, part: slice) -> Tensor:
    if labels is not None:
        return labels[part] if isinstance(labels, Tensor) else torch.from_numpy(np.array(labels[part]))
    if given is None:
        raise ValueError('labels must be given, or the second of pairs in stacks, as the region is "label"')
    return given


def _check_lengths(count: int, **of_images: Any) -> None:
    for name, values in of_images.items():
        is_of_all = values is None or not np.ndim(values) or (name == "target" and len(values) == 1)
        if not is_of_all and len(values) != count:
            raise ValueError(f"{name} must have one value for each of the {count} images, got {len(values)}")

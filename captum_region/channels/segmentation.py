"""The scalar of a segmentation that is attributed: the mean logit of a class over a fixed mask."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn


def logits_of(model: Callable[[Tensor], Any], inputs: Tensor) -> Tensor:
    """Return a model's logits, N x classes x ...; torchvision's segmentation models keep them under "out"."""
    output = model(inputs)
    logits = output.get("out") if isinstance(output, Mapping) else output
    if not isinstance(logits, Tensor) or logits.ndim < 2 or len(logits) != len(inputs):
        got = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(output).__name__
        raise ValueError(f"model must give logits of shape ({len(inputs)}, classes, ...), got {got}")
    return logits


def prediction_of(logits: Tensor) -> Tensor:
    """Return the predicted class of each pixel, of shape (N, ...); one logit is that of class 1 against class 0."""
    return (logits[:, 0] > 0).long() if logits.shape[1] == 1 else logits.argmax(1)


class SegmentationEvidence(nn.Module):
    """The mean logit of a class over a mask, one number for each image: what Captum's methods attribute.

    Made by `segmentation_evidence`.

    Parameters
    ----------
    model, class_index, region
        As in `segmentation_evidence`.
    """

    mask: Tensor | None

    def __init__(
        self,
        model: Callable[[Tensor], Any],
        class_index: int = 1,
        region: str | ArrayLike | Tensor = "prediction",
    ) -> None:
        super().__init__()
        if not callable(model):
            raise TypeError(f"model must be a callable images -> logits, got {type(model).__name__}")
        if isinstance(class_index, bool) or not isinstance(class_index, int | np.integer) or class_index < 0:
            raise ValueError(f"class_index must be the number of a class, got {class_index!r}")
        self.model, self.class_index = model, int(class_index)
        mask = None
        if isinstance(region, str):
            if region not in ("prediction", "label"):
                raise ValueError(f'region must be "prediction", "label" or a mask, got {region!r}')
            self.region = region
        else:
            self.region = "mask"
            mask = torch.as_tensor(region if isinstance(region, Tensor) else np.asarray(region))
            if mask.ndim < 2 or not bool(((mask == 0) | (mask == 1)).all()):
                what = f"{mask.dtype} of shape {tuple(mask.shape)}"
                raise ValueError(f"region must be a mask of shape (height, width), True or 1 inside, got {what}")
            mask = mask.bool()
            if not mask.any():
                raise ValueError("region must have at least one pixel, got an empty mask")
        self.register_buffer("mask", mask, persistent=False)

    def masks(self, inputs: Tensor, labels: Tensor | None = None, *, first: int = 0, check: bool = True) -> Tensor:
        """Return the pixels of each image over which the logit is averaged.

        Parameters
        ----------
        inputs : Tensor, shape (N, C, height, width)
            Unperturbed.
        labels : Tensor, shape (N, height, width), optional
            For ``region="label"``: bool masks, or the class of each pixel.
        first : int, default=0
            The number of the first image, for messages.
        check : bool, default=True
            Refuse empty masks.

        Returns
        -------
        Tensor of bool, shape (N, height, width)
            For Captum's ``additional_forward_args``.

        Raises
        ------
        ValueError
            If a mask is empty (the message names the image), or labels are missing, do not fit, or are not used.
        """
        if labels is not None and self.region != "label":
            raise ValueError(f'labels are used with region="label" only, the region is "{self.region}"')
        if self.mask is not None:
            return self.mask.expand(len(inputs), *self.mask.shape)
        if self.region == "label":
            if labels is None:
                raise ValueError('labels must be given, as the region is "label"')
            masks = self._inside(labels.to(inputs.device))
            if len(masks) != len(inputs):
                raise ValueError(f"labels must be those of {len(inputs)} images, got {len(masks)}")
        else:
            with torch.no_grad():
                logits = logits_of(self.model, inputs)
            self._check_class(logits)
            masks = prediction_of(logits) == self.class_index
        if check:
            self._refuse_empty(masks, first)
        return masks

    def forward(self, inputs: Tensor, masks: Tensor | None = None) -> Tensor:
        """Return the evidence of each image.

        Parameters
        ----------
        inputs : Tensor, shape (N, C, height, width)
        masks : Tensor of bool, shape (N, height, width) or (1, height, width), optional
            From `masks`; needed unless the region is one mask for all images. With ``region="label"`` also the class of
            each pixel. Captum repeats them as it repeats the inputs.

        Returns
        -------
        Tensor, shape (N,)

        Raises
        ------
        ValueError
            If the masks are missing, empty or do not fit.
        """
        logits = logits_of(self.model, inputs)
        self._check_class(logits)
        single = logits.shape[1] == 1
        scores = logits[:, 0] if single else logits[:, self.class_index]
        scores = -scores if single and self.class_index == 0 else scores
        if masks is None and self.mask is None:
            labels = ", labels" if self.region == "label" else ""
            raise ValueError(
                "masks must be given: the mask is that of the unperturbed inputs, so call "
                f"attribute(inputs, additional_forward_args=evidence.masks(inputs{labels}))"
            )
        inside = self.mask[None] if masks is None and self.mask is not None else self._inside(masks)
        if inside.shape[1:] != scores.shape[1:] or len(inside) not in (1, len(scores)):
            raise ValueError(f"masks must have the shape of the logits, {tuple(scores.shape)}, got {(*inside.shape,)}")
        self._refuse_empty(inside)
        weights = inside.to(scores).flatten(1)
        return (scores.flatten(1) * weights).sum(1) / weights.sum(1)

    def _inside(self, masks: Any) -> Tensor:
        if isinstance(masks, Tensor) and masks.dtype == torch.bool:
            return masks
        is_integer = isinstance(masks, Tensor) and not masks.is_floating_point() and not masks.is_complex()
        if self.region != "label" or not is_integer:
            wanted = "bool or the class of each pixel" if self.region == "label" else "bool"
            raise ValueError(f"masks must be a tensor of {wanted}, got {getattr(masks, 'dtype', type(masks).__name__)}")
        return masks == self.class_index

    def _check_class(self, logits: Tensor) -> None:
        classes = max(2, logits.shape[1])
        if logits.ndim < 3 or self.class_index >= classes:
            raise ValueError(
                f"model must give logits of shape (N, classes, height, width) with class {self.class_index}, "
                f"got {tuple(logits.shape)}"
            )

    def _refuse_empty(self, masks: Tensor, first: int = 0) -> None:
        empty = ~masks.flatten(1).any(1)
        if bool(empty.any()):
            number = first + int(empty.nonzero()[0])
            where = {"prediction": "prediction", "label": "labels", "mask": "mask"}[self.region]
            raise ValueError(f"image {number} has an empty mask: no pixel of class {self.class_index} in its {where}")


def segmentation_evidence(
    model: Callable[[Tensor], Any],
    class_index: int = 1,
    region: str | ArrayLike | Tensor = "prediction",
) -> SegmentationEvidence:
    """Return the scalar of a segmentation to attribute: the mean logit of a class over a fixed mask.

    Parameters
    ----------
    model : nn.Module or callable
        Images to logits of shape (N, classes, height, width), or a mapping with these under ``"out"``. If there is one
        channel, it is the logit of class 1, and minus that of class 0.
    class_index : int, default=1
    region : "prediction", "label" or mask of shape (height, width), default="prediction"
        Where the logit is averaged:

        - ``"prediction"``: where the model predicts the class on the unperturbed image. For models with one sigmoid a
          class, whose classes may overlap, give masks.
        - ``"label"``: where the labels have the class, or bool masks of your own, one for each image.
        - A mask, True or 1 inside, the same for all images.

        The first two differ from image to image: pass ``additional_forward_args=evidence.masks(inputs)`` (or
        ``evidence.masks(inputs, labels)``) to a Captum method, which repeats them as it repeats the inputs. They stay
        those of the unperturbed image. `ChannelAttribution` does this itself.

    Returns
    -------
    SegmentationEvidence
        An nn.Module: images to one number each, for any Captum method. No ``target`` is needed.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit, or a given mask is empty.

    See Also
    --------
    ChannelAttribution : The shares of channels in its attribution.

    Examples
    --------
    >>> from captum.attr import IntegratedGradients
    >>> network = nn.Conv2d(3, 2, 1).eval()
    >>> evidence = segmentation_evidence(network, class_index=1)
    >>> stacks = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0), requires_grad=True)
    >>> attribution = IntegratedGradients(evidence)
    >>> attribution.attribute(stacks, additional_forward_args=evidence.masks(stacks), n_steps=4).shape
    torch.Size([2, 3, 16, 16])
    """
    return SegmentationEvidence(model, class_index, region)

"""Pruning: the smallest weights of a classifier's network are set to 0."""

from __future__ import annotations

import copy
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import prune

from captum_region.batches import as_floats, batches, check_images
from captum_region.evaluation import device_of, evaluating
from fairlearn_bridge.audit.prediction import network_of
from fairlearn_bridge.validation import check_number

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from captum_region.batches import ImageSource

_PRUNED = (nn.Linear, nn.modules.conv._ConvNd)


@dataclass(frozen=True)
class ModelChange:
    """A degradation of the classifier, not of the images: your own, such as a quantisation.

    Parameters
    ----------
    name : str
    severities : sequence
        From mild to severe.
    function : callable
        (classifier, severity) -> another classifier; the one that it is given stays as it is.

    See Also
    --------
    Pruning
    """

    name: str
    severities: Sequence[Any]
    function: Callable[[Any, Any], Any]

    def __post_init__(self) -> None:
        object.__setattr__(self, "severities", tuple(self.severities))
        if not self.severities:
            raise ValueError("severities must hold at least one, got none")

    def changed(self, classifier: Any, severity: Any) -> Any:
        """Return the changed classifier."""
        return self.function(classifier, severity)


@dataclass(frozen=True, eq=False)
class Pruning:
    """Global unstructured magnitude pruning, on a copy of the classifier, without training afterwards.

    The weights of all convolutions and linear layers that are the smallest in absolute value, over the whole network,
    become 0 (``torch.nn.utils.prune.global_unstructured``); biases and normalisations are left alone.

    Parameters
    ----------
    severities : sequence of float, default=(0.5, 0.7, 0.9)
        Shares of the weights, in [0, 1).
    reestimate_on : ndarray or Tensor of images, or None
        Training images, on which the statistics of batch normalisation are estimated anew after pruning; with None they
        stay those of the unpruned network, which no longer fit. The effect is large: it must be said which.
    name : str, optional
        By default "pruning", or "pruning, batch statistics anew".

    Raises
    ------
    TypeError, ValueError
        If a parameter does not fit.

    References
    ----------
    E. Iofinova, A. Peste, D. Alistarh, "Bias in pruned vision models: in-depth analysis and countermeasures", CVPR
    2023. S. Hooker, N. Moorosi, G. Clark, S. Bengio, E. Denton, "Characterising bias in compressed models", 2020, for
    the share of predictions that change.

    Examples
    --------
    >>> from torch import nn
    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> pruned = Pruning([0.5], reestimate_on=None).changed(network, 0.5)
    >>> int((pruned[1].weight == 0).sum()), int((network[1].weight == 0).sum())
    (4, 0)
    """

    severities: Sequence[float] = (0.5, 0.7, 0.9)
    _: KW_ONLY
    reestimate_on: ImageSource | None
    name: str = ""

    def __post_init__(self) -> None:
        shares = tuple(self.severities)
        if not shares:
            raise ValueError("severities must hold at least one share of the weights, got none")
        for share in shares:
            check_number("severities", share, 0, 1)
            if share == 1:
                raise ValueError("severities must be below 1: without any weights nothing is left to audit")
        images = None if self.reestimate_on is None else check_images(self.reestimate_on, name="reestimate_on")
        if images is not None and not len(images):
            raise ValueError("reestimate_on must hold an image, got none")
        default = "pruning" if images is None else "pruning, batch statistics anew"
        for field, value in (("severities", shares), ("reestimate_on", images), ("name", self.name or default)):
            object.__setattr__(self, field, value)

    def check(self, classifier: Any) -> None:
        """Raise an error if a classifier cannot be pruned.

        Raises
        ------
        TypeError, ValueError
            If it has no network, its network has no convolution or linear layer, carries masks of an earlier pruning,
            or has no batch normalisation where its statistics are to be estimated anew.
        """
        network = network_of(classifier)
        if prune.is_pruned(network):
            raise ValueError("classifier must not carry pruning masks; call torch.nn.utils.prune.remove first")
        if not _layers(network, _PRUNED):
            raise ValueError(f"classifier must have a convolution or linear layer to prune, got {network}")
        if self.reestimate_on is not None and not _layers(network, _BatchNorm):
            raise ValueError("reestimate_on must be None for a classifier without batch normalisation")

    def changed(self, classifier: Any, severity: float) -> Any:
        """Return a copy of the classifier with a share of its network's weights set to 0; it raises as `check` does."""
        self.check(classifier)
        pruned = copy.deepcopy(classifier)
        network = network_of(pruned)
        weights = [(module, "weight") for module in _layers(network, _PRUNED)]
        prune.global_unstructured(weights, prune.L1Unstructured, amount=float(severity))
        for module, name in weights:
            prune.remove(module, name)
        if self.reestimate_on is not None:
            _reestimate(network, self.reestimate_on)
        return pruned


def _layers(network: nn.Module, kind: Any) -> list[Any]:
    return [module for module in network.modules() if isinstance(module, kind)]


def _reestimate(network: nn.Module, images: Any) -> None:
    """Set the statistics of batch normalisation to those of the images, averaged over batches."""
    norms = _layers(network, _BatchNorm)
    momenta = [norm.momentum for norm in norms]
    device = device_of(network)
    with evaluating(network), torch.no_grad():
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain average
            norm.train()  # the rest, such as dropout, is in eval mode
        # As equal as can be: a last batch of few images would count as much as a whole one.
        count = max(1, round(len(images) / 256))
        for batch in batches(images, int(np.ceil(len(images) / count))):
            network(as_floats(batch.to(device)))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum

"""From logits to certainty: three functions, each 0 where the classifier cannot tell and 1 where it is certain."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Confidence = Callable[[Tensor], Tensor]


def _log_softmax(logits: Tensor) -> Tensor:
    if logits.ndim < 2 or logits.shape[1] < 2:
        raise ValueError(f"logits must have shape (N, classes, ...) with 2 classes or more, got {tuple(logits.shape)}")
    # Half precision cannot tell 0.9999 from 1, and integers have no softmax.
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return torch.log_softmax(logits, dim=1)


def top_softmax(logits: Tensor) -> Tensor:
    """Return the highest probability, rescaled from [1/classes, 1] to [0, 1].

    Equation 2 of De Coninck et al. 2024 before the rescaling.

    Parameters
    ----------
    logits : Tensor, shape (N, classes, ...)
        At least 2 classes.

    Returns
    -------
    Tensor, shape (N, ...)
        float32, or float64 for float64 logits; 0 for a uniform output, 1 for a certain one.

    Examples
    --------
    >>> top_softmax(torch.tensor([[0.0, 0.0], [0.0, 1e4]]))
    tensor([0., 1.])
    """
    log_probability = _log_softmax(logits)
    uniform = 1 / logits.shape[1]
    return ((log_probability.amax(1).exp() - uniform) / (1 - uniform)).clamp(0, 1)


def margin(logits: Tensor) -> Tensor:
    """Return the highest probability minus the second highest (equation 3 of De Coninck et al. 2024).

    Parameters
    ----------
    logits : Tensor, shape (N, classes, ...)
        At least 2 classes.

    Returns
    -------
    Tensor, shape (N, ...)
        float32, or float64 for float64 logits; 0 where two classes tie, 1 for a certain output.

    Examples
    --------
    >>> margin(torch.tensor([[0.0, 0.0, -1e4], [0.0, 1e4, 0.0]]))
    tensor([0., 1.])
    """
    first, second = _log_softmax(logits).exp().topk(2, dim=1).values.unbind(1)
    return first - second


def negative_entropy(logits: Tensor) -> Tensor:
    """Return 1 - H / log(classes), where H is the entropy of the softmax output.

    De Coninck et al. 2024, equation 4, print the entropy H itself; what they use is its negative, higher for more
    confident, here brought to [0, 1].

    Parameters
    ----------
    logits : Tensor, shape (N, classes, ...)
        At least 2 classes.

    Returns
    -------
    Tensor, shape (N, ...)
        float32, or float64 for float64 logits; 0 for a uniform output, 1 for a certain one.

    Examples
    --------
    >>> negative_entropy(torch.tensor([[0.0, 0.0], [0.0, 1e4]]))
    tensor([0., 1.])
    """
    log_probability = _log_softmax(logits)
    # p log p tends to 0 with p: the floor keeps 0 * -inf, and its gradient, from becoming NaN.
    floor = torch.finfo(log_probability.dtype).min
    entropy = -(log_probability.exp() * log_probability.clamp_min(floor)).sum(1)
    classes = torch.tensor(float(logits.shape[1]), dtype=entropy.dtype, device=entropy.device)
    return (1 - entropy / classes.log()).clamp(0, 1)


CONFIDENCES: dict[str, Confidence] = {
    "negative_entropy": negative_entropy,
    "top_softmax": top_softmax,
    "margin": margin,
}


def resolve_confidence(confidence: str | Confidence) -> Confidence:
    """Return the function that `confidence` names; a callable logits -> certainty is returned as it is.

    Raises
    ------
    ValueError
        If the name is not one of ``CONFIDENCES``.
    """
    if callable(confidence):
        return confidence
    if confidence not in CONFIDENCES:
        raise ValueError(f"confidence must be a callable or one of {sorted(CONFIDENCES)}, got {confidence!r}")
    return CONFIDENCES[confidence]

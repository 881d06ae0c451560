"""From logits to certainty: three functions, each 0 for a uniform output and 1 for a certain one."""

from collections.abc import Callable

import torch
from torch import Tensor

Confidence = Callable[[Tensor], Tensor]


def log_softmax(logits: Tensor) -> Tensor:
    """Return the logarithms of the probabilities; ValueError if there are fewer than 2 classes."""
    if logits.ndim < 2 or logits.shape[1] < 2:
        raise ValueError(f"logits must have shape (N, classes, ...) with 2 classes or more, got {tuple(logits.shape)}")
    # Half precision cannot tell 0.9999 from 1, and integers have no softmax.
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return torch.log_softmax(logits, dim=1)


def top_softmax(logits: Tensor) -> Tensor:
    """Return the highest probability (equation 2 of the paper), rescaled from [1/classes, 1] to [0, 1].

    Parameters
    ----------
    logits : Tensor, shape (N, classes, ...)
        At least 2 classes.

    Returns
    -------
    Tensor, shape (N, ...)
        float32, or float64 for float64 logits; 0 for a uniform output, 1 for a certain one.

    See Also
    --------
    margin, negative_entropy : The other confidences.

    References
    ----------
    De Coninck, Leroux, Simoens, "Mitigating Bias Using Model-Agnostic Data Attribution", CVPR Workshops 2024.

    Examples
    --------
    >>> top_softmax(torch.tensor([[0.0, 0.0], [0.0, 1e4]]))
    tensor([0., 1.])
    """
    log_probability = log_softmax(logits)
    uniform = 1 / logits.shape[1]
    return ((log_probability.amax(1).exp() - uniform) / (1 - uniform)).clamp(0, 1)


def margin(logits: Tensor) -> Tensor:
    """Return the highest probability minus the second highest (equation 3 of the paper).

    Parameters
    ----------
    logits : Tensor, shape (N, classes, ...)
        At least 2 classes.

    Returns
    -------
    Tensor, shape (N, ...)
        float32, or float64 for float64 logits; 0 if two classes tie, 1 for a certain output.

    See Also
    --------
    negative_entropy, top_softmax : The other confidences.

    References
    ----------
    De Coninck, Leroux, Simoens, "Mitigating Bias Using Model-Agnostic Data Attribution", CVPR Workshops 2024.

    Examples
    --------
    >>> margin(torch.tensor([[0.0, 0.0, -1e4], [0.0, 1e4, 0.0]]))
    tensor([0., 1.])
    """
    first, second = log_softmax(logits).exp().topk(2, dim=1).values.unbind(1)
    return first - second


def negative_entropy(logits: Tensor) -> Tensor:
    """Return 1 - H / log(classes), where H is the entropy of the softmax output.

    Equation 4 of the paper prints the entropy H itself, but its code uses the negative, rescaled here to [0, 1].

    Parameters
    ----------
    logits : Tensor, shape (N, classes, ...)
        At least 2 classes.

    Returns
    -------
    Tensor, shape (N, ...)
        float32, or float64 for float64 logits; 0 for a uniform output, 1 for a certain one.

    See Also
    --------
    margin, top_softmax : The other confidences.

    References
    ----------
    De Coninck, Leroux, Simoens, "Mitigating Bias Using Model-Agnostic Data Attribution", CVPR Workshops 2024.

    Examples
    --------
    >>> negative_entropy(torch.tensor([[0.0, 0.0], [0.0, 1e4]]))
    tensor([0., 1.])
    """
    log_probability = log_softmax(logits)
    # p log p tends to 0 with p: the floor keeps 0 * -inf, and its gradient, from becoming NaN.
    floor = torch.finfo(log_probability.dtype).min
    entropy = -(log_probability.exp() * log_probability.clamp_min(floor)).sum(1)
    classes = torch.tensor(float(logits.shape[1]), dtype=entropy.dtype, device=entropy.device)
    return (1 - entropy / classes.log()).clamp(0, 1)


CONFIDENCES: dict[str, Confidence] = {each.__name__: each for each in (negative_entropy, top_softmax, margin)}


def resolve_confidence(confidence: str | Confidence) -> Confidence:
    """Return the function named `confidence`; a callable logits -> certainty is returned as it is.

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

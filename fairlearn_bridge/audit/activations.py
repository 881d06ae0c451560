"""activation_ratio: whether the layers of a network respond to some groups less than to others (InsideBias)."""

from __future__ import annotations

from collections import defaultdict
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from captum_region.batches import as_floats, batches
from captum_region.evaluation import device_of, evaluating
from captum_region.randomness import RandomState, draw_seed
from captum_region.validation import check_count
from fairlearn_bridge.audit import statistics
from fairlearn_bridge.audit.inputs import grouped
from fairlearn_bridge.audit.prediction import network_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import ArrayLike, NDArray

    from captum_region.batches import ImageData

_ACTIVATIONS = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.GELU),
    *(nn.SiLU, nn.Hardswish, nn.Mish, nn.Softplus, nn.Sigmoid, nn.Tanh),
)
_WEIGHTED = (nn.modules.conv._ConvNd, nn.Linear)


def activation_ratio(
    model: Any,
    data: Any,
    groups: ArrayLike | str | None = None,
    *,
    layers: Sequence[str] | None = None,
    n_permutations: int = 1000,
    batch_size: int = 256,
    random_state: RandomState = 0,
    show_progress: bool = False,
) -> pd.DataFrame:
    """Compare how strongly each layer of a network responds to each group of images.

    Of each image, the strongest activation of a layer is the largest over its units and positions, or 0 if none is
    positive. The *activation ratio* is the least of the groups' means of it over the greatest: 1 where a layer responds
    to all groups alike. A network that has seen few images of a group may respond to it weakly, long before its
    accuracy says so; it takes no labels, and few images.

    Parameters
    ----------
    model : nn.Module, ImageClassifier or mitigator
        A trained network, which gets images in [0, 1] and is in eval mode meanwhile; or an estimator that has one.
    data : Samples, AttributeImages, ndarray or Tensor of images, N x C x height x width
        uint8, or float in [0, 1].
    groups : array-like of shape (N,), str or list of str
        As in `audit`.
    layers : sequence of str, optional
        Names from ``named_modules``. By default all activation functions of the network that are modules, or, if it has
        none, its convolutions and linear layers. A layer that is used more than once has a row for each use.
    n_permutations : int, default=1000
        Draws in which the groups are shuffled among the images, for p.
    batch_size : int, default=256
    random_state : int, NumPy generator or None, default=0
        Decides the permutations.
    show_progress : bool, default=False
        A progress bar on stderr.

    Returns
    -------
    DataFrame, indexed by layer, in the order in which they are used first
        ``ratio`` in [0, 1]; the groups with the ``least`` and ``greatest`` mean; ``p`` of a permutation test of "all
        groups have the same mean", as in `audit`, and ``p_holm``, corrected for the number of layers; and
        ``mean, GROUP`` for each group. The ratio is NaN for a layer that never responds.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit, `model` has no network, or it has no such layer.

    See Also
    --------
    audit : What a classifier loses on degraded images, by group.

    Notes
    -----
    Groups may also differ in their images, such as in contrast, and a fair network responds to that too: compare with
    another network, or with training on balanced data. The permutation test is ours.

    References
    ----------
    I. Serna, A. Pena, A. Morales, J. Fierrez, "InsideBias: measuring bias in deep networks and application to face
    gender biometrics", ICPR 2020, arXiv 2004.06592.

    Examples
    --------
    >>> import numpy as np
    >>> from torch import nn
    >>> images = np.stack([np.full((1, 2, 2), level, np.uint8) for level in [51, 102, 204, 255]])
    >>> network = nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(4, 2))
    >>> found = activation_ratio(network, images, ["a", "a", "b", "b"])
    >>> found[["ratio", "least", "mean, a", "mean, b"]].round(3)
           ratio least  mean, a  mean, b
    layer
    0      0.333     a      0.3      0.9
    """
    check_count("n_permutations", n_permutations)
    network = network_of(model)
    chosen = _chosen(network, layers)
    images, labels = grouped(data, groups)
    strongest = _strongest(network, chosen, images, batch_size, show_progress)
    if not strongest:
        raise ValueError(f"layers must be used by the network, got {', '.join(chosen)}, which are not")
    values = np.stack([*strongest.values()], axis=1)
    # Draws must not depend on the groups' names.
    codes, seen = pd.factorize(labels)
    means = np.stack([values[codes == code].mean(0) for code in range(len(seen))])
    generator = np.random.default_rng(draw_seed(random_state))
    ratio = _ratio(means)
    # By their ratio alone, a group of few images or of more varied ones would often look different.
    p = np.where(np.isnan(ratio), np.nan, statistics.equal_means_p(values, codes, n_permutations, generator))
    corrected = p.copy()
    corrected[~np.isnan(p)] = statistics.holm(p[~np.isnan(p)])
    names = np.asarray(seen)
    columns = {"ratio": ratio, "least": names[means.argmin(0)], "greatest": names[means.argmax(0)]}
    columns |= {"p": p, "p_holm": corrected}
    columns |= {f"mean, {names[code]}": means[code] for code in np.argsort(names)}
    return pd.DataFrame(columns, index=pd.Index([*strongest], name="layer"))


def _chosen(network: nn.Module, layers: Sequence[str] | None) -> dict[str, nn.Module]:
    modules = dict(network.named_modules())
    if layers is None:
        for kinds in (_ACTIVATIONS, _WEIGHTED):
            found: dict[str, nn.Module] = {name: each for name, each in modules.items() if isinstance(each, kinds)}
            if found:
                return found
        raise ValueError("layers must be given: the network has no activation function, convolution or linear layer")
    if isinstance(layers, str) or not layers:
        raise ValueError(f"layers must be a list of at least one name, got {layers!r}")
    if unknown := [name for name in layers if name not in modules]:
        raise ValueError(f"layers must be names of the network's modules, {', '.join(modules)}; got {unknown}")
    return {name: modules[name] for name in layers}


def _strongest(
    network: nn.Module, chosen: dict[str, nn.Module], images: ImageData, batch_size: int, show_progress: bool
) -> dict[str, NDArray[np.float64]]:
    """Return the strongest activation of each image, by layer and its use."""
    device = device_of(network)
    found: dict[str, list[NDArray[np.float64]]] = defaultdict(list)
    with evaluating(network), torch.inference_mode():
        for batch in batches(images, batch_size, show_progress=show_progress):
            with _listening(chosen) as heard:
                network(as_floats(batch.to(device)))
            for name, values in heard.items():
                found[name].append(values.double().numpy(force=True))
    return {name: np.concatenate(parts) for name, parts in found.items()}


@contextmanager
def _listening(chosen: dict[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """Keep, within a block, the strongest activation of each image in each use of the layers."""
    heard: dict[str, Tensor] = {}

    def listen(name: str, output: Any) -> None:
        if not isinstance(output, Tensor):
            raise TypeError(f"layers must give a Tensor, {name} gave {type(output).__name__}")
        uses = sum(key == name or key.startswith(f"{name}, use ") for key in heard)
        heard[f"{name}, use {uses + 1}" if uses else name] = output.flatten(1).amax(1).clamp(min=0)

    handles = [
        module.register_forward_hook(lambda module, inputs, output, name=name: listen(name, output))
        for name, module in chosen.items()
    ]
    try:
        yield heard
    finally:
        for handle in handles:
            handle.remove()


def _ratio(means: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the least over the greatest mean of the groups, which are the last axis but one; NaN if all are 0."""
    greatest = means.max(-2)
    with np.errstate(invalid="ignore"):
        ratio: NDArray[np.float64] = means.min(-2) / greatest
    return ratio

"""Realism by group: a Frechet distance between originals and reconstructions, and what is kept of the spectrum."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from captum_region.batches import as_floats
from captum_region.evaluation import device_of, evaluating
from fairlearn_bridge.audit.prediction import network_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Measured = tuple[NDArray[np.float64], NDArray[np.float64]] | None

Embedding = Callable[["NDArray[np.uint8]"], Any]
# Images whose spectra fit the processor's cache.
_PART = 8


def frechet_distance(features: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    """Return the squared Frechet distance of two normal distributions, fitted to two sets of features.

    |m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)), with the means m and covariances C of both.

    Parameters
    ----------
    features, others : ndarray, shape (N, D) and (M, D)
        At least two rows each.

    Returns
    -------
    float
        0 for equal sets; it has the features' unit, squared.

    Notes
    -----
    With few images the covariances are noisy, and the distance of different sets comes out too large, the more so the
    fewer there are: compare only distances of equally many images.

    References
    ----------
    M. Heusel, H. Ramsauer, T. Unterthiner, B. Nessler, S. Hochreiter, "GANs trained by a two time-scale update rule
    converge to a local Nash equilibrium", NeurIPS 2017. What is called FID there is this of one Inception network.

    Examples
    --------
    >>> import numpy as np
    >>> features = np.array([[0.0, 0.0], [2.0, 0.0]])
    >>> round(frechet_distance(features, features + 3), 6), round(frechet_distance(features, 2 * features), 6)
    (18.0, 3.0)
    """
    means, factors, traces = [], [], []
    for values in (features, others):
        mean = values.mean(0)
        # A triangle R with R^T R = C: of C C' only the trace of the root is needed, the nuclear norm of R R'^T.
        factor: NDArray[np.float64] = np.linalg.qr((values - mean) / np.sqrt(len(values) - 1), mode="r")  # type: ignore[assignment]  # with this mode an array
        means.append(mean)
        factors.append(factor)
        traces.append(np.square(factor).sum())
    root = np.linalg.norm(factors[0] @ factors[1].T, "nuc")
    return max(0.0, float(np.square(means[0] - means[1]).sum() + sum(traces) - 2 * root))


def radial_power(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the power of images at each distance from frequency 0, in steps of one cycle over the shorter side.

    Parameters
    ----------
    images : ndarray of uint8, shape (N, C, height, width)

    Returns
    -------
    ndarray, shape (N, F)
        From one cycle to half the shorter side, the largest frequency in all directions: the mean of channels, the sum
        over a ring.

    Examples
    --------
    >>> import numpy as np
    >>> stripes = np.broadcast_to(np.array([0, 200] * 4, np.uint8), (1, 3, 8, 8))
    >>> radial_power(stripes).round(2).tolist()
    [[0.0, 0.0, 0.0, 10000.0]]
    """
    height, width = images.shape[2:]
    side = min(height, width)
    distance = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)) * side
    # Of the spectrum of real images one half is computed: what is not in its first or last column counts twice.
    counts = np.where(2 * np.fft.rfftfreq(width) % 1, 2.0, 1.0)
    rings = (np.rint(distance)[..., None] == np.arange(1, side // 2 + 1)) * counts[:, None]
    weights = torch.from_numpy(rings.reshape(-1, side // 2).astype(np.float32))
    sums = []
    for part in torch.from_numpy(np.ascontiguousarray(images)).split(_PART):
        power = torch.fft.rfft2(part.float(), norm="forward").abs().square_().mean(1)
        sums.append(power.flatten(1) @ weights)
    return torch.cat(sums).double().numpy()


def embedding_of(embed: Any, classifier: Any) -> Embedding:
    """Return a function of images of uint8 that gives features.

    Parameters
    ----------
    embed : "classifier", nn.Module or callable
        With "classifier", what goes into the last linear layer of the classifier's network. A network gets images in
        [0, 1] and is in eval mode meanwhile, a function images of uint8.
    classifier : object

    Raises
    ------
    TypeError, ValueError
        If it is none of these, or the classifier has no network with a linear layer.
    """
    if isinstance(embed, str):
        if embed != "classifier":
            raise ValueError(f'embed must be "classifier", an nn.Module or a function, got {embed!r}')
        network = network_of(classifier)
        layers = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
        if not layers:
            raise ValueError('embed must be a network or a function, got "classifier", which has no linear layer')
        return lambda images: _embedded(network, images, layers[-1])
    if isinstance(embed, nn.Module):
        return lambda images: _embedded(embed, images)
    if not callable(embed):
        raise TypeError(f'embed must be "classifier", an nn.Module or a function, got {type(embed).__name__}')
    return embed


def has_embedding(classifier: Any) -> bool:
    """Return whether `embedding_of` finds an embedding of its own in a classifier."""
    try:
        embedding_of("classifier", classifier)
    except (TypeError, ValueError):
        return False
    return True


def _embedded(network: nn.Module, images: NDArray[np.uint8], layer: nn.Linear | None = None) -> Any:
    """Return the output of a network, or the input of a layer of it."""
    device = device_of(network)
    kept: list[torch.Tensor] = []
    handle = layer and layer.register_forward_pre_hook(lambda layer, inputs: kept.append(inputs[0]))
    try:
        with evaluating(network), torch.inference_mode():
            output = network(as_floats(torch.from_numpy(np.array(images)).to(device)))
    finally:
        if handle:
            handle.remove()
    found = kept[-1] if kept else output
    return found.flatten(1).double().numpy(force=True)


@dataclass
class Realism:
    """Measures the realism of reconstructions, of equally many images of each group.

    Attributes
    ----------
    embed : callable
    codes : ndarray of shape (N,)
        The group of each image, 0 to G - 1; -1 of those that are left out.
    before : list of ndarray, or None
        Features and powers of the originals.
    """

    embed: Embedding
    codes: NDArray[np.intp]
    before: list[NDArray[np.float64]] | None = None

    @classmethod
    def of_equal_groups(cls, embed: Embedding, codes: NDArray[np.intp], seed: int) -> Realism:
        """Return one of as many images of each group, drawn at random, as the smallest group has."""
        generator = np.random.default_rng((seed, 3))
        chosen = np.full(len(codes), -1)
        least = np.bincount(codes).min()
        for code in range(codes.max() + 1):
            rows = generator.permutation(np.flatnonzero(codes == code))[:least]
            chosen[rows] = code
        return cls(embed, chosen)

    def measured(self, start: int, images: NDArray[np.uint8]) -> Measured:
        """Return features and powers of those of a batch that were drawn; `start` is the position of its first.

        Raises
        ------
        ValueError
            If `embed` does not give finite features, a row an image.
        """
        drawn = images[self.codes[start : start + len(images)] >= 0]
        if not len(drawn):
            return None
        features = np.asarray(self.embed(drawn), float)
        if features.ndim != 2 or len(features) != len(drawn) or not np.isfinite(features).all():
            raise ValueError(f"embed must give finite features, {len(drawn)} x D, got shape {features.shape}")
        return features, radial_power(drawn)

    def compared(self, parts: list[Measured]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the Frechet distance of each group, G, and the share of the power that is kept, G x F.

        The first call, with the originals, compares them with themselves.
        """
        found = [np.concatenate(columns) for columns in zip(*filter(None, parts), strict=True)]
        self.before = self.before or found
        codes = self.codes[self.codes >= 0]
        groups = [codes == code for code in range(codes.max() + 1)]
        distances = [frechet_distance(self.before[0][rows], found[0][rows]) for rows in groups]
        with np.errstate(divide="ignore", invalid="ignore"):
            kept = [found[1][rows].sum(0) / self.before[1][rows].sum(0) for rows in groups]
        return np.array(distances), np.array(kept)

"""How strongly a method's map is smoothed, and in which variant it runs: chosen on images that are not compared."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from scipy.ndimage import gaussian_filter
from torch import Tensor

from captum_region.batches import ImageData
from captum_region.progress import progress_bar
from captum_region.saliency.compare import checked_truth, quietly, run_method, with_targets
from captum_region.saliency.localisation import MEASURES
from captum_region.saliency.methods import Method

# Of the shorter side of the images; without smoothing first, which wins a tie.
SIGMAS = (0, 1 / 48, 1 / 24, 1 / 16, 1 / 12, 1 / 8, 1 / 6, 1 / 4)


def smoothed(method: Method, sigma: float) -> Method:
    """Return a method whose maps are those of `method`, smoothed.

    Parameters
    ----------
    method : callable
        (images, targets) -> maps of shape (N, height, width).
    sigma : float
        Standard deviation of the Gaussian in pixels; 0 does not smooth. At the edges maps are mirrored.

    Returns
    -------
    callable
        (images, targets) -> maps of shape (N, height, width).

    Raises
    ------
    ValueError
        If `sigma` is negative or not finite.

    See Also
    --------
    choose_methods : Chooses how strongly to smooth.

    Examples
    --------
    >>> brightness = smoothed(lambda images, targets: images.mean(1), 1.0)
    >>> brightness(torch.ones(2, 3, 8, 8), torch.tensor([0, 1])).std() < 1e-6
    tensor(True)
    """
    if not 0 <= sigma < np.inf:
        raise ValueError(f"sigma must be a number of pixels, 0 or above, got {sigma}")
    return (lambda images, target: _smooth(method(images, target), sigma)) if sigma else method


def _smooth(maps: Tensor, sigma: float) -> Tensor:
    # Images are left apart: they are the first axis.
    found = gaussian_filter(maps.detach().float().cpu().numpy(), (0, sigma, sigma))
    return torch.from_numpy(found).to(maps.device)


def mean_of(methods: Sequence[Method]) -> Method:
    """Return a method whose maps are the mean of those of `methods`."""
    return lambda images, target: torch.stack([method(images, target) for method in methods]).mean(0)


def choose_methods(
    images: ImageData,
    truth: ArrayLike,
    candidates: Mapping[str, Mapping[str, Method]],
    *,
    target: ArrayLike,
    sigmas: Sequence[float] | None = None,
    measure: str = "rank_accuracy",
    device: str | torch.device | None = None,
    batch_size: int = 16,
    show_progress: bool = False,
) -> tuple[dict[str, Method], pd.DataFrame]:
    """Choose of each method the variant and the smoothing that find the truth best.

    For a fair comparison all methods get the same choice of smoothing, on images that are not compared afterwards.

    Parameters
    ----------
    images, truth, target, device, batch_size, show_progress
        As in `compare_saliency`.
    candidates : mapping of str to mapping of str to callable
        The variants of each method, by name: (images in [0, 1], targets) -> maps.
    sigmas : sequence of float, optional
        Standard deviations of the Gaussians in pixels, see `smoothed`; by default 0, 1/48, 1/24, 1/16, 1/12, 1/8, 1/6
        and 1/4 of the shorter side of the images.
    measure : str, default="rank_accuracy"
        A name in `captum_region.saliency.localisation.MEASURES`; its mean over the images decides, where an undefined
        value counts as 0. Of equals the first is taken.

    Returns
    -------
    methods : dict of str to callable
        The chosen methods, to give to `compare_saliency`.
    scores : DataFrame
        One row per method, variant and sigma: ``method``, ``variant``, ``sigma``, ``score``, and ``chosen``, True once
        for each method.

    Raises
    ------
    ValueError
        If shapes do not fit, a method has no variant, `sigmas` is empty or holds a number below 0, or the measure is
        unknown.

    See Also
    --------
    compare_saliency : Compares the chosen methods on other images.

    Examples
    --------
    >>> from captum_region.datasets import make_faces
    >>> faces = make_faces(4, 32, attributes={"Eyeglasses": 1.0}, random_state=0)
    >>> variants = {"red": lambda images, targets: images[:, 0], "dark": lambda images, targets: -images.mean(1)}
    >>> methods, scores = choose_methods(faces.images, faces.truth("Eyeglasses"), {"colour": variants}, target=1)
    >>> list(methods), len(scores), int(scores["chosen"].sum())
    (['colour'], 16, 1)
    """
    images, inside = checked_truth(images, truth)
    if measure not in MEASURES:
        raise ValueError(f"measure must be one of {', '.join(MEASURES)}, got {measure!r}")
    if empty := [name for name, variants in candidates.items() if not variants]:
        raise ValueError(f"candidates must hold at least one variant of each method, got none of {', '.join(empty)}")
    widths = [share * min(inside.shape[1:]) for share in SIGMAS] if sigmas is None else list(sigmas)
    if not widths or not all(0 <= width < np.inf for width in widths):
        raise ValueError(f"sigmas must hold numbers of pixels, 0 or above, got {widths}")
    pairs = with_targets(images, target, batch_size, device)
    count = sum(map(len, candidates.values())) * len(images)
    rows = []
    with progress_bar(total=count, desc="choosing", unit="map", disable=not show_progress) as bar:
        for name, variants in candidates.items():
            for variant, method in variants.items():
                maps = run_method(name, method, pairs, bar)
                for sigma in widths:
                    values = quietly(measure, _smooth(maps, sigma), inside)
                    rows.append((name, variant, sigma, np.nan_to_num(values).mean()))
    scores = pd.DataFrame(rows, columns=["method", "variant", "sigma", "score"])
    best = scores.groupby("method", sort=False)["score"].idxmax()
    scores["chosen"] = scores.index.isin(best)
    chosen = scores.loc[best, ["method", "variant", "sigma"]].itertuples(index=False)
    return {name: smoothed(candidates[name][variant], sigma) for name, variant, sigma in chosen}, scores

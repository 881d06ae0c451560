"""Spuriosity rankings: images of each class in the order of how strongly the spurious attribute shows."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from captum_region import RegionAttribution
from captum_region.batches import ImageSource, check_images
from captum_region.labels import check_classes
from fairlearn_bridge.metrics import wilson
from fairlearn_bridge.validation import check_number, from_names


def rank_by_evidence(
    attribution: RegionAttribution, data: ImageSource, *, within: ArrayLike | str, target: int = 1
) -> pd.DataFrame:
    """Rank the images of each class by how strongly the spurious attribute shows; no label of it is needed.

    The evidence of an image is the mean over its regions of how far the region classifier of the spurious attribute is
    for its value `target`.

    Parameters
    ----------
    attribution : RegionAttribution
        Of a region classifier of the spurious attribute.
    data : images, AttributeImages or data set
    within : array-like of shape (N,), or str
        The classes, within which images are ranked; or their name where `data` has labels with it.
    target : int, default=1
        The number of the attribute's value, as the region classifier knows it.

    Returns
    -------
    DataFrame of N rows
        ``image``, its position in `data`, ``class``, ``evidence``, at most 1 and above 0 where the value is likelier
        than not to the regions on average, and ``rank`` from 0, the strongest in its class. Sorted by class and rank.

    Raises
    ------
    TypeError, ValueError
        If the images, `within` or `target` do not fit.

    See Also
    --------
    ranking_gap : The accuracy at both ends.
    LowSpuriosityRetraining : Retrains the last layer on the low end.
    fairlearn_bridge.plotting.plot_ranking : Shows both ends.

    References
    ----------
    Moayeri, Wang, Singla, Feizi, "Spuriosity Rankings: Sorting Data to Measure and Mitigate Biases", NeurIPS 2023.

    Examples
    --------
    >>> from captum_region import DenseRegionClassifier, RegionGrid
    >>> from captum_region.datasets import make_faces
    >>> faces = make_faces(20, size=16, random_state=0)
    >>> classifier = DenseRegionClassifier(RegionGrid(16, 8, 4), 2, random_state=0).eval()
    >>> ranking = rank_by_evidence(RegionAttribution(classifier), faces, within="Male")
    >>> ranking.columns.tolist(), len(ranking)
    (['image', 'class', 'evidence', 'rank'], 20)
    """
    if target is None:  # which region_map takes for the confidence, whatever value it is in
        raise TypeError("target must be the number of the attribute's value, got None")
    X, labels = from_names(data, within)
    X = check_images(X, name="data")
    classes = check_classes(labels, len(X), name="within")
    evidence = attribution.region_map(X, target=target).double().mean((-2, -1)).cpu().numpy()
    ranking = pd.DataFrame({"image": np.arange(len(X)), "class": classes, "evidence": evidence})
    ranking = ranking.sort_values(["class", "evidence"], ascending=[True, False], kind="stable", ignore_index=True)
    return ranking.assign(rank=ranking.groupby("class").cumcount())


class RankingGap(NamedTuple):
    """Accuracy at the top and the bottom of a ranking, their difference, and its 95 % interval."""

    top: float
    bottom: float
    difference: float
    low: float
    high: float


def ranking_gap(ranking: pd.DataFrame, is_right: ArrayLike, *, share: float = 0.25) -> RankingGap:
    """Compare the accuracy where the spurious attribute shows most with that where it shows least.

    Parameters
    ----------
    ranking : DataFrame
        As from `rank_by_evidence`; or its rows of one class.
    is_right : array-like of bool, shape (N,)
        Whether each image of the data is classified right, by its position there.
    share : float, default=0.25
        Of each class, how much makes the top and the bottom, at least one image; in (0, 0.5].

    Returns
    -------
    RankingGap
        ``top``, ``bottom``, the ``difference``, top minus bottom, and ``low`` and ``high``, its 95 % interval by
        Newcombe's method of Wilson scores, which holds for few images too.

    Raises
    ------
    ValueError
        If `share` is out of range, `is_right` does not hold a bool for each image, or a class has a single image.

    See Also
    --------
    rank_by_evidence : The ranking.

    References
    ----------
    Newcombe, "Interval estimation for the difference between independent proportions", Statistics in Medicine 17, 1998.

    Examples
    --------
    >>> ranking = pd.DataFrame({"image": [0, 1, 2, 3], "class": 0, "rank": [0, 1, 2, 3]})
    >>> gap = ranking_gap(ranking, [True, True, False, False], share=0.5)
    >>> gap.top, gap.bottom, round(gap.low, 2), gap.high
    (1.0, 0.0, 0.07, 1.0)
    """
    check_number("share", share, 0, 0.5)
    if share == 0:
        raise ValueError("share must be above 0, got 0")
    if ranking.empty or (ranking.groupby("class").size() < 2).any():
        raise ValueError("ranking must hold two images of a class at least, which make its top and its bottom")
    right = np.asarray(is_right)
    if right.dtype != bool or right.ndim != 1 or len(right) <= ranking["image"].max():
        raise ValueError(f"is_right must hold a bool for each image, got {right.dtype} of shape {right.shape}")
    ends = [right[images] for images in ends_of(ranking, share)]
    top, bottom = (float(end.mean()) for end in ends)
    (top_low, top_high), (bottom_low, bottom_high) = (wilson(float(end.mean()), len(end)) for end in ends)
    difference = top - bottom
    low = difference - float(np.hypot(top - top_low, bottom_high - bottom))
    high = difference + float(np.hypot(top_high - top, bottom - bottom_low))
    return RankingGap(top, bottom, difference, low, high)


def ends_of(ranking: pd.DataFrame, share: float) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the positions of the images at the top and at the bottom of a ranking: a share of each class, or one.

    Those at the top come in the order of their ranks; so do those at the bottom, the last of all at the end.
    """
    of_class = ranking.sort_values(["class", "rank"], kind="stable").groupby("class")
    count = np.maximum(np.floor(share * of_class["rank"].transform("size")), 1)
    from_top, from_bottom = of_class.cumcount(), of_class.cumcount(ascending=False)
    top, bottom = (ranking.loc[place.index[place < count[place.index]], "image"] for place in (from_top, from_bottom))
    return top.to_numpy(), bottom.to_numpy()

"""Bootstrap within groups, permutation of groups and Holm's correction, for many columns of values at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike, NDArray

# Draws are made so many numbers at a time, 32 MB of floats.
_AT_ONCE = 2**22
# Of how many images of the variance of all a group's own is shrunk by.
_SHRINK = 2
# What rounding may change of a mean.
_TOLERANCE = 1e-12


def bootstrap_means(
    values: NDArray[np.float64], codes: NDArray[np.intp], draws: int, generator: np.random.Generator
) -> NDArray[np.float64]:
    """Return the mean of each group in each of `draws` bootstrap samples, which are drawn within the groups.

    Parameters
    ----------
    values : ndarray of shape (N, K)
        A row an image. All columns share the images that are drawn: they are paired.
    codes : ndarray of shape (N,)
        The group of each image, 0 to G - 1.
    draws : int
    generator : numpy.random.Generator

    Returns
    -------
    ndarray, shape (draws, G, K)

    Examples
    --------
    >>> import numpy as np
    >>> values, codes = np.array([[1.0], [1.0], [5.0]]), np.array([0, 0, 1])
    >>> bootstrap_means(values, codes, 2, np.random.default_rng(0))[..., 0]
    array([[1., 5.],
           [1., 5.]])
    """
    means = np.empty((draws, int(codes.max()) + 1, values.shape[1]))
    for group in range(means.shape[1]):
        rows = values[codes == group]
        n = len(rows)
        for part in _parts(draws, n):
            count = part.stop - part.start
            # How often each image is drawn, in all draws of this part at once.
            index = generator.integers(n, size=(count, n)) + n * np.arange(count)[:, None]
            counts = np.bincount(index.ravel(), minlength=count * n).reshape(count, n)
            means[part, group] = counts.astype(float) @ rows / n
    return means


def permuted_means(
    values: NDArray[np.float64], codes: NDArray[np.intp], draws: int, generator: np.random.Generator
) -> NDArray[np.float64]:
    """Return the mean of each group in each of `draws` random permutations of the groups among the images.

    Parameters, shapes and pairing are those of `bootstrap_means`.
    """
    sizes = np.bincount(codes)
    means = np.empty((draws, len(sizes), values.shape[1]))
    for part in _parts(draws, len(codes)):
        labels = generator.permuted(np.tile(codes, (part.stop - part.start, 1)), axis=1)
        for group, size in enumerate(sizes):
            means[part, group] = (labels == group).astype(float) @ values / size
    return means


def equal_means_p(
    values: NDArray[np.float64], codes: NDArray[np.intp], draws: int, generator: np.random.Generator
) -> NDArray[np.float64]:
    """Return the p-value of "all groups have the same mean", by permutations of the groups among the images.

    What is permuted is Welch's statistic, in which the deviation of a group counts by its own standard error: a plain
    range of means would be large where a small group merely varies more [1]_. Each group's variance is shrunk to that
    of all by two images' worth, or a group without any change would be infinitely far from the others.

    Parameters
    ----------
    values, codes, draws, generator
        See `bootstrap_means`.

    Returns
    -------
    ndarray of shape (K,)
        In (0, 1].

    References
    ----------
    .. [1] Janssen, "Studentized permutation tests for non-i.i.d. hypotheses and the generalized Behrens-Fisher
       problem", Statistics & Probability Letters 36, 1997.

    Examples
    --------
    >>> import numpy as np
    >>> values, codes = np.array([[0.0], [0.1], [0.2], [5.0], [5.1], [5.2]]), np.array([0, 0, 0, 1, 1, 1])
    >>> bool(equal_means_p(values, codes, 199, np.random.default_rng(0))[0] < 0.15)
    True
    """
    sizes, count = np.bincount(codes).astype(float)[:, None], values.shape[1]
    of_all = values.var(0)
    moments = np.concatenate([values, values**2], axis=1)

    def statistic(means: NDArray[np.float64]) -> NDArray[np.float64]:
        mean, squares = means[..., :count], means[..., count:]
        variance = shrunk_variances(mean, squares, sizes, of_all)
        weight = sizes / np.where(variance > 0, variance, 1)  # where no image changes all means are equal
        middle = (weight * mean).sum(-2, keepdims=True) / weight.sum(-2, keepdims=True)
        return (weight * (mean - middle) ** 2).sum(-2)

    observed = np.stack([moments[codes == code].mean(0) for code in range(len(sizes))])
    return p_values(statistic(observed), statistic(permuted_means(moments, codes, draws, generator)))


def shrunk_variances(
    means: NDArray[np.float64], squares: NDArray[np.float64], sizes: NDArray[np.float64], of_all: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the variance in each group, shrunk to that of all images by two images' worth.

    Parameters
    ----------
    means, squares : ndarray of shape (..., G, K)
        The groups' means of the values, and of their squares.
    sizes : ndarray of shape (G, 1)
    of_all : ndarray of shape (K,)
        The variance of all images.

    Returns
    -------
    ndarray of shape (..., G, K)
    """
    return (sizes * (squares - means**2) + _SHRINK * of_all) / (sizes - 1 + _SHRINK)


def spread(means: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """Return the largest minus the smallest mean of the groups along `axis`: the bias, if the means are drops."""
    return np.ptp(means, axis=axis)


def p_values(observed: ArrayLike, null: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the share of draws under the null hypothesis that are as large as what was observed, which counts as one.

    Parameters
    ----------
    observed : array-like of shape (K,)
    null : ndarray of shape (draws, K)

    Returns
    -------
    ndarray of shape (K,)
        In (0, 1].

    Examples
    --------
    >>> import numpy as np
    >>> p_values([3.0], np.array([[1.0], [2.0], [3.0]]))
    array([0.5])
    """
    extreme: NDArray[np.int_] = (null >= np.asarray(observed) - _TOLERANCE).sum(0)
    return (1 + extreme) / (1 + len(null))


def holm(p: ArrayLike) -> NDArray[np.float64]:
    """Return p-values corrected by Holm's method: rejecting those below a level keeps the chance of any error below it.

    Parameters
    ----------
    p : array-like of shape (K,)

    Returns
    -------
    ndarray of shape (K,)
        At least `p`, at most 1.

    References
    ----------
    S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6, 1979.

    Examples
    --------
    >>> holm([0.01, 0.04, 0.03]).round(3)
    array([0.03, 0.06, 0.06])
    """
    values = np.asarray(p, dtype=float)
    order = values.argsort(kind="stable")
    corrected = np.empty_like(values)
    corrected[order] = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)).clip(max=1)
    return corrected


def _parts(draws: int, width: int) -> Iterator[slice]:
    step = max(1, _AT_ONCE // width)
    for start in range(0, draws, step):
        yield slice(start, min(draws, start + step))

"""Measures of predictions: what they are called, say and prefer, their values by group, and their intervals."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from fairlearn.metrics import MetricFrame
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binomtest, rankdata
from sklearn.metrics import accuracy_score

from captum_region.intervals import extreme_interval, percentile_interval
from captum_region.randomness import RandomState, draw_seed
from captum_region.validation import check_count
from fairlearn_bridge.validation import check_number

# Of resamples, so many images at a time: their scores are ranked, in several copies.
_AT_ONCE = 2**23
# The accuracy in a cell of fewer test images says little; of few images a bootstrap's interval is too narrow, down to
# a point.
FEW = 30
# Of few images of a class, the bootstrap's interval of an AUC is too narrow, down to a point.
_FEW_OF_AUC = 10
# The least or the largest of several accuracies.
_OF_EXTREMES = ["worst_cell", "confounder_gap"]
# Which value of a measure is the best: the largest, the smallest, or the one next to 0.
LARGEST, SMALLEST, NEXT_TO_ZERO = "largest", "smallest", "next to 0"


class Measure(NamedTuple):
    """What a measure is called, says of {target} and {confounder}, and which of its values is the best."""

    label: str
    sentence: str
    best: str


MEASURES = {
    "accuracy": Measure(
        "accuracy",
        "Share of test images classified correctly; the test set has equally many images of each cell.",
        LARGEST,
    ),
    "accuracy[False]": Measure("accuracy", "Accuracy within the group that is not {target}.", LARGEST),
    "accuracy[True]": Measure("accuracy", "Accuracy within the group that is {target}.", LARGEST),
    "gap": Measure(
        "gap",
        "Accuracy of the group that is not {target} minus that of the other; moving the threshold alone can make it 0.",
        NEXT_TO_ZERO,
    ),
    "worst_cell": Measure(
        "worst-group accuracy", "Lowest accuracy among the four cells of {target} and {confounder}.", LARGEST
    ),
    "confounder_gap": Measure(
        "spurious-attribute gap",
        "How much accuracy differs with and without {confounder}, averaged over the two groups.",
        SMALLEST,
    ),
    "auc": Measure("AUC", "Area under the ROC curve; no threshold changes it.", LARGEST),
    "crossed_auc": Measure(
        "bias-conflicting AUC",
        "Area under the ROC curve among the images whose {confounder} is not the one that goes with their class in the "
        "biased training set; no threshold changes it.",
        LARGEST,
    ),
    "flip_rate": Measure(
        "counterfactual flip rate",
        "Share of predictions that change when only {confounder} is toggled and the rest of the picture stays.",
        SMALLEST,
    ),
}


def label(name: str, groups: Mapping[str, str]) -> str:
    """Return what a measure is called, of a group by the group's name in `groups`.

    Examples
    --------
    >>> label("worst_cell", {}), label("accuracy[True]", {"True": "Male"}), label("accuracy[old]", {})
    ('worst-group accuracy', 'accuracy, Male', 'accuracy, old')
    """
    of, _, group = name.removesuffix("]").partition("[")
    text = MEASURES[of].label if of in MEASURES else of
    return f"{text}, {groups.get(group, group)}" if group else text


def best(name: str) -> str:
    """Return which value of a measure, or of a measure of a group, is the best; empty for an unknown measure."""
    of = name.partition("[")[0]
    return MEASURES[of].best if of in MEASURES else ""


def is_signed(name: str) -> bool:
    """Return whether a measure may lie on either side of 0."""
    return best(name) == NEXT_TO_ZERO


def signed_gap(y_true: ArrayLike, y_pred: ArrayLike, *, sensitive_features: ArrayLike) -> float:
    """Return the accuracy of the first of two groups, in sorted order, minus that of the second.

    With groups False and True of Male: above 0 where women are classified better.

    Parameters
    ----------
    y_true, y_pred : array-like of shape (N,)
        Labels and predictions.
    sensitive_features : array-like of shape (N,)
        The groups.

    Returns
    -------
    float
        In [-1, 1].

    Raises
    ------
    ValueError
        If there are not exactly two groups.

    See Also
    --------
    measure : All measures of one training.

    Examples
    --------
    >>> signed_gap([0, 0, 1, 1], [0, 0, 1, 0], sensitive_features=["a", "a", "b", "b"])
    0.5
    """
    frame = MetricFrame(
        metrics=accuracy_score, y_true=y_true, y_pred=y_pred, sensitive_features=np.asarray(sensitive_features)
    )
    if len(frame.by_group) != 2:
        raise ValueError(f"sensitive_features must hold two groups, got {list(frame.by_group.index)}")
    return float(frame.by_group.iloc[0] - frame.by_group.iloc[1])


def alignment(target: ArrayLike, confounder: ArrayLike) -> dict[Any, Any]:
    """Return the value of the spurious attribute that each class of the training data has most beyond its usual share.

    Beyond it by the difference: the ratio is largest where a single image has a value that no other class has.
    """
    shares = pd.crosstab(np.asarray(target), np.asarray(confounder), normalize="index")
    return dict((shares - shares.mean()).idxmax(axis=1))


def summarize(
    predictions: pd.DataFrame,
    *,
    aligned: Mapping[Any, Any],
    reference: str | None = None,
    n_bootstrap: int = 1000,
    confidence_level: float = 0.95,
    random_state: RandomState = 0,
) -> pd.DataFrame:
    """Measure predictions: see `measure` for what.

    Parameters
    ----------
    predictions : DataFrame
        From `fit_mitigators`.
    aligned : mapping of class to value of the spurious attribute
        From `alignment` of the training data; decides which images are bias-conflicting.
    reference : str, optional
        The mitigator that the others are compared with, image by image and seed by seed, such as the ERM baseline.
    n_bootstrap, confidence_level
        See `compare_mitigators`.
    random_state : int, NumPy generator or None, default=0
        Decides the resamples.

    Returns
    -------
    DataFrame
        A row a mitigator; columns (measure, statistic), where the statistic is ``mean`` and ``std`` over seeds (NaN
        with one seed), ``low`` and ``high``, the percentile bootstrap interval over test images of the mean over seeds
        (of ``worst_cell`` and ``confounder_gap`` a wider one, see Notes), and ``seeds``, their number. With a
        `reference` also ``difference``, the mean minus that of the reference, over the seeds that both have (NaN if
        there are none), with its interval ``difference_low`` and ``difference_high``, over resamples that draw the same
        images for both. An AUC of fewer than 10 images of a class has no interval (NaN).

    Raises
    ------
    ValueError
        If `confidence_level` or `n_bootstrap` is out of range, there is no such reference, or the predictions or
        `aligned` do not fit, see `measure`.

    Notes
    -----
    The intervals cover the choice of test images alone, not that of the training: for that, see ``std``. The lowest of
    several accuracies that are about equal is below the true one on average, and in a resample once more by as much:
    see `captum_region.intervals.extreme_interval`, whose intervals allow for that.

    See Also
    --------
    measure : The measures of one mitigator and seed.
    pareto_front : Which mitigators are not beaten.
    """
    _check_predictions(predictions, aligned, "mitigator", "seed")
    by_name = dict(list(predictions.groupby("mitigator", sort=False)))
    check_summary(by_name, reference, n_bootstrap, confidence_level)
    seed = draw_seed(random_state)
    points, resamples = {}, {}
    for name, of_mitigator in by_name.items():
        of_seeds = dict(list(of_mitigator.groupby("seed")))
        points[name] = pd.DataFrame([measure(part, aligned=aligned) for part in of_seeds.values()], list(of_seeds))
        resamples[name] = np.stack([_bootstrap(part, aligned, n_bootstrap, seed) for part in of_seeds.values()])
    rows = {}
    for name, point in points.items():
        low, high = _interval(point.mean(), resamples[name].mean(0), confidence_level, least=0)
        statistics = {"mean": point.mean(), "std": point.std(), "low": low, "high": high, "seeds": float(len(point))}
        if reference is not None:
            other = points[reference]
            both = point.index.intersection(other.index)
            statistics |= dict.fromkeys(("difference", "difference_low", "difference_high"), np.nan)
            if len(both):
                # The same seed has drawn the same images for every mitigator.
                mine, its = (resamples[of][points[of].index.get_indexer(both)].mean(0) for of in (name, reference))
                difference = point.loc[both].mean() - other.loc[both].mean()
                low, high = _interval(difference, mine - its, confidence_level, least=-1)
                statistics |= {"difference": difference, "difference_low": low, "difference_high": high}
        rows[name] = pd.DataFrame(statistics, index=point.columns).stack()
    return pd.DataFrame(rows).T.rename_axis("mitigator").rename_axis(["measure", "statistic"], axis=1)


def _interval(
    point: pd.Series, draws: NDArray[np.float64], confidence_level: float, least: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the ends of each measure's interval, from draws x measures; extremes are from `least` to 1."""
    low, high = percentile_interval(draws, confidence_level)
    wide_low, wide_high = np.clip(extreme_interval(point, draws, confidence_level), least, 1)
    of_extremes = point.index.isin(_OF_EXTREMES)
    return np.where(of_extremes, wide_low, low), np.where(of_extremes, wide_high, high)


def check_summary(names: Collection[Any], reference: str | None, n_bootstrap: int, confidence_level: float) -> None:
    """Raise ValueError if an argument of `summarize` does not fit, of the mitigators `names`."""
    check_number("confidence_level", confidence_level, 0, 1, inside=True)
    check_count("n_bootstrap", n_bootstrap)
    if reference is not None and reference not in names:
        raise ValueError(f"reference must be one of {', '.join(map(str, names))}, got {reference!r}")


def pareto_front(table: pd.DataFrame, less: str = "gap", more: str = "accuracy") -> pd.Series:
    """Return which mitigators are not beaten: no other is at least as good in gap and accuracy, and better in one.

    Parameters
    ----------
    table : DataFrame
        From `summarize` or `compare_mitigators`.
    less, more : str, default="gap" and "accuracy"
        The measure whose absolute value should be small, and the one that should be large; their means are compared.

    Returns
    -------
    Series of bool, by mitigator
        False where a mitigator has not run.

    Raises
    ------
    ValueError
        If the table has no such measure.

    See Also
    --------
    compare_mitigators : Makes the table.
    fairlearn_bridge.plotting.plot_trade_off : Draws the front.

    Examples
    --------
    >>> columns = pd.MultiIndex.from_product([["accuracy", "gap"], ["mean"]])
    >>> table = pd.DataFrame([[0.9, 0.3], [0.8, -0.1], [0.8, 0.2]], ["original", "mask", "noise"], columns)
    >>> pareto_front(table).to_dict()
    {'original': True, 'mask': True, 'noise': False}
    """
    if missing := {less, more} - set(table.columns.get_level_values(0)):
        raise ValueError(f"table must have the measures {less} and {more}, missing: {', '.join(sorted(missing))}")
    cost = np.stack([table[less, "mean"].abs(), -table[more, "mean"]], axis=1).astype(float)
    no_worse, better = ((op(cost[None], cost[:, None])) for op in (np.less_equal, np.less))
    beaten = (no_worse.all(2) & better.any(2)).any(1)
    return pd.Series(~beaten & ~np.isnan(cost).any(1), index=table.index)


def wilson(right: float, images: int, level: float = 0.95) -> tuple[float, float]:
    """Return Wilson's interval of a share of images.

    Examples
    --------
    >>> [round(end, 3) for end in wilson(1.0, 40)]
    [0.912, 1.0]
    """
    interval = binomtest(round(right * images), images).proportion_ci(level, "wilson")
    return float(interval.low), float(interval.high)


def measure(predictions: pd.DataFrame, *, aligned: Mapping[Any, Any]) -> pd.Series:
    """Measure the predictions of one mitigator and seed.

    Parameters
    ----------
    predictions : DataFrame
        Rows of one mitigator and seed, from `fit_mitigators`.
    aligned : mapping of class to value of the spurious attribute
        See `summarize`.

    Returns
    -------
    Series
        ``accuracy``; ``accuracy[g]`` of each group; with two groups ``gap``, see `signed_gap`; ``worst_cell``, the
        worst-group accuracy: the least of a cell of group and spurious attribute; ``confounder_gap``, the accuracy
        with minus without the spurious attribute within each group, its absolute value averaged over groups; with two
        classes in training ``auc``, and ``crossed_auc``, the AUC on bias-conflicting samples: those whose spurious
        attribute is not the one that goes with their class in training. No threshold shift changes the last two. With
        counterfactuals, ``flip_rate``: the share of predictions that change when only the spurious attribute is
        toggled.

    Raises
    ------
    ValueError
        If there are no predictions, a column or a value is missing, or `aligned` is of other classes or of other values
        of the spurious attribute: read back from a file, they may be of another type.

    See Also
    --------
    summarize : Several mitigators and seeds, with intervals.
    signed_gap : The gap alone.
    """
    _check_predictions(predictions, aligned)
    values = _measures(predictions, aligned, np.arange(len(predictions))[None])
    return pd.Series({name: float(value[0]) for name, value in values.items()})


def _check_predictions(predictions: pd.DataFrame, aligned: Mapping[Any, Any], *names: str) -> None:
    wanted = [*names, "target", "group", "confounder", "predicted", *(["score"] if len(aligned) == 2 else [])]
    if missing := [name for name in wanted if name not in predictions]:
        raise ValueError(f"predictions must have columns {', '.join(wanted)}, got none named {', '.join(missing)}")
    if predictions.empty:
        raise ValueError("predictions must hold those of an image at least, got none")
    if unknown := [name for name in wanted if predictions[name].isna().any()]:
        raise ValueError(f"predictions must have no missing values, got some in {', '.join(unknown)}")
    classes, values = ({*predictions[name].tolist()} for name in ("target", "confounder"))
    # Without these all images would count as bias-conflicting.
    if aligned and not (classes <= {*aligned} and values & {*aligned.values()}):
        raise ValueError(
            f"aligned must map the classes of predictions, {sorted(classes, key=str)}, to values of the spurious "
            f"attribute, {sorted(values, key=str)}, got {dict(aligned)}"
        )


def _bootstrap(
    predictions: pd.DataFrame, aligned: Mapping[Any, Any], n_bootstrap: int, seed: int
) -> NDArray[np.float64]:
    """Return n_bootstrap x measures, in the order of `measure`, of resamples that keep each image's cell."""
    if "image" in predictions:  # the same draws are of the same images, whatever the order of the rows
        predictions = predictions.sort_values("image", kind="stable")
    strata: dict[Any, Any] = predictions.groupby(["target", "group", "confounder"]).indices
    generator = np.random.default_rng(seed)
    at_once = max(1, _AT_ONCE // max(len(predictions), 1))
    parts = []
    for start in range(0, n_bootstrap, at_once):
        index = stratified_resamples(strata.values(), min(at_once, n_bootstrap - start), generator)
        values = _measures(predictions, aligned, index, least=_FEW_OF_AUC)
        parts.append(np.stack(list(values.values()), axis=-1))
    return np.concatenate(parts)


def _measures(
    predictions: pd.DataFrame, aligned: Mapping[Any, Any], index: NDArray[np.intp], least: int = 1
) -> dict[str, NDArray[np.float64]]:
    """Return each measure of the resamples at `index`, resamples x images, in which each place keeps its cell.

    An AUC of fewer than `least` images of a class is NaN.
    """
    right = (predictions["predicted"] == predictions["target"]).to_numpy()[index]

    def accuracies(by: Any) -> dict[Any, NDArray[np.float64]]:
        return {of: right[:, members].mean(1) for of, members in predictions.groupby(by).indices.items()}

    by_group, by_cell = accuracies("group"), accuracies(["group", "confounder"])
    values = {"accuracy": right.mean(1)} | {f"accuracy[{group}]": value for group, value in by_group.items()}
    if len(by_group) == 2:
        first, second = by_group.values()
        values["gap"] = first - second
    values["worst_cell"] = np.min(list(by_cell.values()), axis=0)
    # With more than two values of the spurious attribute: the largest difference between any two.
    of_groups = ([by_cell[cell] for cell in by_cell if cell[0] == group] for group in by_group)
    if ranges := [np.ptp(cells, axis=0) for cells in of_groups if len(cells) > 1]:
        values["confounder_gap"] = np.mean(ranges, axis=0)
    for name, (chosen, positive) in _of_aucs(predictions, aligned).items():
        is_known = min(positive.sum(), (~positive).sum()) >= least
        scores = predictions["score"].to_numpy()[index][:, chosen]
        values[name] = area_under_roc(scores, positive) if is_known else np.full(len(index), np.nan)
    if "flipped" in predictions:
        values["flip_rate"] = predictions["flipped"].to_numpy()[index].mean(1)
    return values


def _of_aucs(
    predictions: pd.DataFrame, aligned: Mapping[Any, Any]
) -> dict[str, tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    """Return, for each AUC that is defined, which images it is of, and which of these are of the last class."""
    if len(aligned) != 2:  # scores are of the last of the training classes, whatever two the test images show
        return {}
    target = predictions["target"]
    crossed = (predictions["confounder"] != target.map(aligned)).to_numpy()
    positive = (target == target.max()).to_numpy()
    every = {"auc": np.ones_like(crossed), "crossed_auc": crossed}
    return {name: (chosen, positive[chosen]) for name, chosen in every.items() if target[chosen].nunique() == 2}


def stratified_resamples(
    strata: Iterable[NDArray[np.intp]], count: int, generator: np.random.Generator
) -> NDArray[np.intp]:
    """Return `count` resamples, a row of positions each, of which every place is filled from its own stratum.

    Each place keeps the stratum of its image, and only the outcome changes. The strata hold each position once.
    """
    strata = list(strata)
    index = np.empty((count, sum(map(len, strata))), np.intp)
    for members in strata:
        index[:, members] = generator.choice(members, (count, len(members)))
    return index


def area_under_roc(score: NDArray[np.float64], positive: NDArray[np.bool_]) -> Any:
    """Return the area under the ROC along the last axis, for any number of resamples at once (Mann-Whitney's U)."""
    n_positive = int(positive.sum())
    ranks = rankdata(score, axis=-1)[..., positive].sum(-1)
    return (ranks - n_positive * (n_positive + 1) / 2) / (n_positive * (len(positive) - n_positive))

"""compare_mitigators: the same data, seeds and measures for every mitigator, in one table with intervals."""

from __future__ import annotations

import functools
import inspect
import shutil
import time
import warnings
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from fairlearn.metrics import MetricFrame, count
from joblib import Parallel, delayed
from scipy.stats import rankdata
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import accuracy_score
from sklearn.utils.multiclass import type_of_target

from captum_region.progress import progress_bar
from captum_region.randomness import RandomState, draw_seed
from captum_region.snapshot import Snapshots, digest
from fairlearn_bridge.baselines import NotApplicableError

if TYPE_CHECKING:
    import os
    from collections.abc import Collection, Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

    from captum_region.batches import ImageData


class NoneCouldRunError(RuntimeError, ValueError):
    """No mitigator could run with any seed; a ValueError too, since data or parameters that suit none are the cause."""


@dataclass(frozen=True)
class Samples:
    """Images with their target and confounder, and the groups to report by.

    Attributes
    ----------
    X : ndarray or Tensor, shape (N, C, height, width)
    y : array-like of shape (N,)
        The target's labels.
    confounder : array-like of shape (N,)
    groups : array-like of shape (N,), optional
        The groups of the report (gender); by default `y`, as in De Coninck et al. 2024, where gender is the target.
    twins : ndarray or Tensor like X, optional
        The same images with only the confounder toggled.

    Raises
    ------
    ValueError
        If the lengths differ, or labels, confounder or groups are continuous, or missing of an image.
    """

    X: ImageData
    y: NDArray[Any]
    confounder: NDArray[Any]
    groups: NDArray[Any] | None = None
    twins: ImageData | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "groups", self.y if self.groups is None else self.groups)
        for name in ("y", "confounder", "groups"):
            values = np.asarray(getattr(self, name))
            if values.shape != (len(self.X),):
                raise ValueError(f"{name} must have shape ({len(self.X)},), one an image, got {values.shape}")
            if (missing := pd.isna(values)).any():
                raise ValueError(f"{name} must not miss values, got {missing.sum()} missing")
            if values.dtype.kind == "f" and type_of_target(values) == "continuous":
                raise ValueError(
                    f"{name} must hold classes, got a continuous variable; pandas.cut makes classes of one"
                )
            object.__setattr__(self, name, values)
        if self.twins is not None and self.twins.shape != self.X.shape:
            raise ValueError(f"twins must have the shape of X, {tuple(self.X.shape)}, got {tuple(self.twins.shape)}")


def signed_gap(y_true: ArrayLike, y_pred: ArrayLike, *, sensitive_features: ArrayLike) -> float:
    """Return the accuracy of the first of two groups, in sorted order, minus that of the second.

    With groups False and True of Male: above 0 where women are classified better.

    Raises
    ------
    ValueError
        If there are not exactly two groups.

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


def compare_mitigators(
    mitigators: Mapping[str, Any],
    train: Samples,
    test: Samples,
    *,
    train_on: Mapping[str, Samples] | None = None,
    fit_params: Mapping[str, Any] | None = None,
    reuse: Mapping[str, str] | None = None,
    reference: str | None = None,
    random_states: Sequence[int] = (0,),
    n_bootstrap: int = 1000,
    confidence_level: float = 0.95,
    n_jobs: int | None = None,
    checkpoint_dir: str | os.PathLike[str] | None = None,
    show_progress: bool = False,
) -> pd.DataFrame:
    """Train each mitigator with each seed and compare them on the same test images.

    Parameters
    ----------
    mitigators : mapping of name to estimator
        Classifiers and fairlearn-style mitigators, cloned. Each is given what its ``fit`` takes: ``X`` and ``y``,
        and ``sensitive_features`` (the confounder) and members of `fit_params` by name. fairlearn's own
        ExponentiatedGradient and ThresholdOptimizer will do. What takes ``sensitive_features`` in prediction, such as
        the latter, is told the confounder of the test images too, which the others do without.
    train, test : Samples
        The training data, and the test data with the groups to report by.
    train_on : mapping of name to Samples, optional
        Other training data for some mitigators, such as a balanced set; `fit_params` are not given with them.
    fit_params : mapping, optional
        Further arguments of ``fit``, such as ``region_maps`` or ``validation``.
    reuse : mapping of name to name, optional
        Mitigators that get the fitted classifier of another as their ``estimator``, frozen, and so need not train it
        again: ``{"threshold shifted": "original"}``.
    reference : str, optional
        What the differences of `summarize` are taken to; by default the mitigator ``"original"`` where there is one.
    random_states : sequence of int, default=(0,)
        One training a seed; the same seed means the same initial weights in every mitigator.
    n_bootstrap : int, default=1000
        Resamples of the test images, drawn within each cell; the same for every mitigator.
    confidence_level : float, default=0.95
        Of the intervals.
    n_jobs : int, optional
        Trainings side by side, through joblib: ``joblib.parallel_config`` chooses another backend, such as Dask's.
    checkpoint_dir : path, optional
        A folder to keep each training's predictions in as soon as they are there, and the states of those under way:
        each ``checkpoint_dir`` in a mitigator is set to it, see `ImageClassifier`. A comparison that was stopped,
        called again with the same mitigators, data and seeds, goes on with what is missing. What could not run is
        tried again. Labels are then to be numbers or strings.
    show_progress : bool, default=False
        A progress bar on stderr.

    Returns
    -------
    DataFrame
        As `summarize` gives it. A mitigator that could not run with any seed has a row of NaN.

    Warns
    -----
    RuntimeWarning
        For each training that could not run, with the reason: others are not stopped by it. `summarize` counts under
        ``seeds`` the trainings that a mitigator is averaged over.

    Raises
    ------
    TypeError, ValueError, OSError, MemoryError
        As `fit_mitigators` and `summarize`, or if the reference could not run.
    """
    # Before hours of training, not after them.
    _check_resampling(confidence_level, n_bootstrap)
    if reference is not None:
        _check_reference(reference, mitigators)
    predictions, trainings = fit_mitigators(
        mitigators,
        train,
        test,
        train_on=train_on,
        fit_params=fit_params,
        reuse=reuse,
        random_states=random_states,
        n_jobs=n_jobs,
        checkpoint_dir=checkpoint_dir,
        show_progress=show_progress,
    )
    for row in trainings[trainings["status"] != "done"].itertuples():
        told = f"{row.mitigator}, seed {row.seed}: {row.status}: {row.reason}"
        warnings.warn(told, RuntimeWarning, stacklevel=2)
    if reference is None and "original" in set(predictions["mitigator"]):
        reference = "original"
    table = summarize(
        predictions,
        aligned=alignment(train.y, train.confounder),
        reference=reference,
        n_bootstrap=n_bootstrap,
        confidence_level=confidence_level,
    )
    return table.reindex(pd.Index(mitigators, name="mitigator"))


def fit_mitigators(
    mitigators: Mapping[str, Any],
    train: Samples,
    test: Samples,
    *,
    train_on: Mapping[str, Samples] | None = None,
    fit_params: Mapping[str, Any] | None = None,
    reuse: Mapping[str, str] | None = None,
    random_states: Sequence[int] = (0,),
    n_jobs: int | None = None,
    checkpoint_dir: str | os.PathLike[str] | None = None,
    show_progress: bool = False,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Train each mitigator with each seed; parameters as in `compare_mitigators`.

    Returns
    -------
    predictions : DataFrame
        A row a mitigator, seed and test image: ``mitigator``, ``seed``, ``image`` (position), ``target``, ``group``,
        ``confounder``, ``predicted``, ``score`` (probability of the last class) and, with twins, ``flipped``: whether
        the prediction changes when only the confounder is toggled.
    trainings : DataFrame
        A row a mitigator and seed: ``status``, "done", "not applicable" or "failed", as where a training has diverged,
        and the ``reason`` of the latter two; ``chosen``, the scheme and quantile, where `AttributionNoiseMitigator` had
        a choice; ``seconds`` of fitting, and ``losses``, a list by epoch where the classifier keeps them.

    Raises
    ------
    ValueError
        If there is no mitigator, a name in `train_on` or `reuse` is none, one that is reused reuses another itself, or
        there is no seed, or one twice.
    TypeError
        If the data are no `Samples`, or labels are neither numbers nor strings and `checkpoint_dir` is given.
    NoneCouldRunError
        If no mitigator could run with any seed.
    OSError, MemoryError
        As of a full disk, or of memory that others use: no mitigator's failure, which would leave it with fewer seeds
        than the rest. What `checkpoint_dir` holds is kept, and the same call goes on from there.
    """
    train_on, fit_params, reuse = dict(train_on or {}), dict(fit_params or {}), dict(reuse or {})
    if not mitigators or {*train_on, *reuse, *reuse.values()} - set(mitigators):
        raise ValueError(f"mitigators must be given and include all of train_on and reuse, got {list(mitigators)}")
    if chained := set(reuse) & set(reuse.values()):
        raise ValueError(f"reuse must name mitigators that reuse no other, got {', '.join(sorted(chained))}")
    if len(random_states) == 0 or len(set(random_states)) < len(random_states):
        raise ValueError(f"random_states must be given, each once, got {random_states}")
    for name, samples in {"train": train, "test": test, **train_on}.items():
        if not isinstance(samples, Samples):
            raise TypeError(f"{name} must be Samples, got {type(samples).__name__}")
    chains = {
        name: {name: estimator, **{later: mitigators[later] for later, first in reuse.items() if first == name}}
        for name, estimator in mitigators.items()
        if name not in reuse
    }
    data = {name: (train_on.get(name, train), test, {} if name in train_on else fit_params) for name in chains}
    keep = checkpoint_dir is not None
    for name in ("y", "confounder", "groups") if keep else ():
        values = getattr(test, name).tolist()
        if odd := {type(value).__name__ for value in values if not isinstance(value, int | float | str)}:
            got = ", ".join(sorted(odd))
            raise TypeError(f"test.{name} must hold numbers or strings where checkpoint_dir is given, got {got}")
    # The images are hashed once, not in every job.
    shared = digest((train, test, fit_params)) if keep else None
    own = {name: digest((chains[name], train_on.get(name))) if keep else None for name in chains}
    kept = {
        (name, seed): Snapshots(checkpoint_dir, seed, lambda: (shared, own[name], seed))  # noqa: B023 called at once
        for seed in random_states
        for name in chains
    }
    jobs = [delayed(_fit_chain)(chains[name], *data[name], seed, state) for (name, seed), state in kept.items()]
    done = Parallel(n_jobs=n_jobs, return_as="generator")(jobs)
    try:
        found = list(progress_bar(done, total=len(jobs), desc="mitigators", unit="fit", disable=not show_progress))
    except BrokenProcessPool as error:
        raise ChildProcessError(f"the process of a training was killed, for lack of memory maybe: {error}") from error
    results = {(row["mitigator"], row["seed"]): (table, row) for chain in found for table, row in chain}
    ordered = [results[name, seed] for seed in random_states for name in mitigators]
    trainings = pd.DataFrame([row for _, row in ordered])
    tables = [table for table, _ in ordered if table is not None]
    if not tables:
        raise NoneCouldRunError(f"no mitigator could run; the first: {trainings['reason'].iloc[0]}")
    return pd.concat(tables, ignore_index=True), trainings


def _fit_chain(
    mitigators: Mapping[str, Any],
    train: Samples,
    test: Samples,
    fit_params: Mapping[str, Any],
    seed: int,
    kept: Snapshots,
) -> list[tuple[pd.DataFrame | None, dict[str, Any]]]:
    """Fit the first mitigator, and the others on top of it; what cannot run does not stop the rest, and is not kept."""
    results: list[tuple[pd.DataFrame | None, dict[str, Any]]] = kept.load() or []
    states = None if kept.path is None else kept.path.with_suffix("")
    if results and states is not None:
        shutil.rmtree(states, ignore_errors=True)  # a stop may have come between the result and this
        return results
    first = None
    for name, estimator in mitigators.items():
        try:
            fitted = clone(estimator)
            names = [*fitted.get_params()]
            fitted.set_params(**{name: seed for name in names if name.endswith("random_state")})
            if states is not None:
                fitted.set_params(**{name: states for name in names if name.endswith("checkpoint_dir")})
            if results:
                if first is None:
                    raise NotApplicableError(f"it builds on {next(iter(mitigators))!r}, which could not run")
                fitted.set_params(estimator=FrozenEstimator(first))
            results.append(_fit_and_predict(name, fitted, train, test, fit_params, seed))
            first = fitted if first is None else first
        except (OSError, MemoryError):
            raise
        # Whatever else a mitigator of the user's raises: hours of the others' training are not lost to it.
        except Exception as error:
            if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
                raise MemoryError(f"{name}, seed {seed}: {error}") from error
            # The latter is fairlearn's ValueError where a group lacks a class.
            failed = not isinstance(error, NotApplicableError) and "Degenerate labels" not in str(error)
            status = {
                "status": "failed" if failed else "not applicable",
                "reason": f"{type(error).__name__}: {error}" if failed else str(error),
                "chosen": "",
            }
            results.append((None, {"mitigator": name, "seed": seed, **status, "seconds": np.nan, "losses": []}))
    if states is not None and all(table is not None for table, _ in results):
        kept.save(lambda: results)
        shutil.rmtree(states, ignore_errors=True)
    return results


def _fit_and_predict(
    name: str, estimator: Any, train: Samples, test: Samples, fit_params: Mapping[str, Any], seed: int
) -> tuple[pd.DataFrame, dict[str, Any]]:
    accepted = inspect.signature(estimator.fit).parameters
    params = {key: value for key, value in fit_params.items() if key in accepted}
    # fairlearn's reductions take them as **kwargs.
    if "sensitive_features" in accepted or type(estimator).__module__.startswith("fairlearn.reductions"):
        params["sensitive_features"] = train.confounder
    start = time.perf_counter()
    estimator.fit(train.X, train.y, **params)
    seconds = time.perf_counter() - start
    predicted, score = _predict(estimator, test.X, test.confounder, seed)
    if not np.isfinite(score).all():
        raise FloatingPointError("it predicts probabilities that are not finite, its training has diverged")
    if test.y.dtype == bool:  # fairlearn's reductions predict it as 0 and 1
        predicted = predicted.astype(bool)
    table = pd.DataFrame(
        {
            "mitigator": name,
            "seed": seed,
            "image": np.arange(len(predicted)),
            "target": test.y,
            "group": test.groups,
            "confounder": test.confounder,
            "predicted": predicted,
            "score": score,
        }
    )
    if test.twins is not None:
        values = np.unique(test.confounder)
        toggled = np.where(test.confounder == values[0], values[-1], values[0])
        table["flipped"] = predicted != _predict(estimator, test.twins, toggled, seed)[0]
    history = getattr(getattr(estimator, "estimator_", estimator), "history_", None)
    losses = [] if history is None else [float(loss) for loss in history[:, "train_loss"]]
    done = {"status": "done", "reason": None, "chosen": _chosen(estimator)}
    return table, {"mitigator": name, "seed": seed, **done, "seconds": seconds, "losses": losses}


def _chosen(estimator: Any) -> str:
    """Return what `AttributionNoiseMitigator` has chosen, where there was a choice."""
    return f"{estimator.scheme_} {estimator.quantile_:g}" if hasattr(estimator, "selection_") else ""


def _predict(estimator: Any, X: ImageData, confounder: NDArray[Any], seed: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return labels and the probability of the last class; the confounder is told to who asks for it.

    Most find the labels by the probabilities: these are kept as they pass, and the images go through the network once.
    """
    known = {"sensitive_features": confounder, "random_state": seed}

    def told(method: Any) -> NDArray[Any]:
        accepted = inspect.signature(method).parameters
        return np.asarray(method(X, **{name: value for name, value in known.items() if name in accepted}))

    # fairlearn's ThresholdOptimizer hands both on.
    estimator = getattr(estimator, "interpolated_thresholder_", estimator)
    name = "predict_proba" if hasattr(estimator, "predict_proba") else "_pmf_predict"
    soft, kept, own = getattr(estimator, name), [], name in vars(estimator)

    @functools.wraps(soft)
    def keeping(images: Any, *args: Any, **kwargs: Any) -> Any:
        probability = soft(images, *args, **kwargs)
        if images is X:
            kept.append(probability)
        return probability

    setattr(estimator, name, keeping)
    try:
        predicted = told(estimator.predict)
    finally:
        setattr(estimator, name, soft) if own else delattr(estimator, name)
    return predicted, np.asarray(kept[-1] if kept else told(soft))[:, -1]


def alignment(target: ArrayLike, confounder: ArrayLike) -> dict[Any, Any]:
    """Return the confounder's value that goes along with each class of the training data, beyond its usual share."""
    shares = pd.crosstab(np.asarray(target), np.asarray(confounder), normalize="index")
    return dict((shares / shares.mean()).idxmax(axis=1))


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
    aligned : mapping of class to confounder value
        From `alignment` of the training data; decides the crossed cells.
    reference : str, optional
        The mitigator, or the original, that the others are compared with, image by image and seed by seed.
    n_bootstrap, confidence_level
        See `compare_mitigators`.
    random_state : int, NumPy generator or None, default=0
        Decides the resamples.

    Returns
    -------
    DataFrame
        A row a mitigator; columns (measure, statistic), where the statistic is ``mean`` and ``std`` over seeds (NaN
        with one seed), ``low`` and ``high``, the percentile bootstrap interval over test images of the mean over seeds,
        and ``seeds``, their number. With a `reference` also ``difference``, the mean minus that of the reference, over
        the seeds that both have (NaN if there are none), with its interval ``difference_low`` and ``difference_high``,
        over resamples that draw the same images for both.

    Raises
    ------
    ValueError
        If `confidence_level` or `n_bootstrap` is out of range, or there is no such reference.
    """
    _check_resampling(confidence_level, n_bootstrap)
    seed = draw_seed(random_state)
    tail = 100 * (1 - confidence_level) / 2
    by_name = dict(list(predictions.groupby("mitigator", sort=False)))
    if reference is not None:
        _check_reference(reference, by_name)
    points, resamples = {}, {}
    for name, of_mitigator in by_name.items():
        of_seeds = dict(list(of_mitigator.groupby("seed")))
        points[name] = pd.DataFrame([measure(part, aligned=aligned) for part in of_seeds.values()], list(of_seeds))
        resamples[name] = np.stack([_bootstrap(part, aligned, n_bootstrap, seed) for part in of_seeds.values()])
    rows = {}
    for name, point in points.items():
        low, high = np.nanpercentile(resamples[name].mean(0), [tail, 100 - tail], axis=0)
        statistics = {"mean": point.mean(), "std": point.std(), "low": low, "high": high, "seeds": float(len(point))}
        if reference is not None:
            other = points[reference]
            both = point.index.intersection(other.index)
            statistics |= dict.fromkeys(("difference", "difference_low", "difference_high"), np.nan)
            if len(both):
                # The same seed has drawn the same images for every mitigator.
                mine, its = (resamples[of][points[of].index.get_indexer(both)].mean(0) for of in (name, reference))
                statistics["difference"] = point.loc[both].mean() - other.loc[both].mean()
                statistics["difference_low"], statistics["difference_high"] = np.nanpercentile(
                    mine - its, [tail, 100 - tail], axis=0
                )
        rows[name] = pd.DataFrame(statistics, index=point.columns).stack()
    return pd.DataFrame(rows).T.rename_axis("mitigator").rename_axis(["measure", "statistic"], axis=1)


def _check_resampling(confidence_level: float, n_bootstrap: int) -> None:
    if not 0 < confidence_level < 1 or n_bootstrap < 1:
        raise ValueError(
            f"confidence_level must lie in (0, 1) and n_bootstrap be at least 1, got {confidence_level}, {n_bootstrap}"
        )


def _check_reference(reference: str, names: Collection[Any]) -> None:
    if reference not in names:
        raise ValueError(f"reference must be one of {', '.join(map(str, names))}, got {reference!r}")


def pareto_front(table: pd.DataFrame, less: str = "gap", more: str = "accuracy") -> pd.Series:
    """Return which mitigators no other beats: none has a gap no larger, an accuracy no lower, and one of them better.

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

    Examples
    --------
    >>> columns = pd.MultiIndex.from_product([["accuracy", "gap"], ["mean"]])
    >>> table = pd.DataFrame([[0.9, 0.3], [0.8, -0.1], [0.8, 0.2]], ["original", "mask", "noise"], columns)
    >>> pareto_front(table).to_dict()
    {'original': True, 'mask': True, 'noise': False}
    """
    if missing := {less, more} - set(table.columns.get_level_values(0)):
        raise ValueError(f"table must have the measures {less} and {more}, it lacks {', '.join(sorted(missing))}")
    cost = np.stack([table[less, "mean"].abs(), -table[more, "mean"]], axis=1).astype(float)
    no_worse, better = ((op(cost[None], cost[:, None])) for op in (np.less_equal, np.less))
    beaten = (no_worse.all(2) & better.any(2)).any(1)
    return pd.Series(~beaten & ~np.isnan(cost).any(1), index=table.index)


def metric_frame(predictions: pd.DataFrame) -> MetricFrame:
    """Return fairlearn's MetricFrame of accuracy and count by group and confounder, of one mitigator and seed."""
    return MetricFrame(
        metrics={"accuracy": accuracy_score, "count": count},
        y_true=predictions["target"],
        y_pred=predictions["predicted"],
        sensitive_features=predictions[["group", "confounder"]],
    )


def measure(predictions: pd.DataFrame, *, aligned: Mapping[Any, Any]) -> pd.Series:
    """Measure the predictions of one mitigator and seed.

    Returns
    -------
    Series
        ``accuracy``; ``accuracy[g]`` of each group; with two groups ``gap``, see `signed_gap`; ``worst_cell``, the
        least accuracy of a cell of group and confounder; ``confounder_gap``, the accuracy with minus without the
        confounder within each group, its absolute value averaged over groups; with two classes in training ``auc``, and
        ``crossed_auc``: among images whose confounder is not what goes along with their class in training. No
        threshold shift changes the last two. With twins, ``flip_rate``: the share of predictions that change when
        only the confounder is toggled.
    """
    cells = metric_frame(predictions).by_group.dropna()
    values = _from_cells(cells.index, cells["count"].to_numpy(), cells["accuracy"].to_numpy(dtype=float))
    score = predictions["score"].to_numpy()
    for name, chosen in _auc_subsets(predictions, aligned).items():
        values[name] = _auc(score[chosen], _is_last_class(predictions)[chosen])
    if "flipped" in predictions:
        values["flip_rate"] = predictions["flipped"].mean()
    return pd.Series({name: float(value) for name, value in values.items()})


def _bootstrap(
    predictions: pd.DataFrame, aligned: Mapping[Any, Any], n_bootstrap: int, seed: int
) -> NDArray[np.float64]:
    """Return n_bootstrap x measures, in the order of `measure`, of resamples that keep each image's cell."""
    strata = predictions.groupby(["target", "group", "confounder"]).indices
    generator = np.random.default_rng(seed)
    index = np.empty((n_bootstrap, len(predictions)), np.intp)
    # Each place is filled from its own cell, so what an image is stays as it was and only its outcome changes.
    for members in strata.values():
        index[:, members] = generator.choice(members, (n_bootstrap, len(members)))
    right = (predictions["predicted"] == predictions["target"]).to_numpy()[index]
    cells: dict[Any, Any] = dict(predictions.groupby(["group", "confounder"]).indices)
    accuracy = np.stack([right[:, members].mean(1) for members in cells.values()], axis=-1)
    sizes = np.array([len(members) for members in cells.values()])
    values = _from_cells(pd.MultiIndex.from_tuples(list(cells)), sizes, accuracy)
    score = predictions["score"].to_numpy()[index]
    for name, chosen in _auc_subsets(predictions, aligned).items():
        values[name] = _auc(score[:, chosen], _is_last_class(predictions)[chosen])
    if "flipped" in predictions:
        values["flip_rate"] = predictions["flipped"].to_numpy()[index].mean(1)
    return np.stack(list(values.values()), axis=-1)


def _from_cells(cells: pd.MultiIndex, sizes: NDArray[Any], accuracy: NDArray[np.float64]) -> dict[str, Any]:
    """Return the measures that follow from the accuracies of the cells, the last axis of `accuracy`."""
    sizes = sizes.astype(float)
    group, confounder = (cells.get_level_values(level) for level in (0, 1))
    values = {"accuracy": accuracy @ sizes / sizes.sum()}
    by_group = {}
    for name in sorted(set(group)):
        of_group = np.asarray(group == name)
        by_group[name] = accuracy[..., of_group] @ sizes[of_group] / sizes[of_group].sum()
        values[f"accuracy[{name}]"] = by_group[name]
    if len(by_group) == 2:
        first, second = by_group.values()
        values["gap"] = first - second
    values["worst_cell"] = accuracy.min(-1)
    with_minus_without = []
    for name in by_group:
        # Of a confounder with more than two values: the largest difference between any.
        of_group = accuracy[..., np.asarray(group == name)]
        with_minus_without.append(of_group.max(-1) - of_group.min(-1))
    if len(set(confounder)) > 1:
        values["confounder_gap"] = np.mean(with_minus_without, axis=0)
    return values


def _is_last_class(predictions: pd.DataFrame) -> NDArray[np.bool_]:
    is_last: NDArray[np.bool_] = (predictions["target"] == predictions["target"].max()).to_numpy()
    return is_last


def _auc_subsets(predictions: pd.DataFrame, aligned: Mapping[Any, Any]) -> dict[str, NDArray[np.bool_]]:
    if len(aligned) != 2:  # scores are of the last of the training classes, whatever two the test images show
        return {}
    crossed = (predictions["confounder"] != predictions["target"].map(aligned)).to_numpy()
    subsets = {"auc": np.ones(len(predictions), bool), "crossed_auc": crossed}
    return {name: chosen for name, chosen in subsets.items() if predictions["target"][chosen].nunique() == 2}


def _auc(score: NDArray[np.float64], positive: NDArray[np.bool_]) -> Any:
    """Return the area under the ROC along the last axis, for any number of resamples at once (Mann-Whitney's U)."""
    n_positive = int(positive.sum())
    ranks = rankdata(score, axis=-1)[..., positive].sum(-1)
    return (ranks - n_positive * (n_positive + 1) / 2) / (n_positive * (len(positive) - n_positive))

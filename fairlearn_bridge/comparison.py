"""compare_mitigators: the same data, seeds and measures for every mitigator, in one table with intervals."""

import inspect
import operator
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator

from captum_region.batches import ImageData
from captum_region.io.digest import digest, digest_of
from captum_region.io.files import remove_states
from captum_region.io.snapshot import Snapshots, table_of
from captum_region.progress import progress_bar
from fairlearn_bridge.baselines import NotApplicableError
from fairlearn_bridge.deployment.folder import WEIGHTS, save_mitigator
from fairlearn_bridge.metrics import alignment, check_summary, summarize
from fairlearn_bridge.samples import Samples, check_samples
from fairlearn_bridge.validation import class_positions


class NoneCouldRunError(RuntimeError, ValueError):
    """No mitigator could run with any seed; a ValueError too, since data or parameters that suit none are the cause."""


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
        Classifiers and fairlearn-style mitigators, cloned. Each gets what its ``fit`` accepts: ``X`` and ``y``,
        ``sensitive_features`` (the spurious attribute), and members of `fit_params` by name. fairlearn's own
        ExponentiatedGradient and ThresholdOptimizer work too. A mitigator that accepts ``sensitive_features`` in
        prediction, such as the latter, also gets the spurious attribute of the test images; the others do not.
    train, test : Samples
        The training data, and the test data with the groups to report by.
    train_on : mapping of name to Samples, optional
        Other training data for some mitigators, such as a balanced set; `fit_params` are not given with them.
    fit_params : mapping, optional
        Further arguments of ``fit``, such as ``region_maps`` or ``validation``.
    reuse : mapping of name to name, optional
        Mitigators that get the fitted classifier of another as their ``estimator``, frozen, instead of training it
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
        Trainings at a time, through joblib: ``joblib.parallel_config`` chooses another backend, such as Dask's. The
        results are the same with each; only processes save time, since trainings in threads of one process take turns.
    checkpoint_dir : path, optional
        A folder for each training's predictions, written as soon as they are there, and for the states of unfinished
        trainings: each ``checkpoint_dir`` in a mitigator is set to it, see `ImageClassifier`. An interrupted
        comparison, called again with the same mitigators, data and seeds, trains only what is missing. If the code of
        your own mitigators or the version of a package has changed, they are trained again; so are those that failed.
        Labels must then be numbers or strings.
    show_progress : bool, default=False
        A progress bar on stderr.

    Returns
    -------
    DataFrame
        As `summarize` gives it. A mitigator that could not run with any seed has a row of NaN.

    Warns
    -----
    RuntimeWarning
        For each training that could not run, with the reason; the others still run. `summarize` counts under
        ``seeds`` the trainings that a mitigator is averaged over.

    Raises
    ------
    TypeError, ValueError, OSError, MemoryError
        As `fit_mitigators` and `summarize`, or if the reference could not run.

    See Also
    --------
    fit_mitigators : The trainings alone.
    summarize : The measures alone.
    pareto_front : Which mitigators no other beats.
    """
    # Before hours of training, not after them.
    check_summary(mitigators, reference, n_bootstrap, confidence_level)
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
        message = f"{row.mitigator}, seed {row.seed}: {row.status}: {row.reason}"
        warnings.warn(message, RuntimeWarning, stacklevel=2)
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
    models: Mapping[str, str | os.PathLike[str]] | None = None,
    show_progress: bool = False,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Train each mitigator with each seed.

    Parameters
    ----------
    mitigators, train, test, train_on, fit_params, reuse, random_states, n_jobs, checkpoint_dir, show_progress
        As in `compare_mitigators`.
    models : mapping of name to path, optional
        Mitigators that `save_mitigator` writes into folders when they are fitted, where there is one seed.

    Returns
    -------
    predictions : DataFrame
        A row a mitigator, seed and test image: ``mitigator``, ``seed``, ``image`` (position), ``target``, ``group``,
        ``confounder``, ``predicted``, ``score`` (probability of the last class) and, with counterfactuals, ``flipped``:
        whether the prediction changes when only the spurious attribute is toggled.
    trainings : DataFrame
        A row a mitigator and seed: ``status``, "done", "not applicable" or "failed", as where a training has diverged,
        and the ``reason`` of the latter two; ``chosen``, the scheme and quantile, where `AttributionNoiseMitigator` had
        a choice; ``seconds`` of fitting, ``losses``, a list by epoch where the classifier keeps them, and ``git``, the
        commit of this package that made it, also where it was read from `checkpoint_dir`; and ``model``, a digest of
        the weights, of those in `models`.

    Raises
    ------
    ValueError
        If there is no mitigator, a name in `train_on`, `reuse` or `models` is not a mitigator's, one that is reused
        reuses another itself, one that reuses another has other training data, none takes a member of `fit_params`,
        there is no seed, or one twice, or several with `models`; if `test` has a class that `train` has not, or no
        value of its spurious attribute.
    TypeError
        If the data are not `Samples`, or labels are neither numbers nor strings where `checkpoint_dir` is given.
    NoneCouldRunError
        If no mitigator could run with any seed.
    OSError, MemoryError
        For example a full disk, or too little memory. They are no mitigator's failure, which would leave it with fewer
        seeds than the rest. What `checkpoint_dir` holds is kept, and the same call resumes from there.

    See Also
    --------
    compare_mitigators : Measures the predictions too.
    """
    if not isinstance(mitigators, Mapping):
        raise TypeError(f"mitigators must be a mapping of names to estimators, got {type(mitigators).__name__}")
    try:
        random_states = [operator.index(seed) for seed in random_states]
    except TypeError as error:
        raise TypeError(f"random_states must be integers, got {random_states!r}") from error
    train_on, fit_params, reuse = dict(train_on or {}), dict(fit_params or {}), dict(reuse or {})
    places = {name: Path(folder) for name, folder in (models or {}).items()}
    _check_names(mitigators, train_on, fit_params, reuse, places, random_states)
    check_samples(train, test, train_on)
    chains = {
        name: {name: estimator, **{later: mitigators[later] for later, first in reuse.items() if first == name}}
        for name, estimator in mitigators.items()
        if name not in reuse
    }
    data = {name: (train_on.get(name, train), test, {} if name in train_on else fit_params) for name in chains}
    keep = checkpoint_dir is not None
    for name in ("y", "confounder", "groups") if keep else ():
        odd = [value for value in getattr(test, name).tolist() if not isinstance(value, int | float | str)]
        if odd:
            got = type(odd[0]).__name__
            raise TypeError(f"test.{name} must hold numbers or strings where checkpoint_dir is given, got {got}")
    # The images are hashed once, not in every job.
    shared = digest((train, test, fit_params)) if keep else None
    own = {name: digest((chains[name], train_on.get(name))) if keep else None for name in chains}
    kept = {
        (name, seed): Snapshots(checkpoint_dir, seed, lambda: (shared, own[name], seed))  # noqa: B023 called at once
        for seed in random_states
        for name in chains
    }
    jobs = [delayed(_fit_chain)(chains[name], *data[name], seed, state, places) for (name, seed), state in kept.items()]
    done = Parallel(n_jobs=n_jobs, return_as="generator")(jobs)
    try:
        found = list(progress_bar(done, total=len(jobs), desc="mitigators", unit="fit", disable=not show_progress))
    except BrokenProcessPool as error:
        raise ChildProcessError(f"the process of a training was killed, perhaps for lack of memory: {error}") from error
    results = {(row["mitigator"], row["seed"]): (table, row) for chain in found for table, row in chain}
    ordered = [results[name, seed] for seed in random_states for name in mitigators]
    trainings = pd.DataFrame([row for _, row in ordered])
    tables = [table for table, _ in ordered if table is not None]
    if not tables:
        raise NoneCouldRunError(f"no mitigator could run; the first: {trainings['reason'].iloc[0]}")
    return pd.concat(tables, ignore_index=True), trainings


def _check_names(
    mitigators: Mapping[str, Any],
    train_on: Mapping[str, Samples],
    fit_params: Mapping[str, Any],
    reuse: Mapping[str, str],
    places: Mapping[str, Path],
    random_states: Sequence[int],
) -> None:
    """Raise ValueError if an argument of `fit_mitigators` names what there is not, or would have no effect."""
    if not mitigators or {*train_on, *reuse, *reuse.values(), *places} - set(mitigators):
        named = "train_on, reuse and models"
        raise ValueError(f"mitigators must be given and include all of {named}, got {list(mitigators)}")
    if odd := [name for name, estimator in mitigators.items() if not callable(getattr(estimator, "fit", None))]:
        raise TypeError(f"mitigators must be estimators with a fit, got {mitigators[odd[0]]!r} as {odd[0]}")
    if chained := set(reuse) & set(reuse.values()):
        raise ValueError(f"reuse must name mitigators that reuse no other, got {', '.join(sorted(chained))}")
    if untrained := set(reuse) & set(train_on):
        raise ValueError(f"train_on must be of mitigators that reuse no other, got {', '.join(sorted(untrained))}")
    if len(random_states) == 0 or len(set(random_states)) < len(random_states):
        raise ValueError(f"random_states must be given, each once, got {random_states}")
    if places and len(random_states) > 1:
        raise ValueError(f"random_states must be one where models are saved, got {random_states}")
    accepted = {name for estimator in mitigators.values() for name in inspect.signature(estimator.fit).parameters}
    if unknown := set(fit_params) - accepted:
        raise ValueError(f"fit_params must be accepted by a mitigator's fit, none takes {', '.join(sorted(unknown))}")


def _fit_chain(
    mitigators: Mapping[str, Any],
    train: Samples,
    test: Samples,
    fit_params: Mapping[str, Any],
    seed: int,
    kept: Snapshots,
    places: Mapping[str, Path],
) -> list[tuple[pd.DataFrame | None, dict[str, Any]]]:
    """Fit the first mitigator, and the others on top of it; one that fails does not stop the rest, and is not kept."""
    results: list[tuple[pd.DataFrame | None, dict[str, Any]]] = []
    first = None
    # Set in whatever has them: the mitigator, and the classifier in it.
    settings: dict[str, Any] = {"random_state": seed}
    if kept.path is not None:
        settings["checkpoint_dir"] = states = kept.path.with_suffix("")
        found = kept.load()
        with kept.restoring():
            results = [(table_of(table), row | {"git": kept.git}) for table, row in found or []]
            # A folder may have got the model of another training since.
            models = {name: row.get("model") for _, row in results if (name := row["mitigator"]) in places}
        if results and all(model and model == _model_in(places[name]) for name, model in models.items()):
            remove_states(states)  # a stop may have come between the result and this
            return results
        results = []
    for name, estimator in mitigators.items():
        row = {"mitigator": name, "seed": seed, "status": "done", "reason": None, "chosen": "", "seconds": np.nan}
        row |= {"losses": [], "git": kept.git}
        table = None
        try:
            fitted = clone(estimator)
            params = fitted.get_params()
            fitted.set_params(**{key: settings[end] for key in params for end in settings if key.endswith(end)})
            if results:
                if first is None:
                    raise NotApplicableError(f"it builds on {next(iter(mitigators))!r}, which could not run")
                fitted.set_params(estimator=FrozenEstimator(first))
            table, trained = _fit_and_predict(name, fitted, train, test, fit_params, seed)
            row |= trained
            if name in places:
                save_mitigator(fitted, places[name])
                row["model"] = _model_in(places[name])
            first = fitted if first is None else first
        except (OSError, MemoryError):
            raise
        # Whatever else a user's mitigator raises must not cost the hours that the others have trained.
        except Exception as error:
            if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
                raise MemoryError(f"{name}, seed {seed}: {error}") from error
            # fairlearn's ValueErrors where a group has no image of a class, or there are more than two classes.
            unfit = ("Degenerate labels", "labels are not 0 or 1")
            if isinstance(error, NotApplicableError) or any(words in str(error) for words in unfit):
                row |= {"status": "not applicable", "reason": str(error)}
            else:
                row |= {"status": "failed", "reason": f"{type(error).__name__}: {error}"}
        results.append((table, row))
    if kept.path is not None and all(table is not None for table, _ in results):
        kept.save(lambda: results)
        remove_states(states)
    return results


def _model_in(folder: Path) -> str | None:
    """Return a digest of the weights of the model in a folder, if it has one."""
    weights = folder / WEIGHTS
    return digest_of([weights.read_bytes()]) if weights.exists() else None


def _fit_and_predict(
    name: str, estimator: Any, train: Samples, test: Samples, fit_params: Mapping[str, Any], seed: int
) -> tuple[pd.DataFrame, dict[str, Any]]:
    accepted = inspect.signature(estimator.fit).parameters
    params = {key: value for key, value in fit_params.items() if key in accepted}
    # fairlearn's reductions take them as **kwargs.
    if "sensitive_features" in accepted or type(estimator).__module__.startswith("fairlearn.reductions"):
        params["sensitive_features"] = train.confounder
    if not any(hasattr(estimator, way) for way in ("predict_proba", "_pmf_predict")):  # fairlearn's have the latter
        raise TypeError(f"{type(estimator).__name__} has no predict_proba, which the AUC is computed from")
    y, names = train.y, np.unique(train.y)
    if is_coded := type(estimator).__module__.startswith("fairlearn.") and len(names) == 2:
        y = (train.y == names[1]).astype(int)  # fairlearn's take 0 and 1 alone
    start = time.perf_counter()
    estimator.fit(train.X, y, **params)
    seconds = time.perf_counter() - start
    predicted, probability = _predict(estimator, test.X, test.confounder, seed)
    classes = getattr(estimator, "classes_", None)  # in an order of their own, as skorch allows
    score = probability[:, -1 if classes is None else int(class_positions(estimator, np.unique(y)[-1:])[0])]
    if not np.isfinite(score).all():
        raise FloatingPointError("it predicts probabilities that are not finite, its training has diverged")
    coded, predicted = predicted, names[predicted.astype(int)] if is_coded else predicted
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
        table["flipped"] = coded != _predict(estimator, test.twins, toggled, seed)[0]
    trained = estimator
    while (within := vars(trained).get("estimator_")) is not None:
        trained = within
    # Of a classifier that was trained before, the history is not this training's.
    history = None if isinstance(trained, FrozenEstimator) else getattr(trained, "history_", None)
    losses = [] if history is None else [float(loss) for loss in history[:, "train_loss"]]
    # What `AttributionNoiseMitigator` has chosen, where there was a choice.
    chosen = f"{estimator.scheme_} {estimator.quantile_:g}" if hasattr(estimator, "selection_") else ""
    return table, {"chosen": chosen, "seconds": seconds, "losses": losses}


def _predict(estimator: Any, X: ImageData, confounder: NDArray[Any], seed: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return labels and the probability of each class; methods that take sensitive features get `confounder`.

    Most find the labels by the probabilities, which are therefore computed first and then handed to them: the images
    go through the network once.
    """
    known = {"sensitive_features": confounder, "random_state": seed}

    def call(method: Any) -> Any:
        accepted = inspect.signature(method).parameters
        return method(X, **{name: value for name, value in known.items() if name in accepted})

    # fairlearn's ThresholdOptimizer leaves both to it.
    estimator = getattr(estimator, "interpolated_thresholder_", estimator)
    name = "predict_proba" if hasattr(estimator, "predict_proba") else "_pmf_predict"
    soft, own = getattr(estimator, name), name in vars(estimator)
    probability = call(soft)

    def remembered(images: Any, *args: Any, **kwargs: Any) -> Any:
        return probability if images is X else soft(images, *args, **kwargs)

    setattr(estimator, name, remembered)
    try:
        return np.asarray(call(estimator.predict)), np.asarray(probability)
    finally:
        setattr(estimator, name, soft) if own else delattr(estimator, name)

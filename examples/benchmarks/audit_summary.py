"""What the study of audits found, all seeds together: biases, their comparisons, and shares of retraining."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from captum_region.intervals import extreme_interval, percentile_interval
from captum_region.io.provenance import provenance
from fairlearn_bridge.audit import statistics
from fairlearn_bridge.samples import groups_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from audit_study import Study, StudyConfig
    from numpy.typing import NDArray

    from captum_region.datasets import AttributeImages
    from fairlearn_bridge.audit import DegradationAudit

# What is audited besides the degradations whose shares are asked for: images as they are.
CONTROL = "control"
SHARES = ("unrecoverable", "recoverable")
_AGES = {"under 20": (0, 20), "20 to 39": (20, 40), "40 and over": (40, 200)}


def by_case(study: Study, groups: NDArray[Any], config: StudyConfig) -> pd.DataFrame:
    """Return a row for each degradation, all seeds together: of each image the mean over the classifiers is drawn.

    Parameters
    ----------
    study : Study
    groups : ndarray of shape (N,)
    config : StudyConfig

    Returns
    -------
    DataFrame, indexed by name
        ``bpp``, ``psnr``, ``frechet``, ``accuracy``, ``drop``; ``psnr_range`` over groups; ``psnr_auc``, how well a low
        PSNR tells which decisions are lost, 0.5 if not at all; ``bias`` with its bootstrap interval, ``bias_sd`` of the
        seeds, ``p`` of a permutation of the groups and ``p_holm``; ``worst`` and ``best`` group, and ``lowest_psnr``;
        ``drop of G`` and ``psnr of G`` of each group; ``others``, the mean drop of all groups but the majority minus
        the majority's, with its interval.
    """
    names, codes = np.unique(groups.astype(str), return_inverse=True)
    cases = names_of(study.audits)
    drops = np.stack([_drops(found, cases) for found in study.audits])
    of_group = np.stack([drops[:, codes == code].mean(1) for code in range(len(names))], axis=1)  # seeds, groups, cases
    by_seed = statistics.spread(of_group, axis=1)
    means, values = of_group.mean(0), drops.mean(0)
    drawn = statistics.bootstrap_means(values, codes, config.draws, np.random.default_rng(0))
    p = statistics.equal_means_p(values, codes, config.draws, np.random.default_rng(1))
    bias = statistics.spread(means, axis=0)
    low, high = extreme_interval(bias, statistics.spread(drawn, axis=1))
    low = low.clip(min=0)
    corrected = statistics.holm(p)
    rows = {}
    tables = [found.table() for found in study.audits]
    for case, name in enumerate(cases):
        of_images = np.mean([found.outcomes[name].psnr for found in study.audits], axis=0)
        psnr = [of_images[codes == code].mean() for code in range(len(names))]
        row = _qualities(study, tables, name)
        row |= {"drop": values[:, case].mean(), "psnr_range": np.ptp(psnr), "bias": bias[case]}
        row |= {"bias_low": low[case], "bias_high": high[case], "p": p[case], "p_holm": corrected[case]}
        row["bias_sd"] = by_seed[:, case].std(ddof=1) if len(by_seed) > 1 else np.nan
        row |= {"worst": names[means[:, case].argmax()], "best": names[means[:, case].argmin()]}
        row["lowest_psnr"] = names[np.argmin(psnr)] if np.isfinite(psnr).all() else None
        row |= {f"drop of {group}": means[code, case] for code, group in enumerate(names)}
        row |= {f"psnr of {group}": psnr[code] for code, group in enumerate(names)}
        if config.majority in names:
            weights = np.where(names == config.majority, -1.0, 1 / (len(names) - 1))
            ends = percentile_interval(drawn[:, :, case] @ weights)
            row |= dict(zip(("others", "others_low", "others_high"), (means[:, case] @ weights, *ends), strict=True))
        rows[name] = row
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("name")


def compared(study: Study, groups: NDArray[Any], config: StudyConfig) -> pd.DataFrame:
    """Return how much larger the bias of one degradation is than that of another, all seeds together.

    Of codecs that learnt from unbalanced and from balanced images at one rate, and of JPEG with and without chroma
    subsampling. ``p`` is of a permutation of the groups, of what the first takes more than the second, see
    `DegradationAudit.compare`.
    """
    names = names_of(study.audits)
    pairs = []
    for name in names:
        for first, second in (("unbalanced", "balanced"), ("4:2:0", "4:4:4")):
            other = name.replace(first, second) if f" {first}" in name else name
            if other != name and other in names:
                pairs.append((name, other))
    _, codes = np.unique(groups.astype(str), return_inverse=True)
    values = np.mean([_drops(found, names) for found in study.audits], axis=0)
    drawn = statistics.bootstrap_means(values, codes, config.draws, np.random.default_rng(0))
    biases = statistics.spread(drawn, axis=1)
    rows = []
    for pair in pairs:
        columns = [names.index(name) for name in pair]
        both = values[:, columns]
        means = np.stack([both[codes == code].mean(0) for code in range(codes.max() + 1)])
        first, second = statistics.spread(means, axis=0)
        more = both[:, :1] - both[:, 1:]
        p = statistics.equal_means_p(more, codes, config.draws, np.random.default_rng(2))
        low, high = extreme_interval(first - second, biases[:, columns[0]] - biases[:, columns[1]])
        row = {"first": pair[0], "second": pair[1], "difference": first - second, "low": low, "high": high}
        rows.append(row | {"p": float(p[0])})
    table = pd.DataFrame(rows)
    return table.assign(p_holm=statistics.holm(table["p"])) if rows else table


def shares(study: Study, groups: NDArray[Any], config: StudyConfig) -> pd.DataFrame:
    """Return what retraining on degraded images wins back of the drop, and of the bias, all seeds together.

    As in `by_case`, of each image the mean over the classifiers is drawn. The *contrast* of a share is that of the
    group with the largest drop minus that of the group with the smallest: the contrasts of both shares sum to the bias.
    Which groups these are is found anew in each draw, as for the bias: the interval holds that uncertainty too.

    The control, a classifier that is trained anew on the originals, loses and wins some images as well. The *net*
    shares are relative to it: unrecoverable is what a classifier trained on degraded images loses more than the
    control, and recoverable what it wins more. They sum to the drop too.

    Parameters
    ----------
    study : Study
    groups : ndarray of shape (N,)
    config : StudyConfig

    Returns
    -------
    DataFrame, indexed by name
        ``drop``; ``unrecoverable``, ``recoverable``, ``net_unrecoverable`` and ``net_recoverable``, of all images, with
        intervals; ``bias``, ``worst`` and ``best`` group; of each share its ``..._contrast`` with an interval,
        ``..._p`` of a permutation of the groups, one-sided and studentised, and ``..._p_holm``, corrected for both
        shares of all rows; ``... of G`` of each group. The control has no contrasts: its drop is 0 in all groups.
    """
    names, codes = np.unique(groups.astype(str), return_inverse=True)
    cases = names_of(study.retrained)
    parts = np.mean([_shares(found, cases) for found in study.retrained], axis=0)  # images, cases, drop and shares
    again = parts[:, [cases.index(CONTROL)], 2]
    values = np.concatenate([parts, (parts[..., 1] + again)[..., None], (parts[..., 2] - again)[..., None]], axis=2)
    measures = [*SHARES, *(f"net_{share}" for share in SHARES)]
    rows = values.reshape(len(codes), -1)
    shape = (-1, len(names), *values.shape[1:])
    means = np.stack([rows[codes == code].mean(0) for code in range(len(names))]).reshape(shape)
    drawn = statistics.bootstrap_means(rows, codes, config.draws, np.random.default_rng(0)).reshape(shape)
    p = _contrasts_p(rows, codes, values.shape[1:], config.draws, np.random.default_rng(1))
    weights = np.bincount(codes) / len(codes)
    ends = percentile_interval(np.einsum("dgcm,g->dcm", drawn, weights))
    contrast, contrast_ends = _contrasts(means)[0], percentile_interval(_contrasts(drawn))
    tested = [case for case, name in enumerate(cases) if name != CONTROL]
    corrected = np.ones_like(p)
    for both in ([1, 2], [3, 4]):
        corrected[np.ix_(tested, both)] = statistics.holm(p[np.ix_(tested, both)].ravel()).reshape(-1, 2)
    found = {}
    for case, name in enumerate(cases):
        drops = means[0, :, case, 0]
        row: dict[str, Any] = {"drop": values[:, case, 0].mean(), "bias": np.ptp(drops)}
        row |= {"worst": names[drops.argmax()], "best": names[drops.argmin()]} if case in tested else {}
        for number, measure in enumerate(measures, 1):
            row |= {measure: values[:, case, number].mean()}
            row |= dict(zip((f"{measure}_low", f"{measure}_high"), (end[case, number] for end in ends), strict=True))
            row |= {f"{measure} of {group}": means[0, code, case, number] for code, group in enumerate(names)}
            if case in tested:
                low, high = (end[case, number] for end in contrast_ends)
                row |= {f"{measure}_contrast": contrast[case, number], f"{measure}_contrast_low": low}
                row |= {f"{measure}_contrast_high": high, f"{measure}_p": p[case, number]}
                row[f"{measure}_p_holm"] = corrected[case, number]
        found[name] = row
    return pd.DataFrame.from_dict(found, orient="index").rename_axis("name")


def _contrasts(means: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the group with the largest drop minus that with the smallest: draws x groups x cases x (drop, shares)."""
    worst, best = _at_ends(means, means)
    return worst - best


def _at_ends(means: NDArray[np.float64], values: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Return the values of the group with the largest drop, and of that with the smallest."""
    places = means[..., 0].argmax(1), means[..., 0].argmin(1)
    return [np.take_along_axis(values, at[:, None, :, None], axis=1)[:, 0] for at in places]


def _contrasts_p(
    rows: NDArray[np.float64],
    codes: NDArray[np.intp],
    shape: tuple[int, ...],
    draws: int,
    generator: np.random.Generator,
) -> NDArray[np.float64]:
    """Return p of the contrasts, cases x (drop, shares), by their standard errors: a small group varies more."""
    sizes = np.bincount(codes).astype(float)[:, None]
    moments = np.concatenate([rows, rows**2], axis=1)

    def statistic(both: NDArray[np.float64]) -> NDArray[np.float64]:
        means, squares = np.split(both, 2, axis=-1)
        errors = statistics.shrunk_variances(means, squares, sizes, rows.var(0)) / sizes
        means, errors = (each.reshape(-1, len(sizes), *shape) for each in (means, errors))
        error = np.sqrt(sum(_at_ends(means, errors)))
        found: NDArray[np.float64] = _contrasts(means) / np.where(error > 0, error, 1)
        return found.reshape(len(found), -1)

    observed = np.stack([moments[codes == code].mean(0) for code in range(len(sizes))])
    null = statistics.permuted_means(moments, codes, draws, generator)
    return statistics.p_values(statistic(observed[None])[0], statistic(null)).reshape(shape)


def names_of(audits: Sequence[DegradationAudit]) -> list[str]:
    """Return the degradations that all seeds have: a rate may be reached in some only."""
    return [name for name in audits[0].names if all(name in found.names for found in audits)]


def _drops(found: DegradationAudit, names: list[str]) -> NDArray[np.float64]:
    """Return what each image loses in each case, N x cases: 1 if its decision was right and no longer is."""
    was_right = found.classes[found.original.predicted] == found.target
    is_right = [found.classes[found.outcomes[name].predicted] == found.target for name in names]
    drops: NDArray[np.float64] = was_right[:, None].astype(float) - np.stack(is_right, axis=1)
    return drops


def _shares(found: DegradationAudit, names: list[str]) -> NDArray[np.float64]:
    """Return drop, unrecoverable and recoverable share of each image in each case, N x cases x 3."""
    was_right = (found.classes[found.original.predicted] == found.target)[:, None].astype(float)
    again: Any = [found.classes[found.outcomes[name].retrained] == found.target for name in names]
    drops, unrecoverable = _drops(found, names), was_right - np.stack(again, axis=1)
    return np.stack([drops, unrecoverable, drops - unrecoverable], axis=2)


def _qualities(study: Study, tables: list[Any], name: str) -> dict[str, Any]:
    """Return the rate and the quality of all images, the mean over seeds."""
    rows = []
    for found, table in zip(study.audits, tables, strict=True):
        row = table.loc[name]
        outcome = found.outcomes[name]
        kept = found.classes[found.original.predicted] == found.target
        lost = found.classes[outcome.predicted][kept] != found.target[kept]
        auc = np.nan
        if 0 < lost.sum() < len(lost) and np.isfinite(outcome.psnr).all():
            auc = roc_auc_score(lost, -outcome.psnr[kept])
        measures = ("bpp", "psnr", "frechet", "accuracy", "flips")
        rows.append({key: row.get(key, np.nan) for key in measures} | {"psnr_auc": auc})
    return {str(key): value for key, value in pd.DataFrame(rows).astype(float).mean().items()}


def groupings(test: AttributeImages, names: Sequence[str]) -> Mapping[str, NDArray[Any]]:
    """Return the group of each image by each attribute, and by ``age_band`` where ages are known."""
    found: dict[str, NDArray[Any]] = {name: groups_of(test, (name,)) for name in names}
    if "age" in test.attributes:
        ages = test.attributes["age"].to_numpy(float)
        bands = [(ages >= low) & (ages < high) for low, high in _AGES.values()]
        found["age_band"] = np.select(bands, [*_AGES], "")
    return found


def results_of(study: Study, config: StudyConfig, train: AttributeImages, test: AttributeImages) -> dict[str, Any]:
    """Return what was found, as JSON holds it."""
    right = [found.classes[found.original.predicted] == found.target for found in study.audits]
    found: dict[str, Any] = {}
    for name, groups in groupings(test, config.groups).items():
        by_group = pd.Series(np.mean(right, axis=0)).groupby(groups)
        found[name] = {
            "n": by_group.size().to_dict(),
            "accuracy": by_group.mean().to_dict(),
            "degradations": _records(by_case(study, groups, config).reset_index()),
            "comparisons": _records(compared(study, groups, config)),
            "shares": _records(shares(study, groups, config).reset_index()) if study.retrained else [],
        }
    _correct_together([found[name]["degradations"] for name in list(found)[1:]])
    return {
        **provenance(),
        "config": asdict(config),
        "images": {"train": len(train), "test": len(test), "size": list(test.image_size)},
        "accuracy": [float(each.mean()) for each in right],
        "rates": study.rates,
        "groupings": found,
    }


def _correct_together(tables: list[list[dict[str, Any]]]) -> None:
    """Correct p of all rows of the further groupings together: with many groupings one would look biased."""
    rows = [row for table in tables for row in table]
    for row, corrected in zip(rows, statistics.holm([row["p"] for row in rows]).tolist(), strict=True):
        row["p_holm"] = corrected


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return list(json.loads(table.to_json(orient="records", double_precision=15)))

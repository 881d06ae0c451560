"""DegradationAudit: the result of an audit, as tables, comparisons and plots."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from fairlearn.metrics import MetricFrame, count
from sklearn.metrics import accuracy_score

from captum_region.intervals import extreme_interval, percentile_interval
from captum_region.validation import check_count
from fairlearn_bridge.audit import statistics

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from fairlearn_bridge.audit.degradations import Case
    from fairlearn_bridge.audit.inputs import Audited

# What is tested: columns of values, in the order in which they are drawn.
MEASURES = ("drop", "loss_increase")
SHARES = ("unrecoverable", "recoverable")


@dataclass
class Outcome:
    """What became of the images, one value each, in one case; NaN where it is not defined.

    Attributes
    ----------
    predicted : ndarray of int
        Positions in the classes.
    loss, psnr, ssim, size : ndarray of float
        Cross-entropy in nats; PSNR in dB, SSIM, bytes of the file.
    retrained : ndarray of int or None
        As `predicted`, by the classifier that was trained on degraded images.
    overhead : float
        Bytes of a file besides its content.
    examples : ndarray of uint8
        A few of the images.
    frechet : ndarray of shape (G,) or (0,)
        Frechet distance to the originals of each group, if it was asked for.
    spectrum : ndarray of shape (G, F) or (0, 0)
        The share of the originals' power that is kept at each frequency.
    """

    predicted: NDArray[np.intp]
    loss: NDArray[np.float64]
    psnr: NDArray[np.float64]
    ssim: NDArray[np.float64]
    size: NDArray[np.float64]
    retrained: NDArray[np.intp] | None = None
    overhead: float = np.nan
    frechet: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    spectrum: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 0)))
    examples: NDArray[np.uint8] = field(default_factory=lambda: np.empty(0, np.uint8))

    @classmethod
    def empty(cls, count: int, *, retrained: bool) -> Outcome:
        """Return one to be filled."""
        loss, psnr, ssim, size = (np.full(count, np.nan) for _ in range(4))
        codes = np.zeros(count, np.intp)
        return cls(codes, loss, psnr, ssim, size, codes.copy() if retrained else None)


@dataclass(frozen=True, eq=False)
class DegradationAudit:
    """The result of `fairlearn_bridge.audit.audit`.

    Attributes
    ----------
    cases : DataFrame
        The ``degradation`` and ``severity`` of each name.
    original : Outcome
    outcomes : dict of str to Outcome
        What became of each image, by name.
    target, groups : ndarray of shape (N,)
    classes : ndarray of shape (K,)
    confidence_level : float

    Examples
    --------
    >>> import numpy as np
    >>> from captum_region.datasets import make_faces
    >>> from fairlearn_bridge.audit import PillowCodec, audit
    >>> faces = make_faces(500, 32, random_state=0)
    >>> def darkness(images):
    ...     dark = 1 - images.mean((1, 2, 3)) / 255
    ...     return np.stack([1 - dark, dark], axis=1)
    >>> codecs = [PillowCodec("jpeg", 5), PillowCodec("jpeg", 50)]
    >>> found = audit(codecs, darkness, faces, "Male", target="Smiling", classes=[False, True])
    >>> found.table()[["bpp", "bias", "p_holm"]].shape, list(found.to_frame().index.names)
    ((2, 3), ['name', 'group'])
    >>> bool(found.compare("jpeg 5", "jpeg 50")["p"].between(0, 1).all())
    True
    """

    cases: pd.DataFrame
    original: Outcome
    outcomes: Mapping[str, Outcome]
    target: NDArray[Any]
    groups: NDArray[Any]
    classes: NDArray[Any]
    confidence_level: float
    _target_codes: NDArray[np.intp]
    _codes: NDArray[np.intp]
    _order: NDArray[np.intp]
    # Bootstrap means, draws x groups x cases x values, with the groups in sorted order; p, cases x measures.
    _draws: NDArray[np.float64]
    _p: NDArray[np.float64]
    _example_positions: NDArray[np.intp]
    _pixels: int
    _seed: int

    @property
    def names(self) -> list[str]:
        """The names of the degradations at their severities."""
        return list(self.outcomes)

    def _outcome(self, name: str) -> Outcome:
        if name not in self.outcomes:
            raise ValueError(f"name must be one of {', '.join(self.outcomes)}, got {name!r}")
        return self.outcomes[name]

    def metric_frame(
        self, name: str | None = None, metrics: Callable[..., Any] | dict[str, Callable[..., Any]] | None = None
    ) -> MetricFrame:
        """Return fairlearn's MetricFrame of the predictions after a degradation, by group.

        Parameters
        ----------
        name : str, optional
            One of `names`; by default of the originals.
        metrics : callable or dict of str to callable, optional
            Of (y_true, y_pred), such as scikit-learn's; by default accuracy and count.

        Raises
        ------
        ValueError
            If there is no such name.
        """
        outcome = self.original if name is None else self._outcome(name)
        return MetricFrame(
            metrics={"accuracy": accuracy_score, "count": count} if metrics is None else metrics,
            y_true=self.target,
            y_pred=self.classes[outcome.predicted],
            sensitive_features=pd.Series(self.groups, name="group"),
        )

    def to_frame(self) -> pd.DataFrame:
        """Return all measures by degradation and group.

        Returns
        -------
        DataFrame, indexed by name and group
            ``n``; ``accuracy_before``, ``accuracy`` and ``drop``, the first minus the second, with its interval
            ``drop_low`` to ``drop_high``; ``loss_increase`` in nats, with its interval; ``flips``, the share of
            predictions that change; ``psnr`` in dB, the mean over images (infinite where one is unchanged); ``ssim`` of
            luma; ``bpp``, bits per pixel of the files, and ``bpp_content``, without their container, see `Codec`;
            with `train`, ``unrecoverable`` and ``recoverable``, whose sum is the drop, with their intervals; and, with
            `embed`, ``frechet``, the squared Frechet distance of the features of originals and degraded images.
            NaN where it is not defined.
        """
        return pd.concat({name: self._by_group(position) for position, name in enumerate(self.names)}, names=["name"])

    def _by_group(self, position: int) -> pd.DataFrame:
        by_group = self._measures(self.names[position]).groupby(self.groups)
        table = by_group.mean().rename_axis("group")
        table.insert(0, "n", by_group.size())
        for number, measure in enumerate(self._values(self.names[position])):
            ends = percentile_interval(self._draws[:, :, position, number], self.confidence_level)
            table[f"{measure}_low"], table[f"{measure}_high"] = ends
        frechet = self._outcome(self.names[position]).frechet
        if frechet.size:
            table["frechet"] = frechet[self._order]
        return table

    def _values(self, name: str) -> dict[str, NDArray[np.float64]]:
        """Return the values of each image whose means are drawn."""
        outcome = self._outcome(name)
        return _values(self.original, outcome, self._target_codes)

    def _measures(self, name: str) -> pd.DataFrame:
        """Return the values of each image, whose means are the measures of a case."""
        outcome, before = self._outcome(name), self.original
        values = {
            "accuracy_before": self._target_codes == before.predicted,
            "accuracy": self._target_codes == outcome.predicted,
            **self._values(name),
            "flips": outcome.predicted != before.predicted,
            "psnr": outcome.psnr,
            "ssim": outcome.ssim,
            "bpp": 8 * outcome.size / self._pixels,
            "bpp_content": 8 * (outcome.size - outcome.overhead).clip(min=0) / self._pixels,
        }
        return pd.DataFrame(values).astype(float)

    def table(self) -> pd.DataFrame:
        """Return one row for each degradation and severity, with its bias.

        Returns
        -------
        DataFrame, indexed by name
            ``degradation``, ``severity``; of all images ``n``, ``accuracy``, ``drop``, ``flips``, ``bpp``,
            ``bpp_content``, ``psnr`` and ``ssim``; ``psnr_range``, the largest minus the smallest of the groups;
            ``bias``, of the drop, with its interval ``bias_low`` to ``bias_high``, ``p`` of the permutation test and
            ``p_holm``, corrected for the number of rows; ``worst`` and ``best``, the groups that lose most and least;
            ``loss_bias`` and the same of the increase of the loss; with `train`, ``unrecoverable`` and
            ``recoverable``, the worst minus the best group's, whose sum is the bias, with intervals; with `embed`,
            ``frechet``, the mean of the groups.

        Notes
        -----
        A bias is the largest of several noisy differences: without any true one it is above 0 too. Its interval
        (`captum_region.intervals.extreme_interval`) allows for most of that; whether there is a bias, ``p_holm`` says.
        The shares are those of the two groups that were found: where ``p_holm`` is not small, these may be any two, and
        the shares' intervals say nothing.
        """
        holm = np.stack([statistics.holm(column) for column in self._p.T], axis=1)
        rows = {name: self._row(position) for position, name in enumerate(self.names)}
        table = pd.DataFrame.from_dict(rows, orient="index")
        for measure, prefix in zip(range(len(MEASURES)), ("", "loss_"), strict=True):
            after = table.columns.get_loc(f"{prefix}bias_high")
            assert isinstance(after, int)  # there is one such column
            table.insert(after + 1, f"{prefix}p", self._p[:, measure])
            table.insert(after + 2, f"{prefix}p_holm", holm[:, measure])
        return self.cases.join(table).rename_axis("name")

    def _row(self, position: int) -> dict[str, Any]:
        measures = self._measures(self.names[position])
        by_group, overall = measures.groupby(self.groups).mean(), measures.mean()
        shown = ("accuracy", "drop", "flips", "bpp", "bpp_content", "psnr", "ssim")
        row: dict[str, Any] = {"n": len(measures)} | {measure: overall[measure] for measure in shown}
        row["psnr_range"] = float(np.ptp(by_group["psnr"])) if np.isfinite(by_group["psnr"]).all() else np.nan
        for number, (measure, prefix) in enumerate(zip(MEASURES, ("", "loss_"), strict=True)):
            drawn = statistics.spread(self._draws[:, :, position, number], axis=1)
            bias = np.ptp(by_group[measure])
            low, high = extreme_interval(bias, drawn, self.confidence_level)
            row |= {f"{prefix}bias": bias, f"{prefix}bias_low": max(low, 0.0), f"{prefix}bias_high": high}
            if not number:
                row |= {"worst": by_group["drop"].idxmax(), "best": by_group["drop"].idxmin()}
        worst, best = (by_group.index.get_loc(row[end]) for end in ("worst", "best"))
        for number, share in enumerate(SHARES if SHARES[0] in by_group else (), len(MEASURES)):
            contrast = self._draws[:, worst, position, number] - self._draws[:, best, position, number]
            row[share] = by_group[share].loc[row["worst"]] - by_group[share].loc[row["best"]]
            row[f"{share}_low"], row[f"{share}_high"] = percentile_interval(contrast, self.confidence_level)
        frechet = self._outcome(self.names[position]).frechet
        if frechet.size:
            row["frechet"] = float(frechet.mean())
        return row

    def spectrum(self) -> pd.DataFrame:
        """Return the share of the originals' power that is kept at each frequency, by group.

        Returns
        -------
        DataFrame, indexed by name and group
            A column for each frequency, in cycles over the shorter side of an image. Above 1, power was added, such as
            by ringing or the edges of blocks. Of equally many images of each group; only with `embed`.

        Raises
        ------
        ValueError
            If the audit had no `embed`, or no degradation changes images.
        """
        measured = {name: outcome.spectrum for name, outcome in self.outcomes.items() if outcome.spectrum.size}
        if not measured:
            raise ValueError("there is no spectrum: audit must have embed, and a degradation that changes images")
        groups = pd.Index(np.unique(self.groups), name="group")
        tables = {name: pd.DataFrame(kept[self._order], index=groups) for name, kept in measured.items()}
        return pd.concat(tables, names=["name"]).rename(columns=lambda column: column + 1).rename_axis(columns="cycles")

    def drift(self) -> pd.DataFrame:
        """Return which classes are predicted, by group, before and after each degradation.

        Returns
        -------
        DataFrame, indexed by name and group
            Columns ``before`` and ``after`` with one for each class: shares, which sum to 1.
        """
        before = self._shares(self.original)
        tables = {
            name: pd.concat({"before": before, "after": self._shares(outcome)}, axis=1)
            for name, outcome in self.outcomes.items()
        }
        return pd.concat(tables, names=["name"]).rename_axis(["when", "class"], axis=1)

    def _shares(self, outcome: Outcome) -> pd.DataFrame:
        found = pd.crosstab(pd.Series(self.groups, name="group"), outcome.predicted, normalize="index")
        return found.reindex(columns=range(len(self.classes)), fill_value=0.0).set_axis(self.classes, axis=1)

    def compare(self, first: str, second: str, *, n_permutations: int = 1000) -> pd.DataFrame:
        """Compare the bias of two degradations, image by image.

        Parameters
        ----------
        first, second : str
            Two of `names`.
        n_permutations : int, default=1000

        Returns
        -------
        DataFrame, with the rows ``drop`` and ``loss_increase``
            The two biases; ``difference``, the first minus the second, with its paired bootstrap interval ``low`` to
            ``high``; and ``p`` of a permutation of the groups, as in `table`, of what the first takes more of each
            image than the second: it is small where some groups lose more by the change than others do.

        Raises
        ------
        ValueError
            If there is no such name, or the two are the same.

        Notes
        -----
        A bias is the largest of several noisy differences, so that of a degradation which changes more decisions is
        larger without any difference between the groups. The interval
        (`captum_region.intervals.extreme_interval`) allows for most of that: go by ``p`` as well.
        """
        if first == second:
            raise ValueError(f"first and second must be two degradations, got {first!r} twice")
        check_count("n_permutations", n_permutations)
        both = np.stack(
            [np.stack([self._values(name)[each] for each in MEASURES], axis=-1) for name in (first, second)], axis=1
        )
        positions = [self.names.index(name) for name in (first, second)]
        biases = statistics.spread(self._draws[:, :, positions, : len(MEASURES)], axis=1)
        point = np.stack([both[self._codes == code].mean(0) for code in self._order])
        observed = statistics.spread(point, axis=0)
        generator = np.random.default_rng((self._seed, 2, *positions))
        p = statistics.equal_means_p(both[:, 0] - both[:, 1], self._codes, n_permutations, generator)
        difference = observed[0] - observed[1]
        low, high = extreme_interval(difference, biases[:, 0] - biases[:, 1], self.confidence_level)
        columns = {first: observed[0], second: observed[1], "difference": difference, "low": low, "high": high, "p": p}
        return pd.DataFrame(columns, index=pd.Index(MEASURES, name="measure"))

    def plot(self, *, axes: Sequence[Axes] | NDArray[Any] | None = None) -> Figure:
        """Draw bias against the rate, the drop of each group, and PSNR beside it.

        Parameters
        ----------
        axes : sequence of three Axes, optional
            By default in a new pyplot figure.

        Returns
        -------
        Figure
            Without rates, the first plot has a row for each degradation. A filled point is a bias with a corrected p
            below 0.05.

        Raises
        ------
        ValueError
            If there are not three axes.
        """
        from fairlearn_bridge.audit.plotting import plot_audit

        return plot_audit(self.table(), self.to_frame(), axes=axes)

    def plot_realism(self, *, ax: Axes | None = None) -> Figure:
        """Draw the bias of each degradation against its realism, the mean Frechet distance of the groups.

        Parameters
        ----------
        ax : Axes, optional
            By default in a new pyplot figure.

        Raises
        ------
        ValueError
            If the audit had no `embed`, or no degradation changes images.
        """
        from fairlearn_bridge.audit.plotting import plot_realism

        return plot_realism(self.table(), ax=ax)

    def plot_images(self, names: Sequence[str] | None = None) -> Figure:
        """Draw originals and what became of them side by side, group by group.

        Parameters
        ----------
        names : sequence of str, optional
            Degradations of images; by default all.

        Returns
        -------
        Figure

        Raises
        ------
        ValueError
            If there is no such name, one changes no images, or no examples were kept.
        """
        from fairlearn_bridge.audit.plotting import plot_examples

        changing = [name for name, outcome in self.outcomes.items() if not np.isnan(outcome.psnr).all()]
        chosen = changing if names is None else list(names)
        unchanged = [name for name in chosen if np.isnan(self._outcome(name).psnr).all()]
        if unchanged or not chosen:
            raise ValueError(f"names must be of degradations that change images, {changing}, got {chosen}")
        if not len(self._example_positions):
            raise ValueError("no images were kept to draw: n_examples was 0")
        columns = {"original": self.original.examples} | {name: self._outcome(name).examples for name in chosen}
        return plot_examples(columns, self.groups[self._example_positions])

    def _repr_html_(self) -> str:
        return self.table().round(3).to_html()


def _values(before: Outcome, after: Outcome, target: NDArray[np.intp]) -> dict[str, NDArray[np.float64]]:
    """Return the values of each image whose means are drawn: drop, loss increase and, if retrained, the shares."""
    was_right, is_right = (outcome.predicted == target for outcome in (before, after))
    values = {"drop": _minus(was_right, is_right), "loss_increase": after.loss - before.loss}
    if after.retrained is not None:
        again = after.retrained == target
        values |= {"unrecoverable": _minus(was_right, again), "recoverable": _minus(again, is_right)}
    return values


def _minus(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> NDArray[np.float64]:
    return first.astype(float) - second


def summarized(
    cases: Sequence[Case],
    original: Outcome,
    outcomes: Mapping[str, Outcome],
    data: Audited,
    classes: NDArray[Any],
    target: NDArray[np.intp],
    examples: NDArray[np.intp],
    *,
    n_bootstrap: int,
    n_permutations: int,
    confidence_level: float,
    seed: int,
) -> DegradationAudit:
    """Return the result of an audit: draw what its intervals and tests need, the same images for all cases."""
    named = [_values(original, outcome, target) for outcome in outcomes.values()]
    width = max(map(len, named))
    values = np.full((len(target), len(cases), width), np.nan)
    for position, of_case in enumerate(named):
        values[:, position, : len(of_case)] = np.stack([*of_case.values()], axis=1)
    rows = values.reshape(len(target), -1)
    generator = np.random.default_rng((seed, 0))
    draws = statistics.bootstrap_means(rows, data.codes, n_bootstrap, generator)[:, data.order]
    tested = values[..., : len(MEASURES)].reshape(len(target), -1)
    p = statistics.equal_means_p(tested, data.codes, n_permutations, np.random.default_rng((seed, 1)))
    settings = {"degradation": [case.degradation for case in cases], "severity": [case.severity for case in cases]}
    _, _, height, width_px = data.images.shape
    return DegradationAudit(
        cases=pd.DataFrame(settings, index=pd.Index(list(outcomes), name="name")),
        original=original,
        outcomes=outcomes,
        target=data.target,
        groups=data.groups,
        classes=classes,
        confidence_level=confidence_level,
        _target_codes=target,
        _codes=data.codes,
        _order=data.order,
        _draws=draws.reshape(n_bootstrap, len(data.names), len(cases), width),
        _p=p.reshape(len(cases), len(MEASURES)),
        _example_positions=examples,
        _pixels=int(height) * int(width_px),
        _seed=seed,
    )

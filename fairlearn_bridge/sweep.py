"""The sweep of De Coninck et al. 2024, section 4: Table 1, Figures 7 and 8."""

import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from captum_region.io.files import (
    CHECKPOINTS,
    check_place,
    locked,
    plain_name,
    records,
    remove_pictures,
    write_json,
    write_text,
)
from captum_region.io.provenance import joined
from captum_region.plotting import write_figure
from captum_region.progress import stage
from fairlearn_bridge.comparison import NoneCouldRunError
from fairlearn_bridge.experiment import (
    ExperimentConfig,
    ExperimentData,
    flat_table,
    how_it_was_run,
    samples_of,
    train,
)
from fairlearn_bridge.metrics import alignment, measure, summarize
from fairlearn_bridge.plotting import BASELINE, by_mitigator
from fairlearn_bridge.report.figures import accuracy_by_group, accuracy_by_quantile
from fairlearn_bridge.report.run import missing_seeds
from fairlearn_bridge.samples import Samples, fingerprints
from fairlearn_bridge.schemes import is_automatic
from fairlearn_bridge.validation import check_number

FORMAT = 1
_FILES = ("table.csv", "validation.csv", "trainings.csv", "table1.csv", "sweep.json")
# Table 1 shows the quantile with the best worst-group accuracy on the validation images.
CRITERION = "worst_cell"
DIFFERENCE = ("difference", "difference_low", "difference_high")
COLUMNS = ("accuracy", "accuracy[True]", "accuracy[False]", "gap", "worst_cell", "crossed_auc")


@dataclass
class SweepResults:
    """What a sweep has found so far.

    Attributes
    ----------
    table : DataFrame
        A row a spurious attribute, mitigator and measure, on the test images: ``confounder``, ``mitigator``,
        ``scheme`` and ``quantile`` (missing where there is none), ``measure``, and the statistics of `summarize`, with
        differences to the ERM baseline and, as ``balanced_difference`` and so on, to balanced data.
    validation : DataFrame
        A row a spurious attribute and mitigator: each measure's mean over seeds on the validation images.
    trainings : DataFrame
        As `fit_mitigators` gives them, with the ``confounder``.
    """

    table: pd.DataFrame = field(default_factory=pd.DataFrame)
    validation: pd.DataFrame = field(default_factory=pd.DataFrame)
    trainings: pd.DataFrame = field(default_factory=pd.DataFrame)

    def table1(self) -> pd.DataFrame:
        """Return Table 1: for each spurious attribute and scheme the ERM baseline, balanced data, and the scheme.

        Its quantile is the one with the best worst-group accuracy on the validation images, which are in no training
        set; the paper's was the best on its test images.

        Returns
        -------
        DataFrame
            A row a spurious attribute and scheme; ``quantile``, and columns (measure, ``original`` | ``balanced`` |
            ``scheme`` | ``low`` | ``high``), the last two the interval of the scheme's difference to the ERM baseline.
        """
        rows: dict[Any, dict[tuple[str, str], float]] = {}
        for confounder, of_one in self.table.groupby("confounder", sort=False):
            statistics = of_one.set_index(["measure", "mitigator"])
            validation = self.validation[self.validation["confounder"] == confounder].set_index("mitigator")[CRITERION]
            mitigators = of_one.dropna(subset="scheme").drop_duplicates("mitigator").set_index("mitigator")
            for scheme, of_scheme in mitigators.groupby("scheme", sort=False):
                best = str(validation.reindex(of_scheme.index).idxmax())
                arms = {"original": "original", "balanced": "balanced", "scheme": best}
                row = rows[confounder, scheme] = {("quantile", ""): of_scheme["quantile"][best]}
                for name in COLUMNS:
                    if name in statistics.index:
                        found = statistics.loc[name]
                        # Balanced data may not have run.
                        row |= {(name, as_): found["mean"][arm] for as_, arm in arms.items() if arm in found.index}
                        row |= {(name, end): found[f"difference_{end}"][best] for end in ("low", "high")}
        index = pd.MultiIndex.from_tuples(rows, names=["confounder", "scheme"])
        columns = pd.MultiIndex.from_tuples(dict.fromkeys(key for row in rows.values() for key in row))
        return pd.DataFrame(list(rows.values()), index).set_axis(columns, axis=1)

    @property
    def failed(self) -> bool:
        """Whether a training failed; one that was not applicable did not."""
        return bool((self.trainings["status"] == "failed").any())

    def fewer_seeds(self) -> dict[str, str]:
        """Return how many seeds those mitigators have that did not run with all, by spurious attribute and name."""
        return {
            f"{confounder}, {mitigator}": text.partition(";")[0]
            for confounder, of_one in self.trainings.groupby("confounder", sort=False)
            for mitigator, text in missing_seeds(of_one)[1].items()
        }

    def _repr_html_(self) -> str:
        # Empty until the first spurious attribute is done.
        return self.table1().to_html(float_format="{:.2f}".format) if len(self.table) else escape(repr(self))

    def write(self, out: Path, settings: dict[str, Any], shown_quantile: float) -> None:
        """Write the tables, Table 1 with the settings as JSON, and the plots into `out`."""
        table1 = self.table1().pipe(_flat_columns).reset_index()
        for name, table in (
            ("table.csv", self.table),
            ("validation.csv", self.validation),
            ("trainings.csv", self.trainings.drop(columns="losses")),
            ("table1.csv", table1),
        ):
            write_text(out / name, table.to_csv(index=False))
        if (out / "sweep.json").exists():  # of another sweep, where --force writes over it
            remove_pictures(out / "plots")
        write_json(out / "sweep.json", settings | {"table1": records(table1)})
        (out / "plots").mkdir(exist_ok=True)
        for confounder, rows in self.table.groupby("confounder", sort=False):
            shown = rows[rows["quantile"].isna() | np.isclose(rows["quantile"], shown_quantile)]
            groups = {"False": f"not {settings['target']}", "True": settings["target"]}
            by_name = by_mitigator(shown, shown["mitigator"].unique()).rename({"original": BASELINE})
            figures = {7: accuracy_by_group(by_name, groups)}
            if rows["quantile"].notna().any():  # not if all are chosen
                figures[8] = accuracy_by_quantile(rows, groups)
            for number, figure in figures.items():
                write_figure(out / "plots" / f"figure{number}_{plain_name(str(confounder))}.png", figure)


def run_sweep(
    configs: Sequence[ExperimentConfig],
    data: Callable[[ExperimentConfig], ExperimentData],
    quantiles: Sequence[float],
    out: str | os.PathLike[str],
    *,
    skipped: Sequence[Mapping[Any, Any]] = (),
    quiet: bool = False,
) -> SweepResults:
    """Run each confounder's schemes at each quantile with each seed, and write tables and plots after each confounder.

    The states and results of all trainings are kept in ``out/checkpoints``: a stopped sweep that is started again
    resumes, and one with more seeds or quantiles does only what is new.

    Parameters
    ----------
    configs : sequence of ExperimentConfig
        One a spurious attribute, of the same target.
    data : callable
        Gives a configuration's data.
    quantiles : sequence of float
        In [0, 1], see `AttributionNoise`.
    out : path
        A folder; made, with its parents.
    skipped : sequence of mappings, default=()
        The images that a reader skipped, with the reason: goes into ``sweep.json`` as it is.
    quiet : bool, default=False
        No progress on stderr.

    Returns
    -------
    SweepResults

    Raises
    ------
    ValueError
        If there is no quantile, one is given twice or out of range; if configurations differ in target or share a
        `confounder`; if something in `out` is in the way of the results, or `data` raises one. Before any training.
    """
    quantiles = sorted(quantiles)
    # Arms are named by quantiles as they are printed.
    if not quantiles or len({f"{quantile:g}" for quantile in quantiles}) < len(quantiles):
        raise ValueError(f"quantiles must be given, each once, got {quantiles}")
    for quantile in quantiles:
        check_number("quantiles", quantile, 0, 1)
    confounders = [config.confounder for config in configs]
    if len(set(confounders)) < len(configs) or len({config.target for config in configs}) != 1:
        raise ValueError(f"configs must have one target and a confounder each, got the confounders {confounders}")
    if min(config.validation_per_cell for config in configs) < 1:
        raise ValueError("validation_per_cell must be at least 1: quantiles are chosen on the validation images")
    results = SweepResults()
    run: dict[str, Any] = {
        "format": FORMAT,
        "target": configs[0].target,
        "confounders": [config.confounder for config in configs],
        "quantiles": quantiles,
        "skipped": list(skipped),
        "data": {},
        "seconds": {},
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # which comes again
        for config in configs[1:]:
            data(config)  # raises now, not after the trainings of those before, if there are too few images
    with locked(out) as folder:
        check_place(folder, _FILES, ("plots",))
        for config in configs:
            if not quiet:
                print(f"{config.confounder}:", file=sys.stderr)
            seconds: dict[str, float] = {}
            images = data(config)
            run["data"][config.confounder] = fingerprints(images.sets)
            found = _sweep_one(config, images, quantiles, folder / CHECKPOINTS, seconds, quiet)
            for name in ("table", "validation", "trainings"):
                part = getattr(found, name)
                part.insert(0, "confounder", config.confounder)
                setattr(results, name, pd.concat([getattr(results, name), part], ignore_index=True))
            how = how_it_was_run(config, seconds, results.trainings["git"])
            del how["config"]["confounder"]
            run["seconds"][config.confounder] = how.pop("seconds")
            results.write(folder, run | how, min(quantiles, key=lambda q: abs(q - 0.7)))
    return results


def _sweep_one(
    config: ExperimentConfig,
    data: ExperimentData,
    quantiles: Sequence[float],
    states: Path,
    seconds: dict[str, float],
    quiet: bool,
) -> SweepResults:
    test, validation = samples_of(config, data.test), samples_of(config, data.validation)
    # Predicted together, separated below by their positions.
    both = Samples(
        *(np.concatenate([getattr(part, name) for part in (test, validation)]) for name in ("X", "y", "confounder"))
    )
    trained = train(config, data, both, states, seconds, quiet, quantiles)
    predictions, trainings = trained.predictions, trained.trainings
    if reason := missing_seeds(trainings)[0].get("original"):
        raise NoneCouldRunError(f"there is no ERM baseline to compare with: {reason}")
    trainings["git"] = [joined([trained.regions.git, git]) for git in trainings["git"]]
    biased = samples_of(config, data.biased)
    aligned = alignment(biased.y, biased.confounder)
    is_test = predictions["image"] < len(test.X)
    with stage("measuring", seconds, quiet):
        table = flat_table(summarize(predictions[is_test], aligned=aligned, reference="original"))
        if "balanced" in set(table["mitigator"]):
            other = flat_table(summarize(predictions[is_test], aligned=aligned, reference="balanced"))
            table[[f"balanced_{name}" for name in DIFFERENCE]] = other[[*DIFFERENCE]]
    chosen = {f"{scheme} {quantile:g}": (scheme, quantile) for scheme in config.schemes for quantile in quantiles}
    chosen |= {scheme: (scheme, np.nan) for scheme in config.schemes if is_automatic(scheme)}
    for at, column in enumerate(("scheme", "quantile")):
        table.insert(1 + at, column, [chosen.get(name, (None, np.nan))[at] for name in table["mitigator"]])
    table.insert(3, "kind", [trained.arms[name].kind for name in table["mitigator"]])
    by_seed = predictions[~is_test].groupby(["mitigator", "seed"], sort=False)
    on_validation = pd.DataFrame({key: measure(of_seed, aligned=aligned) for key, of_seed in by_seed}).T
    on_validation = on_validation.groupby(level=0, sort=False).mean().rename_axis("mitigator").reset_index()
    return SweepResults(table, on_validation, trainings)


def _flat_columns(table: pd.DataFrame) -> pd.DataFrame:
    return table.set_axis([" ".join(part for part in column if part) for column in table.columns], axis=1)

"""The results of studies of several attributes and seeds, as tables, files and pictures."""

import platform
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from rich.table import Table

from captum_region.io.files import plain_name, records, write_json, write_text
from captum_region.io.provenance import joined, provenance
from captum_region.saliency.compare import LESS_IS_BETTER, saliency_table
from captum_region.saliency.study import Study, information_table

_DIFFERENCE = ("difference", "low", "high")
# Without IoU, which follows from the rank accuracy.
HEADINGS = {
    "pointing_game": "pointing game",
    "rank_accuracy": "relevance rank accuracy",
    "mass_accuracy": "relevance mass accuracy",
    "pixel_auc": "pixel AUC",
    "deletion": "deletion",
    "insertion": "insertion",
    "information_left": "ROAR accuracy",
}

# Not others to compare them with: the region maps in all forms, and images without a mask.
OWN = ("RegionAttribution", "MultiScaleRegionAttribution", "nothing masked")


def best_others(table: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Return the best method that is not a region map, of each attribute and measure, and its distance from ours.

    The best is found with the same images as its mean: that favours it a little.

    Parameters
    ----------
    table : DataFrame
        `StudyResults.table`.
    reference : str
        The method that its differences are taken from.

    Returns
    -------
    DataFrame
        Columns ``attribute``, ``measure``, ``method``, ``mean``, ``reference`` (its mean), ``difference`` (the
        reference minus the method), ``low`` and ``high``, its 95 % interval.
    """
    rows = []
    for (attribute, measure), part in table.groupby(["attribute", "measure"], sort=False):
        by_method = part.set_index("method")
        means = by_method["mean"][[name.split(",")[0] not in OWN for name in by_method.index]].dropna()
        if not len(means) or reference not in by_method.index:
            continue
        best = means.idxmin() if measure in LESS_IS_BETTER else means.idxmax()
        row, own = (by_method.loc[str(name)] for name in (best, reference))
        found = {"method": best, "mean": row["mean"], "reference": own["mean"], "difference": -row["difference"]}
        rows.append({"attribute": attribute, "measure": measure} | found | {"low": -row["high"], "high": -row["low"]})
    return pd.DataFrame(rows)


@dataclass
class StudyResults:
    """Collects studies, and writes their results.

    Parameters
    ----------
    reference : str
        The method that the others are compared with.
    settings : dict
        How the studies were made; copied into the JSON.

    Attributes
    ----------
    studies : dict of (attribute, seed) to Study

    See Also
    --------
    study_attribute : Makes a study.
    """

    reference: str = "MultiScaleRegionAttribution"
    settings: dict[str, Any] = field(default_factory=dict)
    studies: dict[tuple[str, int], Study] = field(default_factory=dict)
    _drawn: set[str] = field(default_factory=set, init=False, repr=False)

    def scores(self) -> pd.DataFrame:
        """Return `SaliencyComparison.scores` of all studies, with columns ``attribute`` and ``seed``."""
        return self._joined(lambda study: study.comparison.scores)

    def _joined(self, table_of: Callable[[Study], pd.DataFrame]) -> pd.DataFrame:
        tables = [table_of(study).assign(attribute=name, seed=seed) for (name, seed), study in self.studies.items()]
        return pd.concat(tables, ignore_index=True)

    def table(self) -> pd.DataFrame:
        """Return `saliency_table` and `information_table` of each attribute, under a column ``attribute``."""
        all_left, tables = self._joined(lambda study: study.left), []
        for attribute, scores in self.scores().groupby("attribute", sort=False):
            compared = saliency_table(scores, self.reference, same_images=self._same_images())
            tables.append(compared.assign(attribute=attribute))
            left = all_left[all_left["attribute"] == attribute]
            if self.reference in set(left["method"]):
                found = information_table(left, self.reference)
                tables.append(found.assign(measure="information_left", attribute=attribute))
        first = ["attribute", "measure", "method"]
        table = pd.concat(tables, ignore_index=True)
        return table[[*first, *table.columns.drop(first)]]

    def _same_images(self) -> bool:
        """Return whether several seeds compared on the same images, as those of a table do."""
        tested = [digests["test"] for digests in self.settings.get("digests", {}).values()]
        return len(tested) > 1 and len(set(tested)) == 1

    def choice(self) -> pd.DataFrame:
        """Return `Study.choice` of all studies, with columns ``attribute`` and ``seed``."""
        return self._joined(lambda study: study.choice)

    def cost(self) -> pd.DataFrame:
        """Return seconds and bytes of each method, the median over studies."""
        parts = [
            pd.DataFrame({"seconds": study.comparison.seconds, "bytes": study.comparison.memory})
            for study in self.studies.values()
        ]
        return pd.concat(parts).groupby(level=0, sort=False).median()

    def write(self, out: Path) -> None:
        """Write comparison.json, table.csv, scores.csv, choice.csv and, of each attribute, maps_<attribute>.png.

        The pictures are those of each attribute's first seed.

        Parameters
        ----------
        out : path
            A folder; made, with its parents.
        """
        out.mkdir(parents=True, exist_ok=True)
        table, cost = self.table(), self.cost()
        result = {
            **self.settings,
            **provenance(),
            "git": joined(study.git for study in self.studies.values()),
            "machine": f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads",
            "reference": self.reference,
            "studies": [
                {
                    "attribute": attribute,
                    "seed": seed,
                    "git": study.git,
                    "accuracy": study.accuracy,
                    "region_accuracy": study.region_accuracy,
                    "images": len(study.images),
                    "images_right": study.images_right,
                    "choice": study.chosen(),
                    "not_run": study.not_run,
                    "information_left": dict(study.left.itertuples(index=False)),
                }
                for (attribute, seed), study in self.studies.items()
            ],
            "cost": records(cost.rename_axis("method").reset_index()),
            "best_others": records(best_others(table, self.reference)),
            "table": records(table),
        }
        write_json(out / "comparison.json", result)
        write_text(out / "table.csv", table.to_csv(index=False))
        write_text(out / "scores.csv", self.scores().to_csv(index=False))
        write_text(out / "choice.csv", self.choice().to_csv(index=False))
        for (attribute, _), study in self.studies.items():
            if attribute not in self._drawn:
                _draw(study, out / f"maps_{plain_name(attribute)}.png")
                self._drawn.add(attribute)

    def rich_tables(self) -> list[Table]:
        """Return a table for each attribute, and one of the best others.

        + and - mark methods significantly better or worse than the reference: the 95 % interval of the difference does
        not contain 0.
        """
        table, cost = self.table(), self.cost()
        shown = [self._rich_table(str(name), part, cost) for name, part in table.groupby("attribute", sort=False)]
        rich = Table("attribute", "measure", "best other", "its mean", self.reference, "difference [95 % interval]")
        rich.title = f"{self.reference} and the best method that is not a region map"
        for row in records(best_others(table, self.reference)):
            if row["measure"] in HEADINGS:
                # Of one seed some have no interval, and what is not defined for any image no value.
                difference, low, high = ("" if pd.isna(row[name]) else f"{row[name]:+.3f}" for name in _DIFFERENCE)
                mean, own = ("" if pd.isna(row[name]) else f"{row[name]:.3f}" for name in ("mean", "reference"))
                names = row["attribute"], HEADINGS[row["measure"]], row["method"]
                rich.add_row(*names, mean, own, f"{difference} [{low}, {high}]" if low else difference)
        return [*shown, rich]

    def _rich_table(self, attribute: str, part: pd.DataFrame, cost: pd.DataFrame) -> Table:
        studies = [study for (name, _), study in self.studies.items() if name == attribute]
        accuracy = sum(study.accuracy for study in studies) / len(studies)
        right, count = sum(study.images_right for study in studies), sum(len(study.images) for study in studies)
        title = (
            f"{attribute}: explained model {accuracy:.2f}, right on {right} of {count} images, seeds: {len(studies)}"
        )
        measures = [name for name in HEADINGS if name in set(part["measure"])]
        columns = [HEADINGS[name] for name in measures] + ["rank acc., model right", "rank acc., model wrong"]
        rich = Table("method", *columns, "ms", "MB", "chosen", title=title)
        rich.columns[0].no_wrap = True
        rows = part.set_index(["method", "measure"]).to_dict("index")
        for method in part["method"].unique():
            cells = [_cell(rows.get((method, measure)), measure) for measure in measures]
            if method in cost.index:
                split = rows[method, "rank_accuracy"]
                cells += ["" if pd.isna(split[name]) else f"{split[name]:.3f}" for name in ("mean_right", "mean_wrong")]
                seconds, size = cost.loc[method, ["seconds", "bytes"]]
                cells += [f"{1e3 * seconds:.1f}", f"{size / 1e6:.1f}"]
                choices = [study.chosen()[method] for study in studies if method in study.chosen()]
                cells.append("; ".join(dict.fromkeys(map(_in_words, choices))))
            rich.add_row(method, *cells)
        return rich


def _in_words(choice: dict[str, Any]) -> str:
    return ", ".join(filter(None, (choice["variant"], f"sigma {choice['sigma']:.3g} px")))


def _draw(study: Study, path: Path) -> None:
    from captum_region.plotting import drawn, plot_saliency, write_figure

    images, truth = study.images.images[:6], study.truth[:6]
    maps = {name: values[:6] for name, values in study.comparison.maps.items()}
    rows, columns = len(maps) + 1, len(images)
    size = 1.35 * columns + 1.8, 1.35 * rows + 0.6
    figure = drawn(size, lambda axes: plot_saliency(images, maps, truth=truth, axes=axes), nrows=rows, ncols=columns)
    write_figure(path, figure, dpi=110)


def _cell(row: Any, measure: str) -> str:
    if row is None:
        return ""
    if pd.isna(row["mean"]):
        return "undefined"
    sign = -1 if measure in LESS_IS_BETTER else 1
    worst, best = sorted((sign * row["low"], sign * row["high"]))
    return f"{row['mean']:.3f}{' +' if worst > 0 else ' -' if best < 0 else '  '}"

"""What studies of several attributes and seeds found, as tables, files and pictures."""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from rich.table import Table

from captum_region.files import plain_name, replacing
from captum_region.provenance import joined, provenance
from captum_region.saliency.compare import LESS_IS_BETTER, saliency_table
from captum_region.saliency.study import information_table

if TYPE_CHECKING:
    from pathlib import Path

    from captum_region.saliency.study import Study

HEADINGS = {
    "pointing_game": "pointing game",
    "rank_accuracy": "rank accuracy",
    "mass_accuracy": "mass accuracy",
    "pixel_auc": "pixel AUC",
    "iou": "IoU",
    "deletion": "deletion",
    "insertion": "insertion",
    "information_left": "information left",
}


@dataclass
class StudyResults:
    """Collects studies, and writes what they found.

    Parameters
    ----------
    reference : str
        The method that the others are compared with.
    settings : dict
        How the studies were made: goes into the JSON as it is.

    Attributes
    ----------
    studies : dict of (attribute, seed) to Study
    """

    reference: str = "MultiScaleRegionAttribution"
    settings: dict[str, Any] = field(default_factory=dict)
    studies: dict[tuple[str, int], Study] = field(default_factory=dict)
    _drawn: set[str] = field(default_factory=set, init=False, repr=False)

    def scores(self) -> pd.DataFrame:
        """Return `SaliencyComparison.scores` of all studies, with columns ``attribute`` and ``seed``."""
        parts = [
            study.comparison.scores.assign(attribute=attribute, seed=seed)
            for (attribute, seed), study in self.studies.items()
        ]
        return pd.concat(parts, ignore_index=True)

    def table(self) -> pd.DataFrame:
        """Return `saliency_table` and `information_table` of each attribute, under a column ``attribute``."""
        tables = []
        for attribute, scores in self.scores().groupby("attribute", sort=False):
            tables.append(saliency_table(scores, self.reference).assign(attribute=attribute))
            left = pd.concat(
                [study.left.assign(seed=seed) for (name, seed), study in self.studies.items() if name == attribute]
            )
            if self.reference in set(left["method"]):
                found = information_table(left, self.reference)
                tables.append(found.assign(measure="information_left", attribute=attribute))
        table = pd.concat(tables, ignore_index=True)
        first = ["attribute", "measure", "method"]
        return table[[*first, *(column for column in table if column not in first)]]

    def cost(self) -> pd.DataFrame:
        """Return seconds and bytes of each method, the median over studies."""
        parts = [
            pd.DataFrame({"seconds": study.comparison.seconds, "bytes": study.comparison.memory})
            for study in self.studies.values()
        ]
        return pd.concat(parts).groupby(level=0, sort=False).median()

    def write(self, out: Path, *, pictures: int = 6) -> None:
        """Write comparison.json, table.csv, scores.csv and, of each attribute's first seed, maps_<attribute>.png."""
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
                    "not_run": study.not_run,
                    "information_left": dict(study.left.itertuples(index=False)),
                }
                for (attribute, seed), study in self.studies.items()
            ],
            "cost": cost.rename_axis("method").reset_index().to_dict("records"),
            # JSON knows no NaN.
            "table": table.astype(object).where(table.notna(), None).to_dict("records"),
        }
        with replacing(out / "comparison.json") as path:
            path.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")
        for name, frame in (("table", table), ("scores", self.scores())):
            with replacing(out / f"{name}.csv") as path:
                frame.to_csv(path, index=False)
        for (attribute, _), study in self.studies.items():
            if attribute not in self._drawn:
                _draw(study, attribute, out, pictures)
                self._drawn.add(attribute)

    def rich_tables(self) -> list[Table]:
        """Return a table an attribute for the terminal; + and - mark what is surely better or worse than the reference.

        Surely: the 95 % interval of the difference leaves out 0.
        """
        table, cost = self.table(), self.cost()
        shown = []
        for attribute, part in table.groupby("attribute", sort=False):
            accuracies = [study.accuracy for (name, _), study in self.studies.items() if name == attribute]
            title = f"{attribute}: explained model {sum(accuracies) / len(accuracies):.2f}, {len(accuracies)} seeds"
            measures = [name for name in HEADINGS if name in set(part["measure"])]
            columns = ["method", *(HEADINGS[name] for name in measures), "ms", "MB"]
            rich = Table(*columns, title=title)
            rich.columns[0].no_wrap = True
            values = part.set_index(["method", "measure"])
            for method in dict.fromkeys(part["method"]):
                cells = [_cell(values, method, measure) for measure in measures]
                its = (
                    (f"{cost.loc[method, 'seconds'] * 1e3:.1f}", f"{cost.loc[method, 'bytes'] / 1e6:.1f}")
                    if method in cost.index
                    else ("", "")
                )
                rich.add_row(method, *cells, *its)
            shown.append(rich)
        return shown


def _draw(study: Study, attribute: str, out: Path, pictures: int) -> None:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from captum_region.plotting import STYLE, plot_saliency

    images = study.images.images[:pictures]
    maps = {name: values[:pictures] for name, values in study.comparison.maps.items()}
    with rc_context(STYLE):
        rows, columns = len(maps) + 1, len(images)
        figure = Figure(figsize=(1.35 * columns + 1.8, 1.35 * rows + 0.6), layout="constrained")
        plot_saliency(images, maps, truth=study.truth[:pictures], axes=figure.subplots(rows, columns, squeeze=False))
    with replacing(out / f"maps_{plain_name(attribute)}.png") as path:
        figure.savefig(path, dpi=110)


def _cell(values: Any, method: str, measure: str) -> str:
    if (method, measure) not in values.index:
        return ""
    row = values.loc[(method, measure)]
    if pd.isna(row["mean"]):
        return "undefined"
    sign = -1 if measure in LESS_IS_BETTER else 1
    better, worse = row["low" if sign > 0 else "high"] * sign > 0, row["high" if sign > 0 else "low"] * sign < 0
    return f"{row['mean']:.3f}{' +' if better else ' -' if worse else '  '}"

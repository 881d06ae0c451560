"""What a comparison of first layers found: tables, files, pictures and a page."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich.table import Table

from captum_region.intervals import paired_differences
from captum_region.io.files import records, write_json, write_text
from captum_region.io.provenance import provenance
from captum_region.page import listed, number

if TYPE_CHECKING:
    import os

    from captum_region.slices.measures import Example


@dataclass(frozen=True, eq=False)
class FirstLayerComparison:
    """The result of `compare_first_layers`.

    Attributes
    ----------
    runs : DataFrame
        A row for each arm and seed: ``arm``, ``seed``; ``dice``, ``iou`` and ``auc`` on the test slices, the mean over
        volumes and classes; before and after training (``_before``, ``_after``) the share of each slice
        (``share_previous`` ...), ``asymmetry`` (of more distant pairs ``asymmetry_2`` ...), ``swap_change``,
        ``swap_dice`` (see `captum_region.channels.swap_test`) and ``kernel_asymmetry``; ``steps``, ``best_step`` and
        ``converged`` of the training.
    scores : DataFrame
        ``arm``, ``seed``, and the columns of `captum_region.segmentation.segmentation_scores`, for each volume and
        class.
    history : DataFrame
        ``arm``, ``seed``, and the columns of `captum_region.segmentation.SegmentationTraining.history`.
    arms : dict of str to str
        Each arm with what it is. The first is what the others are compared with.
    examples : dict of str to captum_region.slices.measures.Example
        One window as the network of each arm's first seed sees it.
    settings : dict
    git : str or None
        The commit of this package that did the trainings.
    """

    runs: pd.DataFrame
    scores: pd.DataFrame
    history: pd.DataFrame
    arms: dict[str, str]
    examples: dict[str, Example] = field(repr=False)
    settings: dict[str, Any] = field(repr=False)
    git: str | None = None

    @property
    def reference(self) -> str:
        """The first arm."""
        return next(iter(self.arms))

    @property
    def seeds(self) -> int:
        """The number of seeds."""
        return int(self.runs["seed"].nunique())

    def summary(self) -> pd.DataFrame:
        """Return mean and spread over seeds, and paired differences to the first arm.

        Returns
        -------
        DataFrame
            A row for each measure of `runs` and arm: ``measure``, ``arm``, ``mean``, ``std_seeds``, ``difference``
            (minus the first arm, paired by seed), ``low`` and ``high``, its 95 % interval by Student's t. NaN where a
            measure is undefined, and for the spread of one seed.
        """
        return self._summary.copy()

    @cached_property
    def _summary(self) -> pd.DataFrame:
        measures = self.runs.columns.drop(["arm", "seed", "steps", "best_step", "converged"])
        tables = {}
        for measure in measures:
            values = self.runs.pivot(index="seed", columns="arm", values=measure)[[*self.arms]]
            tables[measure] = paired_differences(values, self.reference)
        return pd.concat(tables, names=["measure", "arm"]).reset_index()

    def table(self) -> pd.DataFrame:
        """Return the means over seeds of what matters most, a row for each arm.

        Returns
        -------
        DataFrame, indexed by ``arm``
            ``dice``, ``difference``, ``low`` and ``high`` (of Dice to the first arm), ``iou``, ``auc``,
            ``asymmetry_before``, ``asymmetry_after``, ``swap_change_after`` and the shares after training.
        """
        summary: Any = self.summary().set_index(["measure", "arm"])
        dice = summary.loc["dice"]
        table = pd.DataFrame({"dice": dice["mean"], **{name: dice[name] for name in ("difference", "low", "high")}})
        shares = [str(name) for name in self.runs if str(name).startswith("share_") and str(name).endswith("_after")]
        for measure in ("iou", "auc", "asymmetry_before", "asymmetry_after", "swap_change_after", *shares):
            table[measure] = summary.loc[measure]["mean"]
        return table.loc[[*self.arms]].rename_axis("arm")

    def rich_table(self) -> Table:
        """Return the table as a terminal shows it."""
        names = ["Dice", f"difference to {self.reference}", "A before", "A after", "swap", "shares"]
        shown = Table("arm", *names, title=f"{self.seeds} seed{'s' * (self.seeds > 1)}")
        shown.columns[0].no_wrap = True
        spread = self.runs.groupby("arm")["dice"].std().to_dict()
        for arm, row in self.table().to_dict("index").items():
            sd = f" ± {number(spread[arm])}" if pd.notna(spread[arm]) else ""
            interval = f" [{number(row['low'], signed=True)}, {number(row['high'], signed=True)}]"
            difference = number(row["difference"], signed=True) + (interval if pd.notna(row["low"]) else "")
            shown.add_row(
                str(arm),
                number(row["dice"]) + sd,
                "" if arm == self.reference else difference,
                *(number(row[f"asymmetry_{stage}"], signed=True) for stage in ("before", "after")),
                number(row["swap_change_after"]),
                " ".join(number(row[name]) for name in row if str(name).startswith("share_")),
            )
        return shown

    def unfinished(self) -> list[str]:
        """Return the arms of which a training ended with its last step, while its validation Dice could still rise."""
        return [arm for arm in self.arms if not self.runs.loc[self.runs["arm"] == arm, "converged"].all()]

    def write(self, out: str | os.PathLike[str], **details: Any) -> str:
        """Write slices.json, runs.csv, summary.csv, scores.csv, history.csv, plots/ and report.html.

        Parameters
        ----------
        out : path
            A folder; made, with its parents.
        **details
            Further settings for the JSON and the page, such as names of files.

        Returns
        -------
        str
            The text of slices.json.
        """
        from captum_region.slices.page import draw_page

        out = Path(out)
        out.mkdir(parents=True, exist_ok=True)
        tables = {"runs": self.runs, "summary": self.summary(), "scores": self.scores, "history": self.history}
        made = provenance()
        result = {
            "settings": self.settings | details,
            "arms": self.arms,
            "reference": self.reference,
            **made,
            "git": self.git,
            **{name: records(table) for name, table in tables.items()},
        }
        for name, table in tables.items():
            write_text(out / f"{name}.csv", table.to_csv(index=False))
        draw_page(self, out, self.settings | details, made)
        return write_json(out / "slices.json", result)

    def __str__(self) -> str:
        """Return the table, and what to keep in mind."""
        late = self.unfinished()
        remark = f"\nnot converged: {listed(late)}" if late else ""
        return f"{self.table().round(3).to_string()}{remark}"

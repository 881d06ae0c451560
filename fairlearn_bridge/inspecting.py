"""What the command inspect makes of find_confounders: what to run next, a table and a picture."""

from __future__ import annotations

import sys
import warnings
from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from captum_region.datasets import AttributeImages
from captum_region.plotting import STYLE, literal
from fairlearn_bridge.experiment import ExperimentConfig, split_data
from fairlearn_bridge.inspection import name_of
from fairlearn_bridge.plotting import plot_cells, plot_confounders


def _without_pixels(attributes: pd.DataFrame) -> AttributeImages:
    return AttributeImages(np.empty((len(attributes), 3, 0, 0), np.uint8), attributes)


def labels_of(attributes: pd.DataFrame, target: str) -> pd.Series[Any]:
    """Return the classes of the target, missing where they are not known."""
    if target in attributes:
        return attributes[target]
    column = target.partition("=")[0]
    known = attributes[attributes[column].notna()] if column in attributes else attributes
    chosen = pd.Series(_without_pixels(known).binary(target), known.index, name=target)
    return chosen.reindex(attributes.index)


def target_and_confounder(
    found: pd.DataFrame, cells: pd.DataFrame, target: str, train: pd.DataFrame, test: pd.DataFrame | None
) -> tuple[str, str] | None:
    """Return what to ``run`` with: of the flagged attributes the first that has enough images of each cell.

    ``run`` trains without the images of the target with the confounder: the two are named such that these are what the
    data lack.
    """

    def option(name: str, value: Any) -> str:
        if "=" in name or (value == 1 and train[name].isin([0, 1]).all()):
            return name
        return f"{name}={value}"

    images = [_without_pixels(part) for part in (train, test) if part is not None]
    lacking = cells[cells["residual"] < 0].sort_values("residual")
    if "=" in target:  # the other class has no name
        lacking = lacking[lacking["target"].astype(bool)]
    for name in found.index[found["flagged"]]:
        for cell in lacking[lacking["attribute"] == name].to_dict("records"):
            pair = option(target, cell["target"]), option(name, cell["value"])
            with suppress(ValueError), warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                split_data(ExperimentConfig(*pair), *images)
                return pair
    return None


def print_confounders(found: pd.DataFrame, cells: pd.DataFrame, target: str) -> None:
    """Print a row an attribute, with the counts of the value that a class lacks most."""
    shown = Table("", "attribute", box=None)
    classes = list(cells["target"].unique())
    for header in ("V", "NMI", "p", "value", *(name_of(target, label) for label in classes), "smallest cell"):
        shown.add_column(header, justify="right")
    shown.add_column("remarks")
    lacking = cells.loc[cells.groupby("attribute")["residual"].idxmin()].set_index("attribute")["value"]
    for row in found.reset_index().to_dict("records"):
        name, remarks = row["attribute"], [row["note"]] if row["note"] else []
        if row["missing"]:
            remarks.append(f"{row['missing']} missing")
        counts = [""] * (5 + len(classes))
        if name in lacking:
            of_value = cells[(cells["attribute"] == name) & (cells["value"] == lacking[name])].set_index("target")
            by_class = of_value.to_dict("index")
            counts = [
                *(f"{row[measure]:.2f}" for measure in ("cramers_v", "normalized_mutual_information")),
                "" if np.isnan(row["p_value"]) else "<0.001" if row["p_value"] < 0.001 else f"{row['p_value']:.3f}",
                str(lacking[name]),
                *(
                    f"{by_class[label]['images']} ({by_class[label]['share']:.0%})" if label in by_class else ""
                    for label in classes
                ),
                str(row["smallest_cell"]),
            ]
        style = "bold" if row["flagged"] else None
        shown.add_row("*" if row["flagged"] else "", str(name), *counts, "; ".join(remarks), style=style)
    Console(width=None if sys.stdout.isatty() else 200, markup=False).print(shown)


def draw_inspection(found: pd.DataFrame, cells: pd.DataFrame, target: str, threshold: float) -> Figure:
    """Draw the associations and, beside them, the cells of the flagged attributes."""
    flagged = found.index[found["flagged"]]
    panels = 2 if len(flagged) else 1
    # One of two values takes a row beside, others a row a value.
    rows = max(len(found), int(found.loc[flagged, "values"].replace(2, 1).sum()))
    with rc_context(STYLE):
        figure = Figure(figsize=(5.4 * panels, 0.2 * rows + 1.2), layout="constrained")
        axes = figure.subplots(1, panels, squeeze=False)[0]
        plot_confounders(found, threshold=threshold, ax=axes[0])
        axes[0].set_title(literal(f"What goes along with {target}"))
        if len(flagged):
            in_order = cells.set_index("attribute").loc[flagged].reset_index()
            plot_cells(in_order, target=target, ax=axes[1])
            axes[1].set_title("The flagged attributes within each class")
    return figure

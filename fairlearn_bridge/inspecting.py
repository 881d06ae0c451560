"""What the command inspect shows: tables, figures and the command to run next."""

import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.table import Column, Table

from captum_region import RegionAttribution, RegionClassifier
from captum_region.datasets import AttributeImages, property_attribute
from captum_region.datasets.properties import NUMERIC
from captum_region.plotting import drawn, literal, plot_maps
from fairlearn_bridge.experiment import ExperimentConfig, split_data
from fairlearn_bridge.inspection import name_of
from fairlearn_bridge.noise import quantile_mask
from fairlearn_bridge.overlap import AttributeOverlap, attribute_overlap
from fairlearn_bridge.plotting import plot_cells, plot_confounders, plot_ranking
from fairlearn_bridge.spuriosity import RankingGap, rank_by_evidence, ranking_gap


def _without_pixels(attributes: pd.DataFrame) -> AttributeImages:
    return AttributeImages(np.empty((len(attributes), 3, 0, 0), np.uint8), attributes)


def labels_of(attributes: pd.DataFrame, target: str) -> pd.Series:
    """Return the classes of the target, missing where they are not known."""
    if target in attributes:
        return attributes[target]
    column = target.partition("=")[0]
    known = attributes[attributes[column].notna()] if column in attributes else attributes
    chosen = pd.Series(_without_pixels(known).binary(target), known.index, name=target)
    return chosen.reindex(attributes.index)


def add_properties(
    attributes: pd.DataFrame, properties: pd.DataFrame, quantiles: Sequence[float], reference: pd.DataFrame
) -> pd.DataFrame:
    """Return attributes with the properties of the images, cut at quantiles of `reference`.

    Images whose properties are not known are left out: they are damaged. A column of the same name stays. The table's
    ``attrs["cuts"]`` has the value at each quantile.
    """
    names = [f"{name}@{each:g}" if name in NUMERIC else str(name) for name in properties for each in quantiles]
    new = [name for name in names if name not in attributes]
    added = {name: property_attribute(properties, name, reference=reference) for name in new}
    whole = attributes.loc[properties.index].assign(**added)
    whole.attrs["cuts"] = {name: values.attrs["cut"] for name, values in added.items() if "cut" in values.attrs}
    whole.attrs["skipped"] = [*attributes.attrs.get("skipped", ()), *properties.attrs.get("skipped", ())]
    return whole


def commands_to_follow(
    found: pd.DataFrame, cells: pd.DataFrame, target: str, train: pd.DataFrame, test: pd.DataFrame | None
) -> dict[str, tuple[str, str]]:
    """Return what to run next, with its target and confounder: ``mitigate``, of what it can be run for; ``run``."""
    pair = _target_and_confounder(found, cells, target, train, test)
    # As `mitigate` wants it, some class has images with several values.
    values = cells[cells["images"] > 0].groupby(["attribute", "target"])["value"].nunique()
    several = values.groupby("attribute").max().reindex(found.index, fill_value=0) > 1
    learnable = found.index[found["flagged"] & several & (found["missing"] == 0)]
    following = {"mitigate": (target, str(learnable[0]))} if len(learnable) else {}
    return following if pair is None else following | {"run": pair}


def _target_and_confounder(
    found: pd.DataFrame, cells: pd.DataFrame, target: str, train: pd.DataFrame, test: pd.DataFrame | None
) -> tuple[str, str] | None:
    """Return options for ``run``: the first flagged attribute with enough images of each cell; None if there is none.

    ``run`` trains without images that have both target and spurious attribute, so the two are named such that few
    images of the data have both.
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


def confounders_table(found: pd.DataFrame, cells: pd.DataFrame, target: str) -> Table:
    """Return a row for each attribute, with the counts of the value that is rarest in one class."""
    shown = Table("", "attribute", box=None)
    classes = list(cells["target"].unique())
    for header in ("V", "NMI", "p", "value", *(name_of(target, label) for label in classes), "smallest cell"):
        shown.add_column(header, justify="right")
    shown.add_column("remarks")
    rarest = cells.loc[cells.groupby("attribute")["residual"].idxmin()].set_index("attribute")["value"]
    by_cell = cells.set_index(["attribute", "value", "target"])[["images", "share"]].T.to_dict("list")
    for row in found.reset_index().to_dict("records"):
        name, counts = row["attribute"], [""] * (5 + len(classes))
        missing = f"{row['missing']} missing" if row["missing"] else ""
        if name in rarest:
            p, of_value = row["p_value"], [by_cell.get((name, rarest[name], label)) for label in classes]
            counts = [
                *(f"{row[measure]:.2f}" for measure in ("cramers_v", "normalized_mutual_information")),
                "" if np.isnan(p) else "<0.001" if p < 0.001 else f"{p:.3f}",
                str(rarest[name]),
                *("" if cell is None else f"{cell[0]:.0f} ({cell[1]:.0%})" for cell in of_value),
                str(row["smallest_cell"]),
            ]
        remarks = "; ".join(filter(None, [row["note"], missing]))
        style = "bold" if row["flagged"] else None
        shown.add_row("*" if row["flagged"] else "", str(name), *counts, remarks, style=style)
    return shown


class RankedImages(NamedTuple):
    """Images that were ranked, the table of the ranking, and the accuracy of a model at both ends of it."""

    images: AttributeImages
    ranking: pd.DataFrame
    gaps: dict[str, RankingGap]
    names: dict[Any, str]

    def draw(self) -> Figure:
        """Draw strips of both ends."""
        height, rows = 0.85 * self.images.image_size[0] / self.images.image_size[1], 2 * len(self.names)

        def draw(axes: list[Axes]) -> None:
            plot_ranking(self.images, self.ranking, names=self.names, axes=axes)

        return drawn((8.0, height * rows), draw, nrows=rows)


def rank_images(estimator: Any, regions: RegionClassifier, images: AttributeImages, target: str) -> RankedImages:
    """Rank images by how strongly the spurious attribute of a region classifier shows, and measure a model there.

    Raises
    ------
    ValueError
        If the model has other classes than the target.
    """
    labels = images.labels(target)
    known = np.asarray(estimator.classes_).tolist()
    if not set(labels.tolist()) <= set(known):
        odd = sorted(set(labels.tolist()) - set(known), key=str)
        raise ValueError(f"target {target} must have the classes of the model, {known}, it has {odd} too")
    if regions.class_names and any(name.startswith("not ") for name in regions.class_names):
        raise ValueError("--regions must be of captum-region train or of run; that of mitigate has groups in words")
    ranking = rank_by_evidence(RegionAttribution(regions), images, within=labels, target=regions.num_classes - 1)
    predicted = np.asarray(estimator.predict(images.images))
    right = predicted == labels
    names = {label: name_of(target, label) for label in ranking["class"].unique()}
    gaps = {"all classes": ranking_gap(ranking, right)}
    gaps |= {names[label]: ranking_gap(of_class, right) for label, of_class in ranking.groupby("class")}
    at = ranking["image"].to_numpy()
    ranking = ranking.assign(name=images.attributes.index[at], predicted=predicted[at])
    return RankedImages(images, ranking, gaps, names)


def gaps_table(gaps: dict[str, RankingGap]) -> Table:
    """Return the accuracy at both ends of a ranking, a row for all classes and for each."""
    shown = Table("", *(Column(name, justify="right") for name in ("most", "least", "difference")), box=None)
    for name, gap in gaps.items():
        difference = f"{gap.difference:+.2f} [{gap.low:+.2f}, {gap.high:+.2f}]"
        shown.add_row(name, f"{gap.top:.2f}", f"{gap.bottom:.2f}", difference)
    return shown


class Overlaps(NamedTuple):
    """Of each spurious attribute how far its information and the target's lie in the same places."""

    target: str
    mean_image: NDArray[np.uint8]
    found: dict[str, AttributeOverlap]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The numbers of each attribute."""
        return [
            {"attribute": name, "quantile": one.quantile, "overlap": one.overlap, "chance": one.chance}
            for name, one in self.found.items()
        ]

    def table(self) -> Table:
        """Return a row for each attribute."""
        shown = Table("", *(Column(name, justify="right") for name in ("overlap", "by chance")), box=None)
        for row in self.rows:
            shown.add_row(row["attribute"], f"{row['overlap']:.2f}", f"{row['chance']:.2f}")
        return shown

    def draw(self) -> Figure:
        """Draw the target's map and the attribute's side by side, with the edge of what would be perturbed in both."""
        height, width = self.mean_image.shape[1:]

        def draw(axes: list[Axes]) -> None:
            for left, right, (name, one) in zip(axes[::2], axes[1::2], self.found.items(), strict=True):
                maps = {f"{self.target}: {one.overlap:.0%} of it inside": one.target_map}
                maps[f"{name}: {one.chance:.0%} of the pixels inside"] = one.spurious_map
                plot_maps(maps, images=self.mean_image, axes=[left, right], share_scale=False)
                for ax in (left, right):
                    ax.contour(quantile_mask(one.spurious_map, one.quantile), [0.5], colors="white", linewidths=1)

        return drawn((7.0, 3.0 * height / width * len(self.found)), draw, nrows=len(self.found), ncols=2)


def find_overlaps(images: AttributeImages, target: str, names: Sequence[str], **options: Any) -> Overlaps:
    """Measure the overlap of the target with each of the attributes `names`; `options` are `attribute_overlap`'s.

    Images in which the target or the attribute is missing are left out.
    """
    known = {}
    for name in names:
        columns = [each if each in images.attributes else each.partition("=")[0] for each in (target, name)]
        has_both = images.attributes[[each for each in columns if each in images.attributes]].notna().all(axis=1)
        for each in (target, name):
            _without_pixels(images.attributes[has_both]).labels(each)  # raises if it is none, before any training
        known[name] = has_both.to_numpy()
    found = {name: attribute_overlap(images.subset(of), target, name, **options) for name, of in known.items()}
    return Overlaps(target, images.images.mean(0).round().astype(np.uint8), found)


def draw_inspection(found: pd.DataFrame, cells: pd.DataFrame, target: str, threshold: float) -> Figure:
    """Draw the associations and, to their right, the cells of the flagged attributes."""
    flagged = found.index[found["flagged"]]
    panels = 2 if len(flagged) else 1
    # `plot_cells` draws one row for an attribute with two values, and else one for each value.
    rows = max(len(found), int(found.loc[flagged, "values"].replace(2, 1).sum()))

    def draw(axes: list[Axes]) -> None:
        plot_confounders(found, threshold=threshold, ax=axes[0])
        axes[0].set_title(literal(f"Association with {target}"))
        if len(flagged):
            in_order = cells.set_index("attribute").loc[flagged].reset_index()
            plot_cells(in_order, target=target, ax=axes[1])
            axes[1].set_title("The flagged attributes within each class")

    return drawn((5.4 * panels, 0.2 * rows + 1.2), draw, ncols=panels)

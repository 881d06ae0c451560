"""The figures of a run, each with its words."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from captum_region.page import Picture, listed, number
from captum_region.plotting import plot_history, plot_reliability
from fairlearn_bridge import metrics
from fairlearn_bridge.plotting import plot_losses, plot_measure, plot_trade_off
from fairlearn_bridge.report.figures import accuracy_by_cell, accuracy_by_group, map_figure, scheme_strip, sheet
from fairlearn_bridge.report.run import Run
from fairlearn_bridge.report.words import weakest_cell


def result_pictures(run: Run) -> Iterator[Picture]:
    """Yield the figures of the measures that the run has."""
    groups, attribute = run.results["target_names"], run.results["confounder"]
    by_group = [f"accuracy[{group}]" for group in groups]
    if all(run.values(measure) for measure in by_group):
        yield Picture(
            "accuracy_by_group",
            accuracy_by_group(run.table, groups),
            "Dot plot of accuracy by group. " + "; ".join(_listed(run, measure) for measure in by_group) + ".",
            "Accuracy in each group. The closer the two marks of a row, the smaller the gap.",
        )
    if run.values("worst_cell"):
        yield _dots(run, "worst_cell", "Lowest accuracy among the four groups of target and spurious attribute.")
    if run.cells["accuracy"].notna().any():
        yield Picture(
            "accuracy_by_cell",
            accuracy_by_cell(run.cells, run.kinds, groups, run.results["confounder_names"]),
            "Dot plot of accuracy by target and spurious attribute. " + _worst_groups(run),
            f"Accuracy by target (colour) and spurious attribute (filled: {run.results['confounder_names'].get('True')}"
            f"). Where open and filled marks are far apart, the classifier still relies on {attribute}.",
        )
    if run.values("accuracy") and run.values("gap"):
        yield _trade_off(run)
    if run.values("crossed_auc"):
        yield _dots(run, "crossed_auc", "AUC of bias-conflicting images, which no threshold changes; 0.5 is chance.")
    if run.values("flip_rate"):
        text = f"Share of predictions that change when only {attribute} is toggled. Lower is better."
        yield _dots(run, "flip_rate", text)


def _dots(run: Run, measure: str, caption: str) -> Picture:
    figure = sheet(
        0.34 * len(run.kinds) + 1,
        lambda ax: plot_measure(run.table, measure, kinds=run.kinds, label=run.label(measure), ax=ax),
        columns=4,
    )
    alt = f"Dot plot. {_listed(run, measure)}."
    return Picture(measure, figure, alt, f"{caption} Dashed: the value of the first row.")


def _trade_off(run: Run) -> Picture:
    text = ""
    if run.front:
        text = (
            " Dashed: the Pareto front. Among mitigators trained on the biased set, none is more accurate than "
            f"{listed(run.front)} without a larger gap."
        )
    return Picture(
        "accuracy_and_gap",
        sheet(4.1, lambda ax: plot_trade_off(run.table, front=run.front, kinds=run.kinds, ax=ax), columns=4),
        f"Scatter plot of accuracy and gap. {_listed(run, 'accuracy')}; {_listed(run, 'gap')}.{text}",
        "Accuracy against the size of the gap: best at the lower right. "
        f"Moving the decision threshold alone can bring a point down.{text}",
    )


def _listed(run: Run, measure: str) -> str:
    values = run.values(measure).items()
    texts = [f"{name} {number(value.mean, signed=metrics.is_signed(measure))}" for name, value in values]
    label = run.label(measure)
    return f"{label[0].upper()}{label[1:]}: {', '.join(texts)}"


def _worst_groups(run: Run) -> str:
    weakest = {name: weakest_cell(run, name) for name in run.kinds}
    texts = [f"{name}: {cell[0]} {number(cell[1].mean)}" for name, cell in weakest.items() if cell is not None]
    return f"The worst group of each: {'; '.join(texts)}."


def map_pictures(run: Run) -> Iterator[Picture]:
    """Yield the figures of where the information is, and of what the schemes do there."""
    maps, attribute = run.maps, run.results["confounder"]
    more: Any = {"truth": maps.get("truth_mean"), "region_accuracy": maps.get("region_accuracy")}
    yield region_map_picture(attribute, maps["mean_image"], maps["pixel_map"], **more)
    if run.calibration is not None:
        found = run.calibration
        surest = found.bins[found.bins["patches"] > 0].iloc[-1]
        yield Picture(
            "reliability",
            sheet(4.1, lambda axes: plot_reliability(found, axes=axes), nrows=2, height_ratios=(3, 1), sharex=True),
            f"Reliability diagram of the region classifier on {found.images:,} test images: expected calibration error "
            f"{found.error:.3f}. Where it is most confident, at {surest['confidence']:.2f}, it is right in "
            f"{surest['accuracy']:.2f} of {surest['patches']:,.0f} patches.",
            f"How often the region classifier is right at each confidence, over all regions of {found.images:,} test "
            f"images, half of them with {attribute}. Above the diagonal it is underconfident, below overconfident.",
        )
    if len(maps["example_images"]):
        schemes, labels = ([str(name) for name in maps[key]] for key in ("example_schemes", "example_labels"))
        changed = {name: maps[f"example_{name}"] for name in schemes}
        yield Picture(
            "schemes",
            scheme_strip(maps["example_images"], maps["example_maps"], changed, labels),
            f"Training images, a row each: {'; '.join(labels)}. Columns: the image, its map of {attribute}, and the "
            f"image as changed by {', '.join(schemes)}.",
            "How each scheme changes training images. All maps have the same scale.",
        )


def training_pictures(run: Run) -> Iterator[Picture]:
    """Yield the training curves that the run has."""
    if len(run.history):
        accuracy = run.history.reindex(columns=["valid_accuracy"])["valid_accuracy"]
        validated = bool(accuracy.notna().any())
        yield Picture(
            "region_training",
            sheet(2.9, lambda axes: plot_history(run.history, axes=axes), ncols=1 + validated, squeeze=False),
            f"Training of the region classifier: after {len(run.history)} epochs the loss is "
            f"{run.history['loss'].iloc[-1]:.3f}"
            + (f", validation accuracy {accuracy.iloc[-1]:.3f}." if validated else "."),
            "Training of the region classifier"
            + ("; the accuracy is on random regions of validation images." if validated else "."),
        )
    trainings = run.trainings[run.trainings["losses"].map(len) > 0]
    if len(trainings):
        yield losses_picture(trainings, run.kinds)


def region_map_picture(
    attribute: str,
    mean_image: NDArray[np.uint8],
    pixel_map: NDArray[np.float32],
    *,
    truth: NDArray[Any] | None = None,
    region_accuracy: NDArray[Any] | None = None,
    chance: float = 0.5,
) -> Picture:
    """Return the mean map over the mean image, beside the truth and the accuracy by region where they are known."""
    row, column = np.unravel_index(int(np.argmax(pixel_map)), pixel_map.shape)
    return Picture(
        "region_map",
        map_figure(mean_image, pixel_map, truth=truth, region_accuracy=region_accuracy, chance=chance),
        f"The mean training image and, over it, the mean map of confidence about {attribute}: from "
        f"{pixel_map.min():.2f} to {pixel_map.max():.2f}, largest at {row / pixel_map.shape[0]:.0%} of the height and "
        f"{column / pixel_map.shape[1]:.0%} of the width."
        + ("" if truth is None else " Next to it, where the attribute truly changes the picture."),
        f"Where a small classifier that sees one region at a time can recognise {attribute}. 1 is certain; a guess has "
        f"the confidence 0, and the accuracy {chance:.2g}."
        + ("" if truth is None else " The truth is known for drawn faces: the pixels that toggling it changes."),
    )


def losses_picture(trainings: pd.DataFrame, kinds: Mapping[str, str]) -> Picture:
    """Return the losses by epoch of trainings, which all have some."""
    ends = [f"{row['mitigator']} {row['losses'][-1]:.3f}" for row in trainings.to_dict("records")]
    return Picture(
        "training_losses",
        sheet(3.4, lambda ax: plot_losses(trainings, kinds=kinds, legend=False, ax=ax), columns=2),
        f"Training losses by epoch, at the end: {', '.join(ends)}.",
        "Training losses of the classifiers"
        + (", mean over seeds; each seed is faint." if trainings["seed"].nunique() > 1 else "."),
    )

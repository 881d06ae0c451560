"""The figures of a run, each with its words."""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib import rc_context

from fairlearn_bridge import metrics
from fairlearn_bridge.report import figures
from fairlearn_bridge.report.words import listed, number, weakest_cell

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.figure import Figure

    from captum_region.calibration import Calibration
    from fairlearn_bridge.report.run import Run

LARGEST_IMAGE = 1_400_000  # bytes; only the strip of examples comes near, and the page stays below 3 MB


@dataclass(frozen=True)
class Picture:
    """A figure of the page, with its words."""

    name: str
    figure: Figure
    alt: str
    caption: str


def result_pictures(run: Run) -> Iterator[Picture]:
    """Yield the figures of the measures that the run has."""
    names = run.results["target_names"]
    groups = [f"accuracy[{group}]" for group in names]
    if any(run.values(measure) for measure in groups):
        yield Picture(
            "accuracy_by_group",
            figures.accuracy_by_group(run.table, run.mitigators, names),
            "Dot plot of accuracy by group. " + "; ".join(_listed(run, measure) for measure in groups) + ".",
            "Accuracy within each group. The nearer the two marks of a row, the smaller the gap.",
        )
    if run.values("worst_cell"):
        yield _dots(run, "worst_cell", "Accuracy of the worst cell. Dashed: the first row's value.")
    if run.cells["accuracy"].notna().any():
        yield Picture(
            "accuracy_by_cell",
            figures.accuracy_by_cell(run.cells, run.mitigators, names, run.results["confounder_names"]),
            "Dot plot of accuracy by cell of target and confounder. " + _worst_cells(run),
            f"Accuracy in each cell. A colour is a group; filled: {run.results['confounder_names'].get('True')}. "
            "Open and filled marks far apart: the confounder still decides.",
        )
    if run.values("accuracy") and run.values("gap"):
        yield Picture(
            "accuracy_and_gap",
            figures.accuracy_gap_plane(run.table, run.mitigators, run.front),
            f"Scatter plot of accuracy and gap. {_listed(run, 'accuracy')}; {_listed(run, 'gap')}.{_front(run)}",
            "Accuracy against the size of the gap: best at the lower right. "
            f"A moved threshold alone can bring a point down.{_front(run)}",
        )
    if run.values("crossed_auc"):
        yield _dots(run, "crossed_auc", "AUC of the crossed cells, which no moved threshold changes; 0.5 is chance.")
    if run.values("flip_rate"):
        text = f"Predictions that change when only {run.results['confounder']} is toggled. Further left is better."
        yield _dots(run, "flip_rate", text)


def _front(run: Run) -> str:
    if not run.front:
        return ""
    return (
        f" Dashed: the Pareto front. Trained on the biased set, none has a higher accuracy than {listed(run.front)} "
        "without a larger gap."
    )


def _dots(run: Run, measure: str, caption: str) -> Picture:
    figure = figures.measure_dots(run.table, run.mitigators, measure, run.label(measure))
    return Picture(measure, figure, f"Dot plot. {_listed(run, measure)}.", caption)


def _listed(run: Run, measure: str) -> str:
    values = run.values(measure)
    texts = [
        f"{name} {number(values[name].mean, signed=metrics.is_signed(measure))}" for name in run.names if name in values
    ]
    label = run.label(measure)
    return f"{label[0].upper()}{label[1:]}: {', '.join(texts)}"


def _worst_cells(run: Run) -> str:
    weakest = {name: weakest_cell(run, name) for name in run.names}
    texts = [f"{name}: {cell[0]} {number(cell[1].mean)}" for name, cell in weakest.items() if cell is not None]
    return f"The worst of each: {'; '.join(texts)}."


def map_pictures(run: Run) -> Iterator[Picture]:
    """Yield the figures of where the confounder's information sits, and of what the schemes do there."""
    maps, confounder = run.maps, run.results["confounder"]
    truth = maps.get("truth_mean")
    pixel_map = maps["pixel_map"]
    figure = figures.map_figure(maps["mean_image"], pixel_map, truth=truth, region_accuracy=maps.get("region_accuracy"))
    row, column = np.unravel_index(int(np.argmax(pixel_map)), pixel_map.shape)
    yield Picture(
        "region_map",
        figure,
        f"The mean training image and, over it, the mean map of confidence about {confounder}: from "
        f"{pixel_map.min():.2f} to {pixel_map.max():.2f}, largest at {row / pixel_map.shape[0]:.0%} of the height and "
        f"{column / pixel_map.shape[1]:.0%} of the width."
        + (" Beside it, where the confounder truly changes the picture." if truth is not None else ""),
        f"Where a small classifier that sees one region at a time can tell {confounder}: 0 is a guess, 1 is certain."
        + (
            " The truth is known because the faces are drawn: the pixels that toggling it changes."
            if truth is not None
            else ""
        ),
    )
    if run.calibration is not None:
        found = run.calibration
        yield Picture(
            "reliability",
            figures.reliability(found),
            f"Reliability diagram of the region classifier on {found.images:,} test images: expected calibration error "
            f"{found.error:.3f}. " + _reliability_in_words(found),
            f"How often the region classifier is right where it is how sure, over all regions of {found.images:,} test "
            f"images, as many with {confounder} as without. Above the diagonal it is too modest, below too sure.",
        )
    if len(maps["example_images"]):
        schemes = [str(name) for name in maps["example_schemes"]]
        labels = [str(label) for label in maps["example_labels"]]
        changed = {name: maps[f"example_{name}"] for name in schemes}
        yield Picture(
            "schemes",
            figures.scheme_strip(maps["example_images"], maps["example_maps"], changed, labels),
            f"Training images, a row each: {'; '.join(labels)}. Columns: the image, its map of {confounder}, and the "
            f"image as changed by {', '.join(schemes)}.",
            "What each scheme makes of training images. All maps are on one scale.",
        )


def _reliability_in_words(calibration: Calibration) -> str:
    full = calibration.bins[calibration.bins["patches"] > 0]
    surest = full.iloc[-1]
    return (
        f"Where it is surest, at {surest['confidence']:.2f}, it is right in {surest['accuracy']:.2f} of "
        f"{surest['patches']:,.0f} patches."
    )


def training_pictures(run: Run) -> Iterator[Picture]:
    """Yield the training curves that the run has."""
    if len(run.history):
        last = run.history.iloc[-1].to_dict()
        accuracy = last.get("valid_accuracy", math.nan)
        validation = f", validation accuracy {accuracy:.3f}" if pd.notna(accuracy) else ""
        yield Picture(
            "region_training",
            figures.classifier_history(run.history),
            f"Training of the region classifier: after {len(run.history)} epochs the loss is "
            f"{last['loss']:.3f}{validation}.",
            "The region classifier's training; its accuracy is on random regions of validation images.",
        )
    ends = {
        str(name): losses[-1]
        for name, losses in zip(run.trainings["mitigator"], run.trainings["losses"], strict=True)
        if len(losses)
    }
    if ends:
        yield Picture(
            "training_losses",
            figures.training_losses(run.trainings, run.mitigators),
            f"Training losses by epoch, at the end: {', '.join(f'{name} {loss:.3f}' for name, loss in ends.items())}.",
            "Training losses of the target classifiers"
            + (", mean over seeds; each seed is faint." if run.trainings["seed"].nunique() > 1 else "."),
        )


def embedded(picture: Picture) -> tuple[bytes, dict[str, Any]]:
    """Return a picture as PNG, and as what a page needs to show it."""
    png, source = _encode(picture.figure)
    width, height = (round(96 * inches) for inches in picture.figure.get_size_inches())
    words = {"name": picture.name, "alt": picture.alt, "caption": picture.caption}
    return png, {**words, "source": source, "width": width, "height": height}


def _encode(figure: Figure) -> tuple[bytes, str]:
    """Return a figure as PNG, and as the source of an image: SVG where that is smaller."""
    kind, data = "png", b""
    for dpi in (160, 120, 90, 60):
        data = png = _saved(figure, dpi=dpi, format="png", metadata={"Software": None})
        # The layout is costly and known now.
        figure.set_layout_engine("none")
        if len(png) <= LARGEST_IMAGE:
            break
    if not any(ax.images for ax in figure.axes):
        # The salt makes the same figure the same text.
        with rc_context({"svg.hashsalt": "fairlearn_bridge"}):
            svg = _saved(figure, format="svg", metadata={"Date": None, "Creator": None})
        kind, data = ("svg+xml", svg) if len(svg) < len(png) else (kind, data)
    return png, f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _saved(figure: Figure, **options: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, facecolor="white", **options)
    return buffer.getvalue()

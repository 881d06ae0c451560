"""The figures of a mitigation, each with its words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from captum_region import RegionAttribution
from captum_region.batches import as_bytes
from captum_region.datasets import Faces
from captum_region.datasets.faces import ATTRIBUTES
from captum_region.page import Picture, number
from fairlearn_bridge.inspecting import RankedImages
from fairlearn_bridge.inspection import name_of
from fairlearn_bridge.mitigation.data import cells_of, samples_of
from fairlearn_bridge.mitigation.measures import CHOSEN, LIKELIEST
from fairlearn_bridge.mitigation.words import cells_of_one, names_of, rows_of, shown_name, value_of
from fairlearn_bridge.noise import AttributionNoise
from fairlearn_bridge.plotting import BASELINE, Interval
from fairlearn_bridge.regions import number_of
from fairlearn_bridge.report.figures import dot_plot, scheme_strip
from fairlearn_bridge.report.pictures import losses_picture, region_map_picture
from fairlearn_bridge.report.words import with_interval
from fairlearn_bridge.spuriosity import rank_by_evidence, ranking_gap

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from fairlearn_bridge.mitigation.running import Mitigation

EXAMPLES = 6
# Donors of the examples are of so many training images.
_DONORS = 500
# dot_plot has no more marks.
_SERIES = 8


def result_pictures(found: Mitigation) -> Iterator[Picture]:
    """Yield the figures of what was measured."""
    yield _by_cell(found)
    yield _worst_group(found)


def _by_cell(found: Mitigation) -> Picture:
    series, worst = {}, []
    for name in names_of(found)[:_SERIES]:
        cells = cells_of_one(found, name, found.decision)
        rows = {
            f"{row['group']} (n = {row['images']})": Interval(row["accuracy"], row["low"], row["high"])
            for row in cells.to_dict("records")
        }
        series[shown_name(name)] = rows
        least = min(rows, key=lambda cell: rows[cell].mean)
        worst.append(f"{shown_name(name)}: {least} {number(rows[least].mean)}")
    left_out = f" Of the first {_SERIES} classifiers." if len(names_of(found)) > _SERIES else ""
    how = "at the threshold chosen on validation images" if found.decision == CHOSEN else "of the likeliest class"
    return Picture(
        "accuracy_by_cell",
        dot_plot(series, rows, "accuracy"),
        f"Dot plot of accuracy by cell. The worst group of each: {'; '.join(worst)}.",
        f"Accuracy in each cell, {how}. Bars: Wilson's 95 % intervals; n: its test images.{left_out}",
    )


def _worst_group(found: Mitigation) -> Picture:
    decisions = {"threshold 0.5": LIKELIEST, "chosen threshold": CHOSEN} if found.thresholds else {"": LIKELIEST}
    series = {}
    for text, decision in decisions.items():
        rows = rows_of(found, "worst_cell", decision)
        series[text or "likeliest class"] = {shown_name(name): value_of(row) for name, row in rows.items()}
    texts = [
        f"{text}: {', '.join(f'{name} {number(value.mean)}' for name, value in values.items())}"
        for text, values in series.items()
    ]
    return Picture(
        "worst_group",
        dot_plot(series, map(shown_name, names_of(found)), "worst-group accuracy"),
        f"Dot plot of worst-group accuracy. {'; '.join(texts)}.",
        "Lowest accuracy of a cell. Bars: 95 % intervals that allow for not knowing which cell is the worst.",
    )


def map_pictures(found: Mitigation) -> Iterator[Picture]:
    """Yield the figures of where the spurious attributes show, and of what training makes of images."""
    train, to_pixels = found.data.train, found.trained.classifier.grid.to_pixels
    pixel_map = to_pixels(found.trained.maps.double().mean(0).float()).numpy()
    confounders, faces = found.config.confounders, found.data.test
    truth = None
    if isinstance(faces, Faces) and set(confounders) <= set(ATTRIBUTES):
        truth = np.mean([faces.truth(name) for name in confounders], axis=(0, 1))
    mean_image = train.images.mean(0).round().astype(np.uint8).transpose(1, 2, 0)
    accuracy, chance = found.trained.regions.region_accuracy, 1 / found.trained.classifier.num_classes
    more: Any = {"truth": truth, "region_accuracy": accuracy, "chance": chance}
    yield region_map_picture(found.config.confounder, mean_image, pixel_map, **more)
    yield _examples(found)
    if found.trained.classifier.num_classes == 2 and min(np.unique(_labels(found), return_counts=True)[1]) > 1:
        yield _ends(found)


def _labels(found: Mitigation) -> NDArray[Any]:
    """Return the classes of the test images."""
    return samples_of(found.config, found.data.test).y


def _ends(found: Mitigation) -> Picture:
    """Return the test images in which the spurious attribute shows most and least, with the accuracy on both."""
    test, config, labels = found.data.test, found.config, _labels(found)
    values = np.unique(samples_of(config, found.data.train).confounder).tolist()
    value = number_of(config.confounder, values)
    attribution = RegionAttribution(found.trained.classifier)
    ranking = rank_by_evidence(attribution, test.images, within=labels, target=value)
    of_test = found.predictions[found.predictions["set"] == "test"]
    gaps = {}
    for name in ("original", config.scheme):
        rows = of_test[of_test["mitigator"] == name].sort_values("image")
        right = (rows["decided"] == rows["target"]).to_numpy(bool)
        gaps[shown_name(name)] = ranking_gap(ranking, right)
    names = {label: name_of(config.target, label) for label in np.unique(labels)}
    words = [
        f"{name} {number(gap.top)} and {number(gap.bottom)}, "
        f"a difference of {with_interval(Interval(gap.difference, gap.low, gap.high), signed=True)}"
        for name, gap in gaps.items()
    ]
    return Picture(
        "ranking",
        RankedImages(test, ranking, gaps, names).draw(),
        f"Strips of test images of each class, those in which {values[value]} shows most and those in which it "
        "shows least.",
        f"Test images of each class in which the region classifier finds {values[value]} most and least, without "
        f"its labels. Accuracy on the quarter of each class at both ends: {'; '.join(words)}.",
    )


def _examples(found: Mitigation) -> Picture:
    """Return training images, of as many cells as fit, with the perturbation of the mitigated classifier."""
    cells = cells_of(found.config, found.data.train)
    first = np.sort(np.unique(cells, return_index=True)[1])[:EXAMPLES]
    images, maps, changed, scheme = _perturbed(found, first)
    labels = [str(cell) for cell in cells[first]]
    return Picture(
        "training_images",
        scheme_strip(images, maps, {scheme: changed}, labels),
        f"Training images, a row each: {'; '.join(labels)}. Columns: the image, its map, and the image as "
        f"changed by {scheme}.",
        f"How {found.config.scheme} changes training images, each time anew. All maps have the same scale.",
    )


def _perturbed(found: Mitigation, chosen: NDArray[np.intp]) -> tuple[Any, Any, Any, str]:
    config, scheme, maps = found.config, found.mitigator.scheme_, found.trained.maps
    samples = samples_of(config, found.data.train)
    # Some of the whole set, which may be sorted, and one of each cell, without which there may be no donor.
    spread = np.linspace(0, len(maps) - 1, min(_DONORS, len(maps))).astype(int)
    of_cells = np.unique(cells_of(config, found.data.train), return_index=True)[1]
    some = np.unique(np.concatenate([chosen, spread, of_cells]))
    pixel_maps = found.trained.classifier.grid.to_pixels(maps[some])
    control = AttributionNoise(scheme, found.mitigator.quantile_, config.noise_std, transplant_share=1)
    general = found.trained.classifier.grid.to_pixels(maps.double().mean(0).float()[None])
    noise = control.fit(
        general if control.is_general else pixel_maps,
        samples.X[some],
        samples.confounder[some],
        labels=samples.y[some],
        random_state=config.random_state,
    )
    at = np.searchsorted(some, chosen)
    images = np.asarray(samples.X)[chosen]
    generator = torch.Generator().manual_seed(config.random_state)
    perturbed = noise(torch.from_numpy(images).float() / 255, torch.from_numpy(at), generator)
    return images, pixel_maps[at].numpy(), as_bytes(perturbed), scheme


def training_pictures(found: Mitigation) -> Iterator[Picture]:
    """Yield the training curves."""
    trainings = found.trained.trainings
    trainings = trainings[trainings["losses"].map(len) > 0].replace({"mitigator": {"original": BASELINE}})
    kinds = {shown_name(name): arm.kind for name, arm in found.trained.arms.items()}
    yield losses_picture(trainings, kinds)

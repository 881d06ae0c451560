"""Whether the dense kind is as good as others: accuracy, calibration, localisation and cost, on the same images.

``python examples/benchmarks/kinds.py --data celeba --root DATA --out kinds.json`` trains the paper's ResNet18, which
sees a patch at a time, and the dense network, each by its own recipe, and compares them. ``--kind "late steps" --kind
dense`` compares the dense network with what it was before it stepped early. With --keep, a study that was stopped
resumes.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer
from scipy.stats import pearsonr
from studies import Keep, Out, Seeds, markdown, rounded

from captum_region import DenseRegionClassifier, PatchRegionClassifier, RegionGrid, fit_region_classifier
from captum_region.batches import batches
from captum_region.calibration import balanced_subset, of_logits
from captum_region.cli.options import Cache, Data, Debug, Device, Quiet, ReplaceFile, Root, Seed, Size
from captum_region.cli.reading import Source, set_apart
from captum_region.cli.running import check_file, errors_in_one_line
from captum_region.confidence import negative_entropy
from captum_region.datasets import Faces
from captum_region.io.files import write_json
from captum_region.io.provenance import provenance
from captum_region.saliency.localisation import pixel_auc, rank_accuracy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from captum_region import RegionClassifier
    from captum_region.datasets import AttributeImages


class LateSteps(DenseRegionClassifier):
    """The dense network that steps less, and so keeps more pixels for its later convolutions."""

    step_until = 8


KINDS: dict[str, Any] = {"patch": PatchRegionClassifier, "dense": DenseRegionClassifier, "late steps": LateSteps}
USUAL = ("patch", "dense")
MEASURES = {
    "accuracy": "mean balanced accuracy",
    "calibration_error": "calibration error",
    "top_inside": "top pixels inside the truth",
    "pixel_auc": "pixel AUC",
    "training": "training, s",
    "map": "a map, ms",
}
_DIGITS = {"training": 0, "map": 1}


def measure_classifier(
    classifier: RegionClassifier, images: AttributeImages, attribute: str, *, show_progress: bool = False
) -> tuple[dict[str, float], NDArray[np.float32]]:
    """Measure a region classifier on images it was not trained on.

    Parameters
    ----------
    classifier : RegionClassifier
    images : AttributeImages
        With `Faces`, whose truth is known, localisation is measured on the faces that have the attribute.
    attribute : str
        Or attribute=value.
    show_progress : bool, default=False
        A progress bar on stderr.

    Returns
    -------
    measures : dict of str to float
        ``accuracy``, the mean over regions of the balanced accuracy; ``calibration_error``; ``map``, milliseconds of
        the processor per image; with truth ``top_inside``, the share of a map's top pixels inside the truth, and
        ``pixel_auc``, each a mean over images.
    mean_map : ndarray of shape (rows, cols)
    """
    labels = images.labels(attribute)
    start = time.process_time()
    with torch.inference_mode():
        parts = batches(images.images, 64, show_progress=show_progress, desc=type(classifier).__name__)
        logits = torch.cat([classifier.forward_grid(batch.to(classifier.device)).cpu() for batch in parts])
    per_map = 1e3 * (time.process_time() - start) / len(images)
    calibration = of_logits([(logits, torch.from_numpy(classifier.encode(labels)))])
    measures = {"accuracy": calibration.accuracy, "calibration_error": calibration.error, "map": per_map}
    maps = negative_entropy(logits)
    if isinstance(images, Faces) and labels.dtype == bool:
        pixels = classifier.grid.to_pixels(maps[np.flatnonzero(labels)])
        truth = images.truth(attribute, labels)
        measures |= {
            "top_inside": float(np.nanmean(rank_accuracy(pixels, truth))),
            "pixel_auc": float(np.nanmean(pixel_auc(pixels, truth))),
        }
    return measures, maps.double().mean(0).float().numpy()


def study_kinds(
    train: AttributeImages,
    test: AttributeImages,
    attribute: str,
    seed: int,
    *,
    kinds: Sequence[str] = USUAL,
    stride: int = 2,
    epochs: dict[str, int | None] | None = None,
    limit: int = 400,
    checkpoint_dir: Path | None = None,
    device: str = "cpu",
    show_progress: bool = False,
) -> list[dict[str, Any]]:
    """Train each kind by its recipe and measure it on the same images.

    Parameters
    ----------
    train, test : AttributeImages
    attribute : str
        Or attribute=value.
    seed : int
    kinds : sequence of names of `KINDS`
    stride : int, default=2
        Of the regions.
    epochs : dict of kind to int, optional
        By default each kind's own.
    limit : int, default=400
        Test images at most, equally many of each class.
    checkpoint_dir : path, optional
        Keeps what is done.
    device : str, default="cpu"
    show_progress : bool, default=False

    Returns
    -------
    list of dict
        A row a kind: what `measure_classifier` gives, ``training``, seconds of the processor (None where states are
        kept), ``train_images`` and ``test_images``, and ``correlation`` (Pearson) of its mean map with that of the
        first.
    """
    usual = RegionGrid.for_images(train.image_size)
    grid = RegionGrid(usual.image_size, usual.patch_size, stride)
    chosen = test.subset(balanced_subset(test.labels(attribute), limit=limit, random_state=seed))
    rows: list[dict[str, Any]] = []
    mean_maps = []
    for kind in kinds:
        classifier = KINDS[kind](grid, 2, random_state=seed)
        start = time.process_time()
        fit_region_classifier(
            classifier,
            train.images,
            train.labels(attribute),
            epochs=None if epochs is None else epochs.get(kind),
            random_state=seed,
            device=device,
            checkpoint_dir=checkpoint_dir,
            show_progress=show_progress,
        )
        seconds = time.process_time() - start if checkpoint_dir is None else None
        measures, mean_map = measure_classifier(classifier, chosen, attribute, show_progress=show_progress)
        mean_maps.append(mean_map.ravel())
        counts = {"training": seconds, "train_images": len(train), "test_images": len(chosen)}
        correlation = float(pearsonr(mean_maps[0], mean_maps[-1]).statistic)
        rows.append({"kind": kind, "seed": seed, **measures, **counts, "correlation": correlation})
    return rows


def table_of(found: dict[str, Any]) -> pd.DataFrame:
    """Return a row an attribute, a column a measure: kind / kind, of each the mean over seeds and, of several, spread.

    The last column is the correlation of the mean maps.
    """
    by_kind: Any = pd.DataFrame(found["rows"]).groupby(["attribute", "kind"], sort=False)
    shown: dict[str, dict[str, list[str]]] = {}
    for (attribute, _), rows in by_kind:
        cells = shown.setdefault(attribute, {})
        for name, title in MEASURES.items():
            if name in rows and rows[name].notna().all():
                digits = _DIGITS.get(name, 3)
                spread = f" ± {rows[name].std():.{digits}f}" if len(rows) > 1 else ""
                cells.setdefault(title, []).append(f"{rows[name].mean():.{digits}f}{spread}")
        cells["correlation of the mean maps"] = [f"{rows['correlation'].mean():.2f}"]
    table = pd.DataFrame(
        {name: {title: " / ".join(words) for title, words in cells.items()} for name, cells in shown.items()}
    )
    return table.T


def main(
    data: Data = "faces",
    root: Root = Path(),
    attribute: Annotated[list[str] | None, typer.Option(help="Again for more; those of the paper by default.")] = None,
    kind: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(KINDS)}; patch and dense by default.")] = None,
    size: Size = 32,
    stride: Annotated[int, typer.Option(help="Step between regions.", min=1)] = 2,
    images: Annotated[int | None, typer.Option(help="Training images; all if not given.")] = 3000,
    limit: Annotated[int, typer.Option(help="Test images at most, equally many of each class.")] = 400,
    patch_epochs: Annotated[int | None, typer.Option(help="By default the recipe's.")] = None,
    dense_epochs: Annotated[int | None, typer.Option(help="By default the recipe's.")] = None,
    seeds: Seeds = 1,
    seed: Seed = 0,
    keep: Keep = None,
    out: Out = None,
    device: Device = "cpu",
    cache: Cache = None,
    force: ReplaceFile = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train several kinds on the same images, and compare them on those kept apart.

    Example: python examples/benchmarks/kinds.py --data celeba --root DATA --attribute Eyeglasses --out kinds.json
    """
    with errors_in_one_line(debug):
        if out is not None:
            check_file(out, force)
        kinds = tuple(kind or USUAL)
        if not {*kinds} <= {*KINDS} or len({*kinds}) < len(kinds):
            raise ValueError(f"--kind must be of {', '.join(KINDS)}, each once, got {', '.join(kinds)}")
        train, test = set_apart(*Source(data, root, cache=cache, quiet=quiet).load(size))
        train = train.subset(slice(images))
        epochs = {"patch": patch_epochs, "dense": dense_epochs, "late steps": dense_epochs}
        settings: Any = {"kinds": kinds, "stride": stride, "epochs": epochs, "limit": limit}
        rows = [
            {"attribute": name, **row}
            for name in attribute or ("Blond_Hair", "Eyeglasses", "Smiling", "Wearing_Hat")
            for its_seed in range(seed, seed + seeds)
            for row in study_kinds(
                train, test, name, its_seed, **settings, checkpoint_dir=keep, device=device, show_progress=not quiet
            )
        ]
        settings |= {"data": data, "size": size, "images": len(train), "seeds": seeds, "seed": seed, "device": device}
        found = rounded({"settings": settings, "rows": rows, **provenance()})
        if out is not None:
            write_json(out, found)
        typer.echo(markdown(table_of(found), " / ".join(kinds)))


if __name__ == "__main__":
    typer.run(main)

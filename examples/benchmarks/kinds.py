"""Whether one region classifier is as good as another: accuracy, calibration, localisation, on the same images.

``python examples/benchmarks/kinds.py PATCH DENSE --data celeba --root DATA --attribute Eyeglasses`` compares two
that ``captum-region train`` has made.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
import typer
from rich.table import Table
from scipy.stats import pearsonr

from captum_region.batches import batches
from captum_region.calibration import balanced_subset, of_logits
from captum_region.cli.options import AsJson, Cache, Data, Debug, Device, Quiet, ReplaceFile, Root, Seed
from captum_region.cli.reading import Source
from captum_region.cli.running import check_file, console, errors_in_one_line
from captum_region.confidence import negative_entropy
from captum_region.datasets import Faces
from captum_region.io.files import replacing
from captum_region.saliency.localisation import pixel_auc, rank_accuracy

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from captum_region.classifiers import RegionClassifier
    from captum_region.datasets import AttributeImages


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
        ``accuracy``, the mean over regions of the balanced accuracy; ``calibration_error``; with truth ``top_inside``,
        the share of a map's top pixels inside the truth, and ``pixel_auc``, each a mean over images.
    mean_map : ndarray of shape (rows, cols)
    """
    labels = images.labels(attribute)
    with torch.inference_mode():
        parts = batches(images.images, 64, show_progress=show_progress, desc=type(classifier).__name__)
        logits = torch.cat([classifier.forward_grid(batch.to(classifier.device)).cpu() for batch in parts])
    calibration = of_logits([(logits, torch.from_numpy(classifier.encode(labels)))])
    measures = {"accuracy": calibration.accuracy, "calibration_error": calibration.error}
    maps = negative_entropy(logits)
    if isinstance(images, Faces) and labels.dtype == bool:
        pixels = classifier.grid.to_pixels(maps[np.flatnonzero(labels)])
        truth = images.truth(attribute, labels)
        measures |= {
            "top_inside": float(np.nanmean(rank_accuracy(pixels, truth))),
            "pixel_auc": float(np.nanmean(pixel_auc(pixels, truth))),
        }
    return measures, maps.double().mean(0).float().numpy()


def main(
    first: Annotated[Path, typer.Argument(help="A checkpoint folder, or the --out of captum-region train.")],
    second: Annotated[Path, typer.Argument(help="Another, of the same attribute and grid.")],
    data: Data,
    attribute: Annotated[str, typer.Option(help="The attribute that both were trained on, or attribute=value.")],
    out: Annotated[Path, typer.Option(help="File for the results, JSON.")] = Path("kinds.json"),
    root: Root = Path(),
    limit: Annotated[int, typer.Option(help="Use at most this many images, equally many of each class.")] = 400,
    seed: Seed = 0,
    device: Device = "cpu",
    cache: Cache = None,
    force: ReplaceFile = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Compare two region classifiers on the images that the data set keeps apart from training.

    Example: python examples/benchmarks/kinds.py PATCH DENSE --data celeba --root DATA --attribute Eyeglasses
    """
    with errors_in_one_line(debug):
        check_file(out, force)
        results: dict[str, Any] = {"attribute": attribute, "classifiers": []}
        mean_maps = []
        table = Table(title=f"{data}, {attribute}")
        for folder in (first, second):
            classifier, images = Source(data, root, cache=cache, quiet=quiet).load_for(folder, held_out=True)
            chosen = images.subset(balanced_subset(images.labels(attribute), limit=limit, random_state=seed))
            measures, mean_map = measure_classifier(classifier.to(device), chosen, attribute, show_progress=not quiet)
            mean_maps.append(mean_map.ravel())
            if not table.columns:
                for column in ("", "images", *measures):
                    table.add_column(column)
            table.add_row(type(classifier).__name__, str(len(chosen)), *(f"{value:.3f}" for value in measures.values()))
            results["classifiers"].append({"kind": type(classifier).__name__, "images": len(chosen), **measures})
        results["correlation_of_mean_maps"] = float(pearsonr(*mean_maps).statistic)
        out.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(results, indent=1)
        with replacing(out) as path:
            path.write_text(text + "\n")
        if as_json:
            typer.echo(text)
            return
        # A pipe has no width of its own, and 80 columns would cut the names.
        console().print(table)
        typer.echo(f"correlation of the mean maps: {results['correlation_of_mean_maps']:.3f}")


if __name__ == "__main__":
    typer.run(main)

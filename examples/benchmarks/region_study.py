"""What a region classifier learns from biased data: plainly, within the target's classes, and from unbiased data.

``python examples/benchmarks/region_study.py --data faces`` trains and compares them.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer
from scipy.stats import pearsonr
from sklearn.metrics import roc_auc_score
from studies import Confounders, Out, RegionEpochs, Seeds, Target, TestPerCell, TrainSize, markdown, run_study

from captum_region import DenseRegionClassifier, RegionAttribution, RegionGrid, fit_region_classifier
from captum_region.batches import batches
from captum_region.cli.options import Cache, Data, Debug, Device, Quiet, ReplaceFile, Root, Seed, Size
from captum_region.cli.running import check_file, errors_in_one_line
from captum_region.datasets import Faces
from captum_region.io.files import write_json
from captum_region.saliency.localisation import pixel_auc
from fairlearn_bridge.experiment import samples_of
from fairlearn_bridge.noise import quantile_mask

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from captum_region import RegionClassifier
    from fairlearn_bridge.experiment import ExperimentConfig, ExperimentData
    from fairlearn_bridge.samples import Samples

TRAININGS = ("unbiased", "biased, within classes", "biased, plain")
MEASURES = {
    "accuracy": "mean balanced accuracy",
    "leak": "leak",
    "correlation": "correlation with the unbiased map",
    "iou": "overlap of the masks (IoU)",
    "pixel_auc": "pixel AUC",  # of faces, whose truth is known
}


def study_region_training(
    config: ExperimentConfig, data: ExperimentData, *, show_progress: bool = False
) -> pd.DataFrame:
    """Train a region classifier of the confounder in three ways and compare their maps.

    Unbiased: on the balanced training set. Biased: on the biased one, within the classes of the target as
    `AttributionNoiseMitigator` does, and plainly, where the target predicts the confounder too.

    Parameters
    ----------
    config : ExperimentConfig
        Its target, confounder, ``region_epochs``, ``random_state``, ``device`` and ``quantile``, of the masks that are
        compared, count.
    data : ExperimentData
        From `split_data` or `synthetic_data`. Maps are of its test images, equally many of each cell.
    show_progress : bool, default=False
        Progress bars on stderr.

    Returns
    -------
    DataFrame
        A row a training, in the order of `TRAININGS`: ``accuracy``, of the confounder, the mean over regions, balanced;
        ``correlation`` (Pearson) of its mean map with the unbiased one, and ``iou``, the intersection over union of
        their masks; ``leak``, how well the mean over regions of the confounder's probability separates the target's
        classes among images that all have the confounder, or all do not have it: the area under the ROC, 0.5 if not at
        all; and with `Faces` ``pixel_auc``, the area under the ROC of the pixels of each map of an image with the
        confounder against where it is, the mean over images.
    """
    biased, balanced, test = (samples_of(config, part) for part in (data.biased, data.balanced, data.test))
    grid = RegionGrid.for_images(data.test.image_size)
    sets = zip(TRAININGS, (balanced, biased, biased), (None, biased.y, None), strict=True)
    rows, masks, maps = {}, {}, {}
    for name, train, within in sets:
        classifier = DenseRegionClassifier(grid, 2, random_state=config.random_state)
        fit_region_classifier(
            classifier,
            train.X,
            train.confounder,
            within=within,
            epochs=config.region_epochs,
            random_state=config.random_state,
            device=config.device,
            show_progress=show_progress,
        )
        attribution = RegionAttribution(classifier)
        maps[name] = attribution.mean_map(test.X).cpu()
        masks[name] = quantile_mask(grid.to_pixels(maps[name]), config.quantile)
        rows[name] = _of_probabilities(_probabilities(classifier, test), test)
        rows[name]["correlation"] = float(pearsonr(maps[name].flatten(), maps[TRAININGS[0]].flatten()).statistic)
        both, either = masks[name] & masks[TRAININGS[0]], masks[name] | masks[TRAININGS[0]]
        rows[name]["iou"] = float(both.sum() / either.sum())
        if isinstance(data.test, Faces):
            shows = np.flatnonzero(test.confounder)
            pixels = attribution.pixel_map(torch.from_numpy(data.test.images[shows]))
            truth = data.test.truth(config.confounder, shows)
            rows[name]["pixel_auc"] = float(np.nanmean(pixel_auc(pixels.cpu(), truth)))
    return pd.DataFrame(rows).T.rename_axis("training")


def _probabilities(classifier: RegionClassifier, test: Samples) -> NDArray[np.float64]:
    """Return the probability of the confounder in each image and region, N x regions."""
    with torch.inference_mode():
        logits = [classifier.forward_grid(batch.to(classifier.device)).cpu() for batch in batches(test.X, 64)]
    return torch.cat(logits).double().softmax(1)[:, 1].flatten(1).numpy()


def _of_probabilities(probability: NDArray[np.float64], test: Samples) -> dict[str, float]:
    right = (probability > 0.5) == test.confounder[:, None]
    accuracy = np.mean([right[test.confounder == value].mean() for value in (True, False)])
    # In the protocol's biased set the confounder is associated with the class that is not the target.
    leaks = [roc_auc_score(~test.y[same], probability[same].mean(1)) for same in (test.confounder, ~test.confounder)]
    return {"accuracy": float(accuracy), "leak": float(np.mean(leaks))}


def table_of(found: dict[str, Any]) -> pd.DataFrame:
    """Return a row a spurious attribute, a column a measure: mean and spread over seeds, of each of `TRAININGS`."""
    rows = pd.DataFrame(found["rows"])
    by_training: Any = rows.groupby(["confounder", "training"], sort=False)
    measured = {name: title for name, title in MEASURES.items() if name in rows}
    means, spreads = (getattr(by_training[[*measured]], name)() for name in ("mean", "std"))
    shown: dict[str, dict[str, str]] = {}
    for (confounder, training), mean in means.iterrows():
        of_confounder = shown.setdefault(confounder, {})
        for name, title in measured.items():
            spread = spreads.loc[(confounder, training), name]
            words = f"{mean[name]:.2f}" + ("" if pd.isna(spread) else f" ± {spread:.2f}")
            of_confounder[title] = f"{of_confounder[title]} / {words}" if title in of_confounder else words
    return pd.DataFrame(shown).T


def main(
    data: Data = "faces",
    root: Root = Path(),
    target: Target = "Male",
    confounder: Confounders = None,
    size: Size = 64,
    train_size: TrainSize = None,
    test_per_cell: TestPerCell = None,
    region_epochs: RegionEpochs = None,
    quantile: Annotated[float, typer.Option(help="Of the masks that are compared.")] = 0.7,
    seeds: Seeds = 3,
    seed: Seed = 0,
    out: Out = None,
    device: Device = "cpu",
    cache: Cache = None,
    force: ReplaceFile = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Compare region classifiers trained on unbiased data, within the classes of biased data, and plainly on it.

    Example: python examples/benchmarks/region_study.py --data faces --confounder Blond_Hair --seeds 1
    """
    with errors_in_one_line(debug):
        if out is not None:
            check_file(out, force)
        found = run_study(
            partial(study_region_training, show_progress=not quiet),
            data,
            root,
            target,
            confounder,
            size=size,
            train_size=train_size,
            test_per_cell=test_per_cell,
            seeds=seeds,
            seed=seed,
            cache=cache,
            quiet=quiet,
            quantile=quantile,
            region_epochs=region_epochs,
            device=device,
        )
        if out is not None:
            write_json(out, found)
        typer.echo(markdown(table_of(found), " / ".join(TRAININGS)))


if __name__ == "__main__":
    typer.run(main)

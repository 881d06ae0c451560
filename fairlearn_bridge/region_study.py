"""What a region classifier learns from biased data: plainly, within the target's classes, and from unbiased data.

``python -m fairlearn_bridge.region_study --data faces`` trains and compares them.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import pandas as pd
import torch
import typer
from rich.console import Console
from rich.table import Table
from scipy.stats import pearsonr
from sklearn.metrics import roc_auc_score

from captum_region import DenseRegionClassifier, RegionAttribution, RegionGrid, fit_region_classifier
from captum_region.batches import batches
from captum_region.cli import AsJson, Cache, Data, Debug, Device, Quiet, Root, Seed, Size, read_data, told_in_one_line
from captum_region.comparison.localisation import pixel_auc
from captum_region.datasets import Faces
from fairlearn_bridge.experiment import ExperimentConfig, ExperimentData, samples_of, split_data, synthetic_data
from fairlearn_bridge.noise import quantile_mask

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from captum_region import RegionClassifier
    from fairlearn_bridge.comparison import Samples

TRAININGS = ("unbiased", "biased, within classes", "biased, plain")


def study_region_training(
    config: ExperimentConfig, data: ExperimentData, *, quantile: float = 0.7, show_progress: bool = False
) -> pd.DataFrame:
    """Train a region classifier of the confounder in three ways and compare their maps.

    Unbiased: on the balanced training set. Biased: on the biased one, within the classes of the target as
    `AttributionNoiseMitigator` does, and plainly, where the target tells the confounder too.

    Parameters
    ----------
    config : ExperimentConfig
        Its target, confounder, ``region_epochs``, ``random_state`` and ``device`` count.
    data : ExperimentData
        From `split_data` or `synthetic_data`. Maps are of its test images, equally many of each cell.
    quantile : float, default=0.7
        Of the masks that are compared, in [0, 1].
    show_progress : bool, default=False
        Progress bars on stderr.

    Returns
    -------
    DataFrame
        A row a training, in the order of `TRAININGS`: ``accuracy``, of the confounder, the mean over regions, balanced;
        ``correlation`` (Pearson) of its mean map with the unbiased one, and ``iou``, the intersection over union of
        their masks; ``leak``, how well the mean over regions of the confounder's probability tells the class that goes
        along with it, among images that all have the confounder, or all lack it: the area under the ROC, 0.5 if not at
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
        masks[name] = quantile_mask(grid.to_pixels(maps[name]), quantile)
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
    # In the protocol's biased set the confounder goes along with the class that is not the target.
    leaks = [roc_auc_score(~test.y[same], probability[same].mean(1)) for same in (test.confounder, ~test.confounder)]
    return {"accuracy": float(accuracy), "leak": float(np.mean(leaks))}


def main(
    data: Data = "faces",
    root: Root = Path(),
    target: Annotated[str, typer.Option(help="Binary attribute to classify, or attribute=value.")] = "Male",
    confounder: Annotated[list[str] | None, typer.Option(help="Again for more; the paper's four by default.")] = None,
    size: Size = 64,
    train_size: Annotated[int | None, typer.Option(help="Images of each training set. Faces: 2400 by default.")] = None,
    test_per_cell: Annotated[int | None, typer.Option(help="Test images a cell.")] = None,
    region_epochs: Annotated[int | None, typer.Option(help="Epochs; by default the recipe's.")] = None,
    quantile: Annotated[float, typer.Option(help="Of the masks that are compared.")] = 0.7,
    seeds: Annotated[int, typer.Option(help="Runs with seeds --seed, --seed + 1 ...")] = 3,
    seed: Seed = 0,
    device: Device = "cpu",
    cache: Cache = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Compare region classifiers trained on unbiased data, within the classes of biased data, and plainly on it.

    Example: python -m fairlearn_bridge.region_study --data faces --confounder Blond_Hair --seeds 1
    """
    with told_in_one_line(debug):
        images = None
        if data != "faces":
            images = read_data(data, root, size, cache=cache, skip_damaged=False, quiet=quiet)
        console = Console(width=None if Console().is_terminal else 120)
        found = []
        for name in confounder or ("Blond_Hair", "Eyeglasses", "Smiling", "Wearing_Hat"):
            tables = []
            for its_seed in range(seed, seed + seeds):
                config = ExperimentConfig(
                    target,
                    name,
                    train_size=2400 if images is None and train_size is None else train_size,
                    test_per_cell=182 if images is None and test_per_cell is None else test_per_cell,
                    region_epochs=region_epochs,
                    random_state=its_seed,
                    device=device,
                )
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", UserWarning)  # a balanced set that is not quite: as good as it gets
                    drawn = synthetic_data(config, size) if images is None else split_data(config, *images)
                tables.append(study_region_training(config, drawn, quantile=quantile, show_progress=not quiet))
                found.append(tables[-1].reset_index().assign(confounder=name, seed=its_seed))
            if not as_json:
                console.print(_shown(name, tables))
        if as_json:
            typer.echo(pd.concat(found).to_json(orient="records", indent=1, double_precision=15))


def _shown(name: str, tables: list[pd.DataFrame]) -> Table:
    shown = Table("training", *map(str, tables[0]), title=f"{name}, seeds: {len(tables)}")
    for training in TRAININGS:
        of_seeds = np.array([table.loc[training] for table in tables])
        spread = (
            [f" ± {value:.2f}" for value in of_seeds.std(0, ddof=1)] if len(tables) > 1 else [""] * of_seeds.shape[1]
        )
        shown.add_row(training, *(f"{mean:.2f}{std}" for mean, std in zip(of_seeds.mean(0), spread, strict=True)))
    return shown


if __name__ == "__main__":
    typer.run(main)

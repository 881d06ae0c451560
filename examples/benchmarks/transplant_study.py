"""What decides how well a transplant works: how large it is, how often, with what edges, from whom, and over what.

``python examples/benchmarks/transplant_study.py --data celeba --root DATA`` trains and compares, on images of the
train partition alone.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import joblib
import numpy as np
import pandas as pd
import torch
import typer
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from studies import Confounders, Keep, RegionEpochs, Seeds, Target, TestPerCell, TrainSize, run_study

from captum_region import DenseRegionClassifier, RegionAttribution, RegionGrid, fit_region_classifier
from captum_region.batches import as_floats
from captum_region.cli.options import AsJson, Cache, Data, Debug, Quiet, Root, Seed, Size
from captum_region.cli.running import errors_in_one_line
from fairlearn_bridge import AttributionNoise, ImageClassifier, compare_mitigators, grey_out, quantile_mask
from fairlearn_bridge.experiment import samples_of
from fairlearn_bridge.noise import protect

if TYPE_CHECKING:
    import os

    from numpy.typing import NDArray
    from torch import Tensor

    from captum_region.batches import ImageData
    from fairlearn_bridge.experiment import ExperimentConfig, ExperimentData

MEASURES = ("accuracy", "worst_cell", "crossed_auc")


class GreyInPrediction(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier that is shown grey where `mask` is True, in prediction alone."""

    def __init__(self, estimator: Any, mask: Tensor) -> None:
        self.estimator = estimator
        self.mask = mask

    def fit(self, X: ImageData, y: NDArray[Any]) -> GreyInPrediction:
        """Train the estimator on the images as they are."""
        self.estimator_ = clone(self.estimator).fit(X, y)
        return self

    def predict(self, X: ImageData) -> NDArray[Any]:
        """Return the likeliest label of each image, shape (N,)."""
        predicted: NDArray[Any] = self.estimator_.predict(self._grey(X))
        return predicted

    def predict_proba(self, X: ImageData) -> NDArray[np.float64]:
        """Return the probability of each class, N x classes."""
        probability: NDArray[np.float64] = self.estimator_.predict_proba(self._grey(X))
        return probability

    def _grey(self, X: ImageData) -> Tensor:
        return grey_out(as_floats(torch.as_tensor(np.asarray(X))), self.mask, torch.Generator())


def study_transplants(
    config: ExperimentConfig,
    data: ExperimentData,
    *,
    checkpoint_dir: str | os.PathLike[str] | None = None,
    show_progress: bool = False,
) -> pd.DataFrame:
    """Train with transplants that differ in one thing from those of ``general_transplant``, and compare.

    Parameters
    ----------
    config : ExperimentConfig
        Its target, confounder, ``quantile``, ``epochs``, ``batch_size``, ``lr``, ``region_epochs``, ``random_state``
        and ``n_jobs`` count.
    data : ExperimentData
        From `split_data` or `synthetic_data`.
    checkpoint_dir : path, optional
        See `compare_mitigators`.
    show_progress : bool, default=False
        Progress bars on stderr.

    Returns
    -------
    DataFrame
        A row a variant, ``accuracy``, ``worst_cell`` and ``crossed_auc`` on the test images, see `measure`:

        - ``original`` and ``balanced``: no transplants, on the biased and on the balanced images
        - ``base``: of the configuration's quantile, in half of the images, edges soft over 1/32 of the image, donors
          of the same class where it has the value, drawn so that the confounder becomes as frequent in each class
        - ``quantile 0.5`` ..., ``share 0.25`` ...: of other size, in another share of the images
        - ``hard edges``, ``wide edges``: none, and soft over 1/8 of the image
        - ``donors of any class``: drawn so that the confounder becomes as frequent in all, whatever their class
        - ``donors of the other value``: always of the opposite confounder value, whatever their class
        - ``random donors``
        - ``each image's own mask``: ``specific_transplant``
        - ``target protected``: the pixels that show the confounder most and the target least, see `protect`
        - ``grey in prediction``: the base, and the pixels greyed out in the test images
    """
    biased, balanced, test = (samples_of(config, part) for part in (data.biased, data.balanced, data.test))
    grid = RegionGrid.for_images(data.test.image_size)

    def region_maps(labels: NDArray[Any], within: NDArray[Any]) -> Tensor:
        classifier = DenseRegionClassifier(grid, 2, random_state=config.random_state)
        fit_region_classifier(
            classifier,
            biased.X,
            labels,
            within=within,
            epochs=config.region_epochs,
            random_state=config.random_state,
            checkpoint_dir=checkpoint_dir,
            show_progress=show_progress,
        )
        return RegionAttribution(classifier).region_map(biased.X, show_progress=show_progress)

    own = region_maps(biased.confounder, biased.y)
    mean = grid.to_pixels(own.mean(0, keepdim=True))
    of_target = grid.to_pixels(region_maps(biased.y, biased.confounder).mean(0, keepdim=True))
    random = np.random.default_rng(config.random_state).integers(2, size=len(biased.y))

    def noise(
        maps: Tensor = mean,
        scheme: str = "general_transplant",
        *,
        confounder: NDArray[Any] = biased.confounder,
        labels: NDArray[Any] | None = biased.y,
        **changes: Any,
    ) -> AttributionNoise:
        made = AttributionNoise(scheme, **{"quantile": config.quantile} | changes)
        return made.fit(maps, biased.X, confounder, labels=labels)

    transforms = {
        "base": noise(),
        **{f"quantile {quantile:g}": noise(quantile=quantile) for quantile in (0.5, 0.85)},
        **{f"share {share:g}": noise(transplant_share=share) for share in (0.25, 0.75)},
        "hard edges": noise(edge=0.0),
        "wide edges": noise(edge=1 / 16),
        "donors of any class": noise(labels=None),
        # Each value a class of its own: what it lacks is the other value.
        "donors of the other value": noise(labels=biased.confounder),
        "random donors": noise(confounder=random, labels=None),
        "each image's own mask": noise(grid.to_pixels(own), "specific_transplant"),
        "target protected": noise(protect(mean, of_target[0])),
    }
    original = ImageClassifier(max_epochs=config.epochs, batch_size=config.batch_size, lr=config.lr)
    variants: dict[str, Any] = {"original": original, "balanced": original}
    variants |= {name: clone(original).set_params(batch_transform=made) for name, made in transforms.items()}
    variants["grey in prediction"] = GreyInPrediction(original, quantile_mask(mean, config.quantile))
    table = compare_mitigators(
        variants,
        biased,
        test,
        train_on={"balanced": balanced},
        reuse={"grey in prediction": "base"},
        random_states=[config.random_state],
        n_bootstrap=1,  # its intervals are not used
        n_jobs=config.n_jobs,
        checkpoint_dir=checkpoint_dir,
        show_progress=show_progress,
    )
    means = {name: table[name, "mean"] for name in MEASURES}
    return pd.DataFrame(means).rename_axis("variant")


def main(
    data: Data = "faces",
    root: Root = Path(),
    target: Target = "Male",
    confounder: Confounders = None,
    size: Size = 64,
    train_size: TrainSize = None,
    test_per_cell: TestPerCell = None,
    region_epochs: RegionEpochs = None,
    quantile: Annotated[float, typer.Option(help="Pixels above this quantile of the map change.")] = 0.7,
    epochs: Annotated[int, typer.Option(help="Epochs of the target classifiers.")] = 10,
    batch_size: Annotated[int, typer.Option(help="Batch size of the target classifiers.")] = 128,
    seeds: Seeds = 3,
    seed: Seed = 0,
    jobs: Annotated[int | None, typer.Option(help="Trainings side by side; as many as processors by default.")] = None,
    keep: Keep = None,
    cache: Cache = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Compare transplants of other size, share, edges, donors and masks, on images of the train partition alone.

    Example: python examples/benchmarks/transplant_study.py --data faces --confounder Blond_Hair --seeds 1
    """
    with errors_in_one_line(debug):
        run_study(
            partial(study_transplants, checkpoint_dir=keep, show_progress=not quiet),
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
            as_json=as_json,
            quiet=quiet,
            training_images_alone=True,
            quantile=quantile,
            validation_per_cell=0,
            epochs=epochs,
            batch_size=batch_size,
            region_epochs=region_epochs,
            n_jobs=jobs or joblib.cpu_count(),
        )


if __name__ == "__main__":
    typer.run(main)

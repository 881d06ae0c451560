"""What decides how well a transplant works: where it is, whose, how often, and how long the classifier trains.

``python examples/benchmarks/variants_study.py --data celeba --root DATA --out variants.json`` trains and compares, on
images of the train partition alone. With --keep, a study that was stopped resumes, and one with more seeds or variants
trains those alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import joblib
import numpy as np
import pandas as pd
import torch
import typer
from skorch.callbacks import Callback
from studies import Confounders, Keep, Out, RegionEpochs, Seeds, Target, TestPerCell, TrainSize, markdown, run_study
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

from captum_region import (
    DenseRegionClassifier,
    MultiScaleRegionAttribution,
    RegionAttribution,
    RegionGrid,
    fit_region_classifier,
)
from captum_region.batches import as_floats, batches, take
from captum_region.cli.options import Cache, Data, Debug, Device, Quiet, ReplaceFile, Root, Seed, Size
from captum_region.cli.running import check_file, errors_in_one_line
from captum_region.intervals import paired_differences
from captum_region.io.files import write_json
from captum_region.saliency.study import grids_for
from captum_region.segmentation.weights import PACKAGED
from fairlearn_bridge import AttributionNoise, ImageClassifier, PretrainedClassifier, compare_mitigators
from fairlearn_bridge.experiment import samples_of
from fairlearn_bridge.noise import protect, transplant

if TYPE_CHECKING:
    from torch import Tensor

    from captum_region.batches import ImageData
    from fairlearn_bridge import Samples
    from fairlearn_bridge.experiment import ExperimentConfig, ExperimentData

MEASURES = ("crossed_auc", "worst_cell", "accuracy")
SCHEME = "specific_transplant"
# Of which the most alike becomes the donor.
CANDIDATES = 16
WIDE = 1 / 16


class AverageWeights(Callback):  # type: ignore[misc]
    """Predict with the mean of the weights after each epoch of the last part of training (Izmailov et al. 2018).

    Batch statistics are averaged too.
    """

    def __init__(self, start: float = 0.5) -> None:
        self.start = start

    def on_train_begin(self, net: ImageClassifier, **kwargs: Any) -> None:
        """Begin with no weights; those of a training that resumes are loaded later."""
        self.averaged_ = AveragedModel(net.module_, use_buffers=True)

    def on_epoch_end(self, net: ImageClassifier, **kwargs: Any) -> None:
        """Take the weights in."""
        if len(net.history) > self.start * net.max_epochs:
            self.averaged_.update_parameters(net.module_)

    def on_train_end(self, net: ImageClassifier, **kwargs: Any) -> None:
        """Put their mean in place."""
        net.module_.load_state_dict(self.averaged_.module.state_dict())


@dataclass(eq=False, repr=False)
class SeveralDonors(AttributionNoise):
    """Transplants of the mean of `count` donors, which have the same value of the spurious attribute."""

    count: int = 3

    def __call__(self, images: Tensor, index: Tensor, generator: torch.Generator) -> Tensor:
        """Perturb a batch, as `AttributionNoise` does."""
        assert self.donors_ is not None
        chosen = torch.rand(len(images), generator=generator, device=images.device) < self.transplant_share
        values = self.donors_.draw_values(index, generator)
        mask, mean = self._masks(index, images.device), torch.zeros_like(images)
        for _ in range(self.count):
            donor = self.donors_.draw_with(values, index, generator)
            mean += as_floats(take(self.donors_.images, donor.numpy())).to(images) / self.count
            mask = mask | self._masks(donor, images.device)
        return torch.where(chosen[:, None, None, None], transplant(images, mean, mask, edge=self.edge), images)


class AlikeDonors:
    """Of several donors that `donors` draws for an image, the one whose embedding is the most alike to the image's."""

    def __init__(self, donors: Any, embedding: Tensor, candidates: int = CANDIDATES) -> None:
        self.donors, self.embedding, self.candidates = donors, F.normalize(embedding - embedding.mean(0)), candidates

    @property
    def images(self) -> ImageData:
        """Those that are drawn from."""
        images: ImageData = self.donors.images
        return images

    def draw(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """Return the position of a donor for each image at `index`."""
        values = self.donors.draw_values(index, generator)
        drawn = torch.stack([self.donors.draw_with(values, index, generator) for _ in range(self.candidates)])
        similarity = (self.embedding[drawn] * self.embedding[index.cpu()]).sum(-1)
        similarity[drawn == index.cpu()] = -torch.inf  # itself would change nothing
        return drawn.gather(0, similarity.argmax(0, keepdim=True))[0]


def from_all_classes(donors: Any, classless: Any) -> None:
    """Let `donors` draw the values that it draws from the images of all classes, those of `classless`."""
    donors.pools = classless.pools * len(donors.pools)


def pixels_of(images: ImageData) -> Tensor:
    """Return images as 8 x 8 pixels, N x (C * 64): how a face is lit, turned and framed."""
    small = [F.adaptive_avg_pool2d(as_floats(batch), 8).flatten(1) for batch in batches(images, 256)]
    return torch.cat(small)


def features_of(images: ImageData, device: str) -> Tensor:
    """Return what EfficientNet-Lite0 with ImageNet's weights has before its last layer, N x 1280."""
    network = PretrainedClassifier(PACKAGED, tuple(images.shape[1:]), 2, weights=PACKAGED).eval().to(device)
    network.network.set_submodule(network.head, torch.nn.Identity())
    with torch.inference_mode():
        return torch.cat([network(as_floats(batch.to(device))).cpu() for batch in batches(images, 256)])


@dataclass(frozen=True)
class Setting:
    """What variants are made of: the training images, their maps, and the trainings' settings."""

    config: ExperimentConfig
    biased: Samples
    balanced: Samples
    checkpoint_dir: Path | None
    show_progress: bool

    def classifier(self, noise: Any = None, *, longer: float = 1, **changes: Any) -> ImageClassifier:
        """Return a target classifier that trains with `noise`, `longer` times the epochs of the configuration."""
        config = self.config
        settings: Any = {"batch_size": config.batch_size, "lr": config.lr, "device": config.device} | changes
        return ImageClassifier(max_epochs=round(longer * config.epochs), batch_transform=noise, **settings)

    def noise(
        self, maps: Tensor | None = None, kind: Any = AttributionNoise, of: Samples | None = None, **changes: Any
    ) -> Any:
        """Return a perturbation of the biased images with these maps, their own by default, or `of` others."""
        made = kind(**{"scheme": SCHEME, "quantile": self.config.quantile} | changes)
        samples = self.biased if of is None else of
        return made.fit(self.maps if maps is None else maps, samples.X, samples.confounder, labels=samples.y)

    def alike(self, embedding: Tensor) -> AttributionNoise:
        """Return a perturbation with donors whose embedding is alike."""
        noise: AttributionNoise = self.noise()
        noise.donors_ = AlikeDonors(noise.donors_, embedding)  # type: ignore[assignment]  # has what is used
        return noise

    def classless(self) -> AttributionNoise:
        """Return a perturbation with the base's values of the spurious attribute, from donors of any class."""
        noise: AttributionNoise = self.noise()
        one_class = replace(self.biased, y=np.zeros_like(self.biased.y))
        from_all_classes(noise.donors_, self.noise(of=one_class).donors_)
        return noise

    @cached_property
    def maps(self) -> Tensor:
        """The pixel maps of the biased images, N x height x width."""
        return self._maps(self._regions, self.biased)

    @cached_property
    def balanced_maps(self) -> Tensor:
        """Those of the balanced images."""
        return self._maps(self._regions, self.balanced)

    @cached_property
    def scaled_maps(self) -> Tensor:
        """Those of the biased images by patches of two sizes."""
        both = [self._regions, self._trained(grids_for(self.biased.X.shape[-1])[1], self.biased)]
        return MultiScaleRegionAttribution(both).pixel_map(self.biased.X, show_progress=self.show_progress)

    @cached_property
    def protected_maps(self) -> Tensor:
        """Those of the biased images, low where they tell much about the target."""
        biased = self.biased
        reversed_roles = replace(biased, y=biased.confounder, confounder=biased.y)
        # Of one seed both would begin with the same weights, and what the maps have of chance would be alike.
        of_target = self._trained(self._regions.grid, reversed_roles, self.config.random_state + 1000)
        return protect(self.maps, self._maps(of_target, biased).mean(0))

    @cached_property
    def _regions(self) -> DenseRegionClassifier:
        return self._trained(grids_for(self.biased.X.shape[-1])[0], self.biased)

    def _maps(self, regions: DenseRegionClassifier, samples: Samples) -> Tensor:
        return RegionAttribution(regions).pixel_map(samples.X, show_progress=self.show_progress)

    def _trained(self, grid: RegionGrid, samples: Samples, seed: int | None = None) -> DenseRegionClassifier:
        """Return a region classifier of the spurious attribute, trained within the classes."""
        seed = self.config.random_state if seed is None else seed
        classifier = DenseRegionClassifier(grid, 2, random_state=seed)
        fit_region_classifier(
            classifier,
            samples.X,
            samples.confounder,
            within=samples.y,
            epochs=self.config.region_epochs,
            random_state=seed,
            device=self.config.device,
            checkpoint_dir=self.checkpoint_dir,
            show_progress=self.show_progress,
        )
        return classifier


def _with(**changes: Any) -> Callable[[Setting], Any]:
    """Return what makes a classifier with the base's perturbation, changed in one thing."""
    return lambda setting: setting.classifier(setting.noise(**changes))


def _of(make: Callable[[Samples], dict[str, Any]]) -> Callable[[Setting], Any]:
    """Return the same with donors drawn by other labels."""
    return lambda setting: setting.classifier(setting.noise(of=replace(setting.biased, **make(setting.biased))))


def _random_donors(samples: Samples) -> dict[str, Any]:
    values = np.random.default_rng(0).integers(2, size=len(samples.y))
    return {"confounder": values, "y": np.zeros_like(values)}


VARIANTS: dict[str, Callable[[Setting], Any]] = {
    "ERM": lambda setting: setting.classifier(),
    "balanced": lambda setting: setting.classifier(),
    "base": _with(),
    # With nothing to mitigate: what transplants cost, and what the rest of the face can tell, if the region is always
    # somebody else's.
    "balanced, base": lambda setting: setting.classifier(setting.noise(setting.balanced_maps, of=setting.balanced)),
    "balanced, region of anybody": lambda setting: setting.classifier(
        setting.noise(
            setting.balanced_maps,
            of=replace(setting.balanced, **_random_donors(setting.balanced)),
            transplant_share=1.0,
        )
    ),
    # Where: how much of the image, whose map, which edges.
    **{f"quantile {quantile:g}": _with(quantile=quantile) for quantile in (0.3, 0.7, 0.85)},
    "mean map": _with(scheme="general_transplant"),
    "several scales": lambda setting: setting.classifier(setting.noise(setting.scaled_maps)),
    "target protected": lambda setting: setting.classifier(setting.noise(setting.protected_maps)),
    "hard edges": _with(edge=0.0),
    "wide edges": _with(edge=WIDE),
    # From whom.
    # Values as the base draws them; and drawn so that they become equally frequent in all images together.
    "values by class, donors of any class": lambda setting: setting.classifier(setting.classless()),
    "donors of any class": _of(lambda samples: {"y": np.zeros_like(samples.y)}),
    # Each value a class of its own: what it lacks is the other value.
    "donors of the other value": _of(lambda samples: {"y": samples.confounder}),
    "random donors": _of(_random_donors),
    "mean of three donors": _with(kind=SeveralDonors),
    "donors alike in pixels": lambda setting: setting.classifier(setting.alike(pixels_of(setting.biased.X))),
    "donors alike in features": lambda setting: setting.classifier(
        setting.alike(features_of(setting.biased.X, setting.config.device))
    ),
    # How often, and how long: half of the images are changed; as many epochs longer, or until as many have been seen
    # unchanged.
    **{f"share {share:g}": _with(transplant_share=share) for share in (0.25, 0.75)},
    "1.5 times the epochs": lambda setting: setting.classifier(setting.noise(), longer=1.5),
    "twice the epochs": lambda setting: setting.classifier(setting.noise(), longer=2),
    "averaged weights": lambda setting: setting.classifier(setting.noise(), callbacks=[("average", AverageWeights())]),
    # What helps without transplants as well is none of theirs.
    "ERM, twice the epochs": lambda setting: setting.classifier(longer=2),
    "ERM, averaged weights": lambda setting: setting.classifier(callbacks=[("average", AverageWeights())]),
    "balanced, twice the epochs": lambda setting: setting.classifier(longer=2),
    "balanced, averaged weights": lambda setting: setting.classifier(callbacks=[("average", AverageWeights())]),
}


def study_variants(
    config: ExperimentConfig,
    data: ExperimentData,
    names: Sequence[str] = tuple(VARIANTS),
    *,
    checkpoint_dir: Path | None = None,
    show_progress: bool = False,
) -> pd.DataFrame:
    """Train with transplants that differ in one thing from those of the base, and compare.

    Parameters
    ----------
    config : ExperimentConfig
        Its target, confounder, ``quantile``, ``epochs``, ``batch_size``, ``lr``, ``region_epochs``, ``random_state``,
        ``device`` and ``n_jobs`` count.
    data : ExperimentData
        From `split_data` or `synthetic_data`.
    names : sequence of str
        Of `VARIANTS`, whose ``base`` is each image's own transplant of the configuration's quantile.
    checkpoint_dir : path, optional
        See `compare_mitigators`.
    show_progress : bool, default=False
        Progress bars on stderr.

    Returns
    -------
    DataFrame
        A row a variant, `MEASURES` on the test images, see `measure`.
    """
    if unknown := [name for name in names if name not in VARIANTS]:
        raise ValueError(f"variant must be of {', '.join(VARIANTS)}, got {', '.join(unknown)}")
    biased, balanced, test = (samples_of(config, part) for part in (data.biased, data.balanced, data.test))
    setting = Setting(config, biased, balanced, checkpoint_dir, show_progress)
    table = compare_mitigators(
        {name: VARIANTS[name](setting) for name in names},
        biased,
        test,
        train_on={name: balanced for name in names if name.startswith("balanced")},
        random_states=[config.random_state],
        n_bootstrap=1,  # its intervals are not used
        n_jobs=config.n_jobs,
        checkpoint_dir=checkpoint_dir,
        show_progress=show_progress,
    )
    return pd.DataFrame({name: table[name, "mean"] for name in MEASURES}).rename_axis("variant")


def table_of(found: dict[str, Any]) -> pd.DataFrame:
    """Return a row a variant, a column a spurious attribute: the means over seeds, and of the first their spread.

    The last column is the difference of the bias-conflicting AUC to that of the base, paired by attribute: seeds of one
    attribute are not independent of each other. Of one attribute alone it is paired by seed.
    """
    rows = pd.DataFrame(found["rows"])
    by_cell: Any = rows.groupby(["variant", "confounder"], sort=False)[list(MEASURES)]
    mean, spread = by_cell.mean(), by_cell.std()
    shown: dict[str, dict[str, str]] = {}
    for variant, confounder in mean.index:
        first, *others = mean.loc[(variant, confounder)]
        std = spread.loc[(variant, confounder)].iloc[0]
        words = f"{first:.2f}" + ("" if pd.isna(std) else f" ± {std:.2f}")
        shown.setdefault(variant, {})[confounder] = " / ".join([words, *(f"{one:.2f}" for one in others)])
    for variant, of_variant in rows.groupby("variant", sort=False)[list(MEASURES)].mean().iterrows():
        shown[str(variant)]["mean"] = " / ".join(f"{one:.2f}" for one in of_variant)
    values = rows.pivot(index=["confounder", "seed"], columns="variant", values=MEASURES[0])
    if rows["confounder"].nunique() > 1:
        values = values.groupby(level="confounder").mean()
    if "base" in values and len(values) > 1:
        for variant, row in paired_differences(values, "base").drop("base").iterrows():
            shown[str(variant)]["minus base"] = "{difference:+.3f} [{low:+.3f}, {high:+.3f}]".format(**row)
        shown["base"]["minus base"] = ""
    return pd.DataFrame(shown).T


def main(
    data: Data = "faces",
    root: Root = Path(),
    target: Target = "Male",
    confounder: Confounders = None,
    variant: Annotated[list[str] | None, typer.Option(help="Again for more; all by default.")] = None,
    size: Size = 64,
    train_size: TrainSize = None,
    test_per_cell: TestPerCell = None,
    region_epochs: RegionEpochs = None,
    quantile: Annotated[float, typer.Option(help="Pixels above this quantile of the map change.")] = 0.5,
    epochs: Annotated[int, typer.Option(help="Epochs of the target classifiers.")] = 15,
    batch_size: Annotated[int, typer.Option(help="Batch size of the target classifiers.")] = 32,
    seeds: Seeds = 3,
    seed: Seed = 0,
    jobs: Annotated[int | None, typer.Option(help="Trainings at a time; as many as processors, 1 on a GPU.")] = None,
    keep: Keep = None,
    out: Out = None,
    device: Device = "cpu",
    cache: Cache = None,
    force: ReplaceFile = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Compare transplants with other masks, edges, donors and training, on images of the train partition alone.

    Example: python examples/benchmarks/variants_study.py --data faces --confounder Blond_Hair --seeds 1
    """
    with errors_in_one_line(debug):
        if out is not None:
            check_file(out, force)
        names = tuple(variant or VARIANTS)
        found = run_study(
            partial(study_variants, names=names, checkpoint_dir=keep, show_progress=not quiet),
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
            training_images_alone=True,
            validation_per_cell=0,
            quantile=quantile,
            epochs=epochs,
            batch_size=batch_size,
            region_epochs=region_epochs,
            n_jobs=jobs or (joblib.cpu_count() if device == "cpu" else 1),
            device=device,
        )
        if out is not None:
            write_json(out, found)
        typer.echo(markdown(table_of(found), "bias-conflicting AUC / worst group / accuracy"))


if __name__ == "__main__":
    typer.run(main)

"""Two cues for one attribute: each model shows the cue it uses, the region map shows both.

``python examples/benchmarks/cues.py`` trains and measures it on synthetic faces.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer
from sklearn.metrics import roc_auc_score

from captum_region.attribution import MultiScaleRegionAttribution, RegionAttribution
from captum_region.classifiers import DenseRegionClassifier
from captum_region.cli.options import Debug, Quiet, ReplaceFile, Seed, Size
from captum_region.cli.running import check_file, errors_in_one_line
from captum_region.datasets import make_faces
from captum_region.io.files import records, write_json
from captum_region.io.provenance import provenance
from captum_region.saliency.methods import captum_methods
from captum_region.saliency.study import WholeImageClassifier, grids_for
from captum_region.training import fit_region_classifier

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from captum_region.datasets import Faces

CUES = ("Wearing_Hat", "Smiling")


@dataclass(frozen=True)
class CuesStudy:
    """What `study_cues` found.

    Attributes
    ----------
    table : DataFrame
        One row a map: ``map``, and for each cue the area under the ROC of its pixels against those of neither cue, the
        mean over images; 0.5 is a map that does not show it. ``accuracy`` of the explained model on the faces that
        have both cues or none; NaN for the region maps.
    maps : dict of str to Tensor, shape (N, height, width)
    faces : Faces
        The N faces, which have both cues.
    truth : dict of str to ndarray of bool, shape (N, height, width)
        Where each cue shows.
    """

    table: pd.DataFrame
    maps: dict[str, Tensor]
    faces: Faces
    truth: dict[str, NDArray[np.bool_]]


def study_cues(
    *,
    seed: int = 0,
    size: int = 48,
    images: int = 2000,
    epochs: int = 20,
    region_epochs: int = 100,
    methods: Sequence[str] = ("LayerGradCam", "Occlusion"),
    show_progress: bool = False,
) -> CuesStudy:
    """Give an attribute two redundant cues, and compare the maps of two models with those of the data.

    Faces with the attribute wear a hat and smile. One model learns it from faces on which the smile is random, the
    other from faces on which the hat is; on faces with both cues, both are accurate. The region classifiers are trained
    on faces with both cues, of which either would do.

    Parameters
    ----------
    seed : int, default=0
        Decides faces and trainings.
    size : int, default=48
        Side of the images in pixels.
    images : int, default=2000
        Faces in each of the three training sets; a tenth as many are mapped.
    epochs, region_epochs : int, default=20 and 100
        Of the models, and of the region classifiers.
    methods : sequence of str, default=("LayerGradCam", "Occlusion")
        Of `captum_region.saliency.captum_methods`, which explain the models.
    show_progress : bool, default=False
        Progress bars on stderr.

    Returns
    -------
    CuesStudy
    """
    rng = np.random.default_rng(seed)
    has_it = rng.random(images) < 0.5
    new = rng.random(max(images // 10, 2)) < 0.5
    new[:2] = True, False
    both = make_faces(images, size, attributes=dict.fromkeys(CUES, has_it), random_state=3 * seed)
    test = make_faces(len(new), size, attributes=dict.fromkeys(CUES, new), random_state=3 * seed + 1)
    with_it = test.subset(new)
    pixels = torch.from_numpy(with_it.images).float() / 255
    target = torch.ones(len(pixels), dtype=torch.long)
    maps, accuracy = {}, {}
    for cue in CUES:
        faces = make_faces(images, size, attributes={cue: has_it}, random_state=3 * seed + 2)
        model = WholeImageClassifier(size, seed)
        fit_region_classifier(
            model, faces.images, has_it, epochs=epochs, random_state=seed, show_progress=show_progress
        )
        background = torch.from_numpy(both.images[:64]).float() / 255
        explain = captum_methods(model, model.last, background=background, window=size // 8, stride=size // 16)
        with torch.no_grad():
            predicted = model(torch.from_numpy(test.images).float() / 255).argmax(1).numpy()
        for name in methods:
            row = f"{name}, model of {cue}"
            maps[row] = explain[name](pixels, target)
            accuracy[row] = float((predicted == new).mean())
    classifiers = [DenseRegionClassifier(grid, 2, random_state=seed) for grid in grids_for(size)]
    for classifier in classifiers:
        options: Any = {"random_state": seed, "show_progress": show_progress}
        fit_region_classifier(classifier, both.images, has_it, epochs=region_epochs, **options)
    maps["RegionAttribution"] = RegionAttribution(classifiers[0]).pixel_map(with_it.images)
    maps["MultiScaleRegionAttribution"] = MultiScaleRegionAttribution(classifiers).pixel_map(with_it.images)
    truth = {cue: with_it.truth(cue) for cue in CUES}
    rows = [
        {"map": name, **{cue: _auc(values, truth, cue) for cue in CUES}, "accuracy": accuracy.get(name, np.nan)}
        for name, values in maps.items()
    ]
    return CuesStudy(pd.DataFrame(rows), maps, with_it, truth)


def _auc(maps: Tensor, truth: dict[str, NDArray[np.bool_]], cue: str) -> float:
    """Return how well maps tell a cue's pixels from those of neither."""
    (other,) = (mask for name, mask in truth.items() if name != cue)
    areas = [
        roc_auc_score(inside[~elsewhere], values[~elsewhere])
        for values, inside, elsewhere in zip(maps.numpy(), truth[cue], other, strict=True)
        if 0 < inside[~elsewhere].sum() < (~elsewhere).sum()
    ]
    return float(np.mean(areas))


def table_of(found: dict[str, Any]) -> pd.DataFrame:
    """Return a row a map: mean and spread over seeds of its pixel AUC of each cue, and of its model's accuracy."""
    rows = pd.DataFrame(found["rows"])
    by_map: Any = rows.groupby("map", sort=False)[[*CUES, "accuracy"]]
    means, spreads = by_map.mean(), by_map.std()
    words: pd.DataFrame = means.map("{:.2f}".format) + spreads.map(lambda one: "" if pd.isna(one) else f" ± {one:.2f}")
    return words.where(means.notna(), "").rename(columns={"accuracy": "accuracy of the model"})


def main(
    size: Size = 48,
    images: Annotated[int, typer.Option(help="Faces in each training set.")] = 2000,
    epochs: Annotated[int, typer.Option(help="Of the models.", min=1)] = 20,
    region_epochs: Annotated[int, typer.Option(help="Of the region classifiers.", min=1)] = 100,
    seeds: Annotated[int, typer.Option(help="Runs with seeds --seed, --seed + 1 ...")] = 3,
    seed: Seed = 0,
    out: Annotated[Path | None, typer.Option(help="JSON file of every value, with versions and settings.")] = None,
    force: ReplaceFile = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Show two models of an attribute with two redundant cues, and the region map of the same data.

    Example: python examples/benchmarks/cues.py --seeds 1 --out cues.json
    """
    from studies import markdown, rounded  # which an example, that imports this module, does not find

    with errors_in_one_line(debug):
        if out is not None:
            check_file(out, force)
        settings: Any = {"size": size, "images": images, "epochs": epochs, "region_epochs": region_epochs}
        tables = [
            study_cues(seed=its_seed, **settings, show_progress=not quiet).table.assign(seed=its_seed)
            for its_seed in range(seed, seed + seeds)
        ]
        settings |= {"seeds": seeds, "seed": seed}
        found = rounded({"settings": settings, "rows": records(pd.concat(tables)), **provenance()})
        if out is not None:
            write_json(out, found)
        typer.echo(markdown(table_of(found), "pixel AUC"))


if __name__ == "__main__":
    typer.run(main)

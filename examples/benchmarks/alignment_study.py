"""What is left where faces are not aligned: how well maps localise, and what each scheme achieves.

``python examples/benchmarks/alignment_study.py --out alignment.json`` draws synthetic faces at the same place, and
moved, turned, scaled and mirrored at random, whose truth is known exactly; and trains on each. Moved as far as they can
be, faces show no sex that a small network could learn from so few.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pandas as pd
import typer
from alignment_tables import means_table
from studies import markdown

from captum_region import DenseRegionClassifier, RegionAttribution, RegionGrid, fit_region_classifier
from captum_region.cli.options import Debug, Quiet, ReplaceFile, Seed, Size
from captum_region.cli.running import check_file, errors_in_one_line
from captum_region.datasets import make_faces
from captum_region.io.files import write_json
from captum_region.io.provenance import provenance
from captum_region.saliency.localisation import pixel_auc
from fairlearn_bridge import AttributionNoise, ImageClassifier, Samples, compare_mitigators, confounded_split

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from captum_region.datasets import Faces

SCHEMES = ("general_transplant", "specific_transplant", "general_mask", "specific_mask")
MEASURES = ("accuracy", "worst_cell", "crossed_auc")


def study_alignment(
    *,
    unaligned: float,
    confounder: str = "Blond_Hair",
    size: int = 48,
    train_size: int = 1200,
    test_per_cell: int = 150,
    epochs: int = 10,
    region_epochs: int | None = None,
    quantile: float = 0.5,
    seed: int = 0,
    show_progress: bool = False,
) -> pd.DataFrame:
    """Measure maps and schemes on synthetic faces that are aligned or not.

    Parameters
    ----------
    unaligned : float
        See `make_faces`.
    confounder : str, default="Blond_Hair"
        The spurious attribute of the sex.
    size : int, default=48
        Side of the images in pixels.
    train_size, test_per_cell : int, default=1200 and 150
        See `confounded_split`.
    epochs, region_epochs : int, default=10 and that of the recipe
        Of the target classifiers, and of the region classifiers.
    quantile : float, default=0.5
        Of the schemes.
    seed : int, default=0
        Decides faces and trainings.
    show_progress : bool, default=False
        Progress bars on stderr.

    Returns
    -------
    DataFrame
        A row a mitigator: ``accuracy``, ``worst_cell`` and ``crossed_auc`` on the test faces, see `measure`, and
        ``pixel_auc`` of the maps that the scheme uses, the mean or each image's own, on the test faces with the
        attribute. ``original`` is the ERM baseline, ``balanced`` is trained on unbiased images; the others are the
        schemes, and the schemes with a region classifier that has no position embedding.
    """
    faces = make_faces(4 * train_size, size, unaligned=unaligned, random_state=seed)
    male, value = faces.binary("Male"), faces.binary(confounder)
    split = confounded_split(male, value, train_size=train_size, test_per_cell=test_per_cell, random_state=seed)
    train, balanced, test = (_samples(faces, confounder, part) for part in (split.biased, split.balanced, split.test))
    grid = RegionGrid.for_images(size)
    original = ImageClassifier(max_epochs=epochs, batch_size=32)
    mitigators: dict[str, Any] = {"original": original, "balanced": original}
    found = {}
    for kind, knows_where in (("", True), (", no positions", False)):
        classifier = DenseRegionClassifier(grid, 2, position_embedding=knows_where, random_state=seed)
        shown: Any = {"random_state": seed, "show_progress": show_progress}
        fit_region_classifier(classifier, train.X, train.confounder, within=train.y, epochs=region_epochs, **shown)
        attribution = RegionAttribution(classifier)
        own = grid.to_pixels(attribution.region_map(train.X, show_progress=show_progress))
        mean = own.mean(0, keepdim=True)
        has_it = split.test[value[split.test]]
        maps, truth = attribution.pixel_map(faces.images[has_it]), faces.truth(confounder, has_it)
        for scheme in SCHEMES:
            used = maps if scheme.startswith("specific") else mean.expand_as(maps)
            found[scheme + kind] = _mean_pixel_auc(used.numpy(), truth)
            noise = AttributionNoise(scheme, quantile=quantile)
            noise.fit(own if scheme.startswith("specific") else mean, train.X, train.confounder, labels=train.y)
            mitigators[scheme + kind] = ImageClassifier(max_epochs=epochs, batch_size=32, batch_transform=noise)
    table = compare_mitigators(
        mitigators,
        train,
        test,
        train_on={"balanced": balanced},
        random_states=[seed],
        n_bootstrap=1,  # its intervals are not used
        show_progress=show_progress,
    )
    means = pd.DataFrame({name: table[name, "mean"] for name in MEASURES}).rename_axis("mitigator")
    return means.assign(pixel_auc=pd.Series(found))


def _samples(faces: Faces, confounder: str, chosen: NDArray[np.intp]) -> Samples:
    part = faces.subset(chosen)
    return Samples(part.images, part.binary("Male"), part.binary(confounder))


def _mean_pixel_auc(maps: NDArray[Any], truth: NDArray[np.bool_]) -> float:
    shows = truth.any(axis=(1, 2))  # hair may be outside of the image
    return float(pixel_auc(maps[shows], truth[shows]).mean())


def main(
    out: Annotated[Path, typer.Option(help="JSON file of every value.")] = Path("alignment.json"),
    unaligned: Annotated[list[float] | None, typer.Option(help="Again for more; 0 and 0.5 by default.")] = None,
    confounder: Annotated[str, typer.Option(help="The spurious attribute of the sex.")] = "Blond_Hair",
    size: Size = 48,
    train_size: Annotated[int, typer.Option(help="Training faces.")] = 1200,
    test_per_cell: Annotated[int, typer.Option(help="Test faces a cell.")] = 150,
    epochs: Annotated[int, typer.Option(help="Epochs of the target classifiers.")] = 10,
    region_epochs: Annotated[int | None, typer.Option(help="Epochs of the region classifiers.")] = None,
    quantile: Annotated[float, typer.Option(help="Pixels above this quantile of the map change.")] = 0.5,
    seeds: Annotated[int, typer.Option(help="Runs with seeds --seed, --seed + 1 ...")] = 3,
    seed: Seed = 0,
    force: ReplaceFile = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Compare maps and schemes on synthetic faces that are aligned and that are not.

    Example: python examples/benchmarks/alignment_study.py --out alignment.json --seeds 1
    """
    with errors_in_one_line(debug):
        check_file(out, force=force)
        options: Any = {"confounder": confounder, "size": size, "train_size": train_size, "epochs": epochs}
        options |= {"test_per_cell": test_per_cell, "region_epochs": region_epochs, "quantile": quantile}
        tables = []
        for share in unaligned or (0.0, 0.5):
            for its_seed in range(seed, seed + seeds):
                found = study_alignment(unaligned=share, seed=its_seed, show_progress=not quiet, **options)
                tables.append(found.reset_index().assign(unaligned=share, seed=its_seed))
                rows = json.loads(pd.concat(tables).to_json(orient="records", double_precision=15))
                # After each, for the next may take an hour.
                write_json(out, {**provenance(), "settings": options, "rows": rows})
        for how_far, measured in pd.concat(tables).groupby("unaligned"):
            typer.echo(markdown(means_table(measured), f"unaligned {how_far}, seeds: {seeds}"))


if __name__ == "__main__":
    typer.run(main)

"""What mitigation costs, as ratios: each pair is timed in turn, in one run, so that both share the machine.

``python examples/benchmarks/costs.py --out costs.json`` prints a table and writes JSON.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
import typer
from rich.table import Table
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from speed import Pair, environment

from captum_region.cli.options import AsJson, Debug, Quiet, ReplaceFile
from captum_region.cli.running import check_file, console, errors_in_one_line
from captum_region.datasets import make_faces
from captum_region.io.files import write_json
from captum_region.io.provenance import provenance
from fairlearn_bridge import AttributionNoise, AttributionNoiseMitigator, ImageClassifier, MitigationConfig, mitigate
from fairlearn_bridge.mitigation import synthetic_parts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# As biased as the demo's: of ten men one is blond.
BLOND = {False: 0.6, True: 0.1}


def biased_faces(count: int, size: int) -> tuple[Any, Any, Any]:
    """Return images, the target, gender, and the spurious attribute, blond hair."""
    rng = np.random.default_rng(0)
    male = rng.random(count) < 0.5
    blond = rng.random(count) < np.where(male, BLOND[True], BLOND[False])
    faces = make_faces(count, size, attributes={"Male": male, "Blond_Hair": blond}, random_state=0)
    return np.array(faces.images), male, blond


def both(rounds: int, costly: Callable[[], Any], plain: Callable[[], Any]) -> tuple[list[float], list[float]]:
    """Time two ways in turn, in seconds of the processor, which other processes hardly change."""
    times: tuple[list[float], list[float]] = [], []
    for _ in range(rounds):
        for run, taken in zip((costly, plain), times, strict=True):
            start = time.process_time()
            run()
            taken.append(time.process_time() - start)
    return times


def time_small(rounds: int, images: int, size: int, region_epochs: int | None) -> Iterator[Pair]:
    """Time the mitigator on few images, and a grid search over it that shares region classifiers."""
    X, y, blond = biased_faces(images, size)
    classifier = ImageClassifier(random_state=0)
    mitigator = AttributionNoiseMitigator(classifier, region_epochs=region_epochs, random_state=0)

    def fit() -> None:
        mitigator.fit(X, y, sensitive_features=blond)

    def search() -> None:
        with tempfile.TemporaryDirectory() as memory:
            grid = {"quantile": [0.3, 0.5, 0.7, 0.9]}
            GridSearchCV(clone(mitigator).set_params(memory=memory), grid, cv=2).fit(X, y, sensitive_features=blond)

    def four() -> None:
        for _ in range(4):
            fit()

    classifier.fit(X, y)  # imports what trainings need
    what = f"{images} images of {size} px"
    plain = f"ImageClassifier.fit, {what}"
    yield Pair("mitigator", "AttributionNoiseMitigator.fit", plain, *both(rounds, fit, lambda: classifier.fit(X, y)), 5)
    yield Pair("grid search", "4 settings in 2 folds, memory=", f"4 fits, {what}", *both(rounds, search, four), 1)


def time_epoch(rounds: int, images: int, size: int) -> Pair:
    """Time epochs with specific transplants against epochs without."""
    X, y, blond = biased_faces(images, size)
    maps = torch.rand(images, size, size, generator=torch.Generator().manual_seed(0))
    noise = AttributionNoise("specific_transplant", 0.5).fit(maps, X, blond, labels=y)
    perturbed, plain = (
        partial(ImageClassifier(max_epochs=2, batch_transform=given, random_state=0).fit, X, y)
        for given in (noise, None)
    )
    plain()
    words = "with specific transplants", f"without, {images} images of {size} px"
    return Pair("epoch", *words, *both(rounds, perturbed, plain), 1.1)


def time_predict(rounds: int, images: int, size: int) -> Pair:
    """Time predict against a loop over the network itself."""
    X, y, _ = biased_faces(images, size)
    classifier = ImageClassifier(max_epochs=1, random_state=0).fit(X, y)
    network, batches = classifier.module_.eval(), torch.from_numpy(X).split(classifier.batch_size)

    def bare() -> None:
        with torch.no_grad():
            for batch in batches:
                network(batch.float() / 255)

    bare()
    words = "ImageClassifier.predict", f"its network, {images} images of {size} px"
    return Pair("predict", *words, *both(rounds, lambda: classifier.predict(X), bare), 1 / 0.9)


def time_mitigate(images: int, size: int, epochs: int, region_epochs: int | None) -> Pair:
    """Time a mitigation from images to its results against the training of its ERM baseline."""
    config = MitigationConfig("Male", ("Blond_Hair",), epochs=epochs, region_epochs=region_epochs)
    train, test = synthetic_parts(config, size, images)
    stages: dict[str, float] = {}
    start = time.perf_counter()
    trainings = mitigate(config, train, None, test, seconds=stages).trained.trainings.set_index("mitigator")
    took = time.perf_counter() - start
    note = ", ".join(f"{name} {value / took:.0%}" for name, value in stages.items())
    words = "mitigate, the whole", f"its ERM training, {images} images of {size} px"
    return Pair("mitigate", *words, [took], [float(trainings["seconds"]["original"])], 3, note=note)


def table_of(pairs: list[Pair]) -> Table:
    """Return the table that is printed."""
    table = Table(title="Medians, each pair timed in turn in one run")
    for column in ("", "takes", "seconds", "times as long as", "seconds", "ratio", "at most", "also"):
        table.add_column(column, justify="right" if column in ("seconds", "ratio", "at most") else "left")
    for pair in pairs:
        costly, plain = (f"{float(np.median(times)):.3g}" for times in (pair.slow_seconds, pair.fast_seconds))
        table.add_row(pair.name, pair.slow, costly, pair.fast, plain, f"{pair.ratio:.3g}", f"{pair.aim:.3g}", pair.note)
    return table


def main(
    out: Annotated[Path, typer.Option(help="File for the results, JSON.")] = Path("costs.json"),
    rounds: Annotated[int, typer.Option(min=1, help="How often each pair is timed; mitigate once.")] = 3,
    few: Annotated[
        int, typer.Option(min=40, help="Images of the mitigator and the grid search, of half the size.")
    ] = 240,
    images: Annotated[int, typer.Option(min=200, help="Images of mitigate.")] = 5000,
    size: Annotated[int, typer.Option(min=16, help="Side of the images.")] = 64,
    epochs: Annotated[int, typer.Option(min=1, help="Of mitigate's classifiers.")] = 10,
    region_epochs: Annotated[
        int | None, typer.Option(min=1, help="Of region classifiers; those of the recipe by default.")
    ] = None,
    only: Annotated[str | None, typer.Option(help="small, epoch, predict or mitigate; all by default.")] = None,
    force: ReplaceFile = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Time mitigation against training alone; nothing else should run on the machine meanwhile.

    Example: python examples/benchmarks/costs.py --only epoch --out epoch.json
    """
    with errors_in_one_line(debug):
        check_file(out, force)
        parts: dict[str, Callable[[], Any]] = {
            "small": lambda: list(time_small(rounds, few, size // 2, region_epochs)),
            "epoch": lambda: [time_epoch(rounds, min(images, 1000), size)],
            "predict": lambda: [time_predict(rounds, min(images, 1000), size)],
            "mitigate": lambda: [time_mitigate(images, size, epochs, region_epochs)],
        }
        if only is not None and only not in parts:
            raise ValueError(f"--only must be one of {', '.join(parts)}, got {only!r}")
        pairs = []
        for name, time_part in parts.items():
            if only in (None, name):
                pairs += time_part()
                if not quiet:
                    typer.echo(f"{name} is timed", err=True)
        told = {"environment": environment(torch.device("cpu")), **provenance()}
        text = write_json(out, told | {"pairs": [asdict(pair) for pair in pairs]})
        if as_json:
            typer.echo(text, nl=False)
        else:
            console().print(table_of(pairs))


if __name__ == "__main__":
    typer.run(main)

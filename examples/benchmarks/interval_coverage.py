"""How often intervals of the least or the largest of several values contain the true one, by simulation.

``python examples/benchmarks/interval_coverage.py --out interval_coverage.json`` prints a table and writes JSON: the
coverage of nominal 95 % intervals, by the percentiles of a bootstrap, by their reflection at the value (the basic
bootstrap interval), and by `captum_region.intervals.extreme_interval`, which holds both.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd
import typer
from studies import markdown, rounded

from captum_region.cli.options import Debug, ReplaceFile, Seed
from captum_region.cli.running import check_file, errors_in_one_line
from captum_region.intervals import extreme_interval, percentile_interval
from captum_region.io.files import records, write_json
from captum_region.io.provenance import provenance

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    # A simulated sample: the value, its resamples, and the true value.
    Sample = Callable[[np.random.Generator, int], tuple[float, NDArray[np.float64], float]]

LOW, HIGH = 0.75, 0.9
# Of those of two mitigators, so many images have the same answer of both whatever it is.
ALIKE = 0.5


def least(truth: list[float], images: int) -> Sample:
    """Return the least accuracy of cells of so many images."""

    def sample(rng: np.random.Generator, resamples: int) -> tuple[float, NDArray[np.float64], float]:
        right = rng.binomial(images, truth) / images
        drawn = rng.binomial(images, right, (resamples, len(truth))) / images
        return float(right.min()), drawn.min(1), min(truth)

    return sample


def difference(truth: list[float], other: list[float], images: int) -> Sample:
    """Return the difference of two least accuracies, of two mitigators on the same images."""

    def sample(rng: np.random.Generator, resamples: int) -> tuple[float, NDArray[np.float64], float]:
        chance = rng.random((2, len(truth), images))
        shared = np.where(rng.random(chance[0].shape) < ALIKE, chance[0], chance[1])
        one, two = chance[0] < np.array(truth)[:, None], shared < np.array(other)[:, None]
        answers = np.stack([one & two, one & ~two, ~one & two, ~one & ~two], axis=-1).mean(1)
        drawn = np.stack([rng.multinomial(images, of_cell, resamples) / images for of_cell in answers], axis=1)
        of_one, of_two = drawn[..., :2].sum(-1).min(1), drawn[..., ::2].sum(-1).min(1)
        return float(one.mean(1).min() - two.mean(1).min()), of_one - of_two, min(truth) - min(other)

    return sample


def spread(truth: list[float]) -> Sample:
    """Return the range of means, each with a standard error of 1."""

    def sample(rng: np.random.Generator, resamples: int) -> tuple[float, NDArray[np.float64], float]:
        means = rng.normal(truth)
        return (
            float(np.ptp(means)),
            np.ptp(rng.normal(means, size=(resamples, len(truth))), axis=1),
            float(np.ptp(truth)),
        )

    return sample


def cases() -> dict[str, Sample]:
    """Return what is simulated, by its description."""
    found: dict[str, Sample] = {}
    for cells, images in ((4, 44), (4, 182), (10, 36)):
        equal, one = [LOW] * cells, [LOW] + [HIGH] * (cells - 1)
        two, near = [LOW] * 2 + [HIGH] * (cells - 2), [LOW, LOW + 0.05] + [LOW + 0.1] * (cells - 2)
        of = f"of {cells} cells of {images}"
        for name, truth in (("all equal", equal), ("one low", one), ("two low", two), ("two near", near)):
            found[f"least {of}, {name}"] = least(truth, images)
        found[f"difference {of}, both all equal"] = difference(equal, equal, images)
        found[f"difference {of}, one low against all equal"] = difference(one, equal, images)
        found[f"difference {of}, both one low"] = difference(one, one, images)
    for groups in (2, 5):
        for apart in (0, 1, 2, 3, 5):
            found[f"range of {groups} means, one apart by {apart}"] = spread([float(apart)] + [0.0] * (groups - 1))
    return found


def covered(sample: Sample, runs: int, resamples: int, seed: int) -> dict[str, float]:
    """Return how often each kind of interval contains the true value, and how wide that of extremes is on average."""
    rng, found = np.random.default_rng(seed), dict.fromkeys(("percentile", "basic", "both"), 0.0)
    widths = []
    for _ in range(runs):
        value, draws, truth = sample(rng, resamples)
        low, high = percentile_interval(draws)
        both: Any = extreme_interval(value, draws)
        kinds = {"percentile": (low, high), "basic": (2 * value - high, 2 * value - low), "both": both}
        for name, (lower, upper) in kinds.items():
            found[name] += bool(lower - 1e-9 <= truth <= upper + 1e-9) / runs
        widths.append((both[1] - both[0]) / (high - low) if high > low else 1.0)
    return found | {"width": float(np.mean(widths))}


def table_of(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Return a row a case: the coverage of each interval, and the width of that which holds both."""
    shown = pd.DataFrame(rows).set_index("case").map("{:.2f}".format)
    return shown.rename(columns={"both": "extreme_interval", "width": "its width, of the percentile interval's"})


def main(
    out: Annotated[Path, typer.Option(help="JSON file of every value.")] = Path("interval_coverage.json"),
    runs: Annotated[int, typer.Option(min=1, help="Samples of each case.")] = 1000,
    resamples: Annotated[int, typer.Option(min=1, help="Resamples of each sample.")] = 500,
    seed: Seed = 0,
    force: ReplaceFile = False,
    debug: Debug = False,
) -> None:
    """Simulate the coverage of intervals of extremes."""
    with errors_in_one_line(debug):
        check_file(out, force)
        rows = [{"case": name, **covered(sample, runs, resamples, seed)} for name, sample in cases().items()]
        settings = {"runs": runs, "resamples": resamples, "seed": seed, "level": 0.95}
        found = rounded({"settings": settings, **provenance(), "rows": records(pd.DataFrame(rows))})
        write_json(out, found)
        typer.echo(markdown(table_of(found["rows"]), "value"))


if __name__ == "__main__":
    typer.run(main)

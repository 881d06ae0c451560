"""How the time and memory of `attribute_dataset` grow with the number of images.

``python examples/benchmarks/growth.py grow --out growth`` maps 1,000 to 20,000 synthetic faces of 64 px, each
number in a process of its own, and writes growth.json and growth.png.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from matplotlib import rc_context
from matplotlib.figure import Figure
from numpy.polynomial import Polynomial

from captum_region.attribution import RegionAttribution
from captum_region.classifiers import DenseRegionClassifier
from captum_region.cli import Debug, Force, check_out, told_in_one_line
from captum_region.datasets import make_faces
from captum_region.files import replacing
from captum_region.grid import RegionGrid
from captum_region.maps import attribute_dataset
from captum_region.plotting import STYLE

app = typer.Typer(help=__doc__, pretty_exceptions_enable=False)


@app.command()
def one(images: Path, size: int) -> None:
    """Map one file of images, and print the seconds and the peak of memory in MB as JSON.

    Example: python examples/benchmarks/growth.py one images.npy 64
    """
    data = np.load(images, mmap_mode="r")
    classifier = DenseRegionClassifier(RegionGrid.for_images(size), 2, random_state=0).eval()
    with tempfile.TemporaryDirectory(dir=images.parent) as folder:
        start = time.perf_counter()
        attribute_dataset(RegionAttribution(classifier), data, folder).mean()
        seconds = time.perf_counter() - start
    # Linux counts in kB, macOS in bytes.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e3 if sys.platform == "linux" else 1e6)
    typer.echo(json.dumps({"images": len(data), "seconds": seconds, "peak_mb": peak}))


@app.command()
def grow(
    out: Annotated[Path, typer.Option(help="Folder for growth.json and growth.png.")] = Path("growth"),
    counts: Annotated[str, typer.Option(help="Numbers of images.")] = "1000,2000,5000,10000,20000",
    size: Annotated[int, typer.Option(help="Side of the images; k is a quarter of it, the stride 1/64.")] = 64,
    force: Force = False,
    debug: Debug = False,
) -> None:
    """Map ever more images, and draw time and memory against their number.

    Example: python examples/benchmarks/growth.py grow --counts 1000,2000 --out growth
    """
    with told_in_one_line(debug):
        check_out(out, force)
        out.mkdir(parents=True, exist_ok=True)
        faces = make_faces(500, size, random_state=0).images
        found: list[dict[str, Any]] = []
        for count in map(int, counts.split(",")):
            with tempfile.TemporaryDirectory(dir=out) as folder:
                path = Path(folder) / "images.npy"
                file = np.lib.format.open_memmap(path, "w+", np.uint8, (count, *faces.shape[1:]))
                for start in range(0, count, len(faces)):
                    file[start : start + len(faces)] = faces[: count - start]
                file.flush()
                command = [sys.executable, __file__, "one", str(path), str(size)]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found.append(json.loads(done.stdout))
            typer.echo(done.stdout.strip())
        number, seconds, peak = (np.array([row[key] for row in found]) for key in ("images", "seconds", "peak_mb"))
        fits = {
            name: Polynomial.fit(number, values, 1).convert() for name, values in (("time", seconds), ("peak", peak))
        }
        result = {
            "threads": torch.get_num_threads(),
            "measured": found,
            "images_a_second": float(1 / fits["time"].coef[1]),
            "seconds_at_none": float(fits["time"].coef[0]),
            "mb_at_none": float(fits["peak"].coef[0]),
            "mb_a_thousand_images": float(1000 * fits["peak"].coef[1]),
        }
        with replacing(out / "growth.json") as path:
            path.write_text(json.dumps(result, indent=1) + "\n")
        with rc_context(STYLE):
            figure = Figure(figsize=(7, 2.8), layout="constrained")
            for ax, name, values, label in zip(
                figure.subplots(1, 2), fits, (seconds, peak), ("time (s)", "peak memory (MB)"), strict=True
            ):
                ax.plot(number, values, "o", color="#0072b2")
                ax.plot(number, fits[name](number), "--", color="#767676", linewidth=1)
                ax.set(xlabel="images", ylabel=label, ylim=(0, 1.15 * values.max()), xlim=(0, None))
        with replacing(out / "growth.png") as path:
            figure.savefig(path, dpi=150)
        typer.echo(json.dumps({name: value for name, value in result.items() if name != "measured"}))


if __name__ == "__main__":
    app()

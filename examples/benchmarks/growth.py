"""How the time and memory of ``captum-region attribute`` grow with the number of images.

``python examples/benchmarks/growth.py --out growth`` runs the command on 1,000 to 20,000 image files of 64 px, which it
decodes again each time, and writes growth.json and growth.png.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from matplotlib import rc_context
from matplotlib.figure import Figure
from numpy.polynomial import Polynomial
from PIL import Image
from studies import rounded

from captum_region import DenseRegionClassifier, RegionGrid, save_classifier
from captum_region.cli.options import Debug, Force
from captum_region.cli.running import check_out, errors_in_one_line
from captum_region.datasets import make_faces
from captum_region.io.files import replacing, write_json
from captum_region.io.provenance import provenance
from captum_region.plotting import STYLE

app = typer.Typer(help=__doc__, pretty_exceptions_enable=False)


# In a small process of its own: until a new process has its own program, it counts with the memory of the one before.
_MEASURE = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(code, used.ru_utime + used.ru_stime, used.ru_maxrss)
"""


def measure(command: list[str]) -> dict[str, float]:
    """Run a command, and return its seconds of processors, which other work hardly changes, and peak memory in MB."""
    done = subprocess.run([sys.executable, "-c", _MEASURE, *command], check=True, stdout=subprocess.PIPE, text=True)
    code, seconds, peak = map(float, done.stdout.split())
    if code:
        raise ValueError(f"{' '.join(command)} ended with exit code {code:.0f}")
    # Linux counts in kB, macOS in bytes.
    return {"seconds": seconds, "peak_mb": peak / (1e3 if sys.platform == "linux" else 1e6)}


def measure_attribute(folder: Path, count: int, size: int) -> dict[str, float]:
    """Measure ``captum-region attribute`` on `count` images, which are written into `folder` with all other files."""
    encoded = []
    for image in make_faces(min(count, 500), size, random_state=0).images:
        Image.fromarray(image.transpose(1, 2, 0)).save(file := io.BytesIO(), "png")
        encoded.append(file.getvalue())
    names = [f"{number}.png" for number in range(count)]
    for number, name in enumerate(names):
        (folder / name).write_bytes(encoded[number % len(encoded)])
    (folder / "images.csv").write_text("\n".join(["image", *names]))
    classifier = DenseRegionClassifier(RegionGrid.for_images(size), 2, random_state=0)
    save_classifier(classifier, folder / "classifier")
    command = [sys.executable, "-m", "captum_region", "attribute", str(folder / "classifier"), "--quiet"]
    command += ["--data", "table", "--root", str(folder / "images.csv"), "--cache", str(folder / "cache")]
    return measure([*command, "--out", str(folder / "maps")])


@app.command()
def grow(
    out: Annotated[Path, typer.Option(help="Folder for growth.json and growth.png.")] = Path("growth"),
    counts: Annotated[str, typer.Option(help="Numbers of images.")] = "1000,2000,5000,10000,20000",
    size: Annotated[int, typer.Option(help="Side of the images; k is a quarter of it, the stride 1/64.")] = 64,
    force: Force = False,
    debug: Debug = False,
) -> None:
    """Map ever more images, and draw time and memory against their number.

    Example: python examples/benchmarks/growth.py --counts 1000,2000 --out growth
    """
    with errors_in_one_line(debug):
        check_out(out, force)
        numbers = [int(count) for count in counts.split(",")]
        if len(set(numbers)) < 2:
            raise ValueError(f"--counts must be two numbers or more, for a line through them, got {counts}")
        out.mkdir(parents=True, exist_ok=True)
        found = []
        for count in numbers:
            with tempfile.TemporaryDirectory(dir=out) as folder:
                found.append({"images": count, **measure_attribute(Path(folder), count, size)})
            typer.echo(json.dumps(found[-1]))
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
        write_json(out / "growth.json", rounded(result | {"size": size, **provenance()}))
        with rc_context(STYLE):
            figure = Figure(figsize=(7, 2.8), layout="constrained")
            for ax, name, values, label in zip(
                figure.subplots(1, 2), fits, (seconds, peak), ("processor time (s)", "peak memory (MB)"), strict=True
            ):
                ax.plot(number, values, "o", color="#0072b2")
                ax.plot(number, fits[name](number), "--", color="#767676", linewidth=1)
                ax.set(xlabel="images", ylabel=label, ylim=(0, 1.15 * values.max()), xlim=(0, None))
        with replacing(out / "growth.png") as path:
            figure.savefig(path, dpi=150)
        typer.echo(json.dumps({name: value for name, value in result.items() if name != "measured"}))


if __name__ == "__main__":
    app()

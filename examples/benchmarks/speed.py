"""How fast the package is, as ratios: each pair of ways is timed in turn, in one run, so that they share the machine.

``make bench``, or ``python examples/benchmarks/speed.py --out bench.json``, prints a table and writes JSON.
"""

from __future__ import annotations

import json
import platform
import time
import warnings
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
import torch
import typer
from captum.attr import LayerGradCam, Occlusion, Saliency
from PIL import features
from rich.table import Table
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import resnet18

from captum_region.channels import ChannelAttribution, SegmentationEvidence, segmentation_evidence
from captum_region.classifiers import DenseRegionClassifier, PatchRegionClassifier, RegionClassifier
from captum_region.cli.options import AsJson, Debug, Device, Quiet, ReplaceFile
from captum_region.cli.running import check_file, console, errors_in_one_line
from captum_region.confidence import negative_entropy
from captum_region.datasets import make_faces
from captum_region.first_layer import neutralize_first_layer
from captum_region.grid import RegionGrid
from captum_region.io.files import write_json
from captum_region.io.provenance import provenance
from captum_region.precision import has_bfloat16_units
from captum_region.training import fit_region_classifier, region_accuracy
from fairlearn_bridge import ImageClassifier
from fairlearn_bridge.audit import PCACodec, PillowCodec, audit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


@dataclass(frozen=True)
class Pair:
    """Two ways to compute the same, and how many times as fast the second is.

    Attributes
    ----------
    name : str
    slow, fast : str
        What is compared.
    slow_seconds, fast_seconds : list of float
        Per image, or per training, in each round.
    aim : float
        The ratio that was aimed at.
    ratio : float
        Median over rounds of slow / fast.
    note : str
    """

    name: str
    slow: str
    fast: str
    slow_seconds: list[float]
    fast_seconds: list[float]
    aim: float
    ratio: float = field(init=False)
    note: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "ratio", float(np.median(self._ratios)))

    @property
    def _ratios(self) -> list[float]:
        return [slow / fast for slow, fast in zip(self.slow_seconds, self.fast_seconds, strict=True)]

    def __str__(self) -> str:
        """Return the ratio, with the least and the largest of the rounds: ``3,280 [2,260, 3,700]``."""
        middle, least, most = (
            f"{float(f'{value:.3g}'):,g}" for value in (self.ratio, min(self._ratios), max(self._ratios))
        )
        return f"{middle} [{least}, {most}]"


def patch_by_patch(classifier: RegionClassifier, images: Tensor, *, batch: int = 256) -> Tensor:
    """Classify every region in the plain way: cut patches out, batch them, call the network.

    Returns
    -------
    Tensor, shape (N, classes, rows, cols)
    """
    grid, maps = classifier.grid, []
    k, stride = grid.patch_size, grid.stride
    corners = [(row * stride, column * stride) for row in range(grid.shape[0]) for column in range(grid.shape[1])]
    for image in images:
        logits = []
        for first in range(0, len(corners), batch):
            some = corners[first : first + batch]
            patches = torch.stack([image[:, y : y + k, x : x + k] for y, x in some])
            logits.append(classifier(patches, torch.arange(first, first + len(some), device=image.device)))
        maps.append(torch.cat(logits).T.unflatten(1, grid.shape))
    return torch.stack(maps)


def algorithm_1(grid: RegionGrid, region_map: Tensor) -> Tensor:
    """Bring a region map to pixels as Algorithm 1 of De Coninck et al. 2024 is printed: region by region."""
    total, counts = torch.zeros(grid.image_size), torch.zeros(grid.image_size)
    k, stride = grid.patch_size, grid.stride
    for row in range(grid.shape[0]):
        for column in range(grid.shape[1]):
            y, x = row * stride, column * stride
            total[y : y + k, x : x + k] += region_map[row, column]
            counts[y : y + k, x : x + k] += 1
    return total / counts


def seconds(run: Callable[[], Any], *, least: float = 0.0) -> float:
    """Return the time of one call: a single one, or the median of as many as fill `least` seconds."""
    if least:
        timer = Timer("run()", globals={"run": run}, num_threads=torch.get_num_threads())
        return float(timer.blocked_autorange(min_run_time=least).median)
    start = time.perf_counter()  # Timer's `timeit` would warm up with two more calls, of the slowest ways
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


class _Way(NamedTuple):
    """A way to compute a map: how, of how many images, and how long it is repeated, in seconds."""

    run: Callable[[], Tensor]
    images: int = 1
    least: float = 0.0


def _ways_to_map(
    dense: DenseRegionClassifier, patch: RegionClassifier, face: Tensor, bfloat16: bool, least: float
) -> dict[str, _Way]:
    """Return the ways to map one face, and a batch of 8 images; the quick ones are repeated for `least` seconds."""
    grid, device = dense.grid, face.device
    images = torch.rand(8, 3, *grid.image_size, generator=torch.Generator().manual_seed(0)).to(device)
    explained = resnet18(weights=None).eval().to(device)
    grad_cam, occlusion = LayerGradCam(explained, explained.layer4), Occlusion(explained)
    window = {
        "sliding_window_shapes": (3, grid.patch_size, grid.patch_size),
        "strides": (3, grid.stride, grid.stride),
        "perturbations_per_eval": 64,
    }
    target = torch.zeros(len(images), dtype=torch.long, device=device)

    def no_grad(run: Callable[[Tensor], Tensor], inputs: Tensor, *, cast: bool = False) -> Callable[[], Tensor]:
        def without() -> Tensor:
            with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=cast):
                return run(inputs)

        return without

    by_loop = partial(patch_by_patch, patch)
    ways = {
        "loop": _Way(no_grad(by_loop, face)),
        "grid": _Way(no_grad(patch.forward_grid, face)),
        "dense": _Way(no_grad(dense.forward_grid, face), least=least),
        "occlusion": _Way(lambda: occlusion.attribute(images[:1], target=0, **window)),
    }
    if bfloat16:
        ways["loop, bfloat16"] = _Way(no_grad(by_loop, face, cast=True))
        ways["grid, bfloat16"] = _Way(no_grad(patch.forward_grid, face, cast=True))
    ways["dense, batch of 8"] = _Way(no_grad(dense.forward_grid, images), 8, least=least)
    ways["grad_cam"] = _Way(lambda: grad_cam.attribute(images, target), 8, least=least)
    if bfloat16:
        ways["dense, batch of 8, bfloat16"] = _Way(no_grad(dense.forward_grid, images, cast=True), 8, least=least)
    return ways


def time_maps(
    grid: RegionGrid,
    rounds: int,
    device: torch.device,
    *,
    faces: int,
    bfloat16: bool,
    least: float,
    show_progress: bool,
) -> Iterator[Pair]:
    """Time the map of an image by every way, and yield the pairs."""
    face = torch.from_numpy(make_faces(1, grid.image_size[0], random_state=1).images).to(device)
    dense = DenseRegionClassifier(grid, 2, random_state=0).eval().to(device)
    patch = _trained_a_little(PatchRegionClassifier(grid, 2, random_state=0), faces, device, show_progress)
    ways = _ways_to_map(dense, patch, face, bfloat16, least)
    with FlopCounterMode(display=False) as counter:
        ways["dense"].run()
    dense_gmac = counter.get_total_flops() / 2e9
    convolutions = list(_convolutions(device))
    for way in ways.values():
        if way.images > 1 or device.type == "cuda":
            way.run()  # warm
    times: dict[str, list[float]] = {name: [] for name in (*ways, "convolution")}
    for _ in range(rounds):
        for name, way in ways.items():
            times[name].append(seconds(way.run, least=way.least) / way.images)
        rates = [seconds(run, least=least) / gmac for gmac, run in convolutions]
        times["convolution"].append(min(rates) * dense_gmac)
    by_loop = negative_entropy(ways["loop"].run()).flatten().cpu()
    notes = {}
    for name in ("grid", "grid, bfloat16") if bfloat16 else ("grid",):
        by_grid = negative_entropy(ways[name].run()).flatten().cpu()
        notes[name] = f"rank correlation of the maps {float(spearmanr(by_loop, by_grid).statistic):.6f}"
    notes["convolution"] = f"{dense_gmac / float(np.median(times['dense, batch of 8'])):.0f} GMAC/s"
    yield from _pairs_of_maps(times, notes)


def _pairs_of_maps(times: dict[str, list[float]], notes: dict[str, str]) -> Iterator[Pair]:
    paper, cam = "ResNet18 patch by patch (the paper's; batches of 256, eager, float32)", "LayerGradCam, ResNet18"

    def pair(name: str, words: tuple[str, str], ways: tuple[str, str], aim: float, note: str = "") -> Pair:
        (slow, fast), (of_slow, of_fast) = words, ways
        return Pair(name, slow, fast, times[of_slow], times[of_fast], aim, note=notes.get(note, ""))

    yield pair("a. one map", (paper, "dense, one image"), ("loop", "dense"), 1000)
    yield pair("b. against Grad-CAM", (cam, "dense"), ("grad_cam", "dense, batch of 8"), 1)
    yield pair("c. against Occlusion", ("Occlusion, same windows", "dense"), ("occlusion", "dense"), 300)
    yield pair("d. patch kind", (paper, "its forward_grid"), ("loop", "grid"), 2.5, "grid")
    if "grid, bfloat16" in times:
        halved = "grid, bfloat16"
        yield pair("d. in bfloat16", (paper, "the same under autocast"), ("loop", halved), 2.5, halved)
        both = ("the same loop under autocast", "forward_grid under autocast")
        yield pair("d. both in bfloat16", both, ("loop, bfloat16", halved), 2.5)
        yield pair("b. in bfloat16", (cam, "dense under autocast"), ("grad_cam", "dense, batch of 8, bfloat16"), 1)
    best = ("the best convolution's rate", "dense")
    yield pair("g. share of the peak", best, ("convolution", "dense, batch of 8"), 0.7, "convolution")


def _trained_a_little(
    classifier: RegionClassifier, faces: int, device: torch.device, show_progress: bool
) -> RegionClassifier:
    # Without any training the map is noise around 0, and its ranks are those of rounding.
    seen = make_faces(faces, classifier.grid.image_size[0], random_state=0)
    fit_region_classifier(
        classifier,
        seen.images,
        seen.binary("Blond_Hair"),
        epochs=5,
        batch_size=64,
        random_state=0,
        device=device,
        show_progress=show_progress,
    )
    return classifier


def _without_gradient(network: nn.Module, features: Tensor) -> None:
    with torch.no_grad():
        network(features)


def _convolutions(device: torch.device) -> Iterator[tuple[float, Callable[[], Any]]]:
    """Yield the GMAC of, and a call of, large 3 x 3 convolutions in the layout that is fastest."""
    for channels, size in ((64, 56), (128, 56), (256, 28)):
        convolution = nn.Conv2d(channels, channels, 3, padding=1, device=device).to(memory_format=torch.channels_last)
        features = torch.rand(8, channels, size, size, device=device).contiguous(memory_format=torch.channels_last)
        yield 8 * 9 * channels**2 * size**2 / 1e9, partial(_without_gradient, convolution, features)


def time_to_pixels(grid: RegionGrid, rounds: int, *, least: float) -> Iterator[Pair]:
    """Time Algorithm 1 against its literal loop, on one map and on a batch of 64."""
    maps = torch.rand(64, *grid.shape, generator=torch.Generator().manual_seed(0))
    difference = float((grid.to_pixels(maps[0]) - algorithm_1(grid, maps[0])).abs().max())
    slow, single, batch = [], [], []
    for _ in range(rounds):
        slow.append(seconds(lambda: algorithm_1(grid, maps[0])))
        single.append(seconds(lambda: grid.to_pixels(maps[0]), least=least))
        batch.append(seconds(lambda: grid.to_pixels(maps), least=least) / 64)
    note = f"largest difference {difference:.1e}"
    yield Pair("e. Algorithm 1", "region by region, as printed", "to_pixels, one map", slow, single, 500, note=note)
    yield Pair("e. Algorithm 1, batch", "region by region, as printed", "to_pixels, a map of 64", slow, batch, 500)


def time_training(device: torch.device, rounds: int, *, images: int, epochs: int | None, show_progress: bool) -> Pair:
    """Time how long the dense classifier takes to the accuracy that the paper's recipe reaches on the same images.

    Synthetic faces of 32 px, k = 8, stride 2 (13 x 13 regions), blond hair. The dense classifier is trained from the
    start with 25, 35, 50, 71, 100 ... steps; its time is that of the shortest training that is as good on the
    validation faces. The accuracy is the mean balanced one of regions. The paper's recipe takes minutes, so it is run
    to its end in the first round alone; later rounds time a tenth of its epochs, and count them tenfold.
    """
    grid, attribute = RegionGrid(32, 8, 2), "Blond_Hair"
    faces, valid = make_faces(images, 32, random_state=0), make_faces(min(images, 300), 32, random_state=1)
    labels, truth = faces.binary(attribute), valid.binary(attribute).astype(int)

    def train(kind: type[DenseRegionClassifier | PatchRegionClassifier], epochs: int | None) -> tuple[float, float]:
        classifier = kind(grid, 2, random_state=0)
        start = time.perf_counter()
        fit_region_classifier(
            classifier,
            faces.images,
            labels,
            epochs=epochs,
            random_state=0,
            device=device,
            show_progress=show_progress,
        )
        took = time.perf_counter() - start
        return took, float(region_accuracy(classifier, valid.images, truth).mean())

    took, reached = train(PatchRegionClassifier, epochs)
    paper = [took]
    batches = int(np.ceil(images / DenseRegionClassifier.recipe.batch_size))
    for steps in (25 * 2 ** (half / 2) for half in range(17)):
        dense_epochs = int(np.ceil(steps / batches))
        took, accuracy = train(DenseRegionClassifier, dense_epochs)
        if accuracy >= reached:
            break
    dense = [took]
    whole = epochs or PatchRegionClassifier.recipe.epochs
    part = max(1, whole // 10)
    for _ in range(rounds - 1):
        paper.append(train(PatchRegionClassifier, part)[0] * whole / part)
        dense.append(train(DenseRegionClassifier, dense_epochs)[0])
    return Pair(
        "f. training",
        f"the paper's recipe, {images} images",
        f"dense, {dense_epochs * batches} steps",
        paper,
        dense,
        20,
        note=f"mean balanced accuracy of patches {reached:.3f} and {accuracy:.3f}"
        + ("" if accuracy >= reached else ", NOT REACHED"),
    )


def saliency_in_batches(evidence: SegmentationEvidence, windows: Tensor, *, batch: int = 16) -> Tensor:
    """Attribute windows of slices as one would write it down: batch by batch, with each batch's masks."""
    maps = []
    for some in windows.split(batch):
        inputs = some.to(next(evidence.parameters()).device).float() / 255
        masks = evidence.masks(inputs)
        maps.append(Saliency(evidence).attribute(inputs.requires_grad_(), additional_forward_args=masks).cpu())
    return torch.cat(maps)


def _training_step(network: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor) -> None:
    optimizer.zero_grad()
    network(inputs).square().mean().backward()
    optimizer.step()


def time_slices(rounds: int, device: torch.device, *, windows: int, size: int, least: float) -> Iterator[Pair]:
    """Time shares of attribution by channel against the attribution alone, and training with a neutral first layer.

    The network is small, so that the package's own work counts.
    """
    generator = torch.Generator().manual_seed(0)
    stacks = torch.randint(256, (windows, 3, size, size), dtype=torch.uint8, generator=generator)
    first, second, last = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 1, 1)
    network = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), last).eval().to(device)
    nn.init.constant_(last.weight, 1.0)  # so that something is predicted in each window
    evidence = segmentation_evidence(network)
    by_channel = ChannelAttribution(Saliency(evidence))
    neutral = neutralize_first_layer(network)
    inputs = stacks[:16].to(device).float() / 255
    both = [(each, torch.optim.SGD(each.parameters(), lr=1e-6)) for each in (network, neutral)]
    steps = [partial(_training_step, each, optimizer, inputs) for each, optimizer in both]
    times: list[list[float]] = [[], [], [], [], []]
    for _ in range(rounds):
        times[0].append(seconds(lambda: saliency_in_batches(evidence, stacks)) / windows)
        times[1].append(seconds(lambda: by_channel.attribute(stacks)) / windows)
        for taken, step in zip(times[2:], steps, strict=False):
            taken.append(seconds(step, least=least) / len(inputs))
        times[4].append(seconds(lambda: neutralize_first_layer(network), least=least))
    plain = "Captum's Saliency in batches of 16, maps kept"
    yield Pair("h. shares by channel", plain, f"ChannelAttribution, {windows} windows", times[0], times[1], 0.9)
    note = f"neutralising takes {1e3 * float(np.median(times[4])):.2g} ms"
    yield Pair("h. training step", "untouched network", 'neutral, tie="none"', times[2], times[3], 1, note=note)


# Of each codec of the package two rates, where Pillow has it: ten codecs, with principal components.
_AUDITED = {"jpeg": (5, 20), "webp": (0, 20), "avif": (5, 20), "jpeg2000": (1, 3)}


class _Timed:
    """A codec or classifier that adds up the time that it takes."""

    threads = False  # several at a time would count more than passes

    def __init__(self, what: Any, name: str = "") -> None:
        self.what, self.name, self.seconds = what, name, 0.0

    def _took(self, run: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        found = run()
        self.seconds += time.perf_counter() - start
        return found

    def encode(self, images: Any) -> Any:
        return self._took(lambda: self.what.encode(images))

    def decode(self, data: Any, shape: Any) -> Any:
        return self._took(lambda: self.what.decode(data, shape))

    def __call__(self, images: Any) -> Any:
        return self._took(lambda: self.what.predict_proba(images))


def time_audit(rounds: int, *, images: int, size: int) -> Pair:
    """Time an audit of ten codecs, and what of it is not encoding, decoding or prediction; in one thread.

    The network is small, so that the audit's own work counts.
    """
    count = max(images, 60)  # groups of fewer than 30 are refused
    faces = make_faces(count, size, attributes={"Male": np.arange(count) % 2 == 0}, random_state=0)
    classifier = ImageClassifier(max_epochs=1, random_state=0).fit(faces.images, faces.labels("Smiling"))
    untimed: dict[str, Any] = {f"pca {n}": PCACodec(n).fit(faces.images[:400]) for n in (4, 16)}
    for name, qualities in _AUDITED.items():
        if name != "avif" or features.check("avif"):
            untimed |= {f"{name} {quality}": PillowCodec(name, quality) for quality in qualities}
    whole, besides = [], []
    for _ in range(rounds):
        codecs = [_Timed(codec, name) for name, codec in untimed.items()]
        timed = _Timed(classifier)
        start = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of small groups
            audit(codecs, timed, faces, "Male", target="Smiling", classes=[False, True])
        whole.append(time.perf_counter() - start)
        besides.append(whole[-1] - sum(each.seconds for each in (*codecs, timed)))
    share = float(np.median([part / total for part, total in zip(besides, whole, strict=True)]))
    note = f"{share:.1%} of the whole; {count} images of {size} px"
    return Pair(
        "i. audit",
        f"{len(untimed)} codecs, 1,000 draws",
        "all but codecs and classifier",
        whole,
        besides,
        10,
        note=note,
    )


def environment(device: torch.device) -> dict[str, Any]:
    """Return what the times depend on: processor, threads, versions."""
    processor = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
        processor = {name.strip(): value.strip() for name, _, value in lines}.get("model name", processor)
    return {
        "processor": processor,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "bfloat16_units": has_bfloat16_units(device),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("captum-region", "torch", "torchvision", "captum")},
    }


def table_of(pairs: list[Pair]) -> Table:
    """Return the table that is printed."""
    table = Table(title="Medians, each pair timed in turn in one run")
    for column in ("", "slow", "fast", "slow [ms]", "fast [ms]", "ratio", "aim", "also"):
        table.add_column(column, justify="right" if column.endswith("]") or column in ("ratio", "aim") else "left")
    for pair in pairs:
        slow, fast = (1e3 * float(np.median(times)) for times in (pair.slow_seconds, pair.fast_seconds))
        numbers = (f"{slow:,.2f}", f"{fast:,.3g}", str(pair), f"{pair.aim:,g}")
        table.add_row(pair.name, pair.slow, pair.fast, *numbers, pair.note)
    return table


def main(
    out: Annotated[Path, typer.Option(help="File for the results, JSON.")] = Path("bench.json"),
    size: Annotated[int, typer.Option(min=16, help="Side of the images; 128 is the paper's, 49 x 49 regions.")] = 128,
    rounds: Annotated[int, typer.Option(min=1, help="How often each pair is timed; the median counts.")] = 3,
    device: Device = "cpu",
    bfloat16: Annotated[
        bool | None, typer.Option(help="Also under bfloat16 autocast; by default where the device has units for it.")
    ] = None,
    least: Annotated[
        float, typer.Option(min=0.001, help="Seconds for which each quick way is repeated in a round.")
    ] = 0.5,
    only: Annotated[str | None, typer.Option(help="maps, pixels, training, slices or audit; all by default.")] = None,
    images: Annotated[int, typer.Option(min=20, help="Training faces, windows of slices, audited faces.")] = 1000,
    epochs: Annotated[int | None, typer.Option(help="Epochs of the paper's recipe; its 90 by default.")] = None,
    force: ReplaceFile = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Time the package against what it replaces; nothing else should run on the machine meanwhile.

    Example: python examples/benchmarks/speed.py --only maps --size 64 --out maps.json
    """
    with errors_in_one_line(debug):
        check_file(out, force)
        where, grid = torch.device(device), RegionGrid.for_images(size)
        told = environment(where)
        halved = told["bfloat16_units"] if bfloat16 is None else bfloat16
        parts: dict[str, Callable[[], Iterable[Pair]]] = {
            "maps": lambda: time_maps(
                grid,
                rounds,
                where,
                faces=min(images, 300),
                bfloat16=halved,
                least=least,
                show_progress=not quiet,
            ),
            "pixels": lambda: time_to_pixels(grid, rounds, least=least),
            "training": lambda: [time_training(where, rounds, images=images, epochs=epochs, show_progress=not quiet)],
            "slices": lambda: time_slices(rounds, where, windows=images, size=size, least=least),
            "audit": lambda: [time_audit(rounds, images=images, size=size)],
        }
        if only is not None and only not in parts:
            raise ValueError(f"--only must be one of {', '.join(parts)}, got {only!r}")
        pairs = [pair for name, time_part in parts.items() if only in (None, name) for pair in time_part()]
        pairs.sort(key=lambda pair: pair.name)
        result = {"environment": told, **provenance(), "grid": repr(grid), "pairs": [asdict(pair) for pair in pairs]}
        text = write_json(out, result)
        if as_json:
            typer.echo(text, nl=False)
            return
        console().print(table_of(pairs))
        typer.echo(json.dumps(told))


if __name__ == "__main__":
    typer.run(main)

"""Region maps of a whole data set: computed once, stored, averaged; a killed run goes on where it was."""

from __future__ import annotations

import json
import math
import os
from contextlib import ExitStack
from html import escape
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from captum_region.array_files import open_array
from captum_region.batches import batches, check_images, take
from captum_region.checkpoint import classifier_digest
from captum_region.classifiers import RegionClassifier, check_evaluating
from captum_region.datasets.images import AttributeImages
from captum_region.digest import digest, is_the_users
from captum_region.display import RegionMapDisplay
from captum_region.distributed import Processes, autocast, check_mixed_precision
from captum_region.files import locked, read_json, replacing
from captum_region.grid import RegionGrid
from captum_region.html import plot_tag
from captum_region.progress import progress_bar

if TYPE_CHECKING:
    from collections.abc import Hashable

    from accelerate import Accelerator
    from numpy.typing import ArrayLike, NDArray

    from captum_region.attribution import RegionAttribution
    from captum_region.batches import ImageData, ImageSource
    from captum_region.confidence import Confidence

FORMAT = 1
# What may be lost to a kill, and how often the disk is waited for.
_IMAGES_A_SAVE = 1024
# Enough for a mean to look at, without reading a large store.
_MAPS_SHOWN = 1000
_DIFFERENCES = {
    "classifier": "another classifier",
    "data": "other images",
    "confidence": "another confidence",
    "target": "another target",
    "mixed_precision": "another mixed precision",
}


class RegionMaps:
    """The region maps of a data set, as `attribute_dataset` left them in a folder.

    Parameters
    ----------
    folder : path
        Holds ``maps.npy`` (float16, images x rows x columns) and ``maps.json``.
    sigma : float, optional
        Of the pixel maps, see `RegionGrid.to_pixels`; what is stored does not depend on it. `attribute_dataset` passes
        on that of its attribution.

    Attributes
    ----------
    maps : memmap of float16, shape (N, rows, cols)
        Read-only; nothing is read before it is used.
    grid : RegionGrid
    class_names : tuple of str
        Of the region classifier.
    description : dict
        What ``maps.json`` says: the digest of the classifier, the digest of the images, confidence and target,
        and which images a reader had left out (``skipped``).

    Raises
    ------
    FileNotFoundError
        If the folder holds no maps.
    ValueError
        If the maps are not complete (`attribute_dataset` completes them), damaged or of another format version.
    """

    def __init__(self, folder: str | os.PathLike[str], *, sigma: float | None = None) -> None:
        self.folder = Path(folder)
        self.sigma = sigma
        self.description = _read_description(self.folder)
        done, count = self.description["done"], self.description["images"]
        if done < count:
            raise ValueError(
                f"{self.folder} holds {done} of {count} maps; attribute_dataset with the same classifier and images "
                "goes on from there"
            )
        self.grid = _grid_of(self.description)
        self.class_names = tuple(self.description["class_names"])
        self.maps: NDArray[np.float16] = open_array(self.folder / "maps.npy", (count, *self.grid.shape), np.float16)

    def __len__(self) -> int:
        return len(self.maps)

    def __repr__(self) -> str:
        rows, columns = self.grid.shape
        return f"RegionMaps({str(self.folder)!r}): {len(self)} maps of {rows} x {columns} regions"

    def _repr_html_(self) -> str:
        html = f"<p>{escape(repr(self))}, of the classes {escape(', '.join(self.class_names))}</p>"
        if not len(self):
            return html
        some = self.maps[:: math.ceil(len(self) / _MAPS_SHOWN)]
        words = f"mean of {len(some)} maps"
        mean = torch.from_numpy(some.mean(0, dtype=np.float32))
        display = RegionMapDisplay(self.grid.to_pixels(mean, sigma=self.sigma), name=words)
        return html + plot_tag(lambda axes: display.plot(axes[0]), words)

    def mean(self, *, show_progress: bool = False) -> Tensor:
        """Return the mean of all maps, rows x cols, float32.

        A map's values are multiples of 2**-24 between -1 and 1, so that their sum in float64 is exact for up to 2**29
        images, in whatever order and pieces they are read.
        """
        if not len(self):
            raise ValueError(f"{self.folder} must hold at least one map for a mean, it holds none")
        return self.mean_by(np.zeros(len(self), int), show_progress=show_progress)[0]

    def mean_by(self, labels: ArrayLike, *, show_progress: bool = False) -> dict[Hashable, Tensor]:
        """Return the mean map of each class of images, as exact as `mean`.

        Parameters
        ----------
        labels : array-like of shape (N,)
            A value an image: an attribute, a prediction.
        show_progress : bool, default=False
            A progress bar on stderr.

        Returns
        -------
        dict of label to Tensor of shape (rows, cols)
            In the labels' sorted order.
        """
        names, codes = np.unique(np.asarray(labels), return_inverse=True)
        if codes.shape != (len(self),):
            raise ValueError(f"labels must have shape ({len(self)},), one a map, got {codes.shape}")
        totals = torch.zeros(len(names), *self.grid.shape, dtype=torch.float64)
        start = 0
        for chunk in batches(self.maps, 128, show_progress=show_progress, desc="mean map"):
            totals.index_add_(0, torch.from_numpy(codes[start : start + len(chunk)]), chunk.double())
            start += len(chunk)
        counts = np.bincount(codes, minlength=len(names))
        return {
            name: (total / int(count)).float()
            for name, total, count in zip(names.tolist(), totals, counts, strict=True)
        }

    def check(self, attribution: RegionAttribution, images: ImageSource, *, batch_size: int = 16) -> None:
        """Compute the first and the last batch again and compare them with what is stored.

        Parameters
        ----------
        attribution, images, batch_size
            As given to `attribute_dataset`.

        Raises
        ------
        ValueError
            If these are maps of another classifier, other images or another confidence, or a map is off by more than
            0.002, four steps of float16 near 1.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        classifier = _classifier_of(attribution)
        images = check_images(images, image_size=self.grid.image_size, channels=classifier.in_channels)
        found = {
            "classifier": classifier_digest(classifier),
            "data": digest(images),
            "confidence": _name(attribution.confidence),
        }
        _refuse_differences(self.folder, self.description, found)
        computing = autocast(attribution.forward_func.device, self.description["mixed_precision"])
        for start in {0, max(0, (len(self) - 1) // batch_size * batch_size)}:
            part = slice(start, start + batch_size)
            with computing:
                maps = attribution.region_map(take(images, part), self.description["target"], batch_size=batch_size)
            off = np.abs(maps.cpu().numpy() - self.maps[part])
            if off.size and not off.max() < 0.002:
                number = start + int(off.max((1, 2)).argmax())
                raise ValueError(
                    f"{self.folder} holds another map of image {number}: it is off by up to {off.max():.3g}"
                )

    def pixels(self, index: int | slice | ArrayLike) -> Tensor:
        """Return the pixel maps of the images at `index`: height x width for an int, else N x height x width."""
        # A copy: torch warns of read-only memory, which a memory map is.
        chosen = np.array(self.maps[index if isinstance(index, int | slice) else np.asarray(index)], dtype=np.float32)
        return self.grid.to_pixels(torch.from_numpy(chosen), sigma=self.sigma)


def attribute_dataset(
    attribution: RegionAttribution,
    images: ImageSource,
    folder: str | os.PathLike[str],
    *,
    target: int | None = None,
    batch_size: int = 16,
    mixed_precision: str = "no",
    accelerator: Accelerator | None = None,
    show_progress: bool = False,
) -> RegionMaps:
    """Write the region map of every image into `folder`, a batch at a time, in constant memory.

    A run that was stopped, by whatever, goes on where it was when it is called again with the same classifier and
    images, and leaves the same bytes as one that was not (with the same `batch_size`, on the same machine). Complete
    maps are opened, not computed again.

    Parameters
    ----------
    attribution : RegionAttribution
        Of a `RegionClassifier` in eval mode: a function alone cannot be told from another when a run goes on.
    images : ndarray or Tensor, shape (N, C, height, width)
        uint8, or float in [0, 1]; a memory map is read batch by batch. They are read once more for their digest.
        Or `AttributeImages`, or what `captum_region.datasets.from_dataset` reads, then in memory.
    folder : path
        Made, with its parents. Two bytes a region and image: 4.8 kB an image at 49 x 49 regions.
    target : int, optional
        A class, as in `RegionAttribution.attribute`.
    batch_size : int, default=16
        Images at a time. 16 was fastest on a CPU, whose caches hold that many images' features; a GPU wants more.
    mixed_precision : {"no", "bf16"}, default="no"
        "bf16" runs the classifier in bfloat16: faster where the processor has units for it, with maps a little off.
    accelerator : accelerate.Accelerator, optional
        Of several processes, each of which calls this with the same arguments, on any number of machines that share
        `folder`: they divide the images and leave the bytes that one process leaves on such a device. A run may go on
        with another number of them. The classifier is moved to the accelerator's device.
    show_progress : bool, default=False
        A progress bar with images a second on stderr, of all processes together.

    Returns
    -------
    RegionMaps

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit, or the folder holds maps of another classifier, of other images, of another
        confidence or target.
    BlockingIOError
        If another process is writing into the folder.
    """
    classifier = _classifier_of(attribution)
    if target is not None:
        is_number = isinstance(target, int | np.integer) and not isinstance(target, bool)
        if not is_number or not 0 <= target < classifier.num_classes:
            classes = f"0 to {classifier.num_classes - 1}"
            raise ValueError(f"target must be None or one of the classes {classes}, got {target!r}")
        target = int(target)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    skipped = images.skipped.to_dict("records") if isinstance(images, AttributeImages) else []
    images = check_images(images, image_size=attribution.grid.image_size, channels=classifier.in_channels)
    grid = attribution.grid
    mixed_precision = check_mixed_precision(mixed_precision, accelerator)
    if accelerator is not None:
        classifier.to(accelerator.device)
    processes = Processes(accelerator)
    show_progress = show_progress and processes.is_main
    description = processes.from_main(
        lambda: {
            "format": FORMAT,
            "images": len(images),
            "grid": {"image_size": grid.image_size, "patch_size": grid.patch_size, "stride": grid.stride},
            "class_names": classifier.class_names,
            "classifier": classifier_digest(classifier),
            "data": digest(images, show_progress=show_progress),
            "confidence": _name(attribution.confidence),
            "target": target,
            "mixed_precision": mixed_precision,
            "skipped": skipped,
            "done": 0,
        }
    )
    with ExitStack() as stack:
        # The main process keeps other runs out, for all.
        done = processes.from_main(lambda: _claim(stack.enter_context(locked(folder)), description, batch_size))
        _write_maps(attribution, images, Path(folder), description, done, batch_size, processes, show_progress)
    return RegionMaps(folder, sigma=attribution.sigma)


def _classifier_of(attribution: RegionAttribution) -> RegionClassifier:
    from captum_region.attribution import RegionAttribution  # takes Captum, which a store that is only read need not

    if not isinstance(attribution, RegionAttribution):
        raise TypeError(f"attribution must be a RegionAttribution, got {type(attribution).__name__}")
    classifier = attribution.forward_func
    if not isinstance(classifier, RegionClassifier):
        raise TypeError(f"attribution must be that of a RegionClassifier, got one of {type(classifier).__name__}")
    check_evaluating(classifier)
    return classifier


def _name(confidence: Confidence) -> str:
    """Return what tells one confidence from another: its name, and of one of the user's own what it does."""
    name = getattr(confidence, "__qualname__", "<")
    has_name = "<" not in name and not is_the_users(confidence.__module__)
    return name if has_name else digest(confidence)


def _claim(folder: Path, description: dict[str, Any], batch_size: int) -> int:
    """Return how many maps `folder` holds already; begin a file for them where it holds none."""
    path, header = folder / "maps.npy", _header(description)
    try:
        found = _read_description(folder)
    except FileNotFoundError:
        if path.exists():
            raise ValueError(f"{path} was not written by attribute_dataset; name another folder") from None
        _write_description(folder, description)
        found = description
    _refuse_differences(folder, found, description)
    if not path.exists():
        # Only the header: the maps follow batch by batch, so that a full disk is an error and not a crash.
        with replacing(path) as beside:
            beside.write_bytes(header)
    with path.open("rb") as file:
        # As it was begun with: what the file has may lie.
        if file.read(len(header)) != header:
            raise ValueError(f"{path} does not hold the maps that maps.json describes")
    done: int = found["done"]
    held = (path.stat().st_size - len(header)) // _bytes_a_map(description)
    if held < done:
        # The file was lost or cut short. Whole batches are computed again; written down, for a stop leaves a gap.
        done = held // batch_size * batch_size
        _write_description(folder, found | {"done": done})
    return done


def _header(description: dict[str, Any]) -> bytes:
    shape = (description["images"], *_grid_of(description).shape)
    file = BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f2", "fortran_order": False, "shape": shape})
    return file.getvalue()


def _bytes_a_map(description: dict[str, Any]) -> int:
    return 2 * _grid_of(description).num_regions


def _refuse_differences(folder: Path, kept: dict[str, Any], now: dict[str, Any]) -> None:
    for key in now.keys() & _DIFFERENCES:
        if kept[key] != now[key]:
            words = f"{_DIFFERENCES[key]}: {key} {kept[key]}, this is {now[key]}"
            raise ValueError(f"{folder} holds maps of {words}; name another folder")


def _write_maps(
    attribution: RegionAttribution,
    images: ImageData,
    folder: Path,
    description: dict[str, Any],
    done: int,
    batch_size: int,
    processes: Processes,
    show_progress: bool,
) -> None:
    count = len(images)
    computing = autocast(attribution.forward_func.device, description["mixed_precision"])
    start, bytes_a_map = len(_header(description)), _bytes_a_map(description)
    with (
        (folder / "maps.npy").open("r+b") as file,
        progress_bar(total=count, initial=done, desc="region maps", unit="img", disable=not show_progress) as bar,
    ):

        def save(done: int) -> None:
            file.flush()
            os.fsync(file.fileno())
            if processes.is_main:
                _write_description(folder, description | {"done": done})

        while done < count:
            # Of whole batches for each process: then all batches, and so the maps, are those of one process.
            share = min(
                math.ceil(_IMAGES_A_SAVE / batch_size), math.ceil((count - done) / batch_size / processes.count)
            )
            first = min(done + processes.rank * share * batch_size, count)
            stop = min(first + share * batch_size, count)
            file.seek(start + first * bytes_a_map)
            try:
                for batch in batches(images[:stop], batch_size, start=first):
                    with computing:
                        maps = attribution.region_map(batch, description["target"], batch_size=batch_size).cpu().half()
                    if not bool(maps.isfinite().all()):
                        raise ValueError(
                            f"the classifier gave a map that is not finite among images {first} to {first + len(maps)}"
                        )
                    file.write(maps.numpy().astype("<f2").tobytes())
                    first += len(batch)
                    bar.update(len(batch))
            finally:
                # Also when the user stops it: a slow classifier takes hours for as many images. What comes before the
                # main process's share is whole.
                save(first)
            done = min(done + processes.count * share * batch_size, count)
            if processes.count > 1:
                processes.wait()
                save(done)
                bar.update(done - bar.n)
    processes.wait()  # until the main process has told that all is there


def _write_description(folder: Path, description: dict[str, Any]) -> None:
    with replacing(folder / "maps.json") as path:
        path.write_text(json.dumps(description, indent=1) + "\n")


def _read_description(folder: Path) -> dict[str, Any]:
    path = folder / "maps.json"
    description = read_json(path, FORMAT)
    try:
        description.setdefault("mixed_precision", "no")  # which older stores do not tell
        done, count, names = (description[key] for key in ("done", "images", "class_names"))
        if not (type(done) is type(count) is int and 0 <= done <= count):
            raise ValueError(
                f"done and images must be numbers, the first at most the second, got {done!r} of {count!r}"
            )
        if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            raise TypeError("class_names must be a list of texts")
        if missing := set(_DIFFERENCES) - set(description):
            raise KeyError(min(missing))
        _grid_of(description)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} does not describe region maps: {type(error).__name__}: {error}") from error
    return description


def _grid_of(description: dict[str, Any]) -> RegionGrid:
    grid = description["grid"]
    return RegionGrid(tuple(grid["image_size"]), grid["patch_size"], grid["stride"])

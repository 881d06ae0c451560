"""Region maps of a whole data set: computed once, stored, averaged; a run that was stopped resumes."""

from __future__ import annotations

import math
import os
import sys
from contextlib import ExitStack
from dataclasses import asdict
from html import escape
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from captum_region.attribution import RegionAttribution
from captum_region.batches import Checked, batches, check_images, take
from captum_region.classifiers import RegionClassifier
from captum_region.datasets.images import AttributeImages
from captum_region.display import RegionMapDisplay
from captum_region.evaluation import check_evaluating
from captum_region.grid import RegionGrid
from captum_region.io.arrays import open_array, write_header
from captum_region.io.checkpoint import classifier_digest
from captum_region.io.digest import digest, is_the_users
from captum_region.io.files import locked, read_json, replacing, write_json
from captum_region.labels import class_codes
from captum_region.parallel import Processes
from captum_region.plotting import plot_tag
from captum_region.precision import Precision, autocast, check_mixed_precision, choose_precision
from captum_region.progress import progress_bar
from captum_region.validation import check_count

if TYPE_CHECKING:
    from collections.abc import Hashable

    from accelerate import Accelerator
    from numpy.typing import ArrayLike, NDArray

    from captum_region.batches import ImageData, ImageSource

FORMAT = 1
# How many images may have to be computed again after a kill, and how often the disk is waited for.
_IMAGES_A_SAVE = 1024
# Enough for the mean that a notebook shows, without reading a large store.
_MAPS_SHOWN = 1000
# The keys of maps.json that identify a store.
_IDENTITY = ("classifier", "data", "confidence", "target", "mixed_precision")
# What rounding may change: four steps of float16 near 1.
_TOLERANCE = 0.002


class RegionMaps:
    """The region maps of a data set, stored in a folder by `attribute_dataset`.

    Parameters
    ----------
    folder : path
        Holds ``maps.npy`` (float16, images x rows x columns) and ``maps.json``.
    sigma : float, optional
        For the pixel maps, see `RegionGrid.to_pixels`; the stored maps do not depend on it. `attribute_dataset` sets
        it to the sigma of its attribution.

    Attributes
    ----------
    maps : memmap of float16, shape (N, rows, cols)
        Read-only, and read from the disk when it is used.
    grid : RegionGrid
    class_names : tuple of str
        The classes of the region classifier.
    description : dict
        The content of ``maps.json``: digests of the classifier and the images, the confidence and target, and the
        images that a reader skipped (``skipped``).

    Raises
    ------
    FileNotFoundError
        If the folder holds no maps.
    ValueError
        If the maps are incomplete (`attribute_dataset` completes them), damaged or of another format version.

    See Also
    --------
    attribute_dataset : Computes and stores the maps.
    RegionMapDisplay.from_maps : Draw a stored map, or the mean.
    """

    def __init__(self, folder: str | os.PathLike[str], *, sigma: float | None = None) -> None:
        self.folder = Path(folder)
        self.sigma = sigma
        self.description = _read_description(self.folder)
        done, count = self.description["done"], self.description["images"]
        if done < count:
            raise ValueError(f"{self.folder} holds {done} of {count} maps; attribute_dataset computes the rest")
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

        The values are multiples of 2**-24 between -1 and 1, so their sum in float64 is exact for up to 2**29 images,
        and does not depend on the order in which they are read.
        """
        if not len(self):
            raise ValueError(f"{self.folder} must hold at least one map for a mean, it holds none")
        return self.mean_by(np.zeros(len(self), int), show_progress=show_progress)[0]

    def mean_by(self, labels: ArrayLike, *, show_progress: bool = False) -> dict[Hashable, Tensor]:
        """Return the mean map of each class of images, as exact as `mean`.

        Parameters
        ----------
        labels : array-like of shape (N,)
            A value for each image, such as an attribute or a prediction.
        show_progress : bool, default=False
            A progress bar on stderr.

        Returns
        -------
        dict of label to Tensor of shape (rows, cols)
            In the labels' sorted order.
        """
        names, codes = class_codes(labels, name="labels")
        if codes.shape != (len(self),):
            raise ValueError(f"labels must have shape ({len(self)},), one for each map, got {codes.shape}")
        totals = torch.zeros(len(names), *self.grid.shape, dtype=torch.float64)
        chunks = batches(self.maps, 128, show_progress=show_progress, desc="mean map")
        for chunk, codes_of_chunk in zip(chunks, torch.from_numpy(codes).split(128), strict=False):
            totals.index_add_(0, codes_of_chunk, chunk.double())
        counts = torch.from_numpy(np.bincount(codes, minlength=len(names)))
        return dict(zip(names.tolist(), (totals / counts[:, None, None]).float(), strict=True))

    def check(self, attribution: RegionAttribution, images: ImageSource, *, batch_size: int = 16) -> None:
        """Compute the first and the last batch again and compare them with the stored maps.

        Parameters
        ----------
        attribution, images, batch_size
            As in `attribute_dataset`.

        Raises
        ------
        ValueError
            If the maps are of another classifier, other images or another confidence, or a map differs by more than
            0.002, four steps of float16 near 1.
        """
        found = self.compare(attribution, images, batch_size=batch_size)
        for row in found[~found["equal"]].to_dict("records"):
            then, now, key = row["then"], row["now"], "data" if row["what"] == "images" else row["what"]
            if key in _IDENTITY:
                _refuse_difference(self.folder, key, then, now)
            image = row["what"].partition(" at ")[0]
            raise ValueError(f"{self.folder} holds another {image}: it differs by {abs(then - now):.3g}")

    def compare(self, attribution: RegionAttribution, images: ImageSource, *, batch_size: int = 16) -> pd.DataFrame:
        """Compute the first and the last batch again and return how they compare with the stored maps.

        Parameters
        ----------
        attribution, images, batch_size
            As in `attribute_dataset`.

        Returns
        -------
        DataFrame
            A row for each comparison: ``what``, ``then``, ``now``, and ``equal``, of maps to 0.002. They are of the
            digests of the classifier and the images, and the confidence; if these are equal, also of each batch's
            map that differs most, where it does.

        See Also
        --------
        check : Raises an error instead.
        """
        _, images = _checked(attribution, images, batch_size)
        now = _identity(attribution, images)
        then = {key: self.description[key] for key in now}
        rows: list[dict[str, Any]] = [
            {"what": "images" if key == "data" else key, "then": old, "now": now[key], "equal": old == now[key]}
            for key, old in then.items()
        ]
        starts = sorted({0, (len(self) - 1) // batch_size * batch_size}) if then == now and len(self) else []
        for start in starts:
            part = slice(start, start + batch_size)
            with autocast(attribution.forward_func.device, self.description["mixed_precision"]):
                maps = attribution.region_map(take(images, part), self.description["target"], batch_size=batch_size)
            rows.append(_furthest(self.maps[part], maps.cpu().numpy(), start))
        return pd.DataFrame(rows)

    def pixels(self, index: int | slice | ArrayLike) -> Tensor:
        """Return the pixel maps of some images.

        Parameters
        ----------
        index : int, slice or array-like of int, shape (N,)

        Returns
        -------
        Tensor, shape (height, width) for an int, else (N, height, width)
        """
        # A copy: torch warns of read-only memory, which a memory map is.
        if not isinstance(index, int | slice):
            index = np.asarray(index, dtype=None if np.size(index) else int)  # or [] would be of floats
        chosen = np.array(self.maps[index], dtype=np.float32)
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

    A run that was stopped resumes when it is called again with the same classifier and images, and leaves the same
    bytes as an uninterrupted one (with the same `batch_size`, on the same machine). Complete maps are opened, not
    computed again.

    Parameters
    ----------
    attribution : RegionAttribution
        Of a `RegionClassifier` in eval mode, not of a function: its run could not be identified to resume.
    images : ndarray or Tensor, shape (N, C, height, width)
        uint8, or float in [0, 1]. A memory map is read batch by batch, and once more for its digest. Or
        `AttributeImages`, or a source that `captum_region.datasets.from_dataset` reads into memory.
    folder : path
        Made, with its parents. It needs two bytes for each region and image: 4.8 kB an image at 49 x 49 regions.
    target : int, optional
        A class, as in `RegionAttribution.attribute`.
    batch_size : int, default=16
        Images at a time. 16 was fastest on a CPU, whose caches hold the features of so many; a GPU wants more.
    mixed_precision : {"no", "bf16", "auto"}, default="no"
        "bf16" runs the classifier in bfloat16: faster on processors with units for it, and slightly less exact. "auto"
        does so where the device has units for it and the ranks of a few maps agree to 0.999, see
        `captum_region.precision.choose_precision`; the description says what was taken (``mixed_precision``) and why
        (``mixed_precision_reason``). A run that resumes keeps to what it began with, on another machine too.
    accelerator : accelerate.Accelerator, optional
        For several processes, on one machine or on several that share `folder`. Each calls this with the same
        arguments; they divide the images and write the same bytes as one process on such a device. A run may resume
        with another number of processes. The classifier is moved to the accelerator's device.
    show_progress : bool, default=False
        A progress bar on stderr, for all processes together.

    Returns
    -------
    RegionMaps

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit, or the folder holds maps of another classifier, other images, another confidence,
        target or precision.
    BlockingIOError
        If another process is writing into the folder.

    See Also
    --------
    RegionAttribution.region_map : Maps in memory, of fewer images.
    RegionMaps : Opens maps stored before.
    """
    skipped = images.skipped.to_dict("records") if isinstance(images, AttributeImages) else []
    classifier, images = _checked(attribution, images, batch_size)
    if target is not None:
        count = classifier.num_classes
        if not isinstance(target, int | np.integer) or isinstance(target, bool) or not 0 <= target < count:
            raise ValueError(f"target must be None or one of the classes 0 to {count - 1}, got {target!r}")
        target = int(target)
    mixed_precision = check_mixed_precision(mixed_precision, accelerator, ("no", "bf16", "auto"))
    if accelerator is not None:
        classifier.to(accelerator.device)
    processes = Processes(accelerator)
    show_progress = show_progress and processes.is_main
    precision = processes.from_main(lambda: _precision(attribution, images, Path(folder), target, mixed_precision))
    description = processes.from_main(
        lambda: {
            "format": FORMAT,
            "images": len(images),
            "grid": asdict(attribution.grid),
            "class_names": classifier.class_names,
            **_identity(attribution, images, show_progress=show_progress),
            "target": target,
            "mixed_precision": precision.mixed_precision,
            "mixed_precision_reason": precision.reason,
            "skipped": skipped,
            "done": 0,
        }
    )
    with ExitStack() as stack:
        # The main process holds the lock for all of them.
        done = processes.from_main(lambda: _claim(stack.enter_context(locked(folder)), description, batch_size))
        if show_progress and mixed_precision == "auto":
            why = f", because {precision.reason}" if precision.reason else ", as in the maps that are there"
            print(f"mixed precision: {precision.mixed_precision}{why}", file=sys.stderr)
        _write_maps(attribution, images, Path(folder), description, done, batch_size, processes, show_progress)
    return RegionMaps(folder, sigma=attribution.sigma)


def _checked(
    attribution: RegionAttribution, images: ImageSource, batch_size: int
) -> tuple[RegionClassifier, ImageData]:
    """Return the attribution's classifier, and the images as an array or tensor."""
    if not isinstance(attribution, RegionAttribution):
        raise TypeError(f"attribution must be a RegionAttribution, got {type(attribution).__name__}")
    classifier = attribution.forward_func
    if not isinstance(classifier, RegionClassifier):
        raise TypeError(f"attribution must be that of a RegionClassifier, got one of {type(classifier).__name__}")
    check_evaluating(classifier)
    check_count("batch_size", batch_size)
    return classifier, check_images(images, image_size=attribution.grid.image_size, channels=classifier.in_channels)


def _identity(attribution: RegionAttribution, images: ImageData, *, show_progress: bool = False) -> dict[str, str]:
    """Return digests of classifier and images, and the confidence's name, or its digest if it is the user's own."""
    name = getattr(attribution.confidence, "__qualname__", "<")
    has_name = "<" not in name and not is_the_users(attribution.confidence.__module__)
    return {
        "classifier": classifier_digest(attribution.forward_func),
        "data": digest(images, show_progress=show_progress),
        "confidence": name if has_name else digest(attribution.confidence),
    }


def _precision(
    attribution: RegionAttribution, images: ImageData, folder: Path, target: int | None, mixed_precision: str
) -> Precision:
    """Return what the maps are computed in; with "auto" that of the maps in `folder`, if it holds some."""
    if (folder / "maps.json").exists():
        found = _read_description(folder)
        if mixed_precision in ("auto", found["mixed_precision"]):
            return Precision(found["mixed_precision"], found["mixed_precision_reason"])
    if mixed_precision == "auto":
        return choose_precision(attribution, Checked(images), target)
    return Precision(mixed_precision, None)


def _claim(folder: Path, description: dict[str, Any], batch_size: int) -> int:
    """Return how many maps `folder` holds already; start a file for them if it holds none."""
    path, grid = folder / "maps.npy", _grid_of(description)
    header = _header(description["images"], grid)
    if (folder / "maps.json").exists():
        found = _read_description(folder)
    elif path.exists():
        raise ValueError(f"{path} was not written by attribute_dataset; name another folder")
    else:
        write_json(folder / "maps.json", found := description)
    _refuse_differences(folder, found, description)
    if not path.exists():
        # Only the header: the maps follow batch by batch, so that a full disk is an error and not a crash.
        with replacing(path) as beside:
            beside.write_bytes(header)
    with path.open("rb") as file:
        if file.read(len(header)) != header:
            raise ValueError(f"{path} does not hold the maps that maps.json describes")
    held = (path.stat().st_size - len(header)) // (2 * grid.num_regions)
    if held < found["done"]:
        # The file was lost or cut short. Whole batches are computed again; maps.json says so, as this may be stopped.
        found["done"] = held // batch_size * batch_size
        write_json(folder / "maps.json", found)
    return int(found["done"])


def _header(count: int, grid: RegionGrid) -> bytes:
    write_header(file := BytesIO(), (count, *grid.shape), "<f2")
    return file.getvalue()


def _refuse_differences(folder: Path, kept: dict[str, Any], now: dict[str, Any]) -> None:
    for key in _IDENTITY:
        if key in now and kept[key] != now[key]:
            _refuse_difference(folder, key, kept[key], now[key])


def _refuse_difference(folder: Path, key: str, then: Any, now: Any) -> NoReturn:
    words = "other images" if key == "data" else f"another {key.replace('_', ' ')}"
    raise ValueError(f"{folder} holds maps of {words}: {key} {then}, this is {now}; name another folder")


def _furthest(stored: NDArray[np.float16], maps: NDArray[np.float32], start: int) -> dict[str, Any]:
    """Return the comparison of a batch, whose first image is number `start`, where it differs most."""
    off = np.abs(maps - stored)
    at = np.unravel_index(off.argmax(), off.shape)  # a NaN counts as the greatest
    what = f"map of image {start + int(at[0])} at row {at[1]}, column {at[2]}"
    return {"what": what, "then": float(stored[at]), "now": float(maps[at]), "equal": bool(off[at] < _TOLERANCE)}


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
    start = len(_header(count, attribution.grid))
    with (
        (folder / "maps.npy").open("r+b") as file,
        progress_bar(total=count, initial=done, desc="region maps", unit="img", disable=not show_progress) as bar,
    ):

        def save(done: int) -> None:
            file.flush()
            os.fsync(file.fileno())
            if processes.is_main:
                write_json(folder / "maps.json", description | {"done": done})

        while done < count:
            # Each process takes whole batches: then the batches, and so the maps, are those of one process.
            share = math.ceil(min(_IMAGES_A_SAVE, (count - done) / processes.count) / batch_size) * batch_size
            first = min(done + processes.rank * share, count)
            file.seek(start + first * 2 * attribution.grid.num_regions)
            try:
                for batch in batches(images[: first + share], batch_size, start=first):
                    with computing:
                        maps = attribution.region_map(batch, description["target"], batch_size=batch_size).cpu().half()
                    if not bool(maps.isfinite().all()):
                        some = f"images {first} to {first + len(maps)}"
                        raise ValueError(f"the classifier gave a map that is not finite among {some}")
                    file.write(maps.numpy().astype("<f2").tobytes())
                    first += len(batch)
                    bar.update(len(batch))
            finally:
                # Also when the user stops it: a slow classifier takes hours for as many images. All maps before the
                # main process's share are complete.
                save(first)
            done = min(done + processes.count * share, count)
            if processes.count > 1:
                processes.wait()
                save(done)
                bar.update(done - bar.n)
    processes.wait()  # until the main process has written that all are complete


def _read_description(folder: Path) -> dict[str, Any]:
    path = folder / "maps.json"
    description = read_json(path, FORMAT)
    try:
        # Older stores say neither.
        description = {"mixed_precision": "no", "mixed_precision_reason": None} | description
        done, count, names, *_ = (description[key] for key in ("done", "images", "class_names", *_IDENTITY))
        if not (type(done) is type(count) is int and 0 <= done <= count):
            raise ValueError(f"done must be an integer of at most images, got {done!r} of {count!r}")
        if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            raise TypeError("class_names must be a list of strings")
        _grid_of(description)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} does not describe region maps: {type(error).__name__}: {error}") from error
    return description


def _grid_of(description: dict[str, Any]) -> RegionGrid:
    grid = description["grid"]
    return RegionGrid(tuple(grid["image_size"]), grid["patch_size"], grid["stride"])

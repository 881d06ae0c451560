"""A saved model applied to any number of image files: streamed into a CSV file, resumed after a stop."""

import csv
import hashlib
import io
import os
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from captum_region.datasets.decoding import decode_each, files_digest
from captum_region.datasets.listing import Listing
from captum_region.io.digest import digest
from captum_region.io.files import PARTIAL, locked, read_json, remove_files, write_json
from captum_region.io.provenance import versions
from captum_region.progress import progress_bar
from fairlearn_bridge.deployment.folder import DESCRIPTION, WEIGHTS, decide
from fairlearn_bridge.deployment.state import network_in

FORMAT = 1
# Images at a time, with at most so many values: always the same parts of the same images, so that the batches are too.
_IMAGES, _VALUES = 256, 2**26
# What the folder of unfinished predictions holds, besides a state that is half written.
_ROWS, _STATE = "rows.csv", "state.json"
_KEPT = (_ROWS, _STATE, ".lock")


def part_of(out: Path) -> Path:
    """Return the folder that keeps the predictions that are done while `out` is not complete."""
    return out.with_name(f"{out.name}.part")


def predict_files(
    estimator: Any,
    model: Path,
    listing: Listing,
    out: Path,
    *,
    skip_damaged: bool = False,
    force: bool = False,
    show_progress: bool = False,
) -> dict[str, Any]:
    """Write a row for each image into `out`: its name, the predicted class, the probability of each class.

    A damaged image has no prediction, and the reason in the column ``skipped``. An image that the listing skips, as its
    labels are not known, is predicted too, after the others: that needs no label. A part of the images at a time is in
    memory. What is done is kept in a folder beside `out`, and another call with the same model and images resumes.

    Parameters
    ----------
    estimator : estimator
        What `load_mitigator` returned for `model`, the folder.
    listing : Listing
    out : path
    skip_damaged : bool
        Or else a damaged image raises ValueError.
    force : bool
        Start over where the folder keeps predictions of another model or of other images.

    Returns
    -------
    dict
        ``images``, ``predicted`` (class to count) and ``skipped`` (records of image and reason).
    """
    channels, height, width = network_in(estimator).image_shape_
    if channels != 3:
        raise ValueError(f"the model must take images of 3 channels, as they are read from files; it takes {channels}")
    key = digest((versions(), _file_digest(model / DESCRIPTION), _file_digest(model / WEIGHTS)))
    key += files_digest(listing.folder, names := _names(listing), (height, width))
    _check_part(part_of(out))
    with locked(part_of(out)) as folder:
        rows, state = folder / _ROWS, folder / _STATE
        try:
            start = _resumed(state, rows, key, out, force)
            bar = progress_bar(
                total=len(names),
                initial=start[0],
                desc="predicting",
                unit="image",
                disable=not show_progress,
            )
            with rows.open("r+b" if start[0] else "wb") as file, bar:
                for done in _write_rows(file, estimator, listing, start, skip_damaged):
                    write_json(state, {"format": FORMAT, "key": key, "done": done, "bytes": file.tell()})
                    bar.update(done - bar.n)
        finally:
            if not state.exists():  # nothing to resume from
                _remove_part(folder)
        summary = _summary(rows, estimator)
        rows.replace(out)
        _remove_part(folder)
    return summary


def _names(listing: Listing) -> list[str]:
    """Return all images of a listing, first those whose labels are known."""
    return [*listing.attributes.index.tolist(), *(row["image"] for row in listing.skipped)]


def _check_part(folder: Path) -> None:
    """Raise ValueError if the folder for unfinished predictions is one of the user's."""
    found = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if other := sorted(name for name in found - {*_KEPT} if not name.startswith(PARTIAL)):
        raise ValueError(
            f"{folder} must be new or hold unfinished predictions of this command alone, it holds {other[0]} too; name "
            "another file with --out"
        )


def _remove_part(folder: Path) -> None:
    """Remove unfinished predictions, and nothing that somebody else has written there meanwhile."""
    half_written = [path.name for path in folder.glob(f"{PARTIAL}{_STATE}-*")]
    remove_files(folder, [*_KEPT, *half_written])


def _write_rows(
    file: IO[bytes], estimator: Any, listing: Listing, start: tuple[int, int], skip_damaged: bool
) -> Iterator[int]:
    """Write the rows that are not done, from `start` on, and yield how many are done whenever some are on the disk."""
    done, length = start
    _, height, width = network_in(estimator).image_shape_
    names = _names(listing)
    part = max(1, min(_IMAGES, _VALUES // (3 * height * width)))
    file.seek(length)
    file.truncate()  # of what was being written
    if not done:
        file.write(_text([["image", "prediction", *_columns(estimator), "skipped"]]))
    paths = [os.path.join(listing.folder, name) for name in names[done:]]
    with closing(decode_each(paths, (height, width))) as decoded:
        while its := names[done : done + part]:
            file.write(_text(_rows(estimator, its, [*islice(decoded, part)], listing.folder, skip_damaged)))
            file.flush()
            os.fsync(file.fileno())
            done += len(its)
            yield done


def _resumed(state: Path, rows: Path, key: str, out: Path, force: bool) -> tuple[int, int]:
    """Return how many images are done, and how long their rows are."""
    if not (state.exists() and rows.exists()):
        return 0, 0
    kept: dict[str, Any] = {}
    try:
        kept = read_json(state, FORMAT)
        if kept["key"] == key and rows.stat().st_size >= kept["bytes"] >= 0 and kept["done"] >= 0:
            return int(kept["done"]), int(kept["bytes"])
    except (KeyError, TypeError, ValueError):
        if not force:
            raise ValueError(f"{state} is damaged; with --force the predictions start over") from None
    if not force:
        raise ValueError(
            f"{state.parent} keeps predictions for {out} of another model, other images or other versions; with "
            "--force they start over"
        )
    return 0, 0


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _columns(estimator: Any) -> list[str]:
    return [f"probability_{label}" for label in np.asarray(estimator.classes_).tolist()]


def _rows(
    estimator: Any, names: list[str], decoded: list[NDArray[np.uint8] | str], folder: Path, skip_damaged: bool
) -> Iterator[list[Any]]:
    """Yield the rows of some images."""
    reasons = {at: found for at, found in enumerate(decoded) if isinstance(found, str)}
    if reasons and not skip_damaged:
        at, reason = next(iter(reasons.items()))
        raise ValueError(f"{folder / names[at]}: {reason}; on_error='skip' leaves such images out")
    intact = [found for found in decoded if not isinstance(found, str)]
    columns = len(_columns(estimator))
    if intact:
        probabilities = estimator.predict_proba(np.stack(intact))
        found = iter(zip(decide(estimator, probabilities).tolist(), probabilities.tolist(), strict=True))
    for at, name in enumerate(names):
        if at in reasons:
            yield [name, "", *[""] * columns, reasons[at]]
        else:
            label, values = next(found)
            yield [name, label, *values, ""]


def _text(rows: Any) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode("utf-8", "surrogateescape")


def _summary(rows: Path, estimator: Any) -> dict[str, Any]:
    """Return the counts of complete predictions."""
    predicted = dict.fromkeys(map(str, np.asarray(estimator.classes_).tolist()), 0)
    skipped = []
    with rows.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        for row in csv.DictReader(file):
            if row["skipped"]:
                skipped.append({"image": row["image"], "reason": row["skipped"]})
            else:
                predicted[row["prediction"]] += 1
    return {"images": sum(predicted.values()) + len(skipped), "predicted": predicted, "skipped": skipped}

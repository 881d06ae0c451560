"""The images that a command's options name, and the classifier that is to see them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping
    from pathlib import Path

    import pandas as pd
    from numpy.typing import NDArray

    from captum_region import RegionClassifier
    from captum_region.datasets import AttributeImages


def _partitions(kind: str) -> tuple[str, ...]:
    """Return what a data set calls its parts to train and to test on; nothing where it sets none apart."""
    partitions: dict[str, tuple[str, ...]] = {
        "celeba": ("train", "valid"),
        "fairface": ("train", "validation"),
        "utkface": (),
        "table": (),
        "faces": ("train", "test"),
    }
    if kind not in partitions:
        raise ValueError(f"--data must be one of {', '.join(partitions)}, got {kind!r}")
    return partitions[kind]


def _of_table(kind: str, image_column: str | None) -> dict[str, Any]:
    """Return the arguments that only the reader of tables has."""
    if image_column is None:
        return {}
    if kind != "table":
        raise ValueError(f"--image-column is for --data table, got --data {kind}")
    return {"image_column": image_column}


def reading(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of a command's options that say how `read_data` and `read_both` read images."""
    return {name: options[name] for name in ("cache", "skip_damaged", "quiet", "image_column")}


def read_data(kind: str, root: Path, size: int, **options: Any) -> tuple[AttributeImages, AttributeImages | None]:
    """Return the images to train on, and those to test on where the data set sets some apart.

    Options are those of `reading`.

    Raises
    ------
    ValueError
        If there is no such `kind` of data.
    """
    return (
        _read_partition(kind, root, size, 0, **options),
        _read_partition(kind, root, size, 1, **options) if _partitions(kind) else None,
    )


def _read_partition(
    kind: str,
    root: Path,
    size: int,
    number: int,
    *,
    cache: Path | None,
    skip_damaged: bool,
    quiet: bool,
    image_column: str | None = None,
) -> AttributeImages:
    """Return the images of the first or second of `_partitions`; all where there are none."""
    from captum_region import datasets

    part, options = _partitions(kind)[number : number + 1], _of_table(kind, image_column)
    if kind == "faces":
        if not quiet:
            typer.echo("drawing faces ...", err=True)
        return datasets.make_faces((4000, 1000)[number], size, random_state=number)
    read: Callable[..., AttributeImages] = getattr(datasets, f"load_{kind}")
    options |= {"size": size, "cache": cache, "on_error": "skip" if skip_damaged else "raise"}
    return read(root, *part, show_progress=not quiet, **options)


def read_tables(
    kind: str, root: Path, *, skip_damaged: bool, image_column: str | None = None
) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """Return the attributes of the images that `read_data` does, and decode none."""
    from captum_region import datasets

    options = _of_table(kind, image_column)
    if kind == "faces":
        # Their attributes do not depend on the size: the smallest is drawn soonest.
        train, test = read_data(kind, root, 16, cache=None, skip_damaged=False, quiet=True)
        return train.attributes, None if test is None else test.attributes
    on_error = "skip" if skip_damaged else "raise"
    parts = _partitions(kind) or (None,)
    tables = [datasets.read_attributes(kind, root, part, on_error=on_error, **options) for part in parts]
    return tables[0], tables[1] if len(tables) > 1 else None


def read_both(
    checkpoint: Path, data: str, root: Path, *, held_out: bool = False, **options: Any
) -> tuple[RegionClassifier, AttributeImages]:
    """Return the classifier at `checkpoint`, or in the --out of train, and the images, read at its size.

    They are those to train on, or, if `held_out`, those kept apart. Options are those of `read_data`.
    """
    from captum_region import load_classifier

    loaded = load_classifier(checkpoint / "classifier" if (checkpoint / "classifier").is_dir() else checkpoint)
    height, width = loaded.grid.image_size
    if height != width:
        raise ValueError(f"the classifier must be of square images, it is of {height} x {width}")
    is_apart = held_out and bool(_partitions(data))
    images = _read_partition(data, root, height, int(is_apart), **options)
    return loaded, set_apart(images, None)[1] if held_out and not is_apart else images


def skipped_in(*parts: AttributeImages | None) -> list[dict[Hashable, Any]]:
    """Return what readers left out, as records of image and reason."""
    return [row for part in parts if part is not None for row in part.skipped.to_dict("records")]


def set_apart(images: AttributeImages, apart: AttributeImages | None) -> tuple[AttributeImages, AttributeImages]:
    """Return the images to train on and those kept apart: a fifth, always the same, where the data set names none.

    What was divided is in a random order, always the same too: the first of a folder sorted by age are children.
    """
    import numpy as np
    from sklearn.model_selection import GroupShuffleSplit

    if apart is not None:
        return images, apart
    # A person whose images were on both sides would make the classifier look better than it is.
    groups = range(len(images)) if images.identities is None else images.identities
    if len(set(groups)) < 2:
        raise ValueError("a fifth of the images is kept apart, but there is one alone, or one person alone")
    parts = next(GroupShuffleSplit(1, test_size=0.2, random_state=0).split(groups, groups=groups))
    train, test = (images.subset(np.random.default_rng(0).permutation(part)) for part in parts)
    return train, test


def check_values(attribute: str, labels: NDArray[Any]) -> None:
    """Raise ValueError if all images are of one class: there is nothing to tell apart."""
    if len(values := set(labels.tolist())) < 2:
        raise ValueError(f"--attribute {attribute} must take at least two values in the images, it takes {values}")

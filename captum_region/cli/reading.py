"""The images that a command's options name, and the classifier that maps them."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence

    import pandas as pd
    from numpy.typing import NDArray

    from captum_region import RegionClassifier
    from captum_region.datasets import AttributeImages
    from captum_region.datasets.listing import Listing

# What each data set calls its part to test on, where the one to test on above is meant to choose by.
_THIRD = {"celeba": ("test",)}
# What each data set calls its parts to train and to test on; nothing where it has no such parts.
_PARTS: dict[str, tuple[str, ...]] = {
    "celeba": ("train", "valid"),
    "fairface": ("train", "validation"),
    "utkface": (),
    "table": (),
    "faces": ("train", "test"),
}


@dataclass(frozen=True)
class Source:
    """A data set, as the options of the same names say it is read.

    Of the attributes in `named`, those that are no column of the data but properties of the images, such as
    ``brightness@0.5`` or ``file_format=PNG``, are measured and become attributes.
    """

    data: str
    root: Path = Path()
    image_column: str | None = None
    identity_column: str | None = None
    cache: Path | None = None
    skip_damaged: bool = False
    quiet: bool = False
    named: tuple[str, ...] = ()

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Source:
        """Return the source that a command's options name."""
        given = [options.get(name) or () for name in ("target", "confounder")]
        named = tuple(name for names in given for name in ([names] if isinstance(names, str) else names))
        return cls(**{field.name: options[field.name] for field in fields(cls) if field.name in options}, named=named)

    @property
    def parts(self) -> tuple[str, ...]:
        """What the data set calls its parts to train and to test on; nothing where it has no such parts.

        Raises
        ------
        ValueError
            If there is no such data set.
        """
        if self.data not in _PARTS:
            raise ValueError(f"--data must be one of {', '.join(_PARTS)}, got {self.data!r}")
        return _PARTS[self.data]

    def load(self, size: int) -> tuple[AttributeImages, AttributeImages | None]:
        """Return the images to train on, and those to test on where the data set has some."""
        train, *test = with_properties([(self, number) for number in range(max(1, len(self.parts)))], size)
        return train, test[0] if test else None

    def load_sets(
        self, size: int, validation: Path | None = None, test: Path | None = None
    ) -> tuple[AttributeImages, AttributeImages | None, AttributeImages | None]:
        """Return the images to train on, to choose by and to test on; None where the data set has none of its own.

        Parameters
        ----------
        size : int
        validation, test : path, optional
            Tables of such images, where the data are a table.
        """
        if self.data != "table" and (validation or test):
            raise ValueError(f"--validation and --test are tables for --data table, got --data {self.data}")
        if self.data == "table":
            tables = [None if table is None else replace(self, root=table) for table in (validation, test)]
            train, *given = with_properties([(source, 0) for source in (self, *tables) if source is not None], size)
            more = iter(given)
            own = [None if table is None else next(more) for table in tables]
            return train, own[0], own[1]
        train, *others = with_properties([(self, number) for number in range(self.measured_on + 1)], size)
        return train, others[0] if len(others) > 1 else None, others[-1] if others else None

    @property
    def measured_on(self) -> int:
        """The number of the last part there is: that to test on."""
        count = max(1, len(self.parts))
        if self.data in _THIRD:
            from captum_region.datasets.celeba import celeba_splits

            count += len({*_THIRD[self.data]}.intersection(celeba_splits(self.root)))
        return count - 1

    def load_for(self, checkpoint: Path, *, held_out: bool = False) -> tuple[RegionClassifier, AttributeImages]:
        """Return the classifier at `checkpoint`, or in the --out folder of train, and images of its size.

        They are the images to train on or, with `held_out`, those to test on.
        """
        loaded = classifier_at(checkpoint)
        height, width = loaded.grid.image_size
        if height != width:
            raise ValueError(f"the classifier must be for square images, it is for {height} x {width}")
        if held_out and not self.parts:
            return loaded, set_apart(self.load_part(height, 0), None)[1]
        return loaded, self.load_part(height, int(held_out))

    def load_part(self, size: int, number: int = 0) -> AttributeImages:
        """Return the images of the first, second or third part, without properties; all where there are no parts."""
        from captum_region import datasets

        options, part = self._reader_options(), self._part(number)  # which refuses a data set that there is not
        if self.data == "faces":
            if not self.quiet:
                typer.echo("drawing faces ...", err=True)
            return datasets.make_faces((4000, 1000)[number], size, random_state=number)
        if self.identity_column is not None:
            if self.data != "table":
                raise ValueError(f"--identity-column is for --data table, got --data {self.data}")
            options["identity_column"] = self.identity_column
        read: Callable[..., AttributeImages] = getattr(datasets, f"load_{self.data}")
        return read(self.root, *part, size=size, cache=self.cache, show_progress=not self.quiet, **options)

    def _part(self, number: int) -> tuple[str, ...]:
        """Return what the data set calls a part; nothing where it has no parts."""
        return (*self.parts, *_THIRD.get(self.data, ()))[number : number + 1]

    def attributes(self) -> tuple[pd.DataFrame, pd.DataFrame | None]:
        """Return the attributes of the images that `load` returns, without decoding any."""
        from captum_region import datasets

        options = self._reader_options()
        if self.data == "faces":
            # Their attributes do not depend on the size: the smallest faces are drawn fastest.
            return self.load_part(16, 0).attributes, self.load_part(16, 1).attributes
        parts = self.parts or (None,)
        tables = [datasets.read_attributes(self.data, self.root, part, **options) for part in parts]
        return tables[0], tables[1] if len(tables) > 1 else None

    def properties(self, number: int = 0, images: AttributeImages | None = None) -> pd.DataFrame:
        """Return the properties of the images of the first or second part, or of its `images` alone."""
        from captum_region.datasets import image_properties

        if self.data == "faces":
            return image_properties(images or self.load_part(64, number), show_progress=not self.quiet)
        listing = self.listing(number)
        names = (listing if images is None else images).attributes.index
        by_path = {str(listing.folder / name): name for name in names}
        on_error = self._reader_options()["on_error"]
        found = image_properties(list(by_path), on_error=on_error, show_progress=not self.quiet)
        found.attrs["skipped"] = [row | {"image": by_path[row["image"]]} for row in found.attrs["skipped"]]
        return found.rename(index=by_path)

    def listing(self, number: int = 1) -> Listing:
        """Return the images of the first, second or third part, all where there are no parts, without opening any."""
        from captum_region.datasets.readers import list_images

        if self.data == "faces":
            raise ValueError("--data must be images in files: celeba, fairface, utkface or table; got 'faces'")
        return list_images(self.data, self.root, *self._part(number), **self._reader_options())

    def _reader_options(self) -> dict[str, str]:
        options = {"on_error": "skip" if self.skip_damaged else "raise"}
        if self.image_column is None:
            return options
        if self.data != "table":
            raise ValueError(f"--image-column is for --data table, got --data {self.data}")
        return options | {"image_column": self.image_column}


def classifier_at(checkpoint: Path) -> RegionClassifier:
    """Return the classifier at `checkpoint`, or in the --out folder of train or run."""
    from captum_region import load_classifier

    folders = [checkpoint / name for name in ("classifier", "region_classifier")]
    return load_classifier(next((folder for folder in folders if folder.is_dir()), checkpoint))


def with_properties(places: Sequence[tuple[Source, int]], size: int) -> list[AttributeImages]:
    """Return the images of parts of data sets, those to train on first, with the properties that the first one names.

    Each place is a data set and the number of its part. A property is cut at a quantile of the images to train on.
    """
    from captum_region.datasets import property_attribute
    from captum_region.datasets.properties import property_in

    parts = [source.load_part(size, number) for source, number in places]
    known = parts[0].attributes
    columns = {name if name in known else name.partition("=")[0] for name in places[0][0].named}
    measured: list[pd.DataFrame] = []
    for name in sorted(columns.difference(known)):
        if property_in(name) is None:
            continue
        measured = measured or [
            source.properties(number, part) for (source, number), part in zip(places, parts, strict=True)
        ]
        try:
            found = [property_attribute(each, name, reference=measured[0]) for each in measured]
        except ValueError as error:
            raise ValueError(f"{name} {str(error).removeprefix('name ')}") from error
        if found[0].nunique() < 2:
            raise ValueError(f"{name} must differ between the images to train on, it is {found[0].iloc[0]} for all")
        added = [part.attributes.assign(**{name: values.to_numpy()}) for part, values in zip(parts, found, strict=True)]
        parts = [replace(part, attributes=table) for part, table in zip(parts, added, strict=True)]
    return parts


def skipped_in(*parts: AttributeImages | None) -> list[dict[Hashable, Any]]:
    """Return the images that readers left out, as records of image and reason."""
    return [row for part in parts if part is not None for row in part.skipped.to_dict("records")]


def set_apart(images: AttributeImages, test: AttributeImages | None) -> tuple[AttributeImages, AttributeImages]:
    """Return the images to train on and those to test on: where there are none, a fifth of all, always the same.

    Both parts are then shuffled, always in the same way: the first images of a folder sorted by age are children.
    """
    import numpy as np
    from sklearn.model_selection import GroupShuffleSplit

    if test is not None:
        return images, test
    # With images of a person, or an image that is repeated, on both sides the classifier would look too good.
    groups = images.firsts() if images.identities is None else images.identities
    if len(set(groups)) < 2:
        raise ValueError("a fifth of the images is kept for the test, but there is only one image, or one person")
    parts = next(GroupShuffleSplit(1, test_size=0.2, random_state=0).split(groups, groups=groups))
    train, held_out = (images.subset(np.random.default_rng(0).permutation(part)) for part in parts)
    return train, held_out


def labels_of(images: AttributeImages, attribute: str) -> NDArray[Any]:
    """Return the labels of the images; raise ValueError if all are of one class."""
    labels = images.labels(attribute)
    if len(values := set(labels.tolist())) < 2:
        raise ValueError(f"--attribute {attribute} must have at least two values in the images, it has {values}")
    return labels

"""AttributeImages: uint8 images, in memory or memory-mapped, with a table of attributes."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from html import escape
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from captum_region.plotting import png_source

_IMAGES_SHOWN = 8
_ATTRIBUTES_SHOWN = 10
_VALUES_SHOWN = 5


def first_equal(*parts: NDArray[np.uint8]) -> NDArray[np.intp]:
    """Return for each image, counted over all parts, the position of the first that is equal to it pixel by pixel."""
    if not all(part[0].size for part in parts if len(part)):
        return np.arange(sum(map(len, parts)))  # no pixels by which they could be equal
    keys = [hash(image.tobytes()) for part in parts for image in part]
    _, first, key = np.unique(keys, return_index=True, return_inverse=True)
    return first[key]


@dataclass(frozen=True, eq=False)
class AttributeImages:
    """Images of one size with one row of attributes each.

    Parameters
    ----------
    images : ndarray of uint8, shape (N, channels, height, width)
        The images, 0 to 255. A ``numpy.memmap`` is not read into memory as a whole.
    attributes : DataFrame of N rows
        One column per attribute. The index names the images (a file name, a number).
    identities : array-like of shape (N,), optional
        Which person each image shows, if known; `fairlearn_bridge.confounded_split` keeps the persons of a training
        set out of the test set.
    skipped : DataFrame with columns ``image`` and ``reason``, optional
        What a reader left out because it was missing or damaged; empty by default.

    Raises
    ------
    TypeError
        If `images` is not a uint8 array or `attributes` not a DataFrame.
    ValueError
        If `images` is not 4-D, the lengths differ or two attributes have the same name.

    See Also
    --------
    from_dataset, load_celeba, load_fairface, load_table, load_utkface, make_faces : Return such images.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> faces = AttributeImages(np.zeros((3, 3, 8, 8), np.uint8), pd.DataFrame({"Smiling": [True, False, True]}))
    >>> len(faces), faces.image_size
    (3, (8, 8))
    >>> len(faces.subset(faces.attributes["Smiling"]))
    2
    """

    images: NDArray[np.uint8]
    attributes: pd.DataFrame
    identities: NDArray[Any] | None = None
    skipped: pd.DataFrame = field(default_factory=lambda: pd.DataFrame({"image": [], "reason": []}, dtype=object))

    def __post_init__(self) -> None:
        if not isinstance(self.images, np.ndarray) or self.images.dtype != np.uint8:
            got = getattr(self.images, "dtype", type(self.images).__name__)
            raise TypeError(f"images must be a uint8 numpy array, got {got}")
        if self.images.ndim != 4:
            raise ValueError(f"images must have shape (N, channels, height, width), got {self.images.shape}")
        if not isinstance(self.attributes, pd.DataFrame):
            raise TypeError(f"attributes must be a pandas DataFrame, got {type(self.attributes).__name__}")
        if self.attributes.columns.has_duplicates:
            twice = self.attributes.columns[self.attributes.columns.duplicated()][0]
            raise ValueError(f"attributes must have different column names, {twice!r} occurs twice")
        if len(self.attributes) != len(self.images):
            raise ValueError(f"attributes must have one row per image: {len(self.attributes)} rows, {len(self)} images")
        if self.identities is not None:
            object.__setattr__(self, "identities", np.asarray(self.identities))
            if self.identities.shape != (len(self),):
                raise ValueError(f"identities must have shape ({len(self)},), got {self.identities.shape}")

    def __len__(self) -> int:
        return len(self.images)

    def _repr_html_(self) -> str:
        channels, height, width = self.images.shape[1:]
        rows = [(name, _counted(values)) for name, values in self.attributes.iloc[:, :_ATTRIBUTES_SHOWN].items()]
        if more := self.attributes.shape[1] - len(rows):
            rows.append(("...", f"{more} more attributes"))
        html = f"<p>{type(self).__name__}: {len(self):,} images of {channels} x {height} x {width}</p>"
        if len(self) and channels in (1, 3):
            some = self.images[:_IMAGES_SHOWN]
            source = png_source(np.concatenate(list(some), axis=2))
            html += f'<img src="{source}" alt="the first {len(some)}" height="{max(height, 64)}">'
        cells = (f"<tr><th>{escape(str(name))}</th><td>{escape(counts)}</td></tr>" for name, counts in rows)
        return f"{html}<table>{''.join(cells)}</table>"

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = self.images.shape[2:]
        return height, width

    def firsts(self) -> NDArray[np.intp]:
        """Return for each image the position of the first that is equal to it pixel by pixel: its own, unless repeated.

        Data sets repeat images. ``images.subset(np.unique(images.firsts()))`` has each once; parts to train on and to
        test on must not share any.
        """
        return first_equal(self.images)

    def positions(self, selection: ArrayLike | slice) -> NDArray[np.intp]:
        """Return `selection`, a slice, a boolean mask of N or integer positions, as integer positions.

        Raises
        ------
        TypeError
            If it is neither.
        ValueError
            If it has N numbers which are all 0 or 1, such as a column of `attributes`: `labels` gives a mask. If it is
            not one-dimensional, a mask of another length, or a position is out of range.
        """
        if isinstance(selection, slice):
            return np.arange(len(self))[selection]
        if np.ndim(selection) != 1:
            raise ValueError(f"selection must be one-dimensional, got {np.ndim(selection)} dimensions")
        chosen = (
            pd.Series(np.asarray(selection)).infer_objects().to_numpy() if np.size(selection) else np.array([], int)
        )
        if chosen.dtype.kind not in "biu":
            raise TypeError(f"selection must be a boolean mask, positions or a slice, got {chosen.dtype}")
        if chosen.dtype.kind != "b" and len(chosen) == len(self) > 2 and np.isin(chosen, (0, 1)).all():
            raise ValueError(
                f"selection must be a boolean mask or positions, got {len(self)} numbers of 0 and 1, which could be "
                "either; labels(name) gives the mask of an attribute"
            )
        if chosen.dtype.kind == "b" and len(chosen) != len(self):
            raise ValueError(f"selection must be a mask of {len(self)} images, got {len(chosen)}")
        if chosen.dtype.kind != "b" and not ((chosen >= -len(self)) & (chosen < len(self))).all():
            raise ValueError(
                f"selection must hold positions of {len(self)} images, got {chosen.min()} to {chosen.max()}"
            )
        return np.arange(len(self))[chosen]

    def subset(self, selection: ArrayLike | slice) -> Self:
        """Return the images at `selection`: a slice (no copy is made), a boolean mask of N, or integer positions."""
        chosen = selection if isinstance(selection, slice) else self.positions(selection)
        # All in one go, for `replace` checks that the lengths agree; those of subclasses too.
        parts = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "skipped"}
        kept = {name: getattr(part, "iloc", part)[chosen] for name, part in parts.items() if part is not None}
        return replace(self, **kept)

    def labels(self, name: str) -> NDArray[Any]:
        """Return the attribute `name` with all its values, or for ``"race=White"`` whether race is White.

        Parameters
        ----------
        name : str
            An attribute, or an attribute and one of its values with ``=`` between them.

        Returns
        -------
        ndarray, shape (N,)
            Boolean for a comparison and for an attribute with no other values than 0 and 1, numbers for other numeric
            attributes, text for categories.

        Raises
        ------
        ValueError
            If there is no such attribute or value, or values are missing.

        Examples
        --------
        >>> people = AttributeImages(np.zeros((2, 3, 8, 8), np.uint8), pd.DataFrame({"race": ["White", "Black"]}))
        >>> people.labels("race").tolist(), people.labels("race=Black").tolist()
        (['White', 'Black'], [False, True])
        """
        if name not in self.attributes or (values := self._known(name)).isin([0, 1]).all():
            return self.binary(name)
        return values.to_numpy() if pd.api.types.is_numeric_dtype(values) else values.to_numpy().astype(str)

    def binary(self, name: str) -> NDArray[np.bool_]:
        """Return the binary attribute `name`, or for ``"race=White"`` whether the attribute race is White.

        Parameters
        ----------
        name : str
            As in `labels`.

        Returns
        -------
        ndarray of bool, shape (N,)

        Raises
        ------
        ValueError
            If there is no such attribute or value, or the attribute is not binary.

        Examples
        --------
        >>> people = AttributeImages(np.zeros((2, 3, 8, 8), np.uint8), pd.DataFrame({"race": ["White", "Black"]}))
        >>> people.binary("race=Black")
        array([False,  True])
        """
        # A column's own name may hold an equals sign, as one-hot columns' do; or be a number.
        column, equals, value = (name, "", "") if name in self.attributes else name.partition("=")
        if column not in self.attributes:
            raise ValueError(f"{name!r} is not an attribute of these images; there are {quoted(self.attributes)}")
        values = self._known(column)
        if equals:
            chosen: NDArray[np.bool_] = values.to_numpy().astype(str) == value
            if not chosen.any() and pd.api.types.is_numeric_dtype(values):
                with suppress(ValueError):  # 1 where a gap elsewhere has made the column's values 1.0
                    chosen = values.to_numpy() == float(value)
            if not chosen.any():
                raise ValueError(f"no image has {name!r}; {column!r} takes {quoted(values.unique()[:20])}")
            return chosen
        if not values.isin([0, 1]).all():
            some = quoted(f"{column}={value}" for value in values.unique()[:3])
            raise ValueError(f"{name!r} is not binary; name one of its values, as in {some}")
        return values.to_numpy(dtype=bool)

    def _known(self, column: str) -> "pd.Series[Any]":
        """Return an attribute; ValueError if it is missing for an image, whose value could only be guessed."""
        values = self.attributes[column]
        if gaps := self.attributes.index[values.isna()].tolist():
            raise ValueError(f"{column!r} is missing for {len(gaps)} of {len(self)} images, the first is {gaps[0]}")
        # Text may be stored by pyarrow, which does not compare it with numbers.
        return values if pd.api.types.is_numeric_dtype(values) else values.astype(object)


def quoted(names: Iterable[Any]) -> str:
    """Return names or values as messages list them, in quotes: a blank at an end would not show otherwise."""
    return ", ".join(repr(str(name)) for name in names)


def _counted(values: "pd.Series[Any]") -> str:
    """Return how many images have each of the most frequent values."""
    counts = values.value_counts(dropna=False)
    parts = [f"{value}: {count:,}" for value, count in counts.iloc[:_VALUES_SHOWN].items()]
    return ", ".join(parts) + (f", {more} other values" if (more := len(counts) - _VALUES_SHOWN) > 0 else "")

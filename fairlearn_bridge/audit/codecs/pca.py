"""PCACodec: principal components of whole images, learned in seconds, with a real bitstream."""

from __future__ import annotations

import copy
import lzma
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError

from captum_region.batches import as_floats, batches
from captum_region.randomness import RandomState, draw_seed
from fairlearn_bridge.audit.codecs.base import calibration_images, check_uint8, read_numbers, write_number
from fairlearn_bridge.validation import check_number

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from captum_region.batches import ImageSource
    from fairlearn_bridge.audit.codecs.base import Shape

_LZMA = [{"id": lzma.FILTER_LZMA1, "lc": 0, "lp": 0, "pb": 0}]
# Of the standard library's entropy coders those without a container; which is the shortest depends on the images.
_STRATEGIES = {"deflate": zlib.Z_DEFAULT_STRATEGY, "huffman": zlib.Z_HUFFMAN_ONLY, "fixed": zlib.Z_FIXED}
CODERS = (*_STRATEGIES, "lzma")
# By so many of the training images the coder is chosen.
_CHOSEN_BY = 256
# The variance of rounding to uint8, of images in [0, 1]: nothing finer is worth a bit.
_ROUNDING = (1 / 255) ** 2 / 12


class PCACodec:
    """A learned reference codec: eigenfaces, quantised and entropy-coded.

    An image is projected on the principal components of the training images. The coefficients are divided by a step and
    rounded, and coded by the entropy coder of the standard library (deflate or LZMA, without a container) that makes
    the training images, 256 of them at most, the smallest. So the effect of a codec's training set can be shown without
    a neural network. One image is taken at a time: its bytes do not depend on the others.

    Parameters
    ----------
    n_components : int
        At most the number of training images and of values of an image.
    step : float, optional
        The quantiser's step, of coefficients of images in [0, 1]. By default sqrt(12 v), with v the variance of the
        last component: rounding then costs each component as much as leaving the last one out, which is how bits are
        best divided ("reverse water-filling"). But 1/255 at least, the step of the images' own values.
    random_state : int, NumPy generator or None, default=0
        Decides the start of the randomised singular value decomposition.

    Attributes
    ----------
    coder_ : str
        The entropy coder that was chosen.
    step_ : float
    components_ : ndarray of float32, shape (n_components, channels * height * width)
    mean_ : ndarray of float32, shape (channels * height * width,)
    variance_ : ndarray of shape (n_components,)
        Of the training images' coefficients.

    See Also
    --------
    PillowCodec, ModelCodec

    Examples
    --------
    >>> from captum_region.datasets import make_faces
    >>> faces = make_faces(40, 32, random_state=0).images
    >>> codec = PCACodec(8).fit(faces)
    >>> data = codec.encode(faces[:2])
    >>> codec.decode(data, (3, 32, 32)).shape, max(map(len, data)) < 16
    ((2, 3, 32, 32), True)
    """

    name = "pca"
    threads = True

    def __init__(self, n_components: int = 64, *, step: float | None = None, random_state: RandomState = 0) -> None:
        self.n_components = n_components
        self.step = step
        self.random_state = random_state

    @property
    def severity(self) -> int:
        """The number of components."""
        return self.n_components

    def fit(self, images: ImageSource) -> PCACodec:
        """Learn the components; all images are in memory as float32 meanwhile.

        Parameters
        ----------
        images : ndarray or Tensor, shape (N, channels, height, width)
            uint8, or float in [0, 1]; or `AttributeImages`, or a data set.

        Returns
        -------
        self

        Raises
        ------
        TypeError, ValueError
            If the images or parameters do not fit.
        """
        checked = calibration_images(images)
        rows: NDArray[np.float32] = torch.cat([as_floats(batch).flatten(1) for batch in batches(checked, 256)]).numpy(
            force=True
        )
        most = min(rows.shape)
        if not isinstance(self.n_components, int | np.integer) or not 1 <= self.n_components <= most:
            raise ValueError(f"n_components must be an integer in [1, {most}], got {self.n_components!r}")
        if self.step is not None:
            check_number("step", self.step, 0, inside=True)
        # Few components of many: the randomised solver is fast, and needs some to spare.
        solver = "randomized" if 2 * self.n_components < most else "full"
        pca = PCA(self.n_components, svd_solver=solver, random_state=draw_seed(self.random_state)).fit(rows)
        self.shape_: Shape = tuple(checked.shape[1:])
        self.mean_, self.components_ = pca.mean_.astype(np.float32), pca.components_.astype(np.float32)
        self.variance_: NDArray[np.float64] = pca.explained_variance_.astype(float)
        self._coefficients = self._projected(rows[:_CHOSEN_BY])
        self._choose()
        return self

    def _choose(self) -> None:
        """Choose the step and the coder for as many components as there are."""
        least = max(float(self.variance_[self.n_components - 1]), _ROUNDING)
        self.step_ = float(np.sqrt(12 * least)) if self.step is None else float(self.step)
        symbols = self._symbols(self._coefficients[:, : self.n_components])
        self.coder_ = min(CODERS, key=lambda coder: sum(len(_compressed(part, coder)) for part in symbols))

    @property
    def qualities(self) -> tuple[int, int]:
        """The least and the largest number of components: the fitted one."""
        return 1, len(self._fitted().components_)

    def at_quality(self, quality: float) -> PCACodec:
        """Return this codec with only its first `quality` components, and the step and coder that go with them."""
        check_number("quality", quality, *self.qualities)
        if int(quality) != quality:
            raise ValueError(f"quality must be a whole number of components, got {quality!r}")
        codec = copy.copy(self)
        codec.n_components = int(quality)
        codec._choose()
        return codec

    def _fitted(self) -> PCACodec:
        if not hasattr(self, "components_"):
            raise NotFittedError("PCACodec must be fitted first: call fit with training images")
        return self

    def encode(self, images: NDArray[np.uint8]) -> list[bytes]:
        """Return the bytes of each image.

        Raises
        ------
        TypeError, ValueError
            If the images are not uint8 of the shape of the training images.
        sklearn.exceptions.NotFittedError
            Before `fit`.
        """
        images = check_uint8(images)
        if images.shape[1:] != self._fitted().shape_:
            raise ValueError(f"images must have the shape {self.shape_} of the training images, got {images.shape[1:]}")
        rows = images.reshape(len(images), -1).astype(np.float32) / np.float32(255)
        return [_compressed(symbols, self.coder_) for symbols in self._symbols(self._projected(rows))]

    def _projected(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the coefficients of each image, N x components."""
        components = self.components_[: self.n_components]
        # One image at a time: in a product of matrices, rounding depends on how many there are.
        return np.stack([components @ (row - self.mean_) for row in rows]).reshape(len(rows), -1)

    def _symbols(self, coefficients: NDArray[np.float32]) -> list[bytes]:
        """Return the coefficients of each image as bytes: 0, -1, 1, -2 ... are 0, 1, 2, 3 ...; no zeros at the end."""
        steps = np.rint(coefficients.astype(float) / self.step_).astype(np.int64)
        numbers = np.where(steps < 0, -2 * steps - 1, 2 * steps)
        return [b"".join(map(write_number, _without_zeros(row).tolist())) for row in numbers]

    def overhead(self, shape: Shape) -> int:
        """Return 0, the bytes of the container: there is none, and flat grey is as much content as any image."""
        return 0

    def decode(self, data: Sequence[bytes], shape: Shape) -> NDArray[np.uint8]:
        """Return the images of bytes, shape (N, channels, height, width).

        Raises
        ------
        ValueError
            If bytes are truncated or not of this codec, or `shape` is not that of the training images.
        sklearn.exceptions.NotFittedError
            Before `fit`.
        """
        if tuple(shape) != self._fitted().shape_:
            raise ValueError(f"shape must be that of the training images, {self.shape_}, got {tuple(shape)}")
        components = self.components_[: self.n_components]
        images = np.empty((len(data), *self.shape_), np.uint8)
        for position, one in enumerate(data):
            try:
                numbers = [number for number, _ in read_numbers(_decompressed(one, self.coder_))]
                if len(numbers) > self.n_components or max(numbers, default=0) > 2**32:
                    raise ValueError(f"they hold more than {self.n_components} coefficients")
            except (ValueError, zlib.error, lzma.LZMAError) as error:
                raise ValueError(f"the bytes of image {position} are not of this PCACodec: {error}") from error
            row = _from_symbols(numbers, self.n_components) * self.step_ @ components + self.mean_
            images[position] = np.rint(row.clip(0, 1) * 255).reshape(self.shape_)
        return images


def _without_zeros(row: NDArray[Any]) -> NDArray[Any]:
    """Return a row up to its last value that is not 0."""
    return row[: int(np.flatnonzero(row).max(initial=-1)) + 1]


def _from_symbols(numbers: Iterable[int], count: int) -> NDArray[np.float32]:
    symbols = np.array([*numbers], np.int64)
    values = np.zeros(count, np.float32)
    values[: len(symbols)] = np.where(symbols % 2, -(symbols + 1) // 2, symbols // 2)
    return values


def _compressed(data: bytes, coder: str) -> bytes:
    if coder == "lzma":
        return lzma.compress(data, lzma.FORMAT_RAW, filters=_LZMA)
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15, 9, _STRATEGIES[coder])
    return deflate.compress(data) + deflate.flush()


def _decompressed(data: bytes, coder: str) -> bytes:
    """Return what was compressed; ValueError, zlib.error or LZMAError if the bytes are not complete."""
    inflate: Any = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_LZMA) if coder == "lzma" else zlib.decompressobj(-15)
    # What is truncated or foreign may ask for very much.
    found: bytes = inflate.decompress(data, 2**20)
    if not inflate.eof or inflate.unused_data:
        raise ValueError("they are truncated, or there are more than belong to it")
    return found

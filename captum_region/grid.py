"""RegionGrid: where the regions of an image lie, and how values of regions become values of pixels."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@lru_cache(maxsize=64)
def _averaging(length: int, patch_size: int, stride: int, sigma: float | None) -> NDArray[np.float64]:
    """Return the length x regions matrix that averages, for each pixel of one axis, the regions that cover it."""
    pixel = np.arange(length)[:, None]
    start = np.arange(0, length - patch_size + 1, stride)
    covers = (start <= pixel) & (pixel < start + patch_size)
    # A pixel that no region covers takes the row of the nearest covered one (the lower of two equally near), so that a
    # constant region map gives a constant pixel map.
    covered = np.flatnonzero(covers.any(1))
    nearest = covered[np.abs(pixel - covered).argmin(1)]
    if sigma is None:
        weight = covers[nearest].astype(float)
    else:
        distance = np.abs(pixel - start - (patch_size - 1) / 2) / (sigma * patch_size)
        distance = np.where(covers, distance, np.inf)[nearest]
        # Relative to the nearest region, whose weight stays 1 however small sigma is.
        weight = np.exp((distance.min(1, keepdims=True) ** 2 - distance**2) / 2)
    return weight / weight.sum(1, keepdims=True)


@dataclass(frozen=True, init=False)
class RegionGrid:
    """The square regions of an image, in row-major order: region i is row i // cols, column i % cols.

    Region (row, column) covers the pixels from (row * stride, column * stride), `patch_size` on each side. Only
    whole regions count: if ``size - patch_size`` is not a multiple of the stride, no region covers the last pixels.

    Parameters
    ----------
    image_size : int or (int, int)
        Height and width in pixels; an int means a square image.
    patch_size : int, default=32
        Side k of a region in pixels.
    stride : int, default=2
        Step between regions in pixels, on both axes. The defaults on 128 px images are the paper's 49 x 49 regions
        (De Coninck et al. 2024, section 3.1; its text says 2041, its code has 2401).

    Raises
    ------
    TypeError
        If a size is not an integer, or the image size not one or two of them.
    ValueError
        If a size is below 1 or the patch larger than the image.

    See Also
    --------
    RegionAttribution : The maps of an attribute on such a grid.

    Examples
    --------
    >>> grid = RegionGrid(128)
    >>> grid.shape, grid.num_regions
    ((49, 49), 2401)
    >>> RegionGrid((6, 8), patch_size=4, stride=2).shape
    (2, 3)
    """

    image_size: tuple[int, int]
    patch_size: int
    stride: int

    def __init__(self, image_size: int | tuple[int, int], patch_size: int = 32, stride: int = 2) -> None:
        try:
            height, width = (image_size, image_size) if isinstance(image_size, int | np.integer) else image_size
        except (TypeError, ValueError) as error:
            raise TypeError(f"image_size must be an integer or (height, width), got {image_size!r}") from error
        sizes = (height, width, patch_size, stride)
        for name, value in zip(("image_size", "image_size", "patch_size", "stride"), sizes, strict=True):
            if not isinstance(value, int | np.integer) or isinstance(value, bool):
                raise TypeError(f"{name} must be an integer number of pixels, got {value!r}")
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if patch_size > min(height, width):
            raise ValueError(f"patch_size must fit in the image of {height} x {width}, got {patch_size}")
        object.__setattr__(self, "image_size", (int(height), int(width)))
        object.__setattr__(self, "patch_size", int(patch_size))
        object.__setattr__(self, "stride", int(stride))

    @classmethod
    def from_count(cls, image_size: int | tuple[int, int], patch_size: int, num_regions: int) -> Self:
        """Return the grid of a square image with `num_regions` regions, as the paper counts them.

        Parameters
        ----------
        image_size : int or (int, int)
        patch_size : int
        num_regions : int
            A square number. The stride is (image size - patch size) / (sqrt(num_regions) - 1).

        Raises
        ------
        ValueError
            If `num_regions` is not a square number, or the stride not an integer of at least 1 for both axes.

        Examples
        --------
        >>> RegionGrid.from_count(128, 32, 2401)
        RegionGrid(image_size=(128, 128), patch_size=32, stride=2)
        """
        side = math.isqrt(max(num_regions, 0))
        if side < 1 or side * side != num_regions:
            raise ValueError(f"num_regions must be a square number such as 2401 = 49 x 49, got {num_regions}")
        room = min(cls(image_size, patch_size, 1).image_size) - patch_size
        grid = cls(image_size, patch_size, max(1, room // max(1, side - 1)))
        covered = patch_size + (side - 1) * grid.stride
        if grid.image_size != (covered, covered):
            needed = f"num_regions={num_regions} needs a stride of (image_size - patch_size) / {side - 1}"
            got = f"image_size={grid.image_size} and patch_size={patch_size}"
            raise ValueError(f"{needed}, which must be an integer of at least 1 for both axes; got {got}")
        return grid

    @classmethod
    def for_images(cls, image_size: int | tuple[int, int]) -> Self:
        """Return a grid with the paper's proportions: patches of 1/4 and strides of 1/64 of the shorter side.

        Parameters
        ----------
        image_size : int or (int, int)

        Examples
        --------
        >>> RegionGrid.for_images(64)
        RegionGrid(image_size=(64, 64), patch_size=16, stride=1)
        """
        side = min(cls(image_size, 1, 1).image_size)
        return cls(image_size, max(1, side // 4), max(1, side // 64))

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of regions."""
        height, width = self.image_size
        return (height - self.patch_size) // self.stride + 1, (width - self.patch_size) // self.stride + 1

    @property
    def num_regions(self) -> int:
        """Number of regions, rows x columns."""
        return math.prod(self.shape)

    def check_images(self, images: Tensor) -> None:
        """Raise TypeError or ValueError unless `images` is a tensor of N x C x height x width of this grid."""
        if not isinstance(images, Tensor):
            raise TypeError(f"images must be a tensor, got {type(images).__name__}")
        if images.ndim != 4 or tuple(images.shape[2:]) != self.image_size:
            wanted = f"(N, C, {self.image_size[0]}, {self.image_size[1]})"
            raise ValueError(f"images must have shape {wanted}, got {tuple(images.shape)}")

    def extract(self, images: Tensor, region: int | Tensor) -> Tensor:
        """Cut the patches at `region` out of `images`.

        Parameters
        ----------
        images : Tensor, shape (N, C, height, width)
            Any dtype.
        region : int or integer Tensor of shape (N,) or (N, P)
            One region for all images, one for each, or P for each, from 0 to ``num_regions - 1``.

        Returns
        -------
        Tensor, shape (N, C, k, k), or (N, P, C, k, k) for P regions an image
            A copy, with the dtype and device of `images`.

        Raises
        ------
        TypeError
            If `images` is not a tensor, or `region` does not hold integers.
        ValueError
            If the images have another size, the shapes do not fit, or a region does not exist.
        """
        self.check_images(images)
        region = torch.as_tensor(region, device=images.device)
        if region.is_floating_point() or region.is_complex() or region.dtype == torch.bool:
            raise TypeError(f"region must hold integers, got {region.dtype}")
        region = region.expand(len(images)) if region.ndim == 0 else region
        if region.ndim > 2 or len(region) != len(images):
            raise ValueError(f"region must have shape (N,) or (N, P) with N = {len(images)}, got {tuple(region.shape)}")
        if region.numel() and not 0 <= int(region.min()) <= int(region.max()) < self.num_regions:
            got = f"{int(region.min())} to {int(region.max())}"
            raise ValueError(f"region must lie in 0 to {self.num_regions - 1}, got {got}")
        k, stride = self.patch_size, self.stride
        # A view N x rows x cols x C x k x k: only the indexing after it copies.
        windows = images.unfold(2, k, stride).unfold(3, k, stride).permute(0, 2, 3, 1, 4, 5)
        image = torch.arange(len(images), device=images.device).reshape(-1, *[1] * (region.ndim - 1))
        columns = self.shape[1]
        return windows[image, region.long() // columns, region.long() % columns]

    def to_pixels(self, region_map: Tensor, *, sigma: float | None = None) -> Tensor:
        """Give each pixel the mean over the regions that cover it.

        The rows and columns of the regions that cover a pixel are independent, so the mean is the product of the map
        with two small matrices.

        Parameters
        ----------
        region_map : Tensor, shape (..., rows, cols)
        sigma : float, optional
            Not in the paper: regions count less the farther a pixel is from their centre, by a Gaussian on each axis
            with this standard deviation, in patch sizes. With None all count the same.

        Returns
        -------
        Tensor, shape (..., height, width)
            With the map's dtype (float32 for integers). A pixel that no region covers takes the value of the nearest
            covered one.

        Raises
        ------
        TypeError
            If `region_map` is not a tensor.
        ValueError
            If the last two axes are not this grid's rows and columns, or `sigma` is not above 0.

        References
        ----------
        De Coninck, Leroux, Simoens, "Mitigating Bias Using Model-Agnostic Data Attribution", CVPR Workshops 2024,
        Algorithm 1.

        Examples
        --------
        >>> RegionGrid((1, 4), patch_size=1, stride=2).to_pixels(torch.tensor([[1.0, 3.0]]))
        tensor([[1., 1., 3., 3.]])
        """
        if not isinstance(region_map, Tensor):
            raise TypeError(f"region_map must be a tensor, got {type(region_map).__name__}")
        if tuple(region_map.shape[-2:]) != self.shape:
            wanted = f"(..., {self.shape[0]}, {self.shape[1]})"
            raise ValueError(f"region_map must have shape {wanted}, got {tuple(region_map.shape)}")
        if sigma is not None and not sigma > 0:
            raise ValueError(f"sigma must be above 0, got {sigma}")
        region_map = region_map if region_map.is_floating_point() else region_map.float()
        down, across = (
            torch.as_tensor(_averaging(length, self.patch_size, self.stride, sigma)).to(region_map)
            for length in self.image_size
        )
        # A user's autocast, meant for networks, would round the means to 8 bits.
        with torch.autocast(region_map.device.type, enabled=False):
            return down @ region_map @ across.T

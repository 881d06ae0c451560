"""RegionGrid against literal loops and values worked out by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from captum_region import DenseRegionClassifier, RegionGrid

GRIDS = [
    RegionGrid(12, 4, 2),
    RegionGrid((9, 14), 5, 3),  # leaves a border on both sides
    RegionGrid((10, 7), 2, 4),  # leaves gaps between regions
    RegionGrid((6, 8), 6, 1),
    RegionGrid(5, 1, 1),
    RegionGrid(7, 7, 3),
]


def literal_algorithm_1(grid, region_map):
    """The paper's Algorithm 1, word by word; NaN where no region covers a pixel."""
    total, counts = torch.zeros(grid.image_size).double(), torch.zeros(grid.image_size).double()
    k, s = grid.patch_size, grid.stride
    for i in range(grid.num_regions):
        row, column = i // grid.shape[1], i % grid.shape[1]
        total[row * s : row * s + k, column * s : column * s + k] += region_map[row, column]
        counts[row * s : row * s + k, column * s : column * s + k] += 1
    return total / counts


def test_the_papers_grid():
    grid = RegionGrid(128)
    assert (grid.shape, grid.num_regions, grid.stride) == ((49, 49), 2401, 2)
    assert RegionGrid.from_count(128, 32, 2401) == grid


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_to_pixels_is_algorithm_1(grid):
    region_map = torch.rand(grid.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = literal_algorithm_1(grid, region_map)
    covered = ~expected.isnan()
    torch.testing.assert_close(grid.to_pixels(region_map)[covered], expected[covered])


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_uncovered_pixels_take_the_nearest_covered_ones_value(grid):
    region_map = torch.rand(grid.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    literal, pixels = literal_algorithm_1(grid, region_map), grid.to_pixels(region_map)
    covered = (~literal.isnan()).nonzero()
    for y, x in literal.isnan().nonzero():
        distance = (covered - torch.tensor([y, x])).abs().sum(1)
        nearest = {round(literal[tuple(place)].item(), 9) for place in covered[distance == distance.min()]}
        assert round(pixels[y, x].item(), 9) in nearest


def test_to_pixels_is_exact_under_autocast_too():
    grid = RegionGrid(12, 4, 2)
    region_map = torch.rand(grid.shape, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        pixels = grid.to_pixels(region_map)
    assert pixels.dtype == torch.float32
    assert torch.equal(pixels, grid.to_pixels(region_map))


def test_to_pixels_by_hand():
    # 6 x 6 pixels, k = 4, stride 2: pixels 0-1 are in the first region, 2-3 in both, 4-5 in the second, on each axis.
    pixels = RegionGrid(6, 4, 2).to_pixels(torch.tensor([[0.0, 1.0], [2.0, 3.0]]))
    axis = torch.tensor([0.0, 0.0, 0.5, 0.5, 1.0, 1.0])
    torch.testing.assert_close(pixels, 2 * axis[:, None] + axis[None, :])


@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 20), st.integers(1, 9))
def test_to_pixels_keeps_constants_and_the_range(height, width, patch_size, stride):
    grid = RegionGrid((height, width), min(patch_size, height, width), stride)
    torch.testing.assert_close(grid.to_pixels(torch.full(grid.shape, 0.3)), torch.full((height, width), 0.3))
    region_map = torch.rand(2, 3, *grid.shape)
    pixels = grid.to_pixels(region_map)
    assert pixels.shape == (2, 3, height, width)
    assert pixels.min() >= region_map.min() - 1e-6
    assert pixels.max() <= region_map.max() + 1e-6


@st.composite
def grids(draw):
    height, width = draw(st.integers(1, 14)), draw(st.integers(1, 14))
    return RegionGrid((height, width), draw(st.integers(1, min(height, width))), draw(st.integers(1, 6)))


@given(grids(), st.integers(0, 99))
def test_every_grid_averages_as_algorithm_1_and_cuts_what_it_averages(grid, seed):
    generator = torch.Generator().manual_seed(seed)
    region_map = torch.rand(grid.shape, generator=generator, dtype=torch.float64)
    expected = literal_algorithm_1(grid, region_map)
    covered = ~expected.isnan()
    torch.testing.assert_close(grid.to_pixels(region_map)[covered], expected[covered])
    # Each pixel's own number: a patch holds the rows and columns that its region covers.
    numbers = torch.arange(math.prod(grid.image_size)).view(1, 1, *grid.image_size)
    region = int(torch.randint(grid.num_regions, (1,), generator=generator))
    one = torch.zeros(grid.num_regions)
    one[region] = 1
    reached = (grid.to_pixels(one.view(grid.shape)) > 0) & covered
    assert set(grid.extract(numbers, region).flatten().tolist()) == set(numbers[0, 0][reached].tolist())


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_extract_cuts_what_slicing_cuts(grid, dtype):
    images = torch.randint(0, 256, (3, 2, *grid.image_size), generator=torch.Generator().manual_seed(0)).to(dtype)
    region = torch.randint(grid.num_regions, (3, 5), generator=torch.Generator().manual_seed(1))
    patches = grid.extract(images, region)
    k, s = grid.patch_size, grid.stride
    assert patches.shape == (3, 5, 2, k, k)
    assert patches.dtype == dtype
    for n in range(3):
        for p in range(5):
            top, left = region[n, p] // grid.shape[1] * s, region[n, p] % grid.shape[1] * s
            assert torch.equal(patches[n, p], images[n, :, top : top + k, left : left + k])
    assert torch.equal(grid.extract(images, region[:, 0]), patches[:, 0])
    assert torch.equal(grid.extract(images, 0), images[:, :, :k, :k])


def test_extracted_patches_are_copies():
    images = torch.zeros(1, 1, 4, 4)
    RegionGrid(4, 2, 2).extract(images, 0).fill_(1)
    assert images.sum() == 0


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((8, 9, 1), ValueError, "patch_size must fit"),
        ((8, 4, 0), ValueError, "stride must be at least 1, got 0"),
        ((8, 2.5, 1), TypeError, "patch_size must be an integer"),
        (((8, 0), 1, 1), ValueError, "image_size"),
        ((8, True, 1), TypeError, "patch_size"),
        ((8.0, 4, 1), TypeError, r"image_size must be an integer or \(height, width\), got 8.0"),
        (((3, 8, 8), 4, 1), TypeError, r"image_size must be an integer or \(height, width\), got \(3, 8, 8\)"),
    ],
)
def test_invalid_grids_are_refused(arguments, error, words):
    with pytest.raises(error, match=words):
        RegionGrid(*arguments)


@pytest.mark.parametrize("count", [2041, 0, -4, 2500])
def test_counts_without_a_whole_stride_are_refused(count):
    # 2041, the paper's misprint, is no square; 2500 = 50 x 50 would need a stride of 96 / 49.
    with pytest.raises(ValueError, match="num_regions"):
        RegionGrid.from_count(128, 32, count)


def test_from_count_of_one_region_and_of_other_shapes():
    assert RegionGrid.from_count(8, 8, 1).num_regions == 1
    with pytest.raises(ValueError, match="num_regions"):
        RegionGrid.from_count(8, 4, 1)
    with pytest.raises(ValueError, match="must be an integer"):
        RegionGrid.from_count((8, 12), 4, 9)


@pytest.mark.parametrize(
    ("region", "error", "words"),
    [
        (torch.tensor([9]), ValueError, "0 to 8, got 9 to 9"),
        (torch.tensor([-1]), ValueError, "region"),
        (torch.tensor([0, 1]), ValueError, "region must have shape"),
        (torch.tensor([0.0]), TypeError, "integers"),
    ],
)
def test_invalid_regions_are_refused(region, error, words):
    with pytest.raises(error, match=words):
        RegionGrid(8, 4, 2).extract(torch.zeros(1, 3, 8, 8), region)


def test_images_of_another_size_are_refused():
    grid = RegionGrid((8, 10), 4, 2)
    with pytest.raises(ValueError, match=r"\(N, C, 8, 10\)"):
        grid.extract(torch.zeros(1, 3, 10, 8), 0)
    with pytest.raises(ValueError, match="region_map"):
        grid.to_pixels(torch.zeros(4, 3))


def test_numpy_arrays_are_refused():
    grid = RegionGrid(8, 4, 2)
    with pytest.raises(TypeError, match="images must be a tensor, got ndarray"):
        grid.extract(np.zeros((1, 3, 8, 8)), 0)
    with pytest.raises(TypeError, match="images must be a tensor, got ndarray"):
        DenseRegionClassifier(grid, 2, width=4).eval().forward_grid(np.zeros((1, 3, 8, 8)))
    with pytest.raises(TypeError, match="region_map must be a tensor, got ndarray"):
        grid.to_pixels(np.zeros((3, 3)))


def test_far_from_their_centre_regions_count_less():
    grid = RegionGrid(10, 4, 2)
    region_map = torch.rand(2, *grid.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = grid.to_pixels(region_map, sigma=0.3)
    # By hand, pixel (3, 6): rows 0 to 3 and 2 to 5 cover it, columns 4 to 7 and 6 to 9.
    weight = {
        (row, column): math.exp(-((3 - 2 * row - 1.5) ** 2 + (6 - 2 * column - 1.5) ** 2) / (2 * 1.2**2))
        for row in (0, 1)
        for column in (2, 3)
    }
    expected = sum(region_map[:, row, column] * value for (row, column), value in weight.items()) / sum(weight.values())
    torch.testing.assert_close(found[:, 3, 6], expected)
    # As wide as can be it is Algorithm 1; as narrow, the value of the nearest region.
    torch.testing.assert_close(grid.to_pixels(region_map, sigma=1e3), grid.to_pixels(region_map), atol=1e-5, rtol=0)
    torch.testing.assert_close(grid.to_pixels(region_map, sigma=0.02)[:, 3, 3], region_map[:, 1, 1])
    torch.testing.assert_close(grid.to_pixels(torch.ones(grid.shape), sigma=1e-3), torch.ones(10, 10))
    with pytest.raises(ValueError, match="sigma must be above 0, got 0"):
        grid.to_pixels(region_map, sigma=0)

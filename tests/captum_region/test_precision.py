"""Mixed precision "auto": which devices have units, when maps keep their ranks, what a store says and keeps to."""

import math
import platform
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import rankdata

from captum_region import (
    DenseRegionClassifier,
    RegionAttribution,
    RegionGrid,
    RegionMaps,
    attribute_dataset,
    fit_region_classifier,
)
from captum_region.datasets import make_faces
from captum_region.precision import choose_precision, has_bfloat16_units, rank_agreement

GRID = RegionGrid(16, 8, 2)
IMAGES = np.random.default_rng(0).integers(0, 256, (40, 3, 16, 16), dtype=np.uint8)


@pytest.fixture
def untrained():
    """Of maps that bfloat16 hardly resolves: one region more or less out of 25 shows in the ranks."""
    classifier = DenseRegionClassifier(GRID, 2, width=8, random_state=0).eval()
    torch.nn.init.normal_(classifier.head[-1].weight, std=0.02, generator=torch.Generator().manual_seed(0))
    return RegionAttribution(classifier)


def least_correlation(attribution, images):
    """The least of the correlations of the ranks, written out."""
    exact = attribution.region_map(images).flatten(1).numpy()
    with torch.autocast("cpu", torch.bfloat16):
        halved = attribution.region_map(images).flatten(1).numpy()
    pairs = zip(rankdata(exact, axis=1), rankdata(halved, axis=1), strict=True)
    return min(np.corrcoef(*pair)[0, 1] for pair in pairs)


def test_rank_agreement_is_that_of_the_worst_map():
    maps = torch.tensor([[[0.0, 1.0], [2.0, 3.0]], [[0.0, 1.0], [2.0, 3.0]]])
    swapped = torch.tensor([[[0.0, 5.0], [6.0, 9.0]], [[1.0, 0.0], [2.0, 3.0]]])
    # Of four ranks two neighbours are swapped: 1 - 6 (1 + 1) / (4 (16 - 1)).
    assert rank_agreement(maps, swapped) == pytest.approx(0.8)
    assert math.isnan(rank_agreement(maps, torch.zeros(2, 2, 2)))


def test_bfloat16_is_chosen_where_ranks_agree_and_only_there(untrained):
    faces = make_faces(60, 24, random_state=0)
    classifier = DenseRegionClassifier(RegionGrid(24, 8, 1), 2, width=8, random_state=0)
    blond = faces.attributes["Blond_Hair"].to_numpy()
    fit_region_classifier(classifier, faces.images, blond, epochs=20, batch_size=16, random_state=0)
    for attribution, images, taken in (
        (RegionAttribution(classifier), faces.images, "bf16"),
        (untrained, IMAGES, "no"),
    ):
        least = least_correlation(attribution, images[np.linspace(0, len(images) - 1, 16).round().astype(int)])
        assert (least >= 0.999) == (taken == "bf16")
        chosen = choose_precision(attribution, images, has_units=True)
        assert chosen.mixed_precision == taken
        assert f"the ranks of 16 maps in bfloat16 and float32 agree to {least:.4f}" in chosen.reason


def test_float32_is_chosen_where_there_is_nothing_to_compare():
    constant = RegionAttribution(DenseRegionClassifier(GRID, 2, width=4, random_state=0).eval())
    torch.nn.init.zeros_(constant.forward_func.head[-1].weight)
    assert choose_precision(constant, IMAGES, has_units=True) == (
        *("no", "the ranks of 16 maps in bfloat16 and float32 cannot be compared: one is constant"),
    )
    assert choose_precision(constant, IMAGES[:0], has_units=True) == ("no", "there is no map to compare")
    with pytest.raises(ValueError, match="images must be 16 x 16 pixels"):
        choose_precision(constant, IMAGES[:, :, :8], has_units=True)


def test_without_units_no_map_is_computed():
    def fails(patches, region):
        raise AssertionError("a map was computed")

    chosen = choose_precision(RegionAttribution(fails, grid=GRID), IMAGES, has_units=False)
    assert chosen == ("no", "cpu has no units for bfloat16")


def test_units_are_what_the_processor_says():
    information = Path("/proc/cpuinfo")
    if platform.machine() != "x86_64" or not information.exists():
        pytest.skip("needs the flags of an x86 processor under Linux")
    flags = information.read_text().partition("\nflags")[2].partition("\n")[0].split()
    assert has_bfloat16_units(torch.device("cpu")) == bool({"avx512_bf16", "amx_bf16"} & {*flags})
    assert not has_bfloat16_units(torch.device("meta"))


def test_a_store_says_what_was_taken_and_why(untrained, tmp_path, capsys):
    expected = choose_precision(untrained, IMAGES)
    maps = attribute_dataset(untrained, IMAGES, tmp_path / "auto", mixed_precision="auto", show_progress=True)
    assert maps.description["mixed_precision"] == expected.mixed_precision
    assert maps.description["mixed_precision_reason"] == expected.reason
    said = f"mixed precision: {expected.mixed_precision}, because {expected.reason}\n"
    assert said in capsys.readouterr().err
    given = attribute_dataset(untrained, IMAGES, tmp_path / "given", mixed_precision=expected.mixed_precision)
    assert given.description["mixed_precision_reason"] is None
    np.testing.assert_array_equal(maps.maps, given.maps)
    before = (tmp_path / "auto" / "maps.json").read_bytes()
    attribute_dataset(untrained, IMAGES, tmp_path / "auto", mixed_precision=expected.mixed_precision)
    assert (tmp_path / "auto" / "maps.json").read_bytes() == before
    with pytest.raises(ValueError, match="mixed_precision must be 'no', 'bf16' or 'auto', got 'fp16'"):
        attribute_dataset(untrained, IMAGES, tmp_path / "fp16", mixed_precision="fp16")


@pytest.mark.parametrize("mixed_precision", ["no", "bf16"])
def test_auto_resumes_in_what_was_begun(untrained, mixed_precision, tmp_path, capsys):
    attribute_dataset(untrained, IMAGES, tmp_path, mixed_precision=mixed_precision)
    whole = [(tmp_path / name).read_bytes() for name in ("maps.npy", "maps.json")]
    (tmp_path / "maps.npy").write_bytes(whole[0][:-1000])  # of the last batches
    attribute_dataset(untrained, IMAGES, tmp_path, mixed_precision="auto", show_progress=True)
    assert f"mixed precision: {mixed_precision}, as in the maps that are there\n" in capsys.readouterr().err
    assert [(tmp_path / name).read_bytes() for name in ("maps.npy", "maps.json")] == whole
    RegionMaps(tmp_path).check(untrained, IMAGES)

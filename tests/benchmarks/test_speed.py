"""The benchmark: what it compares is equal, and the command writes what it says."""

import json
from pathlib import Path

import pytest
import torch
from speed import Pair, algorithm_1, patch_by_patch

from captum_region import DenseRegionClassifier, PatchRegionClassifier, RegionGrid


@pytest.mark.parametrize(
    ("kind", "options"), [(DenseRegionClassifier, {}), (PatchRegionClassifier, {"backbone": "shufflenet_v2_x0_5"})]
)
def test_forward_grid_equals_the_plain_loop(kind, options):
    grid = RegionGrid((36, 42), 8, 1)  # enough regions for the copy that is made for inference
    classifier = kind(grid, 3, random_state=0, **options).eval()
    for module in classifier.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # such as a mistake in folding it in would show
            module.running_mean.normal_(0, 0.1, generator=torch.Generator().manual_seed(0))
            module.running_var.uniform_(0.5, 2, generator=torch.Generator().manual_seed(1))
            module.weight.data.uniform_(0.5, 2, generator=torch.Generator().manual_seed(2))
    images = torch.rand(1, 3, *grid.image_size, generator=torch.Generator().manual_seed(0))
    before = [value.clone() for value in classifier.state_dict().values()]
    with torch.no_grad():
        expected = patch_by_patch(classifier, images, batch=100)
        torch.testing.assert_close(classifier.forward_grid(images), expected, rtol=1e-4, atol=1e-5)
    assert expected.std() > 0.01
    assert all(torch.equal(old, new) for old, new in zip(before, classifier.state_dict().values(), strict=True))
    # With gradients the network itself is used.
    classifier.forward_grid(images, regions_per_pass=2000).sum().backward()
    assert all(parameter.grad is not None for parameter in classifier.parameters())


def test_bfloat16_is_used_only_under_autocast_and_is_close():
    grid = RegionGrid(20, 8, 3)
    classifier = PatchRegionClassifier(grid, 2, random_state=0).eval()
    images = torch.rand(1, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        exact = classifier.forward_grid(images)
        with torch.autocast("cpu", torch.bfloat16):
            halved = classifier.forward_grid(images)
    assert exact.dtype == torch.float32
    assert not torch.equal(exact, halved.float())
    torch.testing.assert_close(halved.float(), exact, rtol=0.05, atol=0.05)


def test_to_pixels_equals_the_papers_algorithm():
    grid = RegionGrid(24, 6, 2)
    region_map = torch.rand(grid.shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(grid.to_pixels(region_map), algorithm_1(grid, region_map), rtol=0, atol=1e-6)


def test_the_ratio_is_the_median_of_the_rounds():
    pair = Pair("", "", "", [1.0, 9123.0, 8.0], [1.0, 1.0, 2.0], 1)
    assert pair.ratio == 4
    assert str(pair) == "4 [1, 9,120]"


def test_the_page_has_the_ratios_of_the_results_beside_it():
    results = Path(__file__).parents[2] / "docs" / "results"
    pairs = [
        Pair(**{name: value for name, value in pair.items() if name != "ratio"})
        for pair in json.loads((results / "speed.json").read_text())["pairs"]
    ]
    rows = [line for line in (results / "maps.md").read_text().splitlines() if line.startswith("| ")]
    for pair in pairs:
        assert any(f"| {pair} | {pair.aim:,g} |" in row for row in rows), pair


@pytest.mark.slow
def test_the_command_prints_a_table_and_writes_json(tmp_path, command):
    out = tmp_path / "new" / "bench.json"
    options = ["--size", "16", "--rounds", "1", "--images", "20", "--epochs", "1", "--least", "0.01", "--no-bfloat16"]
    done = command("examples/benchmarks/speed.py", "--out", out, *options, "--quiet")
    results = json.loads(out.read_text())
    assert {pair["name"][0] for pair in results["pairs"]} == set("abcdefghi")
    for pair in results["pairs"]:
        assert pair["ratio"] > 0
        assert pair["name"] in done.stdout
    exact = next(pair for pair in results["pairs"] if pair["name"] == "d. patch kind")
    assert 1 >= float(exact["note"].split()[-1]) > 0.999
    whole, besides = (results["pairs"][-1][key][0] for key in ("slow_seconds", "fast_seconds"))
    assert 0 < besides < whole
    assert results["environment"]["threads"] >= 1
    assert results["environment"]["versions"]["torch"] == torch.__version__.split("+")[0]

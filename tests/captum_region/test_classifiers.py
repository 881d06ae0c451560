"""Both kinds of region classifier: shapes, exactness of the dense form, backbones."""

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from captum_region import (
    DenseRegionClassifier,
    PatchRegionClassifier,
    RegionClassifier,
    RegionGrid,
    load_classifier,
    save_classifier,
)
from captum_region.classifiers import forward_regions
from captum_region.classifiers.dense import plan_convolutions
from captum_region.classifiers.patch import cifar_resnet18


def randomised(classifier):
    """Give batch normalisation and embedding random values, so that a mistake shows."""
    generator = torch.Generator().manual_seed(1)
    for module in classifier.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.05, 0.2, generator=generator)
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, generator=generator)
    return classifier.eval()


@pytest.mark.parametrize(
    ("size", "patch_size", "stride"),
    [
        (64, 16, 1),
        (64, 32, 2),
        ((40, 52), 9, 3),
        (33, 8, 5),
        ((20, 30), 1, 2),
        (30, 7, 6),
        ((31, 43), 24, 4),
        (64, 32, 8),
        (10, 10, 1),
        (12, 3, 7),
        (9, 2, 1),
        ((80, 66), 64, 3),
    ],
)
def test_one_pass_equals_patch_by_patch(size, patch_size, stride):
    grid = RegionGrid(size, patch_size, stride)
    classifier = randomised(DenseRegionClassifier(grid, 3, width=8, random_state=0)).double()
    images = torch.rand(2, 3, *grid.image_size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        whole, single = classifier.forward_grid(images), forward_regions(classifier, grid, images)
    assert whole.shape == (2, 3, *grid.shape)
    torch.testing.assert_close(whole, single)
    assert whole.std() > 0.01  # a constant would agree with anything


@pytest.mark.parametrize("knows_where", [True, False])
def test_without_a_position_embedding_the_map_moves_with_the_image(knows_where):
    grid = RegionGrid(32, 8, 4)
    classifier = DenseRegionClassifier(grid, 2, width=8, position_embedding=knows_where, random_state=0)
    classifier = randomised(classifier).double()
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        logits = classifier.forward_grid(images)
        moved = classifier.forward_grid(images.roll((4, 8), (2, 3)))
        torch.testing.assert_close(logits, forward_regions(classifier, grid, images))
    assert torch.allclose(moved[:, :, 1:, 2:], logits[:, :, :-1, :-2]) != knows_where
    assert not torch.allclose(moved, logits)


def test_logits_depend_on_every_pixel_of_the_patch_and_no_other():
    for patch_size in range(1, 41):
        grid = RegionGrid(patch_size + 4, patch_size, 2)
        classifier = DenseRegionClassifier(grid, 2, width=4, random_state=0).eval()
        for layer in (*classifier.norms, classifier.head[0]):
            layer.bias.data += 100  # every ReLU open, so that nothing hides a pixel
        images = torch.zeros(1, 3, *grid.image_size, requires_grad=True)
        classifier.forward_grid(images)[0, 0, 1, 1].backward()
        seen = images.grad.abs().sum((0, 1)) > 0
        expected = torch.zeros(grid.image_size, dtype=torch.bool)
        expected[2 : 2 + patch_size, 2 : 2 + patch_size] = True
        assert torch.equal(seen, expected), patch_size


def test_planned_convolutions_cover_every_pixel():
    for patch_size in range(1, 130):
        for stride in (1, 2, 3, 4, 5, 6, 8, 16):
            left, patch_step, dense_step = patch_size, 1, 1
            for convolution in plan_convolutions(patch_size, stride):
                assert (left - convolution.kernel) % convolution.stride == 0  # no pixel is left out
                assert convolution.dilation * dense_step == patch_step
                left = (left - convolution.kernel) // convolution.stride + 1
                patch_step *= convolution.stride
                dense_step *= convolution.dense_stride
            assert left == 1
            assert dense_step == stride


def test_the_logits_depend_on_the_region():
    grid = RegionGrid(16, 8, 4)
    for kind in (DenseRegionClassifier, PatchRegionClassifier):
        classifier = randomised(kind(grid, 2, random_state=0))
        patches = torch.rand(1, 3, 8, 8).expand(2, -1, -1, -1)
        first, second = classifier(patches, torch.tensor([0, 8]))
        assert not torch.allclose(first, second), kind


def test_the_papers_resnet_is_the_cifar_form():
    network = cifar_resnet18(4, 2)
    assert network.conv1.kernel_size == (3, 3)
    assert network.conv1.stride == (1, 1)
    assert isinstance(network.maxpool, nn.Identity)
    features = nn.Sequential(*list(network.children())[:-2])
    assert features(torch.zeros(1, 4, 32, 32)).shape == (1, 512, 4, 4)  # what the 4 x 4 average pooling takes
    assert PatchRegionClassifier(RegionGrid(128), 2).embedding.weight.shape == (2401, 1024)


def test_patch_forward_grid_is_the_plain_loop_whatever_the_chunks():
    grid = RegionGrid(12, 8, 2)
    classifier = randomised(PatchRegionClassifier(grid, 3, random_state=0))
    images = torch.randint(0, 256, (2, 3, 12, 12), dtype=torch.uint8)
    with torch.no_grad():
        logits = classifier.forward_grid(images)
        for region in range(grid.num_regions):
            single = classifier(grid.extract(images, region), torch.tensor([region, region]))
            torch.testing.assert_close(logits[:, :, region // 3, region % 3], single, rtol=1e-4, atol=1e-5)
        for chunk in (1, 7, 10_000):
            torch.testing.assert_close(
                classifier.forward_grid(images, regions_per_pass=chunk), logits, rtol=1e-4, atol=1e-5
            )
    with pytest.raises(ValueError, match="regions_per_pass"):
        classifier.forward_grid(images, regions_per_pass=0)


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "squeezenet1_1"])
def test_torchvision_backbones_by_name(name):
    classifier = PatchRegionClassifier(RegionGrid(40, 32, 4), 5, name, random_state=0).eval()
    assert classifier.forward_grid(torch.zeros(1, 3, 40, 40)).shape == (1, 5, 3, 3)


def test_a_users_module_is_copied_widened_and_keeps_its_output():
    network = torchvision.models.resnet18(num_classes=4).eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    classifier = PatchRegionClassifier(RegionGrid(40, 32, 8), 4, network).eval()
    classifier.mean[:], classifier.std[:] = 0, 1
    patches = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(classifier(patches, torch.tensor([0, 1])), network(patches))
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert network.conv1.in_channels == 3


def test_the_costs_stated_in_the_docstrings():
    grid = RegionGrid(128)
    dense, patch = DenseRegionClassifier(grid, 2).eval(), PatchRegionClassifier(grid, 2).eval()
    small = DenseRegionClassifier(RegionGrid(64, 16, 1), 2).eval()
    gmac = {}
    for name, run in {
        "small map": lambda: small.forward_grid(torch.zeros(1, 3, 64, 64)),
        "map": lambda: dense.forward_grid(torch.zeros(1, 3, 128, 128)),
        "patch": lambda: patch(torch.zeros(1, 3, 32, 32), torch.zeros(1, dtype=torch.long)),
    }.items():
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            run()
        gmac[name] = counter.get_total_flops() / 2e9
    assert gmac["map"] == pytest.approx(0.56, abs=0.005)
    assert gmac["small map"] == pytest.approx(0.22, abs=0.005)
    assert gmac["patch"] == pytest.approx(0.56, abs=0.005)
    assert 2401 * gmac["patch"] > 1300 * gmac["map"]


def test_a_module_that_takes_the_extra_channel_itself():
    flat = nn.Sequential(nn.Flatten(), nn.Linear(2 * 8 * 8, 3))
    classifier = PatchRegionClassifier(RegionGrid(16, 8, 4), 3, flat, in_channels=1)
    assert classifier(torch.zeros(2, 1, 8, 8), torch.tensor([0, 1])).shape == (2, 3)


@pytest.mark.parametrize(
    ("backbone", "error", "words"),
    [
        ("resnet9000", ValueError, "torchvision"),
        (3, TypeError, "backbone"),
        (nn.Sequential(nn.Flatten(), nn.Linear(4 * 8 * 8, 5)), ValueError, "N x 2 logits, got"),
        (nn.Linear(7, 2), ValueError, "on such patches it failed"),
    ],
)
def test_backbones_that_do_not_fit_are_refused(backbone, error, words):
    with pytest.raises(error, match=words):
        PatchRegionClassifier(RegionGrid(16, 8, 4), 2, backbone)


@pytest.mark.parametrize("kind", [DenseRegionClassifier, PatchRegionClassifier])
def test_uint8_equals_float_and_weights_come_from_random_state_alone(kind):
    grid = RegionGrid(16, 8, 4)
    state = torch.random.get_rng_state()
    first, second, third = (kind(grid, 2, random_state=seed).eval() for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), state)
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    with torch.no_grad():
        logits = first.forward_grid(images)
        torch.testing.assert_close(first.forward_grid(images.float() / 255), logits)
        assert torch.equal(second.forward_grid(images), logits)
        assert not torch.equal(third.forward_grid(images), logits)


def test_numbers_of_numpy_can_be_saved(tmp_path):
    classifier = DenseRegionClassifier(RegionGrid(16, 8, 4), np.int64(2), width=np.int64(4), in_channels=np.int64(1))
    save_classifier(classifier, tmp_path / "saved")
    assert load_classifier(tmp_path / "saved").in_channels == 1


def test_invalid_arguments_are_named_in_the_error():
    grid = RegionGrid(16, 8, 4)
    with pytest.raises(TypeError, match="grid must be a RegionGrid"):
        DenseRegionClassifier(16, 2)
    with pytest.raises(ValueError, match="num_classes"):
        DenseRegionClassifier(grid, 1)
    with pytest.raises(ValueError, match="class_names"):
        DenseRegionClassifier(grid, 2, class_names=["a"])
    with pytest.raises(ValueError, match="width"):
        DenseRegionClassifier(grid, 2, width=0)
    with pytest.raises(ValueError, match=r"num_classes must be an integer of at least 2, got 2\.0"):
        DenseRegionClassifier(grid, 2.0)
    with pytest.raises(TypeError, match="position_embedding must be True or False, got 1"):
        DenseRegionClassifier(grid, 2, position_embedding=1)
    with pytest.raises(ValueError, match="images must have shape"):
        DenseRegionClassifier(grid, 2).forward_grid(torch.zeros(1, 3, 8, 8))
    with pytest.raises(TypeError, match="abstract"):
        RegionClassifier(grid, 2)


def test_a_lazy_module_draws_nothing_from_the_global_generator():
    before = torch.get_rng_state()
    PatchRegionClassifier(RegionGrid(8, 4, 4), 2, nn.Sequential(nn.Flatten(), nn.LazyLinear(2)))
    assert torch.equal(before, torch.get_rng_state())


def test_labels_of_one_class_of_two_are_not_taken_for_true():
    classifier = DenseRegionClassifier(RegionGrid(8, 4, 4), 2, class_names=["1", "2"])
    assert classifier.encode([True, True]).tolist() == [0, 0]  # as a table's column of ones is read
    assert classifier.encode([1, 2]).tolist() == [0, 1]
    three = DenseRegionClassifier(RegionGrid(8, 4, 4), 3, class_names=["0", "1", "2"])
    assert three.encode([False, True]).tolist() == [0, 1]
    words = DenseRegionClassifier(RegionGrid(8, 4, 4), 2, class_names=["man", "woman"])
    assert words.encode([True, False]).tolist() == [1, 0]


def test_random_state_decides_the_weights_of_lazy_modules():
    def made(seed):
        backbone = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(2))
        return PatchRegionClassifier(RegionGrid(16, 8, 4), 2, backbone, random_state=seed)

    one = made(0)
    torch.testing.assert_close(made(0).backbone[3].weight, one.backbone[3].weight)
    assert not torch.equal(made(1).backbone[3].weight, one.backbone[3].weight)
    assert one.backbone[1].num_batches_tracked == 0
    assert one.training

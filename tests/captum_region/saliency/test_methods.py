"""Every method gives finite maps of the images' size, again and again, and leaves what it uses as it was."""

import sys

import numpy as np
import pytest
import torch
from captum.attr import Saliency
from torch import nn

from captum_region import DenseRegionClassifier, MultiScaleRegionAttribution, RegionAttribution, RegionGrid
from captum_region.datasets import make_faces
from captum_region.saliency.methods import captum_methods, floors, region_methods, superpixel_methods


@pytest.fixture
def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 2)
        return nn.Sequential(*layers).eval()


@pytest.fixture
def images():
    return torch.from_numpy(make_faces(3, 16, random_state=0).images).float() / 255


def make_methods(model, images, seed=0):
    classifiers = [DenseRegionClassifier(RegionGrid(16, k, 2), 2, width=4, random_state=0).eval() for k in (4, 6)]
    return (
        captum_methods(model, model[0], background=images, window=4, stride=2, random_state=seed)
        | superpixel_methods(model, background=images, segments=6, n_samples=20, random_state=seed)
        | region_methods(RegionAttribution(classifiers[0]), images)
        | region_methods(MultiScaleRegionAttribution(classifiers), images, name="two")
        | floors(seed)
    )


@pytest.mark.slow
def test_every_method_gives_the_same_finite_maps_twice(model, images):
    target = torch.tensor([0, 1, 1])
    torch_state, numpy_state = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    found = [{name: method(images, target) for name, method in make_methods(model, images).items()} for _ in range(2)]
    assert torch.equal(torch.random.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()
    assert len(found[0]) == 17
    for name, maps in found[0].items():
        assert maps.shape == (3, 16, 16), name
        assert maps.isfinite().all(), name
        assert maps.std() > 0, name
        assert torch.equal(maps, found[1][name]), name
    expected = Saliency(model).attribute(images.clone().requires_grad_(), target).amax(1)
    torch.testing.assert_close(found[0]["Saliency"], expected)
    assert all(len(image.unique()) <= 6 for image in found[0]["KernelShap"])  # one value a superpixel
    assert found[0]["two, mean"].unique(dim=0).shape[0] == 1
    assert all(not module._forward_hooks and not module._backward_hooks for module in model.modules())


class LeftHalf(nn.Module):
    """Class 1 is the brightness of the left half."""

    def forward(self, images):
        evidence = images[..., : images.shape[-1] // 2].mean((1, 2, 3))
        return torch.stack([-evidence, evidence], 1)


@pytest.mark.slow
def test_superpixels_that_the_model_uses_are_highest():
    # Two halves, each of one colour: superpixels that no segmentation can miss.
    images = torch.full((1, 3, 48, 48), 0.2)
    images[..., :24] = 0.9
    methods = superpixel_methods(LeftHalf(), background=torch.zeros(1, 3, 48, 48), n_samples=100, random_state=0)
    for name, method in methods.items():
        found = method(images, torch.tensor([1]))[0]
        assert found[:, :20].mean() > 5 * found[:, 28:].mean().abs() + 1e-6, name
    assert methods["KernelShap"](images, torch.tensor([1]))[0, :, 28:].abs().max() < 1e-3


def test_one_superpixel_gets_a_map_of_zeros():
    plain = torch.full((2, 3, 16, 16), 0.5)
    method = superpixel_methods(LeftHalf(), background=plain, segments=1, random_state=0)["KernelShap"]
    assert (method(plain, torch.tensor([1, 1])) == 0).all()


def test_without_the_extra_it_says_what_to_install(monkeypatch):
    for name in ("saliency.core", "skimage.segmentation"):
        monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    with pytest.raises(ImportError, match=r"captum-region\[comparison\]"):
        superpixel_methods(LeftHalf(), background=torch.zeros(1, 3, 48, 48))

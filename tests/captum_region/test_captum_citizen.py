"""RegionAttribution where Captum takes an Attribution: each consumer works, or raises Captum's own kind of error."""

import inspect

import numpy as np
import pytest
import torch
from captum.attr import (
    Attribution,
    ClassSummarizer,
    CommonStats,
    IntegratedGradients,
    LayerAttribution,
    LayerGradCam,
    Max,
    Mean,
    NoiseTunnel,
    Occlusion,
    Summarizer,
)
from captum.attr import visualization as viz
from captum.metrics import infidelity, sensitivity_max
from torch import nn

from captum_region import (
    DenseRegionClassifier,
    MultiScaleRegionAttribution,
    PatchRegionClassifier,
    RegionAttribution,
    RegionGrid,
)

GRID = RegionGrid(12, 6, 2)


def small_backbone():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))


def make_function(_):
    weight = torch.rand(3, 108, generator=torch.Generator().manual_seed(0))
    return lambda patches, region: patches.to(weight.dtype).flatten(1) @ weight.T + region[:, None] % 3


KINDS = {
    "dense": lambda seed: DenseRegionClassifier(GRID, 3, width=4, random_state=seed).eval(),
    "patch": lambda seed: PatchRegionClassifier(GRID, 3, small_backbone(), random_state=seed).eval(),
    "function": make_function,
}


def both_scales():
    small = DenseRegionClassifier(RegionGrid(12, 3, 3), 3, width=4, random_state=0).eval()
    return MultiScaleRegionAttribution([KINDS["dense"](0), RegionAttribution(small, "margin")])


@pytest.fixture(params=[*KINDS, "two scales"])
def attribution(request):
    if request.param == "two scales":
        return both_scales()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        forward = KINDS[request.param](0)
    return RegionAttribution(forward) if isinstance(forward, nn.Module) else RegionAttribution(forward, grid=GRID)


@pytest.fixture
def images():
    return torch.rand(4, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def test_a_classifier_is_the_only_argument_needed(images):
    attribution = RegionAttribution(KINDS["dense"](0))
    assert isinstance(attribution, Attribution)
    assert attribution.get_name() == "Region Attribution"
    assert not attribution.has_convergence_delta()
    with pytest.raises(NotImplementedError):
        attribution.attribute_future()
    # Captum's wrappers look for the function below the logging.
    assert "inputs" in inspect.signature(RegionAttribution.attribute.__wrapped__).parameters


@pytest.mark.parametrize("target", [None, 1, [0, 2, 1, 1], torch.tensor([0, 2, 1, 1]), torch.tensor([1])], ids=str)
def test_a_batch_equals_one_by_one(attribution, images, target):
    together = attribution.attribute(images, target=target)
    assert together.std() > 1e-4
    for number, image in enumerate(images):
        its = target if target is None or isinstance(target, int) or len(target) == 1 else target[number]
        torch.testing.assert_close(attribution.attribute(image[None], target=its), together[number : number + 1])
        if its is not target:
            sliced = target[number : number + 1]
            torch.testing.assert_close(attribution.attribute(image[None], target=sliced), together[number : number + 1])


@pytest.mark.parametrize("target", [(9999,) * 20, 3, -1, [0, 1], torch.tensor([0, 1, 2, 9])], ids=str)
def test_an_invalid_target_raises_captums_error_and_leaves_no_hooks(attribution, images, target):
    with pytest.raises(AssertionError, match="target"):
        attribution.attribute(images, target=target)
    with pytest.raises(ValueError, match="target"):
        attribution.attribute(images, target=target)
    if isinstance(attribution.forward_func, nn.Module):
        for module in attribution.forward_func.modules():
            hooks = (module._forward_hooks, module._backward_hooks, module._forward_pre_hooks)
            assert not any(hooks)


def test_a_tuple_of_one_tensor_is_accepted(attribution, images):
    (attributed,) = attribution.attribute((images,))
    assert torch.equal(attributed, attribution.attribute(images))
    for several in ((images, images), ()):
        with pytest.raises(AssertionError, match="inputs must be one tensor"):
            attribution.attribute(several)


def test_captums_other_arguments_do_not_change_the_result(attribution, images):
    expected = attribution.attribute(images)
    for options in (
        {"additional_forward_args": (None, True)},
        {"additional_forward_args": torch.zeros(4)},
        {"perturbations_per_eval": 1},
        {"perturbations_per_eval": 7},
        {"perturbations_per_eval": 10_000},
        {"show_progress": True},
    ):
        torch.testing.assert_close(attribution.attribute(images, **options), expected)
    with pytest.raises(ValueError, match="at least 1"):
        RegionAttribution(make_function(0), grid=GRID).attribute(images, perturbations_per_eval=0)


def test_progress_reaches_the_end(attribution, images, capfd):
    attribution.attribute(images, perturbations_per_eval=8)
    assert capfd.readouterr().err == ""
    attribution.attribute(images, perturbations_per_eval=8, show_progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "Region Attribution attribution: 100%" in err


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.uint8])
def test_output_is_like_the_input(attribution, images, dtype):
    given = (images * 255).byte() if dtype == torch.uint8 else images.to(dtype)
    given = given.to(memory_format=torch.channels_last)
    attributed = attribution.attribute(given)
    assert attributed.shape == given.shape
    assert attributed.dtype == (torch.float32 if dtype == torch.uint8 else dtype)
    assert attributed.device == given.device
    assert attributed.is_contiguous()
    assert not attributed.requires_grad
    if isinstance(attribution.forward_func, nn.Module):  # the function sees numbers of 0 to 255
        torch.testing.assert_close(attributed.float(), attribution.attribute(images), atol=0.02, rtol=0.05)


def test_inputs_and_model_are_left_unchanged(attribution, images):
    given = images.clone().requires_grad_()
    model = attribution.forward_func if isinstance(attribution.forward_func, nn.Module) else nn.Linear(1, 1)
    calls = []
    handle = model.register_forward_hook(lambda *_: calls.append(1))
    model.train()
    next(model.parameters()).requires_grad_(False)
    before = [value.clone() for value in model.state_dict().values()]
    # Batch statistics follow what is seen in train mode, as in all of Captum: one's own mode is left alone.
    flags = [module.training for module in model.modules()]
    attribution.attribute(given)
    assert [module.training for module in model.modules()] == flags
    assert not next(model.parameters()).requires_grad
    assert list(model._forward_hooks) == [handle.id]
    model.eval()
    for value, old in zip(model.state_dict().values(), before, strict=True):
        value.copy_(old)
    attribution.attribute(given)
    assert all(torch.equal(old, new) for old, new in zip(before, model.state_dict().values(), strict=True))
    assert torch.equal(given, images)
    assert given.requires_grad
    assert given.grad is None
    assert torch.is_grad_enabled()


def test_an_empty_batch_gives_an_empty_attribution(attribution):
    for dtype in (torch.float32, torch.uint8):
        assert attribution.attribute(torch.zeros(0, 3, 12, 12, dtype=dtype)).shape == (0, 3, 12, 12)


@pytest.mark.parametrize(("kind", "expected"), [("smoothgrad", 1), ("smoothgrad_sq", 2), ("vargrad", 0)])
@pytest.mark.parametrize("batch", [None, 1, 2, 3])
def test_noise_tunnel_takes_the_attribution(attribution, images, kind, expected, batch):
    tunnel = NoiseTunnel(attribution)
    options = {"nt_type": kind, "nt_samples": 5, "nt_samples_batch_size": batch}
    plain = attribution.attribute(images, target=[0, 1, 2, 0])
    still = tunnel.attribute(images, target=[0, 1, 2, 0], stdevs=0.0, **options)
    torch.testing.assert_close(still, plain**expected if expected else torch.zeros_like(plain), atol=1e-5, rtol=1e-4)
    moved = tunnel.attribute(images, target=torch.tensor([0, 1, 2, 0]), stdevs=0.3, **options)
    assert moved.shape == images.shape
    assert not torch.equal(moved, still)


def test_captums_metrics_take_the_attribution(attribution, images):
    sensitivity = sensitivity_max(attribution.attribute, images, perturb_radius=0.05, n_perturb_samples=3)
    assert sensitivity.shape == (4,)
    still = sensitivity_max(attribution.attribute, images, perturb_radius=0.0)
    # Not 0 to the last bit: a batch of more images may be rounded otherwise.
    torch.testing.assert_close(still, torch.zeros(4), rtol=0, atol=1e-5)
    assert (sensitivity > 1e-4).all()
    model = nn.Sequential(nn.Flatten(), nn.Linear(432, 3))

    def perturb(inputs):
        noise = torch.full_like(inputs, 0.1)
        return noise, inputs - noise

    score = infidelity(model, perturb, images, attribution.attribute(images), target=1, n_perturb_samples=4)
    assert score.shape == (4,)
    assert score.isfinite().all()


@pytest.mark.parametrize("method", ["heat_map", "blended_heat_map", "masked_image", "alpha_scaling", "original_image"])
@pytest.mark.parametrize("sign", ["positive", "negative", "absolute_value", "all"])
def test_captum_draws_it(images, method, sign):
    attributed = RegionAttribution(KINDS["dense"](0)).attribute(images[:1], target=1)
    picture, original = (tensor[0].permute(1, 2, 0).numpy() for tensor in (attributed, images))
    # Evidence of one class may have no negative part; a map that has both signs draws with every sign.
    picture = picture - picture.mean()
    if method in ("masked_image", "alpha_scaling") and sign == "all":
        with pytest.raises(AssertionError, match="positive and negative"):  # Captum's own limit
            viz.visualize_image_attr(picture, original, method=method, sign=sign, use_pyplot=False)
        return
    figure, axes = viz.visualize_image_attr(picture, original, method=method, sign=sign, use_pyplot=False)
    assert axes.images
    figure.clear()


def test_captum_draws_several(images):
    attributed = RegionAttribution(KINDS["dense"](0)).attribute(images[:1])
    picture, original = (tensor[0].permute(1, 2, 0).numpy() for tensor in (attributed, images))
    figure, axes = viz.visualize_image_attr_multiple(
        picture, original, ["original_image", "heat_map"], ["all", "positive"], use_pyplot=False
    )
    assert len(axes) == 2
    figure.clear()


def test_captums_summarizers_take_the_attribution(attribution, images):
    labels = [0, 1, 0, 1]
    attributed = attribution.attribute(images)
    summarizer = Summarizer([Mean(), Max()])
    for one in attributed:
        summarizer.update(one)
    torch.testing.assert_close(summarizer.summary["mean"], attributed.mean(0))
    torch.testing.assert_close(summarizer.summary["max"], attributed.amax(0))
    by_class = ClassSummarizer(CommonStats())
    by_class.update(attributed, labels)
    torch.testing.assert_close(by_class.class_summaries[1][0]["mean"], attributed[1::2].mean(0))


@pytest.mark.parametrize("attribution", KINDS, indirect=True)
def test_captum_interpolates_the_region_map(attribution, images):
    regions = attribution.region_map(images)
    grown = LayerAttribution.interpolate(regions[:, None], (12, 12), interpolate_mode="bilinear")
    assert grown.shape == (4, 1, 12, 12)
    assert grown.amax() <= regions.amax() + 1e-6


def test_captums_methods_are_called_in_the_same_way(images):
    """One script: what explains a model and what explains the data, called the same way."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)).eval()
    window = {"sliding_window_shapes": (3, 6, 6), "strides": (3, 2, 2), "perturbations_per_eval": 4}
    methods = {
        "Occlusion": (Occlusion(model), window),
        "IntegratedGradients": (IntegratedGradients(model), {"n_steps": 5}),
        "LayerGradCam": (LayerGradCam(model, model[0]), {}),
        "RegionAttribution": (RegionAttribution(KINDS["dense"](0)), {"perturbations_per_eval": 4}),
    }
    for name, (method, options) in methods.items():
        for target in (1, [0, 1, 2, 0], torch.tensor([0, 1, 2, 0])):
            attributed = method.attribute(images, target=target, additional_forward_args=None, **options)
            if name == "LayerGradCam":
                attributed = LayerAttribution.interpolate(attributed, (12, 12)).expand_as(images)
            assert attributed.shape == images.shape, name
            assert attributed.isfinite().all(), name
            assert attributed.std() > 0, name


@pytest.mark.parametrize(("size", "patch_size", "channels"), [(10, 3, 1), (4, 2, 3), (2, 1, 2), (1, 1, 1), (3, 3, 4)])
def test_tiny_images_of_any_channels(size, patch_size, channels):
    grid = RegionGrid(size, patch_size, 1)
    classifier = DenseRegionClassifier(grid, 2, width=4, in_channels=channels, random_state=0).eval()
    images = torch.rand(4, channels, size, size, generator=torch.Generator().manual_seed(0))
    attributed = RegionAttribution(classifier).attribute(images, target=[0, 1, 1, 0])
    assert attributed.shape == images.shape
    assert attributed.isfinite().all()
    function = RegionAttribution(lambda patches, region: patches.flatten(1)[:, :1] * torch.tensor([-1, 1]), grid=grid)
    np.testing.assert_array_less(-1e-6, function.attribute(images).numpy())


def test_two_scales_are_the_mean_of_the_two(images):
    both = both_scales()
    assert both.get_name() == "Multi Scale Region Attribution"
    assert not both.has_convergence_delta()
    with pytest.raises(NotImplementedError):
        both.attribute_future()
    first, second = both.attributions
    expected = (first.pixel_map(images, 1) + second.pixel_map(images, 1)) / 2
    torch.testing.assert_close(both.pixel_map(images, 1), expected)
    torch.testing.assert_close(both.attribute(images, target=1)[:, 2], expected)
    assert (first.sigma, second.sigma) == (0.25, None)  # of one made of a classifier, and of one's own
    means = [part.grid.to_pixels(part.mean_map(images), sigma=part.sigma) for part in (first, second)]
    torch.testing.assert_close(both.mean_pixels(images), sum(means) / 2)
    torch.testing.assert_close(both.mean_pixels(images), both.pixel_map(images).mean(0))
    alone = MultiScaleRegionAttribution([first])
    assert torch.equal(alone.attribute(images), first.attribute(images))
    with pytest.raises(ValueError, match="sigma must be above 0"):
        RegionAttribution(KINDS["dense"](0), sigma=0)
    with pytest.raises(ValueError, match="at least one, got none"):
        MultiScaleRegionAttribution([])
    other = DenseRegionClassifier(RegionGrid(16, 4, 4), 3, width=4, random_state=0)
    with pytest.raises(ValueError, match=r"one image size, got \(12, 12\), \(16, 16\)"):
        MultiScaleRegionAttribution([first, other])

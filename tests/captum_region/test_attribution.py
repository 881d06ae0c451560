"""RegionAttribution: its values and refusals; test_captum_citizen has what in Captum uses an attribution."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from captum.attr import Attribution, NoiseTunnel

from captum_region import (
    DenseRegionClassifier,
    MultiScaleRegionAttribution,
    PatchRegionClassifier,
    RegionAttribution,
    RegionGrid,
    attribute_dataset,
    fit_region_classifier,
)
from captum_region.attribution import class_evidence
from captum_region.calibration import fit_temperature, measure_calibration
from captum_region.confidence import negative_entropy, top_softmax

GRID = RegionGrid((20, 26), 8, 3)


@pytest.fixture
def classifier():
    classifier = DenseRegionClassifier(GRID, 3, width=4, random_state=0).eval()
    for name, parameter in classifier.named_parameters():
        if "head" in name:
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
    return classifier


@pytest.fixture
def images():
    return torch.rand(4, 3, 20, 26, generator=torch.Generator().manual_seed(0))


def test_the_attribution_is_the_confidence_brought_to_pixels(classifier, images):
    attribution = RegionAttribution(classifier)
    assert isinstance(attribution, Attribution)
    with torch.no_grad():
        regions = negative_entropy(classifier.forward_grid(images))
    assert regions.std() > 1e-3
    torch.testing.assert_close(attribution.region_map(images), regions)
    torch.testing.assert_close(attribution.pixel_map(images), GRID.to_pixels(regions))
    attributed = attribution.attribute(images)
    torch.testing.assert_close(attributed, GRID.to_pixels(regions)[:, None].expand(-1, 3, -1, -1))
    assert attributed.is_contiguous()
    assert not attributed.requires_grad
    torch.testing.assert_close(attribution.mean_map(images, batch_size=3), regions.mean(0))


def test_batches_equal_one_by_one(classifier, images):
    attribution = RegionAttribution(classifier)
    together = attribution.attribute(images)
    torch.testing.assert_close(together, torch.cat([attribution.attribute(image[None]) for image in images]))
    torch.testing.assert_close(attribution.region_map(images, batch_size=3), attribution.region_map(images))
    as_bytes = (images.numpy() * 255).round().astype(np.uint8)
    torch.testing.assert_close(
        attribution.region_map(as_bytes, batch_size=3), attribution.region_map(torch.from_numpy(as_bytes))
    )


def test_targets_give_the_evidence_of_their_class(classifier, images):
    attribution = RegionAttribution(classifier)
    with torch.no_grad():
        logits = classifier.forward_grid(images)
    evidence = torch.stack([class_evidence(logits, label) for label in range(3)], 1)
    torch.testing.assert_close(evidence.sum(1), torch.zeros_like(evidence[:, 0]), atol=1e-5, rtol=0)
    torch.testing.assert_close(evidence.amax(1), top_softmax(logits))
    targets = [2, 0, 1, 1]
    each = torch.stack(
        [attribution.attribute(image[None], target=t)[0] for image, t in zip(images, targets, strict=True)]
    )
    torch.testing.assert_close(attribution.attribute(images, target=targets), each)
    torch.testing.assert_close(attribution.attribute(images, target=torch.tensor(targets)), each)
    torch.testing.assert_close(attribution.region_map(images, targets, batch_size=3), evidence[range(4), targets])
    torch.testing.assert_close(attribution.region_map(images, 1, batch_size=3), evidence[:, 1])
    for bad, error in ((3, ValueError), (-1, ValueError), ([0, 1], ValueError), (1.0, TypeError)):
        with pytest.raises(error, match="target"):
            attribution.attribute(images, target=bad)


def test_one_logit_has_no_evidence(images):
    alone = RegionAttribution(lambda patches, region: patches.mean((1, 2, 3))[:, None], grid=RegionGrid(16, 8, 8))
    with pytest.raises(ValueError, match=r"logits must have shape .* with 2 classes or more"):
        alone.attribute(torch.rand(2, 3, 16, 16), target=0)


def test_targets_must_be_one_for_each_image(classifier, images):
    attribution = RegionAttribution(classifier)
    with pytest.raises(ValueError, match="one for each of the 4 images, got 2"):
        attribution.region_map(images, [0, 1], batch_size=2)
    with pytest.raises(ValueError, match=r"one class for all images of a mean, got \[0, 1\]"):
        attribution.mean_map(images, [0, 1], batch_size=2)
    same = attribution.mean_map(images, 1, batch_size=2)
    assert torch.equal(attribution.mean_map(images, torch.tensor([1]), batch_size=2), same)


def test_a_plain_function_with_a_grid_gives_what_the_classifier_gives(classifier, images, capfd):
    attribution = RegionAttribution(lambda patches, region: classifier(patches, region), grid=GRID)
    expected = RegionAttribution(classifier).attribute(images)
    for at_once in (1, 10, 1000):
        torch.testing.assert_close(attribution.attribute(images, perturbations_per_eval=at_once), expected)
    capfd.readouterr()
    attribution.attribute(images, show_progress=True)
    assert "100%" in capfd.readouterr().err
    with pytest.raises(TypeError, match="grid"):
        RegionAttribution(lambda patches, region: None)


def test_a_named_backbone_in_threads_gives_the_same_maps_and_leaves_other_modules_alone():
    grid = RegionGrid(33, 2, 1)  # enough regions for the copy that is made for inference
    attribution = RegionAttribution(PatchRegionClassifier(grid, 2, random_state=0).eval())
    images = torch.rand(1, 3, 33, 33, generator=torch.Generator().manual_seed(0))
    expected = attribution.attribute(images)
    unrelated = torch.nn.Linear(1, 1)
    with ThreadPoolExecutor(3) as pool:
        found = [pool.submit(attribution.attribute, images) for _ in range(2)]
        others = [pool.submit(unrelated, torch.zeros(1))]
        while not all(job.done() for job in found):
            others.append(pool.submit(unrelated, torch.zeros(1)))
            others[-1].result()
        assert all(torch.equal(job.result(), expected) for job in found)
    assert all(torch.equal(job.result(), unrelated.bias) for job in others)


def test_an_attribution_in_place_of_a_classifier_is_refused(classifier):
    with pytest.raises(TypeError, match="must be a RegionClassifier or a callable, got RegionAttribution"):
        RegionAttribution(RegionAttribution(classifier))
    other = RegionGrid((20, 26), 7, 3)
    assert other.shape == GRID.shape  # so the pixel map would be wrong without an error
    with pytest.raises(ValueError, match="grid must be left out, or that of region_classifier"):
        RegionAttribution(classifier, grid=other)
    assert RegionAttribution(classifier, grid=RegionGrid((20, 26), 8, 3)).grid == GRID


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda patches, region: patches.mean((1, 2, 3)), r"logits for as many patches, got shape \(12,\)"),
        (lambda patches, region: np.zeros((len(patches), 2)), "logits for as many patches, got ndarray"),
        (lambda patches, region: torch.zeros(3, 2), r"12 x classes logits for as many patches, got shape \(3, 2\)"),
    ],
)
def test_functions_that_do_not_return_logits_are_refused(function, words, images):
    with pytest.raises(ValueError, match=words):
        RegionAttribution(function, grid=GRID).attribute(images, perturbations_per_eval=12)


def test_confidences_of_another_shape_are_refused(classifier, images):
    for confidence in (torch.amax, lambda logits: logits.softmax(1)):
        with pytest.raises(ValueError, match=r"confidence must give one value for each region, \(4, 5, 7\)"):
            RegionAttribution(classifier, confidence).region_map(images)


def test_inputs_of_another_scale_are_refused_and_noise_is_not(classifier, images):
    attribution = RegionAttribution(classifier)
    generator = torch.Generator().manual_seed(0)
    for deviation in (0.1, 0.3, 1):  # NoiseTunnel's is 1 by default
        attribution.attribute(images + deviation * torch.randn(images.shape, generator=generator))
    NoiseTunnel(attribution).attribute(images, nt_samples=3)
    for value in (torch.nan, torch.inf, 255.0, 11.1, -10.1):
        wrong = images.clone()
        wrong[-1, -1, -1, -1] = value
        with pytest.raises(ValueError, match=r"inputs of float type must lie within 10 of \[0, 1\], got"):
            attribution.attribute(wrong)
        with pytest.raises(ValueError, match=r"images of float type must lie in \[0, 1\], got"):
            attribution.region_map(wrong)


@pytest.mark.parametrize("channels", [1, 4])
def test_images_of_other_channels_are_refused_everywhere(channels, classifier, tmp_path):
    images = torch.rand(4, channels, 20, 26, generator=torch.Generator().manual_seed(0))
    attribution, labels, right = RegionAttribution(classifier), [0, 1, 2, 0], torch.zeros(4, 3, 20, 26)
    for use in (
        attribution.attribute,
        MultiScaleRegionAttribution([classifier]).attribute,
        attribution.region_map,
        attribution.mean_map,
        attribution.pixel_map,
        MultiScaleRegionAttribution([classifier]).mean_pixels,
        lambda images: attribute_dataset(attribution, images, tmp_path / "maps"),
        lambda images: measure_calibration(classifier, images, labels),
        lambda images: fit_temperature(classifier, images, labels),
        lambda images: fit_region_classifier(classifier, images, labels),
        lambda images: fit_region_classifier(classifier, right, labels, validation=(images, labels)),
    ):
        with pytest.raises(ValueError, match=f"must have 3 channels, as the classifier has; got {channels}"):
            use(images)
    assert not (tmp_path / "maps").exists()
    assert not classifier.training


def test_tuples_and_dtypes_and_inputs_that_stay_unchanged(classifier, images):
    attribution = RegionAttribution(classifier)
    expected, before = attribution.attribute(images), images.clone()
    (from_tuple,) = attribution.attribute((images,))
    assert torch.equal(from_tuple, expected)
    with pytest.raises(ValueError, match="tuple of 2"):
        attribution.attribute((images, images))
    with pytest.raises(TypeError, match="inputs"):
        attribution.attribute(images.numpy())
    for wrong in (torch.int32, torch.int64, torch.bool):
        with pytest.raises(TypeError, match=f"inputs must be uint8 or float in .*, got {wrong}"):
            attribution.attribute((images * 255).to(wrong))
    with pytest.raises(ValueError, match="inputs must be 20 x 26 pixels"):
        attribution.attribute(images[..., :-1])
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        assert attribution.attribute(images.to(dtype)).dtype == dtype
    assert attribution.attribute((images * 255).byte()).dtype == torch.float32
    wants_grad = images.clone().requires_grad_()
    attribution.attribute(wants_grad)
    assert wants_grad.requires_grad
    assert wants_grad.grad is None
    assert torch.equal(images, before)
    assert attribution.attribute(images[:0]).shape == (0, 3, 20, 26)
    assert attribution.region_map(images[:0]).shape == (0, *GRID.shape)


def test_confidences_are_named_or_given(classifier):
    attribution = RegionAttribution(classifier)
    with pytest.raises(ValueError, match="confidence"):
        RegionAttribution(classifier, "certainty")
    custom = RegionAttribution(classifier, lambda logits: logits[:, 0])
    assert custom.region_map(torch.zeros(1, 3, 20, 26)).shape == (1, *GRID.shape)
    with pytest.raises(ValueError, match="at least one image"):
        attribution.mean_map(torch.zeros(0, 3, 20, 26))


def test_a_function_gets_floats_whatever_the_images_are():
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 16, 16), np.uint8)
    seen = []

    def forward(patches, region):
        seen.append(float(patches.max()))
        return patches.mean((2, 3))[:, :2]

    attribution = RegionAttribution(forward, grid=RegionGrid(16, 8, 4))
    maps = [attribution.region_map(given) for given in (images, images / np.float32(255))]
    torch.testing.assert_close(*maps)
    assert max(seen) <= 1

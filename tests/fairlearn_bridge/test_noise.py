"""Masks and perturbations: identities, hand-computed values, what stays untouched."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fairlearn_bridge.noise import (
    AttributionNoise,
    additive_noise,
    grey_out,
    published_noise,
    quantile_mask,
    shift_elsewhere,
    transplant,
)
from fairlearn_bridge.schemes import SCHEMES


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def images():
    return torch.rand(6, 3, 10, 12, generator=generator(1))


@pytest.fixture
def maps():
    return torch.rand(6, 10, 12, generator=generator(2))


def fitted(scheme, maps, images, **parameters):
    return AttributionNoise(scheme, **parameters).fit(maps, images, [0, 1, 0, 1, 1, 1])


def test_quantile_mask_by_hand():
    ramp = torch.arange(10.0).view(2, 5)
    for quantile, changed in ((0, 10), (0.7, 3), (0.75, 2), (0.9, 1), (1, 0)):
        mask = quantile_mask(ramp, quantile)
        assert mask.sum() == changed
        assert mask.flatten()[10 - changed :].all()
    assert not quantile_mask(torch.ones(3, 3), 0.5).any()  # nothing lies above the rest


@given(st.floats(0, 1), st.integers(1, 9), st.integers(1, 9))
def test_quantile_mask_changes_the_share_it_says(quantile, height, width):
    size = height * width
    maps = torch.stack([torch.randperm(size) for _ in range(3)]).view(3, height, width) / size  # without ties
    mask = quantile_mask(maps, quantile)
    assert (mask.sum((1, 2)) == size - np.ceil(round(quantile * size, 6))).all()
    for one, its_mask in zip(maps, mask, strict=True):
        if its_mask.any() and not its_mask.all():
            assert one[its_mask].min() > one[~its_mask].max()
    assert torch.equal(quantile_mask(maps[1], quantile), mask[1])


@st.composite
def maps_with_ties(draw, count=1, least=1):
    shape = (count, draw(st.integers(least, 6)), draw(st.integers(least, 6)))
    values = st.lists(st.integers(0, 4), min_size=math.prod(shape), max_size=math.prod(shape))
    return torch.tensor(draw(values), dtype=torch.float32).view(shape) / 4


@given(maps_with_ties(), st.lists(st.floats(0, 1), min_size=2, max_size=2).map(sorted))
def test_masks_hold_the_highest_values_and_shrink_with_the_quantile(maps, quantiles):
    larger, smaller = (quantile_mask(maps, quantile) for quantile in quantiles)
    assert not (smaller & ~larger).any()
    assert smaller.float().mean() <= 1 - quantiles[1] + 1e-6
    if smaller.any() and not smaller.all():
        assert maps[smaller].min() > maps[~smaller].max()


@given(maps_with_ties())
def test_elsewhere_is_where_a_mask_overlaps_itself_least(maps):
    mask = maps[0] > 0.5
    height, width = mask.shape
    overlaps = {(y, x): int((mask & mask.roll((y, x), (0, 1))).sum()) for y in range(height) for x in range(width)}
    assert overlaps[shift_elsewhere(mask)] == min(overlaps.values())


@given(st.sampled_from(SCHEMES), maps_with_ties(6, least=2), st.floats(0, 1), st.floats(0, 3), st.integers(0, 99))
def test_whatever_the_scheme_images_keep_their_range_and_what_is_outside(scheme, maps, quantile, std, seed):
    images = torch.rand(6, 1, *maps.shape[1:], generator=generator(seed))
    noise = fitted(scheme, maps, images, quantile=quantile, noise_std=std)
    changed = noise(images, torch.arange(6), generator(seed))
    assert changed.shape == images.shape
    assert changed.min() >= 0
    assert changed.max() <= 1 + 1e-6  # a transplant is a blend
    if "transplant" not in scheme:
        outside = ~noise.mask_[:, None].expand_as(images)
        assert torch.equal(changed[outside], images[outside])
    assert torch.equal(noise(images, torch.arange(6), generator(seed)), changed)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_only_the_mask_changes_and_images_stay_in_range(scheme, images, maps):
    before = images.clone()
    noise = fitted(scheme, maps, images, quantile=0.6)
    index = torch.tensor([4, 1, 1])
    changed = noise(images[index], index, generator())
    assert changed.shape == (3, 3, 10, 12)
    assert changed.min() >= 0
    assert changed.max() <= 1
    assert torch.equal(images, before)
    assert not torch.equal(changed, images[index])
    expected = (
        quantile_mask(maps.mean(0), 0.6).expand(3, -1, -1) if "general" in scheme else quantile_mask(maps[index], 0.6)
    )
    if "transplant" not in scheme:  # whose edges are soft
        outside = ~expected[:, None].expand_as(changed)
        assert torch.equal(changed[outside], images[index][outside])


@pytest.mark.parametrize("scheme", SCHEMES)
def test_quantile_1_changes_nothing(scheme, images, maps):
    noise = fitted(scheme, maps, images, quantile=1)
    assert torch.equal(noise(images, torch.arange(6), generator()), images)


def test_masks_and_noise_by_hand(images, maps):
    everything = torch.ones(6, 1, 10, 12, dtype=torch.bool)
    assert (grey_out(images, everything, generator()) == 0.5).all()
    assert torch.equal(additive_noise(images, everything, generator(), std=0.0), images)
    grey = torch.full((200, 1, 20, 20), 0.5)
    noisy = additive_noise(grey, torch.ones_like(grey, dtype=torch.bool), generator(), std=0.1)
    assert noisy.mean().item() == pytest.approx(0.5, abs=1e-3)
    assert noisy.std().item() == pytest.approx(0.1, abs=1e-3)
    assert torch.equal(
        fitted("general_noise", maps, images, noise_std=0.0)(images, torch.arange(6), generator()), images
    )


def test_published_noise_by_hand(images, maps):
    nowhere, everything = (torch.full((6, 1, 10, 12), value) for value in (False, True))
    # Without noise, what is darker than the mean becomes the mean, all over the image.
    assert torch.equal(published_noise(images, nowhere, generator()), images.clamp(min=0.5))
    assert torch.equal(published_noise(images, everything, generator(), std=0.0), images.clamp(min=0.5))
    narrow = published_noise(images, nowhere, generator(), mean=0.25, scale=0.25)
    torch.testing.assert_close(narrow, images.clamp(0.25, 0.5))
    bright = torch.full((200, 1, 20, 20), 0.75)
    noisy = published_noise(bright, torch.ones_like(bright, dtype=torch.bool), generator(), std=0.1)
    assert noisy.std().item() == pytest.approx(0.05, abs=1e-3)  # images have half of the scale of normalised ones
    noise = AttributionNoise("specific_noise", 0.5, perturbation=published_noise).fit(maps)
    changed = noise(images, torch.arange(6), generator()) != images.clamp(min=0.5)
    assert not changed[~noise.mask_[:, None].expand_as(changed)].any()
    assert changed.any()


def test_noise_is_fresh_in_each_call_and_equal_for_equal_generators(images, maps):
    noise, index, source = fitted("general_noise", maps, images), torch.arange(6), generator()
    first, second = noise(images, index, source), noise(images, index, source)
    assert not torch.equal(first, second)
    assert torch.equal(noise(images, index, generator()), first)


def after_transplants(labels, confounder, share, count=4000, **given):
    """Return what each image shows after `share` of them got all pixels of another: the positions of their sources."""
    images = (torch.arange(len(labels)) / 255)[:, None, None, None].expand(-1, 3, 8, 8)
    noise = AttributionNoise("general_transplant", 0.0, transplant_share=share)
    noise.fit(torch.rand(1, 8, 8), images, confounder, labels=labels, **given)
    index = torch.arange(len(labels)).repeat(count)
    return index, (noise(images[index], index, generator())[:, 0, 4, 4] * 255).round().long()


def test_transplants_balance_the_confounder_within_each_class():
    # Class 0 has the confounder in 4 of 6 images, class 1 in none: De Coninck's biased set.
    labels, confounder = torch.tensor([0] * 6 + [1] * 6), torch.tensor([1] * 4 + [0] * 8)
    for share, of_second in ((0.5, 0.5), (0.25, 0.25), (0.75, 0.5)):  # a quarter cannot give half
        index, shown = after_transplants(labels, confounder, share)
        replaced = (index != shown).float()
        for label, with_it in ((0, 0.5), (1, of_second)):
            mine = labels[index] == label
            assert confounder[shown[mine]].float().mean().item() == pytest.approx(with_it, abs=0.02)
            assert replaced[mine].mean().item() == pytest.approx(share, abs=share / 4)  # some by themselves
        # Pixels are of the same class, but for what that class has no image of.
        other_class = labels[shown] != labels[index]
        assert torch.equal(other_class, (labels[index] == 1) & (confounder[shown] == 1))
    index, shown = after_transplants(labels, confounder, 0.0)
    assert torch.equal(index, shown)


def test_transplants_balance_the_confounder_as_the_images_weigh():
    labels = torch.arange(2).repeat_interleave(50)
    confounder = (torch.arange(50).repeat(2) < torch.tensor([5, 45]).repeat_interleave(50)).long()
    by_cell = 1 / torch.tensor([[45.0, 5.0], [5.0, 45.0]])[labels, confounder]
    for weights in (by_cell, torch.ones(100), by_cell + 0.05):
        index, shown = after_transplants(labels, confounder, 0.5, count=500, sample_weight=weights)
        for label in (0, 1):
            mine = labels[index] == label
            share = np.average(confounder[shown][mine], weights=weights[index][mine])
            assert share == pytest.approx(0.5, abs=0.02)


def test_an_image_that_does_not_count_is_no_donor():
    labels, confounder = torch.tensor([0] * 6 + [1] * 6), torch.tensor([0, 0, 0, 1, 1, 2, 0, 1, 1, 0, 1, 2])
    weights = torch.ones(12)
    weights[[3, 4]] = 0  # of class 0 with the value 1
    weights[[5, 11]] = 0  # of the value 2
    index, shown = after_transplants(labels, confounder, 1.0, sample_weight=weights)
    assert set(shown.tolist()) == set(np.flatnonzero(weights).tolist())
    for label in (0, 1):
        assert confounder[shown[labels[index] == label]].float().mean().item() == pytest.approx(0.5, abs=0.05)


def test_rows_get_transplants_as_images_one_pixel_high():
    rows, donors, mask = torch.zeros(1, 1, 1, 8), torch.ones(1, 1, 1, 8), torch.arange(8)[None, None, None] > 3
    found = transplant(rows, donors, mask).flatten()
    assert found[:2].sum() == 0
    assert torch.allclose(found[6:], torch.ones(2))
    assert (found.diff() >= 0).all()


def test_the_edges_of_a_transplant_are_as_soft_as_asked_for():
    mask = torch.zeros(1, 1, 64, 64, dtype=torch.bool)
    mask[..., 32:] = True
    images, donors = torch.zeros(1, 3, 64, 64), torch.ones(1, 3, 64, 64)
    assert torch.equal(transplant(images, donors, mask, edge=0), mask.float().expand(1, 3, 64, 64))
    for edge, sigma in ((1 / 64, 1.0), (1 / 16, 4.0)):
        shown = transplant(images, donors, mask, edge=edge)[0, 0, 32]
        # A step blurred by a Gaussian is its distribution function: 0.84 one sigma inside, where pixels are at halves.
        place = (torch.arange(64) - 31.5) / sigma
        torch.testing.assert_close(shown, torch.special.ndtr(place), atol=0.03, rtol=0)
    both = torch.cat([images, donors])
    noise = AttributionNoise("general_transplant", 0.5, transplant_share=1, edge=0)
    hard = noise.fit(mask[0].float(), both, [0, 1])(both, torch.arange(2), generator())
    assert set(hard.unique().tolist()) == {0, 1}


def test_transplants_work_on_long_images():
    images = torch.rand(4, 3, 2, 640)
    noise = AttributionNoise("general_transplant", 0.5, transplant_share=1).fit(
        torch.rand(1, 2, 640), images, [0, 1, 0, 1]
    )
    assert not torch.equal(noise(images, torch.arange(4), generator()), images)


def test_transplants_without_labels_balance_the_whole():
    _, shown = after_transplants([0] * 4, [1, 0, 0, 0], 1.0)
    assert (shown == 0).float().mean().item() == pytest.approx(0.5, abs=0.03)
    with pytest.raises(ValueError, match=r"labels should be a 1d array of shape \(4,\)"):
        AttributionNoise("general_transplant").fit(
            torch.rand(1, 8, 8), torch.rand(4, 3, 8, 8), [0, 1, 0, 1], labels=[1, 0]
        )


def test_a_specific_transplant_takes_the_pixels_of_both_masks():
    maps = torch.zeros(2, 16, 16)
    maps[0, 2:6, 2:6] = maps[1, 10:14, 10:14] = 1
    images = torch.stack([torch.zeros(3, 16, 16), torch.ones(3, 16, 16)])
    noise = AttributionNoise("specific_transplant", 0.5, transplant_share=1).fit(maps, images, [0, 1])
    shown = noise(images[:1].expand(50, -1, -1, -1), torch.zeros(50, dtype=torch.long), generator())
    came = shown.amax((1, 2, 3)) > 0  # from the other image; about half are from itself
    assert 10 < came.sum() < 40
    for row, column in ((4, 4), (12, 12)):
        assert (shown[came, :, row, column] > 0.9).all()
    assert (shown[:, :, 4, 12] == 0).all()


def test_a_callable_gets_images_mask_and_generator(images, maps):
    seen = {}

    def invert(batch, mask, source):
        seen.update(mask=mask, source=source)
        return torch.where(mask, 1 - batch, batch)

    noise = AttributionNoise("specific_mask", 0.5, perturbation=invert).fit(maps)
    source = generator()
    changed = noise(images[:2], torch.tensor([3, 0]), source)
    assert seen["source"] is source
    assert torch.equal(seen["mask"], quantile_mask(maps[[3, 0]], 0.5)[:, None])
    assert torch.equal(changed, torch.where(seen["mask"], 1 - images[:2], images[:2]))


def test_maps_may_be_arrays(maps):
    array = maps.numpy()
    assert torch.equal(quantile_mask(array, 0.7), quantile_mask(maps, 0.7))
    for scheme in ("general_mask", "specific_mask"):
        masks = [AttributionNoise(scheme).fit(given).mask_ for given in (array, maps)]
        assert torch.equal(*masks)


def test_elsewhere_has_equal_area_and_least_overlap(images, maps):
    mask = torch.zeros(8, 9, dtype=torch.bool)
    mask[1:4, 2:6] = True
    shift = shift_elsewhere(mask)
    overlaps = {(dy, dx): int((mask & mask.roll((dy, dx), (0, 1))).sum()) for dy in range(8) for dx in range(9)}
    assert overlaps[shift] == min(overlaps.values()) == 0
    there, here = (fitted("specific_mask", maps, images, control=c).mask_ for c in ("elsewhere", None))
    assert torch.equal(there.sum((1, 2)), here.sum((1, 2)))
    assert not torch.equal(there, here)
    # Half the image has only the other half to go to.
    mean = torch.zeros(1, 8, 8)
    mean[0, :4] = 1
    moved = AttributionNoise("general_mask", 0.5, control="elsewhere").fit(mean).mask_
    assert torch.equal(moved, mean < 1)


def test_the_random_control_of_specific_transplants_changes_as_many_pixels(maps, images):
    given = {"images": images, "confounder": np.arange(len(images)) % 2, "random_state": 0}
    changed = []
    for control in (None, "random"):
        mask = AttributionNoise("specific_transplant", 0.7, control=control).fit(maps, **given).mask_
        # A transplant changes what is in the mask of either of two images.
        changed.append((mask[:, None] | mask[None]).sum((2, 3)))
    assert torch.equal(*changed)


@pytest.mark.parametrize("scheme", ["general_mask", "specific_mask"])
def test_the_random_control_changes_as_many_pixels(maps, scheme):
    random, found = (
        AttributionNoise(scheme, 0.7, control=control).fit(maps, random_state=0).mask_ for control in ("random", None)
    )
    assert torch.equal(random.sum((1, 2)), found.sum((1, 2)))
    assert not torch.equal(random, found)
    assert len(random.unique(dim=0)) == len(random)  # each image's own
    for seed, same in ((0, True), (1, False)):
        again = AttributionNoise(scheme, 0.7, control="random").fit(maps, random_state=seed).mask_
        assert torch.equal(again, random) == same


@pytest.mark.parametrize(
    ("parameters", "error", "words"),
    [
        ({"scheme": "general_blur"}, ValueError, "scheme must be one of general_mask"),
        ({"quantile": 1.1}, ValueError, r"quantile .* got 1.1"),
        ({"quantile": "0.5"}, ValueError, "quantile"),
        ({"quantile": float("nan")}, ValueError, "quantile"),
        ({"noise_std": -1}, ValueError, "noise_std"),
        ({"noise_std": float("nan")}, ValueError, "noise_std"),
        ({"perturbation": "blur"}, TypeError, "perturbation"),
        ({"transplant_share": 2}, ValueError, "transplant_share"),
        ({"edge": -1}, ValueError, r"edge must be a number in \[0, inf\), got -1"),
        ({"edge": float("nan")}, ValueError, "edge"),
        ({"control": "nowhere"}, ValueError, "control must be None or one of elsewhere, random, got 'nowhere'"),
    ],
)
def test_bad_parameters_are_named_in_fit(parameters, error, words, maps):
    with pytest.raises(error, match=words):
        AttributionNoise(**parameters).fit(maps)


def test_bad_data_is_named(maps, images):
    with pytest.raises(ValueError, match="pixel_maps"):
        AttributionNoise().fit(maps[0])
    with pytest.raises(ValueError, match="images and confounder must be given"):
        AttributionNoise("general_transplant").fit(maps)
    with pytest.raises(ValueError, match="confounder must hold at least 2 classes"):
        AttributionNoise("general_transplant").fit(maps, images, [1] * 6)
    with pytest.raises(ValueError, match=r"pixel_maps must have shape \(6, 10, 12\), got \(5, 10, 12\)"):
        AttributionNoise("specific_mask").fit(maps[:5], images)
    with pytest.raises(ValueError, match=r"pixel_maps must have shape \(6, 10, 12\), got \(6, 10, 11\)"):
        AttributionNoise("general_mask").fit(maps[..., :11], images)
    maps[2, 3, 4] = math.nan
    with pytest.raises(ValueError, match=r"pixel_maps must be finite, .* got infinite or NaN"):
        AttributionNoise("general_mask").fit(maps)

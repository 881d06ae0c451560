"""Deletion, insertion and what is left of an attribute without a map's top, worked out by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from captum_region.saliency import compare_saliency
from captum_region.saliency.faithfulness import _masked, deletion_insertion, information_left
from captum_region.saliency.methods import floors


def test_a_model_in_train_mode_is_refused():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2), nn.BatchNorm1d(2))
    images, maps = torch.rand(2, 1, 2, 2), torch.rand(2, 2, 2)
    with pytest.raises(ValueError, match="model must be in eval mode"):
        deletion_insertion(model, images, maps, target=torch.tensor([1, 1]), baseline=torch.zeros(1, 1, 1))
    with pytest.raises(ValueError, match="model must be in eval mode"):
        compare_saliency(images, maps > 0.5, floors(0), target=1, model=model)
    assert model[2].num_batches_tracked == 0


def test_deletion_and_insertion_by_hand():
    class FirstPixel(nn.Module):
        def forward(self, images):
            return torch.stack([torch.zeros(len(images)), 200 * images[:, 0, 0, 0] - 100], 1)

    images = torch.ones(2, 1, 2, 2)
    maps = torch.tensor([[[4.0, 3], [2, 1]], [[1.0, 2], [3, 4]]])  # the pixel that counts comes first, and last
    found = deletion_insertion(
        FirstPixel().eval(), images, maps, target=torch.tensor([1, 1]), baseline=torch.zeros(1, 1, 1), steps=4
    )
    # Deletion of the first: 1 0 0 0 0 by the trapezoid rule; of the second 1 1 1 1 0.
    np.testing.assert_allclose(found["deletion"], [0.125, 0.875], atol=1e-6)
    np.testing.assert_allclose(found["insertion"], [0.875, 0.125], atol=1e-6)


def test_bytes_are_images_too_and_bad_arguments_are_named():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).eval()
    images, maps = torch.randint(0, 256, (2, 3, 2, 2), dtype=torch.uint8), torch.rand(2, 2, 2)
    others = {"target": torch.tensor([1, 0]), "baseline": torch.zeros(3, 1, 1)}
    found = deletion_insertion(model, images, maps, **others)
    np.testing.assert_allclose(found, deletion_insertion(model, images / 255, maps.numpy(), **others), rtol=1e-5)
    with pytest.raises(ValueError, match="steps must be an integer of at least 1, got 0"):
        deletion_insertion(model, images, maps, steps=0, **others)
    labels = np.array([0, 1])
    for bad in (maps[0], maps[:, 0]):
        with pytest.raises(ValueError, match=r"maps must have shape \(2, 2, 2\), one of each image's pixels"):
            deletion_insertion(model, images, bad, **others)
        with pytest.raises(ValueError, match=r"maps must have shape \(2, 2, 2\)"):
            information_left((images, bad, labels), (images, maps, labels), epochs=1)
    with pytest.raises(ValueError, match="target must hold 2 class numbers"):
        information_left((images, maps, labels), (images, maps, [0, 1, 1]), epochs=1)
    for other in (images / 255, images[..., :1].repeat(1, 1, 1, 3)):
        with pytest.raises(ValueError, match="test images must be of the shape and type of train images"):
            information_left((images, maps, labels), (other, maps, labels), epochs=1)
    with pytest.raises(ValueError, match="target must be below the 2 classes of model, got 5"):
        deletion_insertion(model, images, maps, target=torch.tensor([1, 5]), baseline=torch.zeros(3, 1, 1))
    one = nn.Sequential(nn.Flatten(), nn.Linear(12, 1)).eval()
    with pytest.raises(ValueError, match=r"model must give logits of shape N x classes, at least 2, got \(2, 1\)"):
        deletion_insertion(one, images, maps, **others)


def test_information_is_left_where_it_was_not_masked():
    rng = np.random.default_rng(0)

    def make(count):
        labels = rng.integers(0, 2, count)
        images = rng.integers(60, 120, (count, 3, 12, 12), dtype=np.uint8)
        images[labels == 1, :, :4, :4] += 100
        return images, labels

    (images, labels), (test_images, test_labels) = make(160), make(80)
    there, elsewhere = torch.zeros(1, 12, 12), torch.zeros(1, 12, 12)
    there[:, :4, :4], elsewhere[:, 8:, 8:] = 1, 1
    left = {
        name: information_left(
            (images, where.expand(160, -1, -1), labels),
            (test_images, where.expand(80, -1, -1), test_labels),
            quantile=0.85,
            epochs=40,
            random_state=0,
        )
        for name, where in (("there", there), ("elsewhere", elsewhere))
    }
    assert left["elsewhere"] > 0.95
    assert left["there"] < 0.7
    with pytest.raises(ValueError, match="quantile"):
        information_left((images, there, labels), (test_images, there, test_labels), quantile=1)


def test_every_map_masks_as_many_pixels():
    rng = np.random.default_rng(0)
    images = rng.integers(1, 256, (3, 3, 10, 10), dtype=np.uint8)
    maps = torch.zeros(3, 10, 10)
    maps[0] = torch.arange(100.0).view(10, 10)
    maps[1, 0, :5] = 1  # fewer than are masked: the rest is drawn among equals
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    masked = _masked(images, maps, 0.8, torch.zeros(3), order)
    hidden = (masked == 0).all(1)
    assert hidden.flatten(1).sum(1).tolist() == [20, 20, 20]
    assert hidden[0, 8:].all()
    assert hidden[1, 0, :5].all()
    # Spread, not in reading order; and no less of the third image, whose map says nothing.
    assert hidden[2, 5:].sum() > 4
    assert torch.equal(
        masked[~hidden[:, None].expand_as(masked)], torch.from_numpy(images)[~hidden[:, None].expand_as(masked)]
    )
    assert (_masked(images, None, 0.8, torch.zeros(3), order).numpy() == images).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_floats_are_masked_by_the_colour_of_bytes(channels):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (40, channels, 8, 8), np.uint8), np.arange(40) % 2
    maps = torch.rand(40, 8, 8)
    options = {"quantile": 0.5, "epochs": 1, "random_state": 0}
    bytes_left, floats_left = (
        information_left((given, maps, labels), (given, maps, labels), **options)
        for given in (images, (images / 255).astype(np.float32))
    )
    assert bytes_left == pytest.approx(floats_left, abs=0.1)

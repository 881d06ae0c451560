"""PerturbedDataset: the noise itself, anew in each epoch, the same by seed whatever loads it; fit_noise in one call."""

import numpy as np
import pytest
import torch
from datasets import Dataset as HuggingFace
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset
from torchvision.transforms import Normalize

from captum_region.datasets import make_faces
from fairlearn_bridge import AttributionNoise, AttributionNoiseMitigator, ImageClassifier, PerturbedDataset, fit_noise

FACES = make_faces(24, size=16, random_state=0)
IMAGES = torch.from_numpy(FACES.images).float() / 255
LABELS = torch.arange(24) % 2
MAPS = torch.rand(24, 16, 16, generator=torch.Generator().manual_seed(0))
DATA = TensorDataset(IMAGES, LABELS)


def noise(scheme="specific_noise"):
    return AttributionNoise(scheme, 0.75).fit(MAPS, IMAGES, FACES.binary("Blond_Hair"), labels=LABELS)


def epochs(count=1, *, given=(), seed=0, **loader):
    dataset = PerturbedDataset(DATA, noise("specific_transplant"), random_state=seed)
    loader = DataLoader(dataset, batch_size=5, **loader)
    found = []
    for epoch in range(count):
        if given:
            dataset.set_epoch(given[epoch])
        images, labels = zip(*loader, strict=True)
        assert torch.equal(torch.cat(labels), LABELS)
        found.append(torch.cat(images))
    return torch.stack(found)


@pytest.mark.parametrize("scheme", ["specific_noise", "general_mask", "specific_transplant"])
def test_an_item_is_perturbed_as_by_the_noise_itself(scheme):
    of_scheme = noise(scheme)
    dataset = PerturbedDataset(DATA, of_scheme, random_state=3)
    generator = PerturbedDataset(DATA, of_scheme, random_state=3)._generator(7)
    expected = of_scheme(IMAGES[7:8], torch.tensor([7]), generator)[0]
    image, label = dataset[7]
    assert torch.equal(image, expected)
    assert label == LABELS[7]
    if scheme == "specific_noise":
        assert torch.equal((image != IMAGES[7]).any(0), of_scheme.mask_[7])


def test_each_epoch_and_seed_has_perturbations_of_its_own():
    first, second = epochs(2)
    assert not torch.equal(first, second)
    assert torch.equal(epochs(2), torch.stack([first, second]))
    assert not torch.equal(epochs(1, seed=1)[0], first)
    # By number: in any order, also when training resumes at the last.
    numbered = epochs(3, given=(0, 1, 0))
    assert torch.equal(numbered[0], numbered[2])
    assert torch.equal(epochs(1, given=(1,))[0], numbered[1])
    assert not torch.equal(numbered[0], numbered[1])


def test_an_image_drawn_twice_in_an_epoch_is_perturbed_twice():
    dataset = PerturbedDataset(DATA, noise(), random_state=0).set_epoch(4)
    assert not torch.equal(dataset[2][0], dataset[-22][0])


@pytest.mark.slow
@pytest.mark.parametrize(("start", "persistent"), [("fork", True), ("fork", False), ("spawn", True)])
def test_workers_change_nothing(start, persistent):
    workers = 2 if start == "fork" else 1  # a spawned one takes seconds to begin
    options = {"num_workers": workers, "multiprocessing_context": start, "persistent_workers": persistent}
    assert torch.equal(epochs(2, given=(5, 9), **options), epochs(2, given=(5, 9)))
    if start == "fork":
        assert torch.equal(epochs(2, **options), epochs(2))


def test_processes_without_a_number_of_the_epoch_draw_their_own(monkeypatch):
    alone, numbered = epochs(), epochs(given=(1,))
    monkeypatch.setenv("RANK", "1")
    assert not torch.equal(epochs(), alone)
    assert torch.equal(epochs(given=(1,)), numbered)


def test_transforms_come_after_and_any_kind_of_image_before():
    plain = PerturbedDataset(DATA, noise(), random_state=0)
    normalise = Normalize([0.5] * 3, [0.25] * 3)
    after = PerturbedDataset(DATA, noise(), transform=normalise, random_state=0)
    torch.testing.assert_close(after[3][0], normalise(plain[3][0]))
    pictures = [Image.fromarray(image.transpose(1, 2, 0)) for image in FACES.images]
    again = PerturbedDataset([(picture, "a") for picture in pictures], noise(), random_state=0).set_epoch(0)
    image, label = again[3]
    assert label == "a"
    assert torch.equal(image, plain.set_epoch(0)[3][0])
    large = [(picture.resize((40, 40)), 0) for picture in pictures]
    assert PerturbedDataset(large, noise())[0][0].shape == (3, 16, 16)


def test_a_hugging_face_data_set_is_fitted_and_perturbed():
    columns = {"image": [Image.fromarray(image.transpose(1, 2, 0)) for image in FACES.images]}
    columns |= {"male": FACES.binary("Male").tolist(), "blond": FACES.binary("Blond_Hair").tolist()}
    data = HuggingFace.from_dict(columns)
    options = {"sensitive_features": "blond", "region_epochs": 1, "random_state": 0}
    found = fit_noise(data, "male", **options)
    item = PerturbedDataset(data, found, random_state=0)[5]
    assert item.keys() == {"image", "male", "blond"}
    assert item["male"] == columns["male"][5]
    assert item["image"].shape == (3, 16, 16)
    assert fit_noise(data, "male", size=20, **options).mask_.shape == (24, 20, 20)


@pytest.mark.parametrize("kind", ["torch", "AttributeImages"])
def test_fit_noise_finds_what_the_mitigator_finds(kind):
    male, blond = FACES.binary("Male"), FACES.binary("Blond_Hair")
    mitigator = AttributionNoiseMitigator(ImageClassifier(max_epochs=0), region_epochs=1, quantile=0.6, random_state=1)
    expected = mitigator.fit(FACES.images, male, sensitive_features=blond).noise_
    data = TensorDataset(IMAGES, torch.tensor(male)) if kind == "torch" else FACES
    y = "label" if kind == "torch" else "Male"
    found = fit_noise(data, y, sensitive_features=blond, region_epochs=1, quantile=0.6, random_state=1)
    assert torch.equal(found.mask_, expected.mask_)
    assert found.scheme == mitigator.scheme


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: PerturbedDataset(DATA, AttributionNoise()), "noise must be a fitted AttributionNoise"),
        (lambda: PerturbedDataset(TensorDataset(IMAGES[:9]), noise()), "the 24 images of the noise, got 9"),
        (lambda: PerturbedDataset(iter([]), noise()), "dataset must have a length"),
        (lambda: PerturbedDataset([1] * 24, noise())[0], "item 0 is a int"),
        (lambda: PerturbedDataset([{"img": 0}] * 24, noise())[0], "image_column 'image', it has \\['img'\\]"),
        (lambda: PerturbedDataset(TensorDataset(2 * IMAGES), noise())[3], "item 3's image of float type must lie in"),
        (lambda: PerturbedDataset(TensorDataset(IMAGES[..., :8]), noise())[3], "item 3's image must be 16 x 16"),
        (lambda: PerturbedDataset(DATA, noise()).set_epoch(-1), "epoch must be an integer of at least 0"),
        (lambda: fit_noise(FACES, "Male", sensitive_features="Blond_Hair", size=8), "size must be left out"),
        (lambda: fit_noise(FACES, "Male", sensitive_features="Blond_Hair", scheme="auto"), "scheme must be one"),
        (lambda: fit_noise(FACES, "Male", sensitive_features="Blond_Hair", quantile=[0.5]), "quantile must be one"),
    ],
)
def test_what_does_not_fit_is_named(make, words):
    with pytest.raises((TypeError, ValueError), match=words):
        make()


def test_global_random_state_is_left_alone():
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    PerturbedDataset(DATA, noise(), random_state=0)[0]
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]


def test_what_would_have_no_effect_is_refused():
    faces = make_faces(24, 16, random_state=0)
    with pytest.raises(ValueError, match="image_column must be left out for images"):
        fit_noise(faces, "Male", sensitive_features="Blond_Hair", image_column="nope")
    with pytest.raises(ValueError, match=r"epoch must be an integer of at least 0, got 1\.5"):
        PerturbedDataset(DATA, noise(), random_state=0).set_epoch(1.5)

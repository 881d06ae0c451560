"""Checkpoints: round trips, and what is refused."""

import json

import pytest
import torch
from torch import nn

from captum_region import DenseRegionClassifier, PatchRegionClassifier, RegionGrid, load_classifier, save_classifier

GRID = RegionGrid((16, 20), 8, 4)


@pytest.mark.parametrize(
    "classifier",
    [
        DenseRegionClassifier(GRID, 3, width=5, class_names=["a", "<b>", "ü"], random_state=1),
        PatchRegionClassifier(GRID, 2, random_state=1),
        DenseRegionClassifier(GRID, 2, in_channels=1, random_state=1),
    ],
    ids=["dense", "patch", "grey"],
)
def test_round_trip(classifier, tmp_path):
    classifier.mean[0] = 0.25
    save_classifier(classifier, tmp_path / "deep" / "saved")
    loaded = load_classifier(tmp_path / "deep" / "saved")
    assert type(loaded) is type(classifier)
    assert (loaded.grid, loaded.class_names) == (classifier.grid, classifier.class_names)
    assert not loaded.training
    images = torch.rand(2, classifier.in_channels, 16, 20)
    with torch.no_grad():
        assert torch.equal(loaded.forward_grid(images), classifier.eval().forward_grid(images))
    assert sorted(file.name for file in (tmp_path / "deep" / "saved").iterdir()) == [
        "classifier.json",
        "weights.safetensors",
    ]
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["saved"]


def test_saving_again_replaces_and_other_files_are_safe(tmp_path):
    folder = tmp_path / "saved"
    save_classifier(DenseRegionClassifier(GRID, 2, random_state=0), folder)
    save_classifier(DenseRegionClassifier(GRID, 4, random_state=0), folder)
    assert load_classifier(folder).num_classes == 4
    (folder / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="other files"):
        save_classifier(DenseRegionClassifier(GRID, 2, random_state=0), folder)
    assert (folder / "thesis.txt").read_text() == "years of work"
    assert load_classifier(folder).num_classes == 4


def test_a_users_backbone_is_given_again(tmp_path):
    def network():
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))

    classifier = PatchRegionClassifier(GRID, 2, network(), random_state=0).eval()
    save_classifier(classifier, tmp_path / "saved")
    with pytest.raises(ValueError, match="backbone must be given"):
        load_classifier(tmp_path / "saved")
    loaded = load_classifier(tmp_path / "saved", backbone=network())
    images = torch.rand(1, 3, 16, 20)
    with torch.no_grad():
        assert torch.equal(loaded.forward_grid(images), classifier.forward_grid(images))
    with pytest.raises(ValueError, match="cannot be loaded"):
        load_classifier(tmp_path / "saved", backbone=nn.Sequential(nn.Flatten(), nn.Linear(4 * 64, 2)))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("format", 2, "version 2, this package reads version 1"),
        ("kind", "os.system", "does not describe"),
        ("patch_size", "8", "does not describe"),
        ("image_size", [16], "does not describe"),
        ("class_names", ["a"], "cannot be loaded"),
        ("stride", 2, "cannot be loaded"),
        ("config", {"width": 10}, "cannot be loaded"),
        ("config", {"command": "rm"}, "cannot be loaded"),
    ],
)
def test_descriptions_that_lie(key, value, words, tmp_path):
    save_classifier(DenseRegionClassifier(GRID, 2, random_state=0), tmp_path / "saved")
    path = tmp_path / "saved" / "classifier.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(ValueError, match=words):
        load_classifier(tmp_path / "saved")


def test_damage_and_absence(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_classifier(tmp_path / "nowhere")
    folder = tmp_path / "saved"
    save_classifier(DenseRegionClassifier(GRID, 2, random_state=0), folder)
    weights = (folder / "weights.safetensors").read_bytes()
    (folder / "weights.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(ValueError, match="cannot be loaded"):
        load_classifier(folder)
    (folder / "weights.safetensors").unlink()
    with pytest.raises(FileNotFoundError):
        load_classifier(folder)
    (folder / "classifier.json").write_text("[1, 2]")
    with pytest.raises(ValueError, match="does not describe"):
        load_classifier(folder)
    with pytest.raises(TypeError, match="classifier must be one of"):
        save_classifier(nn.Linear(2, 2), folder)

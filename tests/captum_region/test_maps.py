"""The store of region maps: what is in it, exact means, going on after a kill, refusals."""

import json
import math

import numpy as np
import pytest
import torch
from filelock import FileLock

from captum_region import (
    DenseRegionClassifier,
    RegionAttribution,
    RegionGrid,
    RegionMaps,
    attribute_dataset,
    save_classifier,
)
from captum_region.checkpoint import classifier_digest, load_classifier
from captum_region.classifiers import RegionClassifier

GRID = RegionGrid(16, 8, 2)


def make_classifier(seed=0):
    classifier = DenseRegionClassifier(GRID, 2, width=4, random_state=seed).eval()
    torch.nn.init.normal_(classifier.head[-1].weight, generator=torch.Generator().manual_seed(seed))
    return classifier


@pytest.fixture
def attribution():
    return RegionAttribution(make_classifier())


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (50, 3, 16, 16), dtype=np.uint8)


def test_the_store_holds_the_maps(attribution, images, tmp_path):
    maps = attribute_dataset(attribution, images, tmp_path / "a" / "maps", batch_size=7)
    expected = attribution.region_map(images, batch_size=7)
    assert expected.std() > 0.01
    assert isinstance(maps.maps, np.memmap)
    assert maps.maps.dtype == np.float16
    assert not maps.maps.flags.writeable
    assert len(maps) == 50
    np.testing.assert_array_equal(maps.maps, expected.half().numpy())
    reopened = RegionMaps(tmp_path / "a" / "maps")
    assert reopened.grid == GRID
    assert reopened.class_names == ("0", "1")
    torch.testing.assert_close(reopened.pixels(3), GRID.to_pixels(expected[3].half().float()))
    torch.testing.assert_close(reopened.pixels([1, 4]), GRID.to_pixels(expected[[1, 4]].half().float()))
    assert reopened.pixels(slice(2)).shape == (2, 16, 16)
    assert "50 maps of 5 x 5 regions" in repr(reopened)


def test_means_are_exact(attribution, images, tmp_path):
    maps = attribute_dataset(attribution, images, tmp_path)
    labels = np.array(["b", "a", "c"])[np.random.default_rng(1).integers(0, 3, 50)]
    values = maps.maps.astype(float)

    def exact(chosen):
        return [[np.float32(math.fsum(column) / len(chosen)) for column in row] for row in chosen.transpose(1, 2, 0)]

    np.testing.assert_array_equal(maps.mean().numpy(), exact(values))
    by_label = maps.mean_by(labels)
    assert list(by_label) == ["a", "b", "c"]
    for label, mean in by_label.items():
        np.testing.assert_array_equal(mean.numpy(), exact(values[labels == label]))
    with pytest.raises(ValueError, match=r"labels must have shape \(50,\)"):
        maps.mean_by([0, 1])


def test_a_target_gives_its_evidence(attribution, images, tmp_path):
    maps = attribute_dataset(attribution, images, tmp_path, target=1)
    np.testing.assert_array_equal(maps.maps, attribution.region_map(images, 1).half().numpy())
    assert maps.maps.min() < 0


def test_arrays_tensors_and_memory_maps_are_the_same_images(attribution, images, tmp_path):
    np.save(tmp_path / "images.npy", images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    attribute_dataset(attribution, images, tmp_path / "maps")
    before = (tmp_path / "maps" / "maps.npy").stat().st_mtime_ns
    for same in (torch.from_numpy(images), mapped, images):
        attribute_dataset(attribution, same, tmp_path / "maps")  # else refused
    assert (tmp_path / "maps" / "maps.npy").stat().st_mtime_ns == before
    np.testing.assert_array_equal(mapped, images)  # what was let go of is read again


def test_other_classifiers_images_and_settings_are_refused_by_name(attribution, images, tmp_path):
    attribute_dataset(attribution, images, tmp_path)
    before = (tmp_path / "maps.npy").read_bytes()
    for changed, words in [
        ((RegionAttribution(make_classifier(1)), images, {}), "another classifier: classifier [0-9a-f]{32}, this is"),
        ((attribution, images[:-1], {}), "other images"),
        ((attribution, images ^ 1, {}), "other images"),
        ((RegionAttribution(attribution.forward_func, "margin"), images, {}), "confidence negative_entropy.* margin"),
        ((RegionAttribution(attribution.forward_func, lambda logits: logits[:, 0]), images, {}), "another confidence"),
        ((attribution, images, {"target": 0}), "another target: target None, this is 0"),
    ]:
        with pytest.raises(ValueError, match=words):
            attribute_dataset(*changed[:2], tmp_path, **changed[2])
    assert (tmp_path / "maps.npy").read_bytes() == before


def test_bad_input_is_named(attribution, images, tmp_path):
    with pytest.raises(TypeError, match="RegionClassifier"):
        attribute_dataset(RegionAttribution(lambda patches, region: patches, grid=GRID), images, tmp_path / "x")
    with pytest.raises(ValueError, match="target"):
        attribute_dataset(attribution, images, tmp_path / "x", target=2)
    with pytest.raises(ValueError, match="16 x 16"):
        attribute_dataset(attribution, images[:, :, :8], tmp_path / "x")
    assert not (tmp_path / "x").exists()
    with pytest.raises(FileNotFoundError):
        RegionMaps(tmp_path)
    np.save(tmp_path / "maps.npy", images)
    with pytest.raises(ValueError, match="not written by attribute_dataset"):
        attribute_dataset(attribution, images, tmp_path)
    with torch.no_grad():
        attribution.forward_func.head[-1].bias[:] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        attribute_dataset(attribution, images, tmp_path / "nan")


@pytest.mark.parametrize("text", ["{}", "[]", "{", '{"format": 99}', '{"format": 1, "done": "all"}'])
def test_damaged_descriptions_are_refused(text, tmp_path):
    (tmp_path / "maps.json").write_text(text)
    with pytest.raises(ValueError, match=r"maps\.json does not describe region maps"):
        RegionMaps(tmp_path)


def test_a_second_writer_is_refused(attribution, images, tmp_path):
    with FileLock(tmp_path / ".lock"), pytest.raises(BlockingIOError, match="another process"):
        attribute_dataset(attribution, images, tmp_path)


def test_interrupted_by_an_error_it_goes_on(attribution, images, tmp_path, monkeypatch):
    monkeypatch.setattr("captum_region.maps._IMAGES_A_SAVE", 10)
    whole = attribute_dataset(attribution, images, tmp_path / "whole", batch_size=5)
    seen = []

    class Failing(RegionAttribution):
        def region_map(self, batch, *arguments, **options):
            seen.append(len(batch))
            if len(seen) == 8:
                raise KeyboardInterrupt
            return super().region_map(batch, *arguments, **options)

    with pytest.raises(KeyboardInterrupt):
        attribute_dataset(Failing(attribution.forward_func), images, tmp_path / "cut", batch_size=5)
    assert json.loads((tmp_path / "cut" / "maps.json").read_text())["done"] == 35
    with pytest.raises(ValueError, match="35 of 50 maps"):
        RegionMaps(tmp_path / "cut")
    maps = attribute_dataset(attribution, images, tmp_path / "cut", batch_size=5)
    np.testing.assert_array_equal(maps.maps, whole.maps)


STORE = """
import numpy as np
import captum_region.maps
from captum_region import RegionAttribution, attribute_dataset, load_classifier

captum_region.maps._IMAGES_A_SAVE = 8

def work(out):
    images = np.load(folder + "/images.npy", mmap_mode="r")
    attribute_dataset(RegionAttribution(load_classifier(folder + "/classifier")), images, out, batch_size=4)
"""


@pytest.mark.slow
def test_killed_at_twenty_random_moments_it_leaves_the_same_bytes(tmp_path, kill_and_resume, listed):
    np.save(tmp_path / "images.npy", np.random.default_rng(0).integers(0, 256, (1600, 3, 16, 16), dtype=np.uint8))
    save_classifier(make_classifier(), tmp_path / "classifier")
    whole, cut = kill_and_resume(STORE, tmp_path)
    for folder in cut:
        assert listed(folder) == {"maps.npy", "maps.json"}
        assert not list(folder.glob(".partial-*"))
        for name in ("maps.npy", "maps.json"):
            assert (folder / name).read_bytes() == (whole / name).read_bytes()


def test_the_digest_tells_weights_grids_and_kinds_apart(tmp_path):
    classifier = make_classifier()
    save_classifier(classifier, tmp_path / "classifier")
    assert classifier_digest(load_classifier(tmp_path / "classifier")) == classifier_digest(classifier)
    renamed = make_classifier()
    renamed.class_names = ["no", "yes"]
    assert classifier_digest(renamed) == classifier_digest(classifier)
    hotter = make_classifier()
    hotter.temperature.fill_(2)
    others = [hotter, make_classifier(1), DenseRegionClassifier(RegionGrid(18, 8, 2), 2, width=4, random_state=0)]

    class Own(RegionClassifier):
        def forward(self, patches, region):
            return self.normalize(patches).mean((2, 3))[:, :2]

    digests = {classifier_digest(each) for each in (classifier, *others, Own(GRID, 2))}
    assert len(digests) == 5

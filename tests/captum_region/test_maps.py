"""The store of region maps: what is in it, exact means, resuming after a kill, refusals."""

import io
import json
import math
import tracemalloc

import numpy as np
import pandas as pd
import pytest
import torch
from filelock import FileLock
from matplotlib.figure import Figure
from torch import nn

from captum_region import (
    DenseRegionClassifier,
    MultiScaleRegionAttribution,
    PatchRegionClassifier,
    RegionAttribution,
    RegionGrid,
    RegionMapDisplay,
    RegionMaps,
    attribute_dataset,
    save_classifier,
)
from captum_region.classifiers import RegionClassifier
from captum_region.datasets import AttributeImages
from captum_region.io.checkpoint import classifier_digest, load_classifier

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


def test_pixel_maps_are_those_of_the_attribution(attribution, images, tmp_path):
    sharp = RegionAttribution(attribution.forward_func, sigma=0.2)
    maps = attribute_dataset(sharp, images, tmp_path)
    expected = sharp.pixel_map(images[:3])
    assert (expected - attribution.pixel_map(images[:3])).abs().max() > 0.01
    torch.testing.assert_close(maps.pixels(slice(3)), expected, atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(RegionMaps(tmp_path, sigma=0.2).pixels(slice(3)), expected, atol=1e-5, rtol=1e-3)
    shown = RegionMapDisplay.from_maps(maps, ax=Figure().subplots()).pixel_map
    torch.testing.assert_close(shown, sharp.mean_pixels(images), atol=1e-5, rtol=1e-3)


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
    maps = attribute_dataset(attribution, images, tmp_path, target=0)
    np.testing.assert_array_equal(maps.maps, attribution.region_map(images, 0).half().numpy())
    assert maps.maps.min() < 0
    same = attribute_dataset(attribution, images, tmp_path, target=np.int64(0))
    assert same.description == maps.description


def test_arrays_tensors_and_memory_maps_count_as_the_same_images(attribution, images, tmp_path, written):
    np.save(tmp_path / "images.npy", images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    attribute_dataset(attribution, images, tmp_path / "maps")
    before = written(tmp_path / "maps" / "maps.npy")
    for same in (torch.from_numpy(images), mapped, images):
        attribute_dataset(attribution, same, tmp_path / "maps")  # else refused
    assert written(tmp_path / "maps" / "maps.npy") == before
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


def test_invalid_arguments_are_named_in_the_error(attribution, images, tmp_path):
    with pytest.raises(TypeError, match="RegionClassifier"):
        attribute_dataset(RegionAttribution(lambda patches, region: patches, grid=GRID), images, tmp_path / "x")
    for other in (attribution.forward_func, MultiScaleRegionAttribution([attribution.forward_func])):
        with pytest.raises(TypeError, match=f"must be a RegionAttribution, got {type(other).__name__}"):
            attribute_dataset(other, images, tmp_path / "x")
    for target in (2, True, [1]):
        with pytest.raises(ValueError, match="target must be None or one of the classes 0 to 1"):
            attribute_dataset(attribution, images, tmp_path / "x", target=target)
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


def test_a_classifier_that_its_images_would_change_is_refused(attribution, images, tmp_path):
    attribution.forward_func.train()
    with pytest.raises(ValueError, match="classifier must be in eval mode"):
        attribute_dataset(attribution, images, tmp_path / "x")  # a second call would find another classifier
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{}", "must hold a JSON object that says its format version"),
        ("[]", "must hold a JSON object that says its format version"),
        ("{", "is damaged"),
        ("[" * 10**5, "is damaged"),
        ('{"format": 99}', "is of format version 99, this package reads version 1"),
        ('{"format": 1, "done": "all"}', "does not describe region maps"),
    ],
)
def test_damaged_descriptions_are_refused(text, words, tmp_path):
    (tmp_path / "maps.json").write_text(text)
    with pytest.raises(ValueError, match=rf"maps\.json {words}"):
        RegionMaps(tmp_path)


GRID_OF_STORE = {"image_size": [16, 16], "patch_size": 8, "stride": 2}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("images", value) for value in (None, True, "50", 50.0, -1, [50])),
        *(("done", value) for value in (None, True, "50", math.nan, 51, -1)),
        *(("class_names", value) for value in (None, "ab", {"a": 1}, [1, 2])),
        *(("grid", value) for value in (None, [], {}, "x", [16, 8, 2])),
        *(("grid", GRID_OF_STORE | {"image_size": value}) for value in (16, "16", [16], [math.nan, 1], [[1], [1]])),
        *(("grid", GRID_OF_STORE | {"stride": value}) for value in (0, None, 2.0, "2", True)),
    ],
)
def test_descriptions_of_wrong_types_are_refused(key, value, attribution, images, tmp_path):
    attribute_dataset(attribution, images, tmp_path)
    path = tmp_path / "maps.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    for read in (RegionMaps, lambda folder: attribute_dataset(attribution, images, folder)):
        with pytest.raises(ValueError, match=r"maps\.json does not describe region maps"):
            read(tmp_path)


def header(shape, descr="<f2"):
    np.lib.format.write_array_header_1_0(file := io.BytesIO(), {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue()


def test_maps_that_contradict_their_description_are_refused(attribution, images, tmp_path):
    attribute_dataset(attribution, images, tmp_path)
    whole = (tmp_path / "maps.npy").read_bytes()
    np.savez(archive := io.BytesIO(), maps=np.zeros(3))
    np.save(objects := io.BytesIO(), np.array([{}], dtype=object))
    for spoiled, words in [
        (b"", "is damaged"),
        (whole[:-1], "is damaged"),
        (archive.getvalue(), "is damaged"),
        (objects.getvalue(), "is damaged"),
        (header((10**12, 5, 5)), "is damaged"),
        (header((50, 5, 5), "<f8") + bytes(10**4), "is damaged: it must hold float16 of .* it holds float64"),
        (header((49, 5, 5)) + whole[128:], r"is damaged: .* shape \(50, 5, 5\), .* shape \(49, 5, 5\)"),
        *((whole.replace(b"}", damage, 1), "is damaged") for damage in (b"'", b"\\", b"(", b"\x00", b"\xff")),
        (whole.replace(b"<f2", b"<f9"), "is damaged"),
        (whole.replace(b"(50,", b"(5" + b"0" * 30 + b","), "is damaged"),
        (whole.replace(b"50", b"5L"), "is damaged"),
    ]:
        (tmp_path / "maps.npy").write_bytes(spoiled)
        with pytest.raises(ValueError, match=rf"maps\.npy {words}"):
            RegionMaps(tmp_path)
        if spoiled != whole[:-1]:
            with pytest.raises(ValueError, match=r"maps\.npy"):  # nor is it resumed
                attribute_dataset(attribution, images, tmp_path)


@pytest.mark.parametrize("left", [None, 128, 128 + 7 * 50 + 1, 128 + 49 * 50])
def test_maps_that_are_lost_are_computed_again(left, attribution, images, tmp_path):
    path = tmp_path / "maps.npy"
    attribute_dataset(attribution, images, tmp_path, batch_size=5)
    whole = path.read_bytes()
    path.unlink() if left is None else path.write_bytes(whole[:left])
    with pytest.raises((ValueError, FileNotFoundError), match=r"maps\.npy"):
        RegionMaps(tmp_path)

    class Stopped(RegionAttribution):
        def region_map(self, *arguments, **options):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):  # what is done is lowered before anything is computed
        attribute_dataset(Stopped(attribution.forward_func), images, tmp_path, batch_size=5)
    assert json.loads((tmp_path / "maps.json").read_text())["done"] == {None: 0, 128: 0, 479: 5, 2578: 45}[left]
    attribute_dataset(attribution, images, tmp_path, batch_size=5)
    assert path.read_bytes() == whole


def test_an_enormous_count_takes_no_memory(attribution, images, tmp_path):
    attribute_dataset(attribution, images, tmp_path)
    path = tmp_path / "maps.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"images": 10**15, "done": 10**15}))
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"maps\.npy is damaged: it must hold float16 of shape \(1000000000000000,"):
        RegionMaps(tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 10**6
    tracemalloc.stop()


def test_images_that_a_reader_skipped_are_listed(attribution, images, tmp_path):
    skipped = pd.DataFrame({"image": ["<b>.png"], "reason": ["the file is empty"]})
    faces = AttributeImages(images, pd.DataFrame(index=range(50)), skipped=skipped)
    maps = attribute_dataset(attribution, faces, tmp_path)
    assert maps.description["skipped"] == [{"image": "<b>.png", "reason": "the file is empty"}]


def test_a_second_writer_is_refused(attribution, images, tmp_path):
    with FileLock(tmp_path / ".lock"), pytest.raises(BlockingIOError, match="another process"):
        attribute_dataset(attribution, images, tmp_path)


def test_an_interrupted_store_resumes(attribution, images, tmp_path, monkeypatch):
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
def test_a_store_killed_at_random_moments_has_the_same_bytes(tmp_path, kill_and_resume, listed):
    np.save(tmp_path / "images.npy", np.random.default_rng(0).integers(0, 256, (400, 3, 16, 16), dtype=np.uint8))
    save_classifier(make_classifier(), tmp_path / "classifier")
    whole, cut = kill_and_resume(STORE, tmp_path)
    for folder in cut:
        assert listed(folder) == {"maps.npy", "maps.json"}
        for name in ("maps.npy", "maps.json"):
            assert (folder / name).read_bytes() == (whole / name).read_bytes()


def test_check_finds_a_changed_map(attribution, images, tmp_path):
    maps = attribute_dataset(attribution, images, tmp_path)
    maps.check(attribution, images)
    maps.check(attribution, images, batch_size=7)
    with pytest.raises(ValueError, match="holds maps of another classifier"):
        maps.check(RegionAttribution(make_classifier(1)), images)
    with pytest.raises(ValueError, match="holds maps of other images"):
        maps.check(attribution, images[::-1].copy())
    stored = np.load(tmp_path / "maps.npy", mmap_mode="r+")
    stored[49, 2, 2] += 0.1
    stored.flush()
    with pytest.raises(ValueError, match=r"another map of image 49: it differs by 0\.1"):
        RegionMaps(tmp_path).check(attribution, images)
    empty = attribute_dataset(attribution, images[:0], tmp_path / "empty")
    empty.check(attribution, images[:0])
    with pytest.raises(ValueError, match="must hold at least one map for a mean"):
        empty.mean()
    with pytest.raises(ValueError, match="batch_size must be an integer of at least 1, got 0"):
        maps.check(attribution, images, batch_size=0)


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
    warmer = Own(GRID, 2)
    warmer.offset = 0.1  # what its forward may use
    assert classifier_digest(warmer) not in digests


def test_the_digest_tells_backbones_without_weights_of_their_settings_apart(tmp_path):
    def made(slope):
        layers = [nn.Conv2d(4, 4, 3), nn.LeakyReLU(slope), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)]
        return PatchRegionClassifier(GRID, 2, nn.Sequential(*layers), random_state=0).eval()

    one, other = made(0.01), made(5.0)
    other.load_state_dict(one.state_dict())
    assert classifier_digest(one) != classifier_digest(other)
    save_classifier(one, tmp_path)
    assert classifier_digest(load_classifier(tmp_path, backbone=made(0.01).backbone)) == classifier_digest(one)
    assert classifier_digest(one.train()) == classifier_digest(one.eval())


def test_maps_of_a_confidence_or_a_kind_whose_code_has_changed_are_not_continued(images, tmp_path):
    def confidence(by):
        names = {"__name__": "own"}
        exec(f"def spread(logits):\n    return logits.std(1).clamp(0, 1) * {by}", names)
        return names["spread"]

    class Own(RegionClassifier):
        def forward(self, patches, region):
            return self.normalize(patches).mean((2, 3))[:, :2]

    class Other(Own):
        __qualname__ = Own.__qualname__

        def forward(self, patches, region):
            return -super().forward(patches, region)

    Other.__name__ = "Own"
    classifier = make_classifier()
    for _ in range(2):
        attribute_dataset(RegionAttribution(classifier, confidence(0.5)), images[:3], tmp_path / "confidence")
        attribute_dataset(RegionAttribution(Own(GRID, 2).eval()), images[:3], tmp_path / "kind")
    with pytest.raises(ValueError, match="maps of another confidence"):
        attribute_dataset(RegionAttribution(classifier, confidence(0.4)), images[:3], tmp_path / "confidence")
    with pytest.raises(ValueError, match="maps of another classifier"):
        attribute_dataset(RegionAttribution(Other(GRID, 2).eval()), images[:3], tmp_path / "kind")

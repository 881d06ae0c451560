"""Checkpoints: round trips, and what is refused."""

import io
import json
import math
import pickle
import sys

import pytest
import torch
from safetensors.torch import save
from torch import nn

from captum_region import DenseRegionClassifier, PatchRegionClassifier, RegionGrid, load_classifier, save_classifier
from captum_region.io.checkpoint import classifier_digest

GRID = RegionGrid((16, 20), 8, 4)
NAN = math.nan


def change(folder, changes):
    """Change what a checkpoint says of itself."""
    path = folder / "classifier.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    "classifier",
    [
        DenseRegionClassifier(GRID, 3, width=5, class_names=["a", "<b>", "ü"], random_state=1),
        PatchRegionClassifier(GRID, 2, random_state=1),
        DenseRegionClassifier(GRID, 2, in_channels=1, random_state=1),
        DenseRegionClassifier(GRID, 2, position_embedding=False, random_state=1),
    ],
    ids=["dense", "patch", "grey", "anywhere"],
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


def test_loading_a_users_backbone_needs_that_backbone(tmp_path):
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
        *(("format", value, "version .*, this package reads version 2") for value in (1, 3, None, "2", True, 2.0, [2])),
        *(("kind", value, "does not describe") for value in ("os.system", None, 1, ["a"], {"a": 1}, "../x")),
        *(("patch_size", value, "does not describe") for value in ("8", 8.0, True, None, [8], -1, 10**9, 10**400)),
        *(("image_size", value, "does not describe") for value in ([16], 16, "16", [16.0, 20], [[16], [20]], [NAN, 1])),
        *(("image_size", [size, size], "cannot be loaded: .*embedding") for size in (24, 10**5, 10**8)),
        *(("stride", value, "does not describe") for value in (0, True, None)),
        *(("stride", value, "cannot be loaded: embedding") for value in (2, 10**9)),
        *(("in_channels", value, "does not describe") for value in ("3", 3.7, True, None, [3], NAN, 0, -1)),
        *(("in_channels", value, "cannot be loaded: mean must have shape") for value in (4, 10**9)),
        *(
            ("class_names", value, "does not describe")
            for value in ("ab", None, {"a": 1, "b": 2}, [1, 2], [["a"], "b"])
        ),
        *(("class_names", value, "cannot be loaded") for value in (["a"], ["a", "b", "c"])),
        ("class_names", ["x"] * 10**6, "must have at most 1,048,576 bytes"),
        *(("config", value, "does not describe") for value in (None, [], [["width", 4]])),
        *(("config", {"width": value}, "cannot be loaded") for value in (10, 10**6, -1, True, 4.0, "4", [4], NAN)),
        *(("config", {"width": 32, name: 1}, "cannot be loaded") for name in ("command", "grid", "random_state")),
    ],
)
def test_false_descriptions_are_refused(key, value, words, tmp_path):
    save_classifier(DenseRegionClassifier(GRID, 2, random_state=0), tmp_path / "saved")
    change(tmp_path / "saved", {key: value})
    with pytest.raises(ValueError, match=words):
        load_classifier(tmp_path / "saved")


@pytest.mark.parametrize("text", ["", "{", "[" * 10**5, "\xff", '{"format": 2}'])
def test_files_that_are_not_descriptions_are_refused(text, tmp_path):
    save_classifier(DenseRegionClassifier(GRID, 2, random_state=0), tmp_path)
    (tmp_path / "classifier.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"classifier\.json (is damaged|does not describe)"):
        load_classifier(tmp_path)


@pytest.mark.parametrize(
    "backbone", ["os.system", "/etc/passwd", "../x", ["resnet18"], "fasterrcnn_resnet50_fpn", "quantized_resnet18"]
)
def test_a_backbone_is_one_of_the_classifiers_by_name(backbone, tmp_path):
    save_classifier(PatchRegionClassifier(GRID, 2, random_state=0), tmp_path)
    change(tmp_path, {"config": {"backbone": backbone}})
    with pytest.raises(ValueError, match="backbone must be a module or a torchvision model's name"):
        load_classifier(tmp_path)


def test_a_backbone_that_cannot_be_built_without_memory_is_loaded(tmp_path):
    grid = RegionGrid(32, 32, 1)
    classifier = PatchRegionClassifier(grid, 2, "regnet_y_400mf", random_state=0).eval()
    save_classifier(classifier, tmp_path)
    images = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(load_classifier(tmp_path).forward_grid(images), classifier.forward_grid(images))
    for lie in ({"in_channels": 10**9}, {"image_size": [10**6, 10**6]}):
        change(tmp_path, lie)
        with pytest.raises(ValueError, match=r"cannot be loaded: .* must have shape"):
            load_classifier(tmp_path)


# May take half a gigabyte more than it has once all is imported.
LIMITED = """
import json, pathlib, resource, sys, time
from captum_region import load_classifier
import torchvision.models

cases = json.loads(sys.argv[1])
held = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + 2**29, held + 2**29))
for folder, lies in cases.items():
    file = pathlib.Path(folder, "classifier.json")
    description = json.loads(file.read_text())
    for lie in lies:
        file.write_text(json.dumps(description | lie))
        start = time.process_time()  # of this process: others may keep it waiting
        try:
            load_classifier(folder)
        except ValueError as error:
            assert "allocate" not in str(error), error
            assert time.process_time() - start < 10
        else:
            raise AssertionError(lie)
    file.write_text(json.dumps(description))
    load_classifier(folder)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_an_enormous_description_takes_no_memory(tmp_path, forked):
    lies = [{"in_channels": size} for size in (10**9, 10**12)]
    lies += [{"image_size": [size, size]} for size in (10**5, 10**9)]
    lies += [{"image_size": [10**9, 10**9], "patch_size": 10**9}, {"image_size": [10**5, 10**5], "stride": 1}]
    lies += [{"class_names": ["x"] * count} for count in (10**5, 10**6)]
    cases = {}
    for kind, config in ((DenseRegionClassifier, {"width": 10**6}), (PatchRegionClassifier, {"backbone": "vgg19"})):
        save_classifier(kind(GRID, 2, random_state=0), tmp_path / kind.__name__)
        cases[str(tmp_path / kind.__name__)] = [*lies, {"config": config}]
    (script := tmp_path / "limited.py").write_text(LIMITED)
    with forked(script, json.dumps(cases)) as process:
        _, stderr = process.communicate()
    assert process.returncode == 0, stderr


def spoiled_weights(state, trap):
    """Yield the bytes of weights that are none, or not those of the description, and what is said of them."""
    header = json.dumps({"mean": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}}).encode()
    enormous = json.dumps({"mean": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}).encode()
    yield pickle.dumps(trap), "deserializing header"
    torch.save({"mean": trap}, buffer := io.BytesIO())
    yield buffer.getvalue(), "deserializing header"
    yield (2**62).to_bytes(8, "little") + header, "deserializing header"
    yield len(enormous).to_bytes(8, "little") + enormous, "deserializing header"
    yield len(header).to_bytes(8, "little") + header + bytes(11), "deserializing header"
    yield b"", "deserializing header"
    yield save(state)[:-1], "deserializing header"
    yield save({name: value for name, value in state.items() if name != "head.2.bias"}), "does not hold head.2.bias"
    yield save(state | {"more": torch.ones(1)}), "more"
    for changed, words in (
        (torch.ones(4), r"mean must have shape \(3,\), got \(4,\)"),
        (torch.ones(3, dtype=torch.int64), "mean must be like torch.float32, got I64"),
        (torch.tensor([0.5, math.nan, 0.5]), "mean holds values that are not finite"),
        (torch.tensor([0.5, math.inf, 0.5]), "mean holds values that are not finite"),
    ):
        yield save(state | {"mean": changed}), words


def test_false_weights_are_refused_and_never_executed(tmp_path, trap):
    classifier = DenseRegionClassifier(GRID, 2, width=4, random_state=0)
    save_classifier(classifier, tmp_path)
    for content, words in spoiled_weights(classifier.state_dict(), trap):
        (tmp_path / "weights.safetensors").write_bytes(content)
        with pytest.raises(ValueError, match=f"(?s)cannot be loaded: .*{words}"):
            load_classifier(tmp_path)


def test_half_precision_and_links_are_read(tmp_path):
    classifier = DenseRegionClassifier(GRID, 2, width=4, random_state=0).half()
    save_classifier(classifier, tmp_path / "saved")
    (tmp_path / "link").symlink_to(tmp_path / "saved")
    loaded = load_classifier(tmp_path / "saved" / ".." / "link")
    torch.testing.assert_close(loaded.state_dict(), classifier.float().state_dict())


def test_where_a_link_leads_is_replaced_and_the_current_folder_is_not(tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(tmp_path / "saved")
    (tmp_path / "saved").mkdir()
    for seed in (0, 1):
        classifier = DenseRegionClassifier(GRID, 2, width=4, random_state=seed).eval()
        save_classifier(classifier, tmp_path / "link")
        for folder in ("link", "saved"):
            assert classifier_digest(load_classifier(tmp_path / folder)) == classifier_digest(classifier)
    assert (tmp_path / "link").is_symlink()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(ValueError, match="folder must not be the current one"):
        save_classifier(classifier, ".")
    assert not any((tmp_path / "here").iterdir())


def test_damaged_and_missing_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_classifier(tmp_path / "nowhere")
    folder = tmp_path / "saved"
    save_classifier(DenseRegionClassifier(GRID, 2, random_state=0), folder)
    weights = (folder / "weights.safetensors").read_bytes()
    (folder / "weights.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(ValueError, match="cannot be loaded"):
        load_classifier(folder)
    (folder / "weights.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="weights"):
        load_classifier(folder)
    (folder / "classifier.json").write_text("[1, 2]")
    with pytest.raises(ValueError, match="must hold a JSON object"):
        load_classifier(folder)
    with pytest.raises(TypeError, match="classifier must be one of"):
        save_classifier(nn.Linear(2, 2), folder)


def test_a_full_disk_is_reported_and_the_old_checkpoint_stays_whole(tmp_path, forked):
    (script := tmp_path / "full.py").write_text("""
import resource, sys
from captum_region import DenseRegionClassifier, RegionGrid, save_classifier

first, second = (DenseRegionClassifier(RegionGrid(16, 8, 4), 2, width=4, random_state=seed) for seed in (0, 1))
save_classifier(first, sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
try:
    save_classifier(second, sys.argv[1])
except OSError as error:
    print(error)
""")
    folder = tmp_path / "classifier"
    with forked(script, folder) as process:
        stdout, stderr = process.communicate()
    assert stdout.startswith(f"{folder} cannot be written: "), stderr
    whole = DenseRegionClassifier(RegionGrid(16, 8, 4), 2, width=4, random_state=0)
    assert classifier_digest(load_classifier(folder)) == classifier_digest(whole)
    assert {path.name for path in tmp_path.iterdir()} == {"classifier", "full.py"}


def test_files_have_the_permissions_of_the_umask(tmp_path, forked):
    (script := tmp_path / "write.py").write_text("""
import os, sys
from captum_region import DenseRegionClassifier, RegionGrid, save_classifier
from captum_region.io.snapshot import Snapshots

for umask in sys.argv[2:]:
    os.umask(int(umask, 8))
    out = os.path.join(sys.argv[1], umask)
    save_classifier(DenseRegionClassifier(RegionGrid(8, 4, 4), 2, width=4), out + "/classifier")
    Snapshots(out + "/states", 0, lambda: "key").save(lambda: "state")
""")
    modes = {"022": 0o644, "007": 0o660}
    with forked(script, tmp_path, *modes) as process:
        _, stderr = process.communicate()
    assert process.returncode == 0, stderr
    for umask, mode in modes.items():
        files = [path for path in (tmp_path / umask).rglob("*") if path.is_file()]
        assert len(files) == 3
        assert {path.stat().st_mode & 0o777 for path in files} == {mode}

"""Several processes on the CPU train and map as one process does; one that dies ends the run."""

import json
import os
import re
import runpy
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from PIL import Image
from typer.testing import CliRunner

from captum_region import DenseRegionClassifier, RegionAttribution, RegionGrid, attribute_dataset, save_classifier
from captum_region import fit_region_classifier as fit
from captum_region.cli import app
from captum_region.datasets import make_faces
from captum_region.precision import choose_precision

GRID = RegionGrid(16, 8, 4)

WORK = """
import contextlib, sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

import captum_region.maps
import captum_region.training
from captum_region import *
from captum_region.randomness import seeded

GRID = RegionGrid(16, 8, 4)
rng = np.random.default_rng(0)
IMAGES, LABELS = rng.integers(0, 256, (61, 3, 16, 16), np.uint8), rng.integers(0, 2, 61)
with seeded(0):
    NETWORK = nn.Sequential(
        nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6, momentum=None), nn.ReLU(), nn.Flatten(),
        nn.Linear(216, 5, bias=False), nn.BatchNorm1d(5, affine=False), nn.Linear(5, 2),
    )


def train(out, accelerator, rank):
    for name, kind, options in [
        ("dense", DenseRegionClassifier, {"width": 8}),
        ("dense again", DenseRegionClassifier, {"width": 8}),  # it is complete, and read
        ("patch", PatchRegionClassifier, {"backbone": NETWORK}),
        ("until it improves no more", DenseRegionClassifier, {"width": 8}),
    ]:
        # The initial weights of the main process count. In float64, as AdamW makes much of float32's rounding.
        classifier = kind(GRID, 2, random_state=rank, **options).double()
        if "until" in name:
            classifier.recipe = replace(classifier.recipe, early=replace(classifier.recipe.early, min_steps=60))
        training = fit_region_classifier(
            classifier, IMAGES[:41], LABELS[:41], validation=(IMAGES[41:], LABELS[41:]), sample_weight=None,
            epochs=None if "until" in name else 3, batch_size=8, positions_per_image=3, random_state=0,
            accelerator=accelerator, show_progress=True,
            checkpoint_dir=out / "memory" if kind is DenseRegionClassifier else None,
        )  # the last of its batches has one image
        training.history.to_csv(out / f"{name} {rank}.csv", index=False)
        np.save(out / f"{name} {rank}.npy", training.region_accuracy)
        np.savez(out / f"{name} {rank}.npz", **classifier.state_dict())


class Stopped(RegionAttribution):
    left = 4

    def region_map(self, *arguments, **options):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt
        return super().region_map(*arguments, **options)


def attribute(out, accelerator, stop=False):
    classifier = DenseRegionClassifier(GRID, 2, width=8, random_state=0).eval()
    nn.init.normal_(classifier.head[-1].weight, generator=torch.Generator().manual_seed(0))
    with contextlib.suppress(KeyboardInterrupt):
        attribution = (Stopped if stop else RegionAttribution)(classifier)
        attribute_dataset(attribution, IMAGES, out, batch_size=4, accelerator=accelerator)
    return classifier


if __name__ == "__main__":
    from accelerate import Accelerator

    captum_region.maps._IMAGES_A_SAVE = 8
    captum_region.training._STEPS, captum_region.training._LEAST, captum_region.training._SOMETHING = 4, 12, -1
    out, accelerator = Path(sys.argv[1]), Accelerator(cpu=True)
    rank = accelerator.process_index
    train(out, accelerator, rank)
    attribute(out / "begun by one", accelerator)
    classifier = attribute(out / "begun by two", accelerator, stop=True)
    options = {"mixed_precision": "auto", "accelerator": accelerator}
    attribute_dataset(RegionAttribution(classifier), IMAGES, out / "auto", **options)
    attribution = RegionAttribution(classifier, "margin")
    try:
        attribute_dataset(attribution, IMAGES, out / "begun by one", accelerator=accelerator)
    except ValueError as error:
        (out / f"refused {rank}").write_text(str(error))
    accelerator.wait_for_everyone()
    accelerator.end_training()
"""


@pytest.mark.slow
def test_two_processes_train_and_map_as_one(tmp_path, in_two, monkeypatch):
    script, one, two = tmp_path / "work.py", tmp_path / "one", tmp_path / "two"
    script.write_text(WORK)
    one.mkdir()
    two.mkdir()
    work = runpy.run_path(str(script))
    monkeypatch.setattr("captum_region.training._STEPS", 4)
    monkeypatch.setattr("captum_region.training._LEAST", 12)
    monkeypatch.setattr("captum_region.training._SOMETHING", -1)
    work["train"](one, None, 0)
    work["attribute"](one / "maps", None)
    work["attribute"](two / "begun by one", None, stop=True)
    (_, shown), (_, of_other) = in_two(script, two)
    assert len(re.findall("region classifier: +0%", shown)) == 4
    assert "%" not in of_other  # one process shows its progress

    for name in ("dense", "dense again", "patch", "until it improves no more"):
        alone = np.load(one / f"{name} 0.npz")
        for rank in (0, 1):
            history = pd.read_csv(two / f"{name} {rank}.csv")
            pd.testing.assert_frame_equal(history, pd.read_csv(one / f"{name} 0.csv"), rtol=1e-9)
            np.testing.assert_array_equal(np.load(two / f"{name} {rank}.npy"), np.load(one / f"{name} 0.npy"))
            shared = np.load(two / f"{name} {rank}.npz")
            assert list(shared) == list(alone)
            for key in alone:
                np.testing.assert_allclose(shared[key], alone[key], rtol=1e-6, atol=1e-9)

    whole = (one / "maps" / "maps.npy").read_bytes()
    assert (two / "begun by one" / "maps.npy").read_bytes() == whole
    assert json.loads((two / "begun by two" / "maps.json").read_text())["done"] == 20  # a round of 16, then a batch
    work["attribute"](two / "begun by two", None)
    assert (two / "begun by two" / "maps.npy").read_bytes() == whole
    auto = json.loads((two / "auto" / "maps.json").read_text())
    chosen = choose_precision(RegionAttribution(work["attribute"](one / "maps", None)), work["IMAGES"])
    assert (auto["mixed_precision"], auto["mixed_precision_reason"], auto["done"]) == (*chosen, 61)
    for rank in (0, 1):
        assert "maps of another confidence" in (two / f"refused {rank}").read_text()


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    faces = make_faces(300, 20, random_state=0)
    for number, image in enumerate(faces.images):
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{number}.png")
    table = {"image": [f"{number}.png" for number in range(300)], "hat": faces.attributes["Wearing_Hat"].astype(int)}
    pd.DataFrame(table).to_csv(folder / "own.csv", index=False)
    return ["--data", "table", "--root", folder / "own.csv", "--cache", folder / "cache"]


def worker(launcher, rank):
    """Return the process that a launcher has started as `rank`."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_bytes().rpartition(b")")[2].split()[1])
            if parent == launcher.pid and f"RANK={rank}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                return int(folder.name)
        except OSError:  # it has ended
            continue
    raise AssertionError(f"no rank {rank} among the children of {launcher.pid}")


@pytest.mark.slow
def test_the_command_train_in_two_processes(source, tmp_path, in_two, listed):
    options = [*map(str, source), "--attribute", "hat", "--size", "20", "--epochs", "3", "--json", "--out"]
    (stdout, _), (of_other, _) = in_two("-m", "captum_region", "train", *options, tmp_path / "two")
    assert stdout == (tmp_path / "two" / "training.json").read_text()
    assert of_other == ""  # printed once
    assert CliRunner().invoke(app, ["train", *options, str(tmp_path / "one")]).exit_code == 0
    assert listed(tmp_path / "one") == listed(tmp_path / "two")
    history, alone = (pd.read_csv(tmp_path / name / "history.csv") for name in ("two", "one"))
    np.testing.assert_allclose(history["loss"], alone["loss"], rtol=1e-4)


@pytest.mark.slow
def test_a_process_that_dies_ends_the_command(source, tmp_path, launched, wait_until):
    save_classifier(DenseRegionClassifier(RegionGrid(20, 5, 1), 2, random_state=0).eval(), tmp_path / "classifier")
    options = [*map(str, [tmp_path / "classifier", *source]), "--batch-size", "1", "--quiet", "--out"]
    store = tmp_path / "maps" / "maps.npy"
    with launched("-m", "captum_region", "attribute", *options, tmp_path / "maps") as process:
        wait_until(lambda: store.exists() and store.stat().st_size > 1000, process)
        os.kill(worker(process, 1), signal.SIGKILL)
        _, stderr = process.communicate(timeout=500)
    assert process.returncode != 0
    assert "Signal 9 (SIGKILL)" in stderr
    assert json.loads((tmp_path / "maps" / "maps.json").read_text())["done"] < 300
    for folder in ("maps", "whole"):
        assert CliRunner().invoke(app, ["attribute", *options, str(tmp_path / folder), "--force"]).exit_code == 0
    assert store.read_bytes() == (tmp_path / "whole" / "maps.npy").read_bytes()


@pytest.fixture
def accelerator(request):
    """An accelerator of this process alone; accelerate would keep its settings for the next one."""
    yield Accelerator(cpu=True, mixed_precision=getattr(request, "param", "no"))
    AcceleratorState._reset_state(reset_partial_state=True)


def train(**options):
    labels = np.arange(40) % 2
    images = np.random.default_rng(0).integers(0, 128, (40, 3, 16, 16), np.uint8)
    images[labels == 1] += 64
    classifier = DenseRegionClassifier(GRID, 2, width=8, random_state=0)
    history = fit(classifier, images, labels, epochs=10, batch_size=8, random_state=0, **options).history
    return classifier, images, history


@pytest.mark.parametrize("by", ["parameter", "accelerator"])
@pytest.mark.parametrize("accelerator", ["bf16"], indirect=True)
def test_bf16_is_close_to_full_precision(by, accelerator, tmp_path):
    options = {"mixed_precision": "bf16"} if by == "parameter" else {"accelerator": accelerator}
    classifier, images, history = train(**options)
    _, _, exact = train()
    assert {value.dtype for value in classifier.parameters()} == {torch.float32}
    assert (history["loss"] != exact["loss"]).all()
    np.testing.assert_allclose(history["loss"], exact["loss"], rtol=0.05)
    attribution = RegionAttribution(classifier)
    maps = attribute_dataset(attribution, images, tmp_path, **options).maps.astype(float)
    full = attribution.region_map(images).numpy()
    assert full.std() > 0.01
    assert 0 < np.abs(maps - full).max() < 0.1
    with pytest.raises(ValueError, match="another mixed precision: mixed_precision bf16, this is no"):
        attribute_dataset(attribution, images, tmp_path)


def test_precision_and_processes_that_do_not_fit_are_refused(accelerator, monkeypatch):
    with pytest.raises(ValueError, match="mixed_precision must be 'no' or 'bf16', got 'fp16'"):
        train(mixed_precision="fp16")
    with pytest.raises(ValueError, match="device must be left out if accelerator is given"):
        train(accelerator=accelerator, device="cpu")
    monkeypatch.setenv("WORLD_SIZE", "2")  # an Accelerator() without GPUs stays alone
    with pytest.raises(
        ValueError, match="accelerator must have joined the 2 processes that were launched, got 1 on cpu"
    ):
        train(accelerator=accelerator)


def test_an_accelerator_of_one_process_changes_nothing(accelerator):
    plain, _, expected = train()
    accelerated, _, history = train(accelerator=accelerator)
    pd.testing.assert_frame_equal(history, expected, check_exact=True)
    torch.testing.assert_close(accelerated.state_dict(), plain.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("device", ["cuda", "mps"])
@pytest.mark.parametrize("mixed_precision", ["no", "bf16"])
def test_a_gpu_is_close_to_the_cpu(device, mixed_precision, tmp_path):
    if not getattr(torch, device).is_available():
        pytest.skip(f"needs {device}")
    classifier, images, history = train(device=device, mixed_precision=mixed_precision)
    _, _, expected = train()
    np.testing.assert_allclose(history["loss"], expected["loss"], rtol=0.05)
    attribution = RegionAttribution(classifier)
    maps = attribute_dataset(attribution, images, tmp_path, mixed_precision=mixed_precision).maps.astype(float)
    classifier.cpu()
    np.testing.assert_allclose(
        maps, attribution.region_map(images).numpy(), atol={"no": 0.01, "bf16": 0.1}[mixed_precision]
    )

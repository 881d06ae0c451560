"""AcceleratedImageClassifier in real processes: the losses and answers of one process, perturbed as it is."""

import json
import runpy

import numpy as np
import pytest
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from sklearn.base import clone

from fairlearn_bridge import AcceleratedImageClassifier

WORK = """
import json, sys
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator, DataLoaderConfiguration
from skorch.dataset import ValidSplit
from torch import nn

from fairlearn_bridge import AcceleratedImageClassifier


class Network(nn.Module):
    def __init__(self, image_shape, num_classes):
        super().__init__()
        channels, height, width = image_shape
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),
            nn.Linear(4 * (height - 2) * (width - 2), num_classes),
        )

    def forward(self, images):
        return self.layers(images)


def darken(images, index, generator):
    return images * (index % 2).view(-1, 1, 1, 1)


def work(**options):
    rng = np.random.default_rng(0)
    X, y = rng.integers(0, 256, (64, 3, 8, 8), np.uint8), rng.integers(0, 2, 64)  # 48 to train on, whole batches
    loading = DataLoaderConfiguration(split_batches=True, use_seedable_sampler=True)
    accelerator = Accelerator(cpu=True, dataloader_config=loading)
    classifier = AcceleratedImageClassifier(
        Network, accelerator=accelerator, max_epochs=3, batch_size=16, random_state=0, train_split=ValidSplit(4),
        optimizer=torch.optim.SGD, lr=0.1, callbacks__valid_acc=None, criterion__weight=torch.tensor([1.0, 5.0]),
        **options,
    )
    classifier.fit(X, y, sample_weight=np.arange(64) % 3)
    losses = {name: list(map(float, classifier.history_[:, name])) for name in ("train_loss", "valid_loss")}
    found = losses | {"probability": classifier.predict_proba(X[:37])[:, 1].tolist()}
    accelerator.wait_for_everyone()
    accelerator.free_memory()  # or a process that ends with the shared network in its hands may abort
    accelerator.end_training()
    return accelerator.process_index, found


if __name__ == "__main__":
    rank, found = work(batch_transform=darken, verbose=1)
    Path(sys.argv[1], f"{rank}.json").write_text(json.dumps(found))
"""


RESUMED = """
import json, sys
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator, DataLoaderConfiguration
from torch import nn

from captum_region.io import snapshot
from fairlearn_bridge import AcceleratedImageClassifier

out, mode, seedable = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "seedable"
snapshot._SHARE = 0  # a state after each epoch


class Network(nn.Sequential):
    def __init__(self, image_shape, num_classes):
        super().__init__(nn.Flatten(), nn.Dropout(0.3), nn.Linear(3 * 8 * 8, num_classes))


class Drift:
    # Of the images that this process has seen.
    mean = 0.0

    def __call__(self, images, index, generator):
        self.mean = 0.5 * self.mean + 0.5 * images.mean().item()
        return images - self.mean + 0.1 * torch.randn(images.shape, generator=generator)

    def state_dict(self):
        return {"mean": self.mean}

    def load_state_dict(self, state):
        self.mean = state["mean"]


class Stopped(AcceleratedImageClassifier):
    def on_epoch_begin(self, net, **kwargs):
        super().on_epoch_begin(net, **kwargs)
        if mode == "stopped" and len(net.history_) == 3:
            raise KeyboardInterrupt


rng = np.random.default_rng(0)
X, y = rng.integers(0, 256, (64, 3, 8, 8), np.uint8), rng.integers(0, 2, 64)
loading = DataLoaderConfiguration(split_batches=True, use_seedable_sampler=seedable)
accelerator = Accelerator(cpu=True, dataloader_config=loading)
kept = None if mode == "whole" else out / f"kept {seedable}"
classifier = Stopped(
    Network, accelerator=accelerator, max_epochs=4, batch_size=16, random_state=0, batch_transform=Drift(),
    checkpoint_dir=kept,
)
try:
    classifier.fit(X, y)
except KeyboardInterrupt:
    pass
else:
    losses = list(map(float, classifier.history_[:, "train_loss"]))
    found = {"losses": losses, "probability": classifier.predict_proba(X)[:, 1].tolist()}
    (out / f"{mode} {seedable} {accelerator.process_index}.json").write_text(json.dumps(found))
accelerator.free_memory()
accelerator.end_training()
"""


@pytest.fixture(autouse=True)
def _fresh_state():
    """Let accelerate forget its settings, which it keeps for the next accelerator."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path, in_two, capsys):
    script = tmp_path / "work.py"
    script.write_text(WORK)
    (printed, _), (by_other, _) = in_two(script, tmp_path)
    assert printed.count("train_loss") == 1
    assert by_other == ""  # one process prints
    work = runpy.run_path(str(script))
    _, alone = work["work"](batch_transform=work["darken"])
    assert capsys.readouterr().out == ""
    _, unperturbed = work["work"]()
    for rank in (0, 1):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        for name, values in alone.items():
            np.testing.assert_allclose(found[name], values, rtol=1e-4)
    assert abs(alone["train_loss"][0] - unperturbed["train_loss"][0]) > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["seedable", "plain"])
def test_two_processes_resume_a_training_with_the_same_results(tmp_path, in_two, sampler):
    script = tmp_path / "work.py"
    script.write_text(RESUMED)
    for mode in ("whole", "stopped", "resumed"):
        in_two(script, tmp_path, mode, sampler)
        if mode == "stopped":
            assert len([*tmp_path.glob("kept */*.pt")]) == 1  # one state for both
    for rank in (0, 1):
        whole, resumed = (
            json.loads((tmp_path / f"{mode} {sampler == 'seedable'} {rank}.json").read_text())
            for mode in ("whole", "resumed")
        )
        assert resumed == whole


def test_a_clone_gives_the_same_predictions():
    rng = np.random.default_rng(0)
    X, y = rng.integers(0, 256, (20, 3, 8, 8), np.uint8), ["man", "woman"] * 10
    classifier = AcceleratedImageClassifier(accelerator=Accelerator(cpu=True), max_epochs=1, random_state=0)
    first = classifier.fit(X, y).predict_proba(X)
    np.testing.assert_array_equal(clone(classifier).fit(X, y).predict_proba(X), first)
    assert set(classifier.predict(X)) <= {"man", "woman"}

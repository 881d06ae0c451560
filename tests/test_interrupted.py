"""Runs that are killed, or find a full disk, a read-only folder or another writer: nothing is lost, all is told."""

import pandas as pd
import pytest

import captum_region.cli
import fairlearn_bridge.cli
from captum_region.io.files import locked

TARGET_CLASSIFIER = """
import numpy as np
import torch._dynamo  # which an optimizer imports, for seconds in each child
from safetensors.torch import save_file
from fairlearn_bridge import ImageClassifier

def work(out):
    rng = np.random.default_rng(0)
    X, y = rng.integers(0, 256, (96, 3, 16, 16), np.uint8), rng.integers(0, 2, 96)
    classifier = ImageClassifier(max_epochs=12, batch_size=32, random_state=0, checkpoint_dir=out).fit(X, y)
    save_file(classifier.module_.state_dict(), out + "/weights.safetensors")
    np.save(out + "/losses.npy", classifier.history_[:, "train_loss"])
"""

SWEEP = """
import warnings
import torch._dynamo
from fairlearn_bridge.experiment import ExperimentConfig, synthetic_data
from fairlearn_bridge.sweep import run_sweep

sizes = {"train_size": 120, "test_per_cell": 15, "validation_per_cell": 6, "batch_size": 32}
config = ExperimentConfig(
    "Male", "Blond_Hair", schemes=("general_mask",), others=("jtt",), epochs=1, region_epochs=1, **sizes
)

def work(out):
    warnings.simplefilter("ignore")
    run_sweep([config], lambda one: synthetic_data(one, 16), [0.5], out, quiet=True)
"""


@pytest.mark.slow
def test_a_target_classifier_killed_at_random_moments_ends_with_the_same_weights(tmp_path, kill_and_resume):
    whole, cut = kill_and_resume(TARGET_CLASSIFIER, tmp_path)
    for folder in cut:
        for name in ("weights.safetensors", "losses.npy"):
            assert (folder / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.slow
def test_a_sweep_killed_at_random_moments_ends_with_the_same_tables(tmp_path, kill_and_resume):
    whole, cut = kill_and_resume(SWEEP, tmp_path)
    for folder in cut:
        for name in ("table.csv", "table1.csv", "validation.csv"):
            assert (folder / name).read_bytes() == (whole / name).read_bytes()
        trainings, expected = (pd.read_csv(out / "trainings.csv").drop(columns="seconds") for out in (folder, whole))
        pd.testing.assert_frame_equal(trainings, expected)
        # What each training kept on its way is gone with its end.
        kept, wanted = ({path.name for path in (out / "checkpoints").iterdir()} for out in (folder, whole))
        assert kept == wanted
        assert all(name.endswith(".pt") for name in kept)


TRAIN = [
    "train",
    "--data",
    "faces",
    "--attribute",
    "Eyeglasses",
    "--size",
    16,
    "--stride",
    4,
    "--epochs",
    1,
    "--limit",
    200,
]


def test_a_folder_in_use_is_refused(refused, tmp_path):
    with locked(tmp_path / "out"):
        for app, arguments in (
            (captum_region.cli.app, TRAIN),
            (
                captum_region.cli.app,
                ["compare", "--data", "faces", "--attribute", "Smiling", "--images", 40],
            ),
            (fairlearn_bridge.cli.app, ["demo", "--size", 16, "--train-size", 100, "--test-per-cell", 5]),
        ):
            told = refused(app, *arguments, "--quiet", "--out", tmp_path / "out")
            assert told == f"error: {tmp_path / 'out'} is being written by another process"
    assert [path.name for path in (tmp_path / "out").iterdir()] in ([], [".lock"])


# No file may grow beyond so many bytes.
FULL = """
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
sys.argv[1:2] = []
runpy.run_module("captum_region", run_name="__main__", alter_sys=True)
"""


@pytest.mark.slow
def test_a_full_disk_is_reported_and_the_run_resumes_when_there_is_room(command, forked, tmp_path, listed):
    out = tmp_path / "out"
    (script := tmp_path / "full.py").write_text(FULL)
    for count in (1_000, 50_000):
        with forked(script, count, *TRAIN, "--quiet", "--out", out, "--force") as process:
            _, stderr = process.communicate()
        assert process.returncode == 2, stderr
        assert len(stderr.splitlines()) == 1, stderr
        assert stderr.startswith("error: ")
        assert "File too large" in stderr
        assert listed(out) <= {"checkpoints"}
        assert not list(out.glob("**/.partial-*"))
    command("captum_region", *TRAIN, "--out", out, "--force")
    assert listed(out) == {"classifier", "history.csv", "training.json"}


READ_ONLY = """
import os, sys
import numpy as np
from captum_region import DenseRegionClassifier, RegionAttribution, RegionGrid, attribute_dataset, fit_region_classifier
from captum_region import save_classifier

rng = np.random.default_rng(0)
images, labels = rng.integers(0, 256, (8, 3, 16, 16), np.uint8), np.arange(8) % 2
classifier = DenseRegionClassifier(RegionGrid(16, 8, 8), 2, random_state=0)
fit_region_classifier(classifier, images, labels, epochs=1, random_state=0)  # imports all that it needs
if os.geteuid() == 0:  # whom no permission stops
    os.setuid(65534)
out = sys.argv[1]
for write in (
    lambda: fit_region_classifier(classifier, images, labels, epochs=1, random_state=0, checkpoint_dir=out),
    lambda: attribute_dataset(RegionAttribution(classifier.eval()), images, out),  # the training stopped in its midst
    lambda: save_classifier(classifier, out + "/classifier"),
):
    try:
        write()
    except PermissionError as error:
        assert error.filename.startswith(out), error
        print("told")
"""


@pytest.mark.slow
def test_a_read_only_folder_is_reported(path_for_all, forked):
    (script := path_for_all / "read_only.py").write_text(READ_ONLY)
    out = path_for_all / "out"
    out.mkdir()
    (out / "kept").write_text("whole")
    out.chmod(0o555)
    with forked(script, out) as process:
        stdout, stderr = process.communicate()
    assert stdout == "told\n" * 3, stderr
    assert [(path.name, path.read_text()) for path in out.iterdir()] == [("kept", "whole")]

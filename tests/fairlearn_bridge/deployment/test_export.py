"""Exported programs: the same probabilities, for any number of images, in a process without the package."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import FixedThresholdClassifier

from captum_region import DenseRegionClassifier, RegionGrid
from fairlearn_bridge import (
    AttributionNoiseMitigator,
    ImageClassifier,
    LastLayerRetraining,
    Reweighing,
    ThresholdShift,
    export_mitigator,
)

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (40, 3, 12, 16), np.uint8)
Y = np.array(["no", "yes"])[RNG.integers(0, 2, 40)]
S = np.tile([0, 1], 20)
BASE = ImageClassifier(max_epochs=1, random_state=0)

USE = """
import json, sys, numpy, torch
about = {"model.json": ""}
program = torch.export.load(sys.argv[1], extra_files=about).module()
images = torch.from_numpy(numpy.load(sys.argv[2])).float() / 255
found = torch.cat([program(images[:1]), program(images[1:])])
assert not any(name.startswith(("fairlearn_bridge", "captum_region", "skorch")) for name in sys.modules)
print(json.dumps([json.loads(about["model.json"]), found.tolist()]))
"""


@pytest.mark.slow
def test_the_program_gives_the_probabilities_without_the_package(tmp_path):
    estimator = Reweighing(BASE).fit(X, Y, sensitive_features=S)
    export_mitigator(estimator, tmp_path / "model.pt2")
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt2"]
    np.save(tmp_path / "images.npy", X)
    done = subprocess.run(
        [sys.executable, "-c", USE, tmp_path / "model.pt2", tmp_path / "images.npy"],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    about, found = json.loads(done.stdout)
    assert about == {"classes": ["no", "yes"], "image_shape": [3, 12, 16], "threshold": None, "positive_class": None}
    np.testing.assert_allclose(found, estimator.predict_proba(X), atol=1e-6)


def read(path):
    """Return an exported program, as a function, and what its file says of it."""
    about = {"model.json": ""}
    program = torch.export.load(path, extra_files=about).module()
    return program, json.loads(about["model.json"])


def test_what_is_frozen_is_exported_with_its_threshold(tmp_path):
    classifier = clone(BASE).fit(X, Y)
    options = {"threshold": 0.9, "pos_label": "no"}
    shifted = ThresholdShift(FrozenEstimator(classifier)).fit(X, Y, validation=(X, Y))
    for estimator, threshold, positive in (
        (FixedThresholdClassifier(FrozenEstimator(classifier), **options), 0.9, "no"),
        (shifted, shifted.threshold_, "yes"),
    ):
        for each in (estimator, FrozenEstimator(estimator)):
            export_mitigator(each, tmp_path / "model.pt2")
            program, about = read(tmp_path / "model.pt2")
            assert (about["threshold"], about["positive_class"]) == (threshold, positive)
            found = program(torch.from_numpy(X).float() / 255).numpy(force=True)
            np.testing.assert_allclose(found, classifier.predict_proba(X), atol=1e-6)
    unknown = FixedThresholdClassifier(FrozenEstimator(classifier), threshold=0.9, pos_label="zz")
    with pytest.raises(ValueError, match=r"pos_label must be one of \['no', 'yes'\], got 'zz'"):
        export_mitigator(unknown, tmp_path / "other.pt2")
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt2"]


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # of torch.compile
def test_a_compiled_network_is_exported_under_its_own_names(tmp_path):
    classifier = clone(BASE).set_params(compile=True, compile__backend="eager").fit(X, Y)
    export_mitigator(classifier, tmp_path / "model.pt2")
    program, _ = read(tmp_path / "model.pt2")
    assert "network.layers.0.weight" in program.state_dict()


def test_what_is_not_the_networks_alone_is_refused(tmp_path):
    estimator = LastLayerRetraining(BASE, draws=1, random_state=0).fit(X, Y, sensitive_features=S)
    with pytest.raises(TypeError, match="its network's alone"):
        export_mitigator(estimator, tmp_path / "model.pt2")
    with pytest.raises(ValueError, match="must end in"):
        export_mitigator(estimator.estimator_, tmp_path / "model.onnx")
    rows = X.reshape(len(X), -1) / np.float32(25)
    scaled = ImageClassifier(image_shape=X.shape[1:], max_epochs=1, random_state=0).fit(rows, Y)
    with pytest.raises(ValueError, match=r"estimator must be fitted on rows in \[0, 1\], or images, to be exported"):
        export_mitigator(scaled, tmp_path / "model.pt2")
    regions = DenseRegionClassifier(RegionGrid(X.shape[2:], 8, 4), 2, random_state=0)
    nested = AttributionNoiseMitigator(clone(estimator), region_classifier=regions, random_state=0)
    nested.fit(X, Y, sensitive_features=S)
    with pytest.raises(TypeError, match=r"its network's alone.* got LastLayerRetraining"):
        export_mitigator(nested, tmp_path / "model.pt2")
    assert [*tmp_path.iterdir()] == []

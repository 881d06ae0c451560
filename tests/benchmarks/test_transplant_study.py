"""What decides how well a transplant works."""

import json

import numpy as np
import pytest
import torch
from transplant_study import MEASURES, GreyInPrediction

from fairlearn_bridge import ImageClassifier


def test_grey_in_prediction_hides_the_pixels_and_leaves_training_alone():
    rng = np.random.default_rng(0)
    X, y = rng.integers(0, 256, (40, 3, 8, 8), np.uint8), np.arange(40) % 2
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[:, :4] = True
    plain = ImageClassifier(max_epochs=2, random_state=0).fit(X, y)
    grey = GreyInPrediction(ImageClassifier(max_epochs=2, random_state=0), mask).fit(X, y)
    hidden = X.astype(np.float32) / 255
    hidden[:, :, :4] = 0.5
    np.testing.assert_array_equal(grey.predict_proba(X), plain.predict_proba(hidden))
    np.testing.assert_array_equal(grey.predict(X), plain.predict(hidden))
    assert not np.array_equal(grey.predict_proba(X), plain.predict_proba(X))


@pytest.mark.slow
def test_the_command_measures_each_variant(command, tmp_path):
    sizes = ["--size", 16, "--train-size", 120, "--test-per-cell", 15, "--epochs", 1, "--region-epochs", 1]
    options = ["--confounder", "Blond_Hair", *sizes, "--seeds", 1, "--jobs", 1, "--quiet", "--json"]
    done = command("examples/benchmarks/transplant_study.py", *options, "--keep", tmp_path / "kept")
    rows = json.loads(done.stdout)
    assert [row["variant"] for row in rows][:3] == ["original", "balanced", "base"]
    assert len(rows) == 15
    # Each is a training of its own, or another way to predict.
    assert len({tuple(row[name] for name in MEASURES) for row in rows}) > 8
    assert len(list((tmp_path / "kept").glob("*.pt"))) == 2 + 14  # region classifiers, and trainings

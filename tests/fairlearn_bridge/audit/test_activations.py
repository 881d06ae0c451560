"""Activation ratios: hand-computed values, the null, and a network that is left as it was."""

import numpy as np
import pytest
import torch
from torch import nn

from captum_region.datasets import make_faces
from fairlearn_bridge import ImageClassifier
from fairlearn_bridge.audit import activation_ratio


def grey(*levels):
    return np.stack([np.full((1, 2, 2), level, np.uint8) for level in levels])


class Twice(nn.Module):
    """x, minus the largest possible, x again halved: the same module three times."""

    def __init__(self):
        super().__init__()
        self.act = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.9)

    def forward(self, images):
        first = self.act(self.drop(images).clone())
        self.act(images - 1)
        return self.act(first / 2).flatten(1)


def test_ratios_are_those_worked_out_by_hand():
    images = grey(51, 0, 255, 204)
    images[1, 0, 1, 1] = 102  # a single pixel is the strongest: 0.4
    found = activation_ratio(Twice(), images, ["dark", "dark", "light", "light"], n_permutations=200)
    # Means of the strongest: (0.2 + 0.4) / 2 and (1 + 0.8) / 2; nothing is left of x - 1.
    assert list(found.index) == ["act", "act, use 2", "act, use 3"]
    np.testing.assert_allclose(found["ratio"], [1 / 3, np.nan, 1 / 3], rtol=1e-6)
    np.testing.assert_allclose(found[["mean, dark", "mean, light"]], [[0.3, 0.9], [0, 0], [0.15, 0.45]], rtol=1e-6)
    assert found.loc["act", ["least", "greatest"]].tolist() == ["dark", "light"]
    # Of the 3 ways to divide four images in two pairs only this one has so small a ratio: p is about 1/3.
    assert found.loc["act", "p"] == pytest.approx(1 / 3, abs=0.1)
    np.testing.assert_allclose(found["p_holm"], [2 * found.loc["act", "p"], np.nan, 2 * found.loc["act", "p"]])


def test_the_network_is_in_eval_mode_meanwhile_and_left_as_it_was():
    network = Twice()
    network.act.eval()
    activation_ratio(network, grey(1, 2, 3), [0, 1, 1], batch_size=1)
    assert network.training
    assert network.drop.training
    assert not network.act.training
    assert not any(module._forward_hooks for module in network.modules())
    with pytest.raises(RuntimeError):
        activation_ratio(nn.Sequential(nn.ReLU(), nn.Linear(3, 2)), grey(1, 2), [0, 1])


def test_the_null_holds_and_batches_do_not_matter():
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (60, 1, 2, 2), dtype=np.uint8)
    kept = [
        activation_ratio(nn.ReLU(), images, generator.permutation(60) % 3, n_permutations=99)["p"].item()
        for _ in range(150)
    ]
    assert 0.02 <= np.mean(np.array(kept) <= 0.1) <= 0.18
    groups = np.arange(60) % 2
    one, other = (activation_ratio(nn.ReLU(), images, groups, batch_size=size) for size in (7, 60))
    assert one.equals(other)


def test_a_small_group_that_only_varies_more_is_not_called_different():
    rng, groups = np.random.default_rng(0), np.repeat([0, 1], [12, 108])
    reach = np.where(groups == 0, 100, 20)
    levels = (128 + rng.integers(-reach, reach + 1, (200, 120))).astype(np.uint8)  # of 200 networks, so to speak
    p = [
        activation_ratio(nn.ReLU(), each[:, None, None, None], groups, n_permutations=99)["p"].item() for each in levels
    ]
    # By the ratio alone, not studentised, 45 % were below 0.05.
    assert 0.01 < np.mean(np.array(p) <= 0.05) < 0.12


def test_estimators_attributes_and_layers_by_name():
    faces = make_faces(60, 32, random_state=0)
    classifier = ImageClassifier(max_epochs=1, random_state=0).fit(faces, "Smiling")
    found = activation_ratio(classifier, faces, "Male", n_permutations=20)
    leaky = [name for name, module in classifier.module_.named_modules() if isinstance(module, nn.LeakyReLU)]
    assert list(found.index) == leaky
    assert found["ratio"].between(0, 1).all()
    linear = activation_ratio(classifier.module_, faces, ["Male", "Smiling"], layers=["layers.0"], n_permutations=20)
    with torch.no_grad():
        output = classifier.module_.layers[0](torch.from_numpy(faces.images).float() / 255 * 2 - 1)
    strongest = output.flatten(1).amax(1).clamp(min=0).numpy()
    chosen = faces.binary("Male") & faces.binary("Smiling")
    assert linear["mean, True, True"].item() == pytest.approx(strongest[chosen].mean(), rel=1e-5)


def test_what_does_not_fit_is_refused():
    images, groups = grey(1, 2), [0, 1]
    with pytest.raises(
        TypeError, match=r"must be an nn\.Module or have one, as a fitted ImageClassifier has; got function"
    ):
        activation_ratio(lambda x: x, images, groups)
    with pytest.raises(ValueError, match=r"layers must be names of the network's modules, .*; got \['relu'\]"):
        activation_ratio(nn.ReLU(), images, groups, layers=["relu"])
    with pytest.raises(ValueError, match="layers must be given: the network has no activation"):
        activation_ratio(nn.Flatten(), images, groups)
    with pytest.raises(ValueError, match="layers must be a list"):
        activation_ratio(nn.ReLU(), images, groups, layers="0")
    with pytest.raises(ValueError, match="groups must hold at least 2 classes"):
        activation_ratio(nn.ReLU(), images, [1, 1])
    with pytest.raises(ValueError, match="groups must be given"):
        activation_ratio(nn.ReLU(), images)
    with pytest.raises(ValueError, match="n_permutations must be an integer of at least 1, got 0"):
        activation_ratio(nn.ReLU(), images, groups, n_permutations=0)

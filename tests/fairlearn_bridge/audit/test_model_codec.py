"""Neural codecs: a small model of our own with real byte strings, and CompressAI's, trained here."""

import copy
import zlib

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from captum_region.datasets import make_faces
from fairlearn_bridge.audit import audit
from fairlearn_bridge.audit.codecs import ModelCodec, train_codec
from fairlearn_bridge.audit.codecs.model import pad_edges


class Grid(nn.Module):
    """A model with CompressAI's interface: means of 4 x 4 pixels and, for training, a scale of their rounding."""

    downsampling_factor = 4

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([20.0]))
        self.updated = 0

    def update(self, force=False):
        self.updated += 1

    def compress(self, x):
        latent = (F.avg_pool2d(x, 4) * self.scale).round()
        halves = latent.to(torch.uint8).numpy().tobytes()
        half = len(halves) // 2
        strings = [[zlib.compress(halves[:half])], [zlib.compress(halves[half:])]]
        return {"strings": strings, "shape": latent.shape[2:]}

    def decompress(self, strings, shape):
        values = b"".join(zlib.decompress(each[0]) for each in strings)
        latent = torch.frombuffer(bytearray(values), dtype=torch.uint8).reshape(1, -1, *shape)
        return {"x_hat": F.interpolate(latent / self.scale, scale_factor=4)}

    def forward(self, x):
        latent = F.avg_pool2d(x, 4) * self.scale
        noisy = latent + torch.rand_like(latent) - 0.5
        # As if the latent were spread evenly over its range: the finer the rounding, the more bits.
        likelihood = (1 / self.scale.abs()).expand_as(latent).clamp(1e-6, 1)
        return {"x_hat": F.interpolate(noisy / self.scale, scale_factor=4), "likelihoods": {"y": likelihood}}


@pytest.fixture(scope="module")
def images():
    return make_faces(24, 32, random_state=0).images


def test_every_string_is_counted_and_odd_sizes_are_padded(images):
    odd = images[:3, :, :30, :29]
    model = Grid()
    codec = ModelCodec(model, "grid", severity=20)
    data = codec.encode(odd)
    padded = pad_edges(torch.from_numpy(odd).float() / 255, 4)
    assert padded.shape == (3, 3, 32, 32)
    assert (padded[..., 30:, :] == padded[..., 29:30, :]).all()
    assert (padded[..., 29:] == padded[..., 28:29]).all()
    strings = model.compress(padded[:1])["strings"]
    # Two numbers of the latent's shape, the number of strings, their lengths: one byte each.
    assert len(data[0]) == 5 + sum(len(each[0]) for each in strings)
    assert codec.overhead((3, 30, 29)) == 5
    decoded = codec.decode(data, (3, 30, 29))
    expected = F.interpolate((F.avg_pool2d(padded, 4) * 20).round() / 20, scale_factor=4)[..., :30, :29]
    assert (decoded == expected.clamp(0, 1).mul(255).round().byte().numpy()).all()
    assert model.updated == 0  # a copy was updated
    assert codec.model.updated == 1


def test_what_a_neural_codec_refuses(images):
    codec = ModelCodec(Grid())
    data = codec.encode(images[:1])
    for wrong in (data[0][:-1], data[0] + b"x", b"", b"\xff", data[0][:3], bytes(len(data[0]))):
        with pytest.raises(ValueError, match="the bytes of image 0 are not of this model"):
            codec.decode([wrong], (3, 32, 32))
    with pytest.raises(ValueError, match=r"image 0 must be decoded to \(1, 3, 40, 32\), padded"):
        codec.decode(data, (3, 40, 32))
    with pytest.raises(TypeError, match="model must have a method compress, as CompressAI's have; got Identity"):
        ModelCodec(nn.Identity())
    with pytest.raises(ValueError, match="padding must be at least 1, got 0"):
        ModelCodec(Grid(), padding=0)


def test_a_neural_codec_is_audited_like_any_other(images):
    faces = make_faces(80, 32, random_state=0)
    groups = np.arange(80) % 2
    fine = Grid()
    fine.scale.data.fill_(200)
    with pytest.warns(UserWarning, match="fewer than 200"):
        found = audit(
            [ModelCodec(Grid(), "grid", severity=20), ModelCodec(fine, "fine", severity=200)],
            lambda images: np.stack([1 - (dark := images.mean((1, 2, 3)) / 255), dark], 1),
            faces,
            groups,
            target="Smiling",
            classes=[False, True],
            n_bootstrap=50,
            n_permutations=50,
        )
    table = found.table()
    assert table.index.tolist() == ["grid 20", "fine 200"]
    assert table.loc["grid 20", "bpp"] < table.loc["fine 200", "bpp"]
    sizes = [len(one) for one in ModelCodec(Grid()).encode(faces.images)]
    assert table.loc["grid 20", "bpp"] == pytest.approx(8 * np.mean(sizes) / 32**2)


def test_training_reaches_the_rate_by_the_trade_off(images):
    model = Grid()
    # 3 channels of 1/16 of the pixels at log2(scale) bits: 0.75 bits per pixel are a scale of 16.
    history = train_codec(model, images, 0.75, steps=400, lr=0.1, random_state=0)
    assert history["rate"].iloc[-50:].mean() == pytest.approx(0.75, rel=0.05)
    assert model.scale.item() == pytest.approx(16, rel=0.15)
    assert history["lmbda"].nunique() > 100
    fixed = train_codec(Grid(), images, lmbda=0.01, steps=3, random_state=0)
    assert (fixed["lmbda"] == 0.01).all()
    loss = 0.01 * 255**2 * 10 ** (-fixed["psnr"] / 10) + fixed["rate"]
    np.testing.assert_allclose(fixed["loss"], loss, rtol=1e-5)


class Enormous(Grid):
    def decompress(self, strings, shape):
        return {"x_hat": np.empty(2**50)}


def test_too_little_memory_is_no_damaged_file(images):
    codec = ModelCodec(Enormous())
    data = codec.encode(images[:1])
    with pytest.raises(MemoryError):
        codec.decode(data, images.shape[1:])


class StoppedError(Exception):
    pass


class Fragile(Grid):
    """Stops in its seventh step, once."""

    steps = 7

    def forward(self, x):
        Fragile.steps -= 1
        if Fragile.steps == 0:
            raise StoppedError
        return super().forward(x)


def test_a_stopped_training_resumes_and_ends_the_same(images, tmp_path, monkeypatch):
    monkeypatch.setattr("captum_region.io.snapshot._SHARE", 0)
    options = {"rate": 0.5, "steps": 12, "batch_size": 5, "random_state": 3}
    whole, stopped = Fragile(), Fragile()
    Fragile.steps = -1
    history = train_codec(whole, images, **options)
    Fragile.steps = 7
    with pytest.raises(StoppedError):
        train_codec(stopped, images, **options, checkpoint_dir=tmp_path)
    resumed = Fragile()
    Fragile.steps = 6 + 1  # it would stop again if it started anew
    again = train_codec(resumed, images, **options, checkpoint_dir=tmp_path)
    assert torch.equal(resumed.scale, whole.scale)
    np.testing.assert_array_equal(again, history)
    Fragile.steps = 1  # no step is left
    complete = Fragile()
    np.testing.assert_array_equal(train_codec(complete, images, **options, checkpoint_dir=tmp_path), history)
    assert torch.equal(complete.scale, whole.scale)


def test_training_refuses_what_does_not_fit(images):
    with pytest.raises(ValueError, match="rate or lmbda must be given, and not both"):
        train_codec(Grid(), images)
    with pytest.raises(ValueError, match="rate must be a number"):
        train_codec(Grid(), images, -1)
    with pytest.raises(ValueError, match="steps must be an integer of at least 1, got 0"):
        train_codec(Grid(), images, 1, steps=0)
    with pytest.raises(ValueError, match="random_state must be given with checkpoint_dir"):
        train_codec(Grid(), images, 1, steps=1, checkpoint_dir="there")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_a_model_of_compressai_trained_here_codes_for_real(images):
    zoo = pytest.importorskip("compressai.models", reason="compressai is installed without its dependencies")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = zoo.ScaleHyperprior(8, 12)
    start = copy.deepcopy(model)
    history = train_codec(model, images, lmbda=0.01, steps=60, batch_size=8, random_state=0)
    assert history["loss"].iloc[-10:].mean() < history["loss"].iloc[:10].mean() / 2
    codec = ModelCodec(model, "hyperprior")
    odd = images[:2, :, :30]
    data = codec.encode(odd)
    padded = pad_edges(torch.from_numpy(odd[:1]).float() / 255, model.downsampling_factor)
    with torch.inference_mode():
        output = codec.model(padded)
    # What is decoded is the forward pass; the files take about what the likelihoods say.
    expected = output["x_hat"][0, :, :30, :32].clamp(0, 1).mul(255).round().byte().numpy()
    assert np.abs(codec.decode(data[:1], (3, 30, 32))[0].astype(int) - expected).max() <= 1
    bits = sum(float(-likelihood.log2().sum()) for likelihood in output["likelihoods"].values())
    assert 8 * len(data[0]) == pytest.approx(bits, rel=0.15, abs=200)
    with pytest.raises(ValueError, match="the bytes of image 0 are not of this model"):
        codec.decode([data[0][:-1]], (3, 30, 32))
    start.load_state_dict(model.state_dict())  # the model was not updated: its weights load elsewhere

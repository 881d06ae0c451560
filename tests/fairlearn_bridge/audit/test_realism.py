"""Realism: the Frechet distance against its definition and torchmetrics, the spectrum, and both in an audit."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from scipy.linalg import sqrtm
from torch import nn

from fairlearn_bridge import ImageClassifier
from fairlearn_bridge.audit import Distortion, audit
from fairlearn_bridge.audit.realism import frechet_distance, radial_power

pytestmark = pytest.mark.filterwarnings("ignore:groups of fewer than 200 images")


@pytest.fixture
def pair():
    generator = np.random.default_rng(0)
    return generator.normal(size=(40, 5)), generator.normal(1, 2, size=(60, 5)) @ generator.normal(size=(5, 5))


def test_the_distance_is_that_of_its_definition(pair):
    one, other = pair
    first, second = np.cov(one.T), np.cov(other.T)
    expected = np.square(one.mean(0) - other.mean(0)).sum() + np.trace(first + second - 2 * sqrtm(first @ second).real)
    assert frechet_distance(one, other) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(other, one) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-12)
    # With fewer images than features the covariances are singular.
    assert frechet_distance(one[:3], one[:3] + 1) == pytest.approx(5)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
def test_the_distance_is_that_of_torchmetrics(pair):
    image = pytest.importorskip("torchmetrics.image.fid")

    class Rows(nn.Module):
        num_features = 5

        def forward(self, images):
            return images.flatten(1).double()  # else it returns the distance as uint8

    metric = image.FrechetInceptionDistance(Rows(), normalize=False, input_img_size=(1, 1, 5)).set_dtype(torch.float64)
    one, other = ((part - part.min()) / np.ptp(part) for part in pair)
    for part, real in ((one, True), (other, False)):
        metric.update(torch.from_numpy((part * 255).astype(np.uint8))[:, None, None], real=real)
    as_seen = [(part * 255).astype(np.uint8).astype(float) for part in (one, other)]
    assert frechet_distance(*as_seen) == pytest.approx(float(metric.compute()), rel=1e-3)


def test_the_power_of_stripes_is_at_their_frequency():
    wave = 100 + 50 * np.cos(2 * np.pi * 3 * np.arange(16) / 16)
    power = radial_power(np.broadcast_to(np.rint(wave).astype(np.uint8), (2, 3, 16, 16)))
    assert power.shape == (2, 8)
    # A cosine of amplitude a has the power a^2 / 2; it was rounded to bytes.
    assert power[0, 2] == pytest.approx(50**2 / 2, rel=0.02)
    assert power[0].sum() == pytest.approx(power[0, 2], rel=1e-2)


@pytest.mark.parametrize("shape", [(9, 12), (12, 9), (7, 7)])
def test_the_power_is_that_of_the_whole_spectrum(shape):
    images = np.random.default_rng(0).integers(0, 256, (2, 3, *shape)).astype(np.uint8)
    power = np.square(np.abs(np.fft.fft2(images / 1.0, norm="forward"))).mean(1)
    distance = np.hypot(*np.meshgrid(*(np.fft.fftfreq(side) for side in shape), indexing="ij")) * min(shape)
    expected = [power[:, np.rint(distance) == ring].sum(1) for ring in range(1, min(shape) // 2 + 1)]
    np.testing.assert_allclose(radial_power(images), np.transpose(expected), rtol=1e-5)


def halved(images):
    return (images // 2).astype(np.uint8)


def mean_color(images):
    return images.mean((2, 3))


def test_an_audit_measures_realism_by_group(truth):
    found = audit(
        {"halved": halved, "same": lambda images: images},
        truth.direction,
        truth.images[1:],
        truth.group[1:],
        target=truth.label[1:],
        classes=[0, 1],
        embed=mean_color,
        n_bootstrap=20,
        n_permutations=20,
    )
    frame = found.to_frame()
    # All images have the mean 128, or 64 halved (63.5 where stripes are odd): a distance of 3 x 64^2.
    np.testing.assert_allclose(frame.loc["halved", "frechet"], 3 * 64**2, rtol=0.02)
    np.testing.assert_allclose(frame.loc["same", "frechet"], 0, atol=1e-9)
    assert found.table().loc["halved", "frechet"] == pytest.approx(frame.loc["halved", "frechet"].mean())
    kept = found.spectrum()
    assert list(kept.columns) == list(range(1, 9))
    # Stripes of one pixel have 8 cycles on 16 pixels; half the contrast is a quarter of the power.
    np.testing.assert_allclose(kept.loc["halved", 8], 0.25, rtol=0.3)
    np.testing.assert_allclose(kept.loc["same", 8], 1)
    ax = Figure().subplots()
    found.plot_realism(ax=ax)
    drawn = sorted(
        line.get_xdata()[0] for line in ax.lines if line.get_xdata().size == 1 and line.get_marker() != "None"
    )
    np.testing.assert_allclose(drawn, sorted(found.table()["frechet"]))


def test_an_audit_with_an_embedding_resumes(truth, tmp_path):
    seen = []

    def noted(images):
        seen.append(len(images))
        return images.mean((2, 3))

    def run(changes, embed):
        options = {"target": truth.label, "classes": [0, 1], "n_bootstrap": 10, "n_permutations": 10}
        data = truth.direction, truth.images, truth.group
        return audit(changes, *data, embed=embed, checkpoint_dir=tmp_path, **options)

    run({"halved": halved}, noted)
    assert sum(seen) == 2 * len(truth.images)
    seen.clear()
    both = run({"halved": halved, "flattened": truth.flattened}, noted)
    assert sum(seen) == 2 * len(truth.images)  # the originals, and what is new
    np.testing.assert_allclose(both.to_frame().loc["halved", "frechet"], 3 * 64**2, rtol=0.02)
    np.testing.assert_allclose(both.spectrum().loc["halved", 8], 0.25, rtol=0.3)
    # Other features make another audit, and so does an audit without any.
    doubled = run({"halved": halved}, lambda images: 2 * mean_color(images))
    np.testing.assert_allclose(doubled.to_frame()["frechet"], 4 * both.to_frame().loc["halved", "frechet"])
    assert "frechet" not in run({"halved": halved}, None).table()


def test_groups_of_unequal_size_are_compared_by_equally_many_images(truth):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (330, 3, 12, 12)).astype(np.uint8)
    groups = np.repeat(["few", "many"], [30, 300])
    seen = []

    def embed(batch):
        seen.append(len(batch))
        return batch.reshape(len(batch), -1)[:, :3]

    options = {"target": np.arange(330) % 2, "classes": [0, 1], "n_bootstrap": 10, "n_permutations": 10}
    audit({"same": lambda x: x}, truth.direction, images, groups, embed=embed, batch_size=50, **options)
    assert sum(seen) == 2 * 60


def test_networks_and_the_classifiers_own_embedding(truth):
    classifier = ImageClassifier(max_epochs=1, random_state=0).fit(truth.images, truth.label)
    options = {"target": truth.label, "n_bootstrap": 10, "n_permutations": 10}
    blur = Distortion("blur", [1, 3])

    def distances(embed):
        return audit(blur, classifier, truth.images, truth.group, embed=embed, **options).to_frame()["frechet"]

    own = distances("classifier")
    inner = nn.Sequential(*list(classifier.module_.layers)[:-1])

    class Inner(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = inner

        def forward(self, images):
            return self.inner(images * 2 - 1)

    np.testing.assert_allclose(distances(Inner()), own, rtol=1e-5, atol=1e-9)
    assert (own > 0).any()
    assert not any(module._forward_pre_hooks for module in classifier.module_.modules())
    with pytest.raises(ValueError, match=r"embed must be \"classifier\", an nn\.Module or a function, got 'inception'"):
        distances("inception")
    with pytest.raises(ValueError, match="embed must give finite features, 256 x D"):
        distances(lambda images: images.mean())
    with pytest.raises(TypeError, match="got int"):
        distances(3)
    found = audit(blur, classifier, truth.images, truth.group, **options)
    with pytest.raises(ValueError, match="there is no spectrum"):
        found.spectrum()
    with pytest.raises(ValueError, match="there is no realism to draw"):
        found.plot_realism()

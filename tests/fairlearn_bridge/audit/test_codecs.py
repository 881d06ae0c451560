"""Codecs: what they decode, how many bytes they take, and what they refuse."""

import io

import numpy as np
import pytest
from PIL import Image
from sklearn.exceptions import NotFittedError

from captum_region.datasets import make_faces
from fairlearn_bridge.audit import codecs
from fairlearn_bridge.audit.codecs import Codec, PCACodec, PillowCodec, pillow, quality_for_rate

SHAPE = 3, 40, 48


@pytest.fixture(scope="module")
def images():
    return make_faces(30, 48, random_state=0).images[:, :, 4:44]


@pytest.fixture(scope="module")
def pca(images):
    return PCACodec(12).fit(images)


def codec(name, quality):
    if pillow.FORMATS[name].plugin is not None:
        pytest.importorskip(pillow.FORMATS[name].plugin, reason="comes with the extra codecs")
    return PillowCodec(name, quality)


def error(one, other):
    return np.sqrt(((one.astype(float) - other) ** 2).mean())


@pytest.mark.parametrize("name", pillow.FORMATS)
def test_formats_reach_low_and_high_rates(images, name):
    low, high = (codec(name, quality) for quality in ((0.6, 30) if name == "jpeg2000" else (5, 95)))
    for channels in (1, 3):
        some = images[:4, :channels]
        files = low.encode(some)
        assert sum(map(len, files)) < sum(map(len, high.encode(some))) / 2
        decoded = low.decode(files, some.shape[1:])
        assert decoded.dtype == np.uint8
        assert decoded.shape == some.shape
        finest = error(high.decode(high.encode(some), some.shape[1:]), some)
        assert finest < 10
        assert finest < error(decoded, some) / 1.5 < 40
    assert isinstance(low, Codec)
    assert (low.name, low.severity) == (name, 0.6 if name == "jpeg2000" else 5)


def test_jpegxl_is_lossless_at_100(images):
    lossless = codec("jpegxl", 100)
    assert (lossless.decode(lossless.encode(images[:3]), SHAPE) == images[:3]).all()


@pytest.mark.parametrize("name", ["jpeg", "avif", "heic"])
def test_subsampling_is_that_of_colour(images, name):
    codec(name, 50)
    red = np.zeros((1, *SHAPE), np.uint8)
    red[:, 0, :, ::2] = 255  # columns of red and black
    full, half = (PillowCodec(name, 80, subsampling) for subsampling in ("4:4:4", "4:2:0"))
    assert error(full.decode(full.encode(red), SHAPE), red) < error(half.decode(half.encode(red), SHAPE), red) / 2
    assert full.name == f"{name} 4:4:4"


def test_options_are_pillows_and_win(images):
    small, large = (PillowCodec("jpeg", 20, options={"progressive": True, "optimize": on}) for on in (True, False))
    assert len(small.encode(images[:1])[0]) <= len(large.encode(images[:1])[0])
    other = PillowCodec("jpeg2000", 5, options={"no_jp2": False})
    assert other.encode(images[:1])[0][4:8] == b"jP  "
    assert PillowCodec("jpeg2000", 5).encode(images[:1])[0][:2] == b"\xff\x4f"
    with pytest.raises(ValueError, match="webp cannot encode an image"):
        PillowCodec("webp", 5, options={"method": "slow"}).encode(images[:1])


@pytest.mark.parametrize("name", pillow.FORMATS)
def test_truncated_foreign_and_changed_files_are_refused(images, name):
    of = codec(name, 50)
    file = of.encode(images[:1])[0]
    for cut in (1, 10, len(file) // 2, len(file) - 3, len(file)):
        with pytest.raises(ValueError, match=f"the bytes of image 1 are not a complete {name} file"):
            of.decode([file, file[:-cut]], SHAPE)
    with pytest.raises(ValueError, match=f"image 0 of {name} must be 40 x 47 pixels, got 40 x 48"):
        of.decode([file], (3, 40, 47))
    buffer = io.BytesIO()
    Image.fromarray(images[0].transpose(1, 2, 0)).save(buffer, "BMP")
    for foreign in (buffer.getvalue(), np.random.default_rng(0).bytes(500)):
        with pytest.raises(ValueError, match="the bytes of image 0 are not"):
            of.decode([foreign], SHAPE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("gif", 5), "format must be one of jpeg, jpeg2000, webp, avif, jpegxl, heic, got 'gif'"),
        (("jpeg", 0), r"quality must be a number in \[1, 100\], got 0"),
        (("webp", 5.5), "quality must be an integer for webp, got 5.5"),
        (("webp", 5, "4:4:4"), "subsampling must be left out for webp"),
        (("jpeg", 5, "4:1:0"), "subsampling must be one of"),
    ],
)
def test_parameters_that_do_not_fit_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        PillowCodec(*arguments)


def test_images_that_do_not_fit_are_named(images):
    with pytest.raises(ValueError, match="images must have 1 or 3 channels for jpeg, got 2"):
        PillowCodec("jpeg", 5).encode(images[:, :2])
    with pytest.raises(TypeError, match="images must be a uint8 array of shape"):
        PillowCodec("jpeg", 5).encode(images / 255)


def test_a_pillow_without_a_format_and_a_plugin_that_is_not_installed_are_named(monkeypatch):
    with monkeypatch.context() as patch:
        patch.delitem(Image.SAVE, "AVIF")
        patch.setattr(Image, "init", lambda: None)
        with pytest.raises(ValueError, match="format must be one that this Pillow writes; it was built without 'avif'"):
            PillowCodec("avif", 5)
    monkeypatch.setattr("importlib.import_module", __import__)
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    with pytest.raises(ValueError, match=r"'heic' needs pillow_heif: pip install 'captum-region\[codecs\]'"):
        PillowCodec("heic", 5)


def test_principal_components_of_few_images_are_exact(images):
    few = images[:6].copy()
    # Six images lie in five dimensions; the fine step leaves only the rounding to uint8.
    exact = PCACodec(5, step=1e-4).fit(few)
    assert (exact.decode(exact.encode(few), SHAPE) == few).all()
    assert np.abs(exact.components_ @ exact.components_.T - np.eye(5)).max() < 1e-4


def test_a_codec_of_principal_components_takes_few_bytes_and_each_image_alone(images, pca):
    data = pca.encode(images)
    assert max(map(len, data)) <= 20
    assert pca.encode(images[7:8]) == data[7:8]
    again = PCACodec(12).fit(images)
    assert again.encode(images) == data
    decoded = pca.decode(data, SHAPE)
    assert error(decoded, images) < error(np.broadcast_to(images.mean(0), images.shape), images) * 0.8
    # The coder that was chosen is the one with the fewest bytes.
    sizes = {}
    for coder in codecs.pca.CODERS:
        again.coder_ = coder
        sizes[coder] = sum(map(len, again.encode(images)))
    assert sizes[pca.coder_] == min(sizes.values())
    assert len(set(sizes.values())) > 1
    again.coder_ = "lzma"
    assert (again.decode(again.encode(images), SHAPE) == decoded).all()


def test_fewer_components_code_as_a_codec_of_so_many_does(images):
    largest = PCACodec(24).fit(images)
    for count in (1, 4, 12):
        fewer, alone = largest.at_quality(count), PCACodec(count).fit(images)
        assert fewer.coder_ == alone.coder_
        assert sum(map(len, fewer.encode(images))) == pytest.approx(sum(map(len, alone.encode(images))), rel=0.02)
    with pytest.raises(ValueError, match=r"quality must be a whole number of components, got 2\.5"):
        largest.at_quality(2.5)


def test_as_many_components_as_images_are_not_coded_finer_than_pixels_are(images):
    few = images[:20].copy()
    codec = PCACodec(20).fit(few)
    assert codec.step_ == pytest.approx(1 / 255)
    np.testing.assert_allclose(codec.decode(codec.encode(few), SHAPE).astype(int), few, atol=3)


def test_what_a_codec_of_principal_components_refuses(images, pca):
    data = pca.encode(images[:1])
    for wrong in (data[0][:-1], b"", data[0] + b"x", PillowCodec("jpeg", 5).encode(images[:1])[0]):
        with pytest.raises(ValueError, match="the bytes of image 1 are not of this PCACodec"):
            pca.decode([data[0], wrong], SHAPE)
    with pytest.raises(ValueError, match="shape must be that of the training images"):
        pca.decode(data, (3, 40, 40))
    with pytest.raises(ValueError, match="images must have the shape"):
        pca.encode(images[:, :, 1:])
    with pytest.raises(NotFittedError, match="PCACodec must be fitted first"):
        PCACodec(3).encode(images)
    with pytest.raises(ValueError, match=r"n_components must be an integer in \[1, 30\], got 31"):
        PCACodec(31).fit(images)
    with pytest.raises(ValueError, match="images must hold an image, got none"):
        PCACodec(3).fit(images[:0])


def test_fewer_components_are_a_lower_quality(images, pca):
    rates = []
    for quality in (2, 6, 12):
        part = pca.at_quality(quality)
        assert part.severity == quality
        rates.append(sum(map(len, part.encode(images))))
    assert rates == sorted(rates)
    assert pca.n_components == 12


def rate(of, images):
    return 8 * sum(map(len, of.encode(images))) / (len(images) * images.shape[2] * images.shape[3])


@pytest.mark.parametrize("name", ["jpeg", "jpeg2000", "webp"])
def test_the_highest_quality_below_a_rate_is_found(images, name):
    reached = quality_for_rate(PillowCodec(name, 50), images[:6], 3.0, n_jobs=2)
    assert reached.codec == PillowCodec(name, reached.quality)
    assert reached.rate == pytest.approx(rate(reached.codec, images[:6]))
    assert 2.5 < reached.rate <= 3.0
    if name == "jpeg":
        assert rate(PillowCodec(name, reached.quality + 1), images[:6]) > 3.0
    assert quality_for_rate(PillowCodec(name, 50), images[:6], 1000).quality == 100


class Bumpy:
    """A codec whose size falls once: by quality 40, 41, 42 ... 49, 45, 51, 52 ... bytes."""

    def __init__(self, quality):
        self.quality = quality

    def encode(self, images):
        return [bytes(40 + self.quality - 5 * (self.quality == 10)) for _ in images]

    def decode(self, data, shape):
        raise NotImplementedError


def test_rates_that_are_not_monotone_are_looked_through(images):
    pixels = 8 / (40 * 48)
    # Bisection between 0 and 20 tries 10 first, or not at all; either way it is found.
    reached = quality_for_rate(Bumpy, images, 47 * pixels, qualities=(0, 20))
    assert reached.quality == 10
    assert reached.rate == pytest.approx(45 * pixels)
    assert quality_for_rate(Bumpy, images, 45.5 * pixels, qualities=(0, 21)).rate <= 45.5 * pixels


def test_a_rate_that_cannot_be_reached_is_an_error_with_the_lowest(images, pca):
    lowest = rate(PillowCodec("jpeg", 1), images)
    with pytest.raises(ValueError, match=r"the lowest found is ([\d.]+), with quality [12]; got 0.1") as caught:
        quality_for_rate(PillowCodec("jpeg", 50), images, 0.1)
    assert float(str(caught.value).split("found is ")[1].split(",")[0]) == pytest.approx(lowest, rel=0.02)
    with pytest.raises(ValueError, match="qualities must be given"):
        quality_for_rate(Bumpy, images, 1.0)
    with pytest.raises(TypeError, match="codec must have qualities and at_quality, or be a function"):
        quality_for_rate(Bumpy(3), images, 1.0)
    with pytest.raises(ValueError, match="bpp must be a number"):
        quality_for_rate(pca, images, 0)

"""What images carry besides labels: values worked out by hand, files before resizing, cuts at quantiles."""

from io import BytesIO

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image, ImageFilter
from torch.utils.data import DataLoader, TensorDataset

from captum_region.datasets import AttributeImages, image_properties, make_faces, property_attribute

PIXELS = ["brightness", "contrast", "colourfulness", "sharpness", "plain_border", "coloured"]
FILES = ["width", "height", "aspect_ratio", "file_size", "file_format"]


def of(*channels, shape=(8, 8)):
    """Return the properties of an image whose channels are each one value or an array."""
    image = np.stack([np.broadcast_to(channel, shape) for channel in channels]).astype(np.uint8)
    return image_properties(image[None]).iloc[0]


def chequered(*shape):
    return 255 * (np.indices(shape).sum(0) % 2)


class TestPixels:
    def test_a_grey_image_has_no_colour(self):
        noise = np.random.default_rng(0).integers(0, 256, (8, 8))
        found = of(noise, noise, noise)
        assert (found["colourfulness"], found["coloured"]) == (0, False)
        assert found["brightness"] == pytest.approx(noise.mean() / 255)
        assert found["contrast"] == pytest.approx(noise.std() / 255)

    def test_colourfulness_by_hand(self):
        """Half red, half blue: red - green is 255 and 0, (red + green) / 2 - blue is 127.5 and -255."""
        is_red = np.arange(8) < 4
        found = of(255 * is_red, 0, 255 * ~is_red)
        spread, offset = np.hypot(127.5, 191.25), np.hypot(127.5, -63.75)
        assert found["colourfulness"] == pytest.approx(spread + 0.3 * offset)
        assert found["coloured"]
        # Of luma, 0.299 and 0.114 of white.
        assert found["brightness"] == pytest.approx((0.299 + 0.114) / 2)

    def test_the_laplacian_of_a_chequerboard_is_4_times_255_up_and_down(self):
        assert of(*[chequered(8, 10)] * 3, shape=(8, 10))["sharpness"] == pytest.approx((4 * 255) ** 2)
        assert of(90, 90, 90)["sharpness"] == 0
        assert np.isnan(of(90, 90, 90, shape=(2, 8))["sharpness"])

    def test_a_blurred_image_is_less_sharp(self):
        image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8))
        both = [np.asarray(each).transpose(2, 0, 1) for each in (image, image.filter(ImageFilter.GaussianBlur(2)))]
        sharp, blurred = image_properties(np.stack(both))["sharpness"]
        assert blurred < sharp / 100

    def test_plain_borders_by_hand(self):
        inner = np.random.default_rng(0).integers(0, 256, (10, 10))
        inner[0, ::2] = inner[-1, ::2] = inner[::2, 0] = inner[::2, -1] = 0
        inner[0, 1::2] = inner[-1, 1::2] = inner[1::2, 0] = inner[1::2, -1] = 255
        framed = np.pad(inner, ((1, 2), (3, 0)), constant_values=200)
        # 13 x 13 pixels, of which 10 x 10 are no border.
        assert of(framed, framed, framed, shape=(13, 13))["plain_border"] == pytest.approx(1 - 100 / 169)
        assert of(inner, inner, inner, shape=(10, 10))["plain_border"] == 0
        # A bar above of another colour than the one below, with some noise as JPEG leaves it.
        bars = np.vstack([np.full((2, 10), 40) + np.arange(10) % 3, inner, np.full((3, 10), 250)])
        assert of(bars, bars, bars, shape=(15, 10))["plain_border"] == pytest.approx(5 / 15)
        assert of(7, 70, 170)["plain_border"] == 1

    def test_a_grey_jpeg_with_colour_channels_is_not_coloured(self):
        noise = np.random.default_rng(0).integers(0, 256, (16, 16), np.uint8)
        Image.fromarray(noise).convert("RGB").save(content := BytesIO(), "JPEG", quality=60)
        pixels = np.asarray(Image.open(content)).transpose(2, 0, 1)
        assert not image_properties(pixels[None])["coloured"].item()


class TestSources:
    def test_images_in_memory_have_no_properties_of_files(self):
        faces = make_faces(70, size=16, random_state=0)
        found = image_properties(faces)
        assert found.columns.tolist() == PIXELS
        assert found.index.equals(faces.attributes.index)
        pd.testing.assert_frame_equal(image_properties(faces.images), found)
        # Floats, tensors, and more images than there are in a batch.
        floats = torch.from_numpy(faces.images) / 255
        pd.testing.assert_frame_equal(image_properties(floats), found)
        one = image_properties(faces.images[:, :1])
        assert (one["colourfulness"] == 0).all()

    def test_files_are_measured_before_any_resizing(self, tmp_path):
        noise = np.random.default_rng(0).integers(0, 256, (30, 60, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / "wide.png")
        Image.fromarray(noise[..., 0]).save(tmp_path / "grey.jpg")
        turned = Image.Exif()
        turned[0x0112] = 6
        Image.fromarray(noise).save(tmp_path / "turned.jpeg", exif=turned)
        (tmp_path / "named.jpg").write_bytes((tmp_path / "wide.png").read_bytes())
        paths = [tmp_path / name for name in ("wide.png", "grey.jpg", "turned.jpeg", "named.jpg")]
        found = image_properties(paths, n_jobs=1)
        assert set(found.columns) == {*PIXELS, *FILES}
        assert found.index.tolist() == paths
        assert found["file_format"].tolist() == ["PNG", "JPEG", "JPEG", "PNG"]
        assert found["file_size"].tolist() == [path.stat().st_size for path in paths]
        assert found[["width", "height"]].to_numpy().tolist() == [[60, 30], [60, 30], [30, 60], [60, 30]]
        assert found["aspect_ratio"].tolist() == [2, 2, 0.5, 2]
        assert found["coloured"].tolist() == [True, False, True, True]
        in_memory = image_properties(noise.transpose(2, 0, 1)[None])
        pd.testing.assert_series_equal(found.loc[paths[0], PIXELS], in_memory.loc[0, PIXELS], check_names=False)
        assert (
            image_properties(list(map(str, paths)), n_jobs=2)
            .reset_index(drop=True)
            .equals(found.reset_index(drop=True))
        )

    def test_a_large_file_is_shrunk_and_keeps_its_size(self, tmp_path):
        Image.new("RGB", (3000, 12), (10, 200, 10)).save(tmp_path / "long.png")
        found = image_properties([tmp_path / "long.png"]).iloc[0]
        assert (found["width"], found["height"], found["plain_border"]) == (3000, 12, 1)
        assert found["brightness"] == pytest.approx((0.413 * 10 + 0.587 * 200) / 255, abs=0.001)

    def test_data_sets(self, tmp_path):
        images = torch.from_numpy(make_faces(5, size=16, random_state=0).images)
        expected = image_properties(images)
        pairs = TensorDataset(images, torch.zeros(5))
        for dataset in (pairs, DataLoader(pairs, batch_size=2)):
            found = image_properties(dataset)
            pd.testing.assert_frame_equal(found[PIXELS], expected)
            assert found.columns.drop(PIXELS).tolist() == ["width", "height", "aspect_ratio"]
        datasets = pytest.importorskip("datasets")
        Image.fromarray(images[0].permute(1, 2, 0).numpy()).save(tmp_path / "face.png")
        features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
        hf = datasets.Dataset.from_dict({"image": [str(tmp_path / "face.png")], "label": [1]}, features=features)
        found = image_properties(hf)
        assert found["file_format"].item() == "PNG"
        pd.testing.assert_frame_equal(found[PIXELS], expected[:1])

    def test_iterators_and_lists_of_items(self, tmp_path):
        pictures = [Image.new("RGB", (4, 4), (level, level, level)) for level in (0, 51, 255)]
        for number, each in enumerate(pictures):
            each.save(tmp_path / f"{number}.png")
        levels = [0, 0.2, 1]
        for data in (
            iter(sorted(tmp_path.glob("*.png"))),
            pictures,
            iter(pictures),
            [(each, 1) for each in pictures],
            [{"image": each} for each in pictures],
            [np.asarray(each) for each in pictures],
            [torch.from_numpy(np.array(each).transpose(2, 0, 1)[:, : 2 + n]) for n, each in enumerate(pictures)],
        ):
            np.testing.assert_allclose(image_properties(data)["brightness"], levels)

    def test_damaged_files_are_named_or_skipped(self, tmp_path):
        Image.new("RGB", (9, 9)).save(tmp_path / "good.png")
        (tmp_path / "bad.png").write_bytes(b"bad")
        paths = [str(tmp_path / name) for name in ("bad.png", "good.png", "none.png")]
        with pytest.raises(FileNotFoundError, match=r"none\.png: there is no such file"):
            image_properties(paths)
        with pytest.raises(ValueError, match=r"bad\.png: not an image of a supported format"):
            image_properties(paths[1::-1])
        found = image_properties(paths, on_error="skip")
        assert found.index.tolist() == paths[1:2]
        assert [row["image"] for row in found.attrs["skipped"]] == [paths[0], paths[2]]

    @pytest.mark.parametrize(
        ("data", "options", "error", "words"),
        [
            ("face.png", {}, TypeError, "data must be a sequence of paths"),
            (np.zeros((1, 2, 4, 4), np.uint8), {}, ValueError, r"data must hold images with 1 or 3 channels, got .*2"),
            (np.zeros((1, 3, 4), np.uint8), {}, ValueError, "data must have shape"),
            (np.full((1, 3, 4, 4), 2.0), {}, ValueError, r"data of float type must lie in \[0, 1\]"),
            ([], {}, ValueError, "data must"),
            (np.zeros((0, 3, 4, 4), np.uint8), {}, ValueError, "data must hold"),
            (["face.png"], {"on_error": "stop"}, ValueError, "on_error must be 'raise' or 'skip', got 'stop'"),
            (["face.png"], {"n_jobs": 0}, ValueError, "n_jobs must be None or a nonzero integer"),
        ],
    )
    def test_what_does_not_fit_is_named(self, data, options, error, words):
        with pytest.raises(error, match=words):
            image_properties(data, **options)


class TestAttributes:
    properties = pd.DataFrame({"brightness": [0.1, 0.5, 0.2, 0.4], "width": [178, 178, 178, 90], "coloured": True})

    def test_a_number_is_cut_at_a_quantile_of_the_training_images(self):
        found = property_attribute(self.properties, "brightness@0.5")
        assert (found.name, found.tolist()) == ("brightness@0.5", [False, True, False, True])
        assert found.attrs["cut"] == pytest.approx(0.3)
        others = pd.DataFrame({"brightness": [0.25, 0.35, np.nan]})
        found = property_attribute(others, "brightness@0.5", reference=self.properties)
        assert found[:2].tolist() == [False, True]
        assert found.isna().tolist() == [False, False, True]

    def test_where_the_quantile_is_the_greatest_value_true_is_at_it(self):
        assert property_attribute(self.properties, "width@0.5").tolist() == [True, True, True, False]

    def test_what_is_no_number_stays(self):
        assert property_attribute(self.properties, "coloured").tolist() == [True] * 4

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("lighting@0.5", "name must begin with one of brightness, .*, got 'lighting@0.5'"),
            ("brightness", "must end in a quantile between 0 and 1, as in brightness@0.5; got 'brightness'"),
            ("brightness@1", "must end in a quantile between 0 and 1"),
            ("brightness@nan", "must end in a quantile between 0 and 1"),
            ("brightness@dark", "must end in a quantile between 0 and 1"),
            ("coloured@0.5", "name must be 'coloured' without a quantile"),
            ("file_size@0.5", "'file_size' is one of files"),
        ],
    )
    def test_what_does_not_fit_is_named(self, name, words):
        with pytest.raises(ValueError, match=words):
            property_attribute(self.properties, name)

    def test_it_becomes_an_attribute_of_images(self):
        faces = make_faces(6, size=16, random_state=0)
        bright = property_attribute(image_properties(faces), "brightness@0.5")
        images = AttributeImages(faces.images, faces.attributes.join(bright))
        assert images.binary("brightness@0.5").sum() == 3

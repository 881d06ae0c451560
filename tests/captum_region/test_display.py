"""RegionMapDisplay, and the HTML that notebooks show: the right maps and images, and the user's text escaped."""

import base64
import io
import re

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot
from matplotlib.figure import Figure
from PIL import Image

from captum_region import (
    DenseRegionClassifier,
    MultiScaleRegionAttribution,
    RegionAttribution,
    RegionGrid,
    RegionMapDisplay,
    attribute_dataset,
    fit_region_classifier,
)
from captum_region.datasets import AttributeImages, from_dataset, make_faces

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 3, 16, 16), dtype=np.uint8)


@pytest.fixture(scope="module")
def classifier():
    classifier = DenseRegionClassifier(RegionGrid(16, 8, 2), 2, width=4, random_state=0)
    fit_region_classifier(classifier, IMAGES, [0, 1, 0, 1, 1], epochs=3, random_state=0)
    return classifier


@pytest.fixture
def ax():
    return Figure().subplots()


def pictures(html):
    """Return the images of a page, as arrays; their text must be HTML that a browser would not mend."""
    found = re.findall(r'<img src="data:image/png;base64,([^"]+)" alt="[^"<>]*"', html)
    assert len(found) == html.count("<img")
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))) for text in found]


class TestDisplay:
    def test_it_draws_the_mean_map_over_the_mean_image(self, classifier, ax):
        display = RegionMapDisplay.from_estimator(classifier, IMAGES, ax=ax, name="hair")
        assert display.ax_ is ax
        assert display.figure_ is ax.figure
        under, over = ax.images
        np.testing.assert_allclose(under.get_array(), IMAGES.mean(0).transpose(1, 2, 0) / 255, atol=1e-12)
        np.testing.assert_allclose(over.get_array(), RegionAttribution(classifier).mean_pixels(IMAGES))
        assert over.get_clim()[1] == pytest.approx(np.ceil(10 * over.get_array().max()) / 10)
        assert ax.get_title(loc="left") == "hair"
        again = display.plot(Figure().subplots(), name="again", vmax=1, colorbar=False)
        assert again is display
        assert display.ax_ is not ax
        assert display.ax_.images[1].get_clim() == (0, 1)
        assert (display.ax_.get_title(loc="left"), len(display.figure_.axes)) == ("again", 1)

    def test_the_display_takes_attributions_and_targets(self, classifier, ax):
        several = MultiScaleRegionAttribution([classifier])
        display = RegionMapDisplay.from_estimator(several, from_dataset(list(IMAGES)), target=1, ax=ax, vmin=-1)
        torch.testing.assert_close(display.pixel_map, several.mean_pixels(IMAGES, 1))
        with pytest.raises(ValueError, match="X must be 16 x 16 pixels"):
            RegionMapDisplay.from_estimator(several, IMAGES[:, :, :8])

    def test_the_display_takes_stored_maps(self, classifier, ax, tmp_path):
        maps = attribute_dataset(RegionAttribution(classifier), IMAGES, tmp_path)
        display = RegionMapDisplay.from_maps(maps, ax=ax)
        torch.testing.assert_close(display.pixel_map, maps.grid.to_pixels(maps.mean()))
        display = RegionMapDisplay.from_maps(maps, 3, image=IMAGES[3], ax=ax)
        torch.testing.assert_close(display.pixel_map, maps.pixels(3))

    def test_the_default_is_a_new_pyplot_figure(self):
        assert RegionMapDisplay(np.eye(4)).plot().figure_.number == pyplot.get_fignums()[0]


class TestNotebooks:
    def test_notebooks_show_images_and_counts(self):
        table = pd.DataFrame({"<b>hat": ["<i>", "<i>", None, "x & y", "<i>"], "age": range(5)})
        html = AttributeImages(IMAGES, table)._repr_html_()
        (strip,) = pictures(html)
        np.testing.assert_array_equal(strip, np.concatenate(list(IMAGES), axis=2).transpose(1, 2, 0))
        assert "AttributeImages: 5 images of 3 x 16 x 16" in html
        assert "<th>&lt;b&gt;hat</th><td>&lt;i&gt;: 3, " in html
        assert "x &amp; y: 1" in html
        assert "nan: 1" in html
        assert "0: 1, 1: 1, 2: 1, 3: 1, 4: 1<" in html

    def test_notebooks_shorten_what_is_long(self):
        wide = AttributeImages(IMAGES[:0], pd.DataFrame(np.zeros((0, 12))))._repr_html_()
        assert "2 more attributes" in wide
        assert pictures(wide) == []
        faces = make_faces(20, size=16, random_state=0)
        assert pictures(faces._repr_html_())[0].shape == (16, 128, 3)
        ages = AttributeImages(faces.images, pd.DataFrame({"age": range(20)}))
        assert "15 other values" in ages._repr_html_()

    def test_notebooks_show_maps_and_trainings(self, classifier, tmp_path):
        folder = tmp_path / "<maps>"
        html = attribute_dataset(RegionAttribution(classifier), IMAGES, folder)._repr_html_()
        assert "&lt;maps&gt;" in html
        assert "<maps>" not in html
        assert "5 maps of 5 x 5 regions" in html
        assert "of the classes 0, 1" in html
        assert len(pictures(html)) == 1
        options = {"epochs": 2, "random_state": 0}
        alone = fit_region_classifier(classifier, IMAGES, [0, 1, 0, 1, 1], **options)
        validated = fit_region_classifier(
            classifier, IMAGES, [0, 1, 0, 1, 1], validation=(IMAGES, [0, 1, 0, 1, 1]), **options
        )
        widths = [pictures(training._repr_html_())[0].shape[1] for training in (alone, validated)]
        assert widths == [340, 680]  # one curve, two curves
        assert f"epoch 2, loss {alone.history['loss'].iloc[-1]:.4g}" in alone._repr_html_()
        assert not pyplot.get_fignums()

"""Plots of audits: what is drawn where."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from fairlearn_bridge.audit import Distortion, PillowCodec, audit

pytestmark = pytest.mark.filterwarnings("ignore:groups of fewer than 200 images")


@pytest.fixture
def found(truth):
    codecs = {"jpeg": [PillowCodec("jpeg", 5), PillowCodec("jpeg", 50)], "raw": truth.raw()}
    return audit(codecs, truth.direction, truth.images, truth.group, **truth.data, n_bootstrap=50, n_permutations=50)


def test_bias_is_drawn_against_the_rate_and_groups_in_rows(found):
    bias, drop, psnr = axes = Figure().subplots(1, 3)
    found.plot(axes=axes)
    drawn = {tuple(line.get_xydata()[0].round(9)) for line in bias.lines if len(line.get_xdata()) == 1}
    table = found.table()
    assert drawn == {tuple(row) for row in np.stack([table["bpp"], 100 * table["bias"]], 1).round(9).tolist()}
    assert [text.get_text() for text in bias.get_legend().get_texts()] == ["jpeg", "raw"]
    assert [text.get_text() for text in drop.get_yticklabels()] == ["jpeg 5", "jpeg 50", "raw"]
    (values,) = [line.get_xdata() for line in psnr.lines if line.get_label() == "high"]
    assert np.isnan(values[2])  # infinite: it is lossless
    np.testing.assert_allclose(values[:2], found.to_frame().xs("high", level="group")["psnr"][:2])


def test_without_rates_bias_is_drawn_in_rows(truth):
    found = audit(
        Distortion("blur", [1, 2]),
        truth.direction,
        truth.images,
        truth.group,
        **truth.data,
        n_bootstrap=50,
        n_permutations=50,
    )
    bias, _, _ = axes = Figure().subplots(1, 3)
    found.plot(axes=axes)
    assert [text.get_text() for text in bias.get_yticklabels()] == ["blur 1", "blur 2"]
    with pytest.raises(ValueError, match="axes must be bias, drop and PSNR, 3, got 2"):
        found.plot(axes=axes[:2])


def test_examples_are_the_first_images_of_each_group(found, truth):
    figure = found.plot_images(["raw"])
    pictures = [ax.images[0].get_array() for ax in figure.axes]
    assert len(pictures) == 2 * 2 * 3  # original and raw, two groups, three images
    for row, position in enumerate([1, 3, 5, 0, 2, 4]):  # the group "high" comes first
        for picture in pictures[2 * row : 2 * row + 2]:
            assert (np.asarray(picture) == truth.images[position].transpose(1, 2, 0)).all()
    assert [ax.get_title(loc="left") for ax in figure.axes[:2]] == ["original", "raw"]
    assert [text.get_text() for ax in figure.axes for text in ax.texts] == ["high", "low"]
    assert "<table" in found._repr_html_()

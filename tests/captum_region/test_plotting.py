"""What the plots show: the image as given, the map on its scale; and the errors for invalid arguments."""

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot
from matplotlib.figure import Figure

from captum_region.plotting import image_array, literal, plot_history, plot_maps, plot_region_map, plot_saliency

IMAGE = np.arange(3 * 4 * 6, dtype=np.uint8).reshape(3, 4, 6)
MAP = np.linspace(0, 0.5, 24).reshape(4, 6)


@pytest.fixture
def ax():
    return Figure().subplots()


@pytest.mark.parametrize(
    "image",
    [
        IMAGE,
        IMAGE.transpose(1, 2, 0),
        torch.from_numpy(IMAGE),
        IMAGE / 255,
        torch.from_numpy(IMAGE / 255).float().requires_grad_(),
    ],
    ids=["chw", "hwc", "tensor", "float", "float tensor with gradient"],
)
def test_the_image_is_shown_as_it_is(ax, image):
    plot_region_map(image, MAP, ax=ax)
    shown = np.asarray(ax.images[0].get_array())
    expected = IMAGE.transpose(1, 2, 0)
    np.testing.assert_allclose(shown if shown.dtype == np.uint8 else shown * 255, expected, rtol=1e-6)


def test_the_map_lies_over_the_image_on_a_fixed_scale(ax):
    assert plot_region_map(IMAGE, torch.from_numpy(MAP), ax=ax, alpha=0.4, title="hair") is ax
    drawn = ax.images[1]
    np.testing.assert_array_equal(drawn.get_array(), MAP)
    assert drawn.get_clim() == (0, 1)
    assert drawn.get_alpha() == 0.4
    assert ax.get_title(loc="left") == "hair"
    assert len(ax.figure.axes) == 2  # the colour bar is the second


def test_without_an_image_the_map_is_opaque_and_may_be_of_regions(ax):
    plot_region_map(None, np.eye(3), ax=ax, colorbar=False)
    assert [image.get_alpha() for image in ax.images] == [None]
    assert len(ax.figure.axes) == 1


def test_one_channel_is_grey():
    assert image_array(np.zeros((1, 4, 6))).shape == (4, 6)
    assert image_array(np.zeros((4, 6, 1))).shape == (4, 6)
    assert image_array(torch.zeros(3, 4, 6, dtype=torch.bfloat16)).shape == (4, 6, 3)


def test_a_dollar_sign_does_not_start_a_formula(ax):
    plot_region_map(None, np.eye(3), ax=ax, title="$x and $y")
    assert ax.get_title(loc="left") == r"\$x and \$y" == literal("$x and $y")


@pytest.mark.parametrize(
    ("image", "pixel_map", "options", "message"),
    [
        (IMAGE[0], MAP, {}, "image must be one image of shape"),
        (np.zeros((0, 4, 3)), MAP, {}, "image must be one image of shape"),
        (IMAGE.astype(int), MAP, {}, "image must be uint8 or float in .0, 1., got int64 from 0 to 71"),
        (IMAGE.astype(float), MAP, {}, "image must be uint8 or float"),
        (np.full((3, 4, 6), np.nan), MAP, {}, "image must be uint8 or float"),
        (IMAGE, MAP[None], {}, "pixel_map must be one map of shape"),
        (IMAGE, MAP[:3], {}, r"pixel_map must be as large as image, \(4, 6\), got \(3, 6\)"),
        (IMAGE, MAP * np.nan, {}, "pixel_map must hold finite numbers"),
        (IMAGE, MAP.astype(str), {}, "pixel_map must hold finite numbers"),
        (IMAGE, MAP, {"vmin": 1}, "vmin must be below vmax"),
        (IMAGE, MAP, {"alpha": 1.5}, "alpha must lie in"),
    ],
)
def test_invalid_images_and_maps_are_refused(ax, image, pixel_map, options, message):
    with pytest.raises(ValueError, match=message):
        plot_region_map(image, pixel_map, ax=ax, **options)


def test_maps_share_their_scale():
    axes = Figure().subplots(1, 2)
    figure = plot_maps({"a": MAP, "b": MAP / 2}, images=IMAGE, axes=axes)
    assert {ax.images[1].get_clim() for ax in axes} == {(0, 0.5)}
    assert len(figure.axes) == 3  # one colour bar for both


def test_maps_may_have_a_scale_each():
    axes = Figure().subplots(1, 2)
    figure = plot_maps({"a": MAP, "b": MAP * 0}, images={"a": IMAGE, "b": IMAGE}, axes=axes, share_scale=False)
    assert [ax.images[1].get_clim() for ax in axes] == [(0, 0.5), (0, 1)]
    assert len(figure.axes) == 4


@pytest.mark.parametrize(
    ("maps", "options", "message"),
    [
        ({}, {}, "maps must hold at least one map"),
        ({"a": MAP, "b": MAP}, {"axes": Figure().subplots(1, 3)}, "axes must be one for each map, 2, got 3"),
        ({"a": MAP}, {"images": {"b": IMAGE}}, "images must have the titles"),
        ({"a": MAP[0]}, {}, r"maps\['a'\] must be one map"),
    ],
)
def test_invalid_sets_of_maps_are_refused(maps, options, message):
    with pytest.raises(ValueError, match=message):
        plot_maps(maps, **options)


def test_history_draws_loss_and_accuracy():
    history = pd.DataFrame({"epoch": [1, 2], "loss": [0.7, 0.5], "valid_accuracy": [0.6, 0.8]})
    figure = plot_history(history, axes=Figure().subplots(1, 2), title="training")
    assert [ax.lines[0].get_ydata().tolist() for ax in figure.axes] == [[0.7, 0.5], [0.6, 0.8]]
    assert [ax.get_ylabel() for ax in figure.axes] == ["loss (nats)", "validation accuracy"]
    without = plot_history(history.drop(columns="valid_accuracy"), axes=[Figure().subplots()])
    assert len(without.axes) == 1


@pytest.mark.parametrize(
    ("history", "message"),
    [
        (pd.DataFrame({"epoch": [1]}), "history must have the columns epoch and loss"),
        (pd.DataFrame({"epoch": [], "loss": []}), "a row for each epoch, got 0 rows"),
        (pd.DataFrame({"epoch": [1], "loss": [1.0], "valid_accuracy": [0.5]}), "axes must be one for each curve"),
    ],
)
def test_an_invalid_history_is_refused(history, message):
    with pytest.raises(ValueError, match=message):
        plot_history(history, axes=[Figure().subplots()])


def test_new_figures_are_pyplots():
    assert plot_region_map(IMAGE, MAP).figure.number == pyplot.get_fignums()[0]
    assert len(plot_maps({"a": MAP, "b": MAP}, colorbar=False).axes) == 2
    plot_history(pd.DataFrame({"epoch": [1], "loss": [0.7]}))
    assert len(pyplot.get_fignums()) == 3


def test_saliency_maps_share_one_scale_of_ranks():
    images = np.zeros((2, 3, 4, 4), np.uint8)
    rising = np.arange(16.0).reshape(1, 4, 4).repeat(2, 0)
    truth = np.zeros((2, 4, 4), bool)
    truth[0, :2] = True
    axes = Figure().subplots(4, 2)
    maps = {"rising": rising, "cubed": rising**3 - 50, "still": np.ones((2, 4, 4))}
    figure = plot_saliency(images, maps, truth=truth, axes=axes)
    drawn = [[ax.images[0].get_array() for ax in row] for row in axes[1:]]
    np.testing.assert_allclose(drawn[0][0].ravel(), (np.arange(16) + 0.5) / 16)
    np.testing.assert_array_equal(drawn[0][0], drawn[1][0])  # only the order counts
    assert (drawn[2][1] == 0.5).all()
    assert {ax.images[0].get_clim() for ax in axes[1:].flat} == {(0, 1)}
    assert [len(ax.collections) for ax in axes[0]] == [1, 0]  # an empty truth has no outline
    assert figure.axes[-1].get_xlabel().startswith("share of the map's pixels")
    for changed, words in (
        ({"maps": {"a": rising[:1]}}, r"maps\['a'\] must have shape \(2, 4, 4\)"),
        ({"truth": truth[:, :3]}, r"truth must have shape"),
        ({"maps": {}}, "must hold at least one, got 0 and 2"),
        ({"axes": axes[:2]}, "axes must be a row for the images and one for each map"),
    ):
        with pytest.raises(ValueError, match=words):
            plot_saliency(**({"images": images, "maps": maps, "truth": truth, "axes": axes} | changed))

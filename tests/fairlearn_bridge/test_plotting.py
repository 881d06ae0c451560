"""Plots of schemes and mitigators: what is drawn is what was measured, or what training would see."""

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from captum_region import RegionMapDisplay
from captum_region.datasets import make_faces
from captum_region.plotting import STYLE
from fairlearn_bridge import AttributionNoiseMitigator, ImageClassifier, quantile_mask
from fairlearn_bridge.plotting import KIND_COLORS, plot_losses, plot_measure, plot_quantiles, plot_trade_off
from fairlearn_bridge.sweep import SweepResults

IMAGE = np.random.default_rng(0).integers(0, 256, (3, 8, 8), dtype=np.uint8)
MAPS = {"general": torch.arange(64).reshape(8, 8) / 64, "specific": np.arange(64)[::-1].reshape(8, 8) / 100}


def table_of(**measures):
    """Return a comparison of mitigators a, b, ... with intervals of ± 0.1."""
    columns = {
        (measure, statistic): np.array(values) + shift
        for measure, values in measures.items()
        for statistic, shift in (("mean", 0), ("low", -0.1), ("high", 0.1))
    }
    return pd.DataFrame(columns, index=list("abc"))


class TestQuantiles:
    def test_each_panel_changes_the_pixels_above_the_quantile(self):
        axes = Figure().subplots(4, 3)
        plot_quantiles(IMAGE, MAPS, (0.25, 0.75), axes=axes)
        original = IMAGE.transpose(1, 2, 0) / 255
        for row, (title, kind) in enumerate([(title, kind) for title in MAPS for kind in ("mask", "noise")]):
            np.testing.assert_allclose(axes[row, 0].images[1].get_array(), MAPS[title])
            assert axes[row, 0].texts[0].get_text() == f"{title} {kind}"
            for ax, quantile in zip(axes[row, 1:], (0.25, 0.75), strict=True):
                shown = np.asarray(ax.images[0].get_array())
                mask = quantile_mask(torch.as_tensor(MAPS[title].copy() if row > 1 else MAPS[title]), quantile).numpy()
                np.testing.assert_allclose(shown[~mask], original[~mask], atol=1e-6)
                assert (shown != original)[mask].any(-1).all()
                assert kind == "noise" or (shown[mask] == 0.5).all()
        assert [ax.get_title(loc="left") for ax in axes[0]] == ["map", "quantile 0.25", "quantile 0.75"]
        assert {ax.images[1].get_clim() for ax in axes[:, 0]} == {(0, 1)}  # one scale

    def test_a_donor_shows_through_the_mask(self):
        axes, donor = Figure().subplots(1, 3), np.full_like(IMAGE, 255)
        options = {"perturbations": ["transplant"], "donor": donor, "axes": axes}
        plot_quantiles(IMAGE, {"general": MAPS["general"]}, (0, 1), **options)
        np.testing.assert_allclose(axes[1].images[0].get_array(), 1, atol=1e-6)
        np.testing.assert_allclose(axes[2].images[0].get_array(), IMAGE.transpose(1, 2, 0) / 255, atol=1e-6)
        assert axes[0].texts[0].get_text() == "general transplant"
        several = Figure().subplots(3, 2)
        plot_quantiles(IMAGE, {"m": MAPS["general"]}, (0.5,), donor=donor, axes=several)
        assert [ax.texts[0].get_text() for ax in several[:, 0]] == ["m mask", "m noise", "m transplant"]

    def test_grey_and_float_images(self):
        axes = Figure().subplots(1, 2)
        plot_quantiles(IMAGE[:1] / 255, {"m": MAPS["general"]}, [1], perturbations=["noise"], axes=axes)
        np.testing.assert_allclose(axes[1].images[0].get_array(), IMAGE[0] / 255, atol=1e-6)

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"quantiles": [2]}, "quantile must be a number in"),
            ({"quantiles": []}, "must each hold at least one"),
            ({"pixel_maps": {}}, "must each hold at least one"),
            ({"pixel_maps": {"m": np.eye(4)}}, "pixel_map must be as large as image"),
            ({"perturbations": ["blur"]}, "perturbations must be mask, noise, transplant, got 'blur'"),
            ({"perturbations": ["transplant"]}, "donor must be given where perturbations has a transplant"),
            ({"donor": IMAGE[:, :4]}, r"donor must have the size of the image, \(3, .*\), got \(3, 4, "),
            ({"axes": Figure().subplots(2, 2)}, "axes must be a row for each map and perturbation"),
        ],
    )
    def test_what_does_not_fit_is_named(self, options, words):
        given = {"pixel_maps": {"m": MAPS["general"]}, "axes": Figure().subplots(2, 4)} | options
        if options == {"quantiles": [2]}:
            given["axes"] = Figure().subplots(2, 2)
        with pytest.raises(ValueError, match=words):
            plot_quantiles(IMAGE, **given)


class TestComparison:
    def test_measures_with_their_intervals(self):
        table = table_of(worst_cell=[0.4, np.nan, 0.7])
        ax = plot_measure(table, kinds={"a": "reference", "b": "control", "c": "scheme"}, ax=Figure().subplots())
        assert [text.get_text() for text in ax.get_yticklabels()] == ["a", "b", "c"]
        dots = {line.get_ydata()[0]: line for line in ax.lines if line.get_marker() != "None"}
        assert [dots[y].get_xdata()[0] for y in (0, 2)] == [0.4, 0.7]
        assert dots[2].get_color() == KIND_COLORS["scheme"]
        spans = [line.get_xdata() for line in ax.lines if line.get_marker() == "None"]
        np.testing.assert_allclose([spans[0], spans[2], spans[3]], [[0.3, 0.5], [0.6, 0.8], [0.4, 0.4]])
        with pytest.raises(ValueError, match=r"measure 'gap', it holds \['worst_cell'\]"):
            plot_measure(table, "gap")
        with pytest.raises(ValueError, match="kinds must have each mitigator of the table, it lacks 'b'"):
            plot_measure(table, kinds={"a": "reference"})
        with pytest.raises(ValueError, match="table must hold a mitigator, got none"):
            plot_measure(table[:0])

    def test_the_front_is_found(self):
        table = table_of(accuracy=[0.7, 0.9, 0.8], gap=[-0.1, 0.3, 0.5])
        ax = plot_trade_off(table, ax=Figure().subplots())
        (line,) = [line for line in ax.lines if line.get_drawstyle() == "steps-pre"]
        np.testing.assert_allclose(line.get_xydata()[1:3], [(0.7, 0.1), (0.9, 0.3)])
        with pytest.raises(ValueError, match="accuracy and gap of a mitigator"):
            plot_trade_off(table * np.nan)

    def test_losses_are_the_mean_of_the_seeds(self):
        losses = [[0.8, 0.4], [0.6, 0.2, 0.1], [], [1.0]]
        trainings = pd.DataFrame({"mitigator": ["a", "a", "b", "c"], "losses": losses})
        ax = plot_losses(trainings, ax=Figure().subplots())
        named = {line.get_label(): line.get_ydata() for line in ax.lines if not line.get_label().startswith("_")}
        assert set(named) == {"a", "c"}
        np.testing.assert_allclose(named["a"], [0.7, 0.3])
        # The style is that of all plots, in axes that are not.
        assert not ax.get_legend().get_frame_on()
        assert ax.get_legend().get_texts()[0].get_fontsize() == STYLE["legend.fontsize"]
        kinds = {"c": "control"}
        ax = plot_losses(trainings, kinds=kinds, legend=False, ax=Figure().subplots())
        assert ([line.get_linestyle() for line in ax.lines], ax.get_legend()) == ([":"], None)
        with pytest.raises(ValueError, match="trainings must hold losses"):
            plot_losses(trainings[trainings["mitigator"] == "b"])


def test_the_map_of_a_fitted_mitigator():
    faces = make_faces(60, size=16, random_state=0)
    mitigator = AttributionNoiseMitigator(ImageClassifier(max_epochs=1), region_epochs=1, random_state=0)
    mitigator.fit(faces.images, faces.binary("Male"), sensitive_features=faces.binary("Blond_Hair"))
    display = RegionMapDisplay.from_estimator(mitigator, faces, ax=Figure().subplots())
    np.testing.assert_allclose(display.pixel_map, mitigator.pixel_map_, atol=1e-6)


def test_a_sweep_shows_its_table():
    measures = {"accuracy": 0.8, "worst_cell": 0.5}
    rows = [
        {"confounder": "<hat>", "mitigator": name, "scheme": scheme, "quantile": quantile, "measure": measure}
        | {"mean": value, "difference_low": -0.1, "difference_high": 0.125}
        for name, scheme, quantile in (("original", None, np.nan), ("general_mask 0.7", "general_mask", 0.7))
        for measure, value in measures.items()
    ]
    validation = pd.DataFrame({"confounder": "<hat>", "mitigator": ["general_mask 0.7"], "worst_cell": [0.5]})
    html = SweepResults(pd.DataFrame(rows), validation)._repr_html_()
    assert "&lt;hat&gt;" in html
    assert "<td>0.12</td>" in html
    assert "<table" not in SweepResults()._repr_html_()

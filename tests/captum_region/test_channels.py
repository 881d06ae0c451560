"""Shares of attribution by channel: worked out by hand, identities in float64, streamed, with intervals."""

import numpy as np
import pytest
import torch
from captum import attr
from matplotlib.figure import Figure
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from captum_region import (
    DenseRegionClassifier,
    MultiScaleRegionAttribution,
    RegionAttribution,
    RegionGrid,
)
from captum_region.channels import (
    ChannelAttribution,
    ChannelShares,
    channel_mask,
    channel_shares,
    kernel_asymmetry,
    segmentation_evidence,
    slice_asymmetry,
    swap_test,
)
from captum_region.first_layer import neutralize_first_layer

EXACT = {"atol": 1e-9, "rtol": 0}
EVERYWHERE = torch.ones(6, 5)


def make_network(classes=2, channels=3):
    """A small segmentation network that is not linear."""
    network = nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, classes, 3, padding=1, padding_mode="reflect")
    )
    return network.double().eval()


def linear(*weights):
    """A 1 x 1 convolution: a segmentation whose attribution is known."""
    network = nn.Conv2d(len(weights), 1, 1).double().eval()
    with torch.no_grad():
        network.weight[0, :, 0, 0] = torch.tensor(weights)
    return network


def random_stacks(count=4, channels=3):
    return torch.rand(count, channels, 6, 5, dtype=torch.float64) + 0.1


def shares_of(network, stacks, method=attr.Saliency, region=EVERYWHERE, **options):
    return ChannelAttribution(method(segmentation_evidence(network, region=region))).attribute(stacks, **options)


# Shares and asymmetry of given maps


def test_shares_by_hand():
    maps = torch.zeros(2, 3, 2, 2)
    maps[0, 0] = torch.tensor([[1.0, -1.0], [1.0, -1.0]])  # the absolute value comes before the mean
    maps[0, 2, 1, 1] = -12.0
    maps[1, 1] = 0.5
    expected = [[0.25, 0, 0.75], [0, 1, 0]]
    assert channel_shares(maps).tolist() == expected
    assert channel_shares(maps.numpy()).tolist() == expected
    volumes = maps[:, :, None].expand(-1, -1, 7, -1, -1)
    np.testing.assert_allclose(channel_shares(volumes), expected, atol=1e-9)
    assert channel_shares(maps.half().requires_grad_()).tolist() == expected
    assert channel_shares(maps[:0]).shape == (0, 3)


def test_shares_sum_to_one_and_do_not_depend_on_the_scale():
    maps = torch.randn(5, 4, 6, 5, dtype=torch.float64)
    shares = channel_shares(maps)
    np.testing.assert_allclose(shares.sum(1), 1, atol=1e-9)
    np.testing.assert_allclose(channel_shares(-1e-6 * maps), shares, atol=1e-9)


def test_a_map_of_zeros_has_no_shares():
    maps = torch.randn(3, 3, 4, 4)
    maps[1] = 0
    with pytest.warns(RuntimeWarning, match="attribution of image 1 is 0 everywhere, so its shares are NaN"):
        shares = channel_shares(maps)
    assert np.isnan(shares).any(1).tolist() == [False, True, False]
    assert np.isnan(slice_asymmetry(shares)).any(1).tolist() == [False, True, False]


BAD_MAPS = {
    "one image": (torch.rand(3, 4, 4), r"must have shape \(N, C, height, width\) or .* got \(3, 4, 4\)"),
    "one channel": (torch.rand(2, 1, 4, 4), r"at least 2 channels.* got shape \(2, 1, 4, 4\)"),
    "no pixels": (torch.rand(2, 3, 0, 4), "and pixels; got shape"),
    "NaN": (torch.tensor([0.0, np.nan]).expand(1, 2, 2, 2).contiguous(), "finite, got NaN or infinity for image 0"),
    "expanded": (torch.rand(2, 1, 4, 4).expand(-1, 3, -1, -1), "must have a map for each channel, got"),
    "same": (torch.rand(2, 1, 4, 4).repeat(1, 3, 1, 1), "got the same in all channels"),
}


@pytest.mark.parametrize("case", BAD_MAPS)
def test_maps_without_shares_are_refused(case):
    maps, message = BAD_MAPS[case]
    with pytest.raises(ValueError, match=message):
        channel_shares(maps)


def test_equal_maps_can_be_a_result():
    np.testing.assert_allclose(channel_shares(torch.ones(2, 3, 4, 4), allow_equal=True), 1 / 3)
    with pytest.raises(ValueError, match="expanded to all channels"):
        channel_shares(torch.ones(2, 1, 4, 4).expand(-1, 3, -1, -1), allow_equal=True)


def test_asymmetry_by_hand_from_the_centre_outwards():
    np.testing.assert_allclose(slice_asymmetry([0.235, 0.602, 0.163]), [(0.163 - 0.235) / 0.398], atol=1e-9)
    np.testing.assert_allclose(slice_asymmetry([0.1, 0.2, 0.1, 0.3, 0.3]), [0.2, 0.5], atol=1e-9)
    assert slice_asymmetry([0.5, 0.5, 0]).tolist() == [-1]
    assert slice_asymmetry(torch.tensor([[0, 0.1, 0.9], [0.2, 0.6, 0.2]])).tolist() == [[1], [0]]


def test_asymmetry_changes_its_sign_when_the_slices_change_places():
    shares = np.random.default_rng(0).dirichlet(np.ones(5), size=20)
    asymmetry = slice_asymmetry(shares, least=0)
    np.testing.assert_allclose(slice_asymmetry(shares[:, ::-1], least=0), -asymmetry, atol=1e-9)
    assert (np.abs(asymmetry) <= 1).all()


def test_a_pair_that_holds_little_has_no_asymmetry():
    shares = [[0.03, 0.95, 0.02], [0.025, 0.96, 0.015]]
    with pytest.warns(RuntimeWarning, match=r"slices at \+-1 hold less than 0\.05 of the whole in 1 of 2 rows"):
        found = slice_asymmetry(shares)
    np.testing.assert_allclose(found, [[-0.2], [np.nan]], atol=1e-9)
    with pytest.warns(RuntimeWarning, match=r"at \+-2"):
        assert np.isnan(slice_asymmetry([0.01, 0.3, 0.3, 0.38, 0.01])).tolist() == [False, True]
    with pytest.warns(RuntimeWarning, match=r"at \+-1"):
        assert np.isnan(slice_asymmetry([0, 1, 0])).all()


@pytest.mark.parametrize("shares", [[0.5, 0.5], [1.0], [0.25] * 4, 0.5])
def test_windows_without_a_centre_are_refused(shares):
    with pytest.raises(ValueError, match="odd number of slices, at least 3"):
        slice_asymmetry(shares)
    with pytest.raises(ValueError, match=r"shares must be at least 0, got -0\.1"):
        slice_asymmetry([-0.1, 0.5, 0.6])
    with pytest.raises(ValueError, match="least must lie in"):
        slice_asymmetry([0.1, 0.3, 0.6], least=1)


# Intervals


def test_the_mean_is_that_of_the_groups_means_and_intervals_are_over_groups():
    shares = [[0.2, 0.6, 0.2]] * 9 + [[0.5, 0.4, 0.1]]
    plain = ChannelShares.from_shares(shares)
    np.testing.assert_allclose(plain.mean, [0.23, 0.58, 0.19], atol=1e-9)
    assert np.isnan(plain.mean_interval).all()  # never over images
    assert np.isnan(plain.asymmetry_interval).all()
    found = ChannelShares.from_shares(shares, groups=["a"] * 9 + ["b"])
    np.testing.assert_allclose(found.mean, [0.35, 0.5, 0.15], atol=1e-9)
    np.testing.assert_allclose(found.asymmetry, [-0.4], atol=1e-9)
    # By Student's t with one degree of freedom, 1 at a level of 0.5: the standard error is half of the difference.
    half = ChannelShares.from_shares(shares, groups=["a"] * 9 + ["b"], confidence_level=0.5)
    np.testing.assert_allclose(half.mean_interval, [[0.2, 0.4, 0.1], [0.5, 0.6, 0.2]], atol=1e-9)
    # Without the one group the asymmetry is -2 / 3, without the other 0.
    np.testing.assert_allclose(half.asymmetry_interval, [[-0.4 - 1 / 3], [-0.4 + 1 / 3]], atol=1e-9)
    np.testing.assert_allclose(found.mean_interval, [[0, 0, 0], [1, 1, 0.15 + 12.7062 * 0.05]], atol=1e-5)
    one = ChannelShares.from_shares(shares, groups=["a"] * 10)
    assert np.isnan(one.mean_interval).all()


@pytest.mark.parametrize("volumes", [3, 25])
def test_an_interval_covers_the_mean_and_the_asymmetry_as_often_as_it_says(volumes):
    generator = np.random.default_rng(0)
    covered = np.zeros(2)
    for _ in range(200):
        of_volume = generator.dirichlet([4, 8, 2], size=volumes)
        shares = generator.dirichlet([4, 8, 2], size=4 * volumes) * 0.1 + np.repeat(of_volume, 4, axis=0) * 0.9
        found = ChannelShares.from_shares(shares, np.repeat(np.arange(volumes), 4))
        ends = np.c_[found.mean_interval[:, 0], found.asymmetry_interval[:, 0]]
        truth = np.array([4 / 14, (2 - 4) / (2 + 4)])
        covered += (ends[0] <= truth) & (truth <= ends[1])
    assert (covered / 200 >= 0.88).all()  # of three volumes, a bootstrap's is too narrow
    assert (covered / 200 <= 0.99).all()


def test_the_table_and_the_plot():
    found = ChannelShares.from_shares([[0.3, 0.6, 0.1], [0.3, 0.4, 0.3]], groups=[0, 1])
    table = found.table()
    assert table["slice"].tolist() == ["previous", "centre", "next", "+-1"]
    np.testing.assert_allclose(table["value"], [0.3, 0.5, 0.2, -0.2], atol=1e-9)
    assert (table["low"] <= table["value"] + 1e-9).all()
    axes = Figure().subplots(1, 2)
    found.plot(axes[0])
    assert [bar.get_height() for bar in axes[0].patches] == pytest.approx([0.3, 0.5, 0.2])
    assert axes[0].get_title(loc="left") == "asymmetry -0.20"
    four = ChannelShares.from_shares([[0.1, 0.2, 0.3, 0.4]])
    assert four.asymmetry.shape == (0,)
    assert four.table()["slice"].tolist() == ["0", "1", "2", "3"]
    four.plot(axes[1], title="bands")
    assert axes[1].get_title(loc="left") == "bands"


def test_images_without_shares_are_left_out_of_the_summary():
    found = ChannelShares.from_shares([[0.3, 0.6, 0.1], [np.nan] * 3], groups=["a", "b"])
    np.testing.assert_allclose(found.mean, [0.3, 0.6, 0.1], atol=1e-9)
    for bad, message in (
        ({"shares": [[np.nan, np.nan]]}, "at least one image"),
        ({"shares": [0.5, 0.5]}, r"shares must have shape \(N, C\)"),
        ({"shares": [[0.5, 0.5]], "groups": [1, 2]}, r"groups must have shape \(1,\)"),
        ({"shares": [[0.5, 0.5]], "confidence_level": 1}, "confidence_level must lie in"),
    ):
        with pytest.raises(ValueError, match=message):
            ChannelShares.from_shares(**bad)


# Any Captum method

METHODS = {
    "Saliency": (attr.Saliency, {}),
    "IntegratedGradients": (attr.IntegratedGradients, {"n_steps": 4}),
    "FeatureAblation": (attr.FeatureAblation, {}),
    "FeatureAblation at once": (attr.FeatureAblation, {"perturbations_per_eval": 2}),
    "ShapleyValues": (attr.ShapleyValues, {}),
    "ShapleyValueSampling": (attr.ShapleyValueSampling, {"n_samples": 3}),
    "KernelShap": (attr.KernelShap, {"n_samples": 200}),
    "Lime": (attr.Lime, {"n_samples": 200, "interpretable_model": None}),
    "Occlusion": (attr.Occlusion, {"sliding_window_shapes": (1, 3, 5), "strides": (1, 3, 5)}),
}


@pytest.mark.parametrize("name", METHODS)
def test_shares_of_a_1_x_1_convolution(name):
    """All pixels are 1, so that the attribution of a channel is its weight, by gradient and by ablation alike."""
    method, options = METHODS[name]
    if name == "Lime":
        from captum._utils.models.linear_model import SkLearnLinearRegression

        make = lambda forward: method(forward, interpretable_model=SkLearnLinearRegression())  # noqa: E731
        options = {"n_samples": 200}
    else:
        make = method
    stacks = torch.ones(3, 3, 6, 5, dtype=torch.float64)
    found = shares_of(linear(0.3, -0.6, 0.1), stacks, make, **options)
    np.testing.assert_allclose(
        found.shares, [[0.3, 0.6, 0.1]] * 3, atol=1e-9 if "Shap" not in name and name != "Lime" else 1e-3
    )
    np.testing.assert_allclose(found.asymmetry, [-0.5], atol=1e-2)


def test_the_slices_change_places_and_so_does_the_asymmetry():
    network, stacks = make_network(), random_stacks()
    swapped = neutralize_first_layer(network, lambda weight: weight.flip(1))
    for method in (attr.Saliency, attr.IntegratedGradients, attr.FeatureAblation):
        one, other = shares_of(network, stacks, method), shares_of(swapped, stacks.flip(1), method)
        np.testing.assert_allclose(other.shares, one.shares[:, ::-1], **EXACT)
        np.testing.assert_allclose(other.asymmetry, -one.asymmetry, **EXACT)
        assert abs(one.asymmetry[0]) > 1e-3


def test_a_network_that_treats_channels_alike_has_equal_shares():
    network, stacks = make_network(), random_stacks()
    uniform = shares_of(neutralize_first_layer(network), stacks)
    np.testing.assert_allclose(uniform.shares, 1 / 3, **EXACT)
    np.testing.assert_allclose(uniform.asymmetry, 0, **EXACT)
    reflected = shares_of(neutralize_first_layer(network, "reflect"), stacks)
    np.testing.assert_allclose(reflected.asymmetry, 0, **EXACT)
    assert np.ptp(reflected.mean) > 1e-3


def test_exact_shapley_values_of_channels_are_complete():
    network, stacks = make_network(), random_stacks()
    evidence = segmentation_evidence(network)
    masks = evidence.masks(stacks)
    values = attr.ShapleyValues(evidence).attribute(
        stacks, feature_mask=channel_mask(stacks), additional_forward_args=masks, perturbations_per_eval=2
    )
    difference = evidence(stacks, masks) - evidence(torch.zeros_like(stacks), masks)
    # Captum keeps Shapley values in float32, whatever the inputs.
    torch.testing.assert_close(values[:, :, 0, 0].sum(1), difference.float(), atol=1e-6, rtol=0)
    assert torch.equal(values, values[:, :, :1, :1].expand_as(values))


def test_exact_shapley_values_by_hand():
    """The product of two slices is shared by both; all numbers here are exact in float32."""
    stacks = torch.tensor([[0.5, 3.0, -2.0], [1.25, -4.0, 0.0]], dtype=torch.float64)[:, :, None, None]

    def product(inputs):
        means = inputs.mean((2, 3))
        return means[:, 0] * means[:, 1] + means[:, 2]

    values = attr.ShapleyValues(product).attribute(stacks, feature_mask=channel_mask(stacks))[:, :, 0, 0]
    assert values.tolist() == [[0.75, 0.75, -2.0], [-2.5, -2.5, 0.0]]
    assert values.sum(1).tolist() == (product(stacks) - product(torch.zeros_like(stacks))).tolist()
    found = ChannelAttribution(attr.ShapleyValues(product)).attribute(stacks)
    np.testing.assert_allclose(found.shares, [[0.75 / 3.5, 0.75 / 3.5, 2 / 3.5], [0.5, 0.5, 0]], **EXACT)


def test_a_noise_tunnel_is_that_of_its_method_and_draws_from_the_random_state():
    network, stacks = make_network(), random_stacks()
    evidence = segmentation_evidence(network)
    tunnel = ChannelAttribution(attr.NoiseTunnel(attr.Saliency(evidence)))
    plain = ChannelAttribution(attr.Saliency(evidence)).attribute(stacks)
    still = tunnel.attribute(stacks, stdevs=0.0, nt_samples=3)
    np.testing.assert_allclose(still.shares, plain.shares, **EXACT)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1]
    moved = [tunnel.attribute(stacks, stdevs=0.5, nt_samples=3, random_state=seed).shares for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()
    np.testing.assert_array_equal(moved[0], moved[1])
    assert np.abs(moved[0] - moved[2]).max() > 1e-6
    ablation = ChannelAttribution(attr.NoiseTunnel(attr.FeatureAblation(evidence)))
    expected = ChannelAttribution(attr.FeatureAblation(evidence)).attribute(stacks)
    np.testing.assert_allclose(ablation.attribute(stacks, stdevs=0.0, nt_samples=2).shares, expected.shares, **EXACT)


def test_a_classifier_needs_a_target_of_all_or_of_each():
    network = nn.Sequential(make_network(4), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    stacks = random_stacks(5)
    by_channel = ChannelAttribution(attr.Saliency(network))
    targets = [3, 0, 1, 1, 2]
    together = by_channel.attribute(stacks, target=targets, batch_size=2).shares
    for number, target in enumerate(targets):
        alone = by_channel.attribute(stacks[number : number + 1], target=target).shares
        np.testing.assert_allclose(together[number], alone[0], **EXACT)
    np.testing.assert_allclose(
        ChannelAttribution(attr.KernelShap(network))
        .attribute(stacks, torch.tensor(targets), n_samples=50)
        .shares.sum(1),
        1,
    )
    for one in (torch.tensor(2), np.array(2), [2], torch.tensor([2])):
        np.testing.assert_array_equal(
            by_channel.attribute(stacks, target=one).shares, by_channel.attribute(stacks, target=2).shares
        )
    with pytest.raises(ValueError, match=r"target must be one class or one for each image, got shape \(5, 2\)"):
        by_channel.attribute(stacks, target=torch.zeros(5, 2, dtype=torch.long))
    for wrong in (True, -1, 1.0):
        with pytest.raises(ValueError, match="target must be a class number or one for each image, got"):
            by_channel.attribute(stacks, target=wrong)
    with pytest.raises(ValueError, match="target must have one value for each of the 5 images, got 2"):
        by_channel.attribute(stacks, target=[0, 1])


def test_a_function_of_images_needs_no_module():
    found = ChannelAttribution(attr.Saliency(lambda inputs: inputs[:, 1:].sum((1, 2, 3)))).attribute(random_stacks())
    np.testing.assert_allclose(found.mean, [0, 0.5, 0.5], **EXACT)


# Streams


class Endless(IterableDataset):
    def __init__(self, stacks):
        self.stacks = stacks

    def __iter__(self):
        return iter(self.stacks)


def test_any_source_of_windows_gives_the_same(tmp_path):
    network, stacks = make_network(), random_stacks(7)
    by_channel = ChannelAttribution(attr.IntegratedGradients(segmentation_evidence(network)))
    expected = by_channel.attribute(stacks, batch_size=7).shares
    np.save(tmp_path / "stacks.npy", stacks.numpy())
    pairs = TensorDataset(stacks, torch.zeros(7))
    sources = {
        "array": stacks.numpy(),
        "memmap": np.load(tmp_path / "stacks.npy", mmap_mode="r"),
        "data set": pairs,
        "loader": DataLoader(pairs, batch_size=4),
        "iterable data set": Endless(stacks),
        "generator": (window.numpy() for window in stacks),
        "list": list(stacks),
    }
    for name, source in sources.items():
        np.testing.assert_allclose(by_channel.attribute(source, batch_size=3).shares, expected, **EXACT, err_msg=name)


def test_uint8_becomes_floats_of_the_models_type():
    network = make_network()
    bytes_ = torch.randint(1, 256, (4, 3, 6, 5), dtype=torch.uint8)
    expected = shares_of(network, bytes_.double() / 255)
    np.testing.assert_allclose(shares_of(network, bytes_).shares, expected.shares, **EXACT)
    shares_of(network.float(), random_stacks().numpy())  # NumPy's float64, a model in float32
    with pytest.raises(TypeError, match=r"stacks must be uint8, or float .* got torch\.int32"):
        shares_of(network, bytes_.int())


def test_the_progress_reaches_the_end_on_stderr(capfd):
    shares_of(make_network(), random_stacks(5), batch_size=2)
    assert capfd.readouterr().err == ""
    for source in (random_stacks(5), list(random_stacks(5))):
        shares_of(make_network(), source, batch_size=2, show_progress=True)
        out, err = capfd.readouterr()
        assert out == ""
        assert "Saliency by channel: 100%" in err


def test_the_model_is_left_as_it_was():
    network, stacks = make_network(), random_stacks().requires_grad_()
    before = [value.clone() for value in network.state_dict().values()]
    shares_of(network, stacks, attr.DeepLift)
    assert stacks.grad is None
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(*pair) for pair in zip(before, network.state_dict().values(), strict=True))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_groups_and_a_map_of_zeros_in_a_stream():
    network, stacks = make_network(), random_stacks(6)
    with torch.no_grad():
        network[0].bias.zero_()
    stacks[4] = 0
    with pytest.warns(RuntimeWarning, match="attribution of image 4 is 0 everywhere"):
        found = shares_of(network, stacks, attr.InputXGradient, groups=list("aabbcc"), batch_size=2)
    assert np.isnan(found.shares).any(1).tolist() == [False] * 4 + [True, False]
    assert found.groups.tolist() == list("aabbcc")
    assert (found.mean_interval[0] < found.mean_interval[1]).all()


# What is refused


def test_methods_without_a_map_for_each_channel_are_refused():
    classifier = DenseRegionClassifier(RegionGrid(6, 3, 1), 2, random_state=0).eval()
    region = RegionAttribution(classifier)
    network = make_network()
    for method in (region, MultiScaleRegionAttribution([region]), attr.NoiseTunnel(region)):
        with pytest.raises(ValueError, match=r"to each channel of the input, .*RegionAttribution attributes to all"):
            ChannelAttribution(method)
    with pytest.raises(ValueError, match="LayerGradCam attributes to a layer's units"):
        ChannelAttribution(attr.LayerGradCam(network, network[0]))
    with pytest.raises(TypeError, match=r"method must be an attribution of captum\.attr, got function"):
        ChannelAttribution(shares_of)
    with pytest.raises(ValueError, match="got the same in all channels"):
        channel_shares(region.attribute(torch.rand(2, 3, 6, 6)))


class OfOneMap(attr.Saliency):
    def attribute(self, inputs, **_):
        return inputs[:, :1]


WRONG_OPTIONS = {
    "deep window": (attr.Occlusion, {"sliding_window_shapes": (3, 2, 2)}, "must be one channel deep"),
    "pixels": (attr.FeatureAblation, {"feature_mask": torch.arange(30).view(1, 1, 6, 5)}, "must tell channels apart"),
    "one map": (OfOneMap, {}, r"shape of the images, \(4, 3, 6, 5\), got \(4, 1, 6, 5\)"),
    "target": (attr.Saliency, {"target": 1}, "target must be left out with a segmentation_evidence"),
    "masks": (attr.Saliency, {"additional_forward_args": EVERYWHERE}, "additional_forward_args must be left out"),
    "labels": (attr.Saliency, {"labels": EVERYWHERE.expand(4, -1, -1)}, "labels must be left out"),
    "groups": (attr.Saliency, {"groups": [0, 1]}, "groups must have one value for each of the 4 images, got 2"),
    "batch": (attr.Saliency, {"batch_size": 0}, "batch_size must be an integer of at least 1, got 0"),
    "level": (attr.Saliency, {"confidence_level": 1}, r"confidence_level must lie in \(0, 1\), got 1"),
}


@pytest.mark.parametrize("case", WRONG_OPTIONS)
def test_options_that_do_not_fit_are_refused(case):
    method, options, message = WRONG_OPTIONS[case]
    with pytest.raises(ValueError, match=message):
        shares_of(make_network(), random_stacks(), method, **options)


def test_sources_that_do_not_fit_are_refused():
    network = make_network()
    for source, error, message in (
        (random_stacks()[0], ValueError, r"must have shape \(N, slices, height, width\), got \(3, 6, 5\)"),
        (random_stacks(0), ValueError, "at least one image, got none"),
        ([torch.rand(3, 6, 5), torch.rand(3, 5, 5)], ValueError, "windows and labels of one size"),
        ([{"image": 1}], TypeError, "must hold arrays or tensors, or tuples that start with one, got dict"),
        (3, TypeError, "must have a length and items by number"),
    ):
        with pytest.raises(error, match=message):
            shares_of(network, source)
    with pytest.raises(ValueError, match="model must be in eval mode"):
        shares_of(network.train(), random_stacks())


# The scalar of a segmentation


def test_evidence_is_the_mean_logit_over_the_mask():
    network, stacks = make_network(3), random_stacks(2)
    logits = network(stacks)
    predicted = logits.argmax(1) == 2
    evidence = segmentation_evidence(network, 2)
    assert torch.equal(evidence.masks(stacks), predicted)
    expected = torch.stack([values[inside].mean() for values, inside in zip(logits[:, 2], predicted, strict=True)])
    torch.testing.assert_close(evidence(stacks, predicted), expected, **EXACT)
    labels = torch.randint(3, (2, 6, 5))
    by_label = segmentation_evidence(network, 2, "label")
    expected = torch.stack([values[its == 2].mean() for values, its in zip(logits[:, 2], labels, strict=True)])
    torch.testing.assert_close(by_label(stacks, by_label.masks(stacks, labels)), expected, **EXACT)
    torch.testing.assert_close(by_label(stacks, labels), expected, **EXACT)
    torch.testing.assert_close(by_label(stacks, labels == 2), expected, **EXACT)
    corner = torch.zeros(6, 5)
    corner[0, 0] = 1
    by_mask = segmentation_evidence(network, 2, corner)
    torch.testing.assert_close(by_mask(stacks), logits[:, 2, 0, 0], **EXACT)
    torch.testing.assert_close(by_mask(stacks, predicted), evidence(stacks, predicted), **EXACT)
    assert by_mask.masks(stacks).shape == (2, 6, 5)


def test_one_logit_is_that_of_class_1():
    network, stacks = make_network(1), random_stacks(2)
    logits = network(stacks)[:, 0]
    one, zero = segmentation_evidence(network, 1, EVERYWHERE), segmentation_evidence(network, 0, EVERYWHERE)
    torch.testing.assert_close(one(stacks), logits.mean((1, 2)), **EXACT)
    torch.testing.assert_close(zero(stacks), -logits.mean((1, 2)), **EXACT)
    assert torch.equal(segmentation_evidence(network).masks(stacks), logits > 0)
    with pytest.raises(ValueError, match="with class 2, got"):
        segmentation_evidence(network, 2, EVERYWHERE)(stacks)


def test_torchvisions_mapping_of_logits_is_read():
    network = make_network()
    wrapped = segmentation_evidence(lambda inputs: {"out": network(inputs), "aux": 0}, region=EVERYWHERE)
    stacks = random_stacks()
    assert torch.equal(wrapped(stacks), segmentation_evidence(network, region=EVERYWHERE)(stacks))
    with pytest.raises(ValueError, match=r"must give logits of shape \(4, classes, \.\.\.\), got dict"):
        segmentation_evidence(lambda inputs: {"aux": 0}, region=EVERYWHERE)(stacks)


@pytest.mark.filterwarnings("ignore:Setting forward, backward hooks")  # DeepLift's
@pytest.mark.parametrize("region", ["prediction", "label"])
def test_masks_stay_those_of_the_unperturbed_images_however_captum_repeats_them(region):
    """Of each image alone, with its own mask given to all, and of all together."""
    network, stacks = make_network(), random_stacks(3)
    labels = torch.randint(2, (3, 6, 5)) if region == "label" else None
    evidence = segmentation_evidence(network, region=region)
    masks = evidence.masks(stacks, labels)
    assert not torch.equal(masks[0], masks[1])
    calls = {
        attr.IntegratedGradients: {"n_steps": 5, "internal_batch_size": 4},
        attr.FeatureAblation: {"feature_mask": channel_mask(stacks), "perturbations_per_eval": 2},
        attr.ShapleyValues: {"feature_mask": channel_mask(stacks), "perturbations_per_eval": 3},
        attr.DeepLift: {},
    }
    for method, options in calls.items():
        together = method(evidence).attribute(stacks.clone().requires_grad_(), additional_forward_args=masks, **options)
        for number, mask in enumerate(masks):
            own = method(segmentation_evidence(network, region=mask))
            alone = own.attribute(stacks[number : number + 1].clone().requires_grad_(), **options)
            torch.testing.assert_close(together[number : number + 1], alone, **EXACT, msg=str(method))
    expected = channel_shares(together)
    given = {} if labels is None else {"labels": labels.numpy()}
    found = ChannelAttribution(attr.DeepLift(evidence)).attribute(stacks, batch_size=2, **given)
    np.testing.assert_allclose(found.shares, expected, **EXACT)
    if region == "label":
        pairs = TensorDataset(stacks, labels)
        found = ChannelAttribution(attr.DeepLift(evidence)).attribute(pairs, batch_size=2)
        np.testing.assert_allclose(found.shares, expected, **EXACT)
        with pytest.raises(ValueError, match="labels must be given, or the second of pairs"):
            ChannelAttribution(attr.DeepLift(evidence)).attribute(stacks)
        with pytest.raises(ValueError, match="labels must have one value for each of the 3 images, got 2"):
            ChannelAttribution(attr.DeepLift(evidence)).attribute(stacks, labels=labels[:2])


def test_an_empty_mask_is_an_error_that_names_the_image():
    network = linear(1.0, 1.0, 1.0)
    stacks = random_stacks(5)
    with torch.no_grad():
        network.bias.zero_()
    stacks[3] *= -1  # nothing is predicted
    evidence = segmentation_evidence(network)
    with pytest.raises(ValueError, match="image 3 has an empty mask: no pixel of class 1 in its prediction"):
        evidence.masks(stacks)
    by_channel = ChannelAttribution(attr.Saliency(evidence))
    with pytest.raises(ValueError, match="image 3 has an empty mask"):
        by_channel.attribute(stacks, batch_size=2)
    found = by_channel.attribute(stacks, skip_empty=True, batch_size=3)
    assert np.isnan(found.shares).any(1).tolist() == [False, False, False, True, False]
    np.testing.assert_allclose(found.mean, 1 / 3, **EXACT)
    labels = torch.ones(5, 6, 5, dtype=torch.long)
    labels[1] = 0
    with pytest.raises(ValueError, match="image 1 has an empty mask: no pixel of class 1 in its labels"):
        segmentation_evidence(network, region="label").masks(stacks, labels)
    with pytest.raises(ValueError, match="image 1 has an empty mask"):
        evidence(stacks, labels.bool())
    with pytest.raises(ValueError, match="region must have at least one pixel"):
        segmentation_evidence(network, region=torch.zeros(6, 5))


def test_evidence_refuses_what_does_not_fit():
    network, stacks = make_network(), random_stacks()
    with pytest.raises(TypeError, match="model must be a callable"):
        segmentation_evidence(3)
    for options, message in (
        ({"class_index": -1}, "class_index must be the number of a class, got -1"),
        ({"class_index": True}, "class_index must be the number of a class, got True"),
        ({"region": "centre"}, 'region must be "prediction", "label" or a mask'),
        ({"region": torch.rand(6, 5)}, "region must be a mask of shape"),
        ({"region": [1, 1]}, "region must be a mask of shape"),
    ):
        with pytest.raises(ValueError, match=message):
            segmentation_evidence(network, **options)
    evidence = segmentation_evidence(network)
    with pytest.raises(ValueError, match=r"additional_forward_args=evidence\.masks\(inputs\)"):
        evidence(stacks)
    with pytest.raises(ValueError, match=r"masks must have the shape of the logits, \(4, 6, 5\), got \(4, 5, 5\)"):
        evidence(stacks, torch.ones(4, 5, 5, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"masks must be a tensor of bool, got torch\.int64"):
        evidence(stacks, torch.ones(4, 6, 5, dtype=torch.long))
    with pytest.raises(ValueError, match='labels are used with region="label" only'):
        evidence.masks(stacks, torch.ones(4, 6, 5, dtype=torch.long))
    with pytest.raises(ValueError, match="labels must be given"):
        segmentation_evidence(network, region="label").masks(stacks)


# Swap test and kernels


def test_the_swap_test_by_hand():
    network = linear(0.0, 0.0, 1.0)
    with torch.no_grad():
        network.bias.zero_()
    stacks = torch.zeros(2, 3, 1, 4, dtype=torch.float64)
    stacks[0, 2] = torch.tensor([1.0, 1.0, -1.0, -1.0])
    stacks[0, 0] = torch.tensor([1.0, -1.0, 1.0, -1.0])
    stacks[1, 0] = stacks[1, 2] = 2.0
    found = swap_test(network, stacks, batch_size=1)
    change = torch.tensor(1.0, dtype=torch.float64).sigmoid() - torch.tensor(-1.0, dtype=torch.float64).sigmoid()
    np.testing.assert_allclose(found.changes, [float(change) / 2, 0], **EXACT)
    assert found.change == pytest.approx(float(change) / 4)
    assert found.dice == pytest.approx(2 * (1 + 4) / (2 + 2 + 4 + 4))
    background = swap_test(network, stacks, 0)
    assert background.dice == pytest.approx(2 * 1 / (2 + 2))
    two = nn.Conv2d(3, 2, 1).double().eval()
    with torch.no_grad():
        two.weight[:] = 0.5 * torch.stack([-network.weight[0], network.weight[0]])
        two.bias.zero_()
    np.testing.assert_allclose(swap_test(two, stacks).changes, found.changes, **EXACT)
    assert swap_test(two, stacks).dice == pytest.approx(found.dice)


def test_a_symmetric_network_passes_the_swap_test():
    for channels in (3, 5):
        network, stacks = make_network(3, channels), random_stacks(4, channels)
        assert swap_test(network, stacks).change > 1e-4
        for how in ("uniform", "reflect"):
            found = swap_test(neutralize_first_layer(network, how), stacks)
            assert found.change < 1e-9
            assert found.dice == 1 or np.isnan(found.dice)


def test_the_swap_test_streams_and_takes_classifiers():
    network, stacks = make_network(4), random_stacks(5)
    expected = swap_test(network, stacks)
    for source in (stacks.numpy(), list(stacks), DataLoader(TensorDataset(stacks, stacks), batch_size=4)):
        found = swap_test(network, source, batch_size=2)
        np.testing.assert_allclose(found.changes, expected.changes, **EXACT)
        assert found.dice == pytest.approx(expected.dice, nan_ok=True)
    classifier = nn.Sequential(network, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    assert 0 < swap_test(classifier, stacks).change < 1
    assert np.isnan(swap_test(linear(-1.0, 0.0, 0.0), stacks + 9).dice)  # nothing is predicted


def test_the_mode_that_counts_is_that_of_the_model_now():
    network, inside, stacks = make_network(), torch.ones(6, 5, dtype=torch.bool), random_stacks()
    made_in_train_mode = segmentation_evidence(network.train(), region=inside)
    network.eval()
    found = ChannelAttribution(attr.Saliency(made_in_train_mode)).attribute(stacks)
    made_in_eval_mode = segmentation_evidence(network, region=inside)
    again = ChannelAttribution(attr.Saliency(made_in_eval_mode)).attribute(stacks)
    np.testing.assert_array_equal(found.mean, again.mean)
    network.train()
    with pytest.raises(ValueError, match="eval mode"):
        ChannelAttribution(attr.Saliency(made_in_eval_mode)).attribute(stacks)


def test_the_swap_test_refuses_what_does_not_fit():
    network = make_network()
    for stacks, options, message in (
        (random_stacks(2, 4), {}, "odd number of slices, at least 3, got 4"),
        (random_stacks(2, 1), {}, "odd number of slices, at least 3, got 1"),
        (random_stacks(0), {}, "at least one window, got none"),
        (random_stacks(2), {"class_index": 2}, "class_index must be a class of the model's logits, got 2"),
    ):
        with pytest.raises(ValueError, match=message):
            swap_test(network, stacks, **options)
    with pytest.raises(ValueError, match="eval mode"):
        swap_test(network.train(), random_stacks())
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got function"):
        swap_test(linear, random_stacks())


def test_kernel_asymmetry_is_that_of_the_norms():
    network = make_network(channels=5)
    found = kernel_asymmetry(network)
    norms = network[0].weight.detach().movedim(1, 0).flatten(1).norm(dim=1).numpy()
    assert found.layer == "0"
    np.testing.assert_allclose(found.norms, norms, **EXACT)
    np.testing.assert_allclose(found.shares, norms / norms.sum(), **EXACT)
    expected = [(norms[3] - norms[1]) / (norms[3] + norms[1]), (norms[4] - norms[0]) / (norms[4] + norms[0])]
    np.testing.assert_allclose(found.asymmetry, expected, **EXACT)
    for how in ("uniform", "reflect"):
        np.testing.assert_allclose(kernel_asymmetry(neutralize_first_layer(network, how)).asymmetry, 0, **EXACT)
    tied = neutralize_first_layer(network, "none", tie="reflect")
    np.testing.assert_allclose(kernel_asymmetry(tied, "0").asymmetry, 0, **EXACT)
    with pytest.raises(ValueError, match="odd number of slices"):
        kernel_asymmetry(nn.Conv2d(4, 2, 1))
    with pytest.raises(ValueError, match="not 0 everywhere"):
        kernel_asymmetry(
            nn.Sequential(nn.utils.skip_init(nn.Conv2d, 3, 2, 1)).apply(
                lambda m: [p.data.zero_() for p in m.parameters()]
            )
        )


def test_a_mask_of_channels():
    assert channel_mask(torch.zeros(4, 3, 6, 5)).tolist() == [[[[0]], [[1]], [[2]]]]
    assert channel_mask(torch.zeros(4, 2, 7, 6, 5)).shape == (1, 2, 1, 1, 1)
    with pytest.raises(ValueError, match="inputs must have shape"):
        channel_mask(torch.zeros(3))

"""The first convolution: found, freed of colours, widened, tied; identities in float64."""

import copy
import logging
import warnings
from functools import partial
from io import BytesIO

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize
from torchvision.transforms import Compose, Normalize

from captum_region.first_layer import (
    channel_normalization,
    find_first_layer,
    neutralize_first_layer,
    widen_first_layer,
)
from captum_region.segmentation import segmentation_network

EXACT = {"atol": 1e-9, "rtol": 0}


def make_network(channels=3, **options):
    network = nn.Sequential(
        nn.BatchNorm2d(channels, affine=False),
        nn.Conv2d(channels, 6, 3, padding=1, **options),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 2, 1),
    )
    return network.double().eval()


def random_stacks(channels=3):
    return torch.rand(2, channels, 9, 8, dtype=torch.float64)


def grey_stacks(channels=3):
    return random_stacks(1).expand(-1, channels, -1, -1)


def swapped(stacks):
    return stacks.flip(1)


# Identities


@pytest.mark.parametrize("how", ["uniform", "reflect"])
def test_a_grey_stack_keeps_its_response(how):
    network, grey = make_network(), grey_stacks()
    torch.testing.assert_close(neutralize_first_layer(network, how)(grey), network(grey), **EXACT)


def test_uniform_does_not_depend_on_the_order_of_slices():
    network, stacks = make_network(), random_stacks()
    neutral = neutralize_first_layer(network, "uniform")
    expected = neutral(stacks)
    for order in ([0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]):
        torch.testing.assert_close(neutral(stacks[:, order]), expected, **EXACT)
    torch.testing.assert_close(neutral(stacks.mean(1, keepdim=True).expand_as(stacks)), expected, **EXACT)
    assert (network(stacks) - expected).abs().max() > 1e-3


def test_reflect_does_not_tell_previous_from_next_but_the_centre():
    network, stacks = make_network(), random_stacks()
    neutral = neutralize_first_layer(network, "reflect")
    torch.testing.assert_close(neutral(swapped(stacks)), neutral(stacks), **EXACT)
    assert (neutral(stacks[:, [1, 0, 2]]) - neutral(stacks)).abs().max() > 1e-3
    assert torch.equal(neutral[1].weight[:, 1], network[1].weight[:, 1])


def test_kernels_exchanged_are_slices_exchanged():
    network, stacks = make_network(), random_stacks()
    exchanged = neutralize_first_layer(network, lambda weight: weight.flip(1))
    torch.testing.assert_close(exchanged(stacks), network(swapped(stacks)), **EXACT)


@pytest.mark.parametrize("width", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("how", ["uniform", "reflect"])
def test_a_grey_stack_of_any_width_keeps_its_response(how, width):
    layer, grey = make_network()[1], grey_stacks(1)
    if how == "reflect" and width % 2 == 0:
        with pytest.raises(ValueError, match="needs an odd number of channels"):
            neutralize_first_layer(layer, how, in_channels=width)
        return
    wide = neutralize_first_layer(layer, how, in_channels=width)
    assert wide.in_channels == width
    torch.testing.assert_close(wide(grey.expand(-1, width, -1, -1)), layer(grey.expand(-1, 3, -1, -1)), **EXACT)
    stacks = random_stacks(width)
    torch.testing.assert_close(wide(swapped(stacks)), wide(stacks), **EXACT)


def test_a_layer_of_five_slices_is_reflected_pair_by_pair():
    layer = make_network(5)[1]
    weight, new = layer.weight, neutralize_first_layer(layer, "reflect").weight
    torch.testing.assert_close(new[:, 0], (weight[:, 0] + weight[:, 4]) / 2, **EXACT)
    torch.testing.assert_close(new[:, 3], (weight[:, 1] + weight[:, 3]) / 2, **EXACT)
    assert torch.equal(new[:, 2], weight[:, 2])


def test_reflect_leaves_the_centre_its_kernel_in_a_wider_window():
    layer = make_network()[1]
    weight, new = layer.weight, neutralize_first_layer(layer, "reflect", in_channels=5).weight
    assert torch.equal(new[:, 2], weight[:, 1])
    for side in (0, 1, 3, 4):
        torch.testing.assert_close(new[:, side], (weight[:, 0] + weight[:, 2]) / 4, **EXACT)


@pytest.mark.parametrize(("how", "mixture"), [("green", (0, 1, 0)), ("luma", (0.299, 0.587, 0.114))])
def test_colour_rules_scale_one_kernel_by_least_squares(how, mixture):
    layer = make_network()[1]
    new = neutralize_first_layer(layer, how).weight
    kernel = torch.einsum("ochw,c->ohw", layer.weight, torch.tensor(mixture, dtype=torch.float64)).flatten(1)
    total, response = layer.weight.sum(1).flatten(1), new.sum(1).flatten(1)
    assert torch.equal(new[:, 0], new[:, 2])
    # What is left of the response to grey is orthogonal to the kernel: no other multiple is nearer.
    torch.testing.assert_close(((total - response) * kernel).sum(1), torch.zeros(6, dtype=torch.float64), **EXACT)
    cosine = torch.cosine_similarity(response, kernel).abs()
    torch.testing.assert_close(cosine, torch.ones_like(cosine), **EXACT)


def test_green_is_exact_for_proportional_kernels_and_0_for_none():
    layer = make_network()[1]
    with torch.no_grad():
        layer.weight[:, 0], layer.weight[:, 2] = 0.5 * layer.weight[:, 1], -0.2 * layer.weight[:, 1]
        layer.weight[5] = 0
    grey = grey_stacks()
    torch.testing.assert_close(neutralize_first_layer(layer, "green")(grey), layer(grey), **EXACT)


def test_none_repeats_the_colours_as_timm_does():
    layer = make_network()[1]
    assert torch.equal(neutralize_first_layer(layer, "none").weight, layer.weight)
    five = neutralize_first_layer(layer, "none", in_channels=5).weight
    torch.testing.assert_close(five, layer.weight[:, [0, 1, 2, 0, 1]] * 0.6, **EXACT)
    one = neutralize_first_layer(layer, "none", in_channels=1).weight
    torch.testing.assert_close(one, layer.weight.sum(1, keepdim=True), **EXACT)


def test_reinit_draws_from_the_random_state_alone():
    layer = nn.Conv2d(3, 64, 7)
    state = torch.get_rng_state()
    drawn = [neutralize_first_layer(layer, "reinit", random_state=seed).weight.detach() for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    bound = (3 * 49) ** -0.5  # torch's for a new layer
    assert drawn[0].abs().max() <= bound
    assert drawn[0].std() == pytest.approx(bound / 3**0.5, rel=0.05)
    assert neutralize_first_layer(layer, "reinit", in_channels=5, random_state=0).weight.shape == (64, 5, 7, 7)


# What is kept


def test_only_the_weight_changes():
    options = {"stride": 2, "dilation": 2, "padding_mode": "reflect"}
    network = make_network(**options)
    network[1].weight.requires_grad_(False)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    neutral = neutralize_first_layer(network)
    after = neutral.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in before.items())
    assert [name for name in before if not torch.equal(before[name], after[name])] == ["1.weight"]
    wide = neutralize_first_layer(network, in_channels=5)[1]
    for layer in (neutral[1], wide):
        assert type(layer) is nn.Conv2d
        assert (layer.stride, layer.dilation, layer.padding_mode) == ((2, 2), (2, 2), "reflect")
        assert not layer.weight.requires_grad
        assert layer.bias.requires_grad
        assert layer.weight.dtype == torch.float64
        assert torch.equal(layer.bias, network[1].bias)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_averaged_in_single(dtype):
    layer = nn.Conv2d(3, 4, 3).to(dtype)
    new = neutralize_first_layer(layer).weight
    assert new.dtype == dtype
    assert torch.equal(new[:, 0], (layer.weight.float().sum(1) / 3).to(dtype))


def test_in_place_keeps_the_parameter_so_that_an_optimiser_still_moves_it():
    network = make_network()
    weight = network[1].weight
    assert neutralize_first_layer(network, in_place=True) is network
    assert network[1].weight is weight
    assert torch.equal(weight[:, 0], weight[:, 2])


def test_the_layer_is_found_named_and_logged(caplog):
    inner = nn.Sequential(nn.Conv2d(1, 3, 1), nn.Conv2d(3, 4, 3))
    network = nn.Sequential(nn.Identity(), inner)
    assert find_first_layer(network) == ("1.0", inner[0])
    assert find_first_layer(network, in_channels=3) == ("1.1", inner[1])
    assert find_first_layer(network, "1.1", 3) == ("1.1", inner[1])
    assert find_first_layer(inner[1])[0] == ""
    with caplog.at_level(logging.INFO, "captum_region"):
        changed = neutralize_first_layer(network, layer="1.1")
    assert "'1.1'" in caplog.text
    assert torch.equal(changed[1][1].weight[:, 0], changed[1][1].weight[:, 1])
    assert torch.equal(changed[1][0].weight, inner[0].weight)


# What is refused


def quantised():
    from torch.ao.nn.quantized import Conv2d

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's quantised tensors are deprecated, in use all the same
        return nn.Sequential(Conv2d(3, 4, 3))


def weight_normed():
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)))


REFUSED = {
    "no convolution": (lambda: nn.Sequential(nn.Linear(3, 4)), "must have a Conv2d, it has no convolution"),
    "depthwise": (lambda: nn.Sequential(nn.Conv2d(3, 3, 3, groups=3)), "layer '0' .* depthwise, with groups=3"),
    "groups": (lambda: nn.Sequential(nn.Conv2d(4, 4, 3, groups=2)), "layer '0' .* one with groups=2"),
    "Conv3d": (lambda: nn.Sequential(nn.Conv3d(3, 4, 3)), "layer '0' must be a Conv2d .* is a Conv3d"),
    "transposed": (lambda: nn.ConvTranspose2d(3, 4, 3), "layer '' must be a Conv2d .* ConvTranspose2d"),
    "lazy": (lambda: nn.Sequential(nn.LazyConv2d(4, 3)), "layer '0' .* lazy and not initialised"),
    "quantised": (quantised, "layer '0' .* a quantised Conv2d"),
    "weight norm": (weight_normed, "layer '0' must have a weight of its own"),
    "tied": (lambda: neutralize_first_layer(make_network(), tie="uniform"), "layer '1' must have a weight of its own"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_treated_is_refused_by_name(kind):
    make, message = REFUSED[kind]
    with pytest.raises(ValueError, match=message):
        neutralize_first_layer(make())


BAD = {
    "how": ({"how": "blue"}, ValueError, "how must be a callable or one of uniform, reflect"),
    "tie": ({"tie": "all"}, ValueError, "tie must be one of none, uniform, reflect, got 'all'"),
    "no effect": ({"how": "reflect", "tie": "uniform"}, ValueError, "no effect"),
    "layer": ({"layer": "conv"}, ValueError, "layer must name a module of the model, got 'conv'; it has '1' "),
    "kind of layer": ({"layer": "0"}, ValueError, "layer '0' must be a Conv2d .* is a BatchNorm2d"),
    "no channels": ({"in_channels": 0}, ValueError, "in_channels must be an integer of at least 1, got 0"),
    "half channels": ({"in_channels": 2.5}, ValueError, "in_channels must be an integer"),
    "even": ({"how": "reflect", "in_channels": 4}, ValueError, "needs an odd number of channels.* got 4"),
    "even tie": ({"tie": "reflect", "in_channels": 4}, ValueError, "tie=.reflect. needs an odd number"),
    "shape": ({"how": lambda weight: weight[:, :2]}, ValueError, r"shape \(6, 3, 3, 3\), got \(6, 2, 3, 3\)"),
    "type": ({"how": lambda weight: 0}, TypeError, "how must return a tensor, got int"),
    "NaN": ({"how": lambda weight: weight / 0}, ValueError, "how must give layer '1' a finite weight"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_are_named_and_leave_the_model_alone(case):
    options, error, message = BAD[case]
    network = make_network()
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(error, match=message):
        neutralize_first_layer(network, in_place=True, **options)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_callable_cannot_change_the_model_through_its_argument():
    layer = nn.Conv2d(3, 4, 3)
    before = layer.weight.detach().clone()
    neutralize_first_layer(layer, lambda weight: weight.zero_())
    assert torch.equal(layer.weight, before)


def test_colours_need_a_layer_for_rgb_and_reflect_one_with_sides():
    for how in ("green", "luma"):
        with pytest.raises(ValueError, match="of 3 channels; it has 5"):
            neutralize_first_layer(nn.Conv2d(5, 4, 3), how)
    with pytest.raises(ValueError, match="3 channels or more, it has 1"):
        neutralize_first_layer(nn.Conv2d(1, 4, 3), "reflect", in_channels=3)
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got list"):
        neutralize_first_layer([])
    with pytest.raises(ValueError, match="layer '1' must take 5 channels, it takes 3"):
        find_first_layer(make_network(), "1", 5)
    with pytest.raises(ValueError, match=r"must have a Conv2d with 5 input channels, it has '1' .*, '4'"):
        find_first_layer(make_network(), in_channels=5)


# Ties


def train_a_step(network, stacks):
    optimiser = torch.optim.SGD(network.parameters(), lr=0.5)
    network(stacks)[:, 0].square().mean().backward()
    optimiser.step()


@pytest.mark.parametrize("tie", ["uniform", "reflect"])
def test_a_tie_keeps_the_symmetry_in_training(tie):
    network, stacks = make_network(), random_stacks()
    free = neutralize_first_layer(network, tie)
    tied = neutralize_first_layer(network, tie, tie=tie)
    torch.testing.assert_close(tied(stacks), free(stacks), **EXACT)
    for each in (free, tied):
        train_a_step(each, stacks)
    assert (tied(swapped(stacks)) - tied(stacks)).abs().max() < 1e-9
    assert (free(swapped(stacks)) - free(stacks)).abs().max() > 1e-6
    assert not torch.equal(tied[1].weight, neutralize_first_layer(network, tie)[1].weight)


def test_the_gradient_of_a_tie_is_the_mean_over_what_is_tied():
    network, stacks = make_network(), random_stacks()
    gradients = {}
    for tie in ("none", "uniform", "reflect"):
        each = neutralize_first_layer(network, "uniform", tie=tie)
        each(stacks)[:, 0].square().mean().backward()
        layer = each[1]
        gradients[tie] = (layer.weight if tie == "none" else layer.parametrizations.weight.original).grad
    free = gradients["none"]
    torch.testing.assert_close(gradients["uniform"], free.mean(1, keepdim=True).expand_as(free), **EXACT)
    torch.testing.assert_close(gradients["reflect"], (free + free.flip(1)) / 2, **EXACT)


@pytest.mark.parametrize("tie", ["uniform", "reflect"])
def test_a_tied_model_is_copied_saved_loaded_and_untied(tie):
    network, stacks = make_network(), random_stacks()
    tied = neutralize_first_layer(network, "none", tie=tie)
    train_a_step(tied, stacks)
    expected = tied(stacks)
    assert torch.equal(copy.deepcopy(tied)(stacks), expected)
    torch.save(tied.state_dict(), file := BytesIO())
    file.seek(0)
    loaded = neutralize_first_layer(make_network(), tie=tie)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(loaded(stacks), expected)
    parametrize.remove_parametrizations(loaded[1], "weight")
    torch.testing.assert_close(loaded(stacks), expected, **EXACT)
    assert set(loaded.state_dict()) == set(network.state_dict())
    with pytest.raises(RuntimeError, match="state_dict"):  # torch's own
        torch.save(tied, BytesIO())


# Widening by a channel of zeros


def test_a_zero_channel_leaves_the_output_and_can_be_learnt():
    network, stacks = make_network(), random_stacks()
    network[0] = nn.Identity()
    network.requires_grad_(False)
    expected = network(stacks)
    widen_first_layer(network, 3)
    assert network[1].in_channels == 4
    torch.testing.assert_close(network(torch.cat([stacks, stacks[:, :1]], 1)), expected, **EXACT)
    assert network[1].weight.requires_grad
    for other in (nn.Linear(3, 3), nn.Conv2d(1, 3, 1), nn.Conv2d(3, 3, 1, groups=3)):
        before = other.weight
        widen_first_layer(other, 3)
        assert other.weight is before


# Normalisation


class Normalized(nn.Module):
    def __init__(self, mean, std):
        super().__init__()
        self.register_buffer("pixel_mean", torch.tensor(mean).view(-1, 1, 1))
        self.std = std
        self.body = nn.Conv2d(3, 4, 1)
        self.body.pretrained_cfg = self.body.default_cfg = {"mean": (0.1, 0.2, 0.3), "std": (1, 1, 1), "crop": [1, 2]}
        self.preprocessing = partial(print, mean=[0.4, 0.4, 0.5], std=None)
        self.transform = Compose([Normalize((0.5, 0.5, 0.5), (0.2, 0.3, 0.4))])


def test_normalisation_that_differs_by_channel_is_found_and_named():
    network = nn.Sequential(Normalized([0.25, 0.5, 0.75], [1.0, 1.0, 2.0]))
    assert channel_normalization(network) == {
        "0.pixel_mean": (0.25, 0.5, 0.75),
        "0.std": (1.0, 1.0, 2.0),
        "0.preprocessing.mean": (0.4, 0.4, 0.5),
        "0.transform.0.std": (0.2, 0.3, 0.4),
        "0.body.pretrained_cfg.mean": (0.1, 0.2, 0.3),
    }
    with pytest.warns(UserWarning, match=r"0\.pixel_mean = \(0\.25, 0\.5, 0\.75\), 0\.std = ") as caught:
        neutralize_first_layer(network)
    assert "cfg" not in str(caught[0].message)  # which is advice: the model does not apply it
    neutralize_first_layer(network, "none")


def test_equal_constants_and_other_numbers_are_no_normalisation():
    network = nn.Sequential(Normalize([0.5] * 3, [0.5] * 3), nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))
    network.means = [1, 2, 3, 4, 5, 6, 7]
    network.std = ["a", "b", "c"]
    assert channel_normalization(network) == {}
    with pytest.raises(TypeError, match="model must be"):
        channel_normalization(None)


@pytest.mark.parametrize("in_place", [False, True])
def test_a_segmentation_network_takes_as_many_slices_as_its_first_layer(in_place):
    network = segmentation_network("small_unet", random_state=0)
    network.mean.fill_(0.25)
    wide = neutralize_first_layer(network, "reflect", in_channels=5, in_place=in_place)
    assert wide(torch.rand(1, 5, 16, 16)).shape == (1, 1, 16, 16)
    assert wide.mean.tolist() == [0.25] * 5
    grey = torch.rand(1, 1, 16, 16)
    if not in_place:
        torch.testing.assert_close(wide(grey.expand(1, 5, -1, -1)), network(grey.expand(1, 3, -1, -1)))
        assert network.in_channels == 3
    again = segmentation_network("small_unet", in_channels=5)
    again.load_state_dict(wide.state_dict())

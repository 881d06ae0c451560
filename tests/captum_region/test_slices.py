"""First layers compared on stacks of known truth, checkpoints inspected, and the command that does both."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from captum.attr import FeatureAblation
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from captum_region import compare_first_layers
from captum_region.cli import app
from captum_region.io.files import locked
from captum_region.randomness import seeded
from captum_region.segmentation import SegmentationNetwork, SmallUNet, segmentation_network
from captum_region.slices import inspect_slices
from captum_region.slices.arms import ARMS, arms_of
from captum_region.slices.words import findings, headline
from captum_region.stacks import Stack, make_stack

SIDE = 16


def of_colours(width=2, depth=1):
    """A small network whose first layer weighs its channels as one for colours does: R least, G most."""
    with seeded(0):
        network = SmallUNet(width=width, depth=depth)
    with torch.no_grad():
        network.down[0][0].weight *= torch.tensor([0.3, 2.0, 1.0])[:, None, None]
    return network.eval()


def drawn(seed):
    with seeded(seed):
        return SmallUNet(width=2, depth=1)


def parts_of(stack, *ends):
    return [stack[start:end] for start, end in zip((0, *ends), (*ends, len(stack)), strict=True)]


STACK = make_stack("all", slices=12, size=SIDE, random_state=0)
QUICK = {"steps": 2, "evaluate_every": 1, "batch_size": 2, "patch_size": SIDE, "seeds": 2}


def compare(stack=STACK, **options):
    return compare_first_layers(*parts_of(stack, 6, 9), **{"network": of_colours(), **QUICK, **options})


@pytest.fixture(scope="module")
def compared():
    """A comparison of few steps: what it computes does not depend on how much was learnt."""
    return compare()


@pytest.fixture(scope="module")
def learnt():
    """Networks that have learnt labels which follow the previous slice alone."""
    parts = parts_of(make_stack("previous", slices=20, size=24, random_state=0), 13, 16)
    options = {"steps": 100, "evaluate_every": 50, "batch_size": 4, "patch_size": 24, "lr": 1e-2, "seeds": 1}
    arms = ["pretrained", "random", "uniform", "uniform tied"]
    return compare_first_layers(*parts, network=of_colours(4), arms=arms, **options)


@pytest.mark.slow
@pytest.mark.parametrize("arm", ["pretrained", "random", "uniform"])
def test_an_asymmetry_that_the_data_call_for_is_learnt_from_any_first_layer(learnt, arm):
    row = learnt.table().loc[arm]
    assert row["asymmetry_after"] < -0.8
    assert row["share_previous_after"] > 0.7
    assert row["dice"] > 0.9
    assert row["swap_change_after"] > 0.3


@pytest.mark.slow
def test_a_tied_first_layer_cannot_learn_it(learnt):
    row = learnt.table().loc["uniform tied"]
    assert abs(row["asymmetry_after"]) < 1e-6
    assert row["swap_change_after"] < 1e-6
    assert row["dice"] < learnt.table().loc["uniform", "dice"] - 0.2
    np.testing.assert_allclose(row.filter(like="share_"), 1 / 3, atol=1e-6)


@pytest.mark.slow
def test_the_words_say_to_which_slice_the_network_leans(learnt):
    assert "attends to the previous slice more than to the next" in headline(learnt)
    assert "uniform tied" in headline(learnt)  # which takes it away


def test_where_all_slices_count_alike_a_neutral_network_leans_to_none_and_colours_lean_as_their_kernels():
    found = compare(arms=["pretrained", "swapped", "uniform"], seeds=1, steps=10, evaluate_every=10).table()
    assert found.loc["pretrained", "asymmetry_after"] > 0.3
    assert found.loc["swapped", "asymmetry_after"] < -0.3
    assert abs(found.loc["uniform", "asymmetry_after"]) < 0.1


def test_the_asymmetry_before_training_is_that_of_the_kernels(compared):
    rows = compared.table()["asymmetry_before"]
    assert rows["pretrained"] > 0.3
    assert rows["swapped"] < -0.3
    assert rows[["uniform", "reflect"]].abs().max() < 1e-6
    kernels = compared.runs.groupby("arm")["kernel_asymmetry_before"].first()
    assert kernels["swapped"] == pytest.approx(-kernels["pretrained"], abs=1e-6)


def test_swapped_kernels_see_a_stack_as_the_given_ones_see_its_mirror_image():
    arms = ["pretrained", "swapped"]
    mirrored = [Stack(part.images[::-1], part.labels[::-1], "mirrored") for part in parts_of(STACK, 6, 9)]
    one, other = (
        compare_first_layers(*parts, network=of_colours(), arms=arms, **QUICK).runs.set_index(["arm", "seed"])
        for parts in (parts_of(STACK, 6, 9), mirrored)
    )
    here, there = one.loc[("pretrained", 0)], other.loc[("swapped", 0)]
    assert here["asymmetry_before"] == pytest.approx(-there["asymmetry_before"], abs=1e-6)
    for name, same in (("previous", "next"), ("centre", "centre"), ("next", "previous")):
        assert here[f"share_{name}_before"] == pytest.approx(there[f"share_{same}_before"], abs=1e-6)


def test_networks_that_lean_to_different_sides_do_not_count_them_alike():
    found = compare(arms=["pretrained", "random", "reflect"], seeds=3, steps=1)
    asymmetry = {"pretrained": [-0.3, -0.31, -0.29], "random": [0.4, -0.38, -0.02], "reflect": [0.01, 0.0, 0.0]}
    runs = found.runs.sort_values(["arm", "seed"]).assign(asymmetry_after=np.concatenate([*asymmetry.values()]))
    text = headline(replace(found, runs=runs))
    assert "With reflect both sides count alike" in text
    arms = {name: found.arms[name] for name in ("random", "reflect")}
    text = headline(replace(found, runs=runs[runs["arm"] != "pretrained"], arms=arms))
    assert "each network leans to a side, not all to the same: an asymmetry of 0.267 on average" in text


def centre_alone(model):
    with torch.no_grad():
        model.down[0][0].weight[:, [0, 2]] = 0
    return model


def test_the_asymmetry_is_nan_where_the_centre_holds_nearly_all():
    found = compare(arms={"centre": centre_alone, "uniform": "uniform"}, seeds=1, steps=1, lr=1e-9)
    row = found.runs.set_index("arm").loc["centre"]
    assert np.isnan([row["asymmetry_before"], row["asymmetry_after"]]).all()
    assert row["share_centre_after"] > 0.99
    assert row["kernel_asymmetry_before"] != row["kernel_asymmetry_before"]
    assert "undefined" in headline(found)


def test_runs_and_scores_have_a_row_for_each_arm_and_seed(compared):
    assert compared.runs[["seed", "arm"]].to_numpy().tolist() == [
        [seed, arm] for seed in (0, 1) for arm in compared.arms
    ]
    assert [*compared.arms] == ["pretrained", "swapped", "random", "uniform", "reflect"]
    assert compared.scores.groupby(["arm", "seed"]).size().eq(1).all()
    shares = compared.runs[[f"share_{name}_after" for name in ("previous", "centre", "next")]]
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    assert set(compared.history["step"]) == {1, 2}
    pd.testing.assert_series_equal(compared.runs["dice"], compared.scores["dice"])


def test_differences_are_paired_by_seed(compared):
    values = compared.runs.pivot(index="seed", columns="arm", values="dice")
    row = compared.summary().set_index(["measure", "arm"]).loc[("dice", "uniform")]
    difference = values["uniform"] - values["pretrained"]
    half = 12.706204736 * difference.std() / 2**0.5  # Student's t with one degree of freedom
    assert row["mean"] == pytest.approx(values["uniform"].mean())
    assert row[["difference", "low", "high"]].tolist() == pytest.approx(
        [difference.mean(), difference.mean() - half, difference.mean() + half]
    )
    own = compared.summary().set_index(["measure", "arm"]).loc[("dice", "pretrained")]
    assert own[["difference", "low", "high"]].tolist() == [0, 0, 0]


@pytest.mark.slow
def test_an_arm_does_not_depend_on_the_others_nor_on_the_number_of_jobs(compared):
    found = compare(arms=["uniform", "random"], n_jobs=2)
    for arm in found.arms:
        pd.testing.assert_frame_equal(
            *(each.runs[each.runs["arm"] == arm].reset_index(drop=True) for each in (found, compared))
        )


def test_a_stopped_comparison_resumes_to_the_same_bytes(compared, tmp_path, written, states):
    folder = tmp_path / "checkpoints"

    made = []

    def stopped(model):
        made.append(model)
        if len(made) > 1:  # it is made once before all trainings
            raise KeyboardInterrupt
        return model

    with pytest.raises(KeyboardInterrupt):
        compare(arms={"pretrained": "pretrained", "mine": stopped}, checkpoint_dir=folder)
    kept = {path: written(path) for path in states(tmp_path)}
    assert len(kept) == 1
    found = compare(checkpoint_dir=folder)
    assert kept.items() <= {path: written(path) for path in states(tmp_path)}.items()
    assert len(states(tmp_path)) == 10
    for each in (found, compare(checkpoint_dir=folder)):
        for table in ("runs", "scores", "history"):
            assert getattr(each, table).to_csv() == getattr(compared, table).to_csv()
        for arm, expected in compared.examples.items():
            for part, values in vars(expected).items():
                np.testing.assert_array_equal(getattr(each.examples[arm], part), values)


def test_five_slices_are_widened_from_three_with_the_response_to_grey_kept():
    network = segmentation_network("small_unet", random_state=0)
    grey = torch.rand(1, 1, SIDE, SIDE)
    arms = arms_of([name for name in ARMS if name not in ("random", "pretrained", "swapped", "unchanged", "flipped")])
    for name, arm in arms.items():
        wide = arm.applied(network, 5, 0)
        assert isinstance(wide, SegmentationNetwork)
        assert wide.mean.shape == (5,)
        if name not in ("green", "luma"):  # which keep it in least squares
            torch.testing.assert_close(wide(grey.expand(-1, 5, -1, -1)), network(grey.expand(-1, 3, -1, -1)))
    parts = parts_of(make_stack("all", slices=18, size=SIDE, random_state=0), 6, 12)
    found = compare_first_layers(*parts, network=network, arms=["pretrained", "reflect"], window=5, **QUICK)
    assert "share_+2_after" in found.runs
    rows = found.runs.set_index("arm").loc["reflect", ["asymmetry_before", "asymmetry_2_before"]]
    assert rows.abs().max(axis=None) < 1e-6


def test_flipped_stacks_and_own_networks_and_methods(tmp_path):
    found = compare(arms=["unchanged", "flipped", "random"], network=of_colours(), attribution=FeatureAblation, seeds=1)
    rows = found.runs.set_index("arm")
    assert rows.loc["flipped", "asymmetry_before"] == rows.loc["unchanged", "asymmetry_before"]
    losses = found.history.set_index(["arm", "step"])["loss"]
    assert losses["flipped", 2] != losses["unchanged", 2]
    random = compare(arms=["unchanged", "uniform tied", "reflect tied"], network=drawn)
    assert random.runs["asymmetry_before"].nunique() > 2  # each seed has a network of its own
    tied = random.runs.set_index("arm").loc[["uniform tied", "reflect tied"], ["asymmetry_after", "swap_change_after"]]
    assert tied.abs().max(axis=None) < 1e-6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arms": ["uniform", "purple"]}, "arms must be of pretrained, .* got 'purple'"),
        ({"arms": ["uniform", "uniform"]}, "arms must hold at least one arm, each once"),
        ({"network": drawn}, "arms must leave out pretrained, swapped: the first layer of network is random"),
        ({"network": 3, "arms": ["uniform"]}, "network must be"),
        ({"window": 4}, "window must be an odd integer of at least 3, got 4"),
        ({"window": 9}, "train: window must fit into the stack"),
        ({"seeds": 0}, "seeds must be an integer of at least 1, got 0"),
        ({"seeds": [1, 1]}, "seeds must be a number, or integers, each once"),
        ({"region": "all"}, 'region must be "prediction" or "label"'),
        ({"stack": Stack(STACK.images)}, "^train must have labels"),
        ({"arms": {"uniform": "uniform", "mine": lambda model: None}}, "arms must give a torch.nn.Module"),
        (
            {"arms": {"uniform": "uniform", "mine": lambda model: SmallUNet(5, width=2, depth=1)}},
            "arms must take windows of 3 slices, mine does not",
        ),
        ({"network": drawn, "arms": {"base": "pretrained"}}, "arms must leave out base: the first layer .* is random"),
        ({"network": nn.Conv1d(3, 1, 1)}, "must be a Conv2d"),
    ],
)
def test_what_does_not_fit_is_refused_by_name_before_anything_is_trained(options, message, tmp_path):
    with pytest.raises((TypeError, ValueError), match=message):
        compare(**options, checkpoint_dir=tmp_path)
    assert not [*tmp_path.iterdir()]


def test_stacks_of_one_name_are_refused():
    with pytest.raises(ValueError, match="train must hold stacks of different names, got all, all"):
        compare_first_layers([STACK, STACK], STACK, STACK, network=of_colours())


def test_normalisation_that_differs_by_channel_is_named_once(recwarn):
    network = SegmentationNetwork(of_colours(), 3, 1)
    network.mean.copy_(torch.tensor([0.485, 0.456, 0.406]))
    with pytest.warns(UserWarning, match=r"network normalises its input differently by channel.*mean") as caught:
        found = compare(network=network, arms=["uniform", "reflect"], seeds=1)
    assert len(caught) == 1
    assert found.settings["normalization"] == {"mean": [0.485, 0.456, 0.406]}


def with_asymmetries(found, own, swapped):
    """The findings of a comparison with other asymmetries after training."""
    values = {"pretrained": own, "swapped": swapped}
    runs = found.runs.assign(asymmetry_after=found.runs["arm"].map(values))
    return dict(findings(type(found)(runs, found.scores, found.history, found.arms, found.examples, found.settings)))


@pytest.mark.parametrize(
    ("own", "swapped", "words"),
    [
        (-0.2, 0.2, "So the weights cause it, not the data"),
        (
            -0.4,
            0.1,
            "So the weights cause most of it",
        ),
        (-0.3, -0.15, "So the data or the training cause most of it"),
        (-0.3, -0.25, "It stays although the kernels are in reverse order"),
        (0.3, -0.001, "So both cause it"),
        (0.3, 0.001, "So both cause it"),
        (0.01, -0.02, "no asymmetry to explain"),
        (np.nan, 0.2, "cannot tell"),
    ],
)
def test_the_control_tells_weights_from_data(compared, own, swapped, words):
    assert words in with_asymmetries(compared, own, swapped)["Weights or data?"]


def test_the_control_goes_by_what_an_arm_is_and_not_by_its_name(compared):
    others = {"base": compared.arms["pretrained"], "turned": compared.arms["swapped"]}
    names = {"pretrained": "base", "swapped": "turned"}
    runs = compared.runs[compared.runs["arm"].isin(names)].assign(arm=lambda table: table["arm"].map(names))
    assert "Weights or data?" in dict(findings(replace(compared, runs=runs, arms=others)))
    misnamed = compared.arms | {"swapped": compared.arms["uniform"]}
    assert "Weights or data?" not in dict(findings(replace(compared, arms=misnamed)))


def test_of_five_slices_the_words_are_of_the_pair_that_counts():
    found = compare(arms=["unchanged", "swapped"], window=5, border="reflect", seeds=1)
    shares = dict(zip(["-2", "-1", "centre", "+1", "+2"], [0.95, 0.03, 0.004, 0.01, 0.006], strict=True))
    runs = found.runs.assign(
        **{f"share_{name}_after": share for name, share in shares.items()},
        asymmetry_after=np.nan,
        asymmetry_2_after=found.runs["arm"].map({"unchanged": -0.987, "swapped": 0.9}),
    )
    wide = replace(found, runs=runs)
    assert "attends to the slice 2 before the centre more than to the one 2 after it: asymmetry" in headline(wide)
    assert "0.987" in headline(wide)
    assert "of the slices 2 from the centre" in dict(findings(wide))["Before and after training"]
    assert "So the weights cause it" in dict(findings(wide))["Weights or data?"]
    # Where the outer slices hold nothing, the inner ones say it.
    near = runs.assign(**{"share_-2_after": 0.0, "share_+2_after": 0.0, "asymmetry_after": 0.5})
    assert "attends to the next slice more than to the previous" in headline(replace(found, runs=near))


def test_the_page_has_its_pictures_and_loads_nothing(compared, tmp_path, listed):
    text = compared.write(tmp_path, stack="mine")
    page = (tmp_path / "report.html").read_text()
    assert page.count('<img src="data:image/') == 3
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")
    assert headline(compared).split("“")[0] in page
    assert listed(tmp_path / "plots") == {"asymmetry.png", "dice.png", "saliency.png"}
    kept = json.loads(text)
    assert kept["settings"]["stack"] == "mine"
    assert kept["reference"] == "pretrained"
    assert len(kept["runs"]) == 10


def weighted(*weights):
    """A model of one 1 x 1 convolution: the shares of its gradient are those of the weights."""
    network = nn.Conv2d(len(weights), 1, 1)
    with torch.no_grad():
        network.weight.copy_(torch.tensor(weights)[None, :, None, None])
        network.bias.fill_(-0.5)
    return network.eval()


def test_inspect_slices_by_hand():
    stack = make_stack("centre", slices=6, size=SIDE, random_state=0)
    found = inspect_slices(weighted(0.3, 0.6, 0.1), stack)
    own, uniform, reflect = (found.table.loc[name] for name in ("as it is", "uniform", "reflect"))
    shares = [f"share_{name}" for name in ("previous", "centre", "next")]
    assert own[shares].tolist() == pytest.approx([0.3, 0.6, 0.1], abs=1e-6)
    assert own[["asymmetry", "kernel_asymmetry"]].tolist() == pytest.approx([-0.5, -0.5], abs=1e-6)
    assert own["swap_change"] > 0.01
    assert uniform[shares].tolist() == pytest.approx([1 / 3] * 3, abs=1e-6)
    assert reflect[shares].tolist() == pytest.approx([0.2, 0.6, 0.2], abs=1e-6)
    assert max(uniform["swap_change"], reflect["swap_change"]) < 1e-6
    assert inspect_slices(weighted(0.0, 1.0, 0.0), stack, neutralizers=()).table["dice"].tolist() == [1.0]
    centre = inspect_slices(weighted(0.01, 0.98, 0.01), stack, neutralizers=()).table.loc["as it is"]
    assert np.isnan(centre["asymmetry"])


def test_inspect_slices_without_labels_nor_prediction_and_of_five_slices():
    images = Stack(STACK.images)
    found = inspect_slices(weighted(1.0, 1.0, 1.0, 1.0, 2.0), images, neutralizers=["uniform"])
    assert "dice" not in found.table
    assert found.table.loc["as it is", ["asymmetry", "asymmetry_2"]].tolist() == pytest.approx([0, 1 / 3], abs=1e-6)
    nowhere = inspect_slices(weighted(-1.0, -1.0, -2.0), images, neutralizers=()).table.loc["as it is"]
    assert np.isnan(nowhere[["share_previous", "asymmetry", "swap_dice"]]).all()
    assert nowhere["swap_change"] > 0


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (weighted(1.0, 1.0), {}, "model must take an odd number of slices, at least 3; layer '' takes 2"),
        (of_colours().train(), {}, "model must be in eval mode"),
        (weighted(1.0, 1.0, 1.0), {"neutralizers": "uniform"}, "neutralizers must be names"),
        (weighted(1.0, 1.0, 1.0), {"neutralizers": ["uniform", "purple"]}, "how must be .* got 'purple'"),
    ],
)
def test_what_cannot_be_inspected_is_refused_by_name(model, options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        inspect_slices(model, STACK, **options)


FEW = ["--steps", 2, "--evaluate-every", 1, "--batch-size", 2, "--patch-size", SIDE, "--seeds", 1, "--quiet"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A stack as a folder of slices, with labels in which 0 is the class, as in ISBI's; and a checkpoint."""
    folder = tmp_path_factory.mktemp("stack")
    for name, volume in (("image", STACK.images), ("label", np.where(STACK.labels, 0, 255).astype(np.uint8))):
        (folder / name).mkdir()
        for number, pixels in enumerate(volume):
            Image.fromarray(pixels).save(folder / name / f"{number:02}.png")
    save_file(segmentation_network("small_unet", random_state=0).state_dict(), folder / "model.safetensors")
    return folder


@pytest.mark.slow
def test_the_command_compares_on_a_synthetic_stack(command, tmp_path, documented, listed):
    done = command("captum_region", "slices", "--out", tmp_path, *FEW, "--json")
    assert done.stdout == (tmp_path / "slices.json").read_text()
    found = json.loads(done.stdout)
    assert [row["arm"] for row in found["runs"]] == ["random", "uniform", "reflect", "uniform tied"]
    assert listed(tmp_path) == documented("slices") - {"inspection.csv"}


@pytest.mark.slow
def test_the_command_on_files_stops_resumes_and_has_the_same_results(command, interrupted, files, tmp_path, states):
    data = ["--stack", files / "image", "--labels", files / "label", "--label-value", 0, "--test", "8:12"]
    data += ["--train", "0:4", "--validation", "4:7", "--architecture", "small_unet", "--arm", "uniform", *FEW]
    told = interrupted(
        lambda: states(tmp_path / "cut"), "captum_region", "slices", *data, "--seeds", 9, "--out", tmp_path / "cut"
    )
    assert "the same command with --force resumes" in told
    command("captum_region", "slices", *data, "--seeds", 2, "--out", tmp_path / "cut", "--force")
    shown = command("captum_region", "slices", *data, "--seeds", 2, "--out", tmp_path / "whole").stdout
    assert "uniform" in shown
    for name in ("runs.csv", "scores.csv", "history.csv"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not states(tmp_path / "cut")
    kept = json.loads((tmp_path / "whole" / "slices.json").read_text())["settings"]
    assert (kept["train"], kept["test"]) == ({"image": 4}, {"image": 4})


def test_the_command_inspects_a_checkpoint(command, files, tmp_path, listed):
    arguments = ["--stack", files / "image", "--architecture", "small_unet", "--model", files / "model.safetensors"]
    done = command("captum_region", "slices", *arguments, "--out", tmp_path, "--quiet")
    assert all(name in done.stdout for name in ("as it is", "uniform", "reflect"))
    assert listed(tmp_path) == {"slices.json", "inspection.csv"}
    rows = json.loads((tmp_path / "slices.json").read_text())["inspection"]
    assert [row["first_layer"] for row in rows] == ["as it is", "uniform", "reflect"]
    # Of the test slices alone, whatever parts a training would take of so few.
    command("captum_region", "slices", *arguments, "--test", "0:3", "--out", tmp_path / "part", "--quiet")
    some = json.loads((tmp_path / "part" / "slices.json").read_text())["inspection"]
    assert some[0]["asymmetry"] != rows[0]["asymmetry"]


def test_what_another_kind_of_run_left_is_removed_but_by_none_of_two_at_once(command, refused, files, tmp_path, listed):
    arguments = ["--stack", files / "image", "--architecture", "small_unet", "--model", files / "model.safetensors"]
    arguments.append("--quiet")
    (tmp_path / "plots").mkdir()
    for name in ("slices.json", "report.html", "runs.csv", "plots/dice.png", "notes.txt"):
        (tmp_path / name).write_text("of another run")
    own = tmp_path / "own"
    (own / "plots").mkdir(parents=True)
    for name in ("history.csv", "plots/paper.png"):
        (own / name).write_text("of the user's")
    with locked(tmp_path):
        assert "is being written by another process" in refused(app, "slices", *arguments, "--out", tmp_path, "--force")
    command("captum_region", "slices", *arguments, "--out", tmp_path, "--force")
    assert listed(tmp_path) == {"slices.json", "inspection.csv", "notes.txt", "own"}
    command("captum_region", "slices", *arguments, "--out", own, "--force")
    assert listed(own) == {"slices.json", "inspection.csv", "history.csv", "plots"}
    assert (own / "plots" / "paper.png").exists()


def test_a_checkpoint_of_another_window_is_named(refused, files, tmp_path):
    arguments = ["--stack", files / "image", "--architecture", "small_unet", "--model", files / "model.safetensors"]
    told = refused(app, "slices", *arguments, "--window", 5, "--out", tmp_path / "new", "--quiet")
    assert "--model must fit the network" in told


def test_a_whole_network_of_another_library_is_not_made_one_for_other_windows(refused, files, tmp_path):
    smp = pytest.importorskip("segmentation_models_pytorch")
    torch.save(smp.Unet("resnet18", encoder_weights=None).state_dict(), tmp_path / "unet.pt")
    arguments = ["--stack", files / "image", "--architecture", "unet", "--encoder", "resnet18"]
    arguments += ["--model", tmp_path / "unet.pt", "--out", tmp_path / "new", "--quiet"]
    told = refused(app, "slices", *arguments, "--window", 5)
    assert "--model must fit the network" in told
    assert "encoder.conv1.weight" in told


@pytest.mark.parametrize(("classes", "has_dice"), [(2, True), (4, False)])
def test_a_checkpoint_may_have_more_logits_than_labels_need(command, files, tmp_path, classes, has_dice):
    save_file(
        segmentation_network("small_unet", classes=classes, random_state=0).state_dict(), tmp_path / "of.safetensors"
    )
    arguments = ["--stack", files / "image", "--labels", files / "label", "--label-value", 0]
    arguments += ["--architecture", "small_unet", "--model", tmp_path / "of.safetensors", "--class-index", classes - 1]
    done = command("captum_region", "slices", *arguments, "--out", tmp_path / "new", "--quiet")
    rows = json.loads((tmp_path / "new" / "slices.json").read_text())["inspection"]
    assert ("dice" in rows[0]) == has_dice
    assert ("no Dice: the labels have 2 classes, the network 4" in done.stderr) == (not has_dice)


def test_a_checkpoint_of_an_encoder_alone_is_refused(refused, files, tmp_path):
    pytest.importorskip("segmentation_models_pytorch")
    network = segmentation_network("unet", "resnet18", random_state=0)
    torch.save(network.network.encoder.state_dict(), tmp_path / "encoder.pt")
    arguments = ["--stack", files / "image", "--architecture", "unet", "--encoder", "resnet18"]
    told = refused(app, "slices", *arguments, "--model", tmp_path / "encoder.pt", "--out", tmp_path / "new")
    assert "--model must be a whole network" in told


def test_check_says_what_would_be_run_and_writes_nothing(command, tmp_path):
    said = command("captum_region", "slices", "--out", tmp_path / "new", *FEW, "--check").stdout
    assert "slices of previous: train 0:17, validation 18:23, test 24:30" in said
    assert "trainings: 4 of at most 2 steps: random, uniform, reflect, uniform tied; seeds [0]" in said
    as_json = command("captum_region", "slices", "--out", tmp_path / "new", *FEW, "--check", "--json").stdout
    assert json.loads(as_json)["slices of previous"] == "train 0:17, validation 18:23, test 24:30"
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gap", 20], "--gap must leave slices for each part: two of 20 take the 30 of previous"),
        (["--train", "0:9", "--validation", "8:14"], "--validation must not share slices with --train: 8:14 and 0:9"),
        (["--test", "28:31"], "--test must hold at least 3 of the 30 slices"),
        (["--test", "last"], "--test must be START:END, such as 0:18, got 'last'"),
        (["--arm", "pretrained"], "arms must leave out pretrained: the first layer of network is random"),
        (["--arm", "purple"], "arms must be of pretrained"),
        (["--labels", "x"], "--labels and --label-value must come with --stack"),
        (["--stack", "x"], "--labels must be given once for each --stack, got 0 for 1"),
        (["--stack", "x", "--labels", "y"], "x"),
        (["--model", "x", "--arm", "uniform"], "leave out --arm"),
        (["--model", "x", "--lr", "0.1", "--train", "0:3"], "--train"),
        (["--synthetic", "last"], "depends_on must be one of"),
        (["--stack", "x", "--model", "y", "--label-value", 7], "--label-value must come with --labels"),
        (["--stack", "x", "--model", "y", "--synthetic", "next"], "--synthetic must be left out with --stack"),
        (["--class-index", 3, "--check"], "class_index must be below 2, the number of classes, got 3"),
        (["--lr", 0, "--check"], "--lr must be above 0"),
        (["--window", 4, "--check"], "window must be an odd integer of at least 3, got 4"),
        (["--mixed-precision", "fp16", "--check"], "--mixed-precision must be 'no' or 'bf16'"),
    ],
)
def test_the_command_refuses_in_one_line(refused, tmp_path, arguments, message):
    assert message in refused(app, "slices", "--out", tmp_path / "new", *FEW, *arguments)


def test_the_command_names_a_label_value_that_is_not_there(refused, files, tmp_path):
    data = ["--stack", files / "image", "--labels", files / "label", "--label-value", 7]
    assert "--label-value must be a value in" in refused(app, "slices", "--out", tmp_path / "new", *data)


def test_numpys_integers_are_numbers():
    options = {"arms": ["uniform"], "network": of_colours()}
    for given in ({"seeds": np.arange(1), "window": np.int64(3)}, {"seeds": np.int64(1)}):
        assert compare(**options, **given).seeds == 1

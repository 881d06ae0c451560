"""UTKFace: the draw of biased images, and the command on a folder of such files."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer
from PIL import Image
from utkface_study import (
    AGE,
    CONFLICTING,
    NAMES,
    biased_split,
    draw_sets,
    main,
    table_of,
    tables,
    with_attributes,
)

from captum_region.datasets import AttributeImages


def people(count=400):
    """Faces of nobody: gender, race and age are independent, and brightness is random."""
    rng = np.random.default_rng(0)
    images = (rng.random((count, 3, 16, 16)) * rng.integers(50, 256, (count, 1, 1, 1))).astype(np.uint8)
    races = np.array(["White", "Black", "Asian"])[rng.integers(0, 3, count)]
    table = pd.DataFrame({"age": rng.integers(1, 2 * AGE, count), "Male": rng.random(count) < 0.5, "race": races})
    return AttributeImages(images, table)


def test_half_of_the_classes_get_the_spurious_attribute():
    # Of a, b and c 9, 5 and 1 in 10 images have it.
    labels, values = np.repeat(["a", "b", "c"], 400), np.tile(np.arange(400) % 10, 3)
    has_it = values < np.repeat([9, 5, 1], 400)
    biased, balanced, test = biased_split(labels, has_it, 0)
    for one in (biased, balanced, test):
        assert len(set(one.tolist())) == len(one)
    assert not set(test.tolist()) & {*biased.tolist(), *balanced.tolist()}
    counts = {name: pd.crosstab(labels[one], has_it[one]) for name, one in (("biased", biased), ("balanced", balanced))}
    assert (pd.crosstab(labels[test], has_it[test]) == 10).all(axis=None)  # a quarter of 40
    sizes = counts["biased"].sum(axis=1)
    assert sizes.nunique() == 1
    shares = counts["biased"][True] / sizes
    np.testing.assert_allclose(shares, [1 - CONFLICTING, 1 - CONFLICTING, CONFLICTING], atol=1 / sizes.iloc[0])
    # As many with it as without, or all 30 that are left.
    assert counts["balanced"].sum(axis=1).tolist() == sizes.tolist()
    assert counts["balanced"].min(axis=1).tolist() == [30, sizes.iloc[0] // 2, 30]
    assert all(
        np.array_equal(*pair) for pair in zip(biased_split(labels, has_it, 0), (biased, balanced, test), strict=True)
    )


def test_a_class_without_an_image_to_test_on_is_refused():
    with pytest.raises(ValueError, match=r"each class must have 4 images .*, a=1: 3$"):
        biased_split(np.repeat(["a", "b"], 40), np.r_[np.arange(40) < 3, np.arange(40) < 20], 0)


def test_gender_follows_the_protocol_of_the_paper():
    images = with_attributes(people())
    assert images.attributes["light"].mean() == 0.5
    sets = draw_sets(images, "Male", "young", 0)
    cells = pd.crosstab(sets.biased.y, sets.biased.confounder)
    assert cells.loc[True, True] == 0
    assert cells.loc[False, True] == pytest.approx(2 * cells.loc[False, False], abs=1)
    assert pd.crosstab(sets.test.y, sets.test.confounder).stack().nunique() == 1


@pytest.mark.parametrize("option", ["task", "mitigator"])
def test_an_unknown_name_is_refused_in_one_line(refused, tmp_path, option):
    (app := typer.Typer()).command()(main)
    line = refused(app, "--root", tmp_path, f"--{option}", "none", "--out", tmp_path / "found.json")
    assert f"--{option} must be of" in line


@pytest.mark.slow
def test_the_command_measures_each_task(command, tmp_path):
    images = people(300)
    (folder := tmp_path / "images").mkdir()
    races = {"White": 0, "Black": 1, "Asian": 2}
    for at, row in enumerate(images.attributes.itertuples()):
        name = f"{row.age}_{int(not row.Male)}_{races[row.race]}_{at}.jpg.chip.jpg"
        Image.fromarray(images.images[at].transpose(1, 2, 0)).save(folder / name, format="JPEG")
    options = [
        "--size",
        16,
        "--epochs",
        1,
        "--region-epochs",
        1,
        "--seeds",
        1,
        "--quiet",
        "--out",
        tmp_path / "found.json",
    ]
    options += ["--task", "gender by age", "--task", "race by light", "--cache", tmp_path / "cache"]
    done = command("examples/benchmarks/utkface_study.py", "--root", tmp_path, *options)
    found = json.loads((tmp_path / "found.json").read_text())
    gender, race = (found["tasks"][name] for name in ("gender by age", "race by light"))
    assert list(table_of(race).index) == list(NAMES)
    # No young man is in the training images, whose group could have a loss.
    missing = {"GroupDRO", "specific_transplant+group_dro 0.5"}
    assert set(gender["not_run"]) == missing
    assert list(table_of(gender).index) == [name for name in NAMES if name not in missing]
    assert "crossed_auc" in gender["summary"][0]
    assert "crossed_auc" not in race["summary"][0]  # of three classes
    assert gender["images"]["biased"].keys() == {"Male, not young", "not Male, young", "not Male, not young"}
    assert len(race["images"]["test"]) == 6
    assert "| specific_transplant@random 0.7 |" in done.stdout


def test_the_page_has_the_tables_of_the_results_beside_it():
    results = Path(__file__).parents[2] / "docs" / "results"
    page = (results / "utkface.md").read_text()
    for table in tables(json.loads((results / "utkface.json").read_text())):
        assert table in page

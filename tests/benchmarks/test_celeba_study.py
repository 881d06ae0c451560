"""The benchmark on CelebA: the choice on validation images, and the table of what was kept."""

import json
from pathlib import Path

import celeba_study
import pytest
from celeba_study import families, study_celeba, table_of, taken_table
from studies import markdown

from captum_region.datasets import make_faces

ROOT = Path(__file__).parents[2]


def test_every_family_has_as_many_variants():
    by_family = families("small", "cpu")
    assert {len(variants) for variants in by_family.values()} == {4}
    names = [f"{family}: {variant}" for family, variants in by_family.items() for variant in variants]
    assert len(set(names)) == len(names)


@pytest.mark.slow
def test_the_variant_is_chosen_on_validation_images_and_trained_with_more_seeds(monkeypatch):
    monkeypatch.setitem(celeba_study.EPOCHS, "small", 1)
    train, test = make_faces(160, 16, random_state=0), make_faces(80, 16, random_state=1)
    only = ("ERM", "GroupDRO", "DFR", "transplant + GroupDRO")
    found = study_celeba(train, test, network="small", seeds=2, only=only, region_epochs=2)
    assert sum(found["images"]["train"].values()) + sum(found["images"]["validation"].values()) == 160
    assert found["images"]["test"].keys() == {"blond man", "blond woman", "not blond man", "not blond woman"}
    assert len(found["variants"]) == 16
    best = {}
    for row in found["variants"]:
        best[row["family"]] = max(best.get(row["family"], 0), row["worst_cell"])
    assert found["reference"] == max(("ERM", "GroupDRO", "DFR"), key=best.__getitem__)
    for row in found["rows"]:
        its = [one for one in found["variants"] if one["family"] == row["family"] and one["variant"] == row["variant"]]
        assert its[0]["worst_cell"] == best[row["family"]]
        assert row["accuracy"]["seeds"] == 2
    assert [(row["family"], row["decision"]) for row in found["rows"]] == [
        (family, decision) for decision in ("likeliest class", "threshold") for family in only
    ]
    assert found["taken"] == max(only, key=best.__getitem__)
    ahead = taken_table(found)
    assert set(ahead.index) == {*only} - {found["taken"]}
    own = {row["family"]: row["crossed_auc"]["mean"] for row in found["rows"]}
    for name, text in ahead["bias-conflicting AUC"].items():
        assert float(text.split()[0]) == pytest.approx(own[found["taken"]] - own[name], abs=6e-4)
    for row in found["rows"]:
        own = [one for one in found["by_seed"] if all(one[key] == row[key] for key in ("family", "decision"))]
        assert [one["seed"] for one in own] == [0, 1]
        for name in ("accuracy", "worst_cell", "auc", "crossed_auc"):
            assert sum(one[name] for one in own) / 2 == pytest.approx(row[name]["mean"])
    # A threshold changes no ranking.
    halves = found["rows"][:4], found["rows"][4:]
    assert [row["crossed_auc"] for row in halves[0]] == [row["crossed_auc"] for row in halves[1]]
    assert list(table_of(found).index) == list(only)


@pytest.mark.slow
def test_variants_chosen_elsewhere_are_taken_and_no_others_tried(monkeypatch):
    monkeypatch.setitem(celeba_study.EPOCHS, "small", 1)
    train, test = make_faces(160, 16, random_state=0), make_faces(80, 16, random_state=1)
    only = ("ERM", "transplant")
    chosen = {"ERM": "2 epochs, rate 0.0003", "transplant": "general_transplant 0.7", "JTT": "weight 5, 1 epochs"}
    found = study_celeba(train, test, network="small", seeds=1, only=only, chosen=chosen, take="ERM", region_epochs=2)
    for rows in (found["variants"], found["rows"]):
        assert {row["family"]: row["variant"] for row in rows} == {name: chosen[name] for name in only}
    assert (found["reference"], found["taken"]) == ("ERM", "ERM")
    assert list(taken_table(found).index) == ["transplant"]


def test_a_chosen_variant_that_a_network_has_not_is_refused():
    faces = make_faces(20, 16, random_state=0)
    of_another = {"ERM": "4 epochs, rate 0.001"}
    with pytest.raises(
        ValueError, match=r"small network's variants for each family, got ERM: 4 epochs, rate 0.001, JTT: None"
    ):
        study_celeba(faces, faces, network="small", only=("ERM", "JTT"), chosen=of_another)


def test_a_family_to_take_that_is_not_trained_is_refused():
    faces = make_faces(20, 16, random_state=0)
    with pytest.raises(ValueError, match="take must be one of ERM, JTT, got DFR"):
        study_celeba(faces, faces, network="small", only=("ERM", "JTT"), take="DFR")


@pytest.mark.parametrize("only", [("ERM", "SVM"), ("transplant",)])
def test_unknown_families_and_none_to_compare_with_are_refused(only):
    faces = make_faces(20, 16, random_state=0)
    with pytest.raises(ValueError, match=r"only must be of ERM, reweighing, .* without transplants, got"):
        study_celeba(faces, faces, network="small", only=only)


def test_the_page_has_the_table_of_the_results_beside_it():
    results = ROOT / "docs" / "results"
    for name in ("celeba.json", "celeba_128.json", "celeba_small.json"):
        found = json.loads((results / name).read_text())
        assert markdown(table_of(found), "mitigator") in (results / "celeba.md").read_text()
    found, choice = (json.loads((results / name).read_text()) for name in ("celeba.json", "celeba_choice.json"))
    assert markdown(taken_table(found), f"{found['taken']}, minus") in (results / "celeba.md").read_text()
    # In each seed the family taken is ahead of each without transplants, in both measures.
    by_seed = {(row["family"], row["seed"]): row for row in found["by_seed"] if row["decision"] == "threshold"}
    others = {family for family, _ in by_seed if not family.startswith("transplant")}
    assert len(by_seed) == 3 * len({family for family, _ in by_seed})
    for (family, seed), row in by_seed.items():
        taken = by_seed[found["taken"], seed]
        assert family not in others or all(taken[name] > row[name] for name in ("worst_cell", "crossed_auc"))
    # Reweighing on transplants, too, is ahead of each published family.
    ahead = taken_table(json.loads((results / "celeba_reweighing.json").read_text()))
    published = [name for name in ahead.index if not name.startswith("transplant")]
    assert len(published) == 9
    assert all("[+" in text for text in ahead.loc[published, ["worst group", "bias-conflicting AUC"]].to_numpy().flat)
    # At 128 px GroupDRO and GroupDRO on transplants are level.
    level = taken_table(json.loads((results / "celeba_128_transplants.json").read_text())).loc["GroupDRO"]
    assert all("[-" in level[name] and ", +" in level[name] for name in ("worst group", "bias-conflicting AUC"))
    # The variants are those that the run of the choice has chosen, each the best of its four.
    best = {}
    for row in choice["variants"]:
        best[row["family"]] = max(best.get(row["family"], row), row, key=lambda one: one["worst_cell"])
    for row in (*found["rows"], *choice["rows"]):
        assert row["variant"] == best[row["family"]]["variant"]

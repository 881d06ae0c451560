"""Measures: hand-computed, equal to MetricFrame's and scikit-learn's, and their intervals."""

import numpy as np
import pandas as pd
import pytest
from fairlearn.metrics import MetricFrame
from sklearn.metrics import accuracy_score, roc_auc_score

from fairlearn_bridge import measure, metrics, signed_gap, summarize
from fairlearn_bridge.metrics import MEASURES, _bootstrap, alignment, stratified_resamples

ALIGNED = {False: True, True: False}


def random_predictions(n=400, seed=0, mitigator="a", random_seed=0):
    rng = np.random.default_rng(seed)
    target = rng.random(n) < 0.5
    score = np.clip(rng.normal(0.4 + 0.2 * target, 0.2), 0, 1).round(2)  # with ties
    return pd.DataFrame(
        {
            "mitigator": mitigator,
            "seed": random_seed,
            "image": np.arange(n),
            "target": target,
            "group": target,
            "confounder": rng.random(n) < 0.4,
            "predicted": score > 0.5,
            "score": score,
            "flipped": rng.random(n) < 0.25,
        }
    )


def test_measures_by_hand():
    # Cells (group, confounder), two images each: women with: 2 right, without: 1; men with: 0, without: 2.
    predictions = pd.DataFrame(
        {
            "target": [False] * 4 + [True] * 4,
            "group": [False] * 4 + [True] * 4,
            "confounder": [True, True, False, False] * 2,
            "predicted": [False, False, False, True, False, False, True, True],
            "score": [0.1, 0.2, 0.3, 0.6, 0.4, 0.5, 0.9, 0.8],
        }
    )
    values = measure(predictions, aligned=ALIGNED)
    assert values["accuracy"] == 5 / 8
    assert values["accuracy[False]"] == 3 / 4
    assert values["accuracy[True]"] == 2 / 4
    assert values["gap"] == 1 / 4
    assert values["worst_cell"] == 0
    assert values["confounder_gap"] == (0.5 + 1.0) / 2
    # Crossed: women without (.3, .6) against men with (.4, .5): 2 of 4 pairs in order.
    assert values["crossed_auc"] == 0.5
    assert values["auc"] == 14 / 16
    assert "flip_rate" not in values


def test_predictions_that_were_read_back_are_refused_where_their_labels_are_others(tmp_path):
    words = random_predictions().assign(
        target=lambda table: np.where(table["target"], "1", "0"), confounder=lambda table: table["confounder"].map(str)
    )
    aligned = {"0": "True", "1": "False"}
    words.to_csv(tmp_path / "predictions.csv", index=False)
    read = pd.read_csv(tmp_path / "predictions.csv")
    for table, wrong in ((read, aligned), (words, {"0": "True", "2": "False"}), (words, {"0": True, "1": False})):
        with pytest.raises(
            ValueError, match=r"aligned must map the classes of predictions, .* to values of the spurious"
        ):
            measure(table, aligned=wrong)
        with pytest.raises(ValueError, match="aligned must map the classes of predictions"):
            summarize(table, aligned=wrong, n_bootstrap=2)
    assert measure(words, aligned=aligned)["crossed_auc"] == pytest.approx(
        measure(random_predictions(), aligned=ALIGNED)["crossed_auc"]
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda table: table.iloc[:0], "predictions must hold those of an image at least, got none"),
        (lambda table: table.assign(group=table["group"].where(table.index > 0)), "missing values, got some in group"),
        (lambda table: table.drop(columns="confounder"), "predictions must have columns .*, got none named confounder"),
    ],
)
def test_incomplete_predictions_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        measure(change(random_predictions()), aligned=ALIGNED)
    with pytest.raises(ValueError, match=words):
        summarize(change(random_predictions()), aligned=ALIGNED, n_bootstrap=2)


def test_no_auc_of_two_of_three_classes():
    # The score is the probability of the third class, which says nothing of these two.
    predictions = pd.DataFrame(
        {
            "target": [0, 0, 1, 1],
            "group": [0, 0, 1, 1],
            "confounder": [True, False] * 2,
            "predicted": [0, 0, 1, 2],
            "score": [0.1, 0.2, 0.3, 0.9],
        }
    )
    assert "auc" in measure(predictions, aligned={0: True, 1: False})
    assert not {"auc", "crossed_auc"} & set(measure(predictions, aligned={0: True, 1: False, 2: False}).index)


def test_measures_agree_with_metric_frame_and_scikit_learn():
    predictions = random_predictions()
    values = measure(predictions, aligned=ALIGNED)
    y, predicted = predictions["target"], predictions["predicted"]
    by_group = MetricFrame(metrics=accuracy_score, y_true=y, y_pred=predicted, sensitive_features=predictions["group"])
    by_cell = MetricFrame(
        metrics=accuracy_score, y_true=y, y_pred=predicted, sensitive_features=predictions[["group", "confounder"]]
    )
    assert values["accuracy"] == pytest.approx(by_group.overall)
    assert values["accuracy[True]"] == pytest.approx(by_group.by_group[True])
    assert abs(values["gap"]) == pytest.approx(by_group.difference())
    assert values["gap"] == pytest.approx(signed_gap(y, predicted, sensitive_features=predictions["group"]))
    assert values["worst_cell"] == pytest.approx(by_cell.group_min())
    differences = by_cell.by_group.unstack().diff(axis=1).iloc[:, -1]
    assert values["confounder_gap"] == pytest.approx(differences.abs().mean())
    assert values["auc"] == pytest.approx(roc_auc_score(y, predictions["score"]))
    crossed = predictions[predictions["confounder"] == predictions["target"]]
    assert values["crossed_auc"] == pytest.approx(roc_auc_score(crossed["target"], crossed["score"]))
    assert values["flip_rate"] == predictions["flipped"].mean()


def test_a_threshold_shift_changes_the_gap_but_no_auc():
    predictions = random_predictions()
    shifted = predictions.assign(predicted=predictions["score"] > 0.3)
    before, after = (measure(table, aligned=ALIGNED) for table in (predictions, shifted))
    assert before["gap"] != after["gap"]
    assert before[["auc", "crossed_auc"]].equals(after[["auc", "crossed_auc"]])


def test_resamples_that_are_drawn_in_parts_are_the_same_kind_and_number(monkeypatch):
    predictions = random_predictions(200)
    whole = _bootstrap(predictions, ALIGNED, 400, 0)
    monkeypatch.setattr(metrics, "_AT_ONCE", 150 * 200)
    parts = _bootstrap(predictions, ALIGNED, 400, 0)
    assert parts.shape == whole.shape
    np.testing.assert_allclose(parts.mean(0), whole.mean(0), atol=0.02)
    assert len(np.unique(parts[:, 0])) > 10


def test_resamples_keep_the_order_of_measures_and_centre_on_them():
    predictions = random_predictions(600)
    values = measure(predictions, aligned=ALIGNED)
    resamples = _bootstrap(predictions, ALIGNED, 500, 0)
    assert resamples.shape == (500, len(values))
    means = dict(zip(values.index, resamples.mean(0), strict=True))
    for name, value in values.items():
        if name != "worst_cell":  # a minimum is biased downwards
            assert means[name] == pytest.approx(value, abs=0.015), name
    # The spread of an accuracy over resamples is the binomial one within cells.
    cells = predictions.assign(right=predictions.predicted == predictions.target).groupby(["group", "confounder"])[
        "right"
    ]
    variance = (cells.mean() * (1 - cells.mean()) * cells.size()).sum() / len(predictions) ** 2
    assert resamples[:, 0].std() == pytest.approx(variance**0.5, rel=0.15)


def test_summary_over_seeds():
    predictions = pd.concat([random_predictions(seed=seed, random_seed=seed) for seed in range(3)])
    table = summarize(predictions, aligned=ALIGNED, n_bootstrap=200)
    singles = pd.DataFrame([measure(part, aligned=ALIGNED) for _, part in predictions.groupby("seed")])
    for name in singles:
        assert table.loc["a", (name, "mean")] == pytest.approx(singles[name].mean())
        assert table.loc["a", (name, "std")] == pytest.approx(singles[name].std())
        low, high = table.loc["a", (name, "low")], table.loc["a", (name, "high")]
        assert low <= singles[name].mean() <= high
        assert low < high
    one = summarize(random_predictions(), aligned=ALIGNED, n_bootstrap=20)
    assert np.isnan(one.loc["a", ("accuracy", "std")])
    narrow = summarize(predictions, aligned=ALIGNED, n_bootstrap=200, confidence_level=0.5)
    assert narrow.loc["a", ("auc", "low")] > table.loc["a", ("auc", "low")]
    for name, bad in (("confidence_level", 1), ("n_bootstrap", 0)):
        with pytest.raises(ValueError, match=f"{name} must be"):
            summarize(predictions, aligned=ALIGNED, **{name: bad})


@pytest.mark.parametrize("extreme", ["worst_cell", "confounder_gap"])
def test_the_interval_of_an_extreme_allows_for_what_sampling_adds_to_it(extreme):
    truth, covered, higher = {"worst_cell": 0.75, "confounder_gap": 0.0}[extreme], 0, 0
    cells = pd.DataFrame(list(np.ndindex(2, 2)) * 44, columns=["target", "confounder"]).astype(bool)
    rng = np.random.default_rng(0)
    for seed in range(60):
        right = rng.random((2, len(cells))) < 0.75  # of all cells alike, by both mitigators
        of_two = [
            cells.assign(
                mitigator=name, seed=0, image=range(len(cells)), group=cells["target"], score=0.5,
                predicted=cells["target"] == is_right,
            )
            for name, is_right in zip("ab", right, strict=True)
        ]  # fmt: skip
        found = summarize(pd.concat(of_two), aligned={}, reference="a", n_bootstrap=150, random_state=seed)
        row = found.loc["b", extreme]
        assert 0 <= row["low"] <= row["mean"] <= row["high"] <= 1
        covered += row["low"] <= truth <= row["high"]
        higher += row["difference_low"] > 0
    assert covered >= 52  # percentile intervals: fewer of the least, none of the gap
    assert higher <= 5


def test_alignment_is_what_goes_along_in_training():
    target = np.repeat([True, False], 300)
    confounder = np.r_[np.zeros(300, bool), np.arange(300) < 200]
    assert alignment(target, confounder) == {False: True, True: False}
    # Even where the confounder is rare in both classes.
    rare = np.r_[np.zeros(300, bool), np.arange(300) < 30]
    assert alignment(target, rare) == {False: True, True: False}
    # Nor is it a value that one image alone has.
    light = np.repeat(["bright", "dark", "bright", "dark"], [900, 100, 100, 900])
    assert alignment(np.arange(2000) >= 1000, light) == {False: "bright", True: "dark"}
    light[0] = "candle"
    assert alignment(np.arange(2000) >= 1000, light) == {False: "bright", True: "dark"}


def test_a_group_with_one_value_of_the_spurious_attribute_has_no_gap_to_count():
    frame = pd.DataFrame({"group": list("wwwwmm"), "confounder": [1, 1, 0, 0, 0, 0], "image": range(6)})
    frame = frame.assign(mitigator="a", seed=0, target=[1, 1, 1, 1, 0, 0], predicted=[1, 1, 1, 0, 0, 0], score=0.5)
    assert measure(frame, aligned={})["confounder_gap"] == 0.5
    assert "confounder_gap" not in measure(frame[frame["confounder"] == 0], aligned={})


def test_an_auc_of_few_images_of_a_class_has_no_interval():
    cells = {(True, True): 40, (False, False): 40, (True, False): 9, (False, True): 30}  # the last two conflict
    target, confounder = (np.repeat([cell[at] for cell in cells], list(cells.values())) for at in (0, 1))
    frame = random_predictions(len(target)).assign(target=target, group=target, confounder=confounder)
    frame["score"] = np.clip(np.random.default_rng(0).normal(0.4 + 0.2 * target, 0.2), 0, 1)
    one_more = pd.concat([frame, frame.iloc[[80]].assign(image=len(target))], ignore_index=True)
    for predictions, is_known in ((frame, False), (one_more, True)):
        both = pd.concat([predictions, predictions.assign(mitigator="b", score=1 - predictions["score"])])
        row = summarize(both, aligned={True: True, False: False}, reference="a", n_bootstrap=50).loc["b"]
        assert np.isfinite(row["crossed_auc"][["mean", "difference"]]).all()
        ends = row["crossed_auc"][["low", "high", "difference_low", "difference_high"]]
        assert np.isfinite(ends).all() if is_known else np.isnan(ends).all()
        assert np.isfinite(row["auc"].drop("std")).all()


def test_differences_are_paired():
    first = random_predictions(600)
    # Right where the first is right, and on every tenth image besides: better by exactly what that adds.
    better = first.assign(mitigator="b", predicted=first["predicted"].where(first["image"] % 10 > 0, first["target"]))
    table = summarize(pd.concat([first, better]), aligned=ALIGNED, reference="a", n_bootstrap=300)
    gain = ((first["predicted"] != first["target"]) & (first["image"] % 10 == 0)).mean()
    row = table.loc["b", "accuracy"]
    assert row["difference"] == pytest.approx(gain)
    # The interval is that of the gain alone, narrower than either accuracy's.
    half = 1.96 * np.sqrt(gain * (1 - gain) / 600)
    assert row["difference_low"] == pytest.approx(gain - half, abs=0.01)
    assert row["difference_high"] - row["difference_low"] < 0.7 * (row["high"] - row["low"])
    assert (table.loc["a"].unstack()[["difference", "difference_low", "difference_high"]] == 0).all(axis=None)
    turned = pd.concat([first, better.sample(frac=1, random_state=0)])  # rows in another order are of the same images
    pd.testing.assert_frame_equal(summarize(turned, aligned=ALIGNED, reference="a", n_bootstrap=300), table)
    with pytest.raises(ValueError, match="reference must be one of a, b, got 'c'"):
        summarize(pd.concat([first, better]), aligned=ALIGNED, reference="c")


def test_fewer_seeds_are_counted_and_differences_taken_over_those_in_common():
    both, one = (
        pd.concat([random_predictions(seed=seed, random_seed=seed, mitigator=name) for seed in seeds])
        for name, seeds in (("both", (0, 1)), ("one", (1,)))
    )
    table = summarize(pd.concat([both, one]), aligned=ALIGNED, reference="both", n_bootstrap=50)
    assert table["accuracy", "seeds"].to_dict() == {"both": 2, "one": 1}
    # With seed 1 they are the same: a mean over two seeds less one of them would differ.
    assert table.loc["one", ("accuracy", "mean")] != table.loc["both", ("accuracy", "mean")]
    for statistic in ("difference", "difference_low", "difference_high"):
        assert table.loc["one", ("accuracy", statistic)] == 0
    apart = both[both["seed"] == 0]
    apart = summarize(pd.concat([apart, one]), aligned=ALIGNED, reference="both", n_bootstrap=5)
    assert np.isnan(apart.loc["one", ("accuracy", "difference")])


def test_every_measure_has_its_words():
    values = measure(random_predictions(), aligned=ALIGNED)
    assert list(values.index) == list(MEASURES)
    assert all(entry.sentence.endswith(".") for entry in MEASURES.values())


def test_resamples_fill_each_place_from_its_stratum():
    strata = [np.array([0, 3]), np.array([1, 2, 4])]
    drawn = stratified_resamples(strata, 300, np.random.default_rng(0))
    assert drawn.shape == (300, 5)
    for members in strata:
        for place in members:
            assert set(drawn[:, place]) == set(members)

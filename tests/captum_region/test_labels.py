"""Labels of any kind in any container, what are no classes refused by name, and a share of each cell kept apart."""

import numpy as np
import pandas as pd
import pytest
import torch

from captum_region.labels import check_classes, class_codes, hold_out


@pytest.mark.parametrize("names", [[0, 1], [False, True], [0.0, 1.0], ["dark", "bright"]])
def test_classes_come_as_an_array(names):
    values = [names[0], names[1], names[0]]
    for given in (values, np.array(values, object), pd.Series(values).convert_dtypes(), pd.DataFrame({"a": values})):
        found = check_classes(given, 3, name="within")
        assert found.shape == (3,)
        assert found.tolist() == values
    if not isinstance(names[0], str):
        assert check_classes(torch.tensor(values), 3, name="within").tolist() == values


def test_nullable_columns_keep_their_numbers():
    for values, wanted in (([1, 2, 1], "Int64"), ([True, False, True], "boolean")):
        found = check_classes(pd.Series(values).convert_dtypes(), 3, name="labels")
        assert pd.Series(values).convert_dtypes().dtype == wanted
        assert found.dtype.kind == np.asarray(values).dtype.kind
    with pytest.raises(ValueError, match="labels must not have missing values, got 1 missing"):
        check_classes(pd.Series([1, None], dtype="Int64"), 2, name="labels")


def test_codes_are_places_among_the_sorted_labels():
    names, codes = class_codes(["b", "a", "b"], name="labels")
    assert (names.tolist(), codes.tolist()) == (["a", "b"], [1, 0, 1])
    for missing in ([0, np.nan, 1], ["a", None]):
        with pytest.raises(ValueError, match="labels must not have missing values, got 1 missing"):
            class_codes(missing, name="labels")
    with pytest.raises(TypeError, match="labels must be of one kind"):
        class_codes(np.array(["a", 1], object), name="labels")


def test_pyarrow_backed_text_is_text():
    pytest.importorskip("pyarrow")
    values = pd.Series(["b", "a", None]).astype("string[pyarrow]")
    assert check_classes(values[:2], 2, name="labels").tolist() == ["b", "a"]
    with pytest.raises(ValueError, match="labels must not have missing values, got 1 missing"):
        check_classes(values, 3, name="labels")


AGES = np.random.default_rng(0).uniform(18, 90, 60)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (AGES, r"within must be classes, got \d.* \(Unknown label type: continuous\)"),
        ([0, 1, 0.5], "Unknown label type: continuous"),
        (AGES.round().astype(int), r"within must be classes, got \d\d different ones in 60 images"),
        ([f"image {number}" for number in range(30)], "got 30 different ones in 30 images"),
        ([[0, 1], [1, 0]], r"within should be a 1d array of shape \(2,\), one per image, got \(2, 2\)"),
        ([0, np.inf], "within must not have missing values, got 1 missing or infinite"),
        ([0, 0, 0], "within must hold at least 2 classes, got 1 class: \\[0\\]"),
    ],
)
def test_values_that_are_not_classes_are_refused(values, words):
    with pytest.raises(ValueError, match=words):
        check_classes(values, len(values), name="within", least=2)


def test_a_class_without_weight_does_not_count():
    with pytest.raises(ValueError, match="y must hold at least 2 classes, got 1 class: \\['b'\\]"):
        check_classes(["a", "b"], 2, name="y", least=2, weight=np.array([0, 1]))
    assert check_classes(["a", "b"] * 10, 20, name="y", least=2, weight=np.ones(20)).tolist() == ["a", "b"] * 10


def test_a_share_of_each_cell_is_held_out():
    rng = np.random.default_rng(0)
    labels, confounder = rng.integers(0, 3, 500), rng.integers(0, 2, 500)
    held = hold_out(labels, confounder, 0.2, random_state=0)
    for label in range(3):
        for value in range(2):
            cell = (labels == label) & (confounder == value)
            assert held[cell].sum() == cell.sum() // 5
    assert np.array_equal(held, hold_out(list(labels), confounder, 0.2, random_state=0))
    assert not np.array_equal(held, hold_out(labels, confounder, 0.2, random_state=1))


def test_intervals_and_periods_are_classes_of_their_text():
    ages = pd.cut(pd.Series([10, 20, 40, 70]), [0, 30, 60, 90])
    for values in (ages, ages.to_numpy(), list(ages), ages.to_frame()):
        assert check_classes(values, 4, name="groups").tolist() == ["(0, 30]", "(0, 30]", "(30, 60]", "(60, 90]"]
    months = pd.Series(pd.period_range("2024-01", periods=4, freq="M"))
    assert check_classes(months, 4, name="groups").tolist() == ["2024-01", "2024-02", "2024-03", "2024-04"]


@pytest.mark.parametrize(
    "container", [pd.Series, pd.array, lambda *values, **dtype: pd.DataFrame(pd.Series(*values, **dtype))]
)
def test_nullable_values_keep_their_kind_in_any_container(container):
    assert check_classes(container([True, False], dtype="boolean"), 2, name="y").dtype == bool
    assert check_classes(container([1, 0], dtype="Int64"), 2, name="y").dtype == np.int64
    with pytest.raises(ValueError, match="y must not have missing values, got 1 missing"):
        check_classes(container([1, None], dtype="Int64"), 2, name="y")

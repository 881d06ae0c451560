"""The three confidences at known outputs."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from captum_region.confidence import CONFIDENCES, margin, negative_entropy, resolve_confidence, top_softmax


def logits_of(*probabilities):
    return torch.tensor([probabilities], dtype=torch.float64).log()


def test_values_worked_out_by_hand():
    logits = logits_of(0.5, 0.25, 0.25)
    entropy = 0.5 * math.log(2) + 0.5 * math.log(4)
    assert top_softmax(logits).item() == pytest.approx((0.5 - 1 / 3) / (2 / 3))
    assert margin(logits).item() == pytest.approx(0.25)
    assert negative_entropy(logits).item() == pytest.approx(1 - entropy / math.log(3))


@pytest.mark.parametrize("confidence", CONFIDENCES.values(), ids=CONFIDENCES)
@pytest.mark.parametrize("classes", [2, 3, 9])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_uniform_is_0_certain_is_1_and_gradients_stay_finite(confidence, classes, dtype):
    logits = torch.zeros(3, classes, 2, 2, dtype=dtype)
    logits[1, 0] = 6e4
    logits[2, 1:] = -math.inf
    logits.requires_grad_()
    value = confidence(logits)
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(value[0], torch.zeros_like(value[0]), atol=1e-6, rtol=0)
    torch.testing.assert_close(value[1:], torch.ones_like(value[1:]))
    value.sum().backward()
    assert logits.grad.isfinite().all()


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=2, max_size=12))
def test_a_confidence_is_in_range_and_does_not_depend_on_order_or_shift(values):
    logits = torch.tensor([values])
    for confidence in CONFIDENCES.values():
        value = confidence(logits)
        assert 0 <= value.item() <= 1
        torch.testing.assert_close(confidence(logits.flip(1)), value)
        torch.testing.assert_close(confidence(logits.double() + 7).float(), value, atol=1e-4, rtol=1e-4)


@given(st.lists(st.floats(-30, 30, width=32), min_size=2, max_size=6), st.floats(1, 10, width=32))
def test_a_sharper_output_is_no_less_certain(values, factor):
    logits = torch.tensor([values], dtype=torch.float64)
    for confidence in CONFIDENCES.values():
        assert confidence(factor * logits) >= confidence(logits) - 1e-6


def test_one_class_and_unknown_names_are_refused():
    for confidence in CONFIDENCES.values():
        with pytest.raises(ValueError, match="2 classes or more"):
            confidence(torch.zeros(4, 1))
    with pytest.raises(ValueError, match="negative_entropy"):
        resolve_confidence("entropy")
    assert resolve_confidence(margin) is margin

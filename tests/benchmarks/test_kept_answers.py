"""Answers as result files keep them: read in both forms, and runs paired by text."""

from __future__ import annotations

import pytest

from benchmarks.harness.answers import Answered, digits


def test_answers_are_a_digit_a_text_or_a_list() -> None:
    assert digits("0102").tolist() == digits([0, 1, 0, 2]).tolist() == [0, 1, 0, 2]


def test_arms_are_compared_on_the_same_resamples_of_the_texts() -> None:
    labels, right, wrong = "0011", "0011", "0111"
    answered = Answered(labels, (right, wrong, right))
    assert (answered.truth.tolist(), answered.num_labels) == ([0, 0, 1, 1], 2)
    # label 0: precision 1, recall 1/2, F1 2/3; label 1: precision 2/3, recall 1, F1 4/5
    assert answered.figure([wrong]).value == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert answered.figure([right, wrong]).value == pytest.approx((1 + (2 / 3 + 4 / 5) / 2) / 2)
    same = (answered.figure([wrong]) - answered.figure([wrong])).estimate()
    assert (same.low, same.high) == (0.0, 0.0)  # unpaired, the interval would have a width

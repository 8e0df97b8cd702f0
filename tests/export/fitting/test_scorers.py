"""Scores of a fit: its metric on the labels, and how often a classifier decides as another."""

from __future__ import annotations

import numpy as np
import pytest

from distill.data import Dataset
from export.fitting.scores import Scorer


def test_agreement_is_with_the_decisions_and_not_with_the_labels() -> None:
    data = Dataset(("a", "b", "c", "d"), np.array([0, 0, 0, 1]), ("no", "yes"), "four texts")
    teacher = np.array([[2, 1], [0, 1], [0, 3], [0, 1]], dtype=np.float32)  # no, yes, yes, yes
    student = np.array([[1, 0], [0, 9], [5, 0], [0, 1]], dtype=np.float32)  # no, yes, no, yes
    scorer = Scorer(data, "accuracy")
    assert scorer.value(student) == pytest.approx(3 / 4)
    assert scorer.of_agreement_with(teacher).value(student) == pytest.approx(3 / 4)
    assert scorer.value(teacher) == pytest.approx(2 / 4)
    assert scorer.of_agreement_with(teacher).value(teacher) == 1
    assert scorer.of_agreement_with(student).value(-student) == 0


def test_agreement_on_several_labels_is_micro_f1_of_the_decisions() -> None:
    data = Dataset(("a", "b"), np.array([[1, 1], [1, 1]]), ("long", "sad"), "two texts")
    teacher = np.array([[1, -1], [1, 1]], dtype=np.float32)  # three labels
    student = np.array([[1, 1], [-1, 1]], dtype=np.float32)  # three labels, two of them the teacher's
    assert Scorer(data, "macro_f1").of_agreement_with(teacher).value(student) == pytest.approx(2 * 2 / 6)

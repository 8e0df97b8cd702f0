"""Scores of a fit: its metric on the labels, and how far a classifier is from its teacher."""

from __future__ import annotations

import math

import numpy as np
import pytest

from distill.data import Dataset
from export.fitting.scores import Scorer


def test_the_distance_is_from_the_teachers_calibrated_probabilities_and_not_from_the_labels() -> None:
    # Of 4 texts the teacher is right on 3, always with log-odds 10. A share of 3/4 has log-odds log 3; the largest temperature
    # of 4 leaves 2.5.
    data = Dataset(("a", "b", "c", "d"), np.array([0, 0, 0, 1]), ("no", "yes"), "four texts")
    teacher = np.array([[10, 0]] * 4, dtype=np.float32)
    scorer = Scorer(data, "accuracy")
    assert scorer.value(teacher) == pytest.approx(3 / 4)
    assert scorer.temperature(teacher) == 4
    share = 1 / (1 + math.exp(-2.5))
    student = np.array([[math.log(3), 0], [0, math.log(3)]] * 2, dtype=np.float32)
    near, far = (
        -share * math.log(3 / 4) - (1 - share) * math.log(1 / 4),
        -share * math.log(1 / 4) - (1 - share) * math.log(3 / 4),
    )
    assert scorer.distances(student, of_teacher=teacher) == pytest.approx([near, far] * 2, rel=1e-5)


def test_no_classifier_is_nearer_to_the_teacher_than_the_calibrated_teacher() -> None:
    random = np.random.default_rng(0)
    data = Dataset(tuple("abcdefgh"), random.integers(0, 2, (8, 3)), ("long", "sad", "new"), "eight texts")
    teacher = random.normal(size=(8, 3)).astype(np.float32)
    scorer = Scorer(data, "macro_f1")
    calibrated = teacher / np.float32(scorer.temperature(teacher))
    nearest = scorer.distances(calibrated, of_teacher=teacher)
    for other in (2 * calibrated, -calibrated, calibrated + np.float32(0.1)):
        assert (scorer.distances(other, of_teacher=teacher) > nearest).all()

"""How sure a teacher is of a text, and what its answers weigh, by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from distill.labels import Logits
from distill.settings import Unsure
from distill.training.certainty import certainty, certainty_weights


def logits(*probabilities: Sequence[float]) -> Logits:
    return np.asarray(np.log(probabilities), dtype=np.float32)


def two_labels(*shares: float) -> Logits:
    """Return answers with this probability of the first label."""
    return logits(*((share, 1 - share) for share in shares))


def test_certainty_is_the_gap_between_the_two_likeliest_labels() -> None:
    found = certainty(logits((0.9, 0.06, 0.04), (0.2, 0.5, 0.3), (0.25, 0.25, 0.5), (0.45, 0.45, 0.1)))
    assert found == pytest.approx([0.84, 0.2, 0.25, 0])


def test_a_toss_up_between_two_of_many_labels_is_not_sure_at_all() -> None:
    assert certainty(logits([0.4999, 0.4999, *[0.0002 / 8] * 8])) == pytest.approx([0])


def test_texts_weigh_what_the_teacher_is_sure_of_them_and_1_in_the_mean() -> None:
    # Gaps of 0.8, 0.2, 0.4 and 0.6: their mean is 0.5.
    assert certainty_weights(two_labels(0.9, 0.4, 0.7, 0.2), "weigh") == pytest.approx([1.6, 0.4, 0.8, 1.2])


def test_the_least_certain_fifth_of_each_label_is_left_out() -> None:
    of_first = [0.95, 0.51, 0.9, 0.85, 0.8, 0.52, 0.75, 0.7, 0.65, 0.6]  # two of ten: 0.51 and 0.52
    of_second = [0.1, 0.2, 0.3, 0.4, 0.05]  # one of five: 0.4, although it is surer than those two
    weights = certainty_weights(two_labels(*of_first, *of_second), "leave_out")
    assert np.flatnonzero(weights == 0).tolist() == [1, 5, 13]
    assert weights[weights > 0] == pytest.approx([15 / 12] * 12)


def test_the_last_texts_of_a_label_are_never_left_out() -> None:
    # A fifth of four texts is less than one; those of the other label are surer, and one of five goes.
    weights = certainty_weights(two_labels(0.51, 0.52, 0.53, 0.54, 0.01, 0.02, 0.03, 0.04, 0.05), "leave_out")
    assert np.flatnonzero(weights == 0).tolist() == [8]
    assert certainty_weights(two_labels(0.51), "leave_out").tolist() == [1]


def test_a_text_as_sure_as_one_that_stays_is_not_left_out() -> None:
    weights = certainty_weights(two_labels(0.6, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7), "leave_out")
    assert np.flatnonzero(weights == 0).tolist() == [0]  # two of ten could go


@pytest.mark.parametrize("way", ["keep", "weigh", "leave_out"])
@pytest.mark.parametrize("share", [0.9, 0.5])
def test_answers_that_are_equally_sure_all_count_alike(way: Unsure, share: float) -> None:
    answers = two_labels(*[share] * 7, *[1 - share] * 8)
    assert certainty_weights(answers, way).tolist() == [1.0] * 15


def test_answers_are_kept_alike_by_default() -> None:
    assert certainty_weights(two_labels(0.9, 0.4), "keep").tolist() == [1, 1]

"""A text's answer alone and among batch-mates: what counts as a change, and which text is named."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from distill.classifier import TextInput
from distill.errors import QualityError
from distill.labels import Logits, ProblemType
from export.invariance import MAX_TEXTS, compare_alone_and_in_batches


class Swayed:
    """A classifier whose first logit of one text moves when it has batch-mates; every other text has logits 0 and 2."""

    labels = ("a", "b")

    def __init__(self, alone: float, together: float, problem_type: ProblemType = "single_label_classification") -> None:
        self.problem_type: ProblemType = problem_type
        self.asked: list[int] = []
        self._alone, self._together = alone, together

    def predict_logits(self, texts: Sequence[TextInput]) -> Logits:
        self.asked.append(len(texts))
        logits = np.tile(np.float32([0, 2]), (len(texts), 1))
        for index, text in enumerate(texts):
            if text == "text 40":
                logits[index, 0] = self._alone if len(texts) == 1 else self._together
        return logits


TEXTS = tuple(f"text {index}" for index in range(70))


def test_a_classifier_that_nobody_sways_passes_with_zero() -> None:
    classifier = Swayed(0, 0)
    report = compare_alone_and_in_batches(classifier, TEXTS)
    assert (report.labels_changed_by_batch, report.probability_change_by_batch, report.num_texts) == (0, 0.0, 70)
    assert classifier.asked == [1] * 70 + [32, 32, 6]
    report.require(1e-9)


def test_a_label_that_changes_is_counted_and_its_text_named() -> None:
    report = compare_alone_and_in_batches(Swayed(1.9, 2.1), TEXTS)
    assert (report.labels_changed_by_batch, report.worst_text) == (1, "text 40")
    # 1 / (1 + e^0.1) and 1 / (1 + e^-0.1): 0.47502 and 0.52498
    assert report.probability_change_by_batch == pytest.approx(0.04996, abs=1e-5)
    with pytest.raises(QualityError, match=r"answers 1 of 70 texts otherwise alone than in a batch.*'text 40'") as caught:
        report.require(0.5)
    assert caught.value.exit_code == 4


def test_a_probability_that_moves_too_far_does_not_pass_although_no_label_changed() -> None:
    report = compare_alone_and_in_batches(Swayed(0, 0.01), TEXTS)
    assert report.labels_changed_by_batch == 0
    with pytest.raises(QualityError, match=r"answers 0 of 70 texts.*moves by 0\.001"):
        report.require(1e-4)
    report.require(0.01)


def test_a_tie_that_the_last_bit_decides_is_no_change() -> None:
    report = compare_alone_and_in_batches(Swayed(1.99999, 2.00001), TEXTS)
    assert report.labels_changed_by_batch == 0
    assert 0 < report.probability_change_by_batch < 1e-4


def test_a_decision_on_one_of_several_labels_counts() -> None:
    report = compare_alone_and_in_batches(Swayed(-0.1, 0.1, "multi_label_classification"), TEXTS)
    assert report.labels_changed_by_batch == 1


def test_at_most_500_texts_are_asked_evenly_taken() -> None:
    classifier = Swayed(0, 0)
    compare_alone_and_in_batches(classifier, tuple(f"text {index}" for index in range(2000)))
    assert classifier.asked.count(1) == MAX_TEXTS == 500

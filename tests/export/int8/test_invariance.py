"""A text's answer alone and among batch-mates: what counts as a change, and which text is named."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_task import BAD_WORDS, GOOD_WORDS, PLAIN_WORDS

from distill.bundle import Bundle
from distill.classifier import TextInput
from distill.errors import QualityError
from distill.labels import Logits, ProblemType, task_of
from export.int8.invariance import MAX_TEXTS, compare_alone_and_in_batches
from export.runtime.sessions import OnnxClassifier


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

    predict_in_one_batch = predict_logits


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
    with pytest.raises(QualityError, match=r"1 of 70 texts.*'text 40'") as caught:
        report.require(0.5)
    assert caught.value.exit_code == 4


def test_a_probability_that_moves_too_far_does_not_pass_although_no_label_changed() -> None:
    report = compare_alone_and_in_batches(Swayed(0, 0.01), TEXTS)
    assert report.labels_changed_by_batch == 0
    with pytest.raises(QualityError, match=r"0 of 70 texts.* 0\.001"):
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


@settings(max_examples=40)
@given(data=st.data())
def test_no_text_and_no_split_into_batches_changes_an_answer_of_int8(int8: OnnxClassifier, data: st.DataObject) -> None:
    words = st.sampled_from([*GOOD_WORDS, *BAD_WORDS, *PLAIN_WORDS, "unheard-of", "…", "[SEP]", "[PAD]"])
    texts = data.draw(st.lists(st.lists(words, max_size=40).map(" ".join), min_size=2, max_size=40))
    together = task_of(int8.problem_type).probabilities(int8.predict_logits(texts))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(texts) - 1))))
    parts = [texts[start:end] for start, end in zip([0, *cuts], [*cuts, len(texts)], strict=True)]
    apart = task_of(int8.problem_type).probabilities(np.concatenate([int8.predict_logits(part) for part in parts]))
    assert np.abs(together - apart).max() <= 1e-4
    tied = np.abs(together[:, 0] - together[:, 1]) <= 2e-4
    np.testing.assert_array_equal(together.argmax(axis=1)[~tied], apart.argmax(axis=1)[~tied])


@pytest.fixture(scope="module")
def int8(tiny_student: Bundle) -> OnnxClassifier:
    return OnnxClassifier(
        tiny_student.read_graph("int8"),
        tokenizer=tiny_student.tokenizer(),
        labels=tiny_student.labels,
        problem_type=tiny_student.manifest.problem_type,
        threads=1,
    )

"""What holds of any classifier, tried on one that counts letters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from distill.classifier import TextInput, agreement, predict, predict_stream, require_same_labels, top_labels
from distill.errors import DatasetError, SettingsError
from distill.labels import Logits, ProblemType


class CountsLetters:
    """Logit j of a text is how often letter j of "abc" stands in it, times log 2."""

    problem_type: ProblemType = "single_label_classification"

    def __init__(self, labels: tuple[str, ...] = ("a", "b", "c")) -> None:
        self.labels = labels
        self.asked: list[int] = []

    def predict_logits(self, texts: Sequence[TextInput]) -> Logits:
        self.asked.append(len(texts))
        counts = [[str(text).count(letter) for letter in "abc"] for text in texts]
        return (np.log(2) * np.array(counts, dtype=np.float64).reshape(len(texts), 3)).astype(np.float32)


def test_a_prediction_is_the_top_label_with_its_probability() -> None:
    first, second = predict(CountsLetters(), ["bb a", "c"])
    # Weights 2, 4 and 1 of 7; then 1, 1 and 2 of 4.
    assert (first.label, first.score) == ("b", pytest.approx(4 / 7))
    assert first.probabilities == {"a": pytest.approx(2 / 7), "b": pytest.approx(4 / 7), "c": pytest.approx(1 / 7)}
    assert (second.label, second.score) == ("c", pytest.approx(0.5))
    assert (first.labels, second.labels) == (("b",), ("c",))
    assert all(type(value) is float for value in (first.score, *first.probabilities.values()))  # JSON knows no other


def test_several_labels_are_those_from_one_half_on() -> None:
    classifier = CountsLetters()
    classifier.problem_type = "multi_label_classification"
    (both,) = predict(classifier, ["bb a"])
    # Logits 1, 2 and 0 times log 2 have odds 2, 4 and 1.
    assert both.probabilities == {"a": pytest.approx(2 / 3), "b": pytest.approx(4 / 5), "c": pytest.approx(1 / 2)}
    assert (both.label, both.labels) == ("b", ("a", "b", "c"))  # 1/2 itself is enough
    classifier.predict_logits = lambda texts: np.full((len(texts), 3), -1, np.float32)  # type: ignore[method-assign]
    (none,) = predict(classifier, [""])
    assert none.labels == ()
    assert none.score == pytest.approx(1 / (1 + np.e))


def test_no_texts_have_no_predictions() -> None:
    assert predict(CountsLetters(), []) == []


@pytest.mark.parametrize(("count", "asked"), [(0, []), (3, [3]), (4, [4]), (9, [4, 4, 1])])
def test_a_stream_is_answered_in_order_chunk_by_chunk(count: int, asked: list[int]) -> None:
    classifier = CountsLetters()
    texts = ["abc"[number % 3] for number in range(count)]
    answers = list(predict_stream(classifier, iter(texts), chunk_size=4))
    assert [(text, prediction.label) for text, prediction in answers] == [(text, text) for text in texts]
    assert classifier.asked == asked


def test_a_stream_is_not_read_ahead_of_its_answers() -> None:
    taken = 0

    def texts() -> Iterator[str]:
        nonlocal taken
        while True:
            taken += 1
            yield "a"

    next(predict_stream(CountsLetters(), texts(), chunk_size=5))
    assert taken == 5


def test_the_first_of_equal_logits_is_on_top() -> None:
    top = top_labels(np.array([[0, 2, 1], [3, 3, 0]], dtype=np.float32))
    assert top.tolist() == [1, 0]
    assert top.dtype == np.int64


def test_agreement_is_the_share_of_equal_labels_whatever_the_margin() -> None:
    first = np.array([[1, 0], [0, 1], [9, 0], [0, 1]], dtype=np.float32)
    second = np.array([[8, 7], [1, 0], [1, 0], [0, 9]], dtype=np.float32)
    assert agreement(first, second) == 0.75


def test_agreement_on_several_labels_counts_texts_with_the_same_set_of_labels() -> None:
    # Of three texts one has another set of labels, although five of the six single decisions are the same.
    first = np.array([[1, 1], [1, -1], [-1, -1]], dtype=np.float32)
    second = np.array([[2, 3], [1, 1], [-9, -1]], dtype=np.float32)
    assert agreement(first, second, "multi_label_classification") == pytest.approx(2 / 3)


@pytest.mark.parametrize(("first", "second"), [(0, 0), (1, 3), (3, 1)])
def test_agreement_of_different_or_no_texts_is_refused(first: int, second: int) -> None:
    with pytest.raises(DatasetError, match=f"{first} and {second} rows"):
        agreement(np.zeros((first, 2), np.float32), np.zeros((second, 2), np.float32))


def test_classifiers_with_other_labels_or_another_order_are_not_compared() -> None:
    names = ("teacher", "student")
    require_same_labels(CountsLetters(), CountsLetters(), names=names)
    for other in (("c", "b", "a"), ("a", "b")):
        with pytest.raises(SettingsError, match=r"teacher has labels \['a', 'b', 'c'\], student has \["):
            require_same_labels(CountsLetters(), CountsLetters(other), names=names)

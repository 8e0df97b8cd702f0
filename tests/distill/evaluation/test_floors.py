"""The floors, on sets whose answer one can see."""

from __future__ import annotations

import numpy as np
import pytest

from distill.classifier import predict
from distill.data import Dataset
from distill.evaluation.floors import MajorityClassifier, TfidfClassifier


def dataset(*pairs: tuple[str, int], labels: tuple[str, ...]) -> Dataset:
    return Dataset(tuple(text for text, _ in pairs), np.array([label for _, label in pairs], dtype=np.int64), labels, "here")


REVIEWS = dataset(
    ("lovely film", 2),
    ("lovely plot", 2),
    ("lovely and warm", 2),
    ("dull film", 0),
    ("dull plot", 0),
    labels=("bad", "fair", "good"),
)


def test_the_majority_is_given_with_its_share() -> None:
    majority = MajorityClassifier(dataset(("a", 1), ("b", 1), ("c", 1), ("d", 0), labels=("x", "y")))
    first, second = predict(majority, ["anything", "else"])
    assert (first.label, first.score) == ("y", pytest.approx(0.75))
    assert first == second
    assert majority.num_parameters == 2


def test_a_label_without_texts_is_never_the_majority() -> None:
    assert [each.label for each in predict(MajorityClassifier(REVIEWS), ["x"])] == ["good"]
    logits = MajorityClassifier(REVIEWS).predict_logits(["x"])
    assert np.isfinite(logits).all()
    assert logits.argmin() == 1


def test_tfidf_learns_which_words_tell() -> None:
    floor = TfidfClassifier(REVIEWS)
    assert [each.label for each in predict(floor, ["a dull evening", "how lovely"])] == ["bad", "good"]


def test_columns_belong_to_labels_even_where_one_has_no_text() -> None:
    logits = TfidfClassifier(REVIEWS).predict_logits(["lovely", "dull"])
    assert logits.shape == (2, 3)
    assert logits.dtype == np.float32
    assert logits[:, 1].tolist() == [-1e4, -1e4]
    assert np.exp(logits[:, [0, 2]]).sum(axis=1) == pytest.approx(1)  # log-probabilities


def test_tfidf_on_characters_learns_from_texts_without_spaces() -> None:
    things = ("这本书", "服务", "酒店")
    reviews = dataset(
        *((thing + said, label) for thing in things for label, said in enumerate(("很差", "不错"))), labels=("bad", "good")
    )
    new = ["质量不错", "质量很差"]
    assert [each.label for each in predict(TfidfClassifier(reviews, unit="characters"), new)] == ["good", "bad"]
    # By words every text is one of its own: both answers are the same, the chance of a label.
    words = TfidfClassifier(reviews).predict_logits(new)
    assert words[0] == pytest.approx(words[1])


def test_tfidf_counts_its_weights() -> None:
    # 6 words (lovely film plot and warm dull), 6 pairs of neighbours, 1 bias.
    assert TfidfClassifier(REVIEWS).num_parameters == 13


@pytest.mark.parametrize("floor", [MajorityClassifier(REVIEWS), TfidfClassifier(REVIEWS)])
def test_no_texts_have_logits_of_the_right_width(floor: MajorityClassifier | TfidfClassifier) -> None:
    assert floor.predict_logits([]).shape == (0, 3)


def test_tfidf_joins_the_texts_of_a_pair() -> None:
    floor = TfidfClassifier(REVIEWS)
    assert floor.predict_logits([("lovely film", "dull")]).tolist() == floor.predict_logits(["lovely film dull"]).tolist()


FILMS = Dataset(
    ("lovely music", "lovely film", "dull music", "dull film", "dull plot"),
    np.array([[1, 1, 0, 1], [1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 0, 1], [0, 0, 0, 1]]),  # nothing is sad, everything is old
    ("good", "music", "sad", "old"),
    "here",
)


def test_with_several_labels_the_majority_has_those_of_half_of_the_texts() -> None:
    majority = MajorityClassifier(FILMS)
    shares = FILMS.task.probabilities(majority.predict_logits(["anything"]))[0]
    assert shares == pytest.approx([2 / 5, 2 / 5, 0.5 / 5.5, 5 / 5.5], abs=1e-6)  # half a text where there is none
    assert FILMS.task.decisions(majority.predict_logits(["anything"])).tolist() == [[0, 0, 0, 1]]


def test_with_several_labels_tfidf_learns_each_and_nothing_of_those_that_never_change() -> None:
    floor = TfidfClassifier(FILMS)
    logits = floor.predict_logits(["lovely", "lovely music", "dull music"])
    assert (logits.shape, logits.dtype) == ((3, 4), np.float32)
    assert FILMS.task.decisions(logits)[1:].tolist() == [[1, 1, 0, 1], [0, 1, 0, 1]]
    assert logits[:, 2:].tolist() == [[-1e4, 1e4]] * 3
    assert floor.problem_type == "multi_label_classification"
    assert floor.num_parameters == 2 * (5 + 5 + 1)  # words, pairs of neighbours and a bias, for two labels
    assert floor.predict_logits([]).shape == (0, 4)

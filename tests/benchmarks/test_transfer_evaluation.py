"""Learning curve, other tasks, confusion matrices and closed gaps, from rows written by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks.transfer.figures import CHINESE, Truth, curve_of, unlabelled_of, ways_of
from benchmarks.transfer.page import learning_curve, transfer_table
from distill.evaluation.metrics import confusion_matrix

TRUE = "01" * 20
BAD = "10" * 4 + TRUE[8:]  # 8 of 40 wrong, as many of each label: macro-F1 0.8
THREE = "012" * 10
NEVER_ONE = "002" * 10  # label 0: 10 of 20 given are right, F1 2/3; label 1: 0; label 2: 1
LABELS = {**dict.fromkeys(("movies", "amazon", "tweets", "nyt", "chinese"), TRUE), "tweets-three-way": THREE}
TASK = "tweets-three-way"


def result(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {"rows": rows, "test_labels": LABELS, "missing": []}


def point(kind: str, source: str, predicted: str, **more: Any) -> dict[str, Any]:
    return {"kind": kind, "source": source, "target": "amazon", "seed": 0, "predicted": predicted, **more}


def task(origin: str, seed: int, predicted: str) -> dict[str, Any]:
    row = {"kind": "task", "task": "tweets-three-way", "origin": origin, "seed": seed, "predicted": predicted}
    return {**row, "labels": ["negative", "neutral", "positive"]}


CURVE = [
    point("curve", "movies", BAD, way="parameters", shots=8),
    point("few", "movies", TRUE),
    point("few", "nyt", BAD),  # not the curve's source
    point("curve", "amazon", BAD, way="features", shots=100),
    point("floor", "tfidf", BAD, shots=8),
    point("floor", "tfidf", TRUE),  # on all labels, so no point of the curve
]
TASKS = [task("minilm", 0, NEVER_ONE), task("movies", 0, THREE), task("movies", 1, NEVER_ONE)]


def test_the_curve_takes_its_middle_point_from_the_matrix() -> None:
    found = {(*line, count): one.value for line, points in curve_of(result(CURVE)).items() for count, one in points.items()}
    assert found == pytest.approx(
        {
            ("parameters", "movies", 16): 0.8,
            ("parameters", "movies", 200): 1.0,
            ("features", "amazon", 200): 0.8,
            ("tfidf", "tfidf", 16): 0.8,
        }
    )


def test_another_task_is_compared_on_the_seeds_that_both_have() -> None:
    found = {one.name: one for one in ways_of(result(TASKS), TASK)}
    alone = (2 / 3 + 0 + 1) / 3
    assert found["minilm"].macro_f1.value == pytest.approx(alone)
    assert found["minilm"].gain is None
    assert found["movies"].macro_f1.value == pytest.approx((1 + alone) / 2)
    assert found["movies"].gain is not None
    assert found["movies"].gain.value == pytest.approx(1 - alone)  # seed 1 has no counterpart
    assert Truth(THREE, ()).confusion(found["movies"].runs) == [[20, 0, 0], [10, 10, 0], [0, 0, 20]]


def in_chinese(origin: str, seed: int, predicted: str) -> dict[str, Any]:
    row = {"kind": "language", "origin": origin, "seed": seed, "predicted": predicted, "num_labels": 3000}
    return {**row, "labels": ["negative", "positive"]}


LANGUAGE = [in_chinese("random", 0, BAD), in_chinese("movies_frozen", 0, TRUE), in_chinese("tfidf", 1, TRUE)]


def test_another_language_is_compared_with_training_from_scratch() -> None:
    found = {one.name: one for one in ways_of(result(LANGUAGE), CHINESE)}
    assert found["random"].macro_f1.value == pytest.approx(0.8)
    assert found["movies_frozen"].gain is not None
    assert found["movies_frozen"].gain.value == pytest.approx(0.2)
    assert found["tfidf"].gain is None  # of another seed
    assert Truth(TRUE, ()).confusion(found["random"].runs) == [[16, 4], [4, 16]]


def test_a_confusion_matrix_counts_true_by_given() -> None:
    truth, first, second = (np.array(ids) for ids in ([0, 0, 1, 2], [0, 1, 1, 0], [0, 1, 1, 2]))
    counts = confusion_matrix(truth, first, num_labels=3) + confusion_matrix(truth, second, num_labels=3)
    assert counts.tolist() == [[2, 2, 0], [0, 2, 0], [1, 0, 1]]


def run(kind: str, source: str, wrong: int) -> dict[str, Any]:
    """A run on nyt with so many of each label wrong, of 20: macro-F1 is the share of right ones."""
    predicted = "10" * wrong + TRUE[2 * wrong :]
    row = {"kind": kind, "source": source, "target": "nyt", "seed": 0, "predicted": predicted}
    return {**row, "macro_f1": 1 - wrong / 20}


def unlabelled(student: int, teachers: dict[str, int], own: int) -> list[dict[str, Any]]:
    rows = [run("whole", source, wrong) for source, wrong in teachers.items()]
    return [*rows, run("whole", "nyt", own), run("unlabelled", "the other three", student)]


def test_the_gap_begins_at_the_other_teachers_and_ends_at_the_domains_own() -> None:
    found = unlabelled_of(result(unlabelled(5, {"movies": 10, "amazon": 8, "tweets": 6}, own=4)))["nyt"]
    # student 0.75; teachers 0.5, 0.6 and 0.7, so 0.6 in the mean; the domain's own 0.8
    assert found.closed == pytest.approx(((0.75 - 0.6) / (0.8 - 0.6), (0.75 - 0.7) / (0.8 - 0.7)))
    assert found.retention.value == pytest.approx(0.75 / 0.8)


def test_where_a_foreign_teacher_is_as_good_as_the_own_there_is_no_gap() -> None:
    rows = unlabelled(5, {"movies": 10, "amazon": 8, "tweets": 4}, own=4)
    assert unlabelled_of(result(rows))["nyt"].closed[1] is None
    assert not unlabelled_of(result(rows[1:]))  # one of the three teachers was not measured


def test_the_page_and_the_picture_show_them() -> None:
    rows = [*CURVE, *TASKS, *LANGUAGE, *unlabelled(5, {"movies": 10, "amazon": 8, "tweets": 4}, own=4)]
    shown = result(
        [
            *({**row, "macro_f1": row.get("macro_f1", 0.5)} for row in rows),
            {**point("floor", "tfidf", BAD, shots=100), "macro_f1": 0.7},
            {**point("floor", "majority", BAD), "macro_f1": 0.3},
        ]
    )
    page = transfer_table(shown)
    assert "| amazon, number of labels | 16 | 200 |" in page
    assert "| TF-IDF |  | 0.700 |  |  |" in page  # with 200 labels, not with 16 or all
    assert "| majority class |  | 0.300 |  |  |" in page
    assert "| the teacher of movies, fine-tuned | 0.800 (" in page
    assert "| nyt | 0.633 | 0.800 | 70% | no gap |" in page  # (0.75 - 0.633) / (0.8 - 0.633)
    assert "| tweets three way, 100 labels a class | macro-F1 | against the encoder alone |" in page
    assert "| true neutral | 50.0% | 50.0% | 0.0% | 20 |" in page
    assert "| Chinese reviews, 3,000 labels | macro-F1 | against training from scratch |" in page
    assert "| the teacher of movies, frozen: only the vocabulary is trained | 1.000 (" in page
    picture = learning_curve(shown)
    assert picture == learning_curve(shown)
    assert picture.startswith("<svg")
    assert "the teacher of movies, fine-tuned" in picture
    assert "TF-IDF" in picture

"""Label names, their order, and probabilities."""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys

import numpy as np
import pytest

from distill.errors import SettingsError
from distill.labels import (
    Logits,
    ProblemType,
    are_numbers,
    label_ids_by_value,
    label_names_of,
    require_single_label,
    task_of,
    task_of_labels,
)


def logits(*rows: list[float]) -> Logits:
    return np.array(rows, dtype=np.float32)


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (["b", "a", "b"], ("a", "b")),
        (["10", "9", "-1"], ("-1", "9", "10")),
        (["10", "9", "x"], ("10", "9", "x")),
        (["Good", "bad"], ("Good", "bad")),
        ([], ()),
    ],
)
def test_labels_are_ordered_by_number_when_all_are_numbers(values: list[str], names: tuple[str, ...]) -> None:
    assert label_names_of(values) == names


def test_numbers_written_in_two_ways_have_one_order() -> None:
    assert all(label_names_of(values) == ("01", "1", "2") for values in itertools.permutations(["1", "01", "2"]))


def test_the_order_of_labels_is_the_same_in_every_process() -> None:
    # A set's own order changes with the seed of Python's string hash; the order of labels must not.
    program = "from distill.labels import label_names_of; print(label_names_of(['1', '01', '001', '2', '02']))"
    runs = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert runs == {"('001', '01', '1', '02', '2')\n"}


@pytest.mark.parametrize(
    ("values", "answer"),
    [(["0", "-1"], True), (["1.0"], False), (["-"], False), (["²"], False), (["٣"], False), (["9" * 5000], False)],
)
def test_only_plain_whole_numbers_are_numbers(values: list[str], answer: bool) -> None:
    assert are_numbers(values) is answer


@pytest.mark.parametrize(
    ("names", "values", "ids"),
    [
        (("bad", "good"), ["good", "bad"], {"bad": 0, "good": 1}),
        (("good", "bad"), ["good", "bad"], {"good": 0, "bad": 1}),
        (("good", "bad"), ["0", "1"], {"0": 0, "1": 1}),
        (("good", "bad"), ["0", "2", "-1"], {"0": 0}),
        (("good", "bad"), ["0", "bad"], {"bad": 1}),  # one name is enough: the column holds names
        (("1", "2", "3"), ["2", "3"], {"2": 1, "3": 2}),  # names, not positions
        (("1", "2", "3"), ["0"], {}),  # not the first of them
        (("good", "bad"), ["fair"], {}),
    ],
)
def test_values_are_names_or_else_positions(names: tuple[str, ...], values: list[str], ids: dict[str, int]) -> None:
    assert label_ids_by_value(names, values) == ids


def test_softmax_by_hand() -> None:
    # Odds 3 : 1 and 1 : 1.
    shares = task_of("single_label_classification").probabilities(logits([math.log(3), 0], [5, 5]))
    assert shares.tolist() == [pytest.approx([0.75, 0.25]), pytest.approx([0.5, 0.5])]
    assert shares.dtype == np.float32


def test_sigmoid_by_hand() -> None:
    shares = task_of("multi_label_classification").probabilities(logits([math.log(3), -math.log(3), 0]))
    assert shares.tolist() == [pytest.approx([0.75, 0.25, 0.5])]
    assert shares.dtype == np.float32


def test_regression_values_are_no_probabilities() -> None:
    values = logits([-3, 7])
    assert task_of("regression").probabilities(values).tolist() == [[-3, 7]]


@pytest.mark.parametrize("problem_type", ["single_label_classification", "multi_label_classification"])
def test_large_logits_do_not_overflow(problem_type: ProblemType) -> None:
    # Warnings are errors here, so an overflow inside would fail the test too.
    assert task_of(problem_type).probabilities(logits([1e4, -1e4])).tolist() == [[1, 0]]


def test_no_texts_have_no_probabilities() -> None:
    for problem_type in ("single_label_classification", "multi_label_classification"):
        assert task_of(problem_type).probabilities(np.empty((0, 3), np.float32)).shape == (0, 3)


SINGLE, MULTI = task_of("single_label_classification"), task_of("multi_label_classification")
TRUE_IDS, TRUE_TABLE = np.array([0, 2, 2]), np.array([[1, 0, 1], [0, 0, 0]])


def test_labels_say_by_their_axes_which_task_they_belong_to() -> None:
    assert task_of_labels(TRUE_IDS) is SINGLE
    assert task_of_labels(TRUE_TABLE) is MULTI
    assert task_of("regression").decisions(logits([1, 2])).tolist() == [1]


def test_decisions_are_written_as_the_labels_are() -> None:
    values = logits([3, 1, 2], [-1, -2, -3])
    assert SINGLE.decisions(values).tolist() == [0, 0]
    assert MULTI.decisions(values).tolist() == [[1, 1, 1], [0, 0, 0]]
    assert MULTI.decisions(logits([0.0])).tolist() == [[1]]  # a probability of exactly 0.5 is enough
    assert SINGLE.chosen_labels(values).tolist() == [[True, False, False]] * 2


def test_an_indicator_keeps_the_axes_before_the_texts() -> None:
    runs = np.stack([TRUE_IDS, TRUE_IDS[::-1]])
    assert SINGLE.indicator(runs, 3).shape == (2, 3, 3)
    assert SINGLE.indicator(runs, 3)[1].argmax(axis=1).tolist() == [2, 2, 0]
    assert MULTI.indicator(TRUE_TABLE, 3).tolist() == [[True, False, True], [False] * 3]


def test_answers_are_compared_by_text_or_by_label() -> None:
    first = SINGLE.indicator(TRUE_IDS, 3)
    assert SINGLE.equal(first, SINGLE.indicator(np.array([0, 1, 2]), 3)).tolist() == [[True], [False], [True]]
    second = MULTI.indicator(np.array([[1, 1, 1], [0, 0, 0]]), 3)
    assert MULTI.equal(MULTI.indicator(TRUE_TABLE, 3), second).tolist() == [[True, False, True], [True] * 3]


def test_confidence_is_the_probability_of_the_answer_given() -> None:
    values = logits([math.log(3), 0], [0, math.log(9)])
    assert SINGLE.confidences(values) == pytest.approx(np.array([[0.75], [0.9]]))
    assert MULTI.confidences(-values) == pytest.approx(np.array([[0.75, 0.5], [0.5, 0.9]]))  # of a no, too


def test_the_most_frequent_answer_is_a_label_or_a_yes_or_no_for_each() -> None:
    assert SINGLE.most_frequent(SINGLE.indicator(np.array([2, 0, 2]), 3)).tolist() == [False, False, True]
    # Labels are true in 1, 0 and 1 of 2 texts.
    assert MULTI.most_frequent(np.array([[1, 0, 0], [0, 0, 1]], dtype=bool)).tolist() == [True, False, True]


def test_a_job_for_one_label_refuses_the_others() -> None:
    require_single_label("single_label_classification", "export")
    with pytest.raises(SettingsError, match=r"export.*regression"):
        require_single_label("regression", "export")

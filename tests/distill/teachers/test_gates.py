"""A teacher that teaches nothing, or the wrong labels, is found before a student learns from it."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from distill.errors import SettingsError, TeacherError
from distill.teachers.teacher import require_same_label_names, require_same_task, require_useful_teacher

TWO = ("negative", "positive")


def judge(labels: Sequence[str], pairs: Sequence[tuple[int, int, int]]) -> None:
    """Judge a teacher by (label it gives, true label, how many texts)."""
    given = np.repeat([pair[0] for pair in pairs], [pair[2] for pair in pairs])
    true = np.repeat([pair[1] for pair in pairs], [pair[2] for pair in pairs])
    logits = np.eye(len(labels), dtype=np.float32)[given]
    require_useful_teacher(logits=logits, label_ids=true.astype(np.int64), labels=tuple(labels))


def test_a_good_teacher_passes() -> None:
    judge(TWO, [(0, 0, 45), (1, 1, 40), (1, 0, 5), (0, 1, 10)])


def test_a_teacher_a_little_better_than_the_commonest_label_passes() -> None:
    judge(("a", "b", "c"), [(0, 0, 30), (0, 1, 15), (1, 1, 15), (2, 2, 20), (0, 2, 20)])  # 65 %, the commonest is 40 %


def test_a_teacher_that_always_gives_the_commonest_label_is_refused_with_both_numbers() -> None:
    # F1 of the label that is always given: 2 * 60 / (60 + 100) = 0.75, of the other 0; the floor is the same.
    with pytest.raises(TeacherError, match=r"is 0\.375.*reach 0\.375.*`potstill teacher`"):
        judge(TWO, [(1, 0, 40), (1, 1, 60)])


def test_a_teacher_of_a_rare_class_passes_though_its_accuracy_is_that_of_the_commonest_label() -> None:
    # 3.6 % are positive. Accuracy is 96.4 % like that of "always negative", macro-F1 0.75 instead of 0.49.
    judge(TWO, [(1, 1, 20), (0, 1, 16), (1, 0, 20), (0, 0, 944)])


def test_a_teacher_that_guesses_a_rare_class_at_random_is_refused() -> None:
    # 10 % are positive and it says so of 20 % of either class: macro-F1 0.49, above the 0.47 of "always negative".
    with pytest.raises(TeacherError, match=r"is 0\.490.*reach 0\.490"):
        judge(TWO, [(1, 1, 20), (0, 1, 80), (1, 0, 180), (0, 0, 720)])


def test_swapped_labels_of_a_rare_class_are_named() -> None:
    # Read the right way round it would be right on 96.4 %, no more than "always negative".
    with pytest.raises(TeacherError, match=r"right on 3\.6%.*on 96\.4%.*'negative' -> 'positive'"):
        judge(TWO, [(0, 1, 20), (1, 1, 16), (0, 0, 20), (1, 0, 944)])


def test_an_untuned_teacher_that_always_gives_the_rarer_label_is_not_taken_for_a_swapped_one() -> None:
    # Read the other way round it would be right on 60 %: no more than the commonest label is.
    with pytest.raises(TeacherError, match=r"is 0\.286.*reach 0\.375.*`potstill teacher`"):
        judge(TWO, [(0, 0, 40), (0, 1, 60)])


def test_swapped_labels_are_named() -> None:
    with pytest.raises(TeacherError) as caught:
        judge(TWO, [(0, 1, 45), (1, 0, 45), (0, 0, 5), (1, 1, 5)])
    assert "right on 10.0% of the texts, but on 90.0%" in str(caught.value)
    assert "'negative' -> 'positive', 'positive' -> 'negative'" in str(caught.value)
    assert "--labels" in str(caught.value)


def test_rotated_labels_are_named_in_the_right_direction() -> None:
    # What the teacher calls a is b, b is c, c is a. The other direction would be right on no text.
    with pytest.raises(TeacherError, match=r"on 90\.0% with its labels read as 'a' -> 'b', 'b' -> 'c', 'c' -> 'a';"):
        judge(("a", "b", "c"), [(0, 1, 30), (1, 2, 30), (2, 0, 30), (0, 0, 10)])


def test_only_the_labels_that_changed_places_are_named() -> None:
    # 40 of 80 are right, and the commonest label is a third: the exchange alone gives it away.
    with pytest.raises(
        TeacherError, match=r"50\.0% of the texts, but on 100\.0% with its labels read as 'b' -> 'c', 'c' -> 'b';"
    ):
        judge(("a", "b", "c"), [(0, 0, 40), (1, 2, 20), (2, 1, 20)])


def test_two_of_many_labels_that_changed_places_are_named() -> None:
    names = [f"label {index}" for index in range(9)]
    pairs = [(index, index, 10) for index in range(7)] + [(7, 8, 10), (8, 7, 10)]
    with pytest.raises(TeacherError, match=r"77\.8%.*100\.0%.*'label 7' -> 'label 8', 'label 8' -> 'label 7'"):
        judge(names, pairs)


def test_an_order_that_chance_prefers_is_said_and_passes(caplog: pytest.LogCaptureFixture) -> None:
    # b and c are told apart no better than by tossing a coin: 9 gained against 6 lost is 0.8 standard errors.
    judge(("a", "b", "c"), [(0, 0, 45), (1, 1, 3), (2, 2, 3), (1, 2, 5), (2, 1, 4)])
    assert "right on 85.0% of the texts, but on 90.0% with its labels read as 'b' -> 'c', 'c' -> 'b'" in caplog.text


def test_many_labels_in_their_order_pass() -> None:
    judge([f"label {index}" for index in range(9)], [(index, index, 10) for index in range(9)])


def test_two_of_a_thousand_labels_that_changed_places_are_named_in_little_memory() -> None:
    names = [f"label {index}" for index in range(1_000)]
    pairs = [(index, index, 2) for index in range(998)] + [(998, 999, 12), (999, 998, 12)]
    tracemalloc.start()
    with pytest.raises(TeacherError, match="read as 'label 998' -> 'label 999', 'label 999' -> 'label 998';"):
        judge(names, pairs)
    assert tracemalloc.get_traced_memory()[1] < 200e6
    tracemalloc.stop()


def test_a_mediocre_teacher_of_a_thousand_labels_is_not_taken_for_a_permuted_one() -> None:
    # Right on 3 of 10 texts and random elsewhere: of all the orders, some are better on the texts they are chosen on.
    generator = np.random.default_rng(0)
    true = np.arange(3_000) % 1_000
    given = np.where(generator.random(3_000) < 0.3, true, generator.integers(0, 1_000, 3_000))
    judge([f"label {index}" for index in range(1_000)], [(one, other, 1) for one, other in zip(given, true, strict=True)])


def test_labels_without_texts_are_not_named() -> None:
    with pytest.raises(TeacherError, match="read as 'a' -> 'b', 'b' -> 'a';"):
        judge(("a", "b", "c", "d"), [(0, 1, 20), (1, 0, 20)])


# Several labels a text

THREE = ("a", "b", "c")
# a is on half of the texts, b on a quarter, c on an eighth: always saying the commoner answer is right on
# (1/2 + 3/4 + 7/8) / 3 = 70.8 % of the decisions.
TRUTH = np.array([[1, 1, 1], [1, 0, 0], [0, 0, 0], [0, 0, 0], [1, 1, 0], [1, 0, 0], [0, 0, 0], [0, 0, 0]] * 4, dtype=np.int64)


def judge_several(given: NDArray[np.int64]) -> None:
    require_useful_teacher(logits=(2 * given - 1).astype(np.float32), label_ids=TRUTH, labels=THREE)


def test_a_teacher_of_several_labels_passes_when_it_beats_the_commonest_answer_of_each() -> None:
    given = TRUTH.copy()
    given[:, 2] = 0  # never says the rarest label: right on 23 of every 24
    judge_several(given)


@pytest.mark.parametrize("column", [0, 1])
def test_a_teacher_that_says_the_commonest_answer_of_each_label_is_refused(column: int) -> None:
    given = np.zeros_like(TRUTH)
    given[:, 0] = column  # a is on half of the texts: both answers are the commonest
    # Always "a" has F1 2 * 16 / (16 + 32) = 0.67 for a and 0 for the others.
    with pytest.raises(TeacherError, match=rf"is {0.222 * column:.3f}.*reach 0\.222"):
        judge_several(given)


def test_a_teacher_of_several_rare_labels_passes_though_it_misses_half_of_them() -> None:
    given = TRUTH.copy()
    given[::2, 1:] = 0
    judge_several(given)


def test_swapped_columns_are_named() -> None:
    with pytest.raises(TeacherError, match=r"right on 83\.3% of the label decisions, but on 100\.0%.*'a' -> 'b', 'b' -> 'a';"):
        judge_several(TRUTH[:, [1, 0, 2]])  # a and b differ on 2 of every 8 texts: 4 of 24 decisions


def test_rotated_columns_are_named_in_the_right_direction() -> None:
    # The teacher's column a is the data's c, b is a, c is b.
    with pytest.raises(TeacherError, match=r"'a' -> 'c', 'b' -> 'a', 'c' -> 'b';"):
        judge_several(TRUTH[:, [2, 0, 1]])


def test_teacher_and_data_must_have_one_task() -> None:
    require_same_task("multi_label_classification", "multi_label_classification")
    with pytest.raises(SettingsError, match=r"single_label_.*multi_label_.*--label-separator"):
        require_same_task("single_label_classification", "multi_label_classification")


@pytest.mark.parametrize("names", [("positive", "negative"), ("Negative", "Positive"), ("negative",)])
def test_other_label_names_or_another_order_are_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(SettingsError, match=r"negative.*positive.*teacher's label names"):
        require_same_label_names(TWO, names)


def test_the_same_label_names_pass() -> None:
    require_same_label_names(TWO, ("negative", "positive"))

"""Quality figures against sums by hand, scikit-learn and a bootstrap that really draws texts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import f1_score

from distill.errors import DatasetError
from distill.evaluation.metrics import (
    Quality,
    evaluate,
    expected_calibration_error,
    macro_f1,
    retention,
)
from distill.labels import Logits, ProblemType, task_of, task_of_labels


def ids(*values: int) -> NDArray[np.int64]:
    return np.array(values, dtype=np.int64)


def one_hot(predicted: NDArray[np.int64], num_labels: int) -> Logits:
    return (10 * np.eye(num_labels)[predicted]).astype(np.float32)


def calibration_error(labels: NDArray[np.int64], *first: float) -> float:
    """Return the error of shares of the first of two labels."""
    shares = np.array([[share, 1 - share] for share in first], dtype=np.float32)
    return expected_calibration_error(shares.max(axis=1), shares.argmax(axis=1) == labels)


def negative_log_likelihood(labels: NDArray[np.int64], logits: Logits) -> float:
    return task_of_labels(labels).negative_log_likelihood(labels, logits)


# True 0 0 0 1 1 2, predicted 0 0 1 1 0 1:
# label 0 has precision 2/3, recall 2/3, F1 2/3; label 1 has 1/3, 1/2, 2/5; label 2 is never found.
TRUE, PREDICTED = ids(0, 0, 0, 1, 1, 2), ids(0, 0, 1, 1, 0, 1)
MACRO_F1 = (2 / 3 + 2 / 5 + 0) / 3


def test_every_figure_by_hand() -> None:
    quality = evaluate(labels=TRUE, logits=one_hot(PREDICTED, 3), label_names=["x", "y", "z"])
    assert quality.macro_f1 == pytest.approx(MACRO_F1)
    assert quality.accuracy == pytest.approx(3 / 6)
    assert quality.num_texts == 6
    x, y, z = (quality.per_class[name] for name in "xyz")
    assert (x.precision, x.recall, x.f1, x.support) == (pytest.approx(2 / 3), pytest.approx(2 / 3), pytest.approx(2 / 3), 3)
    assert (y.precision, y.recall, y.f1, y.support) == (pytest.approx(1 / 3), pytest.approx(1 / 2), pytest.approx(2 / 5), 2)
    assert (z.precision, z.recall, z.f1, z.support) == (0, 0, 0, 1)
    assert quality.macro_f1_interval[0] <= quality.macro_f1 <= quality.macro_f1_interval[1]


def test_macro_f1_by_hand() -> None:
    assert macro_f1(TRUE, one_hot(PREDICTED, 3)) == pytest.approx(MACRO_F1)


def test_a_label_that_no_text_has_and_no_text_gets_counts_as_zero() -> None:
    assert macro_f1(ids(0, 1), one_hot(ids(0, 1), 2)) == 1
    assert macro_f1(ids(0, 1), one_hot(ids(0, 1), 4)) == 0.5


@given(st.data(), st.integers(2, 4), st.integers(1, 30))
def test_one_macro_f1_whoever_computes_it(data: st.DataObject, num_labels: int, count: int) -> None:
    labels, predicted = (
        ids(*data.draw(st.lists(st.integers(0, num_labels - 1), min_size=count, max_size=count))) for _ in range(2)
    )
    expected = f1_score(labels, predicted, labels=list(range(num_labels)), average="macro", zero_division=0)
    names = [str(label) for label in range(num_labels)]
    assert macro_f1(labels, one_hot(predicted, num_labels)) == pytest.approx(expected)
    assert evaluate(labels=labels, logits=one_hot(predicted, num_labels), label_names=names).macro_f1 == pytest.approx(expected)


@pytest.mark.parametrize(("num_labels", "num_rows"), [(0, 0), (3, 2)])
def test_no_texts_or_rows_without_a_label_are_refused(num_labels: int, num_rows: int) -> None:
    with pytest.raises(DatasetError, match=f"{num_labels} labels and {num_rows} rows of logits"):
        evaluate(labels=np.zeros(num_labels, np.int64), logits=np.zeros((num_rows, 2), np.float32), label_names=["x", "y"])


# Calibration


def test_calibration_error_by_hand() -> None:
    # Bins are a fifteenth wide. 0.95 and 0.97 share the last: mean confidence 0.96, one of two right, gap 0.46 on 2 texts.
    # 0.61 is right, alone in its bin: gap 0.39. 0.72 is wrong, alone: gap 0.72.
    assert calibration_error(ids(0, 1, 0, 1), 0.95, 0.97, 0.61, 0.72) == pytest.approx((2 * 0.46 + 0.39 + 0.72) / 4)


def test_gaps_of_opposite_sign_do_not_cancel_between_bins_and_do_within_one() -> None:
    # 0.8 right and 0.6 wrong lie in two bins; 0.94 right and 0.96 wrong in one, mean 0.95 against one half.
    assert calibration_error(ids(0, 1), 0.8, 0.6) == pytest.approx((0.2 + 0.6) / 2)
    assert calibration_error(ids(0, 1), 0.94, 0.96) == pytest.approx(0.45)


def test_a_bin_holds_its_upper_end() -> None:
    # Guo et al.: bins are (low, high]. 0.6 is the end of bin 9, 0.61 lies in bin 10: apart, |0.4| and |0.61|; together 0.105.
    assert calibration_error(ids(0, 1), 0.6, 0.61) == pytest.approx((0.4 + 0.61) / 2)


@pytest.mark.parametrize(("labels", "error"), [(ids(0, 0), 0.0), (ids(1, 1), 1.0), (ids(0, 1), 0.5)])
def test_certainty_is_as_wrong_as_it_errs(labels: NDArray[np.int64], error: float) -> None:
    assert calibration_error(labels, 1, 1) == pytest.approx(error)


def test_calibration_is_of_probabilities_and_not_of_logits() -> None:
    # Logits log 3 and 0 are shares 3/4 and 1/4; three of four right is perfect.
    logits = np.log(np.array([[3, 1]] * 4, dtype=np.float32))
    assert evaluate(labels=ids(0, 0, 0, 1), logits=logits, label_names=["x", "y"]).expected_calibration_error == pytest.approx(
        0, abs=1e-6
    )


# Probabilities against the truth


def test_brier_score_by_hand() -> None:
    # Three labels: (0.7 - 1)² + 0.2² + 0.1² = 0.14 where the first is true, 0.7² + 0.2² + (0.1 - 1)² = 1.34 where the last is.
    logits = np.log(np.array([[0.7, 0.2, 0.1]] * 2, dtype=np.float32))
    assert evaluate(labels=ids(0, 2), logits=logits, label_names="xyz").brier_score == pytest.approx((0.14 + 1.34) / 2)


def test_negative_log_likelihood_by_hand() -> None:
    # Logits log 3 and 0 are shares 3/4 and 1/4.
    logits = np.array([[math.log(3), 0.0]] * 2, dtype=np.float32)
    assert negative_log_likelihood(ids(0, 1), logits) == pytest.approx((math.log(4 / 3) + math.log(4)) / 2)


def test_a_certain_mistake_costs_its_logit_and_not_infinity() -> None:
    assert negative_log_likelihood(ids(1), np.array([[500.0, 0.0]], np.float32)) == pytest.approx(500)
    assert negative_log_likelihood(np.array([[1, 0]]), np.array([[-500.0, 500.0]], np.float32)) == pytest.approx(500)


def test_cross_entropy_from_probabilities_by_hand() -> None:
    # The logits' shares are 3/4 and 1/4; from themselves, the distance is their entropy.
    logits = np.array([[math.log(3), 0.0]] * 3, dtype=np.float32)
    wanted = np.array([[1, 0], [0.5, 0.5], [0.75, 0.25]])
    surely, unsure, same = math.log(4 / 3), (math.log(4 / 3) + math.log(4)) / 2, 0.75 * math.log(4 / 3) + 0.25 * math.log(4)
    assert task_of("single_label_classification").cross_entropies(wanted, logits) == pytest.approx([surely, unsure, same])


def test_cross_entropy_of_several_labels_is_their_mean() -> None:
    logits = np.array([[math.log(3), 0.0]], dtype=np.float32)  # 3/4 and 1/2
    wanted = np.array([[0.75, 1.0]])
    first = 0.75 * math.log(4 / 3) + 0.25 * math.log(4)
    assert task_of("multi_label_classification").cross_entropies(wanted, logits) == pytest.approx([(first + math.log(2)) / 2])


# Several labels a text

# Text 1 has x and y and gets x; text 2 has y and gets y and z; text 3 has none and gets none.
# x: 1 of 1 found. y: 1 of 2 found, F1 2/3. z: given once, never had.
SEVERAL = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 0]])
SEVERAL_LOGITS = np.array([[1, -1, -2], [-3, 2, 1], [-1, -1, -1]], dtype=np.float32)


def of_several() -> Quality:
    return evaluate(
        labels=SEVERAL, logits=SEVERAL_LOGITS, label_names=["x", "y", "z"], problem_type="multi_label_classification"
    )


def test_macro_f1_over_labels_by_hand() -> None:
    quality = of_several()
    assert quality.macro_f1 == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert macro_f1(SEVERAL, SEVERAL_LOGITS) == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert quality.per_class["y"].recall == 0.5
    assert [figures.support for figures in quality.per_class.values()] == [1, 2, 0]
    assert quality.accuracy == pytest.approx(1 / 3)  # the text without a label is the only one with every label right


def test_calibration_over_decisions_by_hand() -> None:
    quality = of_several()
    sure = {logit: 1 / (1 + math.exp(-logit)) for logit in (-3, -2, -1, 1, 2)}
    truths = [(1, 1), (-1, 1), (-2, 0), (-3, 0), (2, 1), (1, 0), (-1, 0), (-1, 0), (-1, 0)]
    assert quality.brier_score == pytest.approx(sum((sure[logit] - truth) ** 2 for logit, truth in truths) / 9)
    surprise = [-math.log(sure[logit] if truth else 1 - sure[logit]) for logit, truth in truths]
    assert quality.negative_log_likelihood == pytest.approx(sum(surprise) / 9)
    # Of the six decisions at 0.731 four are right; the three at 0.881, 0.881 and 0.953 all are.
    gaps = abs(6 * sure[1] - 4) + abs(2 * sure[2] - 2) + sure[-3]
    assert quality.expected_calibration_error == pytest.approx(gaps / 9, abs=1e-6)


def test_the_interval_over_several_labels_is_that_of_drawing_texts() -> None:
    generator = np.random.default_rng(5)
    labels = (generator.random((300, 3)) < (0.5, 0.3, 0.1)).astype(np.int64)
    logits = np.where(generator.random((300, 3)) < 0.8, 4 * labels - 2, 2 - 4 * labels).astype(np.float32)
    drawn = [generator.integers(0, 300, 300) for _ in range(1000)]
    scores = [f1_score(labels[rows], logits[rows] > 0, average="macro", zero_division=0) for rows in drawn]
    quality = evaluate(labels=labels, logits=logits, label_names="xyz", problem_type="multi_label_classification")
    assert quality.macro_f1_interval == pytest.approx(np.percentile(scores, [2.5, 97.5]), abs=0.006)


@pytest.mark.parametrize(
    ("labels", "problem_type"), [(SEVERAL, "single_label_classification"), (ids(0, 1, 2), "multi_label_classification")]
)
def test_labels_of_another_task_are_refused(labels: NDArray[np.int64], problem_type: ProblemType) -> None:
    with pytest.raises(DatasetError, match=problem_type):
        evaluate(labels=labels, logits=SEVERAL_LOGITS, label_names="xyz", problem_type=problem_type)


def test_retention_is_a_share_of_the_teacher() -> None:
    assert retention(student_macro_f1=0.84, teacher_macro_f1=0.875) == pytest.approx(0.96)
    assert retention(student_macro_f1=0.5, teacher_macro_f1=0) == 0

"""Quality figures against sums by hand, scikit-learn and a bootstrap that really draws texts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import f1_score

from distill.errors import DatasetError
from distill.labels import Logits
from distill.metrics import evaluate, expected_calibration_error, macro_f1, macro_f1_interval, retention


def ids(*values: int) -> NDArray[np.int64]:
    return np.array(values, dtype=np.int64)


def one_hot(predicted: NDArray[np.int64], num_labels: int) -> Logits:
    return (10 * np.eye(num_labels)[predicted]).astype(np.float32)


def two_shares(*first: float) -> Logits:
    return np.array([[share, 1 - share] for share in first], dtype=np.float32)


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
    assert macro_f1_interval(ids(0, 1).repeat(500), ids(0, 1).repeat(500), num_labels=4, seed=0) == (0.5, 0.5)


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
    shares, labels = two_shares(0.95, 0.97, 0.61, 0.72), ids(0, 1, 0, 1)
    assert expected_calibration_error(labels, shares) == pytest.approx((2 * 0.46 + 0.39 + 0.72) / 4)


def test_gaps_of_opposite_sign_do_not_cancel_between_bins_and_do_within_one() -> None:
    # 0.8 right and 0.6 wrong lie in two bins; 0.94 right and 0.96 wrong in one, mean 0.95 against one half.
    assert expected_calibration_error(ids(0, 1), two_shares(0.8, 0.6)) == pytest.approx((0.2 + 0.6) / 2)
    assert expected_calibration_error(ids(0, 1), two_shares(0.94, 0.96)) == pytest.approx(0.45)


def test_a_bin_holds_its_upper_end() -> None:
    # Guo et al.: bins are (low, high]. 0.6 is the end of bin 9, 0.61 lies in bin 10: apart, |0.4| and |0.61|; together 0.105.
    assert expected_calibration_error(ids(0, 1), two_shares(0.6, 0.61)) == pytest.approx((0.4 + 0.61) / 2)


@pytest.mark.parametrize(("labels", "error"), [(ids(0, 0), 0.0), (ids(1, 1), 1.0), (ids(0, 1), 0.5)])
def test_certainty_is_as_wrong_as_it_errs(labels: NDArray[np.int64], error: float) -> None:
    assert expected_calibration_error(labels, two_shares(1, 1)) == pytest.approx(error)


def test_calibration_is_of_probabilities_and_not_of_logits() -> None:
    # Logits log 3 and 0 are shares 3/4 and 1/4; three of four right is perfect.
    logits = np.log(np.array([[3, 1]] * 4, dtype=np.float32))
    assert evaluate(labels=ids(0, 0, 0, 1), logits=logits, label_names=["x", "y"]).expected_calibration_error == pytest.approx(
        0, abs=1e-6
    )


# The interval


def test_the_interval_is_that_of_drawing_texts_with_replacement() -> None:
    generator = np.random.default_rng(5)
    labels = generator.integers(0, 3, 300)
    predicted = np.where(generator.random(300) < 0.7, labels, generator.integers(0, 3, 300))
    drawn = [generator.integers(0, 300, 300) for _ in range(1000)]
    scores = [f1_score(labels[rows], predicted[rows], average="macro", labels=[0, 1, 2], zero_division=0) for rows in drawn]
    low, high = macro_f1_interval(labels, predicted, num_labels=3, seed=0)
    # The ends of two honest bootstraps of 1,000 differ by some thousandths; a 90 % interval would end 0.008 further in.
    assert low == pytest.approx(np.percentile(scores, 2.5), abs=0.005)
    assert high == pytest.approx(np.percentile(scores, 97.5), abs=0.005)


def test_the_interval_narrows_with_the_root_of_the_texts() -> None:
    labels, predicted = TRUE.repeat(50), PREDICTED.repeat(50)
    few = macro_f1_interval(labels, predicted, num_labels=3, seed=0)
    many = macro_f1_interval(labels.repeat(16), predicted.repeat(16), num_labels=3, seed=0)
    assert (few[1] - few[0]) / (many[1] - many[0]) == pytest.approx(4, rel=0.1)


def test_the_interval_is_that_of_its_seed() -> None:
    first, again, other = (
        macro_f1_interval(TRUE.repeat(50), PREDICTED.repeat(50), num_labels=3, seed=seed) for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


def test_retention_is_a_share_of_the_teacher() -> None:
    assert retention(student_macro_f1=0.84, teacher_macro_f1=0.875) == pytest.approx(0.96)
    assert retention(student_macro_f1=0.5, teacher_macro_f1=0) == 0

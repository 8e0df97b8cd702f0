"""Quality figures of a classifier, from its logits and the true labels.

True labels are class ids, shape (texts,), or zeros and ones, shape (texts, labels). scikit-learn computes precision,
recall and F1; the calibration error is computed here. Knows no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.errors import DatasetError, requires
from distill.evaluation.intervals import macro_f1_interval, macro_f1_of_counts
from distill.labels import Logits, ProblemType, task_of_labels

ECE_BINS = 15


@dataclass(frozen=True)
class ClassQuality:
    """Figures of one label; `support` is its number of texts."""

    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class Quality:
    """Figures of one classifier on one set of texts; shares are 0-1.

    With several labels per text, `accuracy` is the share of texts with every label right, and calibration error, Brier
    score and negative log-likelihood are means over all (text, label) pairs. The Brier score is the squared distance of the
    probabilities from the truth: with one label per text it is summed over the labels and is between 0 and 2 (Brier, 1950).
    """

    macro_f1: float
    macro_f1_interval: tuple[float, float]
    accuracy: float
    expected_calibration_error: float
    brier_score: float
    negative_log_likelihood: float
    per_class: dict[str, ClassQuality]
    num_texts: int


def macro_f1(labels: NDArray[np.int64], logits: Logits) -> float:
    """Return the unweighted mean of the F1 of all labels.

    Args:
        labels: True class ids, shape (texts,), or zeros and ones, shape (texts, labels).
        logits: Shape (texts, labels). A label that no text has and none is predicted has F1 0.
    """
    task = task_of_labels(labels)
    true, given = task.indicator(labels, logits.shape[1]), task.chosen_labels(logits)
    return float(macro_f1_of_counts(hits=(true & given).sum(axis=0), true=true.sum(axis=0), given=given.sum(axis=0)))


def evaluate(
    *,
    labels: NDArray[np.int64],
    logits: Logits,
    label_names: Sequence[str],
    problem_type: ProblemType = "single_label_classification",
    seed: int = 0,
) -> Quality:
    """Return every quality figure of one classifier.

    Args:
        labels: True class ids, shape (texts,), or zeros and ones, shape (texts, labels).
        logits: Shape (texts, labels), in the same order.
        label_names: Names, in the order of the columns.
        problem_type: How the logits become probabilities and decisions; it must fit the labels.
        seed: Seed of the bootstrap.

    Raises:
        DatasetError: There are no texts, labels and logits differ in length, or the labels are of another task.
    """
    if len(labels) == 0 or len(labels) != len(logits):
        raise DatasetError(f"{len(labels)} labels and {len(logits)} rows of logits; expected one label per row, at least one")
    task = task_of_labels(labels)
    if problem_type != task.problem_type:
        raise DatasetError(f"the classifier is for {problem_type}, but the data has {task.labels_per_text} per text")
    with requires("measuring quality"):
        from sklearn.metrics import precision_recall_fscore_support
    true, given = task.indicator(labels, len(label_names)), task.chosen_labels(logits)
    precision, recall, f1, support = precision_recall_fscore_support(true, given, average=None, zero_division=0)
    right = task.equal(true, given)
    squares = (task.probabilities(logits).astype(np.float64) - true) ** 2
    return Quality(
        macro_f1=float(np.mean(f1)),
        macro_f1_interval=macro_f1_interval(true, given, seed=seed),
        accuracy=float(right.all(axis=1).mean()),
        expected_calibration_error=expected_calibration_error(task.confidences(logits), right),
        brier_score=float(squares.sum() / right.size),
        negative_log_likelihood=task.negative_log_likelihood(labels, logits),
        per_class={
            name: ClassQuality(float(p), float(r), float(f), int(s))
            for name, p, r, f, s in zip(label_names, precision, recall, f1, support, strict=True)
        },
        num_texts=len(labels),
    )


def confusion_matrix(labels: NDArray[np.int64], given: NDArray[np.int64], *, num_labels: int) -> NDArray[np.int64]:
    """Return the number of texts of each true label and predicted label, shape (true labels, predicted labels).

    Args:
        labels: True class ids, shape (texts,).
        given: Predicted class ids; same shape.
        num_labels: Number of labels.
    """
    counts = np.zeros((num_labels, num_labels), dtype=np.int64)
    np.add.at(counts, (labels, given), 1)
    return counts


def expected_calibration_error(confidences: NDArray[np.floating[Any]], correct: NDArray[np.bool_]) -> float:
    """Return the gap between confidence and accuracy, averaged over 15 equal bins of confidence, weighted by decisions.

    Guo et al., 2017, "On Calibration of Modern Neural Networks", equation 3.

    Args:
        confidences: Probability of the prediction in each decision, of any shape.
        correct: Whether the prediction is correct; same shape.
    """
    bins = np.clip(np.ceil(confidences * ECE_BINS).astype(int) - 1, 0, ECE_BINS - 1)
    gaps = np.bincount(bins.ravel(), weights=(confidences - correct).ravel(), minlength=ECE_BINS)
    return float(np.abs(gaps).sum() / correct.size)


def retention(*, student_macro_f1: float, teacher_macro_f1: float) -> float:
    """Return the share of the teacher's macro-F1 that the student keeps."""
    return student_macro_f1 / teacher_macro_f1 if teacher_macro_f1 else 0.0


TEMPERATURE_RANGE = (0.05, 20.0)


def fit_temperature(logits: Logits, label_ids: NDArray[np.int64]) -> float:
    """Return the temperature with the smallest negative log-likelihood of the labels, within `TEMPERATURE_RANGE`.

    Guo et al., 2017, section 4.2. The likelihood is convex in 1 / temperature, so it has one minimum.

    Args:
        logits: Shape (texts, labels).
        label_ids: Class ids, shape (texts,), or zeros and ones, shape (texts, labels).
    """
    with requires("fitting a temperature"):
        from scipy.optimize import minimize_scalar
    task = task_of_labels(label_ids)
    found = minimize_scalar(
        lambda inverse: task.negative_log_likelihood(label_ids, logits * np.float64(inverse)),
        bounds=(1 / TEMPERATURE_RANGE[1], 1 / TEMPERATURE_RANGE[0]),
        method="bounded",
        options={"xatol": 1e-7},
    )
    return float(1 / found.x)

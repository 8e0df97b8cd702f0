"""Quality figures of a classifier, from its logits and the true labels.

scikit-learn computes what it has; calibration error and the bootstrap interval are ours. Knows no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.classifier import top_labels
from distill.errors import DatasetError
from distill.extras import requires
from distill.labels import Logits, ProblemType, probabilities

ECE_BINS = 15
BOOTSTRAP_SAMPLES = 1000


@dataclass(frozen=True)
class ClassQuality:
    """Figures of one label; `support` is its number of texts."""

    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class Quality:
    """Figures of one classifier on one set of texts; shares are 0-1."""

    macro_f1: float
    macro_f1_interval: tuple[float, float]
    accuracy: float
    expected_calibration_error: float
    per_class: dict[str, ClassQuality]
    num_texts: int


def macro_f1(labels: NDArray[np.int64], logits: Logits) -> float:
    """Return the unweighted mean of the F1 of all labels.

    Args:
        labels: True class ids, shape (texts,).
        logits: Shape (texts, labels). A label that neither has nor gets a text counts as F1 0.
    """
    with requires("measuring quality"):
        from sklearn.metrics import f1_score
    classes = range(logits.shape[1])
    return float(f1_score(labels, top_labels(logits), labels=list(classes), average="macro", zero_division=0))


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
        labels: True class ids, shape (texts,).
        logits: Shape (texts, labels), in the same order.
        label_names: Names, in the order of the columns.
        problem_type: How the logits become probabilities, for the calibration error.
        seed: Seed of the bootstrap.

    Raises:
        DatasetError: There is no text, or the two do not have the same length.
    """
    if len(labels) == 0 or len(labels) != len(logits):
        raise DatasetError(f"{len(labels)} labels and {len(logits)} rows of logits; wanted one label a row, at least one")
    with requires("measuring quality"):
        from sklearn.metrics import accuracy_score, precision_recall_fscore_support
    predicted = top_labels(logits)
    precision, recall, f1, support = precision_recall_fscore_support(
        labels, predicted, labels=list(range(len(label_names))), zero_division=0
    )
    return Quality(
        macro_f1=float(np.mean(f1)),
        macro_f1_interval=macro_f1_interval(labels, predicted, num_labels=len(label_names), seed=seed),
        accuracy=float(accuracy_score(labels, predicted)),
        expected_calibration_error=expected_calibration_error(labels, probabilities(logits, problem_type)),
        per_class={
            name: ClassQuality(float(p), float(r), float(f), int(s))
            for name, p, r, f, s in zip(label_names, precision, recall, f1, support, strict=True)
        },
        num_texts=len(labels),
    )


def expected_calibration_error(labels: NDArray[np.int64], shares: Logits) -> float:
    """Return how far confidence and accuracy are apart, weighted by texts, over 15 equal bins of confidence.

    Guo et al., 2017, "On Calibration of Modern Neural Networks", equation 3.

    Args:
        labels: True class ids, shape (texts,).
        shares: Probabilities, shape (texts, labels).
    """
    confidence = shares.max(axis=1)
    correct = shares.argmax(axis=1) == labels
    bins = np.clip(np.ceil(confidence * ECE_BINS).astype(int) - 1, 0, ECE_BINS - 1)
    gaps = np.bincount(bins, weights=confidence - correct, minlength=ECE_BINS)
    return float(np.abs(gaps).sum() / len(labels))


def macro_f1_interval(
    labels: NDArray[np.int64], predicted: NDArray[np.int64], *, num_labels: int, seed: int
) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of macro-F1 over texts (1,000 resamples, percentile method)."""
    generator = np.random.default_rng(seed)
    cells = np.bincount(labels * num_labels + predicted, minlength=num_labels**2)
    # Drawing texts with replacement is drawing counts of the confusion matrix's cells: one multinomial a resample.
    drawn = generator.multinomial(len(labels), cells / cells.sum(), size=BOOTSTRAP_SAMPLES)
    low, high = np.percentile(_macro_f1_of_confusion(drawn.reshape(-1, num_labels, num_labels)), [2.5, 97.5])
    return float(low), float(high)


def retention(*, student_macro_f1: float, teacher_macro_f1: float) -> float:
    """Return the share of the teacher's macro-F1 that the student keeps."""
    return student_macro_f1 / teacher_macro_f1 if teacher_macro_f1 else 0.0


def _macro_f1_of_confusion(confusion: NDArray[Any]) -> NDArray[np.float64]:
    """Macro-F1 of many confusion matrices, shape (matrices, true labels, predicted labels)."""
    hits = np.diagonal(confusion, axis1=1, axis2=2)
    seen_or_given = confusion.sum(axis=2) + confusion.sum(axis=1)
    f1 = np.divide(2 * hits, seen_or_given, out=np.zeros(hits.shape), where=seen_or_given > 0)
    means: NDArray[np.float64] = f1.mean(axis=1)
    return means

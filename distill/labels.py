"""Label names, their order, and the tasks: what logits mean in single-label, multi-label and regression models.

All stages turn logits into answers with a `Task`. numpy only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Final, Literal

import numpy as np
from numpy.typing import NDArray

from distill.errors import SettingsError

ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]
"""The names that Hugging Face uses in `config.json`."""

Logits = NDArray[np.float32]

THRESHOLD = 0.5
"""Multi-label: smallest probability of a predicted label."""


def label_names_of(values: Iterable[str]) -> tuple[str, ...]:
    """Return the distinct labels, sorted by number if all are whole numbers, else by name."""
    distinct = set(values)
    if are_numbers(distinct):
        return tuple(sorted(distinct, key=lambda value: (int(value), value)))  # "01" and "1" are two names
    return tuple(sorted(distinct))


def are_numbers(values: Iterable[str]) -> bool:
    """Return whether all labels are whole numbers."""
    # At most 18 digits: Python does not parse numbers with thousands of digits, and no class has such an id.
    return all(value.isascii() and value.removeprefix("-").isdigit() and len(value) <= 18 for value in values)


def label_ids_by_value(names: Sequence[str], values: Iterable[str]) -> dict[str, int]:
    """Map each distinct value of a label column to a class id; unknown values are left out.

    The values are label names. If none of them is a name and all are whole numbers, they are class ids; but not if the names
    are numbers too: with the names 1 to 5, a 0 is an unknown label, not the first one.
    """
    distinct = set(values)
    by_name = {name: index for index, name in enumerate(names)}
    if distinct & by_name.keys() or not are_numbers(distinct) or are_numbers(names):
        return {value: by_name[value] for value in distinct if value in by_name}
    return {value: int(value) for value in distinct if 0 <= int(value) < len(names)}


class Task:
    """Single-label classification, and the interface of the other tasks: what logits and labels mean.

    Labels are written as `label_ids`: class ids, shape (texts,), with one label per text; zeros and ones, shape
    (texts, labels), with several. A decision is one question that a classifier answers: which label a text has (one decision
    per text), or whether it has a label (one decision per text and label).
    """

    problem_type: ClassVar[ProblemType] = "single_label_classification"
    labels_per_text: ClassVar[str] = "one label"
    """For messages: "one label" or "several labels"."""

    def probabilities(self, logits: Logits) -> Logits:
        """Return the softmax of each row, shape (texts, labels), float32."""
        shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(shifted / shifted.sum(axis=1, keepdims=True), dtype=np.float32)

    def decisions(self, logits: Logits) -> NDArray[np.int64]:
        """Return the predicted labels in the form of `label_ids`: the class id with the largest logit of each row."""
        return np.asarray(logits.argmax(axis=1), dtype=np.int64)

    def indicator(self, label_ids: NDArray[np.int64], num_labels: int) -> NDArray[np.bool_]:
        """Return which labels each text has, shape (..., texts, labels)."""
        return np.asarray(label_ids[..., None] == np.arange(num_labels))

    def equal(self, first: NDArray[np.bool_], second: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which decisions of two indicators are the same, shape (..., texts, decisions)."""
        return np.asarray((first == second).all(axis=-1, keepdims=True))

    def confidences(self, logits: Logits) -> Logits:
        """Return the probability of the predicted answer of each decision, shape (texts, decisions)."""
        return np.asarray(self.probabilities(logits).max(axis=1, keepdims=True))

    def negative_log_likelihood(self, label_ids: NDArray[np.int64], logits: NDArray[np.floating[Any]]) -> float:
        """Return the mean cross-entropy per decision, in nats."""
        return float(self.cross_entropies(self.indicator(label_ids, logits.shape[1]), logits).mean())

    def cross_entropies(self, wanted: NDArray[Any], logits: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Return the cross-entropy of the logits' probabilities from the wanted ones, in nats, shape (texts,).

        With several labels a text, it is the mean of those of the labels. It is computed from the logits in float64: in
        float32, small probabilities round to 0, whose logarithm is infinite.

        Args:
            wanted: Probabilities or true labels as an indicator, shape (texts, labels).
            logits: Same shape.
        """
        exact = logits.astype(np.float64)
        return np.asarray(np.logaddexp.reduce(exact, axis=1) - (wanted * exact).sum(axis=1))

    def most_frequent(self, true: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return the most frequent answer, shape (labels,), given the labels of each text, shape (texts, labels)."""
        return np.asarray(np.arange(true.shape[1]) == true.sum(axis=0).argmax())

    def chosen_labels(self, logits: Logits) -> NDArray[np.bool_]:
        """Return which labels are predicted for each text, shape (texts, labels)."""
        return self.indicator(self.decisions(logits), logits.shape[1])

    def same_labels(self, first: Logits, second: Logits) -> NDArray[np.bool_]:
        """Return for which texts two classifiers predict the same labels, shape (texts,)."""
        return np.asarray((self.chosen_labels(first) == self.chosen_labels(second)).all(axis=1))


class Regression(Task):
    """Values instead of classes; they are returned as they are."""

    problem_type = "regression"

    def probabilities(self, logits: Logits) -> Logits:
        """Return the values unchanged."""
        return logits


class MultiLabel(Task):
    """Multi-label classification: sigmoid; a label is predicted if its probability is at least `THRESHOLD`."""

    problem_type = "multi_label_classification"
    labels_per_text = "several labels"

    def probabilities(self, logits: Logits) -> Logits:
        """Return the sigmoid of each value."""
        # exp of non-positive numbers only, so that large logits cannot overflow.
        decay = np.exp(-np.abs(logits))
        return np.where(logits >= 0, 1 / (1 + decay), decay / (1 + decay)).astype(np.float32)

    def decisions(self, logits: Logits) -> NDArray[np.int64]:
        """Return 1 where the probability is at least `THRESHOLD`, shape (texts, labels)."""
        return (self.probabilities(logits) >= THRESHOLD).astype(np.int64)

    def indicator(self, label_ids: NDArray[np.int64], num_labels: int) -> NDArray[np.bool_]:  # noqa: ARG002
        """Return the zeros and ones as booleans."""
        return label_ids.astype(bool)

    def equal(self, first: NDArray[np.bool_], second: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return the (text, label) pairs on which two indicators are the same, shape (..., texts, labels)."""
        return np.asarray(first == second)

    def confidences(self, logits: Logits) -> Logits:
        """Return the probability of each yes or no, at least 0.5, shape (texts, labels)."""
        shares = self.probabilities(logits)
        return np.maximum(shares, 1 - shares)

    def cross_entropies(self, wanted: NDArray[Any], logits: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Return the mean binary cross-entropy over the labels of each text."""
        exact = logits.astype(np.float64)
        return np.asarray((np.logaddexp(0, exact) - wanted * exact).mean(axis=1))

    def most_frequent(self, true: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return the labels of at least half of the texts."""
        return np.asarray(2 * true.sum(axis=0) >= len(true))


_TASKS: Final[dict[ProblemType, Task]] = {task.problem_type: task for task in (Task(), MultiLabel(), Regression())}


def task_of(problem_type: ProblemType) -> Task:
    """Return the task with this problem type."""
    return _TASKS[problem_type]


def task_of_labels(label_ids: NDArray[np.int64]) -> Task:
    """Return the task of these labels: single-label for class ids (one axis), multi-label for zeros and ones (two axes)."""
    return _TASKS["multi_label_classification" if label_ids.ndim == 2 else "single_label_classification"]


def require_single_label(problem_type: ProblemType, job: str) -> None:
    """Raise `SettingsError` unless each text has one label."""
    if problem_type != "single_label_classification":
        raise SettingsError(f"{job} needs single_label_classification; this classifier is {problem_type}")

"""Label names, their order, and the tasks: what logits mean with one label per text, or with several.

Every stage and every runtime turns logits into answers here. numpy only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Final, Literal

import numpy as np
from numpy.typing import NDArray

from distill.errors import SettingsError

ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]
"""Hugging Face's own names, so that the value travels unchanged from `config.json` to the server."""

Logits = NDArray[np.float32]

THRESHOLD = 0.5
"""Least probability of a predicted label where a text may have several."""


def label_names_of(values: Iterable[str]) -> tuple[str, ...]:
    """Return the distinct labels in their fixed order: by number when all are whole numbers, else by name."""
    distinct = set(values)
    if are_numbers(distinct):
        return tuple(sorted(distinct, key=lambda value: (int(value), value)))  # "01" and "1" are two names
    return tuple(sorted(distinct))


def are_numbers(values: Iterable[str]) -> bool:
    """Tell whether every one of these labels is written as a whole number."""
    return all(_is_whole_number(value) for value in values)


def label_ids_by_value(names: Sequence[str], values: Iterable[str]) -> dict[str, int]:
    """Map each distinct value of a label column to a class id; values that fit no name are left out.

    A value is a label's name. When *no* value is a name and all are whole numbers, the column holds class ids, unless
    the names are numbers themselves: then 0 beside the names 1 to 5 is an unknown label, not the first one.
    """
    distinct = set(values)
    by_name = {name: index for index, name in enumerate(names)}
    if distinct & by_name.keys() or not are_numbers(distinct) or are_numbers(names):
        return {value: by_name[value] for value in distinct if value in by_name}
    return {value: int(value) for value in distinct if 0 <= int(value) < len(names)}


class Task(ABC):
    """What depends on whether a text has one label or several.

    Labels are written as `label_ids`: class ids, shape (texts,), with one label per text; zeros and ones, shape
    (texts, labels), with several. A decision is one yes-or-no question that a classifier answers: which label the text has
    (one decision per text), or whether it has each label (one per label).
    """

    problem_type: ClassVar[ProblemType]
    labels_per_text: ClassVar[str]
    """For messages: "one label" or "several labels"."""

    @abstractmethod
    def probabilities(self, logits: Logits) -> Logits:
        """Turn logits into probabilities; same shape (texts, labels), float32."""

    @abstractmethod
    def decisions(self, logits: Logits) -> NDArray[np.int64]:
        """Return the predicted labels, written as `label_ids`."""

    @abstractmethod
    def indicator(self, label_ids: NDArray[np.int64], num_labels: int) -> NDArray[np.bool_]:
        """Return which labels each text has, shape (..., texts, labels)."""

    @abstractmethod
    def equal(self, first: NDArray[np.bool_], second: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Compare two indicators decision by decision, shape (..., texts, decisions)."""

    @abstractmethod
    def confidences(self, logits: Logits) -> Logits:
        """Return the probability of the answer given in each decision, shape (texts, decisions)."""

    @abstractmethod
    def negative_log_likelihood(self, label_ids: NDArray[np.int64], logits: NDArray[np.floating[Any]]) -> float:
        """Return the mean negative log-likelihood of the true labels per decision, in nats.

        Computed from the logits in float64: small probabilities round to 0 in float32 and have an infinite logarithm.
        """

    @abstractmethod
    def most_frequent(self, true: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return the most frequent answer, shape (labels,), from which labels each text has, shape (texts, labels)."""

    def chosen_labels(self, logits: Logits) -> NDArray[np.bool_]:
        """Return which labels are predicted for each text, shape (texts, labels)."""
        return self.indicator(self.decisions(logits), logits.shape[1])


class SingleLabel(Task):
    """One label per text: softmax, and the label with the largest logit."""

    problem_type: ClassVar[ProblemType] = "single_label_classification"
    labels_per_text = "one label"

    def probabilities(self, logits: Logits) -> Logits:
        """Return the softmax of each row; rows sum to 1."""
        shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares: Logits = (shifted / shifted.sum(axis=1, keepdims=True)).astype(np.float32)
        return shares

    def decisions(self, logits: Logits) -> NDArray[np.int64]:
        """Return the class id with the largest logit of each row, shape (texts,)."""
        ids: NDArray[np.int64] = logits.argmax(axis=1).astype(np.int64)
        return ids

    def indicator(self, label_ids: NDArray[np.int64], num_labels: int) -> NDArray[np.bool_]:
        """Return the class ids one-hot."""
        has: NDArray[np.bool_] = label_ids[..., None] == np.arange(num_labels)
        return has

    def equal(self, first: NDArray[np.bool_], second: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return whether the label is the same, shape (..., texts, 1)."""
        same: NDArray[np.bool_] = (first == second).all(axis=-1, keepdims=True)
        return same

    def confidences(self, logits: Logits) -> Logits:
        """Return the largest probability of each row, shape (texts, 1)."""
        largest: Logits = self.probabilities(logits).max(axis=1, keepdims=True)
        return largest

    def negative_log_likelihood(self, label_ids: NDArray[np.int64], logits: NDArray[np.floating[Any]]) -> float:
        """Return the mean cross-entropy per text."""
        exact = logits.astype(np.float64)
        return float((np.logaddexp.reduce(exact, axis=1) - exact[np.arange(len(label_ids)), label_ids]).mean())

    def most_frequent(self, true: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return the most frequent label one-hot."""
        counts = true.sum(axis=0)
        only: NDArray[np.bool_] = np.arange(len(counts)) == counts.argmax()
        return only


class Regression(SingleLabel):
    """Values instead of classes; they are their own probabilities."""

    problem_type = "regression"

    def probabilities(self, logits: Logits) -> Logits:
        """Return the values unchanged."""
        return logits


class MultiLabel(Task):
    """Several labels per text, or none: sigmoid, and every label whose probability is at least `THRESHOLD`."""

    problem_type = "multi_label_classification"
    labels_per_text = "several labels"

    def probabilities(self, logits: Logits) -> Logits:
        """Return the sigmoid of each value."""
        # exp of a non-positive number only, so that large logits cannot overflow
        decay = np.exp(-np.abs(logits))
        return np.where(logits >= 0, 1 / (1 + decay), decay / (1 + decay)).astype(np.float32)

    def decisions(self, logits: Logits) -> NDArray[np.int64]:
        """Return 1 where the probability reaches `THRESHOLD`, shape (texts, labels)."""
        return (self.probabilities(logits) >= THRESHOLD).astype(np.int64)

    def indicator(self, label_ids: NDArray[np.int64], num_labels: int) -> NDArray[np.bool_]:  # noqa: ARG002
        """Return the zeros and ones as booleans."""
        return label_ids.astype(bool)

    def equal(self, first: NDArray[np.bool_], second: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return whether each label is given or withheld alike, shape (..., texts, labels)."""
        same: NDArray[np.bool_] = first == second
        return same

    def confidences(self, logits: Logits) -> Logits:
        """Return the probability of each yes or no, from 0.5, shape (texts, labels)."""
        shares = self.probabilities(logits)
        sure: Logits = np.maximum(shares, 1 - shares)
        return sure

    def negative_log_likelihood(self, label_ids: NDArray[np.int64], logits: NDArray[np.floating[Any]]) -> float:
        """Return the mean binary cross-entropy per (text, label) pair."""
        exact = logits.astype(np.float64)
        return float(np.logaddexp(0, np.where(label_ids == 1, -exact, exact)).mean())

    def most_frequent(self, true: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return the labels that at least half of the texts have."""
        often: NDArray[np.bool_] = 2 * true.sum(axis=0) >= len(true)
        return often


_TASKS: Final[dict[ProblemType, Task]] = {task.problem_type: task for task in (SingleLabel(), MultiLabel(), Regression())}


def task_of(problem_type: ProblemType) -> Task:
    """Return the task with this name."""
    return _TASKS[problem_type]


def task_of_labels(label_ids: NDArray[np.int64]) -> Task:
    """Return the task whose labels are written like these: class ids (one axis), or zeros and ones (two axes)."""
    return _TASKS["multi_label_classification" if label_ids.ndim == 2 else "single_label_classification"]


def probabilities(logits: Logits, problem_type: ProblemType) -> Logits:
    """Turn logits, shape (texts, labels), into probabilities (softmax or sigmoid); regression values pass unchanged."""
    return task_of(problem_type).probabilities(logits)


def chosen_labels(logits: Logits, problem_type: ProblemType) -> NDArray[np.bool_]:
    """Return which labels are predicted for each text, shape (texts, labels)."""
    return task_of(problem_type).chosen_labels(logits)


def indicator(label_ids: NDArray[np.int64], num_labels: int) -> NDArray[np.bool_]:
    """Return which labels each text has, shape (texts, labels), from class ids (texts,) or zeros and ones (texts, labels)."""
    return task_of_labels(label_ids).indicator(label_ids, num_labels)


def require_single_label(problem_type: ProblemType, job: str) -> None:
    """Refuse a job that is written for one label per text."""
    if problem_type != "single_label_classification":
        raise SettingsError(f"{job} works for single_label_classification; this classifier is {problem_type}")


def _is_whole_number(value: str) -> bool:
    # At most 18 digits: Python refuses to read numbers of thousands, and no class has such an id.
    return value.isascii() and value.removeprefix("-").isdigit() and len(value) <= 18

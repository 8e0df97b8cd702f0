"""What must hold of a teacher before a student may learn from it.

Two silent mistakes of distillation scripts end here in the first minute: a teacher that was never fine-tuned, and
one whose labels stand in another order than the data's.
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from distill.classifier import top_labels
from distill.errors import SettingsError, TeacherError
from distill.labels import Logits

MAX_LABELS_PERMUTED = 6
"""Up to 6 labels all 720 orders are tried; beyond that, only exchanges of two."""


def require_same_label_names(teacher_labels: tuple[str, ...], data_labels: tuple[str, ...]) -> None:
    """Refuse data whose label names or their order are not the teacher's."""
    if teacher_labels != data_labels:
        raise SettingsError(
            f"the teacher's labels are {list(teacher_labels)}, the data's {list(data_labels)}; "
            "map the data to the teacher's names"
        )


def require_useful_teacher(*, logits: Logits, label_ids: NDArray[np.int64], labels: tuple[str, ...]) -> None:
    """Refuse a teacher that is no better than always giving the commonest label, or better under permuted labels.

    Args:
        logits: The teacher's, shape (texts, labels).
        label_ids: True class ids, shape (texts,).
        labels: Label names.

    Raises:
        TeacherError: It is not worth learning from; the message says why and what to do.
    """
    predicted = top_labels(logits)
    accuracy = float((predicted == label_ids).mean())
    majority = float(np.bincount(label_ids).max() / len(label_ids))
    order, best = _best_order(predicted, label_ids, len(labels))
    # An untuned teacher, too, may be a little less wrong in another order; only one that learnt something beats the majority.
    if best > max(accuracy, majority):
        renamed = ", ".join(f"{labels[index]!r} -> {labels[target]!r}" for index, target in enumerate(order) if index != target)
        raise TeacherError(
            f"the teacher is right on {accuracy:.1%} of the texts, but on {best:.1%} if its labels are read as {renamed}; "
            "its label order is not the data's: name the labels in the teacher's order with --labels"
        )
    if accuracy <= majority:
        raise TeacherError(
            f"the teacher is right on {accuracy:.1%} of the texts, always saying the commonest label on {majority:.1%}; "
            "fine-tune it first with `potstill teacher`"
        )


def _best_order(predicted: NDArray[np.int64], label_ids: NDArray[np.int64], num_labels: int) -> tuple[tuple[int, ...], float]:
    hits = np.zeros((num_labels, num_labels))
    np.add.at(hits, (predicted, label_ids), 1)
    identity = tuple(range(num_labels))
    if num_labels <= MAX_LABELS_PERMUTED:
        orders = list(itertools.permutations(identity))
    else:
        orders = [identity] + [_exchanged(identity, pair) for pair in itertools.combinations(identity, 2)]
    rows = np.arange(num_labels)
    scores = [hits[rows, list(order)].sum() for order in orders]
    best = int(np.argmax(scores))  # the first of equals: the identity comes first
    return orders[best], float(scores[best] / len(label_ids))


def _exchanged(order: tuple[int, ...], pair: tuple[int, int]) -> tuple[int, ...]:
    first, second = pair
    return tuple({first: second, second: first}.get(index, index) for index in order)

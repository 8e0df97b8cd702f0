"""Label names, their order, and what logits mean: probabilities and top labels.

Every stage and every runtime turns logits into answers here, once. numpy only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from distill.errors import SettingsError

ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]
"""Hugging Face's own names, so that the value travels unchanged from `config.json` to the server."""

Logits = NDArray[np.float32]

THRESHOLD = 0.5
"""Probability from which a label is given, where a text may have several."""


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


def probabilities(logits: Logits, problem_type: ProblemType) -> Logits:
    """Turn logits into probabilities (softmax or sigmoid); regression values pass unchanged.

    Args:
        logits: Shape (texts, labels).
        problem_type: Hugging Face's name of the task.

    Returns:
        Same shape, float32. Softmax rows sum to 1.
    """
    if problem_type == "regression":
        return logits
    if problem_type == "multi_label_classification":
        # exp of a non-positive number only, so that large logits cannot overflow
        decay = np.exp(-np.abs(logits))
        return np.where(logits >= 0, 1 / (1 + decay), decay / (1 + decay)).astype(np.float32)
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: Logits = (shifted / shifted.sum(axis=1, keepdims=True)).astype(np.float32)
    return shares


def chosen_labels(logits: Logits, problem_type: ProblemType) -> NDArray[np.bool_]:
    """Return which labels each text is given, shape (texts, labels).

    The one with the largest logit; with several labels a text, all whose probability is at least `THRESHOLD`.
    """
    if problem_type == "multi_label_classification":
        return probabilities(logits, problem_type) >= THRESHOLD
    return indicator(logits.argmax(axis=1), logits.shape[1])


def indicator(labels: NDArray[np.int64], num_labels: int) -> NDArray[np.bool_]:
    """Return which labels each text has, shape (texts, labels), from class ids (texts,) or zeros and ones (texts, labels)."""
    has: NDArray[np.bool_] = labels.astype(bool) if labels.ndim == 2 else labels[:, None] == np.arange(num_labels)
    return has


def require_single_label(problem_type: ProblemType, job: str) -> None:
    """Refuse a job that is written for one label per text."""
    if problem_type != "single_label_classification":
        raise SettingsError(f"{job} works for single_label_classification; this classifier is {problem_type}")


def _is_whole_number(value: str) -> bool:
    # At most 18 digits: Python refuses to read numbers of thousands, and no class has such an id.
    return value.isascii() and value.removeprefix("-").isdigit() and len(value) <= 18

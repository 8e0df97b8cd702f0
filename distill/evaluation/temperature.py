"""Temperature scaling: the one number that makes a classifier's confidence match its accuracy (Guo et al., 2017)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from distill.labels import Logits, task_of_labels

_LARGEST_LOG_TEMPERATURE = 3.0


def fit_temperature(logits: Logits, labels: NDArray[np.int64]) -> float:
    """Return the temperature under which the labels are least surprising (Guo et al., 2017, section 4.2).

    The surprise is convex in 1 / temperature, so a section of its logarithm cannot miss the least.

    Args:
        logits: Shape (texts, labels).
        labels: Class ids, shape (texts,), or zeros and ones, shape (texts, labels).
    """

    def surprise(log_temperature: float) -> float:
        return task_of_labels(labels).negative_log_likelihood(labels, logits / np.float32(np.exp(log_temperature)))

    low, high = -_LARGEST_LOG_TEMPERATURE, _LARGEST_LOG_TEMPERATURE
    golden = (5**0.5 - 1) / 2
    for _ in range(40):
        left, right = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, right) if surprise(left) < surprise(right) else (left, high)
    return float(np.exp((low + high) / 2))


RANGE = (0.05, 20.0)


def fitted_temperature(label_ids: NDArray[np.int64], logits: Logits) -> float:
    """Return the temperature with the smallest negative log-likelihood, within `RANGE`.

    With one label a text it is not 1 only where confidence and truth disagree on these texts.

    Args:
        label_ids: Class ids, shape (texts,), or zeros and ones, shape (texts, labels).
        logits: Shape (texts, labels).
    """
    # Convex in 1 / temperature, so that a golden section in its logarithm finds the one minimum.
    low, high = np.log(RANGE[0]), np.log(RANGE[1])
    golden = (np.sqrt(5) - 1) / 2

    def loss(logarithm: float) -> float:
        return task_of_labels(label_ids).negative_log_likelihood(label_ids, (logits / np.exp(logarithm)).astype(np.float32))

    for _ in range(40):
        left, right = high - golden * (high - low), low + golden * (high - low)
        if loss(left) < loss(right):
            high = right
        else:
            low = left
    return float(np.exp((low + high) / 2))

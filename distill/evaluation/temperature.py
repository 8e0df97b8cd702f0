"""Temperature scaling: dividing the logits by one number makes confidence match accuracy (Guo et al., 2017)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from distill.errors import requires
from distill.labels import Logits, task_of_labels

RANGE = (0.05, 20.0)


def fit_temperature(logits: Logits, label_ids: NDArray[np.int64]) -> float:
    """Return the temperature with the smallest negative log-likelihood of the labels, within `RANGE`.

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
        bounds=(1 / RANGE[1], 1 / RANGE[0]),
        method="bounded",
        options={"xatol": 1e-7},
    )
    return float(1 / found.x)

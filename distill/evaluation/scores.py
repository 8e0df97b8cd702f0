"""The metrics that a student can be chosen by: macro-F1, micro-F1, accuracy, the recall of one label.

Each follows from counts by label, so that one bootstrap gives its interval and its paired differences.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from distill.errors import SettingsError
from distill.evaluation.intervals import OfCounts, macro_f1_of_counts
from distill.labels import Task

RECALL: Final = "recall:"
METRICS: Final = ("macro_f1", "micro_f1", "accuracy", f"{RECALL}LABEL")


def metric_of(name: str, *, labels: Sequence[str], task: Task) -> OfCounts:
    """Return a metric by its name.

    Args:
        name: One of `METRICS`; LABEL is a label's name.
        labels: Label names, in order.
        task: With several labels per text there is no `accuracy`.

    Raises:
        SettingsError: A name that is not known, or not defined for this task.
    """
    if name.startswith(RECALL):
        label = name.removeprefix(RECALL)
        if label not in labels:
            raise SettingsError(f"--metric {name} names no label of the data; there are {', '.join(labels)}")
        return partial(_recall, label=tuple(labels).index(label))
    if name == "accuracy" and task.problem_type == "multi_label_classification":
        raise SettingsError("--metric accuracy is for one label per text; with several labels use micro_f1 or macro_f1")
    try:
        # With one label per text, every text has one true and one given label: micro-F1 is accuracy.
        return {"macro_f1": macro_f1_of_counts, "micro_f1": _micro_f1, "accuracy": _micro_f1}[name]
    except KeyError:
        raise SettingsError(f"--metric must be one of {', '.join(METRICS)}, got {name!r}") from None


def metric_words(name: str) -> str:
    """Return the name of a metric as people read it: `macro-F1`, `recall of LABEL`."""
    if name.startswith(RECALL):
        return f"recall of {name.removeprefix(RECALL)}"
    return name.replace("_", "-").replace("f1", "F1")


def _micro_f1(*, hits: NDArray[Any], true: NDArray[Any], given: NDArray[Any]) -> NDArray[np.float64]:
    return _shares(2 * hits.sum(axis=-1), true.sum(axis=-1) + given.sum(axis=-1))


def _recall(*, hits: NDArray[Any], true: NDArray[Any], given: NDArray[Any], label: int) -> NDArray[np.float64]:  # noqa: ARG001
    return _shares(hits[..., label], true[..., label])


def _shares(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    """Return part / whole, 0 where whole is 0."""
    part, whole = np.broadcast_arrays(part, whole)
    shares: NDArray[np.float64] = np.divide(part, whole, out=np.zeros(np.shape(part)), where=whole > 0)
    return shares

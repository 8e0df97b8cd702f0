"""What the report of a run shows besides its scores: alternatives, labels, differing texts, calibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, Final

import numpy as np

from distill.data import Dataset
from distill.evaluation.metrics import evaluate
from distill.labels import Logits
from distill.measured import MEASURED
from distill.texts import joined
from export.fitting.choose import MEGABYTE
from export.fitting.reporting.result import Alternative, CalibrationBin, Disagreement, FormResult

MAX_DISAGREEMENTS: Final = 12
CALIBRATION_BINS: Final = 10


def alternatives(forms: Sequence[FormResult]) -> tuple[Alternative, ...]:
    """Return what scored higher than the winner and was not chosen; of an untrained form, the score on the built-in task."""
    winner = next((form for form in forms if form.status == "winner"), None)
    if winner is None or winner.test is None or winner.measured_ms is None:
        return ()
    found = []
    for form in forms:
        more_ms = (form.measured_ms or form.predicted_ms) - winner.measured_ms
        more_mb = ((form.measured_bytes or form.predicted_bytes) - (winner.measured_bytes or 0)) / MEGABYTE
        costs = f"{abs(more_ms):.2f} ms {_more(more_ms)} and {abs(more_mb):.1f} MB {_more(more_mb)}"
        if form is not winner and form.test is not None and form.test.value > winner.test.value:
            gain = form.test.value - winner.test.value
            words = f"{form.name}: {gain:+.4f} on the measured texts, with {costs}. Not chosen: {form.reason}."
            found.append(Alternative(form.name, words))
        elif form.status == "over_budget" and form.test is None and form.recipe in MEASURED and winner.recipe in MEASURED:
            gain = MEASURED[form.recipe].kept - MEASURED[winner.recipe].kept
            if gain > 0:
                words = f"{form.name}: not trained here; keeps {gain:.1%} more on the built-in task, with {costs}."
                found.append(Alternative(form.name, words))
    return tuple(found)


def _more(value: float) -> str:
    return "less" if value < 0 else "more"


def per_label(data: Dataset, student: Logits | None, teacher: Logits | None) -> tuple[dict[str, Any], ...]:
    """Return recall and precision of the student by label, beside the recall of the teacher."""
    if student is None:
        return ()

    def quality(logits: Logits) -> Any:
        return evaluate(labels=data.label_ids, logits=logits, label_names=data.labels, problem_type=data.problem_type).per_class

    own, others = quality(student), quality(teacher) if teacher is not None else {}
    return tuple(
        {
            "label": label,
            "support": figures.support,
            "teacher_recall": others[label].recall if label in others else None,
            "student_recall": figures.recall,
            "student_precision": figures.precision,
        }
        for label, figures in own.items()
    )


def disagreements(data: Dataset, student: Logits | None, teacher: Logits | None) -> tuple[Disagreement, ...]:
    """Return texts on which student and teacher differ, those first of which the student is surest where they differ."""
    if student is None or teacher is None:
        return ()
    task = data.task
    own, others = (replace(data, label_ids=task.decisions(logits)) for logits in (student, teacher))
    differ = (own.label_ids != others.label_ids).reshape(len(data), -1)
    sure = np.where(differ, task.confidences(student), 0).max(axis=1)
    places = sorted(np.flatnonzero(differ.any(axis=1)), key=lambda place: -sure[place])[:MAX_DISAGREEMENTS]
    return tuple(
        Disagreement(
            text=joined(data.texts[place])[:400],
            true=_answer(data, int(place)),
            teacher=_answer(others, int(place)),
            student=_answer(own, int(place)),
            student_probability=round(float(sure[place]), 4),
        )
        for place in places
    )


def _answer(data: Dataset, place: int) -> str:
    names = data.label_names(place)
    return names if isinstance(names, str) else " | ".join(names) or "no label"


def calibration(data: Dataset, student: Logits | None) -> tuple[CalibrationBin, ...]:
    """Return the reliability of the student's probabilities in bins of equal width; empty ones are left out."""
    if student is None:
        return ()
    task = data.task
    sure, right = task.confidences(student).ravel(), (task.decisions(student) == data.label_ids).ravel()
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)
    bins = []
    for low, high in pairwise(edges):
        inside = (sure >= low) & ((sure < high) | (high == 1))
        if inside.any():
            bins.append(
                CalibrationBin(
                    round(float(low), 3),
                    round(float(high), 3),
                    int(inside.sum()),
                    round(float(sure[inside].mean()), 4),
                    round(float(right[inside].mean()), 4),
                )
            )
    return tuple(bins)


def ece(data: Dataset, student: Logits | None) -> float | None:
    """Return the expected calibration error of the student."""
    if student is None:
        return None
    found = evaluate(labels=data.label_ids, logits=student, label_names=data.labels, problem_type=data.problem_type)
    return round(found.expected_calibration_error, 6)

"""The quality part of a row, from its answers."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from distill.classifier import agreement
from distill.data import Dataset
from distill.evaluation.intervals import Bootstrap
from distill.evaluation.metrics import evaluate
from distill.labels import Logits
from export.measure.workers import PeerError

DIGITS = 10


def quality_part(logits: Logits, test: Dataset, *, gives: str = "logits", reference: Logits | None) -> dict[str, Any]:
    """Return the quality of one row.

    Args:
        logits: Answers to the test texts, in their order, shape (texts, labels).
        test: Labelled texts.
        gives: "labels" if the logits only say which label; it then has no calibration.
        reference: The reference's answers, for retention and agreement.

    Raises:
        PeerError: An answer is missing, or is not a number.
    """
    if logits.shape != (len(test), len(test.labels)):
        raise PeerError(f"its answers have the shape {logits.shape}, wanted {(len(test), len(test.labels))}")
    if not np.isfinite(logits).all():
        raise PeerError("some of its answers are not numbers")
    decisions = test.task.decisions(logits)
    found = evaluate(labels=test.label_ids, logits=logits, label_names=test.labels, problem_type=test.problem_type)
    part: dict[str, Any] = {
        "macro_f1": found.macro_f1,
        "macro_f1_interval": list(found.macro_f1_interval),
        "accuracy": found.accuracy,
        "expected_calibration_error": found.expected_calibration_error if gives == "logits" else None,
        "retention": None,
        "agreement": None,
        "num_texts": len(test),
        "predicted": "".join(map(str, decisions)) if len(test.labels) <= DIGITS else decisions.tolist(),
    }
    if reference is not None:
        bootstrap = Bootstrap(test.label_ids, num_labels=len(test.labels), num_seeds=1)
        ours, theirs = (bootstrap.macro_f1(test.task.decisions(each)) for each in (logits, reference))
        part["retention"] = asdict((ours / theirs).estimate()) if theirs.value else None
        part["agreement"] = agreement(logits, reference, test.problem_type)
    return part

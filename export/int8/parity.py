"""The gates between a PyTorch model, its fp32 graph and its int8 graph. A gate that fails raises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from distill.classifier import Classifier, require_same_labels
from distill.errors import ParityError, QualityError
from distill.evaluation.metrics import Quality
from distill.labels import Logits, ProblemType, task_of
from distill.texts import TextInput, joined, of_parts, parts_of
from export.settings import ExportSettings

BATCH_SIZES = (1, 2, 7, 32)
"""Batch sizes for the check of the fp32 graph, which was traced with 2 texts of one length only."""

NUM_PARITY_TEXTS = 64

ROUNDING = 1e-9
"""1 - 0.96 is more than 0.04 in floating point; a loss equal to the budget is allowed."""


@dataclass(frozen=True)
class ParityReport:
    """The largest difference between the logits of two classifiers, and its text."""

    max_abs_diff: float
    worst_text: str
    num_texts: int
    batch_sizes: tuple[int, ...]

    def require(self, tolerance: float) -> None:
        """Raise `ParityError` when the largest difference is above the tolerance or NaN."""
        if not self.max_abs_diff <= tolerance:
            raise ParityError(
                f"the fp32 graph differs from PyTorch by {self.max_abs_diff:.2g} in a logit, the limit is {tolerance:.2g}; "
                f"the text: {self.worst_text[:80]!r}",
                max_abs_diff=self.max_abs_diff,
                tolerance=tolerance,
                worst_text=self.worst_text,
            )


def compare(reference: Classifier, candidate: Classifier, texts: Sequence[TextInput]) -> ParityReport:
    """Compare two classifiers on the same texts, the candidate at several batch sizes.

    Args:
        reference: The classifier with the right logits.
        candidate: The classifier to check, with batches of 1, 2, 7 and 32 texts in their own order, so that short and long
            texts share a batch and are padded.
        texts: Real texts of many lengths.
    """
    require_same_labels(reference, candidate, names=("PyTorch", "the graph"))
    expected = reference.predict_logits(texts)
    differences = np.stack([np.abs(_in_batches(candidate, texts, size) - expected).max(axis=1) for size in BATCH_SIZES])
    row = int(np.argmax(differences)) % len(texts)  # shape (sizes, texts); argmax returns a NaN first
    return ParityReport(float(differences[:, row].max()), joined(texts[row]), len(texts), BATCH_SIZES)


def _in_batches(classifier: Classifier, texts: Sequence[TextInput], size: int) -> Logits:
    return np.concatenate([classifier.predict_logits(texts[start : start + size]) for start in range(0, len(texts), size)])


def parity_texts(texts: Sequence[TextInput], *, seed: int = 0) -> list[TextInput]:
    """Choose texts for a parity check: random ones, the shortest, the longest, and one that is longer than any limit."""
    generator = np.random.default_rng(seed)
    by_length = sorted(range(len(texts)), key=lambda index: len(joined(texts[index])))
    chosen = [*generator.permutation(len(texts))[: NUM_PARITY_TEXTS - 5].tolist(), *by_length[:2], *by_length[-2:]]
    return [
        *(texts[index] for index in dict.fromkeys(chosen)),
        of_parts(tuple(map(" ".join, zip(*map(parts_of, texts[:200]), strict=True)))),
    ]


@dataclass(frozen=True)
class Change:
    """How the answers of int8 differ from those of fp32 on the same texts.

    Attributes:
        agreement: Share (0-1) of texts that get the same label, or all the same labels where a text may have several.
        mean_probability_change: Largest change of a probability in each text, averaged over the texts.
    """

    agreement: float
    mean_probability_change: float


def change_between(before: Logits, after: Logits, problem_type: ProblemType) -> Change:
    """Compare two classifiers' logits, both of shape (texts, labels)."""
    task = task_of(problem_type)
    moved = np.abs(task.probabilities(before) - task.probabilities(after)).max(axis=1)
    return Change(float(task.same_labels(before, after).mean()), float(moved.mean()))


def require_quality(*, before: Quality, after: Quality, change: Change, settings: ExportSettings) -> None:
    """Raise `QualityError` when int8 lost more than its budget against fp32.

    Up to two texts with other labels never fail the checks that count labels: two cannot be told from chance, and on a small
    set they would exceed any budget. The calibration error is always checked, because probabilities can move while every label
    stays the same.

    Args:
        before: fp32 figures.
        after: int8 figures on the same texts.
        change: How the two differ text by text.
        settings: The budgets.
    """
    two_texts = 2 / before.num_texts
    if round((1 - change.agreement) * before.num_texts) > 2:
        _require("macro-F1", before.macro_f1, after.macro_f1, budget=max(settings.budget_f1, two_texts), flag="--budget-f1")
        for label, figures in before.per_class.items():
            recall, budget = after.per_class[label].recall, max(settings.budget_recall, 2 / max(figures.support, 1))
            _require(f"recall of {label!r}", figures.recall, recall, budget=budget, flag="--budget-recall")
        budget = max(1 - settings.min_agreement, two_texts)
        _require("agreement with fp32", 1.0, change.agreement, budget=budget, flag="--min-agreement")
    # Texts that cross the edge of a confidence bin move the calibration error, too: with 90 texts by more than 0.03 in one of
    # twenty exports without fault. In truth it cannot move by more than the probabilities and the labels did.
    gained = after.expected_calibration_error - before.expected_calibration_error
    gained = min(gained, change.mean_probability_change + 1 - change.agreement)
    _require("calibration", 0.0, -gained, budget=max(settings.budget_ece, two_texts), flag="--budget-ece")


def _require(metric: str, before: float, after: float, *, budget: float, flag: str) -> None:
    lost = before - after
    if not lost <= budget + ROUNDING:
        raise QualityError(
            f"int8 loses {lost:.4f} of {metric} ({before:.4f} -> {after:.4f}), the limit is {budget:.4f}; nothing was "
            f"sealed. Train longer, quantize less (--embeddings, --precisions fp32), or allow more with {flag}",
            metric=metric,
            before=before,
            after=after,
            budget=budget,
        )

"""The batch gate: a text must get the same answer alone and in a batch with other texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from distill.classifier import Classifier, TextInput
from distill.errors import QualityError
from distill.labels import Logits, task_of

MAX_TEXTS = 500
BATCH_TEXTS = 32
TIE = 2e-4
"""Two probabilities this close are a tie, which the last bit of a sum may decide."""


class BatchingClassifier(Classifier, Protocol):
    """A classifier that can also compute all texts in one padded batch, which it avoids otherwise."""

    def predict_in_one_batch(self, texts: Sequence[TextInput]) -> Logits:
        """Return logits, shape (len(texts), len(labels)), of one padded batch."""


@dataclass(frozen=True)
class BatchReport:
    """How answers differ between texts alone and in batches of 32 with mixed lengths.

    Attributes:
        labels_changed_by_batch: Number of texts with another top label, not counting ties.
        probability_change_by_batch: Largest change of a probability.
        worst_text: The text with that change.
        num_texts: Number of texts compared.
    """

    labels_changed_by_batch: int
    probability_change_by_batch: float
    worst_text: str
    num_texts: int

    def require(self, tolerance: float) -> None:
        """Raise `QualityError` when a label changed, or a probability by more than the tolerance."""
        if self.labels_changed_by_batch or not self.probability_change_by_batch <= tolerance:
            raise QualityError(
                f"int8 gives {self.labels_changed_by_batch} of {self.num_texts} texts another label in a batch than alone; a "
                f"probability changes by {self.probability_change_by_batch:.2g}, the limit is {tolerance:.2g}; nothing was "
                f"sealed. The text: {self.worst_text[:80]!r}",
                metric="probability alone and in a batch",
                before=0.0,
                after=self.probability_change_by_batch,
                budget=tolerance,
            )


def compare_alone_and_in_batches(
    classifier: BatchingClassifier, texts: Sequence[TextInput], *, max_texts: int = MAX_TEXTS
) -> BatchReport:
    """Compare texts one by one and in batches of 32, unsorted, so that a batch holds short and long texts.

    Args:
        classifier: What answers.
        texts: Texts to choose from.
        max_texts: With more texts than this, so many of them are compared, evenly spread.
    """
    chosen = [texts[index] for index in np.linspace(0, len(texts) - 1, min(len(texts), max_texts)).astype(int)]
    alone = np.concatenate([classifier.predict_logits([text]) for text in chosen])
    starts = range(0, len(chosen), BATCH_TEXTS)
    together = np.concatenate([classifier.predict_in_one_batch(chosen[start : start + BATCH_TEXTS]) for start in starts])
    task = task_of(classifier.problem_type)
    changes = np.abs(task.probabilities(alone) - task.probabilities(together)).max(axis=1)
    # if no probability moved by more than half of this, the labels were a tie
    changed = ~task.same_labels(alone, together) & (changes > TIE / 2)
    worst = int(np.argmax(changes))
    return BatchReport(int(changed.sum()), float(changes[worst]), chosen[worst], len(chosen))

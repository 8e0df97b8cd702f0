"""The hard term: cross-entropy against the labels of the data."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from distill.training.losses.term import UNLABELLED, Seen, Term


class HardLabels(Term):
    """-log of the probability that the student gives the true class, in nats; 0 where there is no label."""

    name: ClassVar[str] = "hard"

    def forward(self, seen: Seen) -> Tensor:
        """Return the loss of each text, shape (batch,)."""
        return functional.cross_entropy(seen.student_logits, seen.labels, ignore_index=UNLABELLED, reduction="none")

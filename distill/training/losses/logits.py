"""Squared distance of the logits themselves, without a softmax.

Ba and Caruana, 2014, "Do Deep Nets Really Need to be Deep?", section 2.2.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from distill.training.losses.soft import require_same_shape
from distill.training.losses.term import Seen, Term


class LogitDistance(Term):
    """Mean over the labels of (student logit - teacher logit)²."""

    name: ClassVar[str] = "logits"

    def forward(self, seen: Seen) -> Tensor:
        """Return the loss of each text, shape (batch,)."""
        teacher_logits = seen.logits_to_match(self.name)
        require_same_shape(seen.student_logits, teacher_logits)
        return (seen.student_logits - teacher_logits).square().mean(dim=-1)

"""Soft targets in two parts that can be weighed: is it the target class, and if not, which of the others.

Zhao et al., 2022, "Decoupled Knowledge Distillation". Plain soft targets are TCKD + (1 - p) NCKD, where p is the teacher's
probability of the target: the surer the teacher, the less its view of the other classes counts. Here both count by a weight.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from distill.errors import SettingsError
from distill.training.losses.soft import require_same_shape, require_temperature
from distill.training.losses.term import UNLABELLED, Seen, Term


class DecoupledTargets(Term):
    """T² * (TCKD + nontarget_weight * NCKD)."""

    name: ClassVar[str] = "decoupled"

    def __init__(self, *, temperature: float, nontarget_weight: float, num_labels: int) -> None:
        """Take the weight of NCKD; that of TCKD is the term's own.

        Raises:
            SettingsError: There are fewer than three classes.
        """
        super().__init__()
        if num_labels < 3:
            raise SettingsError(
                f"decoupled needs three classes or more, there are {num_labels}: with two there is one class beside the "
                "target, its share among the others is always 1 and teaches nothing, and what is left is the plain soft "
                "term; use --soft-weight"
            )
        self.temperature = require_temperature(temperature)
        self.nontarget_weight = nontarget_weight

    def forward(self, seen: Seen) -> Tensor:
        """Return the loss of each text, shape (batch,)."""
        teacher_logits = seen.logits_to_match(self.name)
        # a text without a label has the teacher's answer for its target
        targets = torch.where(seen.labels == UNLABELLED, teacher_logits.argmax(dim=-1), seen.labels)
        target, others = decoupled_losses(
            student_logits=seen.student_logits, teacher_logits=teacher_logits, targets=targets, temperature=self.temperature
        )
        return target + self.nontarget_weight * others


def decoupled_losses(
    *, student_logits: Tensor, teacher_logits: Tensor, targets: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Return T² * TCKD and T² * NCKD of each text, shape (batch,) each, in nats.

    Args:
        student_logits: Unnormalised scores, shape (batch, num_labels).
        teacher_logits: Same shape; no gradient flows into it.
        targets: The target class of each text, shape (batch,).
        temperature: T, finite and above 0.
    """
    require_same_shape(student_logits, teacher_logits)
    is_target = functional.one_hot(targets, student_logits.shape[-1]).bool()
    student = _parts(student_logits / temperature, is_target)
    teacher = _parts(teacher_logits.detach() / temperature, is_target)
    target, others = ((t.exp() * (t - s)).sum(dim=-1) * temperature**2 for s, t in zip(student, teacher, strict=True))
    return target, others


def _parts(logits: Tensor, is_target: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of (target, not target), shape (batch, 2), and of each other class among the others."""
    target = logits[is_target]
    others = logits[~is_target].view(len(logits), -1)
    pair = torch.stack([target, others.logsumexp(dim=-1)], dim=-1)
    return functional.log_softmax(pair, dim=-1), functional.log_softmax(others, dim=-1)

"""The hard and the soft term where a text may have several labels: one yes-or-no question per label, averaged over labels."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from distill.training.losses.soft import require_same_shape, require_temperature
from distill.training.losses.term import UNLABELLED, Seen, Term


class HardDecisions(Term):
    """-log of the probability that the student gives each true decision, the mean over labels; 0 where there are no labels."""

    name: ClassVar[str] = "hard"

    def forward(self, seen: Seen) -> Tensor:
        """Return the loss of each text, shape (batch,); `seen.labels` holds zeros and ones, shape (batch, num_labels)."""
        known = seen.labels != UNLABELLED
        truth = torch.where(known, seen.labels, 0).to(seen.student_logits.dtype)
        losses = functional.binary_cross_entropy_with_logits(seen.student_logits, truth, reduction="none")
        return (losses * known).mean(dim=-1)


class SoftDecisions(Term):
    """T² * KL(teacher_T || student_T) of each decision, the mean over labels."""

    name: ClassVar[str] = "soft"

    def __init__(self, *, temperature: float) -> None:
        super().__init__()
        self.temperature = require_temperature(temperature)

    def forward(self, seen: Seen) -> Tensor:
        """Return the loss of each text, shape (batch,)."""
        teacher_logits = seen.logits_to_match(self.name)
        return binary_soft_target_loss(
            student_logits=seen.student_logits, teacher_logits=teacher_logits, temperature=self.temperature
        )


def binary_soft_target_loss(*, student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Return T² * KL(teacher_T || student_T) of two-sided decisions, the mean over labels, shape (batch,), in nats.

    Each logit x stands for the two probabilities sigmoid(x / T) and sigmoid(-x / T).

    Args:
        student_logits: Unnormalised scores, shape (batch, num_labels).
        teacher_logits: Same shape; no gradient flows into it.
        temperature: T, finite and above 0.

    Raises:
        SettingsError: The temperature is not finite and positive, or the shapes differ.
    """
    require_temperature(temperature)
    require_same_shape(student_logits, teacher_logits)
    student, teacher = student_logits / temperature, teacher_logits.detach() / temperature
    yes = torch.sigmoid(teacher) * (functional.logsigmoid(teacher) - functional.logsigmoid(student))
    no = torch.sigmoid(-teacher) * (functional.logsigmoid(-teacher) - functional.logsigmoid(-student))
    return (yes + no).mean(dim=-1) * temperature**2

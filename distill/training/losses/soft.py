"""The soft term: T² times the divergence of the student from the teacher, both softened.

Hinton, Vinyals and Dean, 2015, "Distilling the Knowledge in a Neural Network", section 2.
"""

from __future__ import annotations

import math
from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from distill.errors import SettingsError
from distill.training.losses.term import Seen, Term


class SoftTargets(Term):
    """T² * KL(teacher_T || student_T)."""

    name: ClassVar[str] = "soft"

    def __init__(self, *, temperature: float) -> None:
        super().__init__()
        self.temperature = require_temperature(temperature)

    def forward(self, seen: Seen) -> Tensor:
        """Return the loss of each text, shape (batch,)."""
        teacher_logits = seen.logits_to_match(self.name)
        return soft_target_loss(student_logits=seen.student_logits, teacher_logits=teacher_logits, temperature=self.temperature)


def soft_target_loss(*, student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Return T² * KL(teacher_T || student_T) of each text, shape (batch,), in nats.

    Args:
        student_logits: Unnormalised scores, shape (batch, num_labels).
        teacher_logits: Same shape; no gradient flows into it.
        temperature: T, finite and above 0. The T² keeps the gradient's size independent of it.

    Raises:
        SettingsError: The temperature is not finite and positive, or the shapes differ.
    """
    require_temperature(temperature)
    require_same_shape(student_logits, teacher_logits)
    student = functional.log_softmax(student_logits / temperature, dim=-1)
    teacher = functional.log_softmax(teacher_logits.detach() / temperature, dim=-1)
    # kl_div(input, target) is KL(target || input): the student is the input, the teacher the target.
    return functional.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=-1) * temperature**2


def require_temperature(temperature: float) -> float:
    """Return the temperature, or refuse one that softens nothing."""
    if not (math.isfinite(temperature) and temperature > 0):
        raise SettingsError(f"temperature must be finite and above 0, got {temperature}")
    return temperature


def require_same_shape(student_logits: Tensor, teacher_logits: Tensor) -> None:
    """Refuse logits that would be broadcast, which teaches nonsense without a word."""
    if student_logits.shape != teacher_logits.shape:
        raise SettingsError(
            f"student logits {tuple(student_logits.shape)} and teacher logits {tuple(teacher_logits.shape)} differ in shape"
        )

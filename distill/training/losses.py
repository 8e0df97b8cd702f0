"""The two losses a student learns by, and their sum.

Equations follow Hinton, Vinyals and Dean, 2015, "Distilling the Knowledge in a Neural Network".
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from distill.errors import SettingsError

UNLABELLED = -100
"""Class id of a text without a label: the hard term skips it (torch's own ignore_index)."""


def soft_target_loss(*, student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Return T² * KL(teacher_T || student_T) of each text, shape (batch,), in nats.

    Args:
        student_logits: Unnormalised scores, shape (batch, num_labels).
        teacher_logits: Same shape; no gradient flows into it.
        temperature: T, finite and above 0. The T² keeps the gradient's size independent of it.

    Raises:
        SettingsError: The temperature is not finite and positive, or the shapes differ.
    """
    if not (math.isfinite(temperature) and temperature > 0):
        raise SettingsError(f"temperature must be finite and above 0, got {temperature}")
    if student_logits.shape != teacher_logits.shape:
        # kl_div would broadcast and teach nonsense
        raise SettingsError(
            f"student logits {tuple(student_logits.shape)} and teacher logits {tuple(teacher_logits.shape)} differ in shape"
        )
    student = functional.log_softmax(student_logits / temperature, dim=-1)
    teacher = functional.log_softmax(teacher_logits.detach() / temperature, dim=-1)
    # kl_div(input, target) is KL(target || input): the student is the input, the teacher the target.
    return functional.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=-1) * temperature**2


def distillation_loss(
    *,
    student_logits: Tensor,
    teacher_logits: Tensor | None,
    labels: Tensor | None,
    temperature: float,
    soft_weight: float,
) -> Tensor:
    """Return the weighted sum of the soft-target and hard-label losses.

    loss = soft_weight * T² * KL(teacher_T || student_T) + (1 - soft_weight) * CE(labels, student)

    A text whose label is `UNLABELLED` has soft weight 1, whatever the setting.

    Args:
        student_logits: Unnormalised scores, shape (batch, num_labels).
        teacher_logits: Same shape. None is allowed only when soft_weight is 0: that is plain fine-tuning.
        labels: Class ids, shape (batch,). None is allowed only when soft_weight is 1.
        temperature: T > 0, softens both distributions of the soft term.
        soft_weight: Share of the soft term, from 0 to 1.

    Returns:
        A scalar, averaged over the batch, in nats.

    Raises:
        SettingsError: A term has weight, but its targets are None; or soft_weight is outside 0-1.
    """
    if not 0 <= soft_weight <= 1:
        raise SettingsError(f"soft_weight must be from 0 to 1, got {soft_weight}")
    if labels is None:
        if soft_weight < 1:
            raise SettingsError(f"soft_weight is {soft_weight}, so the hard term has weight, but there are no labels")
        labels = torch.full(student_logits.shape[:1], UNLABELLED, device=student_logits.device)
    unlabelled = labels == UNLABELLED
    hard = functional.cross_entropy(student_logits, labels, ignore_index=UNLABELLED, reduction="none")
    if teacher_logits is None:
        if soft_weight > 0 or bool(unlabelled.any()):
            raise SettingsError(f"soft_weight is {soft_weight} (1 where there is no label), but there are no teacher logits")
        return hard.mean()
    soft = soft_target_loss(student_logits=student_logits, teacher_logits=teacher_logits, temperature=temperature)
    weight = torch.where(unlabelled, 1.0, soft_weight)
    return (weight * soft + (1 - weight) * hard).mean()

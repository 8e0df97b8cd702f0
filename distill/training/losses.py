"""The two losses a student learns by, and their sum.

Equations follow Hinton, Vinyals and Dean, 2015, "Distilling the Knowledge in a Neural Network".
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from distill.errors import SettingsError


def soft_target_loss(*, student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Return T² * KL(teacher_T || student_T), averaged over the batch, in nats.

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
    # kl_div(input, target) is KL(target || input); "batchmean" divides by texts, "mean" would divide by labels too.
    return functional.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


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
    loss = torch.zeros((), device=student_logits.device)
    if soft_weight > 0:
        if teacher_logits is None:
            raise SettingsError(f"soft_weight is {soft_weight}, but there are no teacher logits")
        soft = soft_target_loss(student_logits=student_logits, teacher_logits=teacher_logits, temperature=temperature)
        loss = loss + soft_weight * soft
    if soft_weight < 1:
        if labels is None:
            raise SettingsError(f"soft_weight is {soft_weight}, so the hard term has weight, but there are no labels")
        loss = loss + (1 - soft_weight) * functional.cross_entropy(student_logits, labels)
    return loss

"""What a loss term reads, and what several terms compute with.

A term is a module that maps `Seen` to one loss for each text, shape (batch,), which must not depend on the padding. It is a
module because some terms have weights to learn. Weights of texts and missing labels are handled in one place, the objective.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from distill.errors import SettingsError
from distill.models.recording import Layers

UNLABELLED = -100
"""Class id of a text without a label, which the hard term skips (torch's default ignore_index)."""


@dataclass(frozen=True)
class Seen:
    """What student and teacher computed for one batch, all in fp32.

    Attributes:
        mask: 1 where a token is real, shape (batch, length).
        labels: Class ids, shape (batch,), or zeros and ones, shape (batch, num_labels); `UNLABELLED` where there is no label.
        student_logits: Unnormalised scores, shape (batch, num_labels).
        teacher_logits: Same shape; None when nothing is distilled. No gradient flows into them.
        student: States of the student's layers; empty unless a term reads them.
        teacher: States of the teacher's layers for the same ids; no gradient flows into them.
    """

    mask: Tensor
    labels: Tensor
    student_logits: Tensor
    teacher_logits: Tensor | None = None
    student: Layers = Layers()  # noqa: RUF009  (frozen and empty)
    teacher: Layers = Layers()  # noqa: RUF009

    @property
    def several_labels(self) -> bool:
        """Whether a text may have several labels: `labels` then holds a zero or one for each."""
        return self.labels.ndim == 2

    @property
    def unlabelled(self) -> Tensor:
        """True for the texts without a label, shape (batch,)."""
        missing = self.labels == UNLABELLED
        return missing.any(dim=1) if self.several_labels else missing

    def logits_to_match(self, term: str) -> Tensor:
        """Return the teacher's logits, for the term of this name.

        Raises:
            SettingsError: The batch has none, or their shape differs from the student's, which torch would broadcast.
        """
        if self.teacher_logits is None:
            raise SettingsError(f"the {term} term has weight, but there are no teacher logits to compare with")
        if self.teacher_logits.shape != self.student_logits.shape:
            raise SettingsError(
                f"student logits {tuple(self.student_logits.shape)} and teacher logits {tuple(self.teacher_logits.shape)} "
                "differ in shape"
            )
        return self.teacher_logits


def matched_layers(num_student_layers: int, num_teacher_layers: int) -> tuple[int, ...]:
    """Return the teacher layer (from 0) that each student layer is compared with.

    The teacher's layers are split into one segment for each student layer, of equal size, and a student layer is compared
    with the last layer of its segment: 1, 3, 5 of six. Students are made by the same rule ("spread"), and patient
    distillation calls it "skip" (Sun et al., 2019).
    """
    return tuple(
        max(0, round((layer + 1) * num_teacher_layers / num_student_layers) - 1) for layer in range(num_student_layers)
    )


def mean_over_tokens(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over the real tokens of each text, shape (batch,).

    Args:
        values: Shape (batch, length).
        mask: 1 where a token is real, shape (batch, length).
    """
    real = mask.to(values.dtype)
    return (values * real).sum(dim=1) / real.sum(dim=1)


def log_attention(left: Tensor, right: Tensor, mask: Tensor, *, num_heads: int) -> Tensor:
    """Return the log of softmax(left rightᵀ / √d) of each head over the real tokens; d is the width of a head.

    Args:
        left: Shape (batch, length, width), all heads side by side; its tokens are the rows.
        right: Same shape; its tokens are the columns.
        mask: 1 where a token is real, shape (batch, length).
        num_heads: Number of heads; it divides the width.

    Returns:
        Shape (batch, heads, length, length). Columns of padding are low enough that their probability is 0, but finite:
        0 times infinity would be NaN.
    """
    left, right = (states.unflatten(-1, (num_heads, -1)).transpose(1, 2) for states in (left, right))
    scores = left @ right.transpose(-1, -2) / left.shape[-1] ** 0.5
    scores = scores.masked_fill(mask[:, None, None, :] == 0, torch.finfo(scores.dtype).min / 2)
    return functional.log_softmax(scores, dim=-1)


def divergence_of_rows(*, student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over heads and real rows of KL(teacher || student) of each row, shape (batch,), in nats.

    Args:
        student: Log-probabilities, shape (batch, heads, length, length).
        teacher: Same shape.
        mask: 1 where a token is real, shape (batch, length).
    """
    return mean_over_tokens((teacher.exp() * (teacher - student)).sum(dim=-1).mean(dim=1), mask)

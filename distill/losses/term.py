"""What every term of a loss is: a function from what was seen of a batch to one number per text.

One number per text, so that padding, weights of texts and missing labels are dealt with in one place, the objective.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from distill.errors import SettingsError
from distill.losses.recording import Layers

UNLABELLED = -100
"""Class id of a text without a label: the hard term skips it (torch's own ignore_index)."""


@dataclass(frozen=True)
class Seen:
    """What student and teacher made of one batch, all in fp32.

    Attributes:
        mask: 1 where a token is real, shape (batch, length).
        labels: Class ids, shape (batch,), or zeros and ones, shape (batch, num_labels); `UNLABELLED` where there is no label.
        student_logits: Unnormalised scores, shape (batch, num_labels).
        teacher_logits: Same shape; None when nothing is distilled. No gradient flows into them.
        student: What its layers made; empty unless a term reads it.
        teacher: The same of the teacher, which read the same ids; no gradient flows into it.
    """

    mask: Tensor
    labels: Tensor
    student_logits: Tensor
    teacher_logits: Tensor | None = None
    student: Layers = Layers()  # noqa: RUF009  (frozen and empty)
    teacher: Layers = Layers()  # noqa: RUF009

    @property
    def unlabelled(self) -> Tensor:
        """Which texts have no label, shape (batch,)."""
        missing = self.labels == UNLABELLED
        return missing if missing.ndim == 1 else missing.any(dim=1)

    def logits_to_match(self, term: str) -> Tensor:
        """Return the teacher's logits, for the term of that name.

        Raises:
            SettingsError: There are none.
        """
        if self.teacher_logits is None:
            raise SettingsError(f"the {term} term has weight, but there are no teacher logits to compare with")
        return self.teacher_logits


class Term(nn.Module):
    """One part of a loss; a module, because some have weights to learn.

    Attributes:
        name: What it is called in settings and logs.
        reads_hidden: It compares hidden states, so the teacher runs in every step.
        reads_attention: It compares queries, keys or values; the same.
    """

    name: ClassVar[str]
    reads_hidden: ClassVar[bool] = False
    reads_attention: ClassVar[bool] = False

    def forward(self, seen: Seen) -> Tensor:
        """Return the loss of each text, shape (batch,); it must not depend on the padding."""
        raise NotImplementedError


def mean_over_tokens(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over the real tokens of each text, shape (batch,).

    Args:
        values: Shape (batch, length).
        mask: 1 where a token is real, shape (batch, length).
    """
    real = mask.to(values.dtype)
    return (values * real).sum(dim=1) / real.sum(dim=1)


def split_heads(states: Tensor, num_heads: int) -> Tensor:
    """Return (batch, length, width) as (batch, heads, length, width / heads)."""
    batch, length, width = states.shape
    return states.view(batch, length, num_heads, width // num_heads).transpose(1, 2)


def log_attention(left: Tensor, right: Tensor, mask: Tensor) -> Tensor:
    """Return the log of softmax(left rightᵀ / √d) over the real tokens.

    Args:
        left: Shape (batch, heads, length, d); each of its tokens has a row.
        right: Same shape; its tokens are the columns.
        mask: 1 where a token is real, shape (batch, length).

    Returns:
        Shape (batch, heads, length, length). Columns of padding hold so low a number that their probability is 0,
        but a finite one: 0 times infinity would be no number.
    """
    scores = left @ right.transpose(-1, -2) / left.shape[-1] ** 0.5
    lowest = torch.finfo(scores.dtype).min / 2
    return functional.log_softmax(scores.masked_fill(mask[:, None, None, :] == 0, lowest), dim=-1)


def divergence_of_rows(*, student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Return KL(teacher || student) of each row, its mean over heads and real rows: shape (batch,), in nats.

    Args:
        student: Log-probabilities, shape (batch, heads, length, length).
        teacher: Same shape.
        mask: 1 where a token is real, shape (batch, length).
    """
    rows = (teacher.exp() * (teacher - student)).sum(dim=-1)
    return mean_over_tokens(rows.mean(dim=1), mask)

"""Terms on attention: maps, and relations among queries, keys and values."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from distill.errors import SettingsError
from distill.losses.term import (
    Seen,
    Term,
    divergence_of_rows,
    log_attention,
    matched_layers,
    mean_over_tokens,
    split_heads,
)
from distill.models.recording import Layers


class _AttentionMaps(Term):
    """Mean over layers, heads and the rows of real tokens of a distance between two rows of attention probabilities.

    If student and teacher have different numbers of heads, the means over their heads are compared.
    """

    reads_attention: ClassVar[bool] = True

    def forward(self, seen: Seen) -> Tensor:
        """Return the loss of each text, shape (batch,)."""
        matched = matched_layers(len(seen.student.queries), len(seen.teacher.queries))
        losses = []
        for student_layer, teacher_layer in enumerate(matched):
            student = _attention(seen.student, student_layer, seen.mask)
            teacher = _attention(seen.teacher, teacher_layer, seen.mask)
            if seen.student.num_heads != seen.teacher.num_heads:
                student, teacher = _mean_of_heads(student), _mean_of_heads(teacher)
            losses.append(self.distance(student=student, teacher=teacher, mask=seen.mask))
        return torch.stack(losses).mean(dim=0)

    def distance(self, *, student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
        """Return the distance of each text, shape (batch,), of log-probabilities (batch, heads, length, length)."""
        raise NotImplementedError


class AttentionDistance(_AttentionMaps):
    """Squared distance of two rows of attention probabilities; mean over layers, heads and the rows of real tokens."""

    name: ClassVar[str] = "attention"

    def distance(self, *, student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
        """Return the squared distance of each text."""
        return mean_over_tokens((student.exp() - teacher.exp()).square().sum(dim=-1).mean(dim=1), mask)


class AttentionDivergence(_AttentionMaps):
    """KL(teacher || student) of two rows of attention probabilities, in nats; mean over layers, heads and real rows."""

    name: ClassVar[str] = "attention-kl"

    def distance(self, *, student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
        """Return the divergence of each text, in nats."""
        return divergence_of_rows(student=student, teacher=teacher, mask=mask)


def _attention(layers: Layers, layer: int, mask: Tensor) -> Tensor:
    queries, keys = (split_heads(states[layer], layers.num_heads) for states in (layers.queries, layers.keys))
    return log_attention(queries, keys, mask)


def _mean_of_heads(log_probabilities: Tensor) -> Tensor:
    return log_probabilities.logsumexp(dim=1, keepdim=True) - math.log(log_probabilities.shape[1])


class Relations(Term):
    """Sum over queries, keys and values A of the last layer of KL(teacher || student) of the rows of softmax(A Aᵀ / √d).

    Each is a mean over relation heads and the rows of real tokens (MiniLMv2, Wang et al., 2021).
    """

    name: ClassVar[str] = "relations"
    reads_attention: ClassVar[bool] = True

    def __init__(self, *, num_heads: int, student_width: int, teacher_width: int) -> None:
        """Set the number of relation heads.

        Raises:
            SettingsError: It does not divide both widths.
        """
        super().__init__()
        for whose, width in (("student's", student_width), ("teacher's", teacher_width)):
            if width % num_heads:
                raise SettingsError(
                    f"relation_heads is {num_heads}, which does not divide the {whose} width of {width}; "
                    "choose a common divisor with --relation-heads"
                )
        self.num_heads = num_heads

    def forward(self, seen: Seen) -> Tensor:
        """Return the loss of each text, shape (batch,), in nats."""
        losses = []
        for kind in ("queries", "keys", "values"):
            student, teacher = (
                self._relations(getattr(layers, kind)[-1], seen.mask) for layers in (seen.student, seen.teacher)
            )
            losses.append(divergence_of_rows(student=student, teacher=teacher, mask=seen.mask))
        return torch.stack(losses).sum(dim=0)

    def _relations(self, states: Tensor, mask: Tensor) -> Tensor:
        heads = split_heads(states, self.num_heads)
        return log_attention(heads, heads, mask)

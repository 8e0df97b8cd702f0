"""Terms on attention: maps, and relations among queries, keys and values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor

from distill.errors import SettingsError
from distill.losses.recording import Layers, matched_layers
from distill.losses.term import Seen, Term, divergence_of_rows, log_attention, mean_over_tokens, split_heads


class AttentionDistance(Term):
    """Squared distance of two rows of attention probabilities; mean over layers, heads and the rows of real tokens."""

    name: ClassVar[str] = "attention"
    reads_attention: ClassVar[bool] = True

    def forward(self, seen: Seen) -> Tensor:
        """Return the loss of each text, shape (batch,)."""
        losses = [
            mean_over_tokens((student.exp() - teacher.exp()).square().sum(dim=-1).mean(dim=1), seen.mask)
            for student, teacher in _pairs(seen)
        ]
        return torch.stack(losses).mean(dim=0)


class AttentionDivergence(Term):
    """KL(teacher || student) of two rows of attention probabilities; mean over layers, heads and the rows of real tokens."""

    name: ClassVar[str] = "attention-kl"
    reads_attention: ClassVar[bool] = True

    def forward(self, seen: Seen) -> Tensor:
        """Return the loss of each text, shape (batch,), in nats."""
        losses = [divergence_of_rows(student=student, teacher=teacher, mask=seen.mask) for student, teacher in _pairs(seen)]
        return torch.stack(losses).mean(dim=0)


def _pairs(seen: Seen) -> Iterator[tuple[Tensor, Tensor]]:
    """Log-probabilities of attention, (student, teacher) of each student layer, (batch, heads, length, length) each."""
    pooled = seen.student.num_heads != seen.teacher.num_heads
    matched = matched_layers(len(seen.student.queries), len(seen.teacher.queries))
    for student_layer, teacher_layer in enumerate(matched):
        student = _attention(seen.student, student_layer, seen.mask)
        teacher = _attention(seen.teacher, teacher_layer, seen.mask)
        yield (_mean_of_heads(student), _mean_of_heads(teacher)) if pooled else (student, teacher)


def _attention(layers: Layers, layer: int, mask: Tensor) -> Tensor:
    queries, keys = (split_heads(states[layer], layers.num_heads) for states in (layers.queries, layers.keys))
    return log_attention(queries, keys, mask)


def _mean_of_heads(log_probabilities: Tensor) -> Tensor:
    return log_probabilities.logsumexp(dim=1, keepdim=True) - torch.tensor(float(log_probabilities.shape[1])).log()


class Relations(Term):
    """Sum over queries, keys and values A of KL(teacher || student) of the rows of softmax(A Aᵀ / √d).

    It is the mean over relation heads and the rows of real tokens.
    """

    name: ClassVar[str] = "relations"
    reads_attention: ClassVar[bool] = True

    def __init__(self, *, num_heads: int, student_width: int, teacher_width: int) -> None:
        """Take the number of relation heads; it must divide both widths.

        Raises:
            SettingsError: It does not.
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
        losses = [
            divergence_of_rows(
                student=self._relations(student, seen.mask), teacher=self._relations(teacher, seen.mask), mask=seen.mask
            )
            for student, teacher in zip(_last(seen.student), _last(seen.teacher), strict=True)
        ]
        return torch.stack(losses).sum(dim=0)

    def _relations(self, states: Tensor, mask: Tensor) -> Tensor:
        heads = split_heads(states, self.num_heads)
        return log_attention(heads, heads, mask)


def _last(layers: Layers) -> tuple[Tensor, Tensor, Tensor]:
    return layers.queries[-1], layers.keys[-1], layers.values[-1]

"""Attention transfer: the student looks at the tokens that the teacher looks at.

Jiao et al., 2020, "TinyBERT", equation 7, on probabilities instead of scores, so that only real tokens have a part in it;
layers are matched by `matched_layers`. Where the numbers of heads differ, the mean over the heads is compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor

from distill.training.losses.layers import Layers, matched_layers
from distill.training.losses.term import Seen, Term
from distill.training.losses.tokens import divergence_of_rows, log_attention, mean_over_tokens, split_heads


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

"""Relations among queries, among keys and among values of the last layer.

Wang et al., 2021, "MiniLMv2: Multi-Head Self-Attention Relation Distillation". Vectors of all heads are put side by side and
cut anew into relation heads, so that neither the width nor the number of heads of the student need be the teacher's.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from distill.errors import SettingsError
from distill.training.losses.layers import Layers
from distill.training.losses.term import Seen, Term
from distill.training.losses.tokens import divergence_of_rows, log_attention, split_heads


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

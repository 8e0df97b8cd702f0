"""Angle between hidden states, token by token.

Sanh et al., 2019, "DistilBERT", section 2, for all layers and with a map for each; layers are matched by `matched_layers`.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from distill.training.losses.projection import Projections
from distill.training.losses.term import Seen, Term
from distill.training.losses.tokens import mean_over_tokens


class HiddenAngle(Term):
    """Mean over layers and real tokens of 1 - cosine(mapped student state, teacher state)."""

    name: ClassVar[str] = "hidden-cosine"
    reads_hidden: ClassVar[bool] = True

    def __init__(self, projections: Projections) -> None:
        super().__init__()
        self.projections = projections

    def forward(self, seen: Seen) -> Tensor:
        """Return the loss of each text, shape (batch,)."""
        losses = [
            mean_over_tokens(1 - functional.cosine_similarity(student, teacher, dim=-1), seen.mask)
            for student, teacher in self.projections.pairs(seen.student, seen.teacher)
        ]
        return torch.stack(losses).mean(dim=0)

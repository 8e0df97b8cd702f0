"""Squared distance of hidden states, token by token.

Jiao et al., 2020, "TinyBERT", equation 8, with a map for each layer; layers are matched by `matched_layers`.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from distill.training.losses.projection import Projections
from distill.training.losses.term import Seen, Term
from distill.training.losses.tokens import mean_over_tokens


class HiddenDistance(Term):
    """Mean over layers, real tokens and dimensions of (mapped student state - teacher state)²."""

    name: ClassVar[str] = "hidden"
    reads_hidden: ClassVar[bool] = True

    def __init__(self, projections: Projections) -> None:
        super().__init__()
        self.projections = projections

    def forward(self, seen: Seen) -> Tensor:
        """Return the loss of each text, shape (batch,)."""
        losses = [
            mean_over_tokens((student - teacher).square().mean(dim=-1), seen.mask)
            for student, teacher in self.projections.pairs(seen.student, seen.teacher)
        ]
        return torch.stack(losses).mean(dim=0)

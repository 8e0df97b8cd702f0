"""Learned maps from the student's hidden states to the teacher's width, one a layer.

Romero et al., 2015, "FitNets": a narrower student is compared through a map that is learnt with it and thrown away after.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from distill.training.losses.layers import Layers, hidden_pairs


class Projections(nn.Module):
    """One linear map without bias for each of the first `num_layers` student layers.

    Where the widths are equal it starts as the identity; else as an orthogonal map drawn from a seed.
    """

    def __init__(self, *, num_layers: int, student_width: int, teacher_width: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.maps = nn.ParameterList(
            torch.eye(teacher_width)
            if student_width == teacher_width
            else nn.init.orthogonal_(torch.empty(teacher_width, student_width), generator=generator)
            for _ in range(num_layers)
        )

    def pairs(self, student: Layers, teacher: Layers) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (student's mapped state, teacher's state) of as many student layers as there are maps, first layer first."""
        for weight, (ours, theirs) in zip(self.maps, hidden_pairs(student, teacher), strict=False):
            yield ours @ weight.T, theirs

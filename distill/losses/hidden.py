"""Terms on hidden states: squared distance, angle, and patient distillation of the first token."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from distill.errors import SettingsError
from distill.losses.recording import Layers, hidden_pairs
from distill.losses.term import Seen, Term, mean_over_tokens


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


class PatientStates(Term):
    """Mean over all layers but the last of |student / |student| - teacher / |teacher||², of the first token's states."""

    name: ClassVar[str] = "patient"
    reads_hidden: ClassVar[bool] = True

    def __init__(self, *, num_layers: int, student_width: int, teacher_width: int, seed: int) -> None:
        """Take the sizes of the student; where the widths differ its states go through learned maps first.

        Raises:
            SettingsError: The student has one layer, so that there is none below the last.
        """
        super().__init__()
        if num_layers < 2:
            raise SettingsError(
                "patient compares the layers below the last, and this student has one layer; use hidden, or a deeper student"
            )
        # as in the paper: states of one width are compared as they are
        self.projections = (
            None
            if student_width == teacher_width
            else Projections(num_layers=num_layers - 1, student_width=student_width, teacher_width=teacher_width, seed=seed)
        )

    def forward(self, seen: Seen) -> Tensor:
        """Return the loss of each text, shape (batch,)."""
        if self.projections is None:
            below = hidden_pairs(seen.student, seen.teacher)[:-1]
        else:
            below = list(self.projections.pairs(seen.student, seen.teacher))
        losses = [
            (functional.normalize(student[:, 0], dim=-1) - functional.normalize(teacher[:, 0], dim=-1)).square().sum(dim=-1)
            for student, teacher in below
        ]
        return torch.stack(losses).mean(dim=0)

"""Terms on hidden states: squared distance, angle, and patient distillation of the first token."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn import functional

from distill.errors import SettingsError
from distill.losses.term import Seen, matched_layers, mean_over_tokens
from distill.models.recording import Layers


def hidden_pairs(student: Layers, teacher: Layers) -> list[tuple[Tensor, Tensor]]:
    """Return (student's hidden state, the teacher's state it is compared with) of each student layer, first layer first."""
    return [
        (student.hidden[layer], teacher.hidden[matched])
        for layer, matched in enumerate(matched_layers(len(student.hidden), len(teacher.hidden)))
    ]


class Projections(nn.Module):
    """One linear map without bias for each of the first `num_layers` student layers.

    A map starts as the identity if the widths are equal, else as an orthogonal map drawn from a seed.
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
        """Yield (student's mapped state, teacher's state) of each student layer that has a map, first layer first."""
        for weight, (ours, theirs) in zip(self.maps, hidden_pairs(student, teacher), strict=False):
            yield ours @ weight.T, theirs


def squared_difference(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean over dimensions of (student state - teacher state)² at each token, shape (batch, length)."""
    return (student - teacher).square().mean(dim=-1)


def angle(student: Tensor, teacher: Tensor) -> Tensor:
    """Return 1 - cosine(student state, teacher state) at each token, shape (batch, length)."""
    return 1 - functional.cosine_similarity(student, teacher, dim=-1)


class MappedStates(nn.Module):
    """Mean over layers and real tokens of a distance between mapped student states and teacher states."""

    def __init__(self, projections: Projections, distance: Callable[[Tensor, Tensor], Tensor]) -> None:
        """Set the maps and the distance: `squared_difference` or `angle`."""
        super().__init__()
        self.projections = projections
        self.distance = distance

    def forward(self, seen: Seen) -> Tensor:
        """Return the loss of each text, shape (batch,)."""
        pairs = self.projections.pairs(seen.student, seen.teacher)
        return torch.stack([mean_over_tokens(self.distance(*pair), seen.mask) for pair in pairs]).mean(dim=0)


class PatientStates(nn.Module):
    """Mean over all layers but the last of |student / |student| - teacher / |teacher||², of the first token's states."""

    def __init__(self, *, num_layers: int, student_width: int, teacher_width: int, seed: int) -> None:
        """Make learned maps for the student's states if the widths differ.

        Raises:
            SettingsError: The student has one layer, so it has none below the last.
        """
        super().__init__()
        if num_layers < 2:
            raise SettingsError(
                "patient compares the layers below the last, and this student has one layer; use hidden, or a deeper student"
            )
        # as in the paper: states of equal width are compared without a map
        self.projections = (
            None
            if student_width == teacher_width
            else Projections(num_layers=num_layers - 1, student_width=student_width, teacher_width=teacher_width, seed=seed)
        )

    def forward(self, seen: Seen) -> Tensor:
        """Return the loss of each text, shape (batch,)."""
        pairs = hidden_pairs if self.projections is None else self.projections.pairs
        losses = [
            (functional.normalize(student[:, 0], dim=-1) - functional.normalize(teacher[:, 0], dim=-1)).square().sum(dim=-1)
            for student, teacher in islice(pairs(seen.student, seen.teacher), len(seen.student.hidden) - 1)
        ]
        return torch.stack(losses).mean(dim=0)

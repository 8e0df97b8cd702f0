"""Patient distillation: the first token's state in the layers below the last.

Sun et al., 2019, "Patient Knowledge Distillation for BERT Model Compression", equation 7. The last layer is left to the
logits; layers are matched by `matched_layers`, the paper's "skip".
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from distill.errors import SettingsError
from distill.training.losses.layers import hidden_pairs
from distill.training.losses.projection import Projections
from distill.training.losses.term import Seen, Term


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

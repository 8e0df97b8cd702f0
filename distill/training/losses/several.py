"""The hard and the soft term where a text may have several labels: one yes-or-no question per label, averaged over labels."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from distill.training.losses.soft import require_same_shape, require_temperature
from distill.training.losses.term import UNLABELLED, Seen, Term


class HardDecisions(Term):
    """-log of the probability that the student gives each true decision, the mean over labels; 0 where there are no labels."""

    name: ClassVar[str] = "hard"
    class_weights: Tensor | None

    def __init__(self, *, class_weights: NDArray[np.float32] | None = None) -> None:
        """Take what a no and a yes of each label count, shape (2, num_labels); None is 1 each."""
        super().__init__()
        weights = None if class_weights is None else torch.from_numpy(class_weights)
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, seen: Seen) -> Tensor:
        """Return the loss of each text, shape (batch,); `seen.labels` holds zeros and ones, shape (batch, num_labels)."""
        known = seen.labels != UNLABELLED
        truth = torch.where(known, seen.labels, 0).to(seen.student_logits.dtype)
        losses = functional.binary_cross_entropy_with_logits(seen.student_logits, truth, reduction="none")
        if self.class_weights is not None:
            losses = losses * torch.where(truth == 1, self.class_weights[1], self.class_weights[0])
        return (losses * known).mean(dim=-1)


class SoftDecisions(Term):
    """T² * KL(teacher_T || student_T) of each decision, the mean over labels."""

    name: ClassVar[str] = "soft"

    def __init__(self, *, temperature: float) -> None:
        super().__init__()
        self.temperature = require_temperature(temperature)

    def forward(self, seen: Seen) -> Tensor:
        """Return the loss of each text, shape (batch,)."""
        teacher_logits = seen.logits_to_match(self.name)
        return binary_soft_target_loss(
            student_logits=seen.student_logits, teacher_logits=teacher_logits, temperature=self.temperature
        )


def binary_soft_target_loss(*, student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Return T² * KL(teacher_T || student_T) of two-sided decisions, the mean over labels, shape (batch,), in nats.

    Each logit x stands for the two probabilities sigmoid(x / T) and sigmoid(-x / T).

    Args:
        student_logits: Unnormalised scores, shape (batch, num_labels).
        teacher_logits: Same shape; no gradient flows into it.
        temperature: T, finite and above 0.

    Raises:
        SettingsError: The temperature is not finite and positive, or the shapes differ.
    """
    require_temperature(temperature)
    require_same_shape(student_logits, teacher_logits)
    student, teacher = student_logits / temperature, teacher_logits.detach() / temperature
    yes = torch.sigmoid(teacher) * (functional.logsigmoid(teacher) - functional.logsigmoid(student))
    no = torch.sigmoid(-teacher) * (functional.logsigmoid(-teacher) - functional.logsigmoid(-student))
    return (yes + no).mean(dim=-1) * temperature**2


def balanced_decisions(label_ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return weights with which the noes and the yeses of each label count the same, shape (2, num_labels).

    Args:
        label_ids: Zeros and ones, shape (texts, num_labels); rows of `UNLABELLED` are passed over.
    """
    known = label_ids[(label_ids != UNLABELLED).all(axis=1)]
    counts = np.stack([(known == decision).sum(axis=0) for decision in (0, 1)])
    weights = len(known) / (2 * np.maximum(counts, 1))
    # a label that is always or never given has nothing to balance
    return np.where((counts > 0).all(axis=0), weights, 1.0).astype(np.float32)

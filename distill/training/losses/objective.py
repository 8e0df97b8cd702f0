"""The weighted sum of terms that a step makes small.

The one place where per-text losses become a number: texts without a label, weights of texts and the mean over the
batch are dealt with here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from distill.errors import SettingsError
from distill.labels import ProblemType
from distill.training.losses.hard import HardLabels
from distill.training.losses.several import HardDecisions, SoftDecisions
from distill.training.losses.soft import SoftTargets
from distill.training.losses.term import UNLABELLED, Seen, Term


@dataclass(frozen=True)
class TrainingBatch:
    """What one step learns from.

    Attributes:
        inputs: The model's arguments by name, shape (batch, length) each; `attention_mask` is among them.
        labels: Class ids, shape (batch,), or zeros and ones, shape (batch, num_labels); `UNLABELLED` where there is none.
        teacher_logits: Shape (batch, num_labels); None when nothing is distilled.
        weights: What each text counts, shape (batch,); None is 1 each.
    """

    inputs: dict[str, Tensor]
    labels: Tensor
    teacher_logits: Tensor | None = None
    weights: Tensor | None = None


class StepLoss(NamedTuple):
    """The loss of a step: `total`, a scalar with a gradient, and the plain mean of each term over the texts it is for."""

    total: Tensor
    terms: dict[str, float]


@dataclass(frozen=True)
class Weighted:
    """A term and what it counts: `weight` on texts with a label, `unlabelled_weight` on the others."""

    term: Term
    weight: float
    unlabelled_weight: float


class Objective(nn.Module):
    """A weighted sum of terms; weights that terms learn are its parameters."""

    def __init__(self, parts: Sequence[Weighted]) -> None:
        super().__init__()
        self._parts = tuple(parts)
        self.terms = nn.ModuleDict({part.term.name: part.term for part in parts})

    def forward(self, model: nn.Module, batch: TrainingBatch) -> StepLoss:
        """Run the student on a batch and weigh its mistakes.

        The student computes in the numbers of the surrounding autocast, the terms always in fp32.

        Raises:
            SettingsError: A term with weight has nothing to compare with.
        """
        logits = model(**batch.inputs).logits
        with torch.autocast(logits.device.type, enabled=False):
            soft = None if batch.teacher_logits is None else batch.teacher_logits.detach().float()
            seen = Seen(batch.inputs["attention_mask"], batch.labels, logits.float(), soft)
            return self._weighed(seen, batch.weights)

    def _weighed(self, seen: Seen, text_weights: Tensor | None) -> StepLoss:
        unlabelled = seen.labels == UNLABELLED
        if unlabelled.ndim == 2:  # several labels a text: it has all of them or none
            unlabelled = unlabelled.all(dim=1)
        total = torch.zeros_like(seen.student_logits[:, 0])
        means = {}
        for part in self._parts:
            share = torch.where(unlabelled, part.unlabelled_weight, part.weight)
            concerned = share != 0
            if not bool(concerned.any()):
                continue
            losses = part.term(seen)
            total = total + share * losses
            means[part.term.name] = float(losses.detach()[concerned].mean())
        if text_weights is not None:
            total = total * text_weights
        return StepLoss(total.mean(), means)


def mixed_objective(
    *,
    soft_weight: float = 0.0,
    temperature: float = 1.0,
    problem_type: ProblemType = "single_label_classification",
) -> Objective:
    """Return soft_weight * T² * KL(teacher_T || student_T) + (1 - soft_weight) * CE(labels, student).

    Where a text may have several labels both are means over its labels, each a decision of two sides. A text whose label
    is `UNLABELLED` has soft weight 1, whatever the setting.

    Args:
        soft_weight: Share of the soft term, from 0 to 1; 0 is plain fine-tuning.
        temperature: T, finite and above 0; softens both distributions of the soft term.
        problem_type: Whether a text has one label or several.

    Raises:
        SettingsError: A number is out of its range.
    """
    if not 0 <= soft_weight <= 1:
        raise SettingsError(f"soft_weight must be from 0 to 1, got {soft_weight}")
    hard_weight = float(1 - np.float32(soft_weight))  # of the share as the tensors hold it, so that both make 1
    several = problem_type == "multi_label_classification"
    soft = SoftDecisions(temperature=temperature) if several else SoftTargets(temperature=temperature)
    hard = HardDecisions() if several else HardLabels()
    return Objective((Weighted(soft, soft_weight, 1.0), Weighted(hard, hard_weight, 0.0)))

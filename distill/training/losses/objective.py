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
from distill.training.losses.layers import FrozenTeacher, Layers, run_reading
from distill.training.losses.several import HardDecisions, SoftDecisions
from distill.training.losses.soft import SoftTargets
from distill.training.losses.term import Seen, Term


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
    """A weighted sum of terms; weights that terms learn are its parameters.

    The total is the sum over the texts, each with its weight, over the number of texts and not over the sum of their
    weights: a text's weight means the same in every batch.
    """

    def __init__(self, parts: Sequence[Weighted], *, teacher: FrozenTeacher | None = None) -> None:
        """Take the terms, and the teacher that runs in every step where one of them reads its layers."""
        super().__init__()
        self.terms = nn.ModuleDict({part.term.name: part.term for part in parts})
        self._parts = tuple(parts)
        self._teacher = teacher
        self._hidden = any(part.term.reads_hidden for part in parts)
        self._attention = any(part.term.reads_attention for part in parts)
        if (self._hidden or self._attention) and teacher is None:
            raise SettingsError("a term reads the teacher's layers, but there is no teacher to run")

    @property
    def parts(self) -> tuple[Weighted, ...]:
        """The terms with what they count."""
        return self._parts

    def forward(self, model: nn.Module, batch: TrainingBatch) -> StepLoss:
        """Run the student on a batch, the teacher too where a term reads its layers, and weigh the differences.

        Both compute in the numbers of the surrounding autocast, the terms always in fp32.

        Raises:
            SettingsError: A term with weight has nothing to compare with.
        """
        logits, layers = run_reading(model, batch.inputs, hidden=self._hidden, attention=self._attention)
        teacher = Layers()
        if self._teacher is not None:
            teacher = self._teacher.layers(batch.inputs, hidden=self._hidden, attention=self._attention)
        with torch.autocast(logits.device.type, enabled=False):
            seen = Seen(
                mask=batch.inputs["attention_mask"],
                labels=batch.labels,
                student_logits=logits.float(),
                teacher_logits=None if batch.teacher_logits is None else batch.teacher_logits.detach().float(),
                student=layers,
                teacher=teacher,
            )
            return self._weighed(seen, batch.weights)

    def _weighed(self, seen: Seen, text_weights: Tensor | None) -> StepLoss:
        total = torch.zeros_like(seen.student_logits[:, 0])
        means = {}
        for part in self._parts:
            share = torch.where(seen.unlabelled, part.unlabelled_weight, part.weight)
            concerned = share != 0
            if not bool(concerned.any()):
                continue
            losses = part.term(seen)
            total = total + share * losses
            means[part.term.name] = float(losses.detach()[concerned].mean())
        if text_weights is not None:
            total = total * text_weights
        return StepLoss(total.mean(), means)


def mixed(*, soft: Term, hard: Term, soft_weight: float) -> tuple[Weighted, Weighted]:
    """Return soft_weight * soft + (1 - soft_weight) * hard; a text without a label has soft weight 1.

    Raises:
        SettingsError: The weight is outside 0 to 1.
    """
    if not 0 <= soft_weight <= 1:
        raise SettingsError(f"soft_weight must be from 0 to 1, got {soft_weight}")
    hard_weight = float(1 - np.float32(soft_weight))  # of the share as the tensors hold it, so that both make 1
    return Weighted(soft, soft_weight, 1.0), Weighted(hard, hard_weight, 0.0)


def mixed_objective(
    *,
    soft_weight: float = 0.0,
    temperature: float = 1.0,
    problem_type: ProblemType = "single_label_classification",
) -> Objective:
    """Return soft_weight * T² * KL(teacher_T || student_T) + (1 - soft_weight) * CE(labels, student).

    Where a text may have several labels both are means over its labels, each a decision of two sides.

    Args:
        soft_weight: Share of the soft term, from 0 to 1; 0 is plain fine-tuning.
        temperature: T, finite and above 0; softens both distributions of the soft term.
        problem_type: Whether a text has one label or several.

    Raises:
        SettingsError: A number is out of its range.
    """
    several = problem_type == "multi_label_classification"
    soft = SoftDecisions(temperature=temperature) if several else SoftTargets(temperature=temperature)
    hard = HardDecisions() if several else HardLabels()
    return Objective(mixed(soft=soft, hard=hard, soft_weight=soft_weight))

"""The weighted sum of loss terms that training minimises, and how it is made from the settings.

Only this file reduces losses per text to a scalar: it handles texts without a label, weights of texts and the mean over
the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from distill.errors import SettingsError
from distill.labels import ProblemType
from distill.losses.attention import AttentionDistance, AttentionDivergence, Relations
from distill.losses.hidden import HiddenAngle, HiddenDistance, PatientStates, Projections
from distill.losses.logits import DecoupledTargets, HardLabels, LogitDistance, SoftTargets, balanced_weights
from distill.losses.term import Seen, Term
from distill.models.devices import evaluating
from distill.models.recording import Layers, require_readable, run_with_layers
from distill.models.torch_classifier import TorchClassifier
from distill.settings import DistillSettings, LossName, TrainingSettings
from distill.teachers.teacher import require_same_tokens


@dataclass(frozen=True)
class TrainingBatch:
    """The data of one training step.

    Attributes:
        inputs: The model's arguments by name, shape (batch, length) each; `attention_mask` is among them.
        labels: Class ids, shape (batch,), or zeros and ones, shape (batch, num_labels); `UNLABELLED` where there is none.
        teacher_logits: Shape (batch, num_labels); None when nothing is distilled.
        weights: Weight of each text in the loss, shape (batch,); None is 1 each.
    """

    inputs: dict[str, Tensor]
    labels: Tensor
    teacher_logits: Tensor | None = None
    weights: Tensor | None = None


class StepLoss(NamedTuple):
    """The loss of a step.

    Attributes:
        total: A scalar with a gradient.
        terms: The plain mean of each term over the texts it applies to.
        num_items: How many items `total` is a mean over, where they are not the texts of the batch.
    """

    total: Tensor
    terms: dict[str, float]
    num_items: int | None = None


@dataclass(frozen=True)
class FrozenTeacher:
    """A teacher that runs beside the student in every step; not a module, so that it is never trained or saved."""

    model: nn.Module

    def layers(self, inputs: dict[str, Tensor], *, hidden: bool, attention: bool) -> Layers:
        """Return the states of its layers for the batch, without dropout and without gradients."""
        # no_grad, not inference_mode: the student's backward pass keeps these tensors
        with evaluating(self.model), torch.no_grad():
            return run_with_layers(self.model, inputs, hidden=hidden, attention=attention)[1]


@dataclass(frozen=True)
class Weighted:
    """A term with its weight on texts with a label, and its weight on texts without."""

    term: Term
    weight: float
    unlabelled_weight: float


class Objective(nn.Module):
    """A weighted sum of terms; weights that the terms learn are its parameters.

    The total is the weighted sum over the texts, divided by the number of texts and not by the sum of their weights, so
    that a text's weight has the same effect in every batch.
    """

    def __init__(self, parts: Sequence[Weighted], *, teacher: FrozenTeacher | None = None) -> None:
        """Set the terms, and the teacher that runs in every step if one of them reads its layers."""
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
        """The terms with their weights."""
        return self._parts

    def forward(self, model: nn.Module, batch: TrainingBatch) -> StepLoss:
        """Run the student on a batch, and the teacher if a term reads its layers; return the weighted loss.

        Both models compute in the dtype of the surrounding autocast, the terms always in fp32.

        Raises:
            SettingsError: A term with weight needs teacher logits and the batch has none.
        """
        logits, layers = run_with_layers(model, batch.inputs, hidden=self._hidden, attention=self._attention)
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
            return self._weighted_sum(seen, batch.weights)

    def _weighted_sum(self, seen: Seen, text_weights: Tensor | None) -> StepLoss:
        total = torch.zeros_like(seen.student_logits[:, 0])
        means = {}
        for part in self._parts:
            share = torch.where(seen.unlabelled, part.unlabelled_weight, part.weight)
            counted = share != 0
            if not bool(counted.any()):
                continue
            losses = part.term(seen)
            total = total + share * losses
            means[part.term.name] = float(losses.detach()[counted].mean())
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
    hard_weight = float(1 - np.float32(soft_weight))  # from the fp32 value of the share, so that both sum to 1
    return Weighted(soft, soft_weight, 1.0), Weighted(hard, hard_weight, 0.0)


def mixed_objective(*, soft_weight: float = 0.0, temperature: float = 1.0) -> Objective:
    """Return soft_weight * T² * KL(teacher_T || student_T) + (1 - soft_weight) * CE(labels, student).

    With several labels per text, both are means over its labels, each of which is a yes or no.

    Args:
        soft_weight: Share of the soft term, from 0 to 1; 0 is plain fine-tuning.
        temperature: T, finite and above 0; softens both distributions of the soft term.

    Raises:
        SettingsError: A value is out of its range.
    """
    return Objective(mixed(soft=SoftTargets(temperature=temperature), hard=HardLabels(), soft_weight=soft_weight))


@dataclass(frozen=True)
class _Pair:
    """What the makers of terms need to know; `student` and `teacher` are the configs of the two models."""

    settings: DistillSettings
    student: Any
    teacher: Any
    num_labels: int
    problem_type: ProblemType

    def widths(self) -> dict[str, int]:
        return {"student_width": self.student.hidden_size, "teacher_width": self.teacher.hidden_size}

    def layers(self) -> dict[str, int]:
        return {"num_layers": self.student.num_hidden_layers, "seed": self.settings.seed, **self.widths()}


def _decoupled(pair: _Pair) -> Term:
    if pair.problem_type != "single_label_classification":
        raise SettingsError("decoupled needs one label per text; with several, the soft term compares each label separately")
    return DecoupledTargets(
        temperature=pair.settings.temperature,
        nontarget_weight=pair.settings.nontarget_weight,
        num_labels=pair.num_labels,
    )


_MAKERS: dict[LossName, Callable[[_Pair], Term]] = {
    "logits": lambda _: LogitDistance(),
    "decoupled": _decoupled,
    "hidden": lambda pair: HiddenDistance(Projections(**pair.layers())),
    "hidden-cosine": lambda pair: HiddenAngle(Projections(**pair.layers())),
    "attention": lambda _: AttentionDistance(),
    "attention-kl": lambda _: AttentionDivergence(),
    "relations": lambda pair: Relations(
        num_heads=pair.settings.relation_heads or pair.teacher.num_attention_heads, **pair.widths()
    ),
    "patient": lambda pair: PatientStates(**pair.layers()),
}
ATTENTION: tuple[LossName, ...] = ("attention", "attention-kl", "relations")
"""Terms that read queries, keys and values."""
TOKEN_LEVEL: tuple[LossName, ...] = (*ATTENTION, "hidden", "hidden-cosine", "patient")
"""Terms that compare token by token: the teacher runs in every step, on the student's token ids."""


def fine_tuning_objective(settings: TrainingSettings, *, student: TorchClassifier, label_ids: NDArray[np.int64]) -> Objective:
    """Return the hard term alone.

    Args:
        settings: Whether classes are weighted.
        student: The model to train.
        label_ids: Labels of the training texts, to count the classes.
    """
    return Objective((Weighted(_hard(settings, student, label_ids), 1.0, 0.0),)).to(student.model.device)


def distillation_objective(
    settings: DistillSettings,
    *,
    student: TorchClassifier,
    teacher: TorchClassifier | None,
    label_ids: NDArray[np.int64],
) -> Objective:
    """Return the soft and the hard term, mixed by `soft_weight`, and the further terms in `losses`.

    Args:
        settings: Terms, weights, temperature.
        student: The model to train.
        teacher: The model whose layers are compared; None if only logits are.
        label_ids: Labels of the training texts, to count the classes.

    Raises:
        SettingsError: A term is not possible with this student and teacher; the message says why.
    """
    parts = mixed(
        soft=SoftTargets(temperature=settings.temperature),
        hard=_hard(settings, student, label_ids),
        soft_weight=settings.soft_weight,
    )
    beside = _teacher_beside(settings, student=student, teacher=teacher)
    pair = _Pair(
        settings=settings,
        student=student.model.config,
        teacher=None if teacher is None else teacher.model.config,
        num_labels=len(student.labels),
        problem_type=student.problem_type,
    )
    further = tuple(Weighted(_MAKERS[name](pair), weight, weight) for name, weight in settings.loss_weights.items())
    return Objective((*parts, *further), teacher=beside).to(student.model.device)


def _teacher_beside(
    settings: DistillSettings, *, student: TorchClassifier, teacher: TorchClassifier | None
) -> FrozenTeacher | None:
    """Return the teacher to run in every step, after checking that it can; None if no term needs it."""
    asking = [name for name in settings.loss_weights if name in TOKEN_LEVEL]
    if not asking:
        return None
    if teacher is None:
        raise SettingsError(f"{asking[0]} compares layers, and the teacher is not a PyTorch model; use losses on logits")
    require_same_tokens(student, teacher, term=asking[0])
    for classifier in (student, teacher):
        require_readable(classifier.model, attention=any(name in ATTENTION for name in asking))
    return FrozenTeacher(teacher.model)


def _hard(settings: TrainingSettings, student: TorchClassifier, label_ids: NDArray[np.int64]) -> HardLabels:
    balanced = settings.class_weights == "balanced"
    return HardLabels(class_weights=balanced_weights(label_ids, len(student.labels)) if balanced else None)

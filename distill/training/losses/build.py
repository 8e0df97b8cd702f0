"""From settings to an objective: which terms there are, by name, and what each needs to know of student and teacher."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.errors import SettingsError
from distill.labels import ProblemType
from distill.settings import DistillSettings, LossName, TrainingSettings
from distill.training.gates import require_same_tokens
from distill.training.losses.attention_transfer import AttentionDistance, AttentionDivergence
from distill.training.losses.decoupled import DecoupledTargets
from distill.training.losses.hard import HardLabels, balanced_weights
from distill.training.losses.hidden_cosine import HiddenAngle
from distill.training.losses.hidden_mse import HiddenDistance
from distill.training.losses.layers import FrozenTeacher, require_readable
from distill.training.losses.logits import LogitDistance
from distill.training.losses.objective import Objective, Weighted, mixed
from distill.training.losses.patient import PatientStates
from distill.training.losses.projection import Projections
from distill.training.losses.relations import Relations
from distill.training.losses.several import HardDecisions, SoftDecisions, balanced_decisions
from distill.training.losses.soft import SoftTargets
from distill.training.losses.term import Term
from distill.training.models import TorchClassifier


@dataclass(frozen=True)
class _Pair:
    """Who is compared, and how."""

    settings: DistillSettings
    student: Any
    teacher: Any
    num_labels: int
    problem_type: ProblemType

    def projections(self) -> Projections:
        return Projections(num_layers=self.student.num_hidden_layers, seed=self.settings.seed, **self.widths())

    def widths(self) -> dict[str, int]:
        return {"student_width": self.student.hidden_size, "teacher_width": self.teacher.hidden_size}


def _decoupled(pair: _Pair) -> Term:
    if pair.problem_type != "single_label_classification":
        raise SettingsError("decoupled needs one label a text; with several the soft term compares each label by itself")
    return DecoupledTargets(
        temperature=pair.settings.temperature,
        nontarget_weight=pair.settings.nontarget_weight,
        num_labels=pair.num_labels,
    )


_MAKERS: dict[LossName, Callable[[_Pair], Term]] = {
    "logits": lambda _: LogitDistance(),
    "decoupled": _decoupled,
    "hidden": lambda pair: HiddenDistance(pair.projections()),
    "hidden-cosine": lambda pair: HiddenAngle(pair.projections()),
    "attention": lambda _: AttentionDistance(),
    "attention-kl": lambda _: AttentionDivergence(),
    "relations": lambda pair: Relations(
        num_heads=pair.settings.relation_heads or pair.teacher.num_attention_heads, **pair.widths()
    ),
    "patient": lambda pair: PatientStates(num_layers=pair.student.num_hidden_layers, seed=pair.settings.seed, **pair.widths()),
}
ATTENTION: tuple[LossName, ...] = ("attention", "attention-kl", "relations")
"""Terms that read queries, keys and values."""
TOKEN_LEVEL: tuple[LossName, ...] = (*ATTENTION, "hidden", "hidden-cosine", "patient")
"""Terms that compare the two token by token: the teacher runs in every step, on the student's ids."""


def fine_tuning_objective(settings: TrainingSettings, *, student: TorchClassifier, label_ids: NDArray[np.int64]) -> Objective:
    """Return the hard term alone.

    Args:
        settings: What a text of each class counts.
        student: Who learns; its problem type says which hard term.
        label_ids: Of the training texts, to count the classes.
    """
    return Objective((Weighted(_hard(settings, student, label_ids), 1.0, 0.0),)).to(student.model.device)


def distillation_objective(
    settings: DistillSettings,
    *,
    student: TorchClassifier,
    teacher: TorchClassifier | None,
    label_ids: NDArray[np.int64],
) -> Objective:
    """Return soft and hard term, mixed by `soft_weight`, and the further `losses`.

    Args:
        settings: Terms, weights, temperature.
        student: Who learns.
        teacher: Whose layers are compared with; None where only logits are.
        label_ids: Of the training texts, to count the classes.

    Raises:
        SettingsError: A term cannot be had with this pair; the message says why.
    """
    soft = SoftTargets if student.problem_type == "single_label_classification" else SoftDecisions
    parts = mixed(
        soft=soft(temperature=settings.temperature),
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
    """The teacher that runs in every step, made sure that it may; None where no term asks for it."""
    asking = [name for name in settings.loss_weights if name in TOKEN_LEVEL]
    if not asking:
        return None
    if teacher is None:
        raise SettingsError(f"{asking[0]} compares layers, and the teacher is no PyTorch model; use losses on logits")
    require_same_tokens(student, teacher, term=asking[0])
    for classifier in (student, teacher):
        require_readable(classifier.model, attention=any(name in ATTENTION for name in asking))
    return FrozenTeacher(teacher.model)


def _hard(settings: TrainingSettings, student: TorchClassifier, label_ids: NDArray[np.int64]) -> Term:
    balanced = settings.class_weights == "balanced"
    if student.problem_type == "multi_label_classification":
        return HardDecisions(class_weights=balanced_decisions(label_ids) if balanced else None)
    return HardLabels(class_weights=balanced_weights(label_ids, len(student.labels)) if balanced else None)

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
from transformers import PreTrainedModel

from distill.errors import SettingsError
from distill.losses.attention import AttentionMaps, Relations, squared_distance_of_rows
from distill.losses.hidden import MappedStates, PatientStates, Projections, angle, squared_difference
from distill.losses.logits import DecoupledTargets, HardLabels, LogitDistance, SoftTargets, balanced_weights
from distill.losses.term import Seen, divergence_of_rows
from distill.models.devices import evaluating
from distill.models.recording import Layers, require_readable, run_with_layers
from distill.models.torch_classifier import TorchClassifier
from distill.settings import DistillSettings, LossName, TrainingSettings
from distill.teachers.teacher import require_same_tokens

HIDDEN: tuple[LossName, ...] = ("hidden", "hidden-cosine", "patient")
"""Terms that read hidden states."""
ATTENTION: tuple[LossName, ...] = ("attention", "attention-kl", "relations")
"""Terms that read queries, keys and values."""
TOKEN_LEVEL: tuple[LossName, ...] = (*ATTENTION, *HIDDEN)
"""Terms that compare token by token: the teacher runs in every step, on the student's token ids."""


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
class Weighted:
    """A term with its name in settings and logs, its weight on texts with a label, and its weight on texts without."""

    name: str
    term: nn.Module
    weight: float
    unlabelled_weight: float


class Objective(nn.Module):
    """A weighted sum of terms; weights that the terms learn are its parameters.

    The total is the weighted sum over the texts, divided by the number of texts and not by the sum of their weights, so
    that a text's weight has the same effect in every batch.
    """

    def __init__(self, parts: Sequence[Weighted], *, teacher: nn.Module | None = None) -> None:
        """Set the terms, and the teacher that runs in every step; one of `TOKEN_LEVEL` needs it."""
        super().__init__()
        self.terms = nn.ModuleDict({part.name: part.term for part in parts})
        self.parts = tuple(parts)
        self._teacher = (teacher,)  # in a tuple, which a module does not look into: it is never trained or saved
        names = self.terms.keys()
        self._states = {"hidden": not names.isdisjoint(HIDDEN), "attention": not names.isdisjoint(ATTENTION)}

    def forward(self, model: nn.Module, batch: TrainingBatch) -> StepLoss:
        """Run the student on a batch, and the teacher if a term reads its layers; return the weighted loss.

        Both models compute in the dtype of the surrounding autocast, the terms always in fp32.

        Raises:
            SettingsError: A term with weight needs teacher logits and the batch has none.
        """
        logits, layers = run_with_layers(model, batch.inputs, **self._states)
        (teacher,) = self._teacher
        teacher_layers = Layers()
        if teacher is not None:
            # no_grad, not inference_mode: the student's backward pass keeps these tensors
            with evaluating(teacher), torch.no_grad():
                _, teacher_layers = run_with_layers(teacher, batch.inputs, **self._states)
        with torch.autocast(logits.device.type, enabled=False):
            seen = Seen(
                mask=batch.inputs["attention_mask"],
                labels=batch.labels,
                student_logits=logits.float(),
                teacher_logits=None if batch.teacher_logits is None else batch.teacher_logits.detach().float(),
                student=layers,
                teacher=teacher_layers,
            )
            return self._weighted_sum(seen, batch.weights)

    def _weighted_sum(self, seen: Seen, text_weights: Tensor | None) -> StepLoss:
        total = torch.zeros_like(seen.student_logits[:, 0])
        means = {}
        for part in self.parts:
            share = torch.where(seen.unlabelled, part.unlabelled_weight, part.weight)
            counted = share != 0
            if not bool(counted.any()):
                continue
            losses = part.term(seen)
            total = total + share * losses
            means[part.name] = float(losses.detach()[counted].mean())
        return StepLoss((total if text_weights is None else total * text_weights).mean(), means)


def mixed(*, soft: nn.Module, hard: nn.Module, soft_weight: float) -> tuple[Weighted, Weighted]:
    """Return soft_weight * soft + (1 - soft_weight) * hard, for a weight from 0 to 1; an unlabelled text has soft weight 1."""
    hard_weight = float(1 - np.float32(soft_weight))  # from the fp32 value of the share, so that both sum to 1
    return Weighted("soft", soft, soft_weight, 1.0), Weighted("hard", hard, hard_weight, 0.0)


def fine_tuning_objective(settings: TrainingSettings, *, student: TorchClassifier, label_ids: NDArray[np.int64]) -> Objective:
    """Return the hard term alone.

    Args:
        settings: Whether classes are weighted.
        student: The model to train.
        label_ids: Labels of the training texts, to count the classes.
    """
    return Objective((Weighted("hard", _hard(settings, student, label_ids), 1.0, 0.0),)).to(student.model.device)


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
    if "decoupled" in settings.loss_weights and student.problem_type != "single_label_classification":
        raise SettingsError("decoupled needs one label per text; with several, the soft term compares each label separately")
    beside = _teacher_beside(settings, student=student, teacher=teacher)
    makers = _makers(settings, student, teacher)
    further = tuple(Weighted(name, makers[name](), weight, weight) for name, weight in settings.loss_weights.items())
    return Objective((*parts, *further), teacher=beside).to(student.model.device)


def _makers(
    settings: DistillSettings, student: TorchClassifier, teacher: TorchClassifier | None
) -> dict[LossName, Callable[[], nn.Module]]:
    """Return a function for each term that makes it; some need what only an encoder's config holds."""
    ours = student.model.config
    theirs: Any = None if teacher is None else teacher.model.config

    def widths() -> dict[str, int]:
        return {"student_width": ours.hidden_size, "teacher_width": theirs.hidden_size}

    def layers() -> dict[str, int]:
        return {"num_layers": ours.num_hidden_layers, "seed": settings.seed, **widths()}

    return {
        "logits": LogitDistance,
        "decoupled": lambda: DecoupledTargets(
            temperature=settings.temperature, nontarget_weight=settings.nontarget_weight, num_labels=len(student.labels)
        ),
        "hidden": lambda: MappedStates(Projections(**layers()), squared_difference),
        "hidden-cosine": lambda: MappedStates(Projections(**layers()), angle),
        "attention": lambda: AttentionMaps(squared_distance_of_rows),
        "attention-kl": lambda: AttentionMaps(divergence_of_rows),
        "relations": lambda: Relations(num_heads=settings.relation_heads or theirs.num_attention_heads, **widths()),
        "patient": lambda: PatientStates(**layers()),
    }


def _teacher_beside(
    settings: DistillSettings, *, student: TorchClassifier, teacher: TorchClassifier | None
) -> PreTrainedModel | None:
    """Return the teacher to run in every step, after checking that it can; None if no term needs it."""
    asking = [name for name in settings.loss_weights if name in TOKEN_LEVEL]
    if not asking:
        return None
    if teacher is None:
        raise SettingsError(f"{asking[0]} compares layers, and the teacher is not a PyTorch model; use losses on logits")
    require_same_tokens(student, teacher, term=asking[0])
    for classifier in (student, teacher):
        require_readable(classifier.model, attention=any(name in ATTENTION for name in asking))
    return teacher.model


def _hard(settings: TrainingSettings, student: TorchClassifier, label_ids: NDArray[np.int64]) -> HardLabels:
    weights = balanced_weights(label_ids, len(student.labels)) if settings.class_weights == "balanced" else None
    return HardLabels(class_weights=weights)

"""Loss terms on logits: hard labels, soft targets, squared distance, decoupled targets."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from distill.errors import SettingsError
from distill.losses.term import UNLABELLED, Seen


class HardLabels(nn.Module):
    """-log of the student's probability of the true class, in nats; 0 for a text without a label.

    With several labels per text, the mean over labels of -log of the probability of each true yes or no.
    """

    class_weights: Tensor | None

    def __init__(self, *, class_weights: NDArray[np.float32] | None = None) -> None:
        """Set the weight of each class, in the shape of `balanced_weights`; None is 1 each."""
        super().__init__()
        self.register_buffer(
            "class_weights", None if class_weights is None else torch.from_numpy(class_weights), persistent=False
        )

    def forward(self, seen: Seen) -> Tensor:
        """Return the loss of each text, shape (batch,)."""
        if not seen.several_labels:
            return functional.cross_entropy(
                seen.student_logits, seen.labels, weight=self.class_weights, ignore_index=UNLABELLED, reduction="none"
            )
        known = seen.labels != UNLABELLED
        truth = torch.where(known, seen.labels, 0).to(seen.student_logits.dtype)
        losses = functional.binary_cross_entropy_with_logits(seen.student_logits, truth, reduction="none")
        if self.class_weights is not None:
            losses = losses * torch.where(truth == 1, self.class_weights[1], self.class_weights[0])
        return (losses * known).mean(dim=-1)


def balanced_weights(label_ids: NDArray[np.int64], num_labels: int) -> NDArray[np.float32]:
    """Return weights with which every class has the same total weight, or every no and yes of a label.

    The mean weight of the labelled texts is 1, so the size of the term does not change.

    Args:
        label_ids: Class ids, shape (texts,), or zeros and ones, shape (texts, num_labels). `UNLABELLED` is ignored.
        num_labels: Number of classes.

    Returns:
        Shape (num_labels,), or (2, num_labels): the weight of a no and of a yes. A class without a text, and a label that
        all texts or none have, has weight 1.
    """
    if label_ids.ndim == 2:
        known = label_ids[(label_ids != UNLABELLED).all(axis=1)]
        counts = np.stack([(known == decision).sum(axis=0) for decision in (0, 1)])
        weights = len(known) / (2 * np.maximum(counts, 1))
        return np.where((counts > 0).all(axis=0), weights, 1.0).astype(np.float32)
    counts = np.bincount(label_ids[label_ids != UNLABELLED], minlength=num_labels)
    weights = counts.sum() / (np.maximum(counts, 1) * max(np.count_nonzero(counts), 1))
    return np.where(counts > 0, weights, 1.0).astype(np.float32)


class SoftTargets(nn.Module):
    """T² * KL(teacher_T || student_T); with several labels per text, the mean over labels of that of each yes or no."""

    def __init__(self, *, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, seen: Seen) -> Tensor:
        """Return the loss of each text, shape (batch,)."""
        loss = binary_soft_target_loss if seen.several_labels else soft_target_loss
        return loss(
            student_logits=seen.student_logits, teacher_logits=seen.logits_to_match("soft"), temperature=self.temperature
        )


def soft_target_loss(*, student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Return T² * KL(teacher_T || student_T) of each text, shape (batch,), in nats.

    Args:
        student_logits: Unnormalised scores, shape (batch, num_labels).
        teacher_logits: Same shape; no gradient flows into it.
        temperature: T, finite and above 0. The T² keeps the size of the gradient independent of T (Hinton et al., 2015).
    """
    student = functional.log_softmax(student_logits / temperature, dim=-1)
    teacher = functional.log_softmax(teacher_logits.detach() / temperature, dim=-1)
    # kl_div(input, target) is KL(target || input): the student is the input, the teacher the target.
    return functional.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=-1) * temperature**2


def binary_soft_target_loss(*, student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Return the mean over labels of T² * KL(teacher_T || student_T) of each yes or no, shape (batch,), in nats.

    A logit x means the two probabilities sigmoid(x / T) and sigmoid(-x / T).

    Args:
        student_logits: Unnormalised scores, shape (batch, num_labels).
        teacher_logits: Same shape; no gradient flows into it.
        temperature: T, finite and above 0.
    """
    student, teacher = student_logits / temperature, teacher_logits.detach() / temperature
    yes = torch.sigmoid(teacher) * (functional.logsigmoid(teacher) - functional.logsigmoid(student))
    no = torch.sigmoid(-teacher) * (functional.logsigmoid(-teacher) - functional.logsigmoid(-student))
    return (yes + no).mean(dim=-1) * temperature**2


class LogitDistance(nn.Module):
    """Mean over the labels of (student logit - teacher logit)²."""

    def forward(self, seen: Seen) -> Tensor:
        """Return the loss of each text, shape (batch,)."""
        return (seen.student_logits - seen.logits_to_match("logits")).square().mean(dim=-1)


class DecoupledTargets(nn.Module):
    """T² * (TCKD + nontarget_weight * NCKD), with the names of Zhao et al., 2022, "Decoupled Knowledge Distillation".

    TCKD compares the probability of the target class, NCKD the shares of the other classes among themselves.
    """

    def __init__(self, *, temperature: float, nontarget_weight: float, num_labels: int) -> None:
        """Set the weight of NCKD relative to TCKD.

        Raises:
            SettingsError: There are fewer than three classes.
        """
        super().__init__()
        if num_labels < 3:
            raise SettingsError(
                f"decoupled needs three classes or more, there are {num_labels}: with two, the only other class always has "
                "share 1 among the others, so decoupled equals the soft term; use --soft-weight"
            )
        self.temperature = temperature
        self.nontarget_weight = nontarget_weight

    def forward(self, seen: Seen) -> Tensor:
        """Return the loss of each text, shape (batch,)."""
        teacher_logits = seen.logits_to_match("decoupled").detach()
        # the target of a text without a label is the teacher's top class
        targets = torch.where(seen.labels == UNLABELLED, teacher_logits.argmax(dim=-1), seen.labels)
        is_target = functional.one_hot(targets, teacher_logits.shape[-1]).bool()
        student, teacher = (_parts(logits / self.temperature, is_target) for logits in (seen.student_logits, teacher_logits))
        target, others = ((t.exp() * (t - s)).sum(dim=-1) * self.temperature**2 for s, t in zip(student, teacher, strict=True))
        return target + self.nontarget_weight * others


def _parts(logits: Tensor, is_target: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of (target, not target), shape (batch, 2), and of each other class among the others."""
    target = logits[is_target]
    others = logits[~is_target].view(len(logits), -1)
    pair = torch.stack([target, others.logsumexp(dim=-1)], dim=-1)
    return functional.log_softmax(pair, dim=-1), functional.log_softmax(others, dim=-1)

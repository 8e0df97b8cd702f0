"""Distance of logits, decoupled targets and class weights, against sums one can do by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from distill.errors import SettingsError
from distill.losses.logits import (
    DecoupledTargets,
    HardLabels,
    LogitDistance,
    balanced_weights,
    soft_target_loss,
)
from distill.losses.term import UNLABELLED, Seen

# Probabilities of three classes: 1/2, 1/4, 1/4 and 1/2, 3/8, 1/8 (the first is the target).
STUDENT = torch.tensor([[math.log(2), 0.0, 0.0]])
TEACHER = torch.tensor([[math.log(4), math.log(3), 0.0]])
KL_LEANING_TO_EVEN = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)


def seen_of(student: Tensor, teacher: Tensor | None, labels: list[int]) -> Seen:
    return Seen(torch.ones(len(student), 3), torch.tensor(labels), student, teacher)


def random_logits(seed: int) -> Tensor:
    return torch.randn(5, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def decoupled_losses(
    *, student_logits: Tensor, teacher_logits: Tensor, targets: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Return the target's part of the decoupled loss, and the other classes' part."""
    seen = Seen(torch.ones(len(targets), 3), targets, student_logits, teacher_logits)
    target, both = (
        DecoupledTargets(temperature=temperature, nontarget_weight=weight, num_labels=3)(seen) for weight in (0.0, 1.0)
    )
    return target, both - target


def test_the_distance_of_logits_is_squared_and_a_mean_over_labels() -> None:
    student, teacher = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[0.0, 4.0], [0.0, 1.0]])
    assert LogitDistance()(seen_of(student, teacher, [0, UNLABELLED])).tolist() == pytest.approx([(1 + 4) / 2, 1 / 2])


def test_the_distance_of_logits_refuses_to_broadcast() -> None:
    with pytest.raises(SettingsError, match="differ in shape"):
        LogitDistance()(seen_of(torch.zeros(3, 2), torch.zeros(1, 2), [0, 0, 0]))


def test_decoupled_parts_by_hand() -> None:
    # The target has 1/2 in both: nothing to learn of it. Among the others the teacher says 3/4 : 1/4, the student even.
    target, others = decoupled_losses(
        student_logits=STUDENT, teacher_logits=TEACHER, targets=torch.tensor([0]), temperature=1.0
    )
    assert target.item() == pytest.approx(0, abs=1e-7)
    assert others.item() == pytest.approx(KL_LEANING_TO_EVEN)  # swapped roles would give 0.1438
    term = DecoupledTargets(temperature=1.0, nontarget_weight=8.0, num_labels=3)
    assert term(seen_of(STUDENT, TEACHER, [0])).item() == pytest.approx(8 * KL_LEANING_TO_EVEN)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_plain_soft_targets_are_the_parts_weighed_by_the_teachers_doubt(temperature: float) -> None:
    # Zhao et al., equation 7: KD = TCKD + (1 - p_target) NCKD.
    student, teacher, targets = random_logits(0), random_logits(1), torch.tensor([0, 1, 2, 3, 1])
    target, others = decoupled_losses(student_logits=student, teacher_logits=teacher, targets=targets, temperature=temperature)
    doubt = 1 - (teacher / temperature).softmax(dim=-1)[torch.arange(5), targets]
    plain = soft_target_loss(student_logits=student, teacher_logits=teacher, temperature=temperature)
    assert (target + doubt * others).tolist() == pytest.approx(plain.tolist())


def test_decoupled_losses_carry_the_square_of_the_temperature() -> None:
    student, teacher, targets = random_logits(0), random_logits(1), torch.tensor([0, 1, 2, 3, 1])
    once = decoupled_losses(student_logits=student, teacher_logits=teacher, targets=targets, temperature=1.5)
    doubled = decoupled_losses(student_logits=2 * student, teacher_logits=2 * teacher, targets=targets, temperature=3.0)
    for one, four in zip(once, doubled, strict=True):
        assert four.tolist() == pytest.approx((4 * one).tolist())


def test_a_text_without_label_takes_the_teachers_answer_for_its_target() -> None:
    term = DecoupledTargets(temperature=1.0, nontarget_weight=2.0, num_labels=3)
    losses = term(seen_of(STUDENT.repeat(3, 1), TEACHER.repeat(3, 1), [UNLABELLED, 0, 1]))
    assert losses[0] == losses[1] != losses[2]


def test_decoupled_is_refused_for_two_classes_and_says_why() -> None:
    with pytest.raises(SettingsError, match=r"three classes or more, there are 2.*--soft-weight"):
        DecoupledTargets(temperature=1.0, nontarget_weight=1.0, num_labels=2)
    # The reason, in numbers: of two classes the other's share among the others is always 1.
    student, teacher = random_logits(0)[:, :2], random_logits(1)[:, :2]
    target, others = decoupled_losses(
        student_logits=student, teacher_logits=teacher, targets=torch.tensor([0, 1, 0, 1, 1]), temperature=2.0
    )
    assert others.tolist() == [0] * 5
    plain = soft_target_loss(student_logits=student, teacher_logits=teacher, temperature=2.0)
    assert target.tolist() == pytest.approx(plain.tolist())


def test_balanced_classes_count_the_same_and_texts_one_on_the_mean() -> None:
    label_ids = np.array([0, 0, 0, 1, UNLABELLED])
    weights = balanced_weights(label_ids, 2)
    assert weights.tolist() == pytest.approx([4 / (2 * 3), 4 / (2 * 1)])
    assert sum(weights[label] for label in label_ids[:4]) == pytest.approx(4)
    assert balanced_weights(np.array([0, 0, 2]), 3).tolist() == pytest.approx([3 / 4, 1, 3 / 2])  # nobody has class 1


def test_class_weights_multiply_the_hard_term() -> None:
    even = torch.zeros(3, 2)
    term = HardLabels(class_weights=np.array([0.5, 3.0], dtype=np.float32))
    losses = term(seen_of(even, None, [0, 1, UNLABELLED]))
    assert losses.tolist() == pytest.approx([0.5 * math.log(2), 3 * math.log(2), 0])
    assert not term.state_dict()  # they are counted anew, not kept with what was learnt


def test_balanced_decisions_weigh_yes_and_no_of_each_label() -> None:
    label_ids = np.array([[1, 0], [0, 0], [0, 0], [0, 0], [UNLABELLED, UNLABELLED]])
    weights = balanced_weights(label_ids, 2)
    # Label 0: three noes, one yes of four. Label 1 is never given: nothing to balance.
    np.testing.assert_allclose(weights, [[4 / 6, 1], [4 / 2, 1]], rtol=1e-6)
    term = HardLabels(class_weights=weights)
    losses = term(Seen(torch.ones(5, 1), torch.from_numpy(label_ids), torch.zeros(5, 2)))
    no, yes, plain = (weight * math.log(2) for weight in (4 / 6, 2, 1))
    expected = [(yes + plain) / 2, *[(no + plain) / 2] * 3, 0]
    assert losses.tolist() == pytest.approx(expected)

"""The soft term against sums one can do by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from distill.losses.logits import soft_target_loss

EVEN = torch.zeros(1, 2)  # probabilities 1/2, 1/2
LEANING = torch.tensor([[math.log(3), 0.0]])  # probabilities 3/4, 1/4
KL_LEANING_TO_EVEN = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)  # 0.1308; swapped roles would give 0.1438


def test_soft_loss_is_kl_from_teacher_to_student() -> None:
    loss = soft_target_loss(student_logits=EVEN, teacher_logits=LEANING, temperature=1.0)
    assert loss.item() == pytest.approx(KL_LEANING_TO_EVEN)


def test_soft_loss_with_the_roles_swapped_is_the_other_number() -> None:
    expected = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    loss = soft_target_loss(student_logits=LEANING, teacher_logits=EVEN, temperature=1.0)
    assert loss.item() == pytest.approx(expected)
    assert expected == pytest.approx(0.1438, abs=1e-4)


def test_doubling_logits_and_temperature_scales_by_four() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(1, 3, generator=generator), torch.randn(1, 3, generator=generator)
    once = soft_target_loss(student_logits=student, teacher_logits=teacher, temperature=1.5)
    doubled = soft_target_loss(student_logits=2 * student, teacher_logits=2 * teacher, temperature=3.0)
    assert doubled.item() == pytest.approx(4 * once.item())


def test_both_distributions_are_softened() -> None:
    # At T = 2 the teacher's odds 9 : 1 become 3 : 1; the student's stay even.
    sharp = torch.tensor([[math.log(9), 0.0]])
    loss = soft_target_loss(student_logits=EVEN, teacher_logits=sharp, temperature=2.0)
    assert loss.item() == pytest.approx(4 * KL_LEANING_TO_EVEN)
    swapped = soft_target_loss(student_logits=sharp, teacher_logits=EVEN, temperature=2.0)
    assert swapped.item() == pytest.approx(4 * (0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)))


def test_soft_loss_is_one_number_per_text_summed_over_labels() -> None:
    teacher = torch.cat([LEANING, EVEN, LEANING])
    loss = soft_target_loss(student_logits=torch.zeros(3, 2), teacher_logits=teacher, temperature=1.0)
    assert loss.tolist() == pytest.approx([KL_LEANING_TO_EVEN, 0, KL_LEANING_TO_EVEN], abs=1e-7)


def test_soft_loss_of_equal_logits_is_zero_even_when_shifted() -> None:
    loss = soft_target_loss(student_logits=LEANING + 7, teacher_logits=LEANING, temperature=2.0)
    assert loss.item() == pytest.approx(0, abs=1e-6)


def test_soft_loss_stays_finite_for_logits_that_would_overflow() -> None:
    loss = soft_target_loss(
        student_logits=torch.tensor([[0.0, 1e4]]), teacher_logits=torch.tensor([[1e4, 0.0]]), temperature=1.0
    )
    assert loss.item() == pytest.approx(1e4)  # 1 * (0 - (-10000)) and 0 * anything


def test_no_gradient_flows_into_the_teacher() -> None:
    student, teacher = torch.zeros(2, 2, requires_grad=True), torch.ones(2, 2, requires_grad=True)
    soft_target_loss(student_logits=student, teacher_logits=teacher, temperature=1.0).sum().backward()
    assert teacher.grad is None
    assert student.grad is not None


def test_gradient_is_the_difference_of_probabilities() -> None:
    # d/dz of T² KL is T (p_student - p_teacher); at T = 1 the difference itself.
    student = np.array([[1.0, -0.5, 0.25], [0.0, 2.0, -1.0]])
    teacher = np.array([[0.5, 0.5, -2.0], [3.0, -1.0, 0.0]])
    for temperature in (1.0, 2.5):
        shares = [np.exp(x / temperature) / np.exp(x / temperature).sum(axis=1, keepdims=True) for x in (student, teacher)]
        expected = temperature * (shares[0] - shares[1])
        logits = torch.tensor(student, requires_grad=True)
        soft_target_loss(student_logits=logits, teacher_logits=torch.tensor(teacher), temperature=temperature).sum().backward()
        assert logits.grad is not None
        np.testing.assert_allclose(logits.grad.numpy(), expected, atol=1e-12)

"""The two terms where a text may have several labels, against sums by hand and torch's own losses."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from objectives import mixed_objective
from torch import Tensor, nn
from torch.distributions import Bernoulli, kl_divergence

from distill.losses.logits import binary_soft_target_loss
from distill.losses.objective import TrainingBatch
from distill.losses.term import UNLABELLED

EVEN, LEANING = 0.0, math.log(3)  # probabilities 1/2 and 3/4
KL_LEANING_TO_EVEN = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)  # 0.1308; swapped roles would give 0.1438


def mixed(
    *, student: Tensor, teacher: Tensor | None, labels: list[list[int]], soft_weight: float
) -> tuple[float, dict[str, float]]:
    class Bias(nn.Module):
        def forward(self, attention_mask: Tensor) -> SimpleNamespace:
            return SimpleNamespace(logits=student)

    batch = TrainingBatch({"attention_mask": torch.ones(len(student), 3)}, torch.tensor(labels), teacher)
    objective = mixed_objective(soft_weight=soft_weight)
    loss = objective(Bias(), batch)
    return float(loss.total), loss.terms


def test_each_label_is_a_question_of_its_own_and_the_mean_is_taken() -> None:
    student, teacher = torch.tensor([[EVEN, EVEN]]), torch.tensor([[LEANING, EVEN]])
    loss = binary_soft_target_loss(student_logits=student, teacher_logits=teacher, temperature=1.0)
    # Over a softmax of both columns it would be another number: the second column agrees and counts 0 here.
    assert loss.tolist() == pytest.approx([KL_LEANING_TO_EVEN / 2])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_it_is_torchs_divergence_of_bernoullis_times_temperature_squared(temperature: float) -> None:
    student, teacher = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0)) * 3
    expected = kl_divergence(Bernoulli(logits=teacher / temperature), Bernoulli(logits=student / temperature))
    loss = binary_soft_target_loss(student_logits=student, teacher_logits=teacher, temperature=temperature)
    assert loss.tolist() == pytest.approx((temperature**2 * expected.mean(dim=1)).tolist(), rel=1e-4)


def test_large_logits_stay_finite() -> None:
    loss = binary_soft_target_loss(
        student_logits=torch.tensor([[-200.0]]), teacher_logits=torch.tensor([[200.0]]), temperature=1.0
    )
    assert loss.tolist() == pytest.approx([200])


def test_no_gradient_reaches_the_teacher() -> None:
    student, teacher = torch.zeros(1, 2, requires_grad=True), torch.ones(1, 2, requires_grad=True)
    binary_soft_target_loss(student_logits=student, teacher_logits=teacher, temperature=1.0).sum().backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    assert teacher.grad is None


def test_the_hard_term_is_the_surprise_at_each_decision() -> None:
    total, terms = mixed(student=torch.tensor([[LEANING, LEANING]]), teacher=None, labels=[[1, 0]], soft_weight=0)
    assert total == terms["hard"] == pytest.approx((math.log(4 / 3) + math.log(4)) / 2)


def test_both_are_mixed_and_a_text_without_labels_is_all_soft() -> None:
    student, teacher = torch.tensor([[EVEN, EVEN]] * 2), torch.tensor([[LEANING, EVEN]] * 2)
    total, terms = mixed(student=student, teacher=teacher, labels=[[1, 0], [UNLABELLED] * 2], soft_weight=0.25)
    soft = KL_LEANING_TO_EVEN / 2
    assert total == pytest.approx((0.25 * soft + 0.75 * math.log(2) + soft) / 2)
    assert terms == {"soft": pytest.approx(soft), "hard": pytest.approx(math.log(2))}

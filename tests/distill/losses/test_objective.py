"""The weighted sum: what each term counts, for which texts, and what is refused."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from objectives import mixed_objective
from torch import Tensor, nn

from distill.errors import SettingsError
from distill.losses.objective import StepLoss, TrainingBatch
from distill.losses.term import UNLABELLED

EVEN = torch.zeros(1, 2)  # probabilities 1/2, 1/2
LEANING = torch.tensor([[math.log(3), 0.0]])  # probabilities 3/4, 1/4
KL_LEANING_TO_EVEN = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)  # 0.1308; swapped roles would give 0.1438


class Bias(nn.Module):
    """The smallest classifier there is: its weights are its logits."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(logits.clone())

    def forward(self, attention_mask: Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.weight)


def mixed(
    *,
    student: Tensor,
    teacher: Tensor | None,
    labels: list[int],
    soft_weight: float,
    temperature: float = 1.0,
    weights: list[float] | None = None,
) -> StepLoss:
    batch = TrainingBatch(
        inputs={"attention_mask": torch.ones(len(student), 3, dtype=torch.int64)},
        labels=torch.tensor(labels),
        teacher_logits=teacher,
        weights=None if weights is None else torch.tensor(weights),
    )
    return mixed_objective(soft_weight=soft_weight, temperature=temperature)(Bias(student), batch)


def test_the_mix_weighs_soft_and_hard_terms_and_names_each() -> None:
    # The student says 3/4 : 1/4, the teacher is even, the label is 1. At T = 2 the student's odds are sqrt(3) : 1.
    share = math.sqrt(3) / (math.sqrt(3) + 1)
    soft = 2**2 * (0.5 * math.log(0.5 / share) + 0.5 * math.log(0.5 / (1 - share)))
    hard = -math.log(0.25)
    loss = mixed(student=LEANING, teacher=EVEN, labels=[1], temperature=2.0, soft_weight=0.8)
    assert loss.total.item() == pytest.approx(0.8 * soft + 0.2 * hard)
    assert loss.terms == pytest.approx({"soft": soft, "hard": hard})


def test_the_hard_term_is_not_softened() -> None:
    loss = mixed(student=LEANING, teacher=None, labels=[0], temperature=5.0, soft_weight=0.0)
    assert loss.total.item() == pytest.approx(-math.log(0.75))
    assert loss.terms.keys() == {"hard"}


def test_soft_weight_one_needs_no_labels() -> None:
    loss = mixed(student=EVEN, teacher=LEANING, labels=[UNLABELLED], soft_weight=1.0)
    assert loss.total.item() == pytest.approx(KL_LEANING_TO_EVEN)
    assert loss.terms.keys() == {"soft"}


def test_a_text_without_label_learns_from_the_teacher_alone() -> None:
    # Text 0: label 0, half soft, half hard. Text 1: no label, so its soft loss counts in full and there is no hard one.
    loss = mixed(student=torch.zeros(2, 2), teacher=torch.cat([LEANING, LEANING]), labels=[0, UNLABELLED], soft_weight=0.5)
    labelled = 0.5 * KL_LEANING_TO_EVEN + 0.5 * math.log(2)
    assert loss.total.item() == pytest.approx((labelled + KL_LEANING_TO_EVEN) / 2)
    assert loss.terms["hard"] == pytest.approx(math.log(2))  # of the one text that has a label


def test_the_hard_term_is_a_mean_over_texts() -> None:
    loss = mixed(student=torch.cat([LEANING, LEANING]), teacher=None, labels=[0, 1], soft_weight=0.0)
    assert loss.total.item() == pytest.approx((-math.log(0.75) - math.log(0.25)) / 2)


def test_the_soft_term_is_a_mean_over_texts_and_not_over_labels() -> None:
    # One text at the known loss and three without any: a quarter of it, whatever the number of labels.
    teacher = torch.cat([LEANING, torch.zeros(3, 2)])
    loss = mixed(student=torch.zeros(4, 2), teacher=teacher, labels=[0, 1, 0, 1], soft_weight=1.0)
    assert loss.total.item() == pytest.approx(KL_LEANING_TO_EVEN / 4)


def test_a_texts_weight_multiplies_its_loss_and_its_gradient() -> None:
    # Divided by the number of texts and not by their weights, so that a weight means the same in every batch.
    student = Bias(torch.cat([LEANING, LEANING]))
    batch = TrainingBatch(
        inputs={"attention_mask": torch.ones(2, 3)}, labels=torch.tensor([0, 1]), weights=torch.tensor([1.0, 0.25])
    )
    loss = mixed_objective()(student, batch)
    assert loss.total.item() == pytest.approx((-math.log(0.75) - 0.25 * math.log(0.25)) / 2)
    loss.total.backward()  # p - y of each text, times weight / 2
    assert student.weight.grad is not None
    assert student.weight.grad.flatten().tolist() == pytest.approx([-0.125, 0.125, 0.75 / 8, -0.75 / 8])


@pytest.mark.parametrize(("soft_weight", "label"), [(0.5, 0), (1.0, 0), (0.0, UNLABELLED)])
def test_a_term_with_weight_needs_its_targets(soft_weight: float, label: int) -> None:
    with pytest.raises(SettingsError, match="the soft term has weight, but there are no teacher logits"):
        mixed(student=EVEN, teacher=None, labels=[label], soft_weight=soft_weight)


@pytest.mark.parametrize("shape", [(1, 2), (3, 1), (3, 3)])
def test_logits_of_two_shapes_are_refused_and_not_broadcast(shape: tuple[int, ...]) -> None:
    with pytest.raises(SettingsError, match="differ in shape"):
        mixed(student=torch.zeros(3, 2), teacher=torch.zeros(shape), labels=[0, 0, 0], soft_weight=1.0)


def test_no_gradient_flows_into_the_teachers_logits() -> None:
    teacher = torch.ones(1, 2, requires_grad=True)
    mixed(student=LEANING, teacher=teacher, labels=[0], soft_weight=0.5).total.backward()
    assert teacher.grad is None


def test_terms_compute_in_fp32_whatever_the_student_computes_in() -> None:
    # In bfloat16 the student's 1.0986 would be 1.1016, and a softmax of it good to two digits.
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = mixed(student=LEANING, teacher=EVEN, labels=[1], soft_weight=0.5)
    exact = mixed(student=LEANING, teacher=EVEN, labels=[1], soft_weight=0.5)
    assert loss.total.item() == exact.total.item()

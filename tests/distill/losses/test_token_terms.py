"""The terms that compare token by token, against sums one can do by hand or a second way of computing them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from distill.errors import SettingsError
from distill.losses.attention import AttentionMaps, Relations, squared_distance_of_rows
from distill.losses.hidden import MappedStates, PatientStates, Projections, angle, squared_difference
from distill.losses.term import Seen, divergence_of_rows
from distill.models.recording import Layers

LN3 = math.log(3)
KL_LEANING_TO_EVEN = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)  # 0.1308; swapped roles would give 0.1438
FAR = [50.0, -70.0]  # what padding holds: it must have no part in anything


def seen_of(student: Layers, teacher: Layers, mask: list[list[int]]) -> Seen:
    nothing = torch.zeros(len(mask), 2)
    return Seen(torch.tensor(mask), torch.zeros(len(mask), dtype=torch.int64), nothing, nothing, student, teacher)


def same_width(num_layers: int = 1) -> Projections:
    return Projections(num_layers=num_layers, student_width=2, teacher_width=2, seed=0)


def hidden(*layers: list[list[list[float]]]) -> Layers:
    return Layers(hidden=tuple(map(torch.tensor, layers)))


def test_hidden_distance_is_a_mean_over_real_tokens_and_dimensions() -> None:
    student, teacher = hidden([[[1.0, 0.0], [0.0, 0.0], FAR]]), hidden([[[0.0, 0.0], [0.0, 2.0], [0.0, 0.0]]])
    # First token (1² + 0²) / 2, second (0² + 2²) / 2, the third is padding.
    loss = MappedStates(same_width(), squared_difference)(seen_of(student, teacher, [[1, 1, 0]]))
    assert loss.tolist() == pytest.approx([(0.5 + 2) / 2])


def test_hidden_distance_is_a_mean_over_layers_against_their_segments_last() -> None:
    one, zero, five = [[[1.0, 1.0]]], [[[0.0, 0.0]]], [[[5.0, 5.0]]]
    # Layers 0 and 1 of the student against 1 and 3 of the teacher: distances 1 and 16.
    loss = MappedStates(same_width(2), squared_difference)(seen_of(hidden(one, one), hidden(five, zero, zero, five), [[1]]))
    assert loss.tolist() == pytest.approx([(1 + 16) / 2])


def test_hidden_angle_is_one_minus_the_cosine() -> None:
    student, teacher = hidden([[[1.0, 0.0], [1.0, 1.0], FAR]]), hidden([[[0.0, 3.0], [2.0, 0.0], [1.0, 0.0]]])
    loss = MappedStates(same_width(), angle)(seen_of(student, teacher, [[1, 1, 0]]))
    assert loss.tolist() == pytest.approx([(1 + (1 - math.sqrt(0.5))) / 2])


def test_a_narrower_student_is_compared_through_a_map_that_learns() -> None:
    projections = Projections(num_layers=1, student_width=2, teacher_width=3, seed=0)
    weight = projections.maps[0]
    assert torch.allclose(weight.T @ weight, torch.eye(2), atol=1e-6)  # it neither stretches nor folds
    with torch.no_grad():
        weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]))
    loss = MappedStates(projections, squared_difference)(seen_of(hidden([[[1.0, 2.0]]]), hidden([[[1.0, 2.0, 0.0]]]), [[1]]))
    assert loss.tolist() == pytest.approx([9 / 3])
    loss.sum().backward()
    assert weight.grad is not None
    assert weight.grad[2].tolist() == pytest.approx([2.0, 4.0])  # 2 * 3 * (1, 2) / 3


def test_maps_depend_on_the_seed_alone() -> None:
    torch.manual_seed(7)
    one = Projections(num_layers=2, student_width=2, teacher_width=3, seed=1)
    torch.manual_seed(8)
    again, other = (Projections(num_layers=2, student_width=2, teacher_width=3, seed=seed) for seed in (1, 2))
    assert torch.equal(one.maps[1], again.maps[1])
    assert not torch.equal(one.maps[1], other.maps[1])
    assert not torch.equal(one.maps[0], one.maps[1])


def test_patient_compares_the_first_token_of_all_layers_but_the_last() -> None:
    term = PatientStates(num_layers=2, student_width=2, teacher_width=2, seed=0)
    assert not list(term.parameters())
    student = hidden([[[3.0, 0.0], FAR]], [[FAR, FAR]])
    teacher = hidden([[FAR, FAR]], [[[0.0, 9.0], [1.0, 1.0]]], [[FAR, FAR]], [[[4.0, 4.0], FAR]])
    # |(1, 0) - (0, 1)|² = 2: lengths have no part in it.
    assert term(seen_of(student, teacher, [[1, 1]])).tolist() == pytest.approx([2.0])


def test_patient_needs_a_layer_below_the_last() -> None:
    with pytest.raises(SettingsError, match=r"patient.* one layer"):
        PatientStates(num_layers=1, student_width=2, teacher_width=2, seed=0)


def attending(queries: list[list[float]], keys: list[list[float]], num_heads: int) -> Layers:
    return Layers(queries=(torch.tensor([queries]),), keys=(torch.tensor([keys]),), num_heads=num_heads)


# With queries of 0 the student looks at both real tokens alike. The teacher's first token looks at itself with odds 3 : 1.
EVEN = attending([[0.0], [0.0], [9.0]], [[1.0], [0.0], [9.0]], 1)
LEANING = attending([[LN3], [0.0], [9.0]], [[1.0], [0.0], [9.0]], 1)
MASK = [[1, 1, 0]]


def test_attention_distance_is_squared_and_of_real_tokens_only() -> None:
    loss = AttentionMaps(squared_distance_of_rows)(seen_of(EVEN, LEANING, MASK))
    assert loss.tolist() == pytest.approx([((3 / 4 - 1 / 2) ** 2 + (1 / 4 - 1 / 2) ** 2) / 2])  # two rows, one of them equal


def test_attention_divergence_goes_from_teacher_to_student() -> None:
    assert AttentionMaps(divergence_of_rows)(seen_of(EVEN, LEANING, MASK)).tolist() == pytest.approx([KL_LEANING_TO_EVEN / 2])
    reversed_kl = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    assert AttentionMaps(divergence_of_rows)(seen_of(LEANING, EVEN, MASK)).tolist() == pytest.approx([reversed_kl / 2])


def test_scores_are_divided_by_the_root_of_the_heads_width() -> None:
    wide = attending([[2 * LN3, 0.0, 0.0, 0.0], [0.0] * 4], [[1.0, 0.0, 0.0, 0.0], [0.0] * 4], 1)  # 2 ln 3 / √4
    even = attending([[0.0] * 4] * 2, [[0.0] * 4] * 2, 1)
    assert AttentionMaps(divergence_of_rows)(seen_of(even, wide, [[1, 1]])).tolist() == pytest.approx([KL_LEANING_TO_EVEN / 2])


def test_heads_are_compared_one_by_one_where_there_are_as_many() -> None:
    # Head 0 leans to the first token, head 1 to the second.
    two = attending([[LN3, LN3], [0.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]], 2)
    even = attending([[0.0, 0.0]] * 2, [[0.0, 0.0]] * 2, 2)
    assert AttentionMaps(divergence_of_rows)(seen_of(even, two, [[1, 1]])).tolist() == pytest.approx([KL_LEANING_TO_EVEN / 2])


@pytest.mark.parametrize("term", [AttentionMaps(squared_distance_of_rows), AttentionMaps(divergence_of_rows)])
def test_where_the_numbers_of_heads_differ_their_mean_is_compared(term: torch.nn.Module) -> None:
    two = attending([[LN3, LN3], [0.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]], 2)  # 3/4, 1/4 and 1/4, 3/4: on the mean even
    even = attending([[0.0]] * 2, [[0.0]] * 2, 1)
    assert term(seen_of(even, two, [[1, 1]])).tolist() == pytest.approx([0.0], abs=1e-6)


def relations_by_loops(student: NDArray[np.float64], teacher: NDArray[np.float64], real: int, heads: int) -> float:
    """KL of MiniLMv2's relations of one text, written out."""

    def rows(states: NDArray[np.float64], head: int) -> NDArray[np.float64]:
        width = states.shape[1] // heads
        part = states[:real, head * width : (head + 1) * width]
        scores = np.exp(part @ part.T / math.sqrt(width))
        return scores / scores.sum(axis=1, keepdims=True)

    total = 0.0
    for head in range(heads):
        ours, theirs = rows(student, head), rows(teacher, head)
        total += (theirs * np.log(theirs / ours)).sum() / real
    return total / heads


def test_relations_of_other_widths_and_heads_against_loops() -> None:
    generator = np.random.default_rng(0)
    ours = generator.normal(size=(3, 2, 5, 4))  # queries, keys, values; texts; tokens; width
    theirs = generator.normal(size=(3, 2, 5, 6))
    real = (5, 3)
    expected = [
        sum(relations_by_loops(ours[kind, text], theirs[kind, text], real[text], heads=2) for kind in range(3))
        for text in range(2)
    ]

    def layers(states: NDArray[np.float64], num_heads: int) -> Layers:
        far = torch.full(states.shape[1:], 99.0, dtype=torch.float64)  # a layer below the last has no part in it
        queries, keys, values = ((far, torch.from_numpy(kind)) for kind in states)
        return Layers(queries=queries, keys=keys, values=values, num_heads=num_heads)

    term = Relations(num_heads=2, student_width=4, teacher_width=6)
    seen = seen_of(layers(ours, 1), layers(theirs, 3), [[1] * 5, [1, 1, 1, 0, 0]])
    assert term(seen).tolist() == pytest.approx(expected, rel=1e-6)
    swapped = term(Seen(seen.mask, seen.labels, seen.student_logits, None, seen.teacher, seen.student))
    assert swapped.tolist() != pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("student", "teacher", "whose"), [(16, 24, "student's width of 16"), (24, 16, "teacher's width of 16")]
)
def test_relation_heads_must_divide_both_widths(student: int, teacher: int, whose: str) -> None:
    with pytest.raises(SettingsError, match=rf"relation_heads is 12, which does not divide the {whose}.*--relation-heads"):
        Relations(num_heads=12, student_width=student, teacher_width=teacher)


@pytest.mark.parametrize(
    "term",
    [
        MappedStates(same_width(), squared_difference),
        MappedStates(same_width(), angle),
        AttentionMaps(squared_distance_of_rows),
        AttentionMaps(divergence_of_rows),
        Relations(num_heads=1, student_width=2, teacher_width=2),
    ],
    ids=["hidden", "hidden-cosine", "attention", "attention-kl", "relations"],
)
def test_a_student_like_its_teacher_has_nothing_to_learn(term: torch.nn.Module) -> None:
    states: Tensor = torch.randn(2, 3, 2, generator=torch.Generator().manual_seed(0))
    layers = Layers(hidden=(states,), queries=(states,), keys=(states + 1,), values=(states,), num_heads=2)
    assert term(seen_of(layers, layers, [[1, 1, 1], [1, 1, 0]])).tolist() == pytest.approx([0, 0], abs=1e-6)

"""What the harness adds to `potstill teacher` in the transfer scenario's other tasks."""

from __future__ import annotations

import numpy as np

from benchmarks.transfer.bench import Texts
from benchmarks.transfer.parts import labelled, spread_out
from distill.data import Dataset
from distill.teacher_settings import TeacherSettings


def test_a_two_way_teachers_answers_stand_under_the_names_of_three_labels() -> None:
    logits = np.array([[0.25, 1.5], [2.0, -1.0]], dtype=np.float32)
    found = spread_out(logits, ("positive", "negative"), ("negative", "neutral", "positive"))
    assert found[:, [0, 2]].tolist() == [[1.5, 0.25], [-1.0, 2.0]]
    assert found.argmax(axis=1).tolist() == [0, 2]  # and never neutral
    assert found[:, 1].max() < -1000


def test_a_floor_learns_from_all_the_labels_that_a_carried_model_is_given() -> None:
    texts = tuple(f"text {number}" for number in range(40))
    train = Dataset(texts, np.arange(40) % 2, ("even", "odd"), "numbers")
    few = labelled(Texts(train, train, train), TeacherSettings(shots=10, seed=0))
    assert few.counts == {"even": 10, "odd": 10}
    assert len(set(few.texts)) == 20
    assert all(int(text.removeprefix("text ")) % 2 == label for text, label in zip(few.texts, few.label_ids, strict=True))

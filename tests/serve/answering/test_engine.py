"""What one engine answers, and what it refuses to begin with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from numpy.typing import NDArray
from served import character_tokenizer

from distill.bundle import Bundle
from distill.classifier import TextInput
from distill.errors import BundleError
from distill.labels import Logits, ProblemType
from distill.tokenization import TextTokenizer
from serve.answering.engine import Engine, RowAnswer


@dataclass(frozen=True)
class Fixed:
    """A classifier that gives every text of a call the same logits: the first to a text alone, the second to several."""

    alone: tuple[float, ...]
    together: tuple[float, ...]
    problem_type: ProblemType
    labels: tuple[str, ...] = ("a", "b")
    tokenizer: TextTokenizer = field(default_factory=character_tokenizer)

    def predict_logits(self, texts: Sequence[TextInput]) -> Logits:
        return self.predict_encoded(self.tokenizer.encode(texts))

    def predict_encoded(self, rows: Sequence[NDArray[np.int64]]) -> Logits:
        return np.array([self.alone if len(rows) == 1 else self.together] * len(rows), np.float32)


def answers_of(engine: Engine, texts: Sequence[str]) -> list[RowAnswer]:
    readings = engine.tokenizer.read(texts)
    return engine.answer([engine.row(reading, text) for reading, text in zip(readings, texts, strict=True)])


LOGITS = (0.0, math.log(3))


@pytest.mark.parametrize(
    ("problem_type", "wanted"),
    [
        ("single_label_classification", [1 / 4, 3 / 4]),  # 1 and 3 of 4
        ("multi_label_classification", [1 / 2, 3 / 4]),  # 1 / (1 + 1) and 3 / (1 + 3)
        ("regression", list(LOGITS)),
    ],
)
def test_scores_are_what_the_problem_type_says(problem_type: ProblemType, wanted: list[float]) -> None:
    answers = answers_of(Engine(Fixed(LOGITS, LOGITS, problem_type), max_length=8), ["x", "y"])
    assert [answer.probabilities for answer in answers] == [pytest.approx(wanted)] * 2
    assert [answer.logits for answer in answers] == [pytest.approx(LOGITS)] * 2


def test_answers_that_depend_on_batch_mates_are_not_served() -> None:
    with pytest.raises(BundleError, match=r"made\.up"):
        Engine(Fixed(LOGITS, (1.0, 0.0), "single_label_classification"), max_length=8).self_check("made.up")
    # Dynamic scales do that by nature, and the export says so; they are served.
    moving = Engine(Fixed(LOGITS, (1.0, 0.0), "single_label_classification"), max_length=8, about={"activations": "dynamic"})
    moving.self_check("made.up")


def test_logits_that_are_no_numbers_or_too_few_are_not_served() -> None:
    with pytest.raises(BundleError, match=r"made\.up.*finite"):
        Engine(Fixed((math.nan, 0.0), (math.nan, 0.0), "regression"), max_length=8).self_check("made.up")
    with pytest.raises(BundleError, match=r"made\.up.*\(4, 2\)"):
        Engine(Fixed(LOGITS, LOGITS, "regression", labels=("a", "b", "c")), max_length=8).self_check("made.up")


def test_cut_texts_are_told_from_those_that_just_fit(tiny_student: Bundle) -> None:
    engine = Engine.open(tiny_student.path)
    fits, cut = " ".join(["great"] * 30), " ".join(["great"] * 31)  # two special tokens, 32 are kept
    assert [answer.was_cut for answer in answers_of(engine, [fits, cut, "great"])] == [False, True, False]

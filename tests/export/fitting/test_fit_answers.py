"""What the report says of a language model as teacher: costs and human labels, by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from answer_folders import kept_answer, write_answers

from distill.data import Dataset, Splits
from distill.progress import SilentReporter
from distill.training.by_recipe import Learning
from export.fitting.reporting.answers import in_words, labelling
from export.fitting.reporting.result import FormResult, HumanLabels, Score
from export.fitting.training import controls_of_fewer
from export.settings import FitSettings

LABELS = ("negative", "positive")


def score(value: float) -> Score:
    return Score(value, value - 0.01, value + 0.01)


def test_the_costs_are_those_of_the_kept_answers_and_of_a_million_texts(tmp_path: Path) -> None:
    answers = [
        kept_answer("good", "positive", LABELS, input_tokens=100, output_tokens=4),
        kept_answer("bad", "negative", LABELS, input_tokens=300, output_tokens=8),
    ]
    source = f"answers:{write_answers(tmp_path / 'answers', LABELS, answers)}"
    winner = FormResult("narrow/int8", "narrow", "int8", 0.3, 1, "winner", "", measured_ms=0.36)
    prices = FitSettings(price_input=0.5, price_output=2.0, price_hour=0.04)
    once, more, student = labelling(source, (winner,), prices)
    assert (once.num_texts, once.input_tokens, once.output_tokens) == (2, 400, 12)
    assert once.cost == pytest.approx(400 * 0.5e-6 + 12 * 2e-6)
    # 200 and 6 tokens a text
    assert (more.num_texts, more.input_tokens, more.output_tokens) == (10**6, 200 * 10**6, 6 * 10**6)
    assert more.cost == pytest.approx(112)
    assert student.num_texts == 10**6
    assert student.hours == pytest.approx(0.1)
    assert student.cost == pytest.approx(0.004)
    assert student.input_tokens is None
    unpriced = labelling(source, (), FitSettings())
    assert [each.cost for each in unpriced] == [None, None]
    assert labelling(None, (winner,), prices) == ()


def test_controls_learn_from_an_eighth_a_quarter_and_half_of_the_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = tuple(f"text {number}" for number in range(80))
    train = Dataset(texts, np.arange(80) % 2, LABELS, "train")
    seen = []

    def control(stages: object, learning: Any, *, folder: Path) -> Path:
        seen.append((stages, len(learning.splits.train), min(learning.splits.train.counts.values())))
        return folder

    monkeypatch.setattr("export.fitting.training.control_of", control)
    learning = Learning(cast("Any", None), Splits(train, train, None), (), SilentReporter())
    found = controls_of_fewer((), learning, folder=Path("tried"))
    assert seen == [((), 10, 5), ((), 20, 10), ((), 40, 20)]
    assert {count: str(folder) for count, folder in found.items()} == {n: f"tried/labels-{n}" for n in (10, 20, 40)}


def test_the_fewest_human_labels_that_suffice_are_named() -> None:
    found = (HumanLabels(100, score(0.70)), HumanLabels(200, score(0.78)), HumanLabels(400, score(0.80)))
    assert in_words(found, score(0.75)) == "From about 200 human labels on, these alone teach as well as the answers."
    assert in_words(found, score(0.81)) == "The student is better than one taught by all 400 human labels alone."
    assert in_words((), score(0.81)) == in_words(found, None) == ""

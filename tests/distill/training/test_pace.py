"""How long a training will take is said where it is worth it, from the time of real answers."""

from __future__ import annotations

import re

import pytest
from tiny_task import Listening

from distill.bundle import Bundle
from distill.data import Splits
from distill.models.loading import load_bundle
from distill.training import pace
from distill.training.pace import BACKWARD, answer_s, say_training


def test_long_trainings_say_about_how_long_and_short_ones_nothing(
    tiny_teacher: Bundle, tiny_splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, texts, reporter = load_bundle(tiny_teacher), tiny_splits.train.texts, Listening()
    assert answer_s(model, texts) > 0
    monkeypatch.setattr(pace, "answer_s", lambda *arguments: 0.01)
    say_training(model, texts, title="teacher", views=100, reporter=reporter)  # 2.7 s
    assert reporter.said == []
    say_training(model, texts, title="teacher", views=20_000, reporter=reporter)
    assert re.fullmatch(r"teacher: training on 20,000 texts at most: about 9 minutes", reporter.said[0])
    assert pytest.approx(9.0) == 20_000 * 0.01 * BACKWARD / 60

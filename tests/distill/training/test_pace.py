"""How long a training will take is said where it is worth it, from the time of real answers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_task import Listening

from distill.bundle import Bundle
from distill.data import Splits
from distill.models import devices
from distill.models.devices import Compute
from distill.models.loading import load_bundle
from distill.settings import DistillSettings
from distill.teacher_settings import TeacherSettings
from distill.training import pace
from distill.training.distillation import fit_student
from distill.training.fine_tuning import fit_teacher
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


@pytest.mark.parametrize(
    ("compute", "quick_bf16", "in_bf16"),
    [("bf16", False, True), ("no", True, False), (None, True, True), (None, False, False)],
)
def test_the_sample_is_computed_in_the_dtype_of_the_training(
    compute: Compute | None, quick_bf16: bool, in_bf16: bool, tiny_teacher: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "multiplies_bf16_faster", lambda: quick_bf16)
    model, seen = load_bundle(tiny_teacher), set[torch.dtype]()
    model.model.get_submodule("classifier").register_forward_hook(lambda module, given, found: seen.add(found.dtype))
    answer_s(model, ["a lovely film"] * 20, compute)
    assert seen == {torch.bfloat16 if in_bf16 else torch.float32}


def test_teachers_and_students_foretell_in_the_dtype_of_their_run(
    tiny_model: Path, tiny_teacher: Bundle, tiny_splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed: list[Compute | None] = []

    def answer_in_no_time(model: object, texts: object, compute: Compute | None) -> float:
        timed.append(compute)
        return 0.0

    monkeypatch.setattr(pace, "answer_s", answer_in_no_time)
    few: Any = {"train": tiny_splits.train.take(range(32)), "validation": tiny_splits.validation}
    short: Any = {"epochs": 1, "max_length": 32, "mixed_precision": "bf16"}
    fit_teacher(str(tiny_model), **few, out=tmp_path / "teacher", settings=TeacherSettings(**short))
    fit_student(tiny_teacher, **few, out=tmp_path / "student", settings=DistillSettings(num_layers=1, **short))
    assert timed == ["bf16", "bf16", "bf16"]  # the teacher's training, its answers, the student's training

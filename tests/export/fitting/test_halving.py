"""Successive halving on the tiny task: which bundles it trains, where they are, and that none is replaced by another."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_task import Listening

from distill.bundle import WEIGHTS, Bundle
from distill.data import Splits
from distill.errors import SettingsError
from distill.progress import Reporter, SilentReporter
from distill.recipes import Stage
from distill.settings import DistillSettings
from distill.teachers.teacher import open_teacher
from distill.training.by_recipe import Learning
from export.fitting.choose import Costs
from export.fitting.scores import Scorer
from export.fitting.training import Round, halved
from export.fitting.weighing import Candidates, Form


def stage(name: str, *, layers: int, epochs: int) -> Stage:
    return Stage(name, DistillSettings(num_layers=layers, epochs=epochs, learning_rate=2e-3, batch_size=32, max_length=16))


def run(
    candidates: Candidates, teacher: Bundle, splits: Splits, folder: Path, reporter: Reporter | None = None
) -> dict[str, list[Round]]:
    learning = Learning(open_teacher(teacher, device="cpu"), splits, (), reporter or SilentReporter())
    scorer = Scorer(splits.validation, "macro_f1")
    told = (reporter or SilentReporter()).say
    return halved(
        candidates,
        tuple(candidates.stages),
        learning,
        folder=folder,
        scorer=scorer,
        halving=True,
        told=lambda left_s: told(f"{left_s:g} s left"),
    )


def candidates_of(*chains: tuple[Stage, ...]) -> Candidates:
    stages = {chain[-1].name: chain for chain in chains}
    forms = tuple(Form(name, "int8", Costs(1.0, 1)) for name in stages)
    steps = dict.fromkeys(stages, 1.0)
    return Candidates(forms, stages, stages, step_s=steps, teacher_answer_s=1.0, max_length=16, truncated=0.0)


def test_a_student_is_not_replaced_by_its_namesake_that_others_are_made_of(
    tiny_teacher: Bundle, tiny_splits: Splits, tmp_path: Path
) -> None:
    two, less = stage("2-layers", layers=2, epochs=2), stage("2-layers", layers=2, epochs=1)
    candidates = candidates_of((two,), (less, stage("1-layer", layers=1, epochs=1)))
    rounds = run(candidates, tiny_teacher, tiny_splits, tmp_path)
    student = rounds["2-layers"][-1].bundle
    assert Bundle.open(student.path).manifest.settings["student"]["epochs"] == 2
    assistant = Bundle.open(tmp_path / "assistants" / "2-layers-seed-0")
    assert assistant.manifest.settings["student"]["epochs"] == 1
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob(WEIGHTS)}
    assert len(before) == 3
    listening = Listening()
    run(candidates, tiny_teacher, tiny_splits, tmp_path, listening)
    assert "1-layer starts from its assistants, trained first: 2-layers" in listening.said
    views = len(tiny_splits.train)  # a second each: an assistant and a student, after the first
    assert [said for said in listening.said if said.endswith("s left")] == [f"{2 * views} s left", "0 s left"]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob(WEIGHTS)} == before


def test_a_student_with_the_settings_of_an_assistant_is_trained_once_for_both(
    tiny_teacher: Bundle, tiny_splits: Splits, tmp_path: Path
) -> None:
    two = stage("2-layers", layers=2, epochs=1)
    candidates = candidates_of((two,), (two, stage("1-layer", layers=1, epochs=1)))
    rounds = run(candidates, tiny_teacher, tiny_splits, tmp_path)
    assert rounds["2-layers"][-1].bundle.path == tmp_path / "assistants" / "2-layers-seed-0"
    assert len(list(tmp_path.rglob(WEIGHTS))) == 2


def test_a_student_with_more_layers_than_the_teacher_is_left_out(
    tiny_teacher: Bundle, tiny_splits: Splits, tmp_path: Path
) -> None:
    many, one = stage("6-layers", layers=60, epochs=1), stage("1-layer", layers=1, epochs=1)
    rounds = run(candidates_of((many,), (one,)), tiny_teacher, tiny_splits, tmp_path)
    assert rounds["6-layers"] == []
    assert rounds["1-layer"][-1].share == 1.0
    with pytest.raises(SettingsError, match="too few layers for 6-layers"):
        run(candidates_of((many,)), tiny_teacher, tiny_splits, tmp_path)

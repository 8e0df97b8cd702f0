"""What the teacher command reports about a source task: planted negative transfer, and a source that helps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tiny_task import Outcome, tiny_texts, write_csv

from distill.bundle import Bundle
from distill.data import Splits
from distill.teacher_settings import TeacherSettings
from distill.training.fine_tuning import fit_teacher

Run = Callable[..., Outcome]


def verdict(potstill: Run, model: Path, init: Path, folder: Path) -> str:
    train = write_csv(folder / "few.csv", tiny_texts(60, seed=7))
    test = write_csv(folder / "test.csv", tiny_texts(200, seed=8))
    out = folder / "out"
    data = ("--train", train, "--test", test, "--max-length", 32, "--batch-size", 16, "--epochs", 1, "--learning-rate", 1e-4)
    done = potstill("teacher", "--model", model, "--init", init, "--control", "--out", out, *data)
    assert done.code == 0, done.err
    assert Bundle.open(out).manifest.lineage.chain
    assert not Bundle.open(folder / "out-alone").manifest.lineage.chain
    return done.err.splitlines()[-1]


def test_a_source_that_knows_the_task_helps(potstill: Run, tiny_model: Path, tiny_teacher: Bundle, tmp_path: Path) -> None:
    said = verdict(potstill, tiny_model, tiny_teacher.path, tmp_path)
    assert said.startswith("Transfer from teacher helped: +"), said


def test_a_source_that_learnt_the_opposite_is_reported_as_harmful(
    potstill: Run, tiny_model: Path, tiny_splits: Splits, tmp_path: Path
) -> None:
    turned = [replace(part, label_ids=1 - part.label_ids) for part in (tiny_splits.train, tiny_splits.validation)]
    settings = TeacherSettings(epochs=6, learning_rate=2e-3, max_length=32, batch_size=16)
    wrong = fit_teacher(str(tiny_model), train=turned[0], validation=turned[1], out=tmp_path / "opposite", settings=settings)
    said = verdict(potstill, tiny_model, wrong.path, tmp_path)
    assert said.startswith("Transfer from opposite lowered quality: -"), said


def test_the_control_is_adapted_to_the_same_texts(
    potstill: Run, tiny_model: Path, tiny_teacher: Bundle, tmp_path: Path
) -> None:
    few, more = (write_csv(tmp_path / f"{seed}.csv", tiny_texts(60, seed=seed)) for seed in (7, 9))
    settings = ("--max-length", 32, "--batch-size", 16, "--epochs", 1, "--adapt", more, "--control")
    done = potstill(
        "teacher", "--model", tiny_model, "--init", tiny_teacher.path, "--train", few, "--out", tmp_path / "out", *settings
    )
    assert done.code == 0, done.err
    made, alone = (Bundle.open(tmp_path / name).manifest.lineage for name in ("out", "out-alone"))
    assert alone.adapted_fingerprint == made.adapted_fingerprint is not None
    assert not alone.chain


def test_a_control_without_a_source_is_refused(potstill: Run, tmp_path: Path) -> None:
    data = write_csv(tmp_path / "few.csv", tiny_texts(60))
    done = potstill("teacher", "--model", "nothing", "--control", "--train", data, "--out", tmp_path / "out")
    assert done.code == 2
    assert "--init" in done.complaint

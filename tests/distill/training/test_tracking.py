"""Figures of a run in TensorBoard's own files, and a plain word where a tracker is not installed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from distill.bundle import Bundle
from distill.data import Splits
from distill.errors import MissingExtraError
from distill.settings import DistillSettings, Tracker
from distill.training.distillation import fit_student


def scalars_in(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return (step, value) of everything that TensorBoard would draw of a run."""
    found: dict[str, list[tuple[int, float]]] = {}
    for file in folder.rglob("events.out.tfevents.*"):
        events = EventAccumulator(str(file))
        events.Reload()
        for tag in events.Tags()["scalars"]:
            found[tag] = [(event.step, event.value) for event in events.Scalars(tag)]
    return found


def test_tensorboard_shows_each_term_and_each_epoch(tiny_teacher: Bundle, tiny_splits: Splits, tmp_path: Path) -> None:
    settings = DistillSettings(epochs=2, batch_size=8, num_layers=1, learning_rate=1e-3, track=("tensorboard",))
    train = tiny_splits.train.take(range(80))
    bundle = fit_student(
        tiny_teacher, train=train, validation=tiny_splits.validation, out=tmp_path / "student", settings=settings
    )
    assert sorted(path.name for path in bundle.path.iterdir()) == sorted([*bundle.manifest.files, "manifest.json"])
    drawn = scalars_in(tmp_path / "student-logs")
    assert [step for step, _ in drawn["loss"]] == [10, 20]  # of 20 steps every tenth
    for (_, loss), (_, soft), (_, hard) in zip(drawn["loss"], drawn["soft"], drawn["hard"], strict=True):
        assert loss == pytest.approx(0.9 * soft + 0.1 * hard, rel=1e-4)
    history = bundle.manifest.history
    assert drawn["epoch/macro_f1"] == [(10, pytest.approx(history[0]["macro_f1"])), (20, pytest.approx(history[1]["macro_f1"]))]
    assert [value for _, value in drawn["learning_rate"]] == pytest.approx([1e-3 * 11 / 18, 1e-3 * 1 / 18])


def test_nothing_is_tracked_unless_asked_for(tiny_unexported: Bundle) -> None:
    assert tiny_unexported.manifest.settings["student"]["track"] == []
    assert not list(tiny_unexported.path.parent.glob("*-logs"))


@pytest.mark.parametrize("tracker", ["tensorboard", "mlflow", "wandb"])
def test_a_tracker_that_is_not_installed_is_refused_at_once(
    tracker: Tracker, tiny_teacher: Bundle, tiny_splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, tracker, None)
    with pytest.raises(MissingExtraError, match=rf"--track {tracker} needs .* pip install 'potstill\[{tracker}\]'"):
        fit_student(
            tiny_teacher,
            train=tiny_splits.train,
            validation=tiny_splits.validation,
            out=tmp_path / "student",
            settings=DistillSettings(track=(tracker,)),
        )

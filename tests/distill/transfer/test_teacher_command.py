"""What the teacher command says of a source: planted negative transfer, and a source that helps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tiny_task import tiny_texts, write_csv

from distill.bundle import Bundle
from distill.commands import make_teacher
from distill.data import Splits
from distill.errors import SettingsError
from distill.progress import SilentReporter
from distill.settings import DataSettings
from distill.training.fine_tuning import fit_carried
from distill.transfer_settings import CarrySettings, OriginSettings


class Said(SilentReporter):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        """Keep the line."""
        self.lines.append(text)


def verdict(model: Path, init: Path, folder: Path, *, epochs: int, learning_rate: float) -> str:
    data = DataSettings(
        train=(str(write_csv(folder / "few.csv", tiny_texts(60, seed=7))),),
        test=str(write_csv(folder / "test.csv", tiny_texts(200, seed=8))),
    )
    reporter = Said()
    settings = CarrySettings(epochs=epochs, learning_rate=learning_rate, max_length=32, batch_size=16)
    origin = OriginSettings(init=str(init), control=True)
    made = make_teacher(str(model), origin, data, settings, out=folder / "out", reporter=reporter)
    assert made.manifest.lineage.chain
    assert not Bundle.open(folder / "out-alone").manifest.lineage.chain
    return reporter.lines[-1]


def test_a_source_that_knows_the_task_helps(tiny_model: Path, tiny_teacher: Bundle, tmp_path: Path) -> None:
    said = verdict(tiny_model, tiny_teacher.path, tmp_path, epochs=1, learning_rate=1e-4)
    assert said.startswith("Transfer from teacher helped: +"), said


def test_a_source_that_learnt_the_opposite_is_said_to_harm(tiny_model: Path, tiny_splits: Splits, tmp_path: Path) -> None:
    turned = [replace(part, label_ids=1 - part.label_ids) for part in (tiny_splits.train, tiny_splits.validation)]
    settings = CarrySettings(epochs=6, learning_rate=2e-3, max_length=32, batch_size=16)
    wrong = fit_carried(str(tiny_model), train=turned[0], validation=turned[1], out=tmp_path / "opposite", settings=settings)
    said = verdict(tiny_model, wrong.path, tmp_path, epochs=1, learning_rate=1e-4)
    assert said.startswith("Negative transfer: opposite made it worse than no transfer, -"), said


def test_a_control_without_a_source_is_refused(tmp_path: Path) -> None:
    data = DataSettings(train=(str(write_csv(tmp_path / "few.csv", tiny_texts(60))),))
    with pytest.raises(SettingsError, match="does not go on from --init, which is not given"):
        make_teacher(
            "nothing", OriginSettings(control=True), data, CarrySettings(), out=tmp_path / "out", reporter=SilentReporter()
        )

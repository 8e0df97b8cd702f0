"""Calibrated students: the same answers with truer probabilities, within bounds, and made once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_task import Listening

from distill.bundle import Bundle
from distill.data import Dataset, Splits
from distill.evaluation.metrics import evaluate
from distill.models.loading import load_bundle
from distill.progress import SilentReporter
from export.fitting.graphs import calibrated, copied
from export.fitting.scores import Scorer
from export.settings import ExportSettings


def noisy(data: Dataset) -> Dataset:
    """Return the texts with every third label wrong: a student that learnt the right ones is far too sure of itself."""
    label_ids = data.label_ids.copy()
    label_ids[::3] = 1 - label_ids[::3]
    return replace(data, label_ids=label_ids)


def test_a_student_is_calibrated_and_answers_alike(tiny_unexported: Bundle, tiny_splits: Splits, tmp_path: Path) -> None:
    validation, reporter = noisy(tiny_splits.validation), Listening()
    made = calibrated(tiny_unexported, folder=tmp_path / "narrow", scorer=Scorer(validation, "macro_f1"), reporter=reporter)
    temperature = made.manifest.calibration_temperature
    assert temperature is not None
    before, after = (load_bundle(each).predict_logits(validation.texts) for each in (tiny_unexported, made))
    np.testing.assert_allclose(after * temperature, before, atol=1e-4)
    was, now = (evaluate(labels=validation.label_ids, logits=each, label_names=made.labels) for each in (before, after))
    assert now.macro_f1 == was.macro_f1
    assert now.expected_calibration_error < was.expected_calibration_error
    kept = made.manifest.quality["pytorch"]
    assert kept["expected_calibration_error"] == pytest.approx(now.expected_calibration_error, abs=1e-6)
    assert kept["agreement_with_teacher"] == tiny_unexported.manifest.quality["pytorch"]["agreement_with_teacher"]
    assert any(f"{was.expected_calibration_error:.3f} before" in line for line in reporter.said)


def test_it_is_made_once_and_a_copy_from_before_is_replaced(
    tiny_unexported: Bundle, tiny_splits: Splits, tmp_path: Path
) -> None:
    form, asked = tmp_path / "narrow-int8", ExportSettings()
    copied(tiny_unexported, form, asked)
    reporter = Listening()
    for _ in range(2):
        scorer = Scorer(noisy(tiny_splits.validation), "macro_f1")
        made = calibrated(tiny_unexported, folder=tmp_path / "narrow", scorer=scorer, reporter=reporter)
    assert len(reporter.said) == 1
    assert copied(made, form, asked).manifest.calibration_temperature == made.manifest.calibration_temperature
    weights = (form / "model.safetensors").read_bytes()
    assert weights == (made.path / "model.safetensors").read_bytes()
    assert weights != (tiny_unexported.path / "model.safetensors").read_bytes()


@pytest.mark.parametrize(("right", "temperature"), [(True, 0.5), (False, 4.0)])
def test_a_few_texts_that_are_all_right_or_all_wrong_give_no_absurd_temperature(
    right: bool, temperature: float, tiny_unexported: Bundle, tiny_splits: Splits, tmp_path: Path
) -> None:
    few = tiny_splits.validation.take(range(12))
    own = few.task.decisions(load_bundle(tiny_unexported).predict_logits(few.texts))
    few = replace(few, label_ids=own if right else 1 - own)
    made = calibrated(tiny_unexported, folder=tmp_path, scorer=Scorer(few, "macro_f1"), reporter=SilentReporter())
    assert made.manifest.calibration_temperature == pytest.approx(temperature)

"""Which unlabelled texts pass: worked out by hand, and in a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from distill.bundle import Bundle
from distill.data import Splits, fingerprint
from distill.errors import SettingsError
from distill.models.loading import load_bundle
from distill.progress import SilentReporter
from distill.settings import DistillSettings
from distill.training.distillation import fit_student
from distill.training.lesson import confident

# Two labels whose logits differ by log 9, log 3 and 0: probabilities 0.9, 0.75 and 0.5.
SURE = np.array([[np.log(9), 0], [0, np.log(3)], [0, 0]], dtype=np.float32)


def passed(*answers: np.ndarray, confidence: float = 0.0, agreed: bool = False, temperature: float = 1.0) -> list[bool]:
    found = confident(
        answers,
        problem_type="single_label_classification",
        min_confidence=confidence,
        agreed=agreed,
        temperature=temperature,
    )
    return found.tolist()


def test_confidence_is_the_probability_of_the_label_given() -> None:
    assert passed(SURE, confidence=0.7) == [True, True, False]
    assert passed(SURE, confidence=0.8) == [True, False, False]
    # At temperature 2 the odds of 9 become 3: 0.75.
    assert passed(SURE, confidence=0.8, temperature=2.0) == [False, False, False]
    assert passed(SURE, confidence=0.7, temperature=2.0) == [True, False, False]


def test_several_teachers_are_taken_by_their_mean_and_may_have_to_agree() -> None:
    other = np.array([[-np.log(9), 0], [0, np.log(3)], [1, 0]], dtype=np.float32)
    assert passed(SURE, other, confidence=0.7) == [False, True, False]  # log 9 and -log 9 are 0 on the mean
    assert passed(SURE, other, agreed=True) == [False, True, True]
    assert passed(SURE, other) == [True, True, True]


def test_with_several_labels_the_least_sure_decision_counts() -> None:
    logits = np.array([[np.log(9), -np.log(9)], [np.log(9), 0.1]], dtype=np.float32)
    found = confident([logits], problem_type="multi_label_classification", min_confidence=0.8, agreed=False)
    assert found.tolist() == [True, False]


def test_a_student_learns_from_the_texts_that_pass(tiny_teacher: Bundle, tiny_splits: Splits, tmp_path: Path) -> None:
    class Said(SilentReporter):
        lines: list[str] = []

        def say(self, text: str) -> None:
            self.lines.append(text)

    unsure = tuple(f"lovely dull great awful film plot {word}" for word in ("the", "a", "scene", "music"))
    texts = (*unsure, "a lovely great moving funny warm film and it was brilliant")
    logits = load_bundle(tiny_teacher).predict_logits(texts)
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    bar = float(np.sort(shares.max(axis=1))[1:3].mean())  # between the second and the third
    kept = [text for text, share in zip(texts, shares.max(axis=1), strict=True) if share >= bar]
    assert len(kept) == 3
    settings = DistillSettings(num_layers=1, epochs=1, unlabeled_confidence=bar, mixed_precision="no")
    reporter = Said()
    student = fit_student(
        tiny_teacher,
        train=tiny_splits.train.take(range(32)),
        validation=tiny_splits.validation,
        unlabeled=texts,
        out=tmp_path / "student",
        settings=settings,
        reporter=reporter,
    )
    assert student.manifest.lineage.unlabeled_fingerprint == fingerprint(kept)
    assert "unlabelled texts: 3 of 5 are kept, the teachers are sure of them" in reporter.lines


def test_what_cannot_be_honoured_is_refused(tiny_teacher: Bundle, tiny_splits: Splits, tmp_path: Path) -> None:
    def fit(**settings: object) -> None:
        fit_student(
            tiny_teacher,
            train=tiny_splits.train.take(range(32)),
            validation=tiny_splits.validation,
            unlabeled=("lovely dull film", "great awful plot"),
            out=tmp_path,
            settings=DistillSettings(num_layers=1, epochs=1, **settings),
        )

    with pytest.raises(SettingsError, match="unlabeled_agreed"):
        fit(unlabeled_agreed=True)
    with pytest.raises(SettingsError, match="the teachers are sure of none of the 2 unlabelled texts"):
        fit(unlabeled_confidence=0.9999999)

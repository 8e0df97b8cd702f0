"""Students of a language model's answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from answer_folders import kept_answer, write_answers
from tiny_task import Outcome, tiny_texts, write_csv

from distill.asking.teaching import labelled_by, on_soft_targets, open_answers, teacher_of
from distill.bundle import Bundle
from distill.classifier import digest_of
from distill.models.loading import load_bundle
from distill.settings import DistillSettings

LABELS = ("negative", "positive")
FAST = ("--epochs", 4, "--learning-rate", 2e-3, "--batch-size", 16, "--num-layers", 2, "--max-length", 32)


def answers_to(rows: Any, *, share: float = 0.9, wrong: int = 0) -> list[Any]:
    """Return answers with this probability, the first ones wrong."""
    found = []
    for number, (text, label) in enumerate(rows):
        given = LABELS[1 - LABELS.index(label)] if number < wrong else label
        found.append(kept_answer(text, given, LABELS, shares={name: share if name == given else 1 - share for name in LABELS}))
    return found


@pytest.fixture
def answers(tmp_path: Path) -> str:
    return f"answers:{write_answers(tmp_path / 'answers', LABELS, answers_to(tiny_texts(400)))}"


def test_the_answers_are_a_teacher_with_their_logarithms(answers: str) -> None:
    teacher = teacher_of(open_answers(answers))
    text, label = tiny_texts(1)[0]
    logits = teacher.predict_logits([text])
    assert label == "negative"
    assert logits == pytest.approx(np.log([[0.9, 0.1]]), abs=1e-6)
    again = teacher_of(open_answers(answers))
    assert digest_of(again) == digest_of(teacher)
    assert again.answers.count() == 400


def test_one_more_answer_is_another_teacher(answers: str, tmp_path: Path) -> None:
    more = write_answers(tmp_path / "more", LABELS, answers_to(tiny_texts(401)))
    assert digest_of(teacher_of(open_answers(more))) != digest_of(teacher_of(open_answers(answers)))


def test_what_a_killed_copy_left_is_made_again(answers: str) -> None:
    teacher = teacher_of(open_answers(answers))
    path, whole = teacher.answers.path, teacher.answers.digest()
    path.write_bytes(path.read_bytes()[:1000])
    assert teacher_of(open_answers(answers)).answers.digest() == whole


def test_the_answers_are_the_labels_where_there_are_no_others(answers: str) -> None:
    found = labelled_by(["some/bundle", answers])
    assert found is not None
    assert found.counts == {"negative": 200, "positive": 200}
    assert "Scores on texts cut off them are agreement with that model" in found.notes[0]
    assert labelled_by(["some/bundle"]) is None


def test_a_student_of_answers_learns_their_probabilities_alone_unless_told_otherwise() -> None:
    assert on_soft_targets(DistillSettings(epochs=2)).soft_weight == 1
    assert on_soft_targets(DistillSettings(epochs=2)).epochs == 2
    assert on_soft_targets(DistillSettings(soft_weight=0.5)).soft_weight == 0.5


def test_a_student_is_made_of_answers_alone(
    answers: str, tmp_path: Path, tiny_model: Path, potstill: Callable[..., Outcome]
) -> None:
    done = potstill("distill", answers, "--out", tmp_path / "student", "--student", tiny_model, *FAST, "--json")
    assert done.code == 0, done.err
    assert "agreement with that model" in done.err
    student = load_bundle(Bundle.open(tmp_path / "student"))
    unseen = tiny_texts(200, seed=1)
    logits = student.predict_logits([text for text, _ in unseen])
    assert np.mean([LABELS[row] == label for row, (_, label) in zip(logits.argmax(axis=1), unseen, strict=True)]) > 0.9
    # It learns to be as sure as the answers are: 0.9, not 1.
    confidence = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).max(axis=1)
    assert np.median(confidence) == pytest.approx(0.9, abs=0.05)


def test_gold_test_texts_that_were_answered_measure_student_and_control(
    tmp_path: Path, tiny_model: Path, potstill: Callable[..., Outcome]
) -> None:
    gold = tiny_texts(100, seed=3)
    folder = write_answers(tmp_path / "answers", LABELS, answers_to([*tiny_texts(400), *gold], wrong=20))
    test = write_csv(tmp_path / "gold.csv", gold)
    command = ("distill", f"answers:{folder}", "--student", tiny_model, *FAST)
    done = potstill(*command, "--out", tmp_path / "student", "--test", test, "--control", "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert (report["split"], report["num_texts"]) == ("test", 100)
    # Gold labels measure: the answers to these are right, those to 20 training texts are not.
    assert report["teacher"]["macro_f1"] == 1.0
    unanswered = write_csv(tmp_path / "other.csv", tiny_texts(50, seed=4))
    refused = potstill(*command, "--out", tmp_path / "second", "--validation", unanswered)
    assert refused.code == 3
    assert "no teacher logits are recorded for the text" in refused.complaint
    assert "potstill ask --input" in refused.complaint


def test_gold_labels_train_together_with_the_answers_to_other_texts(
    answers: str, tmp_path: Path, tiny_model: Path, potstill: Callable[..., Outcome]
) -> None:
    gold = write_csv(tmp_path / "gold.csv", tiny_texts(60))
    done = potstill("distill", answers, "--train", gold, "--out", tmp_path / "student", "--student", tiny_model, *FAST)
    assert done.code == 0, done.err
    assert "agreement with that model" not in done.err
    lineage = Bundle.open(tmp_path / "student").manifest.lineage
    assert lineage.unlabeled_fingerprint is not None  # the other 340 answered texts

"""A cascade of two real bundles: the threshold in the manifest, and what it promises."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from answer_folders import kept_answer, write_answers
from tiny_task import Outcome, tiny_texts

from distill.bundle import Bundle
from distill.classifier import top_labels
from distill.data import Splits
from distill.errors import BundleError
from export.runtime.cascade import Cascade, threshold_of
from export.runtime.sessions import OnnxClassifier
from export.threshold import set_cascade


def test_the_threshold_is_kept_and_holds_on_its_texts(
    tiny_student: Bundle, tiny_fallback: Bundle, tiny_splits: Splits, copied: Callable[[Bundle], Bundle]
) -> None:
    student, texts = copied(tiny_student), tiny_splits.validation
    rows = {row["name"]: row for row in set_cascade(student, tiny_fallback, validation=texts, wanted_agreement=0.99)}
    entry = threshold_of(Bundle.open(student.path), tiny_fallback)
    members = OnnxClassifier.open(student), OnnxClassifier.open(tiny_fallback)
    cascade = Cascade(*members, min_confidence=entry.min_confidence, temperature=entry.temperature)
    mixed, alone = cascade.predict_logits(texts.texts), members[1].predict_logits(texts.texts)
    assert (top_labels(mixed) == top_labels(alone)).mean() == pytest.approx(entry.agreement)
    assert rows["cascade"]["agreement_with_fallback"] == pytest.approx(entry.agreement)
    assert entry.agreement >= 0.99
    assert 0 < entry.student_share <= 1
    by_fallback = np.isclose(mixed, alone, atol=1e-6).all(axis=1).mean()
    assert by_fallback == pytest.approx(1 - entry.student_share, abs=0.02)


def test_a_threshold_of_other_graphs_is_refused(
    tiny_student: Bundle, tiny_fallback: Bundle, tiny_splits: Splits, copied: Callable[[Bundle], Bundle]
) -> None:
    student = copied(tiny_student)
    with pytest.raises(BundleError, match="has no cascade threshold; run `potstill cascade"):
        threshold_of(student, tiny_fallback)
    set_cascade(student, tiny_fallback, validation=tiny_splits.validation, wanted_agreement=0.9)
    with pytest.raises(BundleError, match="found with other graphs"):
        threshold_of(Bundle.open(student.path), tiny_student)
    with pytest.raises(BundleError, match="found with other graphs"):
        threshold_of(Bundle.open(student.path).adding({}, dropping=frozenset({"model_int8.onnx"})), tiny_fallback)


def test_the_command_finds_it(
    potstill: Callable[..., Outcome],
    tiny_student: Bundle,
    tiny_fallback: Bundle,
    tiny_csv: Path,
    copied: Callable[[Bundle], Bundle],
) -> None:
    student = copied(tiny_student)
    outcome = potstill("cascade", student.path, tiny_fallback.path, "--train", tiny_csv, "--agreement", "0.95", "--json")
    assert outcome.code == 0, outcome.err
    rows: list[dict[str, Any]] = json.loads(outcome.out)["rows"]
    assert [row["name"] for row in rows] == ["student", "fallback", "cascade"]
    entry = Bundle.open(student.path).manifest.cascade
    assert entry is not None
    assert (entry.student_share, entry.num_texts) == (rows[2]["student_share"], rows[2]["num_texts"])
    told = potstill("cascade", student.path, tiny_fallback.path, "--train", tiny_csv)
    assert f"{entry.student_share:.1%}" in told.out


def test_the_command_promises_or_refuses(
    potstill: Callable[..., Outcome],
    tiny_student: Bundle,
    tiny_fallback: Bundle,
    tiny_csv: Path,
    copied: Callable[[Bundle], Bundle],
) -> None:
    student = copied(tiny_student)
    command = (
        "cascade",
        student.path,
        tiny_fallback.path,
        "--train",
        tiny_csv,
        "--validation-share",
        "0.5",
        "--confidence",
        "0.9",
    )
    told = potstill(*command, "--agreement", "0.9")
    assert told.code == 0, told.err
    entry = Bundle.open(student.path).manifest.cascade
    assert entry is not None
    assert entry.agreement_bound is not None
    assert entry.agreement_bound >= 0.9
    assert f"at least {entry.agreement_bound:.2%} of new texts like these" in told.out
    refused = potstill(*command, "--agreement", "0.999")
    assert refused.code == 4
    assert refused.complaint.startswith("200 texts cannot show an agreement of 0.999 with confidence 0.9: it takes 2302")
    assert Bundle.open(student.path).manifest.cascade == entry


def test_the_answers_of_a_language_model_can_be_the_fallback(
    potstill: Callable[..., Outcome], tiny_student: Bundle, copied: Callable[[Bundle], Bundle], tmp_path: Path
) -> None:
    student, labels = copied(tiny_student), tiny_student.labels
    folder = write_answers(tmp_path / "answers", labels, [kept_answer(text, label, labels) for text, label in tiny_texts(400)])
    told = potstill("cascade", student.path, f"answers:{folder}", "--agreement", "0.9", "--validation-share", "0.25", "--json")
    assert told.code == 0, told.err
    report = json.loads(told.out)
    assert [row["name"] for row in report["rows"]] == ["student", "fallback", "cascade"]
    assert report["threshold"]["num_texts"] == 100
    assert report["rows"][2]["agreement_with_fallback"] >= 0.9

"""Each guard with a planted fault, and with the same data without it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from distill.bundle import Bundle
from distill.data import Dataset, Splits
from distill.evaluation.metrics import evaluate, fit_temperature
from distill.models.loading import load_bundle
from distill.teacher_settings import TeacherSettings
from distill.training.fine_tuning import fit_teacher
from distill.training.origin import Origin
from distill.transfer.guards import (
    leakage_words,
    near_duplicates,
    overfitting_words,
)
from distill.transfer.parameters import divide_logits

SOURCE = ("a quite lovely film with moving music", "dull plot and clumsy actors all the way", "it was the end of a story")


def test_planted_leaks_are_found_exact_and_near() -> None:
    pytest.importorskip("datasketch")
    target = (
        "something else altogether here",
        "A quite lovely  film with moving music",
        "dull plot and clumsy actors all the way!",
    )
    found = near_duplicates(SOURCE, target)
    assert [(one.target_row, one.source_row) for one in found] == [(1, 0), (2, 1)]
    assert found[0].similarity == 1
    shingles = len("dull plot and clumsy actors all the way") - 4  # of five characters each; the ! adds one
    assert found[1].similarity == pytest.approx(shingles / (shingles + 1))
    assert near_duplicates(SOURCE, ("a lovely day at sea", "the plot was dull")) == []


def test_leaks_are_said_in_words() -> None:
    pytest.importorskip("datasketch")
    sets = [
        Dataset(texts, np.zeros(len(texts), dtype=np.int64), ("a", "b"), name)
        for texts, name in ((SOURCE, "s"), (SOURCE[1:2], "t"))
    ]
    said = leakage_words(*sets, near_duplicates(SOURCE, SOURCE[1:2]))
    assert re.match(r"leakage: 1 of 1 texts of t .* s \(1 exactly\).* 'dull plot", said)
    assert leakage_words(*sets, []) == ""


def test_learning_by_heart_is_said_and_chance_is_not() -> None:
    labels = np.tile([0, 1], 200)
    right = np.eye(2, dtype=np.float32)[labels]
    flipped = right.copy()
    flipped[:160] = flipped[:160, ::-1]  # 40 % wrong: macro-F1 0.6
    said = overfitting_words(train_labels=labels, train_logits=right, validation_labels=labels, validation_logits=flipped)
    assert re.match(r"overfitting: .*1\.000.*training.*0\.600.*validation", said)
    assert "--freeze-below" in said
    fewer = right.copy()
    fewer[:32] = fewer[:32, ::-1]  # 8 % wrong: within the allowance of 0.1
    assert not overfitting_words(train_labels=labels, train_logits=right, validation_labels=labels, validation_logits=fewer)
    # The same 40 % on 5 texts: the standard error of 3 of 5 is 0.22, so that a gap of 0.4 may be chance.
    assert not overfitting_words(
        train_labels=labels,
        train_logits=right,
        validation_labels=labels[:5],
        validation_logits=np.vstack([right[:3], right[3:5, ::-1]]),
    )


def test_the_temperature_of_planted_overconfidence_is_found() -> None:
    generator = np.random.default_rng(1)
    share = generator.uniform(0.05, 0.95, 4000)  # true probabilities of class 1
    labels = (generator.uniform(size=4000) < share).astype(np.int64)
    honest = np.stack([np.log(1 - share), np.log(share)], axis=1).astype(np.float32)
    assert fit_temperature(honest, labels) == pytest.approx(1.0, abs=0.08)
    assert fit_temperature(3 * honest, labels) == pytest.approx(3.0, abs=0.24)
    assert fit_temperature(honest / 2, labels) == pytest.approx(0.5, abs=0.04)


def test_the_bundle_is_calibrated_and_says_by_what(tiny_teacher: Bundle, tiny_splits: Splits, tmp_path: Path) -> None:
    # A third of the labels are wrong: a teacher that learnt the right ones is far too sure of itself on these.
    validation = tiny_splits.validation
    noisy = validation.label_ids.copy()
    noisy[::3] = 1 - noisy[::3]
    validation = replace(validation, label_ids=noisy)
    settings = TeacherSettings(epochs=1, learning_rate=1e-6, max_length=32, calibrate=True)
    bundle = fit_teacher(
        train=tiny_splits.train, validation=validation, out=tmp_path / "out", settings=settings, origin=Origin(tiny_teacher)
    )
    temperature = bundle.manifest.calibration_temperature
    assert temperature is not None
    assert temperature > 1.5
    before = load_bundle(tiny_teacher).predict_logits(validation.texts)
    after = load_bundle(Bundle.open(bundle.path)).predict_logits(validation.texts)
    np.testing.assert_allclose(after * temperature, before, atol=0.05)  # one epoch at almost no rate changed nothing else
    was, now = (evaluate(labels=noisy, logits=logits, label_names=validation.labels) for logits in (before, after))
    assert now.negative_log_likelihood < was.negative_log_likelihood
    assert now.expected_calibration_error < was.expected_calibration_error


def test_calibrating_scales_the_head_alone(tiny_teacher: Bundle) -> None:
    classifier = load_bundle(tiny_teacher)
    before = classifier.predict_logits(["a lovely film", "dull"])
    divide_logits(classifier.model, 2.0)
    np.testing.assert_allclose(classifier.predict_logits(["a lovely film", "dull"]), before / 2, atol=1e-5)
    old = load_bundle(tiny_teacher).model.state_dict()
    changed = [name for name, tensor in classifier.model.state_dict().items() if not torch.equal(tensor, old[name])]
    assert changed == ["classifier.weight", "classifier.bias"]

"""Settings chosen from the texts, by value."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_task import BAD_WORDS, GOOD_WORDS, PLAIN_WORDS, Listening

from distill import fit_teacher
from distill.data import Dataset
from distill.errors import DatasetError
from distill.teacher_settings import TeacherSettings
from distill.teachers.defaults import DataShape, adapted, chosen_words, tries_both_methods
from distill.teachers.remedies import remedy, shortcoming


def shape_of(texts: int, *, counts: tuple[int, ...] | None = None, tokens: int = 30, reads: int = 512) -> DataShape:
    """Return the shape of texts that all have as many tokens."""
    counts = counts or (texts - texts // 2, texts // 2)
    return DataShape(label_counts=counts, token_lengths=np.full(100, tokens), max_length=reads, num_texts=texts)


@pytest.mark.parametrize(
    ("texts", "epochs", "batch_size"),
    [
        (40, 20, 16),  # 3 steps an epoch: as many epochs as allowed
        (700, 12, 16),  # 44 steps an epoch, 528 in all
        (8_600, 3, 32),  # the usual number
        (200_000, 2, 32),
        (1_000_000, 1, 32),
    ],
)
def test_epochs_and_batches_follow_from_the_number_of_texts(texts: int, epochs: int, batch_size: int) -> None:
    found = adapted(TeacherSettings(), shape_of(texts))
    assert (found.epochs, found.batch_size) == (epochs, batch_size)
    assert found.patience == max(2, math.ceil(epochs / 4))


@pytest.mark.parametrize(("texts", "epochs"), [(700, 6), (8_600, 2), (1_000_000, 1)])
def test_a_quick_teacher_makes_about_half_the_steps(texts: int, epochs: int) -> None:
    assert adapted(TeacherSettings(effort="quick"), shape_of(texts)).epochs == epochs
    assert tries_both_methods(TeacherSettings(effort="quick"), shape_of(700))  # says how much, not by which method


def test_what_was_given_is_kept() -> None:
    given = TeacherSettings(epochs=2, batch_size=8, patience=1, class_weights="none", max_length=64)
    assert adapted(given, shape_of(700, counts=(660, 40), tokens=400)) == given


@pytest.mark.parametrize(
    ("counts", "weights"),
    [
        ((350, 350), "none"),
        ((500, 150, 50), "balanced"),  # ten times as many
        ((360, 340, 1), "none"),  # one text must not outweigh its batch
        ((700, 0, 600), "none"),
    ],
)
def test_classes_are_weighted_where_one_is_rare(counts: tuple[int, ...], weights: str) -> None:
    assert adapted(TeacherSettings(), shape_of(sum(counts), counts=counts)).class_weights == weights


@pytest.mark.parametrize(
    ("tokens", "reads", "length"),
    [(30, 512, 128), (200, 512, 208), (900, 512, 512), (30, 64, 64)],
)
def test_max_length_follows_from_the_texts_up_to_what_the_model_reads(tokens: int, reads: int, length: int) -> None:
    shape = shape_of(700, tokens=tokens, reads=reads)
    assert adapted(TeacherSettings(), shape).max_length == length


def test_a_longer_limit_is_reported_with_what_it_saves_and_costs() -> None:
    shape, given = shape_of(700, tokens=256), TeacherSettings()
    line = next(line for line in chosen_words(given, adapted(given, shape), shape) if line.startswith("max_length"))
    assert "256 truncates 0.0%" in line
    assert "128 would truncate 100.0% and read 50%" in line


@pytest.mark.parametrize(
    ("texts", "given", "both"),
    [
        (700, {}, True),
        (700, {"seed": 3, "max_length": 64}, True),
        (700, {"epochs": 3}, False),
        (700, {"transfer": "parameters"}, False),
        (2_000, {}, False),
    ],
)
def test_both_methods_compete_where_texts_are_few_and_nobody_chose(texts: int, given: dict[str, Any], both: bool) -> None:
    assert tries_both_methods(TeacherSettings(**given), shape_of(texts)) == both


@pytest.mark.parametrize(
    ("settings", "shape", "flag"),
    [
        ({"max_length": 128}, shape_of(700, tokens=400), "--max-length 512"),
        ({"class_weights": "none"}, shape_of(700, counts=(600, 100)), "--class-weights balanced"),
        ({"epochs": 3, "batch_size": 32}, shape_of(700), "--epochs 20"),  # 66 steps; 500 wanted, in 20 epochs at most
        ({"learning_rate": 1e-6}, shape_of(9_000), "--learning-rate"),
        ({}, shape_of(100), "--transfer features"),  # made all the epochs that are chosen
    ],
)
def test_the_remedy_fits_the_case(settings: dict[str, Any], shape: DataShape, flag: str) -> None:
    assert flag in remedy(adapted(TeacherSettings(**settings), shape), shape, "--transfer features")


def test_a_teacher_of_several_labels_is_compared_with_tfidf() -> None:
    films = tuple(
        f"{word} {thing} {number}" for number in range(4) for word in ("lovely", "dull") for thing in ("film", "music")
    )
    label_ids = np.array([["lovely" in text, "music" in text] for text in films]).astype(np.int64)
    data = Dataset(films, label_ids, ("good", "music"), "here")
    half = np.where(label_ids == 1, 1, -1).astype(np.float32)
    half[::4, 0] *= -1  # a quarter of the texts wrong in one label: better than an answer that ignores them
    found = shortcoming(
        half, data, train=data, settings=TeacherSettings(), shape=shape_of(len(films)), other_method="--transfer features"
    )
    assert found is not None
    assert "no better than TF-IDF with logistic regression" in found


def unbalanced_long_texts(count: int, *, seed: int) -> Dataset:
    """Return texts of 57 words of the tiny task: few of them say something, and a tenth of the texts are negative."""
    generator = np.random.default_rng(seed)
    texts, labels = [], []
    for index in range(count):
        label, telling = ("negative", BAD_WORDS) if index % 10 == 0 else ("positive", GOOD_WORDS)
        words = [*generator.choice(PLAIN_WORDS, 50), *generator.choice(telling, 5)]
        texts.append(" ".join(generator.permutation(words)))
        labels.append(label)
    return Dataset.from_texts(texts, labels)


def test_few_unbalanced_texts_no_longer_end_in_the_commonest_label(tiny_model: Path, tmp_path: Path) -> None:
    train, validation = unbalanced_long_texts(200, seed=0), unbalanced_long_texts(60, seed=1)
    former = TeacherSettings(epochs=3, batch_size=32, patience=2, class_weights="none", max_length=64)
    before, after = Listening(), Listening()
    bundle = fit_teacher(
        str(tiny_model), train=train, validation=validation, out=tmp_path / "0", settings=former, reporter=before
    )
    assert bundle.manifest.quality["pytorch"]["macro_f1"] < 0.5
    assert "--class-weights balanced" in before.said[-1]
    bundle = fit_teacher(str(tiny_model), train=train, validation=validation, out=tmp_path / "1", reporter=after)
    assert bundle.manifest.quality["pytorch"]["macro_f1"] > 0.9
    assert not any("warning" in line for line in after.said)
    made = bundle.manifest.settings["teacher"]
    assert (made["transfer"], made["class_weights"], made["max_length"]) == ("features", "balanced", 64)


def test_texts_of_one_label_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    alike = Dataset.from_texts(["a film", "the plot"], ["negative", "negative"], names=["negative", "positive"])
    with pytest.raises(DatasetError, match="negative"):
        fit_teacher(str(tiny_model), train=alike, validation=alike, out=tmp_path)

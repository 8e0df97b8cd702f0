"""What the harness adds to `potstill teacher` in the transfer scenario's other tasks."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from benchmarks.transfer.bench import Bench, Texts, quality_of
from benchmarks.transfer.parts import candidate_of, labelled, spread_out
from distill.bundle import Bundle
from distill.data import Dataset
from distill.models import loading
from distill.models.torch_classifier import TorchClassifier
from distill.progress import SilentReporter
from distill.settings import BUILTIN_MINILM
from distill.teacher_settings import TeacherSettings


def test_a_two_way_teachers_answers_stand_under_the_names_of_three_labels() -> None:
    logits = np.array([[0.25, 1.5], [2.0, -1.0]], dtype=np.float32)
    found = spread_out(logits, ("positive", "negative"), ("negative", "neutral", "positive"))
    assert found[:, [0, 2]].tolist() == [[1.5, 0.25], [-1.0, 2.0]]
    assert found.argmax(axis=1).tolist() == [0, 2]  # and never neutral
    assert found[:, 1].max() < -1000


def test_a_floor_learns_from_all_the_labels_that_a_carried_model_is_given() -> None:
    texts = tuple(f"text {number}" for number in range(40))
    train = Dataset(texts, np.arange(40) % 2, ("even", "odd"), "numbers")
    few = labelled(Texts(train, train, train), TeacherSettings(shots=10, seed=0))
    assert few.counts == {"even": 10, "odd": 10}
    assert len(set(few.texts)) == 20
    assert all(int(text.removeprefix("text ")) % 2 == label for text, label in zip(few.texts, few.label_ids, strict=True))


def test_a_row_has_the_answers_of_its_bundle_and_their_quality(tiny_teacher: Bundle, tiny_test: Dataset) -> None:
    found = quality_of(tiny_teacher, tiny_test)
    right = [int(given) == label for given, label in zip(found["predicted"], tiny_test.label_ids, strict=True)]
    assert found["accuracy"] == pytest.approx(np.mean(right))
    assert found["macro_f1"] > 0.8  # a coin has 0.5


def test_candidates_are_made_once_of_the_packaged_encoder(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, asked = loading.load_pretrained, list[str]()
    packaged = load(str(tiny_model), labels=("negative", "positive"), max_length=32, seed=0)

    def pretrained(source: str, **_: object) -> TorchClassifier:
        asked.append(source)
        return packaged

    monkeypatch.setattr(loading, "load_pretrained", pretrained)
    candidate = partial(candidate_of, Bench(tmp_path, SilentReporter()), seed=1)  # the packaged one was drawn with 0
    assert candidate("minilm") == BUILTIN_MINILM
    lowest = load(str(candidate("lowest_3_layers")), labels=packaged.labels, max_length=32, seed=0)
    assert lowest.model.config.num_hidden_layers == 3
    assert packaged.model.config.num_hidden_layers == 4
    known = packaged.model.get_input_embeddings().weight.detach().clone()
    drawn = load(str(candidate("random")), labels=packaged.labels, max_length=32, seed=0)
    assert lowest.model.get_input_embeddings().weight.equal(known)
    assert not drawn.model.get_input_embeddings().weight.equal(known)
    assert candidate("random") == tmp_path / "random-1"
    assert asked == [BUILTIN_MINILM] * 2  # the third was there

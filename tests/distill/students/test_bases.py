"""What recipes' students are made of: by width, family and language, and where minilm is not installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_models import random_classifier
from tiny_task import tiny_texts

from distill.errors import SettingsError
from distill.models import packaged
from distill.models.torch_classifier import TorchClassifier
from distill.settings import BUILTIN_MINILM
from distill.students.bases import base_of
from distill.teachers.teacher import Teacher

ENGLISH = [text for text, _ in tiny_texts(50)]
GERMAN = ["die herausragende schauspielerin überzeugte zuschauer", "langweilige geschichte ohne spannung und höhepunkte"]


class Remote:
    """A teacher that is no PyTorch model."""

    labels = ("negative", "positive")
    problem_type = "single_label_classification"

    def predict_logits(self, texts: Any) -> Any:
        return np.zeros((len(texts), 2), dtype=np.float32)


def teacher(member: Any) -> Teacher:
    return Teacher((member,), ("name",), (None,))


def bert(tiny_model: Path, width: int, family: str = "bert") -> TorchClassifier:
    """Return a random model whose tokenizer makes one token of each word."""
    return random_classifier(family, tiny_model, **({"dim": width} if family == "distilbert" else {"hidden_size": width}))


@pytest.mark.parametrize(
    ("family", "width", "texts", "source", "because"),
    [
        ("bert", 384, ENGLISH, None, "narrow enough"),
        ("bert", 768, ENGLISH, BUILTIN_MINILM, "768"),
        ("roberta", 768, ENGLISH, BUILTIN_MINILM, "768"),
        ("distilbert", 384, ENGLISH, BUILTIN_MINILM, "distilbert"),
        ("bert", 768, GERMAN, None, "times the teacher's tokens"),
        ("bert", 768, ["ดีมาก ๆ", "ไม่ชอบ เลย"], None, "unknown"),
    ],
)
def test_wide_teachers_of_english_texts_give_way_to_minilm(
    family: str, width: int, texts: list[str], source: str | None, because: str, tiny_model: Path
) -> None:
    found = base_of(teacher(bert(tiny_model, width, family)), texts)
    assert found.source == source
    assert because in found.reason


def test_the_tokenizer_is_that_of_the_base_and_does_not_truncate(tiny_model: Path) -> None:
    long = " ".join(["unbelievably"] * 100)
    own, other = (base_of(teacher(bert(tiny_model, width)), ENGLISH).tokenizer for width in (384, 768))
    assert len(own.encode([long])[0]) == 102  # one token a word
    assert len(other.encode([long])[0]) > 102
    assert len(other.encode([(long, long)])[0]) > 202


def test_a_teacher_without_layers_needs_minilm(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert base_of(teacher(Remote()), ENGLISH).source == BUILTIN_MINILM
    monkeypatch.setattr(packaged, "_MINILM_PACKAGE", "not_installed")
    with pytest.raises(SettingsError, match=r"--student, or install builtin:minilm: pip install 'potstill\[demo\]'"):
        base_of(teacher(Remote()), ENGLISH)
    found = base_of(teacher(bert(tiny_model, 768)), ENGLISH)
    assert found.source is None
    assert "not installed" in found.reason

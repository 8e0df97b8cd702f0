"""Another pretrained model as student, with a tokenizer of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_task import BAD_WORDS, GOOD_WORDS, PLAIN_WORDS
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from distill.bundle import Bundle
from distill.data import Splits
from distill.errors import SettingsError
from distill.models.loading import load_bundle
from distill.settings import DistillSettings
from distill.training.distillation import fit_student


def distil(teacher: Any, splits: Splits, out: Path, **changes: Any) -> Bundle:
    settings = DistillSettings(**{"epochs": 1, "learning_rate": 1e-3, "batch_size": 16, "mixed_precision": "no", **changes})
    return fit_student(teacher, train=splits.train.take(range(64)), validation=splits.validation, out=out, settings=settings)


@pytest.fixture
def other_model(tmp_path: Path) -> Path:
    """Return a folder with an untrained RoBERTa of 2 layers and a byte-pair tokenizer of its own."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    special = ["<s>", "<pad>", "</s>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([" ".join((*GOOD_WORDS, *BAD_WORDS, *PLAIN_WORDS))] * 3, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>").save_pretrained(tmp_path / "other")
    config = RobertaConfig(
        vocab_size=300, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=32, pad_token_id=1
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        RobertaForSequenceClassification(config).save_pretrained(tmp_path / "other")
    return tmp_path / "other"


def test_another_model_learns_with_a_tokenizer_of_its_own(
    tiny_teacher: Bundle, tiny_splits: Splits, other_model: Path, tmp_path: Path
) -> None:
    asked = {"student": str(other_model), "vocabulary_size": 290, "augment": 1}
    bundle = distil(tiny_teacher, tiny_splits, tmp_path / "student", **asked)
    manifest, student = Bundle.open(bundle.path).manifest, load_bundle(bundle)
    assert student.model.config.model_type == "roberta"
    assert student.model.config.num_hidden_layers == 2
    assert student.tokenizer.vocabulary_size == 290
    assert (manifest.max_length, student.model.config.max_position_embeddings) == (32, 34)
    assert (manifest.lineage.base_model, manifest.settings["student"]["student"]) == ("other", "other")
    assert str(tmp_path) not in (bundle.path / "manifest.json").read_text()
    plain = AutoModelForSequenceClassification.from_pretrained(bundle.path).eval()
    texts = list(tiny_splits.validation.texts[:8])
    inputs = AutoTokenizer.from_pretrained(bundle.path)(texts, padding=True, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        np.testing.assert_allclose(plain(**inputs).logits.numpy(), student.predict_logits(texts), atol=1e-5)


def test_another_models_layers_can_be_named_and_its_limits_hold(
    tiny_teacher: Bundle, tiny_splits: Splits, other_model: Path, tmp_path: Path
) -> None:
    one = distil(tiny_teacher, tiny_splits, tmp_path / "student", student=str(other_model), num_layers=1)
    assert load_bundle(one).model.config.num_hidden_layers == 1
    with pytest.raises(SettingsError, match="max_length is 600, but this model has positions for 510 tokens"):
        distil(tiny_teacher, tiny_splits, tmp_path / "student", student=str(other_model), max_length=600)


def test_a_student_may_not_replace_the_model_it_is_made_of(
    tiny_teacher: Bundle, tiny_splits: Splits, other_model: Path
) -> None:
    with pytest.raises(SettingsError, match="would replace the model it is made of"):
        distil(tiny_teacher, tiny_splits, other_model, student=str(other_model))

"""A teacher and a narrower, shallower student of three classes, with one tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from distill.models.torch_classifier import TorchClassifier

MakePair = Callable[..., tuple[TorchClassifier, TorchClassifier]]
LABELS = ("bad", "so-so", "good")


@pytest.fixture
def make_pair(make_classifier: Callable[..., TorchClassifier]) -> MakePair:
    """Return a function that makes (student, teacher): 2 layers of 16 in 2 heads, and 4 layers of 32 in 4 heads."""

    def make(**student_changes: Any) -> tuple[TorchClassifier, TorchClassifier]:
        student = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2, **student_changes}
        return _bert(0, **student), _bert(1, hidden_size=32, num_attention_heads=4, num_hidden_layers=4)

    def _bert(seed: int, **sizes: Any) -> TorchClassifier:
        like = make_classifier("bert", num_hidden_layers=1)
        config = BertConfig(
            vocab_size=like.tokenizer.vocabulary_size,
            intermediate_size=32,
            max_position_embeddings=64,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            id2label=dict(enumerate(LABELS)),
            label2id={name: index for index, name in enumerate(LABELS)},
            **sizes,
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = BertForSequenceClassification(config).eval()
            # Fresh weights hardly tell one token from another: with larger ones attention is far from even.
            for parameter in model.parameters():
                parameter.data = parameter.data * (10 if parameter.ndim == 2 else 1)
        return replace(like, model=model, labels=LABELS)

    return make

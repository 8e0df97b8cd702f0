"""Untrained classifiers of every family, with weights large enough that a wrong one shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from distill.models.loading import load_pretrained
from distill.models.torch_classifier import TorchClassifier

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
OF_DEBERTA_V3 = {
    "relative_attention": True,
    "position_buckets": 16,
    "max_relative_positions": -1,
    "pos_att_type": ["p2c", "c2p"],
    "share_att_key": True,
    "norm_rel_ebd": "layer_norm",
    "position_biased_input": False,
}
"""Its relative attention, as released; without it a deberta-v2 has absolute positions."""
SIZES_OF_DISTILBERT = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}


def random_classifier(family: str, tiny_model: Path, **more: Any) -> TorchClassifier:
    """Return a 2-layer classifier of a family with large random weights and the tiny task's tokenizer.

    Args:
        family: A model type.
        tiny_model: Folder of the tokenizer.
        more: Settings of its config.
    """
    classifier = load_pretrained(str(tiny_model), labels=("negative", "positive"), max_length=32, seed=0)
    sizes = SIZES_OF_DISTILBERT if family == "distilbert" else SIZES
    config = AutoConfig.for_model(
        family, **{"vocab_size": 34, "pad_token_id": 0, "max_position_embeddings": 64, **sizes, **more}
    )
    classifier.tokenizer.pad_id = config.pad_token_id
    with torch.random.fork_rng():
        torch.manual_seed(0)
        classifier.model = AutoModelForSequenceClassification.from_config(config).eval()
        for parameter in classifier.model.parameters():
            # biases and norms are all 0 and 1 before training, and would hide one that is left out
            parameter.data = parameter.data * 10 if parameter.ndim == 2 else parameter.data + torch.randn_like(parameter) / 5
    return classifier

"""Hugging Face folders with classifiers, as `save_pretrained` writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from random_models import SIZES, SIZES_OF_DISTILBERT
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from distill.bundle import Bundle


def save_random(folder: Path, tiny_model: Path, family: str = "bert", **more: Any) -> Path:
    """Save a random classifier of a family with the tiny task's tokenizer.

    Args:
        folder: Where to.
        tiny_model: Folder of the tokenizer.
        family: A model type.
        more: Settings of its config.
    """
    sizes = SIZES_OF_DISTILBERT if family == "distilbert" else SIZES
    values = {"vocab_size": 34, "pad_token_id": 0, "max_position_embeddings": 64, "num_labels": 3, **sizes, **more}
    config = AutoConfig.for_model(family, **values)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_config(config).eval()
        for parameter in model.parameters():
            parameter.data = parameter.data * 5 if parameter.ndim == 2 else parameter.data + torch.randn_like(parameter) / 5
        model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    return folder


def save_trained(folder: Path, teacher: Bundle, labels: tuple[str, ...], *, flipped: bool = False) -> Path:
    """Save a trained teacher of two labels with these label names; `flipped`: its first logit is now of the second label."""
    model = AutoModelForSequenceClassification.from_pretrained(teacher.path, id2label=dict(enumerate(labels)))
    if flipped:
        head = model.classifier
        head.weight.data, head.bias.data = head.weight.data.flip(0), head.bias.data.flip(0)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(teacher.path).save_pretrained(folder)
    return folder


def save_encoder(folder: Path, classifier: Path) -> Path:
    """Save the encoder of a classifier, without its head."""
    AutoModel.from_pretrained(classifier).save_pretrained(folder)
    AutoTokenizer.from_pretrained(classifier).save_pretrained(folder)
    return folder

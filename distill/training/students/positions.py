"""Cutting the table of positions to the tokens that a text can have."""

from __future__ import annotations

import copy

from distill.training.models import TorchClassifier, position_offset
from distill.training.students.rebuilding import rebuilt

_TABLE = "embeddings.position_embeddings.weight"


def trim_positions(classifier: TorchClassifier) -> TorchClassifier:
    """Return the classifier with positions up to its tokenizer's `max_length`: no text reaches a later one.

    Families whose positions are not rows of a table (relative, rotary) are returned as they are.
    """
    config = classifier.model.config
    weights = classifier.model.state_dict()
    rows = position_offset(config) + classifier.tokenizer.max_length
    names = [name for name in weights if name.endswith(_TABLE)]
    if len(names) != 1 or len(weights[names[0]]) != config.max_position_embeddings or rows >= len(weights[names[0]]):
        return classifier
    if getattr(config, "relative_attention", False):  # DeBERTa counts its distances by the same number
        return classifier
    shorter = copy.deepcopy(config)
    shorter.max_position_embeddings = rows
    return rebuilt(classifier, config=shorter, weights={**weights, names[0]: weights[names[0]][:rows]})

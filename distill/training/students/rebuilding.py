"""What every step of building ends with: the same classifier with another config, other weights, another tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor
from transformers import PretrainedConfig

from distill.errors import SettingsError
from distill.tokenization import TextTokenizer
from distill.training.devices import on_device
from distill.training.models import TorchClassifier, blank_model


def rebuilt(
    classifier: TorchClassifier,
    *,
    config: PretrainedConfig,
    weights: Mapping[str, Tensor],
    tokenizer: TextTokenizer | None = None,
) -> TorchClassifier:
    """Return a new classifier of this config with exactly these weights.

    Args:
        classifier: Gives labels, origin, device and what is not named below.
        config: The new model's; its class may be another than the old one's.
        weights: Every weight of the new model by its name; none may be missing, for it would be random.
        tokenizer: The new one; None keeps the old.
    """
    model = blank_model(config)
    model.load_state_dict(weights, strict=True)
    return replace(classifier, model=on_device(model, classifier.model.device), tokenizer=tokenizer or classifier.tokenizer)


def embedding_name(classifier: TorchClassifier) -> str:
    """Return the name of the table of token embeddings among the model's weights.

    Raises:
        SettingsError: There is no such table.
    """
    table = getattr(classifier.model.get_input_embeddings(), "weight", None)
    for name, parameter in classifier.model.named_parameters():
        if parameter is table:
            return name
    raise SettingsError(f"{type(classifier.model).__name__} has no table of token embeddings")

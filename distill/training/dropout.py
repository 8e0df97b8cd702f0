"""Setting the dropout of a model that is already built, whatever its family calls it."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

# The names that BERT's relatives give it in their configs.
_CONFIG_NAMES = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "classifier_dropout",
    "classifier_dropout_prob",
    "dropout",
    "attention_dropout",
    "activation_dropout",
    "seq_classif_dropout",
    "pooler_dropout",
    "cls_dropout",
    "embedding_dropout",
    "mlp_dropout",
)
_RATE = "attention_dropout"


def set_dropout(model: PreTrainedModel, dropout: float | None) -> None:
    """Give every dropout of the model this rate, in its modules and in its config; None leaves it as it is."""
    if dropout is None:
        return
    for name in _CONFIG_NAMES:
        if hasattr(model.config, name):
            setattr(model.config, name, dropout)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
        elif _hands_a_rate_on(module):
            setattr(module, _RATE, dropout)


def has_dropout(model: PreTrainedModel) -> bool:
    """Return whether training this model draws anything at random."""
    modules = list(model.modules())
    drawing = any(module.p > 0 for module in modules if isinstance(module, nn.Dropout))
    return drawing or any(getattr(module, _RATE) > 0 for module in modules if _hands_a_rate_on(module))


def _hands_a_rate_on(module: nn.Module) -> bool:
    # ModernBERT gives the attention kernel a number; ALBERT's attribute of the same name is a module
    return isinstance(getattr(module, _RATE, None), float)

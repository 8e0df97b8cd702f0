"""What model families call their parts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from transformers import PreTrainedModel

from distill.models.devices import Compute

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


LONGEST_QUICK_TEXT = 128
"""Tokens up to which plain attention was faster; at 256 its score matrices cost more than the kernel saves."""


@contextmanager
def quick_attention(model: PreTrainedModel, *, compute: Compute, longest: int) -> Iterator[None]:
    """Train with plain attention inside the block where that is faster: bf16 on a CPU, no dropout, short texts.

    The CPU's fused kernel recomputes its products for the backward pass, outside the matrix unit: at 26 tokens a
    training step of a 2-layer student took 79 ms with it and 44 ms without. In fp32 the two are alike.

    Args:
        model: Left with the kernel it came with.
        compute: Numbers it will train in.
        longest: Tokens of the longest text.
    """
    before = model.config._attn_implementation
    quick = before == "sdpa" and compute == "bf16" and model.device.type == "cpu" and longest <= LONGEST_QUICK_TEXT
    if not quick or has_dropout(model):
        yield
        return
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)

"""What each model family calls its parts: the one table that students, losses, transfer and export read.

To add a family, add an entry to `FAMILIES`. A family that is not there is read by BERT's names where it has them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from distill.errors import SettingsError

Feature = Literal["attention losses", "hidden_size", "fused graph", "frozen features"]


@dataclass(frozen=True)
class Family:
    """Names of the modules of one architecture, as in its `state_dict`; the defaults are BERT's.

    Attributes:
        supports: What is implemented for this family and needs more than the names. Attention losses need attention that
            is softmax(Q Kᵀ / √d); `hidden_size` needs norms after each block and a head of two linear layers; frozen
            features need all of this, and tanh between the two linear layers.
        layers: The list of encoder layers, relative to the base model; None if the layers share their weights.
        query: Linear layer of the attention, relative to an encoder layer, as are the next seven.
        key: Likewise.
        value: Likewise.
        attention_output: Linear layer after the attention.
        attention_norm: Layer normalization after that.
        up: First linear layer of the feed-forward.
        down: Second linear layer of the feed-forward.
        norm: Layer normalization after that.
        embedding_norm: Layer normalization of the embeddings, relative to the base model.
        pooler: First linear layer of the classification head, relative to the whole model; it reads the first token.
        pooler_activation: Activation between the head's two linear layers.
        head: Last linear layer, which returns the logits.
        intermediate_size: Key of the config that holds the number of neurons in the feed-forward.
        activation: Key of the config that holds the activation of the feed-forward.
        positions_after: Positions are counted from the row after this token id, and padding has the row of its own id:
            the padding id of the config, or a fixed id. None counts from row 0.
    """

    supports: frozenset[Feature] = frozenset()
    layers: str | None = "encoder.layer"
    query: str = "attention.self.query"
    key: str = "attention.self.key"
    value: str = "attention.self.value"
    attention_output: str = "attention.output.dense"
    attention_norm: str = "attention.output.LayerNorm"
    up: str = "intermediate.dense"
    down: str = "output.dense"
    norm: str = "output.LayerNorm"
    embedding_norm: str = "embeddings.LayerNorm"
    pooler: str = "classifier.dense"
    pooler_activation: Literal["tanh", "relu", "gelu"] = "tanh"
    head: str = "classifier.out_proj"
    intermediate_size: str = "intermediate_size"
    activation: str = "hidden_act"
    positions_after: Literal["pad_token_id"] | int | None = None


_ALL: frozenset[Feature] = frozenset({"attention losses", "hidden_size", "fused graph", "frozen features"})
_ROBERTA = Family(supports=_ALL, positions_after="pad_token_id")

FAMILIES: dict[str, Family] = {
    "bert": Family(supports=_ALL, pooler="bert.pooler.dense", head="classifier"),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "electra": Family(supports=_ALL - {"frozen features"}, pooler_activation="gelu"),
    "distilbert": Family(
        supports=frozenset({"attention losses", "fused graph"}),
        layers="transformer.layer",
        query="attention.q_lin",
        key="attention.k_lin",
        value="attention.v_lin",
        attention_output="attention.out_lin",
        attention_norm="sa_layer_norm",
        up="ffn.lin1",
        down="ffn.lin2",
        norm="output_layer_norm",
        pooler="pre_classifier",
        pooler_activation="relu",
        head="classifier",
        intermediate_size="hidden_dim",
        activation="activation",
    ),
    "mpnet": Family(
        supports=frozenset({"fused graph"}),
        query="attention.attn.q",
        key="attention.attn.k",
        value="attention.attn.v",
        attention_output="attention.attn.o",
        attention_norm="attention.LayerNorm",
        positions_after=1,  # fixed in its code, whatever the config's padding id is
    ),
    "mobilebert": Family(supports=frozenset({"fused graph"}), pooler="mobilebert.pooler.dense", head="classifier"),
    "albert": Family(
        supports=frozenset({"attention losses"}),
        layers=None,
        query="attention.query",
        key="attention.key",
        value="attention.value",
        attention_output="attention.dense",
        attention_norm="attention.LayerNorm",
        up="ffn",
        down="ffn_output",
        norm="full_layer_layer_norm",
        pooler="albert.pooler",
        head="classifier",
    ),
}
"""By `model_type` of the config."""

_LIKE_BERT = Family()


def family_of(config: PretrainedConfig) -> Family:
    """Return the names of a model's parts by its config."""
    return FAMILIES.get(config.model_type, _LIKE_BERT)


def families_with(feature: Feature) -> str:
    """Return the families that support a feature, for a message."""
    return ", ".join(sorted(name for name, family in FAMILIES.items() if feature in family.supports))


class InLayer(NamedTuple):
    """The name of a module or weight inside an encoder layer, in three pieces.

    Attributes:
        layers: Name of the list of layers.
        number: Index of the layer, from 0.
        part: The rest of the name, relative to the layer.
    """

    layers: str
    number: int
    part: str


_LISTS = "|".join(sorted({re.escape(family.layers) for family in FAMILIES.values() if family.layers}))
_IN_LAYER = re.compile(rf"(?P<layers>(?:.*\.)?(?:{_LISTS}))\.(?P<number>\d+)(?:\.(?P<part>.*))?")


def in_layer(name: str) -> InLayer | None:
    """Split the name of a module or weight that is in an encoder layer, or is one; None for any other."""
    match = _IN_LAYER.fullmatch(name)
    return None if match is None else InLayer(match["layers"], int(match["number"]), match["part"] or "")


def layer_names(model: PreTrainedModel) -> list[str]:
    """Return the names of the encoder layers, lowest first.

    Raises:
        SettingsError: The model has no list of layers, or the list has a name that no family uses.
    """
    places = (in_layer(name) for name, _ in model.named_modules())
    names = [f"{place.layers}.{place.number}" for place in places if place is not None and not place.part]
    if not names:
        raise SettingsError(
            f"cannot find the encoder layers of a {model.config.model_type} model; use a model of BERT's family, or add its "
            "names to distill/models/families.py"
        )
    return names


def position_padding_id(config: PretrainedConfig) -> int | None:
    """Return the token id after whose row positions are counted; None counts from row 0."""
    after = family_of(config).positions_after
    return int(config.pad_token_id or 0) if after == "pad_token_id" else after


def position_offset(config: PretrainedConfig) -> int:
    """Return how many rows of the position table no token uses."""
    padding_id = position_padding_id(config)
    return 0 if padding_id is None else padding_id + 1


def set_dropout(model: PreTrainedModel, dropout: float | None) -> None:
    """Set every dropout rate of the model, in its modules and in its config; None leaves them as they are."""
    if dropout is None:
        return
    for name, value in model.config.to_dict().items():
        if "dropout" in name and not isinstance(value, bool):
            setattr(model.config, name, dropout)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
        elif _attention_rate(module) is not None:
            module.attention_dropout = dropout  # type: ignore[assignment]  # torch's stubs know tensors and modules only


def has_dropout(model: PreTrainedModel) -> bool:
    """Return whether a forward pass in training draws random numbers."""
    rates = (module.p if isinstance(module, nn.Dropout) else _attention_rate(module) for module in model.modules())
    return any(rate is not None and rate > 0 for rate in rates)


def _attention_rate(module: nn.Module) -> float | None:
    # ModernBERT passes the attention kernel a number; ALBERT's attribute of the same name is a module
    rate = getattr(module, "attention_dropout", None)
    return rate if isinstance(rate, float) else None

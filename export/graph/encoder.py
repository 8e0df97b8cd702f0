"""An encoder's weights by their part in the computation, read from a model of BERT's family.

The names of the weights come from `distill.models.families`. A weight that is not read is an error: the model would
compute something that the graph leaves out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

from distill.errors import SettingsError
from distill.models.families import (
    Family,
    families_with,
    family_of,
    layer_names,
    position_offset,
    position_padding_id,
)
from distill.models.torch_classifier import TorchClassifier

Weights = NDArray[np.float32]
Activation = Literal["Gelu", "FastGelu", "Relu", "Tanh"]


@dataclass(frozen=True)
class Dense:
    """x @ weights + bias, shapes (inputs, outputs) and (outputs,)."""

    weights: Weights
    bias: Weights


@dataclass(frozen=True)
class Norm:
    """A layer normalization over the last axis, shapes (width,)."""

    gamma: Weights
    beta: Weights
    epsilon: float


@dataclass(frozen=True)
class Layer:
    """One encoder layer: attention, then feed-forward, each added to its input and normalized."""

    query: Dense
    key: Dense
    value: Dense
    output: Dense
    attention_norm: Norm
    up: Dense
    down: Dense
    norm: Norm


@dataclass(frozen=True)
class Encoder:
    """Everything that the logits of a classifier depend on.

    Attributes:
        words: Shape (vocabulary, width).
        positions: Shape (positions, width), the vector of token type 0 added where there are types.
        types: What the vector of each token type adds to that of type 0, shape (types, width), where the graph takes token
            types; else None.
        padding_id: Positions are counted from the row after this id, and padding has the row of its own id (RoBERTa); None
            counts from row 0.
        relative: Attention bias by distance, shape (2 * max_length - 1, heads), the middle row for distance 0, or None.
        embedding_norm: Applied to the sum of token and position vectors.
        projection: Linear layer from the embedding's width to the encoder's, after the norm; None if the widths are equal.
        word_projection: Linear layer on the token vectors alone, before positions are added: a factorised embedding.
        sees_neighbours: Whether `word_projection` reads the vectors of the next token, the token and the previous token,
            concatenated.
        layers: First layer first.
        num_heads: Attention heads of each layer.
        activation: Activation of the feed-forward.
        hidden_head: First linear layer of the classification head, on the first token.
        head_activation: Activation after `hidden_head`.
        head: Linear layer that returns the logits.
    """

    words: Weights
    positions: Weights
    types: Weights | None
    padding_id: int | None
    relative: Weights | None
    embedding_norm: Norm
    projection: Dense | None
    word_projection: Dense | None
    sees_neighbours: bool
    layers: tuple[Layer, ...]
    num_heads: int
    activation: Activation
    hidden_head: Dense
    head_activation: Activation
    head: Dense


_ACTIVATIONS: dict[str, Activation] = {
    "gelu": "Gelu",
    "gelu_new": "FastGelu",
    "gelu_pytorch_tanh": "FastGelu",
    "relu": "Relu",
}
_OF_POOLER: dict[str, Activation] = {"gelu": "Gelu", "relu": "Relu", "tanh": "Tanh"}


def read_encoder(classifier: TorchClassifier) -> Encoder:
    """Return the weights of a sequence classifier of a supported family.

    Raises:
        SettingsError: The family is not supported, or the model has a part that is not known here.
    """
    model, config = classifier.model, classifier.model.config
    family = family_of(config)
    known_class = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES.get(config.model_type)
    if "fused graph" not in family.supports or type(model).__name__ != known_class:
        raise SettingsError(
            f"the fused writer knows {families_with('fused graph')} sequence classifiers, not {type(model).__name__}"
        )
    activation = getattr(config, family.activation)
    if activation not in _ACTIVATIONS:
        raise SettingsError(f"the fused writer knows the activations {', '.join(_ACTIVATIONS)}, not {activation}")
    reader = _Reader({name: tensor.detach().cpu().float().numpy() for name, tensor in model.state_dict().items()})
    epsilon = float(getattr(config, "layer_norm_eps", 1e-12))  # DistilBERT's is not in its config
    outer_epsilon = _outer_epsilon(config, epsilon)
    base = model.base_model_prefix
    embeddings = f"{base}.embeddings"
    max_length = classifier.tokenizer.max_length
    num_positions = max_length + position_offset(config)  # no text reaches the others
    positions = reader.take(f"{embeddings}.position_embeddings.weight")[:num_positions]
    types = None
    if f"{embeddings}.token_type_embeddings.weight" in reader.left:
        by_type = reader.take(f"{embeddings}.token_type_embeddings.weight")
        positions = positions + by_type[0]
        types = by_type - by_type[0] if classifier.tokenizer.pairs == "typed" else None
    encoder = Encoder(
        words=reader.take(f"{embeddings}.word_embeddings.weight"),
        positions=positions,
        types=types,
        padding_id=position_padding_id(config),
        relative=_relative_bias(model, max_length, reader) if config.model_type == "mpnet" else None,
        embedding_norm=reader.norm(f"{base}.{family.embedding_norm}", outer_epsilon),
        projection=reader.optional_dense(f"{base}.embeddings_project"),
        word_projection=reader.optional_dense(f"{embeddings}.embedding_transformation"),
        sees_neighbours=config.model_type == "mobilebert" and config.trigram_input,
        layers=tuple(_layer(reader, family, name, epsilon, outer_epsilon) for name in layer_names(model)),
        num_heads=int(config.num_attention_heads),
        activation=_ACTIVATIONS[activation],
        hidden_head=reader.dense(family.pooler),
        head_activation=_OF_POOLER[family.pooler_activation],
        head=reader.dense(family.head),
    )
    if reader.left:
        raise SettingsError(
            f"the fused writer does not know what {sorted(reader.left)[0]} does in this {config.model_type} model"
        )
    return encoder


@dataclass(frozen=True)
class _Reader:
    """Returns each weight once; `left` holds the weights that were not read."""

    left: dict[str, Weights]

    def take(self, name: str) -> Weights:
        if name not in self.left:
            raise SettingsError(f"the model has no {name}, which the fused writer needs")
        return self.left.pop(name)

    def dense(self, name: str) -> Dense:
        # torch stores the weights of a linear layer as (outputs, inputs)
        return Dense(np.ascontiguousarray(self.take(f"{name}.weight").T), self.take(f"{name}.bias"))

    def optional_dense(self, name: str) -> Dense | None:
        return self.dense(name) if f"{name}.weight" in self.left else None

    def norm(self, name: str, epsilon: float) -> Norm:
        return Norm(self.take(f"{name}.weight"), self.take(f"{name}.bias"), epsilon)


def _outer_epsilon(config: Any, epsilon: float) -> float:
    """Return the epsilon of the norms after the embedding and after the feed-forward.

    Raises:
        SettingsError: A MobileBERT that is more than a BERT with a linear layer after its token table.
    """
    if config.model_type != "mobilebert":
        return epsilon
    has_linear_layer = config.embedding_size != config.hidden_size or config.trigram_input
    plain = has_linear_layer and config.num_feedforward_networks == 1
    if not plain or config.use_bottleneck or config.normalization_type != "layer_norm":
        raise SettingsError("the fused writer knows MobileBERT only as BERT with a linear layer after its token table")
    return 1e-5  # MobileBERT uses torch's default for these norms, not its config's epsilon


def _layer(reader: _Reader, family: Family, name: str, epsilon: float, outer_epsilon: float) -> Layer:
    return Layer(
        query=reader.dense(f"{name}.{family.query}"),
        key=reader.dense(f"{name}.{family.key}"),
        value=reader.dense(f"{name}.{family.value}"),
        output=reader.dense(f"{name}.{family.attention_output}"),
        attention_norm=reader.norm(f"{name}.{family.attention_norm}", epsilon),
        up=reader.dense(f"{name}.{family.up}"),
        down=reader.dense(f"{name}.{family.down}"),
        norm=reader.norm(f"{name}.{family.norm}", outer_epsilon),
    )


def _relative_bias(model: Any, max_length: int, reader: _Reader) -> Weights:
    """Return MPNet's attention bias for each distance from -(max_length - 1), as the model itself computes it."""
    reader.take("mpnet.encoder.relative_attention_bias.weight")
    with torch.no_grad():
        bias = model.mpnet.encoder.compute_position_bias(torch.zeros(1, max_length, 1, device=model.device))[0].cpu().numpy()
    # row i, column j is distance j - i: the last row holds the negative distances, the first row the others
    table = np.concatenate([bias[:, -1, :-1], bias[:, 0, :]], axis=1).T
    return np.ascontiguousarray(table, dtype=np.float32)

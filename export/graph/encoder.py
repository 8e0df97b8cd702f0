"""An encoder's weights by their part in the computation, read off a model of BERT's family.

What each family calls its weights stands here and nowhere else. A weight that nothing here asks for is refused: the
model would compute something that the graph leaves out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from distill.errors import SettingsError
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
    """Everything a classifier's logits depend on.

    Attributes:
        words: Shape (vocabulary, width).
        positions: Shape (positions, width), the vector of token type 0 added where there are types.
        padding_id: Where positions are counted from this id on and padding has its own (RoBERTa); None counts from 0.
        relative: Attention bias by distance, shape (2 * max_length - 1, heads), the middle row for 0; None has none.
        embedding_norm: After the sum of the two.
        projection: From the embedding's width to the encoder's, after the norm; None where they are the same.
        word_projection: The same for the tokens' vectors alone, before positions are added: a factorised embedding.
        sees_neighbours: Whether that product is given the vectors of the next token, the token and the one before it, side
            by side.
        layers: In order.
        num_heads: Of every layer.
        activation: Of the feed-forward parts.
        hidden_head: The head's inner product, on the first token.
        head_activation: After it.
        head: To the logits.
    """

    words: Weights
    positions: Weights
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


@dataclass(frozen=True)
class _Names:
    """What a family calls its parts; `layer` is followed by the number and one of the eight."""

    base: str
    layer: str
    query: str
    key: str
    value: str
    output: str
    attention_norm: str
    up: str
    down: str
    norm: str
    hidden_head: str
    head: str
    head_activation: Activation
    class_name: str


_BERT_LAYER = {
    "layer": "encoder.layer",
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "norm": "output.LayerNorm",
}
_MPNET_LAYER = _BERT_LAYER | {
    "query": "attention.attn.q",
    "key": "attention.attn.k",
    "value": "attention.attn.v",
    "output": "attention.attn.o",
    "attention_norm": "attention.LayerNorm",
}
_DISTILBERT_LAYER = {
    "layer": "transformer.layer",
    "query": "attention.q_lin",
    "key": "attention.k_lin",
    "value": "attention.v_lin",
    "output": "attention.out_lin",
    "attention_norm": "sa_layer_norm",
    "up": "ffn.lin1",
    "down": "ffn.lin2",
    "norm": "output_layer_norm",
}


def _names(base: str, class_name: str, layer: dict[str, str], hidden_head: str, activation: Activation, head: str) -> _Names:
    return _Names(base=base, class_name=class_name, hidden_head=hidden_head, head=head, head_activation=activation, **layer)


_FAMILIES = {
    "bert": _names("bert", "Bert", _BERT_LAYER, "bert.pooler.dense", "Tanh", "classifier"),
    "distilbert": _names("distilbert", "DistilBert", _DISTILBERT_LAYER, "pre_classifier", "Relu", "classifier"),
    "roberta": _names("roberta", "Roberta", _BERT_LAYER, "classifier.dense", "Tanh", "classifier.out_proj"),
    "xlm-roberta": _names("roberta", "XLMRoberta", _BERT_LAYER, "classifier.dense", "Tanh", "classifier.out_proj"),
    "camembert": _names("roberta", "Camembert", _BERT_LAYER, "classifier.dense", "Tanh", "classifier.out_proj"),
    "electra": _names("electra", "Electra", _BERT_LAYER, "classifier.dense", "Gelu", "classifier.out_proj"),
    "mobilebert": _names("mobilebert", "MobileBert", _BERT_LAYER, "mobilebert.pooler.dense", "Tanh", "classifier"),
    "mpnet": _names("mpnet", "MPNet", _MPNET_LAYER, "classifier.dense", "Tanh", "classifier.out_proj"),
}
_POSITIONS_FROM_PADDING = {"roberta", "xlm-roberta", "camembert", "mpnet"}
_ACTIVATIONS: dict[str, Activation] = {"gelu": "Gelu", "gelu_new": "FastGelu", "gelu_pytorch_tanh": "FastGelu", "relu": "Relu"}


def read_encoder(classifier: TorchClassifier) -> Encoder:
    """Return the weights of a classifier of BERT's family.

    Raises:
        SettingsError: It is of another family, or has a part that is not known here.
    """
    model, config = classifier.model, classifier.model.config
    names = _FAMILIES.get(config.model_type)
    if names is None or type(model).__name__ != f"{names.class_name}ForSequenceClassification":
        raise SettingsError(
            f"the fused writer knows {', '.join(_FAMILIES)} sequence classifiers, not {type(model).__name__}; "
            "use --exporter portable"
        )
    reader = _Reader({name: tensor.detach().cpu().float().numpy() for name, tensor in model.state_dict().items()})
    epsilon = float(getattr(config, "layer_norm_eps", 1e-12))  # DistilBERT's is not in its config
    outer_epsilon = _outer_epsilon(config, epsilon)
    embeddings = f"{names.base}.embeddings"
    max_length = classifier.tokenizer.max_length
    padding_id = int(config.pad_token_id) if config.model_type in _POSITIONS_FROM_PADDING else None
    positions = reader.take(f"{embeddings}.position_embeddings.weight")
    positions = positions[: max_length + (0 if padding_id is None else padding_id + 1)]  # no text reaches the others
    if f"{embeddings}.token_type_embeddings.weight" in reader.left:
        positions = positions + reader.take(f"{embeddings}.token_type_embeddings.weight")[0]
    encoder = Encoder(
        words=reader.take(f"{embeddings}.word_embeddings.weight"),
        positions=positions,
        padding_id=padding_id,
        relative=_relative_bias(model, max_length, reader) if config.model_type == "mpnet" else None,
        embedding_norm=reader.norm(f"{embeddings}.LayerNorm", outer_epsilon),
        projection=reader.optional_dense(f"{names.base}.embeddings_project"),
        word_projection=reader.optional_dense(f"{embeddings}.embedding_transformation"),
        sees_neighbours=config.model_type == "mobilebert" and config.trigram_input,
        layers=tuple(
            _layer(reader, names, f"{names.base}.{names.layer}.{number}.", epsilon, outer_epsilon)
            for number in range(config.num_hidden_layers)
        ),
        num_heads=int(config.num_attention_heads),
        activation=_activation(config),
        hidden_head=reader.dense(names.hidden_head),
        head_activation=names.head_activation,
        head=reader.dense(names.head),
    )
    if reader.left:
        raise SettingsError(
            f"the fused writer does not know what {sorted(reader.left)[0]} does in this {config.model_type} model; "
            "use --exporter portable"
        )
    return encoder


class _Reader:
    """Hands out each weight once; `left` holds those that nobody asked for."""

    def __init__(self, weights: dict[str, Weights]) -> None:
        self.left = weights

    def take(self, name: str) -> Weights:
        if name not in self.left:
            raise SettingsError(f"the model has no {name}, which the fused writer needs; use --exporter portable")
        return self.left.pop(name)

    def dense(self, name: str) -> Dense:
        # torch keeps a product's weights as (outputs, inputs)
        return Dense(np.ascontiguousarray(self.take(f"{name}.weight").T), self.take(f"{name}.bias"))

    def optional_dense(self, name: str) -> Dense | None:
        return self.dense(name) if f"{name}.weight" in self.left else None

    def norm(self, name: str, epsilon: float) -> Norm:
        return Norm(self.take(f"{name}.weight"), self.take(f"{name}.bias"), epsilon)


def _outer_epsilon(config: Any, epsilon: float) -> float:
    """Return what the norms after the embedding and after the feed-forward add to a variance.

    Raises:
        SettingsError: A MobileBERT that is more than a BERT with a product after its table of tokens.
    """
    if config.model_type != "mobilebert":
        return epsilon
    has_product = config.embedding_size != config.hidden_size or config.trigram_input
    plain = has_product and config.num_feedforward_networks == 1
    if not plain or config.use_bottleneck or config.normalization_type != "layer_norm":
        raise SettingsError(
            "the fused writer knows MobileBERT only as BERT with a product after its table of tokens; use --exporter portable"
        )
    return 1e-5  # there MobileBERT takes torch's default instead of its config's


def _layer(reader: _Reader, names: _Names, prefix: str, epsilon: float, outer_epsilon: float) -> Layer:
    def dense(name: str) -> Dense:
        return reader.dense(prefix + name)

    return Layer(
        query=dense(names.query),
        key=dense(names.key),
        value=dense(names.value),
        output=dense(names.output),
        attention_norm=reader.norm(prefix + names.attention_norm, epsilon),
        up=dense(names.up),
        down=dense(names.down),
        norm=reader.norm(prefix + names.norm, outer_epsilon),
    )


def _activation(config: Any) -> Activation:
    name = config.activation if config.model_type == "distilbert" else config.hidden_act
    if name not in _ACTIVATIONS:
        raise SettingsError(
            f"the fused writer knows the activations {', '.join(_ACTIVATIONS)}, not {name}; use --exporter portable"
        )
    return _ACTIVATIONS[name]


def _relative_bias(model: Any, max_length: int, reader: _Reader) -> Weights:
    """Return MPNet's attention bias of each distance from -(max_length - 1) on, as the model itself computes it."""
    reader.take("mpnet.encoder.relative_attention_bias.weight")
    with torch.no_grad():
        bias = model.mpnet.encoder.compute_position_bias(torch.zeros(1, max_length, 1, device=model.device))[0].cpu().numpy()
    # row i, column j is distance j - i: the last row holds the negative ones, the first the others
    table = np.concatenate([bias[:, -1, :-1], bias[:, 0, :]], axis=1).T
    return np.ascontiguousarray(table, dtype=np.float32)

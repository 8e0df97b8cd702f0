"""Two uses of a linear layer between the token table and the first encoder layer.

A *factorised embedding* is a narrow table and a linear layer to the hidden size, as in ALBERT (Lan et al., 2020). With a
*window* of three, the linear layer also reads the vectors of the two neighbours, as in MobileBERT (Sun et al., 2020): in a
student of one layer the first token attends to each other token separately, and cannot tell "not good" from "good".

BERT adds positions and token types to the token's vector before it normalises; ELECTRA and ALBERT normalise the narrow
vector instead, so they cannot hold BERT's weights. MobileBERT without its bottlenecks and its extra feed-forwards is BERT
with such a linear layer in front: these students are saved as that class, which `transformers` loads. One thing differs:
two of its norms have an epsilon of 1e-5, BERT's 1e-12.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import MobileBertConfig

from distill.errors import SettingsError
from distill.models.loading import rebuilt
from distill.models.torch_classifier import TorchClassifier
from distill.students.vocabulary import count_tokens
from distill.texts import TextInput

_TABLE = "embeddings.word_embeddings.weight"
_LINEAR = "embeddings.embedding_transformation"
_SHARED = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "max_position_embeddings",
    "type_vocab_size",
    "initializer_range",
    "layer_norm_eps",
    "pad_token_id",
    "classifier_dropout",
    "id2label",
    "label2id",
    "problem_type",
)


def factorise_embedding(classifier: TorchClassifier, size: int, *, texts: Sequence[TextInput]) -> TorchClassifier:
    """Return the classifier with a token table of `size` columns and a linear layer from it to the hidden size.

    Args:
        classifier: A BERT.
        size: Columns of the table, fewer than the hidden size.
        texts: The transfer set: vectors of frequent tokens are approximated best.

    Raises:
        SettingsError: The classifier is of another family, or `size` is not smaller than its hidden size.
    """
    config = classifier.model.config
    if config.model_type != "bert":
        raise SettingsError(
            f"embedding_size works for bert models, this is a {config.model_type} model; leave out --embedding-size"
        )
    if size >= config.hidden_size:
        raise SettingsError(f"embedding_size must be below the hidden size, {config.hidden_size}; got {size}")
    weights = classifier.model.state_dict()
    counts = torch.from_numpy(count_tokens(classifier.tokenizer, texts) + 1)  # + 1: unseen tokens have some weight, too
    table, weight, mean = factorised(weights[f"bert.{_TABLE}"], size, row_weights=counts)
    return _with_linear(classifier, table, weight, mean, trigram_input=False)


def look_at_neighbours(classifier: TorchClassifier) -> TorchClassifier:
    """Return the classifier with a linear layer that also reads the previous and the next token.

    Their weights start at 0, so that the logits are the same before training. The padding token's vector becomes 0, like
    the vectors beyond the ends of a text: otherwise padding would change the logits.

    Args:
        classifier: A BERT, with or without a factorised embedding.

    Raises:
        SettingsError: The classifier is of another family, or already reads the neighbours.
    """
    config, weights = classifier.model.config, classifier.model.state_dict()
    if config.model_type == "bert":
        table = weights[f"bert.{_TABLE}"]
        weight, bias = torch.eye(config.hidden_size).to(table), torch.zeros(config.hidden_size).to(table)
    elif config.model_type == "mobilebert" and not config.trigram_input:
        table, weight, bias = (weights[f"mobilebert.{name}"] for name in (_TABLE, f"{_LINEAR}.weight", f"{_LINEAR}.bias"))
    else:
        raise SettingsError(
            f"embedding_window works for bert models without a window, this is a {config.model_type} model; leave out "
            "--embedding-window"
        )
    nothing = torch.zeros_like(weight)
    table = table.index_fill(0, torch.tensor(classifier.tokenizer.pad_id, device=table.device), 0)
    return _with_linear(classifier, table, torch.cat([nothing, weight, nothing], dim=1), bias, trigram_input=True)


def _with_linear(
    classifier: TorchClassifier, table: Tensor, weight: Tensor, bias: Tensor, *, trigram_input: bool
) -> TorchClassifier:
    """Return the classifier with this token table and linear layer; all other weights are kept."""
    config = classifier.model.config
    base = f"{classifier.model.base_model_prefix}."
    renamed = {name.replace(base, "mobilebert.", 1): tensor for name, tensor in classifier.model.state_dict().items()}
    changed = {_TABLE: table, f"{_LINEAR}.weight": weight, f"{_LINEAR}.bias": bias}
    weights = {**renamed, **{f"mobilebert.{name}": tensor for name, tensor in changed.items()}}
    shared: dict[str, Any] = {name: getattr(config, name, None) for name in _SHARED}
    mobile_config = MobileBertConfig(
        **shared,
        embedding_size=table.shape[1],
        trigram_input=trigram_input,
        use_bottleneck=False,
        num_feedforward_networks=1,
        normalization_type="layer_norm",
        classifier_activation=True,
    )
    return rebuilt(classifier, config=mobile_config, weights=weights)


def factorised(vectors: Tensor, size: int, *, row_weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return (table, weight, mean) with table @ weight.T + mean closest to the vectors, in weighted squared error of the rows.

    The columns of the weight are the strongest singular vectors of the centred rows.

    Args:
        vectors: Shape (tokens, dimensions).
        size: Columns of the table.
        row_weights: Weight of each row, shape (tokens,); further rows have weight 1.
    """
    rows = vectors.double()
    share = torch.ones(len(rows), dtype=torch.double, device=rows.device)
    share[: len(row_weights)] = row_weights.to(share)
    share /= share.sum()
    mean = share @ rows
    centred = rows - mean
    _, directions = torch.linalg.eigh(centred.T @ (share[:, None] * centred))
    basis = directions[:, -size:].flip(1)  # eigh sorts ascending
    return (centred @ basis).to(vectors), basis.to(vectors).contiguous(), mean.to(vectors)

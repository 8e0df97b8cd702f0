"""Two things a product between the table of tokens and the first layer is good for.

A *factorised embedding* is a narrow table times one product, as in ALBERT (Lan et al., 2020). A *window* of three lets the
product see a token's neighbours too, as in MobileBERT (Sun et al., 2020): in a student of one layer the first token asks
every other one alone, so that nothing else could tell "not good" from "good".

BERT adds positions and token types to the token's vector before it normalises; ELECTRA and ALBERT normalise the narrow
vector instead, so neither can hold BERT's weights. MobileBERT without its bottlenecks and its extra feed-forwards is BERT
layer by layer, with such a product in front: that is the class these students are saved as, and any `transformers` reads
it. One thing differs: two of its norms add 1e-5 to a variance where BERT adds 1e-12.
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

_TABLE = "embeddings.word_embeddings.weight"
_PRODUCT = "embeddings.embedding_transformation"
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


def factorise_embedding(classifier: TorchClassifier, size: int, *, texts: Sequence[str]) -> TorchClassifier:
    """Return the classifier with a token table of `size` columns and a product from it to the hidden size.

    Args:
        classifier: A BERT.
        size: Columns of the table, fewer than the hidden size.
        texts: The transfer set: the tokens it holds most often are kept most faithfully.

    Raises:
        SettingsError: It is of another family, or `size` is not smaller than its hidden size.
    """
    config = classifier.model.config
    if config.model_type != "bert":
        raise SettingsError(
            f"a factorised embedding is made for bert models, not for a {config.model_type} model; leave out --embedding-size"
        )
    if size >= config.hidden_size:
        raise SettingsError(f"embedding_size is {size}, and must be below the hidden size, which is {config.hidden_size}")
    weights = classifier.model.state_dict()
    counts = torch.from_numpy(count_tokens(classifier.tokenizer, texts) + 1)  # unseen tokens count a little too
    table, product, mean = factorised(weights[f"bert.{_TABLE}"], size, row_weights=counts)
    return _with_product(classifier, table, product, mean, trigram_input=False)


def look_at_neighbours(classifier: TorchClassifier) -> TorchClassifier:
    """Return the classifier with a product that sees the token before and the token after too.

    It starts with nothing of either, so that the answers are the same until it has learnt something. The padding token's
    vector becomes 0, as what lies beyond a text's end already is: else a text would answer otherwise when it is padded.

    Args:
        classifier: A BERT, with a factorised embedding or without.

    Raises:
        SettingsError: It is of another family, or already sees the neighbours.
    """
    config, weights = classifier.model.config, classifier.model.state_dict()
    if config.model_type == "bert":
        table = weights[f"bert.{_TABLE}"]
        product, bias = torch.eye(config.hidden_size).to(table), torch.zeros(config.hidden_size).to(table)
    elif config.model_type == "mobilebert" and not config.trigram_input:
        table, product, bias = (weights[f"mobilebert.{name}"] for name in (_TABLE, f"{_PRODUCT}.weight", f"{_PRODUCT}.bias"))
    else:
        raise SettingsError(
            f"a window of tokens is made for bert models that have none, not for this {config.model_type} model; "
            "leave out --embedding-window"
        )
    nothing = torch.zeros_like(product)
    table = table.clone()
    table[classifier.tokenizer.pad_id] = 0
    return _with_product(classifier, table, torch.cat([nothing, product, nothing], dim=1), bias, trigram_input=True)


def _with_product(
    classifier: TorchClassifier, table: Tensor, product: Tensor, bias: Tensor, *, trigram_input: bool
) -> TorchClassifier:
    """Return the classifier with this table of tokens and this product after it, all else as it is."""
    config = classifier.model.config
    base = f"{classifier.model.base_model_prefix}."
    weights = {name.replace(base, "mobilebert.", 1): tensor for name, tensor in classifier.model.state_dict().items()}
    weights[f"mobilebert.{_TABLE}"] = table
    weights[f"mobilebert.{_PRODUCT}.weight"] = product
    weights[f"mobilebert.{_PRODUCT}.bias"] = bias
    shared: dict[str, Any] = {name: getattr(config, name, None) for name in _SHARED}
    with_product = MobileBertConfig(
        **shared,
        embedding_size=table.shape[1],
        trigram_input=trigram_input,
        use_bottleneck=False,
        num_feedforward_networks=1,
        normalization_type="layer_norm",
        classifier_activation=True,
    )
    return rebuilt(classifier, config=with_product, weights=weights)


def factorised(vectors: Tensor, size: int, *, row_weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return (table, product, mean) for which table @ product.T + mean is nearest to the vectors.

    Nearest in the squared error of each row times its weight, by the singular vectors of the centred rows.

    Args:
        vectors: Shape (tokens, dimensions).
        size: Columns of the table.
        row_weights: What each row counts, shape (tokens,); rows beyond it count 1.
    """
    rows = vectors.double()
    share = torch.ones(len(rows), dtype=torch.double, device=rows.device)
    share[: len(row_weights)] = row_weights.to(share)
    share /= share.sum()
    mean = share @ rows
    centred = rows - mean
    _, directions = torch.linalg.eigh(centred.T @ (share[:, None] * centred))
    basis = directions[:, -size:].flip(1)  # eigh gives the smallest first
    return (centred @ basis).to(vectors), basis.to(vectors).contiguous(), mean.to(vectors)

"""A factorised embedding: a narrow table of tokens times one product, as in ALBERT (Lan et al., 2020).

BERT adds positions and token types to the token's vector before it normalises; ELECTRA and ALBERT normalise the narrow
vector instead, so neither can hold BERT's weights. MobileBERT (Sun et al., 2020) without its bottlenecks, its three-token
input and its extra feed-forwards is BERT layer by layer, with a table of `embedding_size` and a product in front: that is
the class a factorised student is saved as, and any `transformers` reads it. One thing differs: two of its norms add 1e-5
to a variance where BERT adds 1e-12.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import MobileBertConfig

from distill.errors import SettingsError
from distill.training.models import TorchClassifier
from distill.training.students.rebuilding import rebuilt
from distill.training.students.vocabulary import count_tokens

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
    weights = {name.replace("bert.", "mobilebert.", 1): tensor for name, tensor in classifier.model.state_dict().items()}
    table_name = "mobilebert.embeddings.word_embeddings.weight"
    counts = torch.from_numpy(count_tokens(classifier.tokenizer, texts) + 1)  # unseen tokens count a little too
    table, product, mean = factorised(weights[table_name], size, row_weights=counts)
    weights[table_name] = table
    weights["mobilebert.embeddings.embedding_transformation.weight"] = product
    weights["mobilebert.embeddings.embedding_transformation.bias"] = mean
    narrow = MobileBertConfig(
        **{name: getattr(config, name) for name in _SHARED},
        embedding_size=size,
        trigram_input=False,
        use_bottleneck=False,
        num_feedforward_networks=1,
        normalization_type="layer_norm",
        classifier_activation=True,
    )
    return rebuilt(classifier, config=narrow, weights=weights)


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

"""The static classifier: a table of token vectors, a convolution over neighbouring tokens, pooling and a small head.

It has no attention and no encoder layers, so a text takes tens of microseconds. For the training loop it is a transformers
model: `model(input_ids=, attention_mask=).logits`, `.config`, `.device`. Knows nothing of teachers or files.

    local      = relu(sum over offsets o of W_o · E[token at place + o]  + b)    for each real token
    mean, max  = over the real tokens; the mean is weighted by the softmax of each token's learned importance
    logits     = V · relu(U · [mean, max] + c) + d

W_o reads a single token, so `FoldedStatic` computes W_o · E once for every token of the vocabulary: a text then needs only
table lookups, sums and the head.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from distill.errors import SettingsError

MODEL_TYPE = "potstill-static"
_UNREAL = -1e4
"""Added to the importance of padding: its weight in the mean is then exactly 0."""


class StaticConfig(PretrainedConfig):
    """The sizes of a static classifier, as `config.json` holds them.

    Attributes:
        vocab_size: Number of tokens.
        pad_token_id: Token whose vector is 0 and is not trained.
        hidden_size: Dimensions of a token's vector.
        window: Width of the convolution in tokens, an odd number.
        num_features: Output channels of the convolution.
        head_size: Units between the pooled features and the logits.
    """

    model_type = MODEL_TYPE

    vocab_size: int = 1
    pad_token_id: int = 0
    hidden_size: int = 1
    window: int = 1
    num_features: int = 1
    head_size: int = 1


class StaticClassifier(PreTrainedModel):
    """A sequence classifier without encoder layers; the module's docstring says what it computes."""

    config_class = StaticConfig
    config: StaticConfig
    base_model_prefix = ""
    _input_embed_layer = "token_embeddings"

    def __init__(self, config: StaticConfig) -> None:
        if config.window < 1 or config.window % 2 == 0:
            raise SettingsError(f"window must be an odd number of tokens, got {config.window}")
        super().__init__(config)
        self.token_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.importance_embeddings = nn.Embedding(config.vocab_size, 1)
        self.local = nn.Linear(config.window * config.hidden_size, config.num_features)
        self.head = nn.Linear(2 * config.num_features, config.head_size)
        self.classifier = nn.Linear(config.head_size, config.num_labels or 0)
        self.dropout = nn.Dropout(0.0)
        nn.init.zeros_(self.importance_embeddings.weight)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SequenceClassifierOutput:
        """Return logits, shape (texts, labels), for ids and mask of shape (texts, length)."""
        windows = windows_of(input_ids, attention_mask, width=self.config.window, pad_id=self.config.pad_token_id)
        features = self.local(self.token_embeddings(windows).flatten(start_dim=2))
        return SequenceClassifierOutput(logits=self.answer(features, input_ids, attention_mask))

    def answer(self, features: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Pool the features before the ReLU, shape (texts, length, features), and return the logits, shape (texts, labels)."""
        real = attention_mask.to(features.dtype)[..., None]
        # After the ReLU no feature is below 0, so the 0 of padding is never larger than the maximum.
        features = torch.relu(features) * real
        shares = torch.softmax(self.importance_embeddings(input_ids).to(features.dtype) + (1 - real) * _UNREAL, dim=1)
        pooled = torch.cat([(shares * features).sum(dim=1), features.amax(dim=1)], dim=-1)
        return self.classifier(torch.relu(self.head(self.dropout(pooled))))

    def _init_weights(self, module: nn.Module) -> None:
        """Keep torch's own initialisation."""


class FoldedStatic(nn.Module):
    """The same classifier for inference only, with the product of each token's vector and each W_o computed in advance.

    Attributes:
        table: Row `window * token + place` is W_place · E[token], shape (window * tokens, features).
    """

    def __init__(self, model: StaticClassifier) -> None:
        super().__init__()
        self.model = model
        places = model.local.weight.detach().unflatten(1, (model.config.window, model.config.hidden_size))
        table = torch.einsum("th,fwh->twf", model.token_embeddings.weight.detach(), places)
        self.table = nn.Parameter(table.flatten(end_dim=1).contiguous(), requires_grad=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SequenceClassifierOutput:
        """Return logits, shape (texts, labels), for ids and mask of shape (texts, length)."""
        width = self.model.config.window
        windows = windows_of(input_ids, attention_mask, width=width, pad_id=self.model.config.pad_token_id)
        rows = windows * width + torch.arange(width)
        features = nn.functional.embedding(rows, self.table).sum(dim=2) + self.model.local.bias
        return SequenceClassifierOutput(logits=self.model.answer(features, input_ids, attention_mask))


def windows_of(input_ids: Tensor, attention_mask: Tensor, *, width: int, pad_id: int) -> Tensor:
    """Return the ids around each token, shape (texts, length, width); `pad_id` beyond the ends of the text."""
    ids = torch.where(attention_mask > 0, input_ids, pad_id)
    reach = width // 2
    padded = nn.functional.pad(ids, (reach, reach), value=pad_id)
    # Ends are counted from the right, so the exported graph needs no arithmetic on shapes.
    return torch.stack([padded[:, place : place - 2 * reach or None] for place in range(width)], dim=-1)

"""The static classifier: a table of token vectors, a glance at the neighbours, pooling and a small head.

No attention and no layers, so that a text costs tens of microseconds. To the training loop it is a transformers model:
`model(input_ids=, attention_mask=).logits`, `.config`, `.device`. Knows nothing of teachers or files.

    local      = relu(sum over offsets o of W_o · E[token at place + o]  + b)    for each real token
    mean, max  = over the real tokens; the mean weighs each by softmax of its learned importance
    logits     = V · relu(U · [mean, max] + c) + d

Because W_o reads nothing but one token, `folded` can work out W_o · E once for every token: what is left to compute for a
text are look-ups, sums and the head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from distill.errors import SettingsError

MODEL_TYPE = "potstill-static"
_UNREAL = -1e4
"""Added to the importance of what is not a token: its share of the mean is then exactly 0."""


class StaticConfig(PretrainedConfig):
    """The sizes of a static classifier, as `config.json` holds them.

    Attributes:
        vocab_size: Tokens.
        pad_token_id: The token that stands for nothing: its vector is 0 and stays 0.
        hidden_size: Numbers in a token's vector.
        window: Tokens that are looked at together, an odd number; 1 is each for itself.
        num_features: Numbers that a window gives.
        head_size: Units between the pooled features and the logits.
    """

    model_type = MODEL_TYPE

    def __init__(
        self,
        *,
        vocab_size: int = 1,
        pad_token_id: int = 0,
        hidden_size: int = 1,
        window: int = 1,
        num_features: int = 1,
        head_size: int = 1,
        **others: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.window = window
        self.num_features = num_features
        self.head_size = head_size
        super().__init__(**others)
        self.pad_token_id = pad_token_id


class StaticClassifier(PreTrainedModel):
    """A sequence classifier without layers; see the module's text for what it computes."""

    config_class = StaticConfig
    config: StaticConfig
    base_model_prefix = ""

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

    def get_input_embeddings(self) -> nn.Module:
        """Return the table of token vectors."""
        return self.token_embeddings

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SequenceClassifierOutput:
        """Return logits, shape (texts, labels), of ids and mask of shape (texts, length)."""
        windows = windows_of(input_ids, attention_mask, width=self.config.window, pad_id=self.config.pad_token_id)
        features = self.local(self.token_embeddings(windows).flatten(start_dim=2))
        return SequenceClassifierOutput(logits=self.answer(features, input_ids, attention_mask))

    def answer(self, features: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Pool the features of each place, shape (texts, length, features) before the ReLU, and classify."""
        real = attention_mask.to(features.dtype)[..., None]
        # After the ReLU nothing is below 0, so that a 0 in place of padding never is the largest.
        features = torch.relu(features) * real
        shares = torch.softmax(self.importance_embeddings(input_ids).to(features.dtype) + (1 - real) * _UNREAL, dim=1)
        pooled = torch.cat([(shares * features).sum(dim=1), features.amax(dim=1)], dim=-1)
        return self.classifier(torch.relu(self.head(self.dropout(pooled))))

    def _init_weights(self, module: nn.Module) -> None:
        """Leave the weights as torch draws them: transformers has nothing to add."""


class FoldedStatic(nn.Module):
    """The same classifier for answering alone: what each token gives to each place of a window, worked out beforehand.

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
        """Return logits, shape (texts, labels), of ids and mask of shape (texts, length)."""
        width = self.model.config.window
        windows = windows_of(input_ids, attention_mask, width=width, pad_id=self.model.config.pad_token_id)
        rows = windows * width + torch.arange(width)
        features = nn.functional.embedding(rows, self.table).sum(dim=2) + self.model.local.bias
        return SequenceClassifierOutput(logits=self.model.answer(features, input_ids, attention_mask))


def windows_of(input_ids: Tensor, attention_mask: Tensor, *, width: int, pad_id: int) -> Tensor:
    """Return the ids around each token, shape (texts, length, width); what is not a token of the text is `pad_id`."""
    ids = torch.where(attention_mask > 0, input_ids, pad_id)
    reach = width // 2
    padded = nn.functional.pad(ids, (reach, reach), value=pad_id)
    # Ends counted from the right: the exported graph then needs no arithmetic on its shapes.
    return torch.stack([padded[:, place : place - 2 * reach or None] for place in range(width)], dim=-1)

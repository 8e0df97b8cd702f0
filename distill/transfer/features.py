"""Pooled features of an encoder: one vector per text and layer, computed once and cached by text.

They are stored in the cache of teacher logits: to it the encoder is a classifier whose labels are the columns. The name of
the cache file depends on everything that changes the features: the encoder's weights and config, the tokenizer, the pooling
and the dtype of the computation. The head does not change them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from distill.errors import SettingsError
from distill.labels import Logits
from distill.models.devices import Compute
from distill.models.torch_classifier import TorchClassifier
from distill.progress import Reporter
from distill.storage import cache_dir
from distill.teacher_settings import FeatureSettings, Pooling
from distill.teachers.answers import teacher_logits
from distill.texts import TextInput
from distill.tokenization import Batch

Features = NDArray[np.float32]
"""Shape (texts, states, width): state 0 is the output of the embeddings, state i that of layer i."""

CLS_SHARE = 1e-3
"""Weight of the first token beside the mean, so that a BERT layer can compute the same pooling; see `head`."""

FOLDER = "features"

_HEAD_KEYS = frozenset(
    ("_name_or_path", "architectures", "id2label", "label2id", "num_labels", "problem_type", "transformers_version")
)
"""Config keys that do not change the features: names, versions, and keys of the head."""


@dataclass(frozen=True)
class PooledFeatures:
    """Features of some texts.

    Attributes:
        values: See `Features`.
        num_cached: Number of texts whose features were in the cache.
    """

    values: Features
    num_cached: int


@dataclass(eq=False)
class PooledEncoder(TorchClassifier):
    """An encoder whose logits are its pooled hidden states.

    Attributes:
        pooling: How the hidden states of a layer become one vector.
        last_layers: Number of states that the pooling `last` averages.
    """

    pooling: Pooling = "mean"
    last_layers: int = 4

    def digest(self) -> str:
        """Return the sha256 of everything that changes the features; the head does not."""
        digest = hashlib.sha256(f"{self.pooling} {self.last_layers} {self.tokenizer.digest()}".encode())
        encoder = encoder_of(self.model)
        config = encoder.config.to_dict().items()
        deciding = {name: value for name, value in config if name not in _HEAD_KEYS and "dropout" not in name}
        digest.update(json.dumps(deciding, sort_keys=True).encode())
        for name, tensor in sorted(encoder.state_dict().items()):
            if "pooler." not in name:
                digest.update(name.encode())
                digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def _run(self, batch: Batch) -> Logits:
        device = self.model.device
        with torch.inference_mode():
            inputs = {name: torch.from_numpy(values).to(device) for name, values in batch.inputs().items()}
            states = encoder_of(self.model)(**inputs, output_hidden_states=True).hidden_states
            pooled = pooled_states(states, inputs["attention_mask"], pooling=self.pooling, last_layers=self.last_layers)
            return pooled.flatten(start_dim=1).cpu().numpy()


def pooled_features(
    classifier: TorchClassifier,
    texts: Sequence[TextInput],
    settings: FeatureSettings,
    *,
    compute: Compute = "no",
    folder: Path | None = None,
    reporter: Reporter | None = None,
) -> PooledFeatures:
    """Return the pooled hidden states of each text and layer, running the encoder only on texts that are not cached.

    Args:
        classifier: The encoder; its head is not used.
        texts: Any texts.
        settings: The pooling.
        compute: The dtype the encoder computes in; each dtype is cached separately.
        folder: Folder of the cache; None is `features` in the user's cache folder.
        reporter: Receives progress.

    Raises:
        SettingsError: The model has no encoder.
        StorageError: The cache cannot be written.
    """
    config = classifier.model.config
    states, width = config.num_hidden_layers + 1, config.hidden_size
    encoder = PooledEncoder(
        model=classifier.model,
        tokenizer=classifier.tokenizer,
        tokenizer_config=classifier.tokenizer_config,
        labels=tuple(f"{state}/{column}" for state in range(states) for column in range(width)),
        origin=classifier.origin,
        pooling=settings.pooling,
        last_layers=settings.last_layers,
    )
    kept = teacher_logits(encoder, texts, compute=compute, folder=folder or cache_dir() / FOLDER, reporter=reporter)
    return PooledFeatures(kept.logits.reshape(len(texts), states, width), kept.num_cached)


def pooled_states(states: Sequence[Tensor], mask: Tensor, *, pooling: Pooling, last_layers: int) -> Tensor:
    """Return one vector per text and state, shape (texts, states, width), float32.

    Args:
        states: Output of the embeddings and of each layer, shape (texts, length, width) each.
        mask: Attention mask, shape (texts, length).
        pooling: `cls`: the first token. `mean`: the mean over the tokens, normalised like LayerNorm. `max`: the maximum over
            the tokens, normalised likewise. `last`: the mean of the means of up to `last_layers` states.
        last_layers: Number of states that `last` averages.
    """
    stacked = torch.stack([state.float() for state in states], dim=1)
    real = mask[:, None, :, None].to(stacked.dtype)
    first = stacked[:, :, 0]
    if pooling == "cls":
        return first
    if pooling == "max":
        return normalised(stacked.masked_fill(real == 0, -torch.inf).amax(dim=2))
    means = (stacked * real).sum(dim=2) / real.sum(dim=2)
    if pooling == "last":
        windows = [means[:, max(0, end - last_layers) : end].mean(dim=1) for end in range(1, means.shape[1] + 1)]
        return normalised(torch.stack(windows, dim=1))
    return normalised(means + CLS_SHARE * first)


def normalised(vectors: Tensor) -> Tensor:
    """Return vectors with mean 0 and standard deviation 1 along the last axis."""
    return nn.functional.layer_norm(vectors, vectors.shape[-1:], eps=1e-12)


def encoder_of(model: Any) -> Any:
    """Return the encoder inside a sequence classifier.

    Raises:
        SettingsError: The model has no encoder.
    """
    encoder = getattr(model, model.base_model_prefix, None) if model.base_model_prefix else None
    if encoder is None:
        raise SettingsError(f"{type(model).__name__} has no encoder of layers; use another model")
    return encoder

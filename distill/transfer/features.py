"""Pooled features of an encoder: one vector a text and layer, computed once and kept on disk by content.

They go through the cache of teacher logits, which a row that moved cannot make stale: to it the encoder is a classifier
whose labels are the columns. The file is named after everything that decides the numbers: the encoder's weights and
config, the tokenizer, the pooling and what it computes in; not after the head.
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
from distill.tokenization import Batch

Features = NDArray[np.float32]
"""Shape (texts, states, width): state 0 is the embeddings, state i what layer i gives."""

CLS_SHARE = 1e-3
"""What the first token counts beside the mean, so that a pooling layer of BERT's own making gives the same; see `head`."""

FOLDER = "features"


@dataclass(frozen=True)
class PooledFeatures:
    """Features of some texts, and how many of them were in the cache.

    Attributes:
        values: See `Features`.
        num_cached: Texts that no layer was run for.
    """

    values: Features
    num_cached: int

    def after(self, layers: int) -> NDArray[np.float32]:
        """Return the features after so many layers, shape (texts, width)."""
        return self.values[:, layers]


@dataclass(eq=False)
class PooledEncoder(TorchClassifier):
    """An encoder that answers with its pooled states.

    Attributes:
        pooling: How a layer's states become one vector.
        last_layers: States that the pooling `last` averages.
    """

    pooling: Pooling = "mean"
    last_layers: int = 4

    def digest(self) -> str:
        """Return the sha256 of all that decides the features; the head does not."""
        digest = hashlib.sha256(f"{self.pooling} {self.last_layers} {self.tokenizer.digest()}".encode())
        encoder = encoder_of(self.model)
        digest.update(json.dumps(_deciding(encoder.config.to_dict()), sort_keys=True).encode())
        for name, tensor in sorted(encoder.state_dict().items()):
            if "pooler." not in name:
                digest.update(name.encode())
                digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def _run(self, batch: Batch) -> Logits:
        device = self.model.device
        with torch.inference_mode():
            inputs = {name: torch.from_numpy(values).to(device) for name, values in batch._asdict().items()}
            states = encoder_of(self.model)(**inputs, output_hidden_states=True).hidden_states
            pooled = pooled_states(states, inputs["attention_mask"], pooling=self.pooling, last_layers=self.last_layers)
            return pooled.flatten(start_dim=1).cpu().numpy()


def pooled_features(
    classifier: TorchClassifier,
    texts: Sequence[str],
    settings: FeatureSettings,
    *,
    compute: Compute = "no",
    folder: Path | None = None,
    reporter: Reporter | None = None,
) -> PooledFeatures:
    """Return the pooled states of each text after each number of layers, running the encoder only for new texts.

    Args:
        classifier: Whose encoder; its head is not used.
        texts: Any.
        settings: The pooling.
        compute: Numbers the encoder computes in; features in others are kept apart.
        folder: Where the cache stands; None is `features` in the user's cache folder.
        reporter: Told of progress.

    Raises:
        SettingsError: The model gives no hidden states.
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
    """Return one vector a text and state, shape (texts, states, width), fp32.

    Args:
        states: Of the embeddings and each layer, shape (texts, length, width) each.
        mask: 1 where a token is real, shape (texts, length).
        pooling: `cls`: the first token. `mean`: over the real tokens, normalised to mean 0 and deviation 1 as BERT's norms
            do. `max`: the same with the largest. `last`: the mean of the means of up to `last_layers` states.
        last_layers: See there.
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
    """Return vectors with mean 0 and deviation 1 along the last axis."""
    return nn.functional.layer_norm(vectors, vectors.shape[-1:], eps=1e-12)


def encoder_of(model: Any) -> Any:
    """Return the encoder inside a sequence classifier.

    Raises:
        SettingsError: There is none.
    """
    encoder = getattr(model, model.base_model_prefix, None) if model.base_model_prefix else None
    if encoder is None:
        raise SettingsError(f"{type(model).__name__} has no encoder of layers; name another model")
    return encoder


def _deciding(config: dict[str, Any]) -> dict[str, Any]:
    """The config without names, versions and what only the head knows."""
    head = {"_name_or_path", "architectures", "id2label", "label2id", "num_labels", "problem_type", "transformers_version"}
    return {name: value for name, value in config.items() if name not in head and "dropout" not in name}

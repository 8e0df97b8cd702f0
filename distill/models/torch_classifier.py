"""A PyTorch classifier: predicting with it, and saving it as a bundle's files."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from distill.batching import Indices, filled_up, logits_in_order, steady_batches
from distill.bundle import CONFIG, TOKENIZER, TOKENIZER_CONFIG, WEIGHTS
from distill.classifier import TextInput
from distill.errors import SettingsError
from distill.labels import Logits, ProblemType
from distill.models.devices import Compute, computing_in, evaluating
from distill.models.families import position_offset
from distill.progress import Advance
from distill.storage import write_atomically
from distill.tokenization import Batch, TextTokenizer

MAX_BATCH_TOKENS = 4096
MAX_BATCH_TEXTS = 128
STEADY_BATCH_TOKENS = 1024  # more would add padding rows to the last batch of each length, and is not faster on a CPU


@dataclass(eq=False)
class TorchClassifier:
    """A Hugging Face sequence classifier and the tokenizer it was trained with.

    Attributes:
        model: The module; inputs go to its device.
        tokenizer: From texts to token ids.
        tokenizer_config: Content of `tokenizer_config.json`, for tools that use a transformers tokenizer; its
            `model_max_length` is written from `tokenizer`.
        labels: Label names, in the order of the logits.
        origin: Source of the model, for the lineage; a name, never a path.
        problem_type: How logits become probabilities.
    """

    model: PreTrainedModel
    tokenizer: TextTokenizer
    tokenizer_config: dict[str, Any]
    labels: tuple[str, ...]
    origin: str
    problem_type: ProblemType = "single_label_classification"

    def predict_logits(self, texts: Sequence[TextInput]) -> Logits:
        """Return logits, shape (len(texts), len(labels)), float32; row i belongs to texts[i]."""
        return self.logits_of_rows(self.tokenizer.encode(texts))

    def reading_pairs(self, *, typed: bool = True) -> TorchClassifier:
        """Return this classifier with a tokenizer for sentence pairs; the model is the same.

        Args:
            typed: Tell the model which text a token is of, if it has vectors for that.
        """
        has_types = typed and (getattr(self.model.config, "type_vocab_size", None) or 0) > 1
        return replace(self, tokenizer=self.tokenizer.reading_pairs(has_types=has_types))

    def logits_of_rows(self, rows: Sequence[np.ndarray], advance: Advance | None = None) -> Logits:
        """Return the logits of texts that are already tokenized, one array of ids for each text."""
        with evaluating(self.model):
            return logits_in_order(
                rows,
                run=lambda batch: self._run(self.tokenizer.pad(batch)),
                num_labels=len(self.labels),
                max_tokens=MAX_BATCH_TOKENS,
                max_texts=MAX_BATCH_TEXTS,
                on_batch=advance,
            )

    def steady_logits(self, rows: Sequence[np.ndarray], compute: Compute) -> Iterator[tuple[Indices, Logits]]:
        """Yield the positions of some rows and their logits, until every row has been predicted; see `steady_batches`."""
        lengths = [len(row) for row in rows]
        with evaluating(self.model):
            for batch in steady_batches(lengths, max_length=self.tokenizer.max_length, max_tokens=STEADY_BATCH_TOKENS):
                padded = self.tokenizer.pad([rows[place] for place in batch.places])
                with computing_in(compute, self.model.device):
                    logits = self._run(filled_up(padded, batch.shape, pad_id=self.tokenizer.pad_id))
                yield batch.places, logits[: len(batch.places)]

    def tensors(self, batch: Batch) -> dict[str, Tensor]:
        """Return a batch as the model's arguments, on its device."""
        return {name: torch.from_numpy(values).to(self.model.device) for name, values in batch.inputs().items()}

    def _run(self, batch: Batch) -> Logits:
        with torch.inference_mode():
            return self.model(**self.tensors(batch)).logits.float().cpu().numpy()

    def input_vectors(self) -> NDArray[np.float32]:
        """Return the embedding of each token, shape (tokens, dimensions)."""
        return np.asarray(self.token_table().detach().float().cpu())

    def token_table(self) -> Tensor:
        """Return the weight that holds the embedding of each token, shape (tokens, dimensions).

        Raises:
            SettingsError: The model has no such table.
        """
        table = getattr(self.model.get_input_embeddings(), "weight", None)
        if not isinstance(table, Tensor):
            raise SettingsError(f"{type(self.model).__name__} has no table of token embeddings")
        return table

    def num_parameters(self) -> int:
        """Return the number of weights."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    def multiply_adds_per_token(self) -> int:
        """Return the multiply-adds for each token in the linear layers of the encoder.

        Pooler and head are not counted: they see one token of each text. Nor are the matmuls of attention scores.
        """
        encoder = getattr(self.model, self.model.base_model_prefix, self.model)
        return sum(
            module.weight.numel()
            for name, module in encoder.named_modules()
            if isinstance(module, nn.Linear) and "pooler" not in name
        )

    def digest(self) -> str:
        """Return the sha256 of everything that the logits depend on: weights, config, tokenizer, max_length."""
        digest = hashlib.sha256(self.tokenizer.digest().encode())
        digest.update(_portable_config(self).encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()


def write_model_files(classifier: TorchClassifier, folder: Path) -> None:
    """Write weights, config and tokenizer files that `transformers` and this package both load."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in classifier.model.state_dict().items()}
    write_atomically(folder / WEIGHTS, safetensors.torch.save(weights, metadata={"format": "pt"}))
    write_atomically(folder / CONFIG, _portable_config(classifier))
    write_atomically(folder / TOKENIZER, classifier.tokenizer.to_json())
    tokenizer_config = {**classifier.tokenizer_config, "model_max_length": classifier.tokenizer.max_length}
    if classifier.tokenizer.pairs is not None:
        tokenizer_config["model_input_names"] = list(classifier.tokenizer.input_names)
    write_atomically(folder / TOKENIZER_CONFIG, json.dumps(tokenizer_config, indent=2, sort_keys=True) + "\n")


def usable_positions(config: Any) -> float:
    """Return how many tokens the position table has rows for; infinity without a table."""
    return float((getattr(config, "max_position_embeddings", None) or math.inf) - position_offset(config))


def require_max_length(config: Any, max_length: int) -> None:
    """Raise `SettingsError` if the position table has fewer rows than `max_length` tokens need."""
    usable = usable_positions(config)
    if max_length > usable:
        raise SettingsError(
            f"max_length is {max_length}, but this model has positions for {usable:g} tokens; use a smaller --max-length"
        )


def _portable_config(classifier: TorchClassifier) -> str:
    """The config as JSON, without the path it was loaded from."""
    config = {name: value for name, value in classifier.model.config.to_dict().items() if name != "_name_or_path"}
    return json.dumps({**config, "architectures": [type(classifier.model).__name__]}, indent=2, sort_keys=True) + "\n"

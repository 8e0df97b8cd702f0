"""The baseline that latencies are compared with: PyTorch eager and a transformers tokenizer, as in plain transformers code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from transformers import AutoTokenizer

from distill.bundle import CONFIG, TOKENIZER, TOKENIZER_CONFIG, Bundle
from distill.classifier import TextInput
from distill.labels import Logits
from distill.models.devices import using_threads
from distill.models.loading import load_bundle, quiet_transformers


class EagerClassifier:
    """A bundle's model run by PyTorch eager in `inference_mode`, with texts in the given order."""

    def __init__(self, bundle: Bundle, *, threads: int | None = None) -> None:
        """Load a bundle's model; `threads` None is this process's share of the CPUs it may use."""
        self._model = load_bundle(bundle).model
        with quiet_transformers(), TemporaryDirectory() as folder:
            # Only the files that were checked: transformers also reads others, such as adapters, where it finds them.
            for name in (CONFIG, TOKENIZER, TOKENIZER_CONFIG):
                (Path(folder) / name).write_bytes(bundle.read(name))
            self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self.labels = bundle.labels
        self.problem_type = bundle.manifest.problem_type
        self._max_length = bundle.manifest.max_length
        self._threads = threads

    def predict_logits(self, texts: Sequence[TextInput]) -> Logits:
        """Return logits, shape (len(texts), len(labels)), all texts in one batch padded to the longest."""
        if not texts:
            return np.empty((0, len(self.labels)), dtype=np.float32)
        with using_threads(self._threads), torch.inference_mode():
            inputs = self._tokenizer(
                list(texts),
                truncation=True,
                max_length=self._max_length,
                padding=len(texts) > 1,
                return_tensors="pt",
            )
            return np.asarray(self._model(**inputs).logits.numpy(), dtype=np.float32)

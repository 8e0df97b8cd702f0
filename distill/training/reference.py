"""A bundle's PyTorch model as a script in the wild runs it: the yardstick that speed is measured against."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from distill.bundle import Bundle
from distill.classifier import TextInput
from distill.labels import Logits, ProblemType
from distill.training.devices import using_threads
from distill.training.models import is_static, load_bundle, quiet_transformers


class EagerClassifier:
    """PyTorch eager with its transformers tokenizer, `inference_mode`, texts in the order given."""

    def __init__(self, bundle: Bundle, *, threads: int | None = None) -> None:
        """Load a bundle's model; `threads` None takes what this process may really use."""
        bundle.weights()
        with quiet_transformers(), torch.random.fork_rng(devices=[]):
            self._model = _eager_model(bundle)
            self._tokenizer = AutoTokenizer.from_pretrained(bundle.path)
        self._bundle = bundle
        self._threads = threads

    @property
    def labels(self) -> tuple[str, ...]:
        """Label names, in the order of the logits."""
        return self._bundle.labels

    @property
    def problem_type(self) -> ProblemType:
        """How logits become probabilities."""
        return self._bundle.manifest.problem_type

    def predict_logits(self, texts: Sequence[TextInput]) -> Logits:
        """Return logits, shape (len(texts), len(labels)), all texts in one batch padded to the longest."""
        if not texts:
            return np.empty((0, len(self.labels)), dtype=np.float32)
        with using_threads(self._threads), torch.inference_mode():
            inputs = self._tokenizer(
                list(texts),
                truncation=True,
                max_length=self._bundle.manifest.max_length,
                padding=len(texts) > 1,
                return_tensors="pt",
            )
            return np.asarray(self._model(**inputs).logits.numpy(), dtype=np.float32)


def _eager_model(bundle: Bundle) -> PreTrainedModel:
    if is_static(bundle.path):  # transformers does not know it
        return load_bundle(bundle).model
    return AutoModelForSequenceClassification.from_pretrained(bundle.path, use_safetensors=True).eval()

"""The stock int8 export as servers' documentation has users write it: tokenizers, one padded batch, onnxruntime.

Runs in the peers' interpreters. The tokenizers library itself, not transformers' wrapper around it, which is slower.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime as ort

from benchmarks.harness.peer import config_of, reader_of
from export.measure.protocol import Job


class StockModel:
    """Answers texts with the label of the highest probability and that probability."""

    def __init__(self, folder: Path, *, threads: int) -> None:
        longest = json.loads((folder / "tokenizer_config.json").read_text())["model_max_length"]
        job = Job(bundle=folder, folder=folder, threads=threads, max_length=longest)
        self._labels, self._inputs_of = config_of(job)["id2label"], reader_of(job)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self._session = ort.InferenceSession(str(folder / "model_quantized.onnx"), options, providers=["CPUExecutionProvider"])

    def answer(self, texts: list[str]) -> list[tuple[str, float]]:
        """Return a label and its probability a text."""
        logits = self._session.run(None, self._inputs_of(texts))[0]
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        return [(self._labels[str(row.argmax())], float(row.max())) for row in shares]

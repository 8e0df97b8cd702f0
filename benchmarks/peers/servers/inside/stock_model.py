"""The stock int8 export as servers' documentation has users write it: tokenizers, one padded batch, onnxruntime.

Runs in the peers' interpreters. The tokenizers library itself, not transformers' wrapper around it, which is slower.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime as ort
from tokenizers import Tokenizer


class StockModel:
    """Answers texts with the label of the highest probability and that probability."""

    def __init__(self, folder: Path | str, *, threads: int) -> None:
        place = Path(folder)
        config = json.loads((place / "config.json").read_text())
        self._labels = [config["id2label"][str(number)] for number in range(len(config["id2label"]))]
        self._tokenizer = Tokenizer.from_file(str(place / "tokenizer.json"))
        self._tokenizer.enable_truncation(json.loads((place / "tokenizer_config.json").read_text())["model_max_length"])
        self._tokenizer.enable_padding(pad_id=config["pad_token_id"] or 0)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self._session = ort.InferenceSession(str(place / "model_quantized.onnx"), options, providers=["CPUExecutionProvider"])

    def answer(self, texts: list[str]) -> list[tuple[str, float]]:
        """Return a label and its probability a text."""
        rows = self._tokenizer.encode_batch(texts)
        ids = np.array([row.ids for row in rows], dtype=np.int64)
        mask = np.array([row.attention_mask for row in rows], dtype=np.int64)
        logits = self._session.run(None, {"input_ids": ids, "attention_mask": mask})[0]
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        best = shares.argmax(axis=1)
        return [(self._labels[top], float(row[top])) for row, top in zip(shares, best, strict=True)]

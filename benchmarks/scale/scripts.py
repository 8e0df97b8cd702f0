"""The obvious scripts that bulk scoring is compared with, each a process of its own that takes its own time.

As one would write them: pandas reads the table, rows go in batches of 32 in file order, pandas writes the labels.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd

BATCH = 32


def transformers_pipeline(folder: Path, threads: int) -> Callable[[list[str]], list[str]]:
    """Return a `transformers` pipeline on the PyTorch weights."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

    torch.set_num_threads(threads)
    longest = json.loads((folder / "manifest.json").read_text())["max_length"]
    tokenizer = AutoTokenizer.from_pretrained(folder, model_max_length=longest)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    classify = pipeline("text-classification", model=model, tokenizer=tokenizer)
    return lambda texts: [answer["label"] for answer in classify(texts, batch_size=BATCH, truncation=True)]


def plain_ort(folder: Path, threads: int) -> Callable[[list[str]], list[str]]:
    """Return ONNX Runtime with its default options on the stock int8 graph of the same student."""
    from benchmarks.peers.servers.inside.stock_model import StockModel

    model = StockModel(folder, threads=threads)
    return lambda texts: [
        label for start in range(0, len(texts), BATCH) for label, _ in model.answer(texts[start : start + BATCH])
    ]


def main(kind: str, table: str, folder: str, threads: str) -> None:
    """Run one script and print rows and seconds; loading is not in the time."""
    labels_of = {"pipeline": transformers_pipeline, "plain_ort": plain_ort}[kind](Path(folder), int(threads))
    started = time.perf_counter()
    frame = pd.read_parquet(table)
    labels = labels_of(frame["text"].tolist())
    frame[["id"]].assign(label=labels).to_parquet(Path(table).with_suffix(".labels.parquet"))
    print(json.dumps({"num_rows": len(frame), "seconds": time.perf_counter() - started}))


if __name__ == "__main__":
    main(*sys.argv[1:])

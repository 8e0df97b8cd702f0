"""The obvious scripts that bulk scoring is compared with, each a process of its own that takes its own time.

As one would write them: pandas reads the table, rows go in batches of 32 in file order, pandas writes the labels.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd

BATCH = 32


def pipeline_script(table: Path, bundle: Path, threads: int) -> Callable[[], int]:
    """Return pandas and a `transformers` pipeline on the PyTorch weights."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

    torch.set_num_threads(threads)
    config = json.loads((bundle / "manifest.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(bundle, model_max_length=config["max_length"])
    classify = pipeline(
        "text-classification", model=AutoModelForSequenceClassification.from_pretrained(bundle), tokenizer=tokenizer
    )

    def run() -> int:
        frame = pd.read_parquet(table)
        answers = classify(frame["text"].tolist(), batch_size=BATCH, truncation=True)
        return _write(frame, [answer["label"] for answer in answers], table)

    return run


def plain_ort_script(table: Path, bundle: Path, threads: int, graph: Path) -> Callable[[], int]:
    """Return pandas and ONNX Runtime with its default options on the stock int8 graph of the same student."""
    import numpy as np
    import onnxruntime as ort
    from tokenizers import Tokenizer

    config = json.loads((bundle / "manifest.json").read_text())
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_file(str(bundle / "tokenizer.json"))
    tokenizer.enable_truncation(config["max_length"])
    tokenizer.enable_padding(pad_id=config["pad_token_id"])

    def labels_of(texts: list[str]) -> Iterator[str]:
        for start in range(0, len(texts), BATCH):
            encodings = tokenizer.encode_batch(texts[start : start + BATCH])
            ids = np.array([each.ids for each in encodings], dtype=np.int64)
            mask = np.array([each.attention_mask for each in encodings], dtype=np.int64)
            logits = session.run(None, {"input_ids": ids, "attention_mask": mask})[0]
            yield from (config["labels"][top] for top in logits.argmax(axis=1))

    def run() -> int:
        frame = pd.read_parquet(table)
        return _write(frame, list(labels_of(frame["text"].tolist())), table)

    return run


def _write(frame: pd.DataFrame, labels: list[str], table: Path) -> int:
    frame[["id"]].assign(label=labels).to_parquet(table.with_suffix(".labels.parquet"))
    return len(frame)


def main(kind: str, table: str, bundle: str, threads: str, graph: str = "") -> None:
    """Run one script and print rows and seconds; loading is not in the time."""
    scripts: dict[str, Callable[..., Callable[[], int]]] = {"pipeline": pipeline_script, "plain_ort": plain_ort_script}
    more = (Path(graph),) if graph else ()
    run = scripts[kind](Path(table), Path(bundle), int(threads), *more)
    started = time.perf_counter()
    rows = run()
    print(json.dumps({"num_rows": rows, "seconds": time.perf_counter() - started}))


if __name__ == "__main__":
    main(*sys.argv[1:])

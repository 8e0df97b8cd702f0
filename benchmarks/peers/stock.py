"""The stock recipe: torch's exporter, ONNX Runtime's BERT optimizer, `quantize_dynamic` per channel.

As ONNX Runtime's documentation puts the three together; texts sorted by length in batches of 32.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime as ort

from benchmarks.harness.weights import portable_graph
from distill.tokenization import TextTokenizer
from export.measure.protocol import BATCH, Job, Logits, Peer, in_length_order, serve

SOURCE = "https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html (dynamic, transformer-based models)"


def open_peer(job: Job) -> Peer:
    """Export, optimize and quantize unless an earlier run did; then open the graph with default session options."""
    graph = write_graph(job)
    options = ort.SessionOptions()
    options.intra_op_num_threads = job.threads
    options.log_severity_level = 3
    session = ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    tokenizer = TextTokenizer.from_file(job.bundle / "tokenizer.json", max_length=job.max_length, pad_id=_pad_id(job))

    def answer(texts: list[str]) -> Logits:
        return np.asarray(session.run(None, tokenizer.pad(tokenizer.encode(texts)).inputs())[0])

    return Peer(
        one=lambda text: answer([text])[0],
        many=lambda texts: in_length_order(texts, answer),
        settings={"threads": job.threads, "batch": BATCH, "order": "by length", "per_channel": True},
        source=SOURCE,
        size_bytes=graph.stat().st_size,
    )


def write_graph(job: Job) -> Path:
    """Optimize and quantize the exported graph beside the job's folder, unless an earlier run did, and return the file."""
    graph = job.folder / "quantized.onnx"
    if graph.exists():
        return graph
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.transformers.optimizer import optimize_model

    config = json.loads((job.bundle / "config.json").read_text())
    optimized = optimize_model(
        str(portable_graph(job)),
        model_type="bert",
        num_heads=config["num_attention_heads"],
        hidden_size=config["hidden_size"],
    )
    optimized.save_model_to_file(str(job.folder / "optimized.onnx"))
    quantize_dynamic(job.folder / "optimized.onnx", graph, per_channel=True, weight_type=QuantType.QInt8)
    return graph


def _pad_id(job: Job) -> int:
    return int(json.loads((job.bundle / "config.json").read_text())["pad_token_id"] or 0)


if __name__ == "__main__":
    serve(open_peer)

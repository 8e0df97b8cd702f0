"""The stock recipe: torch's exporter, ONNX Runtime's BERT optimizer, `quantize_dynamic` per channel.

As ONNX Runtime's documentation puts the three together; texts sorted by length in batches of 32.
"""

from __future__ import annotations

import numpy as np

from benchmarks.harness.peer import Needs, bytes_of, config_of, reader_of
from benchmarks.harness.weights import portable_graph
from export.measure.protocol import BATCH, Job, Logits, Peer, in_length_order

PEER = Needs("weights")
SOURCE = "https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html (dynamic, transformer-based models)"
GRAPH = "quantized.onnx"


def prepare(job: Job) -> None:
    """Optimize and quantize the exported graph."""
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.transformers.optimizer import optimize_model

    config, optimized = config_of(job), job.folder / "optimized.onnx"
    shape = {"num_heads": config["num_attention_heads"], "hidden_size": config["hidden_size"]}
    optimize_model(str(portable_graph(job)), model_type="bert", **shape).save_model_to_file(str(optimized))
    quantize_dynamic(optimized, job.folder / GRAPH, per_channel=True, weight_type=QuantType.QInt8)


def open_peer(job: Job) -> Peer:
    """Open the graph with default session options."""
    import onnxruntime as ort

    graph, options = job.folder / GRAPH, ort.SessionOptions()
    options.intra_op_num_threads = job.threads
    options.log_severity_level = 3
    session = ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    inputs_of = reader_of(job)

    def answer(texts: list[str]) -> Logits:
        return np.asarray(session.run(None, inputs_of(texts))[0])

    return Peer(
        one=lambda text: answer([text])[0],
        many=lambda texts: in_length_order(texts, answer),
        settings={"threads": job.threads, "batch": BATCH, "order": "by length", "per_channel": True},
        source=SOURCE,
        size_bytes=bytes_of(job.bundle, graph),
    )

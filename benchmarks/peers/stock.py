"""The stock recipe: torch's exporter, ONNX Runtime's BERT optimizer, `quantize_dynamic` per channel.

As ONNX Runtime's documentation puts the three together; texts sorted by length in batches of 32.
"""

from __future__ import annotations

import numpy as np

from benchmarks.harness.peer import Needs, bytes_of, config_of, peer_of, reader_of, session_options
from benchmarks.harness.weights import portable_graph
from export.measure.protocol import Job, Peer

PEER = Needs("weights")
SOURCE = "https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html (dynamic, transformer-based models)"
GRAPH = "quantized.onnx"


def prepare(job: Job) -> None:
    """Optimize and quantize the exported graph."""
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.transformers.optimizer import optimize_model

    config, optimized = config_of(job), job.folder / "optimized.onnx"
    optimize_model(
        str(portable_graph(job)),
        model_type="bert",
        num_heads=config["num_attention_heads"],
        hidden_size=config["hidden_size"],
    ).save_model_to_file(str(optimized))
    quantize_dynamic(optimized, job.folder / GRAPH, per_channel=True, weight_type=QuantType.QInt8)


def open_peer(job: Job) -> Peer:
    """Open the graph with default session options."""
    import onnxruntime as ort

    graph, inputs_of = job.folder / GRAPH, reader_of(job)
    session = ort.InferenceSession(str(graph), session_options(job.threads), providers=["CPUExecutionProvider"])
    return peer_of(
        lambda texts: np.asarray(session.run(None, inputs_of(texts))[0]),
        job,
        source=SOURCE,
        size_bytes=bytes_of(job.bundle, graph),
        per_channel=True,
    )

"""OpenVINO with int8 weights and activations by nncf; latency hint for one text, throughput hint for many.

Many texts are sorted by length, in batches of 32, on one stream per thread.
"""

from __future__ import annotations

import numpy as np

from benchmarks.harness.peer import Needs, bytes_of, reader_of
from benchmarks.harness.weights import portable_graph
from export.measure.protocol import BATCH, Job, Logits, Peer, in_place

PEER = Needs("weights", ("openvino==2026.4.1", "nncf==3.4.0"))
SOURCE = (
    "https://docs.openvino.ai/2025/notebooks/language-quantize-bert-with-output.html (nncf, model_type=TRANSFORMER), "
    "https://docs.openvino.ai/2025/openvino-workflow/running-inference/optimize-inference/high-level-performance-hints.html"
)
GRAPH = "quantized.xml"


def prepare(job: Job) -> None:
    """Quantize with nncf."""
    import nncf
    import openvino as ov

    inputs_of = reader_of(job)
    quantized = nncf.quantize(
        ov.Core().read_model(portable_graph(job)),
        nncf.Dataset([inputs_of([text]) for text in job.calibration]),
        model_type=nncf.ModelType.TRANSFORMER,
    )
    ov.save_model(quantized, job.folder / GRAPH)


def open_peer(job: Job) -> Peer:
    """Compile once for latency and once for throughput."""
    import openvino as ov

    inputs_of, core, path = reader_of(job), ov.Core(), job.folder / GRAPH
    threads = {"INFERENCE_NUM_THREADS": job.threads}
    single = core.compile_model(path, "CPU", {"PERFORMANCE_HINT": "LATENCY", **threads}).create_infer_request()
    several = core.compile_model(path, "CPU", {"PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": job.threads, **threads})

    def many(texts: list[str]) -> Logits:
        order = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
        parts: dict[int, Logits] = {}
        queue = ov.AsyncInferQueue(several, job.threads)
        queue.set_callback(lambda request, start: parts.update({start: request.get_output_tensor(0).data.copy()}))
        for start in range(0, len(order), BATCH):
            queue.start_async(inputs_of([texts[index] for index in order[start : start + BATCH]]), start)
        queue.wait_all()
        return in_place(order, np.concatenate([parts[start] for start in sorted(parts)]))

    return Peer(
        one=lambda text: single.infer(inputs_of([text]))[0][0].copy(),
        many=lambda texts: many(list(texts)),
        settings={**threads, "streams": job.threads, "batch": BATCH, "order": "by length", "calibration": len(job.calibration)},
        source=SOURCE,
        size_bytes=bytes_of(job.bundle, path, path.with_suffix(".bin")),
    )

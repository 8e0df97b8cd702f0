"""OpenVINO with int8 weights and activations by nncf; latency hint for one text, throughput hint for many.

Runs in an environment of its own. Many texts are sorted by length, in batches of 32, on one stream per thread.
"""

from __future__ import annotations

import json

import nncf
import numpy as np
import openvino as ov
from tokenizers import Tokenizer

from benchmarks.harness.weights import portable_graph
from export.measure.protocol import BATCH, Job, Logits, Peer, in_place, serve

SOURCE = (
    "https://docs.openvino.ai/2025/notebooks/language-quantize-bert-with-output.html (nncf, model_type=TRANSFORMER), "
    "https://docs.openvino.ai/2025/openvino-workflow/running-inference/optimize-inference/high-level-performance-hints.html"
)


def open_peer(job: Job) -> Peer:
    """Quantize unless an earlier run did; then compile once for latency and once for throughput."""
    tokenizer = Tokenizer.from_file(str(job.bundle / "tokenizer.json"))
    tokenizer.enable_truncation(job.max_length)
    pad_id = json.loads((job.bundle / "config.json").read_text())["pad_token_id"] or 0
    tokenizer.enable_padding(pad_id=pad_id)

    def inputs_of(texts: list[str]) -> dict[str, np.ndarray]:
        encodings = tokenizer.encode_batch_fast(texts)
        ids = np.array([encoding.ids for encoding in encodings], dtype=np.int64)
        return {
            "input_ids": ids,
            "attention_mask": np.array([encoding.attention_mask for encoding in encodings], dtype=np.int64),
        }

    core = ov.Core()
    path = job.folder / "quantized.xml"
    if not path.exists():
        dataset = nncf.Dataset([inputs_of([text]) for text in job.calibration])
        model = core.read_model(portable_graph(job))
        ov.save_model(nncf.quantize(model, dataset, model_type=nncf.ModelType.TRANSFORMER), path)
    threads = {"INFERENCE_NUM_THREADS": job.threads}
    single = core.compile_model(path, "CPU", {"PERFORMANCE_HINT": "LATENCY", **threads}).create_infer_request()
    many = core.compile_model(path, "CPU", {"PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": job.threads, **threads})

    def answer_many(texts: list[str]) -> Logits:
        order = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
        parts: dict[int, Logits] = {}
        queue = ov.AsyncInferQueue(many, job.threads)
        queue.set_callback(lambda request, start: parts.update({start: request.get_output_tensor(0).data.copy()}))
        for start in range(0, len(order), BATCH):
            queue.start_async(inputs_of([texts[index] for index in order[start : start + BATCH]]), start)
        queue.wait_all()
        return in_place(order, np.concatenate([parts[start] for start in sorted(parts)]))

    return Peer(
        one=lambda text: single.infer(inputs_of([text]))[0][0].copy(),
        many=lambda texts: answer_many(list(texts)),
        settings={**threads, "streams": job.threads, "batch": BATCH, "order": "by length", "calibration": len(job.calibration)},
        source=SOURCE,
        size_bytes=path.with_suffix(".bin").stat().st_size + path.stat().st_size,
    )


if __name__ == "__main__":
    serve(open_peer)

"""optimum: `ORTModelForSequenceClassification` in a transformers pipeline, quantized with its avx512_vnni preset.

As optimum's documentation has it; many texts are sorted by length, because its pipeline pads a batch to its longest.
"""

from __future__ import annotations

from benchmarks.harness.peer import Needs, bytes_of, peer_of, scores_of, session_options
from export.measure.protocol import BATCH, Job, Peer

# The last three packages only so that a test can read a Triton config as Triton does.
PEER = Needs(
    "weights",
    (
        *("optimum-onnx[onnxruntime]==0.1.0", "transformers==4.57.6"),
        *("tritonclient==2.73.0", "grpcio==1.85.1", "protobuf==7.36.2"),
    ),
)
SOURCE = "https://huggingface.co/docs/optimum-onnx/onnxruntime/usage_guides/quantization and .../pipelines"
GRAPH = "model_quantized.onnx"


def prepare(job: Job) -> None:
    """Export and quantize."""
    from optimum.onnxruntime import ORTModelForSequenceClassification, ORTQuantizer
    from optimum.onnxruntime.configuration import AutoQuantizationConfig

    model = ORTModelForSequenceClassification.from_pretrained(job.bundle, export=True)
    model.save_pretrained(job.folder)
    ORTQuantizer.from_pretrained(model).quantize(
        save_dir=job.folder, quantization_config=AutoQuantizationConfig.avx512_vnni(is_static=False, per_channel=False)
    )


def open_peer(job: Job) -> Peer:
    """Build the pipeline."""
    from optimum.onnxruntime import ORTModelForSequenceClassification
    from transformers import AutoTokenizer, pipeline

    model = ORTModelForSequenceClassification.from_pretrained(
        job.folder, file_name=GRAPH, session_options=session_options(job.threads)
    )
    tokenizer = AutoTokenizer.from_pretrained(job.bundle, model_max_length=job.max_length)
    classify = pipeline("text-classification", model=model, tokenizer=tokenizer, top_k=None, function_to_apply="none")
    return peer_of(
        lambda texts: scores_of(classify(texts, batch_size=BATCH, truncation=True), job.labels),
        job,
        source=SOURCE,
        size_bytes=bytes_of(job.bundle, job.folder / GRAPH),
        preset="avx512_vnni, dynamic",
    )

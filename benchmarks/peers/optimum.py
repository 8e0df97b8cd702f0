"""optimum: `ORTModelForSequenceClassification` in a transformers pipeline, quantized with its avx512_vnni preset.

As optimum's documentation has it, the texts in the order given; runs in an environment of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
from optimum.onnxruntime import ORTModelForSequenceClassification, ORTQuantizer
from optimum.onnxruntime.configuration import AutoQuantizationConfig
from transformers import AutoTokenizer, pipeline

from export.measure.protocol import BATCH, Job, Logits, Peer, serve

SOURCE = "https://huggingface.co/docs/optimum-onnx/onnxruntime/usage_guides/quantization and .../pipelines"


def open_peer(job: Job) -> Peer:
    """Export and quantize unless an earlier run did; then build the pipeline."""
    quantized = job.folder / "model_quantized.onnx"
    if not quantized.exists():
        model = ORTModelForSequenceClassification.from_pretrained(job.bundle, export=True)
        model.save_pretrained(job.folder)
        preset = AutoQuantizationConfig.avx512_vnni(is_static=False, per_channel=False)
        ORTQuantizer.from_pretrained(model).quantize(save_dir=job.folder, quantization_config=preset)
    options = ort.SessionOptions()
    options.intra_op_num_threads = job.threads
    model = ORTModelForSequenceClassification.from_pretrained(job.folder, file_name=quantized.name, session_options=options)
    tokenizer = AutoTokenizer.from_pretrained(job.bundle, model_max_length=job.max_length)
    classify = pipeline("text-classification", model=model, tokenizer=tokenizer, top_k=None, function_to_apply="none")
    order = list(model.config.label2id)

    def rows(answers: Any) -> Logits:
        scores = [{answer["label"]: answer["score"] for answer in answers_of_text} for answers_of_text in answers]
        return np.array([[row[label] for label in order] for row in scores])

    return Peer(
        one=lambda text: rows(classify([text], truncation=True))[0],
        many=lambda texts: rows(classify(list(texts), batch_size=BATCH, truncation=True)),
        settings={"threads": job.threads, "batch": BATCH, "order": "as given", "preset": "avx512_vnni, dynamic"},
        source=SOURCE,
        size_bytes=quantized.stat().st_size,
    )


if __name__ == "__main__":
    serve(open_peer)

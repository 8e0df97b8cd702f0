"""sentence-transformers: its ONNX backend in int8 for the embedding, and a logistic regression on top.

The backend serves embedding models; for a classifier it is the half below the head. The base encoder is not fine-tuned.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.harness.peer import Needs, bytes_of, peer_of, session_options
from export.measure.protocol import BATCH, Job, Peer

PEER = Needs(
    "base",
    (
        *("sentence-transformers==5.2.3", "optimum-onnx[onnxruntime]==0.1.0"),
        *("transformers==4.57.6", "datasets==4.4.1"),
    ),
)
SOURCE = (
    "https://sbert.net/docs/sentence_transformer/usage/efficiency.html (ONNX, dynamic int8, avx512_vnni), "
    "https://sbert.net/examples/sentence_transformer/applications (embeddings into scikit-learn)"
)
QUANTIZED = "onnx/model_qint8_avx512_vnni.onnx"


def prepare(job: Job) -> None:
    """Export and quantize the base encoder, then fit the regression on embeddings of the training texts."""
    from sentence_transformers import SentenceTransformer, export_dynamic_quantized_onnx_model
    from sklearn.linear_model import LogisticRegression

    model = SentenceTransformer(
        job.options["base"], backend="onnx", model_kwargs={"provider": "CPUExecutionProvider", "export": True}
    )
    model.save_pretrained(str(job.folder))
    export_dynamic_quantized_onnx_model(model, "avx512_vnni", str(job.folder))
    texts = job.training_texts()
    embeddings = _encoder(job).encode(texts["train"], batch_size=BATCH, show_progress_bar=False)
    head = LogisticRegression(max_iter=1000).fit(embeddings, texts["train_labels"])
    weights, bias = head.coef_, head.intercept_
    if len(head.classes_) == 2:  # scikit-learn keeps one row for two labels
        weights, bias = np.vstack([-weights / 2, weights / 2]), np.concatenate([-bias / 2, bias / 2])
    np.savez(job.folder / "head.npz", weights=weights.astype(np.float32), bias=bias.astype(np.float32))


def open_peer(job: Job) -> Peer:
    """Open the quantized encoder and the regression."""
    encoder = _encoder(job)
    with np.load(job.folder / "head.npz") as head:
        weights, bias = head["weights"].T, head["bias"]
    return peer_of(
        lambda texts: encoder.encode(texts, batch_size=BATCH, show_progress_bar=False) @ weights + bias,
        job,
        source=SOURCE,
        size_bytes=bytes_of(job.folder, QUANTIZED, "head.npz"),
        order="by length, its own",
        preset="avx512_vnni, dynamic",
    )


def _encoder(job: Job) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(
        str(job.folder),
        backend="onnx",
        model_kwargs={
            "file_name": QUANTIZED,
            "provider": "CPUExecutionProvider",
            "session_options": session_options(job.threads),
        },
    )

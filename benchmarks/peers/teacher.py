"""The teacher as a script in the wild runs it: PyTorch eager with its transformers tokenizer."""

from __future__ import annotations

from distill.bundle import Bundle
from distill.models.eager import EagerClassifier
from export.measure.protocol import BATCH, Job, Peer, in_length_order, serve


def open_peer(job: Job) -> Peer:
    """Open the bundle's PyTorch model."""
    bundle = Bundle.open(job.bundle)
    classifier = EagerClassifier(bundle, threads=job.threads)
    return Peer(
        one=lambda text: classifier.predict_logits([text])[0],
        many=lambda texts: in_length_order(texts, classifier.predict_logits),
        settings={"threads": job.threads, "batch": BATCH, "order": "by length"},
        source="distill/models/loading.py",
        size_bytes=bundle.size_bytes(None),
    )


if __name__ == "__main__":
    serve(open_peer)

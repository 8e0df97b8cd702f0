"""potstill itself: the int8 graph that ships."""

from __future__ import annotations

from distill.bundle import Bundle
from export.measure.protocol import Job, Peer, serve
from export.runtime.sessions import OnnxClassifier


def open_peer(job: Job) -> Peer:
    """Open the bundle's int8 graph as `potstill predict` does."""
    bundle = Bundle.open(job.bundle)
    classifier = OnnxClassifier.open(bundle, precision="int8", threads=job.threads)
    return Peer(
        one=lambda text: classifier.predict_logits([text])[0],
        many=classifier.predict_logits,
        settings={"threads": job.threads},
        source="export/runtime/sessions.py",
        size_bytes=bundle.size_bytes("int8"),
    )


if __name__ == "__main__":
    serve(open_peer)

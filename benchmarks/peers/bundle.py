"""A bundle in one of its forms: its PyTorch model, its fp32 graph or its int8 graph, as `potstill predict` runs it."""

from __future__ import annotations

from benchmarks.peers.protocol import Job, Peer, serve
from distill.bundle import Bundle
from export.candidates import bundle_candidate


def open_peer(job: Job) -> Peer:
    """Open it."""
    form = job.options["form"]
    candidate = bundle_candidate(Bundle.open(job.bundle), name=form, form=form)
    classifier = candidate.open(job.threads)
    return Peer(
        one=lambda text: classifier.predict_logits([text])[0],
        many=classifier.predict_logits,
        settings={"threads": job.threads, "form": form},
        source="export/candidates.py",
        size_bytes=candidate.size_bytes,
    )


if __name__ == "__main__":
    serve(open_peer)

"""A bundle in one of its forms: its PyTorch model, its fp32 graph or its int8 graph, as `potstill predict` runs it."""

from __future__ import annotations

from collections.abc import Sequence

from distill.bundle import Bundle
from export.measure.candidates import bundle_candidate
from export.measure.protocol import Job, Logits, Peer, in_length_order, serve


def open_peer(job: Job) -> Peer:
    """Open it."""
    form = job.options["form"]
    candidate = bundle_candidate(Bundle.open(job.bundle), name=form, form=form)
    classifier = candidate.open(job.threads)

    def many(texts: Sequence[str]) -> Logits:
        # The graphs cut many texts into batches themselves; eager PyTorch would pad them all to the longest.
        return in_length_order(texts, classifier.predict_logits) if form == "pytorch" else classifier.predict_logits(texts)

    return Peer(
        one=lambda text: classifier.predict_logits([text])[0],
        many=many,
        settings={"threads": job.threads, "form": form},
        source="export/measure/candidates.py",
        size_bytes=candidate.size_bytes,
    )


if __name__ == "__main__":
    serve(open_peer)

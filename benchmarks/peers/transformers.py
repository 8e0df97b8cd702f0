"""transformers: its text-classification pipeline in PyTorch, on the student's own weights."""

from __future__ import annotations

from benchmarks.harness.peer import Needs, bytes_of, peer_of, scores_of
from export.measure.protocol import Job, Peer

PEER = Needs("weights")
SOURCE = (
    "https://huggingface.co/docs/transformers/main_classes/pipelines (pipeline batching: like lengths, measured batch size)"
)


def open_peer(job: Job) -> Peer:
    """Build the pipeline; logits come out as they are."""
    import torch
    from transformers import AutoTokenizer, pipeline

    torch.set_num_threads(job.threads)
    tokenizer = AutoTokenizer.from_pretrained(job.bundle, model_max_length=job.max_length)
    classify = pipeline(
        "text-classification", model=str(job.bundle), tokenizer=tokenizer, top_k=None, function_to_apply="none", device="cpu"
    )
    return peer_of(
        lambda texts: scores_of(classify(texts, truncation=True, batch_size=len(texts)), job.labels),
        job,
        source=SOURCE,
        size_bytes=bytes_of(job.bundle, "model.safetensors"),
        precision="fp32",
    )

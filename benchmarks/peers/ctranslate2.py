"""CTranslate2: the encoder in int8, the last layer of a BERT classifier in numpy, as it has none for classifiers.

Many texts are sorted by length, in batches of 32, on one replica per thread.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from benchmarks.harness.peer import Needs, bytes_of
from export.measure.protocol import BATCH, Job, Logits, Peer, in_place

PEER = Needs("weights", ("ctranslate2==4.8.5", "transformers==4.57.6"))
SOURCE = (
    "https://opennmt.net/CTranslate2/guides/transformers.html#bert, "
    "https://opennmt.net/CTranslate2/performance.html (int8, one replica per core for throughput)"
)


def prepare(job: Job) -> None:
    """Convert to int8."""
    import ctranslate2

    ctranslate2.converters.TransformersConverter(str(job.bundle)).convert(
        str(job.folder / "int8"), quantization="int8", force=True
    )


def open_peer(job: Job) -> Peer:
    """Load the encoder for one text and for many."""
    import ctranslate2
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer

    folder = job.folder / "int8"
    tensors = load_file(job.bundle / "model.safetensors")
    weights, bias = tensors["classifier.weight"].T, tensors["classifier.bias"]
    tokenizer = Tokenizer.from_file(str(job.bundle / "tokenizer.json"))
    tokenizer.enable_truncation(job.max_length)
    tokenizer.no_padding()
    single = ctranslate2.Encoder(str(folder), compute_type="int8", inter_threads=1, intra_threads=job.threads)
    several = ctranslate2.Encoder(str(folder), compute_type="int8", inter_threads=job.threads, intra_threads=1)

    def answer(encoder: ctranslate2.Encoder, texts: list[str]) -> Logits:
        ids = [encoding.ids for encoding in tokenizer.encode_batch_fast(texts)]
        return np.array(encoder.forward_batch(ids).pooler_output) @ weights + bias

    def many(texts: list[str]) -> Logits:
        order = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
        batches = [[texts[index] for index in order[start : start + BATCH]] for start in range(0, len(order), BATCH)]
        with ThreadPoolExecutor(job.threads) as pool:
            return in_place(order, np.concatenate(list(pool.map(lambda batch: answer(several, batch), batches))))

    return Peer(
        one=lambda text: answer(single, [text])[0],
        many=lambda texts: many(list(texts)),
        settings={"intra_threads": job.threads, "replicas for many": job.threads, "batch": BATCH, "order": "by length"},
        source=SOURCE,
        size_bytes=bytes_of(job.bundle, folder / "model.bin"),
    )

"""CTranslate2: the encoder in int8, the classifier's last layer in numpy, as it has none for classifiers.

Runs in an environment of its own. Many texts are sorted by length, in batches of 32, on one replica per thread.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import ctranslate2
import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from export.measure.protocol import BATCH, Job, Logits, Peer, in_place, serve

SOURCE = (
    "https://opennmt.net/CTranslate2/guides/transformers.html#bert, "
    "https://opennmt.net/CTranslate2/performance.html (int8, one replica per core for throughput)"
)


def open_peer(job: Job) -> Peer:
    """Convert unless an earlier run did; then load the encoder for one text and for many."""
    folder = job.folder / "int8"
    if not folder.exists():
        ctranslate2.converters.TransformersConverter(str(job.bundle)).convert(str(folder), quantization="int8", force=True)
    tensors = load_file(job.bundle / "model.safetensors")
    weights, bias = tensors["classifier.weight"].T, tensors["classifier.bias"]
    tokenizer = Tokenizer.from_file(str(job.bundle / "tokenizer.json"))
    tokenizer.enable_truncation(job.max_length)
    tokenizer.no_padding()
    config = json.loads((job.bundle / "config.json").read_text())
    if config["model_type"] != "bert":
        raise ValueError(f"the last layer is written for bert, not for {config['model_type']}")
    single = ctranslate2.Encoder(str(folder), compute_type="int8", inter_threads=1, intra_threads=job.threads)
    many = ctranslate2.Encoder(str(folder), compute_type="int8", inter_threads=job.threads, intra_threads=1)

    def answer(encoder: ctranslate2.Encoder, texts: list[str]) -> Logits:
        ids = [encoding.ids for encoding in tokenizer.encode_batch_fast(texts)]
        return np.array(encoder.forward_batch(ids).pooler_output) @ weights + bias

    def answer_many(texts: list[str]) -> Logits:
        order = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
        batches = [[texts[index] for index in order[start : start + BATCH]] for start in range(0, len(order), BATCH)]
        with ThreadPoolExecutor(job.threads) as pool:
            return in_place(order, np.concatenate(list(pool.map(lambda batch: answer(many, batch), batches))))

    return Peer(
        one=lambda text: answer(single, [text])[0],
        many=lambda texts: answer_many(list(texts)),
        settings={"intra_threads": job.threads, "replicas for many": job.threads, "batch": BATCH, "order": "by length"},
        source=SOURCE,
        size_bytes=(folder / "model.bin").stat().st_size,
    )


if __name__ == "__main__":
    serve(open_peer)

"""txtai: its HFTrainer with a teacher trains three of the teacher's layers; its Labels pipeline answers."""

from __future__ import annotations

import numpy as np

from benchmarks.harness.peer import (
    BATCH_SIZE,
    EPOCHS,
    LAYERS,
    LEARNING_RATE,
    SEED,
    Needs,
    bytes_of,
    peer_of,
    teacher_of,
    write_first_layers,
)
from export.measure.protocol import Job, Logits, Peer

PEER = Needs("teacher", ("txtai==9.14.0",))
SOURCE = (
    "https://neuml.github.io/txtai/pipeline/train/trainer (teacher, distillation defaults: temperature 1, half soft labels), "
    "https://neuml.github.io/txtai/pipeline/text/labels (dynamic=False for a fine-tuned model)"
)


def prepare(job: Job) -> None:
    """Distil for three epochs."""
    from txtai.pipeline import HFTrainer

    texts = job.training_texts()
    rows = [{"text": text, "label": label} for text, label in zip(texts["train"], texts["train_labels"], strict=True)]
    model, tokenizer = HFTrainer()(
        str(write_first_layers(job, job.folder / "first")),
        rows,
        teacher=str(teacher_of(job)),
        maxlength=job.max_length,
        output_dir=str(job.folder / "runs"),
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=BATCH_SIZE,
        learning_rate=LEARNING_RATE,
        seed=SEED,
        disable_tqdm=True,
    )
    model.save_pretrained(job.folder / "student")
    tokenizer.save_pretrained(job.folder / "student")


def open_peer(job: Job) -> Peer:
    """Open the student in its pipeline."""
    import torch
    from txtai.pipeline import Labels

    torch.set_num_threads(job.threads)
    folder = job.folder / "student"
    classify = Labels(str(folder), dynamic=False, gpu=False)

    def answer(texts: list[str]) -> Logits:
        rows = [dict(scores) for scores in classify(texts)]  # by label id
        return np.log([[max(row.get(label, 0.0), 1e-12) for label in range(len(job.labels))] for row in rows])

    return peer_of(
        answer,
        job,
        source=SOURCE,
        size_bytes=bytes_of(folder, "model.safetensors"),
        layers=LAYERS,
        epochs=EPOCHS,
    )

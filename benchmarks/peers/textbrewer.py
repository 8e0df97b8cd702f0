"""TextBrewer: its GeneralDistiller teaches three of the teacher's layers; PyTorch eager answers, as in its examples."""

from __future__ import annotations

from typing import Any

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

PEER = Needs("teacher", ("textbrewer==0.2.1.post1", "tensorboard>=2.19"))
SOURCE = (
    "https://github.com/airaria/TextBrewer (quick start: AdamW, linear schedule with 10 % warm-up; the MNLI example's "
    "temperature 8; preset L3_hidden_mse, every layer of the student to every second of the teacher)"
)
TEMPERATURE = 8
MATCHES = [
    {"layer_T": 2 * layer, "layer_S": layer, "feature": "hidden", "loss": "hidden_mse", "weight": 1}
    for layer in range(LAYERS + 1)
]


def prepare(job: Job) -> None:
    """Distil for three epochs."""
    import torch
    from textbrewer import DistillationConfig, GeneralDistiller, TrainingConfig
    from torch.utils.data import DataLoader
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        get_linear_schedule_with_warmup,
    )

    folder = write_first_layers(job, job.folder / "student")
    texts = job.training_texts()
    torch.manual_seed(SEED)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    student = AutoModelForSequenceClassification.from_pretrained(folder)

    rows = [
        {**tokenizer(text, truncation=True, max_length=job.max_length), "label": label}
        for text, label in zip(texts["train"], texts["train_labels"], strict=True)
    ]
    pad = DataCollatorWithPadding(tokenizer)
    # A plain dict: TextBrewer knows no other mapping.
    loader: DataLoader[Any] = DataLoader(rows, BATCH_SIZE, shuffle=True, collate_fn=lambda rows: dict(pad(rows)))  # type: ignore[arg-type]
    steps = EPOCHS * len(loader)
    distiller = GeneralDistiller(
        train_config=TrainingConfig(
            log_dir=None, output_dir=str(job.folder / "runs"), device="cpu", ckpt_frequency=1, ckpt_epoch_frequency=10**6
        ),
        distill_config=DistillationConfig(temperature=TEMPERATURE, intermediate_matches=MATCHES),
        model_T=AutoModelForSequenceClassification.from_pretrained(teacher_of(job)).eval(),
        model_S=student,
        adaptor_T=_adapted,
        adaptor_S=_adapted,
    )
    with distiller:
        distiller.train(
            torch.optim.AdamW(student.parameters(), lr=LEARNING_RATE),
            loader,
            num_epochs=EPOCHS,
            scheduler_class=get_linear_schedule_with_warmup,
            scheduler_args={"num_warmup_steps": int(0.1 * steps), "num_training_steps": steps},
            callback=None,
            output_hidden_states=True,
        )
    student.save_pretrained(folder)


def _adapted(_: Any, outputs: Any) -> dict[str, Any]:
    return {"logits": outputs.logits, "hidden": outputs.hidden_states}


def open_peer(job: Job) -> Peer:
    """Open the student in PyTorch."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.set_num_threads(job.threads)
    folder = job.folder / "student"
    tokenizer = AutoTokenizer.from_pretrained(folder, model_max_length=job.max_length)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()

    @torch.inference_mode()
    def answer(texts: list[str]) -> Logits:
        return np.asarray(model(**tokenizer(texts, truncation=True, padding=True, return_tensors="pt")).logits)

    return peer_of(
        answer,
        job,
        source=SOURCE,
        size_bytes=bytes_of(folder, "model.safetensors"),
        layers=LAYERS,
        epochs=EPOCHS,
    )

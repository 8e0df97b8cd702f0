"""Distillation as the tutorials write it: a Hugging Face `Trainer` whose loss runs the teacher in every step.

The shape is that of the transformers documentation ("Knowledge distillation", a `Trainer` subclass with `compute_loss`,
temperature and lambda; dynamic padding by a collator). The student's ids differ from the teacher's where its vocabulary is
trimmed, so the collator pads both. Texts without a label carry -100, which torch's cross-entropy passes over. bf16 where
potstill uses it. Run as a program: settings as JSON on stdin, figures as one JSON object on stdout. Nothing of potstill's
training is used, only its bundles and its data.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments
from transformers.utils import logging as transformers_logging

from benchmarks.harness.texts import measured_on, task_texts
from distill.evaluation.metrics import macro_f1
from distill.settings import DataSettings

UNLABELLED = -100
READ = ("input_ids", "attention_mask")
FOLDERS = {"": "student", "teacher_": "teacher"}
"""Prefix of what a model reads in a batch -> the name of its folder."""


class DistillationTrainer(Trainer):
    """Cross-entropy on the labels and T² KL to the teacher, which is asked in each step."""

    def __init__(self, *args: Any, teacher: nn.Module, temperature: float, soft_weight: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.teacher = teacher.eval()
        self.temperature = temperature
        self.soft_weight = soft_weight

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: object = None,  # noqa: ARG002  # the Trainer hands it over
    ) -> Any:
        """Return the loss of one batch; `inputs` holds the ids of both tokenizers."""
        inputs = dict(inputs)
        for_teacher = {name: inputs.pop(f"teacher_{name}") for name in READ if f"teacher_{name}" in inputs}
        outputs = model(**inputs)
        loss = outputs.loss
        if for_teacher:
            with torch.no_grad():
                teacher_logits = self.teacher(**for_teacher).logits
            soft = functional.kl_div(
                functional.log_softmax(outputs.logits / self.temperature, dim=-1),
                functional.softmax(teacher_logits / self.temperature, dim=-1),
                reduction="batchmean",
            )
            loss = self.soft_weight * self.temperature**2 * soft + (1 - self.soft_weight) * loss
        return (loss, outputs) if return_outputs else loss


def run(given: dict[str, Any]) -> dict[str, Any]:
    """Train once and return seconds and macro-F1 at the end of each epoch."""
    how = given["settings"]
    transformers_logging.set_verbosity_error()
    torch.set_num_threads(given["threads"])
    torch.manual_seed(how["seed"])
    splits, unlabeled = task_texts(DataSettings(**given["data"]), given["unlabeled"])
    texts = (*splits.train.single_texts(), *unlabeled)
    labels = [*splits.train.label_ids, *[UNLABELLED] * len(unlabeled)]
    scored = measured_on(splits)
    tokenizers = {prefix: AutoTokenizer.from_pretrained(given[name]) for prefix, name in FOLDERS.items()}
    dropout = dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), how["dropout"])
    student = AutoModelForSequenceClassification.from_pretrained(given["student"], **dropout)
    teacher = AutoModelForSequenceClassification.from_pretrained(given["teacher"])

    def encoded(texts: Sequence[str], labels: Sequence[int], prefixes: tuple[str, ...]) -> list[dict[str, Any]]:
        rows = [
            tokenizers[prefix](list(texts), truncation=True, max_length=how["max_length"])["input_ids"] for prefix in prefixes
        ]
        return [
            {"labels": int(label), **{f"{prefix}input_ids": ids for prefix, ids in zip(prefixes, row, strict=True)}}
            for label, *row in zip(labels, *rows, strict=True)
        ]

    def collate(batch: list[dict[str, Any]]) -> dict[str, Any]:
        padded: dict[str, Any] = {"labels": torch.tensor([row["labels"] for row in batch])}
        for prefix, tokenizer in tokenizers.items():
            if f"{prefix}input_ids" in batch[0]:
                part = tokenizer.pad({"input_ids": [row[f"{prefix}input_ids"] for row in batch]}, return_tensors="pt")
                padded |= {f"{prefix}{name}": part[name] for name in READ}
        return padded

    with tempfile.TemporaryDirectory() as folder:
        trainer = DistillationTrainer(
            model=student,
            teacher=teacher,
            temperature=how["temperature"],
            soft_weight=how["soft_weight"],
            args=TrainingArguments(
                output_dir=folder,
                num_train_epochs=how["epochs"],
                per_device_train_batch_size=how["batch_size"],
                per_device_eval_batch_size=128,
                learning_rate=how["learning_rate"],
                warmup_steps=how["warmup_share"],
                weight_decay=how["weight_decay"],
                max_grad_norm=how["max_grad_norm"],
                eval_strategy="epoch",
                save_strategy="no",
                report_to="none",
                logging_strategy="no",
                use_cpu=True,
                bf16=given["bf16"],
                seed=how["seed"],
                disable_tqdm=True,
                remove_unused_columns=False,
                dataloader_pin_memory=False,
            ),
            train_dataset=encoded(texts, labels, ("", "teacher_")),
            eval_dataset=encoded(scored.single_texts(), scored.label_ids.tolist(), ("",)),
            data_collator=collate,
            compute_metrics=lambda found: {
                "macro_f1": macro_f1(np.asarray(found.label_ids, dtype=np.int64), np.asarray(found.predictions, np.float32)),
                "ended_at": time.perf_counter(),
            },
        )
        started = time.perf_counter()
        trainer.train()
    judged = [each for each in trainer.state.log_history if "eval_macro_f1" in each]
    return {
        "epoch_ends_s": [each["eval_ended_at"] - started for each in judged],
        "macro_f1": [each["eval_macro_f1"] for each in judged],
        "num_texts": len(texts),
    }


if __name__ == "__main__":
    print(json.dumps(run(json.load(sys.stdin))))

"""SetFit: the base encoder tuned on pairs of texts, a logistic regression on top.

Few-shot by design; here it sees all training texts, and the pairs of 300 steps.
"""

from __future__ import annotations

import numpy as np

from benchmarks.harness.peer import BATCH_SIZE, SEED, Needs, bytes_of, peer_of
from export.measure.protocol import BATCH, Job, Logits, Peer

PEER = Needs("base", ("setfit==1.2.0", "transformers==4.57.6", "sentence-transformers==5.2.3", "datasets==4.4.1"))
STEPS = 300
SOURCE = (
    "https://huggingface.co/docs/setfit/quickstart (from_pretrained, Trainer, predict_proba), "
    "https://huggingface.co/docs/setfit/conceptual_guides/sampling_strategies (max_steps bounds the pairs)"
)


def prepare(job: Job) -> None:
    """Tune the encoder on pairs, fit the regression."""
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments

    texts = job.training_texts()
    model = SetFitModel.from_pretrained(job.options["base"], device="cpu")
    Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(job.folder / "runs"),
            batch_size=BATCH_SIZE,
            max_steps=STEPS,
            seed=SEED,
            save_strategy="no",
            report_to="none",
            show_progress_bar=False,
        ),
        train_dataset=Dataset.from_dict({"text": texts["train"], "label": texts["train_labels"]}),
    ).train()
    model.model_body.save_pretrained(str(job.folder / "encoder"))
    head = model.model_head
    np.savez(job.folder / "encoder" / "head.npz", coef_=head.coef_, intercept_=head.intercept_, classes_=head.classes_)


def open_peer(job: Job) -> Peer:
    """Put the tuned encoder and the regression together again; the regression is kept as numbers, not as a pickle."""
    import torch
    from sentence_transformers import SentenceTransformer
    from setfit import SetFitModel
    from sklearn.linear_model import LogisticRegression

    torch.set_num_threads(job.threads)
    folder, head = job.folder / "encoder", LogisticRegression()
    with np.load(folder / "head.npz") as kept:
        head.coef_, head.intercept_, head.classes_ = kept["coef_"], kept["intercept_"], kept["classes_"]
    model = SetFitModel(model_body=SentenceTransformer(str(folder), device="cpu"), model_head=head)

    def answer(texts: list[str]) -> Logits:
        shares = model.predict_proba(texts, batch_size=BATCH, as_numpy=True, show_progress_bar=False)
        return np.log(np.maximum(shares, 1e-12))

    return peer_of(
        answer,
        job,
        source=SOURCE,
        size_bytes=bytes_of(folder, "model.safetensors", "head.npz"),
        order="by length, its own",
        steps=STEPS,
    )

"""model2vec: static vectors distilled from the base encoder, its classifier trained on them, its numpy pipeline answering."""

from __future__ import annotations

import numpy as np

from benchmarks.harness.peer import Needs
from export.measure.protocol import Job, Logits, Peer

PEER = Needs("base", ("model2vec[distill,train]==0.10.0",))
SOURCE = "https://minish.ai/packages/model2vec/training (distill, from_static_model, fit and to_pipeline with their defaults)"


def prepare(job: Job) -> None:
    """Distil the vectors, train the classifier until it gets no better, and save it as a pipeline without torch."""
    from model2vec.distill import distill
    from model2vec.train import StaticModelForClassification

    texts = job.training_texts()
    classifier = StaticModelForClassification.from_static_model(model=distill(job.options["base"], device="cpu"))
    classifier.fit(texts["train"], [job.labels[label] for label in texts["train_labels"]], device="cpu")
    classifier.to_pipeline().save_pretrained(str(job.folder / "pipeline"))


def open_peer(job: Job) -> Peer:
    """Load the pipeline."""
    from model2vec.inference import StaticModelPipeline

    folder = job.folder / "pipeline"
    pipeline = StaticModelPipeline.from_pretrained(str(folder))
    columns = [np.asarray(pipeline.classes_).tolist().index(label) for label in job.labels]

    def answer(texts: list[str]) -> Logits:
        return np.log(np.maximum(pipeline.predict_proba(texts)[:, columns], 1e-12))

    return Peer(
        one=lambda text: answer([text])[0],
        many=lambda texts: answer(list(texts)),
        settings={"dimensions": 256, "order": "as given", "training": "its defaults, early stopping"},
        source=SOURCE,
        size_bytes=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
    )

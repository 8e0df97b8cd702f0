"""A floor: TF-IDF with logistic regression, or always the commonest label; fitted on the training texts at each start."""

from __future__ import annotations

import numpy as np

from distill.data import Dataset
from distill.evaluation.floors import MajorityClassifier, TfidfClassifier
from export.measure.protocol import Job, Peer, serve


def open_peer(job: Job) -> Peer:
    """Fit it."""
    texts = job.training_texts()
    train = Dataset(tuple(texts["train"]), np.array(texts["train_labels"], np.int64), job.labels, "training texts")
    kind = job.options["floor"]
    classifier = TfidfClassifier(train) if kind == "tfidf" else MajorityClassifier(train)
    return Peer(
        one=lambda text: classifier.predict_logits([text])[0],
        many=classifier.predict_logits,
        settings={"floor": kind},
        source="distill/evaluation/floors.py",
    )


if __name__ == "__main__":
    serve(open_peer)

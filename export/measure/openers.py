"""What the processes of this package's own contenders open: a bundle in one of its forms, a graph in a folder, or a floor.

Imports only what that needs, because the import is part of a cold start.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distill.bundle import Bundle
from distill.classifier import Classifier
from distill.errors import requires
from distill.tokenization import TextTokenizer
from export.measure.protocol import BATCH, Job, Logits, Peer, in_length_order
from export.settings import Form

GRAPH, TOKENIZER, ABOUT = "graph.onnx", "tokenizer.json", "about.json"
"""Files of a graph that is timed before it is in a bundle."""


def open_form(bundle: Bundle, form: Form, threads: int | None = None) -> Classifier:
    """Return the PyTorch model or a graph of a bundle as a classifier; `threads` None: all processors of this process."""
    if form == "pytorch":
        with requires("running a PyTorch model"):
            from distill.models.eager import EagerClassifier
        return EagerClassifier(bundle, threads=threads)
    from export.runtime.sessions import OnnxClassifier

    return OnnxClassifier.open(bundle, precision=form, threads=threads)


def open_peer(job: Job) -> Peer:
    """Open what `job.options` names: `form`, `graph` or `floor`."""
    ((kind, what),) = job.options.items()
    classifier, size_bytes, source = {"form": _form, "graph": _graph, "floor": _floor}[kind](job, what)
    settings: dict[str, Any] = {kind: what} | ({} if kind == "floor" else {"threads": job.threads})

    def many(texts: Sequence[Any]) -> Logits:
        # The graphs cut many texts into batches themselves; eager PyTorch would pad them all to the longest.
        return in_length_order(texts, classifier.predict_logits) if what == "pytorch" else classifier.predict_logits(texts)

    if what == "pytorch":
        settings |= {"batch": BATCH, "order": "by length"}
    return Peer(
        one=lambda text: classifier.predict_logits([text])[0],
        many=many,
        settings=settings,
        source=source,
        size_bytes=size_bytes,
    )


def write_graph(folder: Path, graph: bytes, tokenizer: TextTokenizer, about: Mapping[str, Any]) -> Path:
    """Write what `graph` opens: a graph with its tokenizer, and labels and problem type in `about`; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / GRAPH).write_bytes(graph)
    (folder / TOKENIZER).write_text(tokenizer.to_json(), encoding="utf-8")
    reads = {"max_length": tokenizer.max_length, "pad_id": tokenizer.pad_id, "pairs": tokenizer.pairs}
    (folder / ABOUT).write_text(json.dumps({"reads": reads, **about}), encoding="utf-8")
    return folder


def _form(job: Job, form: Form) -> tuple[Classifier, int | None, str]:
    bundle = Bundle.open(job.bundle)
    classifier = open_form(bundle, form, job.threads)
    return classifier, bundle.size_bytes(None if form == "pytorch" else form), "export/measure/openers.py"


def _graph(job: Job, name: str) -> tuple[Classifier, int | None, str]:
    from export.runtime.sessions import OnnxClassifier

    folder = job.bundle
    about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    tokenizer = TextTokenizer.from_file(folder / TOKENIZER, **about["reads"])
    classifier = OnnxClassifier(
        (folder / GRAPH).read_bytes,
        tokenizer=tokenizer,
        labels=tuple(about["labels"]),
        problem_type=about["problem_type"],
        threads=job.threads,
    )
    return classifier, (folder / GRAPH).stat().st_size, name


def _floor(job: Job, kind: str) -> tuple[Classifier, int | None, str]:
    from distill.data import Dataset
    from distill.evaluation.floors import MajorityClassifier, TfidfClassifier

    found = job.training_texts()
    texts = tuple(tuple(text) if isinstance(text, list) else text for text in found["train"])
    train = Dataset(texts, np.array(found["train_labels"], np.int64), job.labels, "training texts")
    classifier = TfidfClassifier(train) if kind == "tfidf" else MajorityClassifier(train)
    return classifier, None, "distill/evaluation/floors.py"

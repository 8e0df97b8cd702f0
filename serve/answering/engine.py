"""One classifier as the server runs it: texts in; logits, probabilities and which texts were cut. Knows no HTTP."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from distill.bundle import BENCHMARK, Bundle
from distill.classifier import Classifier, TextInput
from distill.errors import BundleError
from distill.labels import task_of
from distill.settings import Precision
from export.runtime.cascade import Cascade
from export.runtime.sessions import OnnxClassifier

SELF_CHECK_TEXTS = (
    "This is a plain sentence with nothing in it.",
    "no",
    "A longer one: it goes on, (with brackets), numbers such as 12.5 % and an ümlaut — then it goes on for a while, and stops.",
    "???",
)
"""Synthetic texts of the self-check before a bundle is served."""

BATCH_TOLERANCE = 0.02
"""Largest difference of a probability between a text alone and in a batch, when activation scales are fixed."""


@dataclass(frozen=True)
class RowAnswer:
    """The answer for one text.

    Attributes:
        logits: One per label.
        probabilities: One per label, according to the problem type of the bundle.
        was_cut: Whether tokens past `max_length` were dropped.
    """

    logits: list[float]
    probabilities: list[float]
    was_cut: bool


@dataclass(frozen=True)
class Engine:
    """A classifier that is ready to answer.

    Attributes:
        classifier: Returns the logits of texts; several threads call it.
        max_length: Tokens kept per text.
        about: Its card in `/info`.
        version: Short digest of its files; one request never mixes answers of two versions.
        live: Returns further fields of `/info`, which change while it answers.
    """

    classifier: Classifier
    max_length: int
    about: dict[str, Any] = field(default_factory=dict)
    version: str = "0"
    live: Callable[[], Mapping[str, Any]] = dict

    @classmethod
    def open(cls, path: Path, *, precision: Precision | None = None) -> Engine:
        """Open a bundle, verify its digests and run the self-check.

        Raises:
            BundleError: It is damaged, has no such graph, or fails the self-check.
        """
        bundle = Bundle.open(path)
        precision = precision or bundle.best_precision()
        # One thread per call: the server runs several batches at once instead of one on several threads.
        classifier = OnnxClassifier.open(bundle, precision=precision, threads=1)
        engine = cls(classifier, bundle.manifest.max_length, about_bundle(bundle, precision), version_of(bundle))
        engine.self_check(str(path))
        return engine

    def self_check(self, name: str) -> None:
        """Answer the self-check texts one by one and in a batch; this also warms up the graph.

        Raises:
            BundleError: The logits have a wrong shape, are not finite, or depend on the batch.
        """
        together = self.classifier.predict_logits(SELF_CHECK_TEXTS)
        if together.shape != (len(SELF_CHECK_TEXTS), len(self.classifier.labels)):
            raise BundleError(f"{name} returned logits of shape {together.shape} for {len(SELF_CHECK_TEXTS)} texts")
        alone = np.concatenate([self.classifier.predict_logits([text]) for text in SELF_CHECK_TEXTS])
        task = task_of(self.classifier.problem_type)
        moved = float(np.abs(task.probabilities(together) - task.probabilities(alone)).max())
        if not np.isfinite(together).all():
            raise BundleError(f"{name} returned logits that are not finite for the self-check texts; export it again")
        if moved > BATCH_TOLERANCE and task.problem_type != "regression" and self.about.get("activations", "fixed") == "fixed":
            raise BundleError(
                f"{name} answers the self-check texts differently one by one and in a batch (by {moved:.3f}); export it again"
            )

    def answer(self, texts: Sequence[TextInput]) -> list[RowAnswer]:
        """Return the answer of each text, in order of the texts."""
        classifier, cut = self.classifier, [False] * len(texts)
        reader = classifier.student if isinstance(classifier, Cascade) else classifier
        if isinstance(reader, OnnxClassifier):
            readings = list(reader.tokenizer.read(texts))
            rows, cut = [reading.ids for reading in readings], [reading.is_cut for reading in readings]
        logits = (
            classifier.predict_encoded(rows) if isinstance(classifier, OnnxClassifier) else classifier.predict_logits(texts)
        )
        shares = task_of(classifier.problem_type).probabilities(logits)
        return list(map(RowAnswer, logits.tolist(), shares.tolist(), cut))


def version_of(bundle: Bundle) -> str:
    """Return a short digest of the manifest, which holds the digests of all other files."""
    return hashlib.sha256(bundle.manifest.to_bytes()).hexdigest()[:12]


def about_bundle(bundle: Bundle, precision: Precision) -> dict[str, Any]:
    """Return the card of a bundle: labels, quality, size, lineage; no path and no user name."""
    manifest = bundle.manifest
    return {
        "role": manifest.role,
        "labels": list(manifest.labels),
        "problem_type": manifest.problem_type,
        "max_length": manifest.max_length,
        "precision": precision,
        "activations": manifest.settings.get("export", {}).get("activations", "fixed") if precision == "int8" else "fixed",
        "num_parameters": manifest.num_parameters,
        "size_bytes": bundle.size_bytes(precision),
        "quality": manifest.quality,
        "benchmark": json.loads((bundle.path / BENCHMARK).read_text()) if BENCHMARK in manifest.files else None,
        "lineage": manifest.lineage.model_dump(mode="json"),
        "versions": manifest.versions,
        "version": version_of(bundle),
    }

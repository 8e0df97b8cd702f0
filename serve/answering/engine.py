"""One classifier as the server runs it: texts in; logits, probabilities and which texts were cut out. Knows no HTTP."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from distill.bundle import Bundle
from distill.classifier import Classifier, TextInput
from distill.errors import BundleError
from distill.labels import probabilities
from distill.settings import Precision
from export.runtime.cascade import Cascade
from export.runtime.sessions import OnnxClassifier

SELF_CHECK_TEXTS = (
    "This is a plain sentence with nothing in it.",
    "no",
    "A longer one: it goes on, (with brackets), numbers such as 12.5 % and an ümlaut — then it goes on for a while, and stops.",
    "???",
)
"""Synthetic texts that a bundle must answer before it is served."""

BATCH_TOLERANCE = 0.02
"""How far a probability of a probe may move between alone and together, where activation scales are fixed."""


@dataclass(frozen=True)
class RowAnswer:
    """The answer for one text.

    Attributes:
        logits: One per label.
        probabilities: One per label, as the bundle's problem type says.
        was_cut: Tokens past `max_length` were left out.
    """

    logits: list[float]
    probabilities: list[float]
    was_cut: bool


@dataclass(frozen=True)
class Engine:
    """A classifier that is ready to answer.

    Attributes:
        classifier: Texts to logits; may be called from several threads.
        max_length: Tokens kept of a text.
        about: What `/info` says of it.
        version: Short digest of what it was made of; answers of two versions are never mixed in one request.
        live: What `/info` says besides, and what changes as it answers.
    """

    classifier: Classifier
    max_length: int
    about: dict[str, Any] = field(default_factory=dict)
    version: str = "0"
    live: Callable[[], Mapping[str, Any]] = dict

    @classmethod
    def open(cls, path: Path, *, precision: Precision | None = None) -> Engine:
        """Open a bundle with its digests checked, and require that it answers the probe texts.

        Raises:
            BundleError: It is not whole, has no such graph, or does not answer as it should.
        """
        bundle = Bundle.open(path)
        precision = precision or bundle.best_precision()
        # One thread a call: the server runs several batches at once instead of one on several threads.
        classifier = OnnxClassifier.open(bundle, precision=precision, threads=1)
        engine = cls(classifier, bundle.manifest.max_length, about_bundle(bundle, precision), version_of(bundle))
        engine.require_probes(str(path))
        return engine

    def require_probes(self, name: str) -> None:
        """Answer the probe texts alone and together; this warms the graph up, too."""
        together = self.classifier.predict_logits(SELF_CHECK_TEXTS)
        if together.shape != (len(SELF_CHECK_TEXTS), len(self.classifier.labels)):
            raise BundleError(f"{name} gives logits of shape {together.shape} for {len(SELF_CHECK_TEXTS)} texts")
        alone = np.concatenate([self.classifier.predict_logits([text]) for text in SELF_CHECK_TEXTS])
        of = self.classifier.problem_type
        moved = float(np.abs(probabilities(together, of) - probabilities(alone, of)).max())
        if not np.isfinite(together).all():
            raise BundleError(f"{name} gives the probe texts logits that are not numbers; export it again")
        if moved > BATCH_TOLERANCE and of != "regression" and self._has_fixed_scales():
            raise BundleError(
                f"{name} answers the probe texts differently alone and together (by {moved:.3f}); export it again"
            )

    def answer(self, texts: Sequence[TextInput]) -> list[RowAnswer]:
        """Return the answer of each text, in order."""
        cut = [False] * len(texts)
        reader = self.classifier.student if isinstance(self.classifier, Cascade) else self.classifier
        if isinstance(reader, OnnxClassifier):
            rows = reader.encode(texts)
            cut = [len(row) >= self.max_length and reader.is_cut(text) for row, text in zip(rows, texts, strict=True)]
        if isinstance(self.classifier, OnnxClassifier):
            logits = self.classifier.predict_encoded(rows)
        else:
            logits = self.classifier.predict_logits(texts)
        shares = probabilities(logits, self.classifier.problem_type)
        return list(map(RowAnswer, logits.tolist(), shares.tolist(), cut))

    def _has_fixed_scales(self) -> bool:
        return bool(self.about.get("activations", "fixed") == "fixed")


def version_of(bundle: Bundle) -> str:
    """Return a short digest of the bundle's manifest, which holds the digest of everything else."""
    import hashlib

    return hashlib.sha256(bundle.manifest.to_bytes()).hexdigest()[:12]


def about_bundle(bundle: Bundle, precision: Precision) -> dict[str, Any]:
    """Return the bundle's card as values: labels, figures, size, lineage; no path, no user name."""
    import json

    from distill.bundle import BENCHMARK

    manifest = bundle.manifest
    measured = json.loads((bundle.path / BENCHMARK).read_text()) if BENCHMARK in manifest.files else None
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
        "benchmark": measured,
        "lineage": manifest.lineage.model_dump(mode="json"),
        "versions": manifest.versions,
        "version": version_of(bundle),
    }

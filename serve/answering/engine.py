"""One classifier as the server runs it: token ids in; logits, probabilities and which texts were cut. Knows no HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from distill.bundle import BENCHMARK, Bundle
from distill.classifier import TextInput
from distill.errors import BundleError
from distill.labels import task_of
from distill.settings import Precision
from distill.tokenization import Reading, TextTokenizer
from export.runtime.cascade import Cascade
from export.runtime.long_texts import Reader, mean_of_windows
from export.runtime.sessions import OnnxClassifier
from export.trust.pins import TrustSettings, open_trusted

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
        num_windows: Windows in which a text longer than `max_length` was read; 1 for any other text.
    """

    logits: list[float]
    probabilities: list[float]
    was_cut: bool
    num_windows: int = 1


class Row(NamedTuple):
    """A text, or a window of one, as it waits to be computed.

    Attributes:
        ids: Its tokens.
        was_cut: Whether tokens past `max_length` were dropped.
        text: The text, where a fallback may have to read it with a tokenizer of its own.
    """

    ids: NDArray[np.int64]
    was_cut: bool = False
    text: TextInput = ""


@dataclass(frozen=True)
class Engine:
    """A classifier that is ready to answer.

    Attributes:
        classifier: Returns the logits of token ids; several threads call it.
        max_length: Tokens kept per text.
        about: Its card in `/info`.
        version: Short digest of its files; one request never mixes answers of two versions.
        live: Returns further fields of `/info`, which change while it answers.
    """

    classifier: Reader | Cascade[Reader]
    max_length: int
    about: dict[str, Any] = field(default_factory=dict)
    version: str = "0"
    live: Callable[[], Mapping[str, Any]] = dict

    @classmethod
    def open(cls, path: Path, *, precision: Precision | None = None, trust: TrustSettings = TrustSettings()) -> Engine:
        """Open a bundle, verify its digests and run the self-check.

        Raises:
            BundleError: It is damaged, is not what `trust` requires, has no such graph, or fails the self-check.
        """
        bundle = open_trusted(path, trust)
        precision = precision or bundle.best_precision()
        # One thread per call: the server runs several batches at once instead of one on several threads.
        classifier = OnnxClassifier.open(bundle, precision=precision, threads=1)
        engine = cls(classifier, bundle.manifest.max_length, about_bundle(bundle, precision), version_of(bundle))
        engine.self_check(str(path))
        return engine

    def kind(self) -> dict[str, Any]:
        """Return what clients rely on and a reload must keep."""
        fallback = self.live().get("cascade", {}).get("fallback", {})
        return {
            "labels": list(self.classifier.labels),
            "problem_type": self.classifier.problem_type,
            "input": "single texts" if self.tokenizer.pairs is None else "sentence pairs",
            "precision": self.about.get("precision"),
            "precision of the fallback": fallback.get("precision"),
        }

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

    @property
    def tokenizer(self) -> TextTokenizer:
        """The tokenizer that reads a text before it waits: that of the student in a cascade."""
        classifier = self.classifier
        return (classifier.student if isinstance(classifier, Cascade) else classifier).tokenizer

    def row(self, reading: Reading, text: TextInput) -> Row:
        """Return a text that was read as it waits."""
        return Row(reading.ids, reading.is_cut, text if isinstance(self.classifier, Cascade) else "")

    def answer(self, rows: Sequence[Row]) -> list[RowAnswer]:
        """Return the answer of each row, in order."""
        ids = [row.ids for row in rows]
        if isinstance(self.classifier, Cascade):
            logits = self.classifier.predict_encoded(ids, [row.text for row in rows])
        else:
            logits = self.classifier.predict_encoded(ids)
        shares = task_of(self.classifier.problem_type).probabilities(logits)
        return list(map(RowAnswer, logits.tolist(), shares.tolist(), (row.was_cut for row in rows)))

    def joined(self, windows: Sequence[RowAnswer]) -> RowAnswer:
        """Return the answer of a text from those of its windows: the mean of their logits, as everywhere in potstill."""
        if len(windows) == 1:
            return windows[0]
        logits = mean_of_windows(np.array([each.logits for each in windows], np.float32), [len(windows)])
        shares = task_of(self.classifier.problem_type).probabilities(logits)
        return RowAnswer(logits[0].tolist(), shares[0].tolist(), was_cut=False, num_windows=len(windows))


def version_of(bundle: Bundle) -> str:
    """Return a short digest of the manifest, which holds the digests of all other files."""
    return bundle.digest[:12]


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
        "benchmark": json.loads(bundle.read(BENCHMARK)) if BENCHMARK in manifest.files else None,
        "lineage": manifest.lineage.model_dump(mode="json"),
        "versions": manifest.versions,
        "version": version_of(bundle),
    }

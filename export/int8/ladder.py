"""The int8 gate and its ladder: when a form of int8 loses too much, the next, gentler one is tried and reported.

The rungs are: as asked; 4-bit tables widened to 8 bits; the one, then the three linear layers that cost most accuracy kept in
fp32. When no rung passes, nothing is sealed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import onnx

from distill.data import Dataset
from distill.errors import QualityError
from distill.evaluation.intervals import wilson_interval
from distill.evaluation.metrics import Quality, evaluate
from distill.labels import Logits, task_of
from distill.progress import Reporter
from distill.scales import INT8_LIMIT, SEVEN_BIT_LIMIT, ChannelRange, InputScales
from export.int8.invariance import BatchingClassifier, BatchReport, compare_alone_and_in_batches
from export.int8.linear import linear_layers
from export.int8.parity import Change, change_between, require_quality
from export.int8.quantize import Quantization, quantize
from export.settings import EmbeddingPrecision, ExportSettings

SENSITIVITY_TEXTS = 128
KEPT = (1, 3)
"""How many linear layers stay fp32 on the last two rungs."""


@dataclass(frozen=True)
class Baseline:
    """What int8 is compared with: validation texts, and the logits and quality of fp32 on them."""

    validation: Dataset
    logits: Logits
    quality: Quality


@dataclass(frozen=True)
class Attempt:
    """The result of one rung: the name of its form, and its figures; `failure` is None if every gate passed."""

    form: str
    quality: Quality
    change: Change
    by_batch: BatchReport | None
    failure: QualityError | None

    def row(self, before: Quality) -> str:
        """Return one line of the report of all attempts."""
        by_batch = "-" if self.by_batch is None else f"{self.by_batch.probability_change_by_batch:.1e}"
        recall = max(before.per_class[name].recall - after.recall for name, after in self.quality.per_class.items())
        gained = self.quality.expected_calibration_error - before.expected_calibration_error
        return (
            f"{self.form}: macro-F1 {self.quality.macro_f1 - before.macro_f1:+.4f}, worst recall {-recall:+.4f}, "
            f"agreement {self.change.agreement:.4f}, calibration error {gained:+.4f}, moved by batch {by_batch}: "
            f"{'passed' if self.failure is None else self.failure.metric}"
        )

    def figures(self) -> dict[str, Any]:
        """Return the figures for the manifest; texts stay out of it, because the data does not ship."""
        by_batch = {} if self.by_batch is None else asdict(self.by_batch)
        return {
            "agreement_with_fp32": self.change.agreement,
            "agreement_with_fp32_interval": wilson_interval(self.change.agreement, self.quality.num_texts),
            "form": self.form,
            **{name: value for name, value in by_batch.items() if name not in {"worst_text", "num_texts"}},
        }


@dataclass(frozen=True)
class Ladder:
    """The forms of int8 for one graph, gentler from rung to rung.

    Attributes:
        fp32: The fp32 graph.
        ranges: Scales of the inputs of its linear layers, or the ranges of their values.
        embeddings: Precision of the embedding tables on the first rung.
        settings: Budgets and forms.
        baseline: The answers of fp32.
        open_graph: From a graph to a classifier.
    """

    fp32: onnx.ModelProto
    ranges: Mapping[str, ChannelRange | InputScales]
    embeddings: EmbeddingPrecision
    settings: ExportSettings
    baseline: Baseline
    open_graph: Callable[[onnx.ModelProto], BatchingClassifier]

    def first_that_passes(self, reporter: Reporter) -> tuple[onnx.ModelProto, Attempt]:
        """Return the int8 graph of the first rung that passes every gate, and the attempt.

        Raises:
            QualityError: No rung passes; the error is that of the first rung.
        """
        attempts: list[Attempt] = []
        failures: list[QualityError] = []
        for form, how in self._rungs():
            graph = quantize(self.fp32, self.ranges, how)
            attempt = self._attempt(form, how, self.open_graph(graph))
            if attempt.failure is None:
                return graph, attempt
            reporter.say(f"export: int8 with {form} is not good enough: {attempt.failure.metric}")
            attempts.append(attempt)
            failures.append(attempt.failure)
        reporter.say("export: what was tried, against fp32:")
        for attempt in attempts:
            reporter.say(f"  {attempt.row(self.baseline.quality)}")
        raise failures[0]

    def _rungs(self) -> Iterator[tuple[str, Quantization]]:
        """Yield each form and its name."""
        form = asked_form(self.settings, self.embeddings)
        name = f"{7 if self.settings.target == 'portable' else 8}-bit weights, {self.settings.activations} scales"
        yield f"{name}, {form.embeddings} tables", form
        if form.embeddings == "int4" and self.settings.max_size_mb is None:
            form = replace(form, embeddings="int8")
            yield f"{name}, int8 tables", form
        most_sensitive = self._by_sensitivity(form)
        for count in KEPT:
            if count < len(most_sensitive):
                kept = most_sensitive[:count]
                yield f"{name}, {form.embeddings} tables, {', '.join(kept)} in fp32", replace(form, keep=frozenset(kept))

    def _by_sensitivity(self, form: Quantization) -> list[str]:
        """Return the outputs of all layers; first the one that changes the probabilities most when it alone is int8."""
        outputs = [layer.output for layer in linear_layers(self.fp32)]
        texts, task = self.baseline.validation.texts[:SENSITIVITY_TEXTS], task_of(self.baseline.validation.problem_type)
        exact = task.probabilities(self.baseline.logits[: len(texts)])

        def change(output: str) -> float:
            alone = replace(form, embeddings="fp32", keep=frozenset(outputs) - {output})
            logits = self.open_graph(quantize(self.fp32, self.ranges, alone)).predict_logits(texts)
            return float(np.abs(task.probabilities(logits) - exact).mean())

        return sorted(outputs, key=change, reverse=True)

    def _attempt(self, form: str, how: Quantization, classifier: BatchingClassifier) -> Attempt:
        validation, before = self.baseline.validation, self.baseline.quality
        logits = classifier.predict_logits(validation.texts)
        after = evaluate(
            labels=validation.label_ids, logits=logits, label_names=classifier.labels, problem_type=validation.problem_type
        )
        change = change_between(self.baseline.logits, logits, validation.problem_type)
        by_batch = compare_alone_and_in_batches(classifier, validation.texts) if how.activations == "fixed" else None
        try:
            require_quality(before=before, after=after, change=change, settings=self.settings)
            if by_batch is not None:
                by_batch.require(self.settings.batch_tolerance)
        except QualityError as exc:
            return Attempt(form, after, change, by_batch, exc)
        return Attempt(form, after, change, by_batch, None)


def asked_form(settings: ExportSettings, embeddings: EmbeddingPrecision) -> Quantization:
    """Return the form of the first rung."""
    return Quantization(SEVEN_BIT_LIMIT if settings.target == "portable" else INT8_LIMIT, settings.activations, embeddings)

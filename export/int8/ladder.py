"""The int8 gate and its ladder: when a form of int8 loses too much, the next gentler one is tried, and said.

The last step leaves the products out that hurt most; when that is not enough either, nothing is sealed.
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
from distill.labels import Logits, probabilities
from distill.progress import Reporter
from distill.scales import INT8_LIMIT, SEVEN_BIT_LIMIT, ChannelRange, InputScales
from export.int8.invariance import BatchingClassifier, BatchReport, compare_alone_and_in_batches
from export.int8.parity import Change, change_between, require_quality
from export.int8.quantize import Quantization, find_products, quantize
from export.settings import EmbeddingPrecision, ExportSettings

Ranges = Mapping[str, ChannelRange | InputScales]
Open = Callable[[onnx.ModelProto], BatchingClassifier]

SENSITIVITY_TEXTS = 128
KEPT = (1, 3)
"""How many of the products that hurt most stay fp32 on the last two rungs."""


@dataclass(frozen=True)
class Baseline:
    """What int8 is measured against: the validation texts and fp32's answers to them."""

    validation: Dataset
    logits: Logits
    quality: Quality


@dataclass(frozen=True)
class Rung:
    """One form of int8 and its name."""

    name: str
    how: Quantization


@dataclass(frozen=True)
class Attempt:
    """What came of one rung; `failure` is None where every gate passed."""

    rung: Rung
    quality: Quality
    change: Change
    by_batch: BatchReport | None
    failure: QualityError | None

    def row(self, before: Quality) -> str:
        """Return one line of the table of what was tried."""
        by_batch = "-" if self.by_batch is None else f"{self.by_batch.probability_change_by_batch:.1e}"
        recall = max(before.per_class[name].recall - after.recall for name, after in self.quality.per_class.items())
        return (
            f"{self.rung.name}: macro-F1 {self.quality.macro_f1 - before.macro_f1:+.4f}, worst recall {-recall:+.4f}, "
            f"agreement {self.change.agreement:.4f}, calibration error "
            f"{self.quality.expected_calibration_error - before.expected_calibration_error:+.4f}, moved by batch {by_batch}: "
            f"{'passed' if self.failure is None else self.failure.metric}"
        )

    def figures(self) -> dict[str, Any]:
        """Return what the manifest keeps."""
        interval = wilson_interval(self.change.agreement, self.quality.num_texts)
        by_batch = {} if self.by_batch is None else asdict(self.by_batch)
        by_batch.pop("worst_text", None)  # the data does not ship
        by_batch.pop("num_texts", None)
        return {
            "agreement_with_fp32": self.change.agreement,
            "agreement_with_fp32_interval": interval,
            "form": self.rung.name,
            **by_batch,
        }


def asked_form(settings: ExportSettings, embeddings: EmbeddingPrecision) -> Quantization:
    """Return the form of the first rung."""
    limit = SEVEN_BIT_LIMIT if settings.target == "portable" else INT8_LIMIT
    return Quantization(limit, settings.activations, embeddings)


def first_that_passes(
    fp32: onnx.ModelProto,
    ranges: Ranges,
    *,
    embeddings: EmbeddingPrecision,
    settings: ExportSettings,
    baseline: Baseline,
    open_graph: Open,
    reporter: Reporter,
) -> tuple[onnx.ModelProto, Attempt]:
    """Return the int8 graph of the first rung that passes every gate, and its figures.

    Args:
        fp32: The fp32 graph.
        ranges: Values or scales of its products' inputs.
        embeddings: Numeric form of the tables.
        settings: Budgets and forms.
        baseline: What fp32 answers.
        open_graph: From a graph to a classifier.
        reporter: Told of every rung that fails, and at the end of all of them.

    Raises:
        QualityError: No rung passes; it names what the first one failed on.
    """
    attempts: list[Attempt] = []
    failures: list[QualityError] = []
    for rung in _rungs(fp32, ranges, embeddings, settings, baseline, open_graph):
        graph = quantize(fp32, ranges, rung.how)
        attempt = _attempt(rung, open_graph(graph), baseline, settings)
        if attempt.failure is None:
            return graph, attempt
        reporter.say(f"export: int8 with {rung.name} is not good enough: {attempt.failure.metric}")
        attempts.append(attempt)
        failures.append(attempt.failure)
    reporter.say("export: what was tried, against fp32:")
    for attempt in attempts:
        reporter.say(f"  {attempt.row(baseline.quality)}")
    raise failures[0]


def _rungs(
    fp32: onnx.ModelProto,
    ranges: Ranges,
    embeddings: EmbeddingPrecision,
    settings: ExportSettings,
    baseline: Baseline,
    open_graph: Open,
) -> Iterator[Rung]:
    asked = asked_form(settings, embeddings)
    name = f"{7 if settings.target == 'portable' else 8}-bit weights, {settings.activations} scales"
    yield Rung(f"{name}, {embeddings} tables", asked)
    if embeddings == "int4" and settings.max_size_mb is None:
        asked = replace(asked, embeddings="int8")
        yield Rung(f"{name}, int8 tables", asked)
    most_sensitive = _by_sensitivity(fp32, ranges, asked, baseline, open_graph)
    for count in KEPT:
        if count < len(most_sensitive):
            kept = most_sensitive[:count]
            yield Rung(f"{name}, {asked.embeddings} tables, {', '.join(kept)} in fp32", replace(asked, keep=frozenset(kept)))


def _by_sensitivity(
    fp32: onnx.ModelProto, ranges: Ranges, how: Quantization, baseline: Baseline, open_graph: Open
) -> list[str]:
    """Return the outputs of all products, first the one whose quantization alone moves the probabilities most."""
    outputs = [product.output for product in find_products(fp32)]
    texts = baseline.validation.texts[:SENSITIVITY_TEXTS]
    damage = {}
    for output in outputs:
        alone = replace(how, embeddings="fp32", keep=frozenset(outputs) - {output})
        classifier = open_graph(quantize(fp32, ranges, alone))
        shares = probabilities(classifier.predict_logits(texts), classifier.problem_type)
        exact = probabilities(baseline.logits[: len(texts)], classifier.problem_type)
        damage[output] = float(np.abs(shares - exact).mean())
    return sorted(damage, key=lambda output: -damage[output])


def _attempt(rung: Rung, classifier: BatchingClassifier, baseline: Baseline, settings: ExportSettings) -> Attempt:
    texts = baseline.validation.texts
    logits = classifier.predict_logits(texts)
    problem_type, label_ids = baseline.validation.problem_type, baseline.validation.label_ids
    after = evaluate(labels=label_ids, logits=logits, label_names=classifier.labels, problem_type=problem_type)
    change = change_between(baseline.logits, logits, problem_type)
    by_batch = compare_alone_and_in_batches(classifier, texts) if rung.how.activations == "fixed" else None
    failure: QualityError | None = None
    try:
        require_quality(before=baseline.quality, after=after, change=change, settings=settings)
        if by_batch is not None:
            by_batch.require(settings.batch_tolerance)
    except QualityError as exc:
        failure = exc
    return Attempt(rung, after, change, by_batch, failure)

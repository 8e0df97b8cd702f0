"""A student and its fallback as one served model; `/info` and `/metrics` report the share and the cost of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from distill.errors import SettingsError, requires
from export.runtime.cascade import Cascade, Member, threshold_of
from export.runtime.sessions import OnnxClassifier
from export.trust.pins import TrustSettings, open_trusted
from serve.answering.engine import Engine, about_bundle, version_of
from serve.answering.models import ModelSource
from serve.settings import LimitSettings

with requires("serving"):
    from prometheus_client import Counter
    from prometheus_client.metrics_core import Metric
    from prometheus_client.registry import Collector

MEMBERS: tuple[Member, Member] = ("student", "fallback")


class Tally(Collector):
    """Texts and seconds of each member of a cascade since the server started; a reload does not reset them."""

    def __init__(self, model: str) -> None:
        labels = ["model", "member"]
        self._texts = Counter("potstill_cascade_texts", "Texts each member computed", labels, registry=None)
        self._seconds = Counter("potstill_cascade_seconds", "Seconds each member took", labels, registry=None)
        self._of = {name: (self._texts.labels(model, name), self._seconds.labels(model, name)) for name in MEMBERS}

    def add(self, member: Member, texts: int, seconds: float) -> None:
        """Count one call of a member; the student computes every text, the fallback those it is unsure of."""
        counts, times = self._of[member]
        counts.inc(texts)
        times.inc(seconds)

    def summary(self) -> dict[str, Any]:
        """Return the share of texts the student answered, and each member's milliseconds per text; None before the first."""
        texts, seconds = _totals(self._texts), _totals(self._seconds)
        return {
            "texts": int(texts["student"]),
            "student_share": 1 - texts["fallback"] / texts["student"] if texts["student"] else None,
            **{f"{name}_ms_per_text": seconds[name] / texts[name] * 1000 if texts[name] else None for name in MEMBERS},
        }

    def collect(self) -> list[Metric]:
        """Return the counters, for Prometheus."""
        return [*self._texts.collect(), *self._seconds.collect()]


def _totals(counter: Counter) -> dict[str, float]:
    return {
        sample.labels["member"]: sample.value
        for metric in counter.collect()
        for sample in metric.samples
        if sample.name.endswith("_total")
    }


def cascade_source(
    name: str,
    path: Path,
    fallback: Path,
    limits: LimitSettings,
    *,
    min_confidence: float | Literal["auto"],
    trust: TrustSettings = TrustSettings(),
) -> ModelSource:
    """Return the source of a cascade: texts the student is unsure of go to the fallback.

    Args:
        name: Its name in routes and metrics.
        path: The student's bundle; a reload reads both bundles again.
        fallback: The bundle of the larger classifier.
        limits: Limits of its requests.
        min_confidence: Confidence from which the student's answer is used; "auto" uses the threshold in its manifest, which
            `potstill cascade` writes.
        trust: What is required of both bundles, also by a reload.

    Raises:
        SettingsError: The limits set a precision (both members run the best graph they have), or windows for long texts.
    """
    if limits.precision is not None:
        raise SettingsError("a cascade runs the best graph of both bundles; omit --precision or --fallback")
    if limits.long_texts == "windows":
        raise SettingsError(
            "a cascade reads no windows: its two members may divide a text differently; omit one of the two flags"
        )
    tally = Tally(name)

    def open_cascade(folder: Path) -> Engine:
        student, other = open_trusted(folder, trust), open_trusted(fallback, trust)
        temperature, bound = 1.0, min_confidence
        if bound == "auto":
            entry = threshold_of(student, other)
            temperature, bound = entry.temperature, entry.min_confidence
        precision = student.best_precision()
        cascade = Cascade(
            # One thread per call: the server runs several batches at once instead of one on several threads.
            OnnxClassifier.open(student, precision=precision, threads=1),
            OnnxClassifier.open(other, threads=1),
            min_confidence=bound,
            temperature=temperature,
        )
        card = about_bundle(other, other.best_precision())
        settings = {"min_confidence": bound, "temperature": temperature, "fallback": card}
        engine = Engine(
            cascade,
            student.manifest.max_length,
            about_bundle(student, precision),
            f"{version_of(student)}-{version_of(other)}",
            live=lambda: {"cascade": {**settings, **tally.summary()}},
        )
        engine.self_check(str(folder))
        cascade.on_answer = tally.add  # only now: the self-check is not counted
        return engine

    return ModelSource(name, path, limits, open_cascade, watch=lambda metrics: metrics.registry.register(tally))

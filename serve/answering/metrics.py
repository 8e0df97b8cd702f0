"""The metrics of the server, for Prometheus. Knows no HTTP."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from distill.errors import requires
from serve.answering.queue import Computed

with requires("serving"):
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.001, 0.002, 0.004, 0.006, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
TEXTS = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """The metrics of one application, in its own registry.

    Attributes:
        registry: Further metrics may be registered here.
        queue: Texts in the queue, by model.
        queue_tokens: Their tokens, by model.
        queue_clients: Clients that have texts in the queue, by model.
        idle: Idle worker threads, by model.
        answering: Whether worker threads answer, by model.
        replaced: Worker threads that hung or died, by model.
        cut: Texts cut to `max_length`, by model.
        in_windows: Longer texts read in windows, by model.
        reloads: Reloads, by model and result.
    """

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self._requests = Counter(
            "potstill_requests", "Requests by protocol, model and status", ["protocol", "model", "status"], registry=registry
        )
        self._seconds = Histogram(
            "potstill_request_seconds", "From head to answer", ["protocol", "model"], buckets=SECONDS, registry=registry
        )
        self._texts = Counter("potstill_texts", "Texts computed", ["model"], registry=registry)
        self._tokens = Counter("potstill_tokens", "Tokens computed", ["model"], registry=registry)
        self._waits = Histogram(
            "potstill_queue_seconds", "Time of a request in the queue", ["model"], buckets=SECONDS, registry=registry
        )
        self._batch_texts = Histogram("potstill_batch_texts", "Texts in a batch", ["model"], buckets=TEXTS, registry=registry)
        self._batch_seconds = Histogram(
            "potstill_batch_seconds", "Computing a batch", ["model"], buckets=SECONDS, registry=registry
        )
        self.queue = Gauge("potstill_queue_texts", "Texts in the queue", ["model"], registry=registry)
        self.queue_tokens = Gauge(
            "potstill_queue_tokens",
            "Tokens in the queue; estimated for texts that are not read yet",
            ["model"],
            registry=registry,
        )
        self.queue_clients = Gauge("potstill_queue_clients", "Clients with texts in the queue", ["model"], registry=registry)
        self.idle = Gauge("potstill_idle_threads", "Idle worker threads", ["model"], registry=registry)
        self.answering = Gauge(
            "potstill_answering", "1 if a worker thread computes or is idle, 0 if all hang", ["model"], registry=registry
        )
        self.replaced = Counter("potstill_replaced_threads", "Worker threads that hung or died", ["model"], registry=registry)
        self.cut = Counter("potstill_truncated_texts", "Texts cut to max_length", ["model"], registry=registry)
        self.in_windows = Counter(
            "potstill_windowed_texts", "Texts longer than max_length, read in windows", ["model"], registry=registry
        )
        self._cache = Counter("potstill_cache", "Cache look-ups of texts", ["model", "result"], registry=registry)
        self._cache_rate = Gauge(
            "potstill_cache_hit_ratio", "Share of cache look-ups that hit, since the start", ["model"], registry=registry
        )
        self.reloads = Counter("potstill_reloads", "Reloads", ["model", "result"], registry=registry)
        self._looked_up: dict[str, list[int]] = {}
        self._at: Callable[..., Any] = cache(lambda metric, *labels: metric.labels(*labels))  # `labels` formats and locks

    def count_request(self, protocol: str, model: str, status: int, seconds: float) -> None:
        """Count an answered request; `model` is empty where it names none."""
        self._at(self._requests, protocol, model, status).inc()
        self._at(self._seconds, protocol, model).observe(seconds)

    def count_batch(self, model: str, batch: Computed) -> None:
        """Count a batch that was computed."""
        self._at(self._texts, model).inc(batch.texts)
        self._at(self._tokens, model).inc(batch.tokens)
        self._at(self._batch_texts, model).observe(batch.texts)
        self._at(self._batch_seconds, model).observe(batch.seconds)
        for wait_s in batch.waits_s:
            self._at(self._waits, model).observe(wait_s)

    def count_cache(self, model: str, *, hits: int, misses: int) -> None:
        """Count cache look-ups."""
        self._at(self._cache, model, "hit").inc(hits)
        self._at(self._cache, model, "miss").inc(misses)
        counts = self._looked_up.setdefault(model, [0, 0])
        counts[0] += hits
        counts[1] += misses
        self._at(self._cache_rate, model).set(counts[0] / max(1, sum(counts)))

    def text(self) -> bytes:
        """Return all metrics in the Prometheus text format."""
        return generate_latest(self.registry)

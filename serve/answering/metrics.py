"""What the server counts, in Prometheus' words. Knows no HTTP."""

from __future__ import annotations

from collections.abc import Callable

from distill.errors import requires

with requires("serving"):
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.001, 0.002, 0.004, 0.006, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
TEXTS = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """One registry; every application has its own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        registry = self._registry
        self._requests = Counter(
            "potstill_requests", "Requests by protocol and status", ["protocol", "status"], registry=registry
        )
        self._seconds = Histogram(
            "potstill_request_seconds", "From head to answer", ["protocol"], buckets=SECONDS, registry=registry
        )
        self._texts = Counter("potstill_texts", "Texts computed", ["model"], registry=registry)
        self._batch_texts = Histogram("potstill_batch_texts", "Texts in a batch", ["model"], buckets=TEXTS, registry=registry)
        self._batch_seconds = Histogram(
            "potstill_batch_seconds", "Tokenizing and computing a batch", ["model"], buckets=SECONDS, registry=registry
        )
        self._queue = Gauge("potstill_queue_texts", "Texts that wait", ["model"], registry=registry)
        self._idle = Gauge("potstill_idle_threads", "Threads that compute nothing", ["model"], registry=registry)
        self._cut = Counter("potstill_truncated_texts", "Texts cut to max_length", ["model"], registry=registry)
        self._cache = Counter("potstill_cache", "Texts looked up in the cache", ["model", "result"], registry=registry)
        self._cache_rate = Gauge(
            "potstill_cache_hit_ratio", "Share of them found since the start", ["model"], registry=registry
        )
        self._reloads = Counter("potstill_reloads", "Reloads", ["model", "result"], registry=registry)
        self._looked_up: dict[str, list[int]] = {}
        self._by_status: dict[tuple[str, int], Counter] = {}
        self._by_protocol: dict[str, Histogram] = {}

    @property
    def registry(self) -> CollectorRegistry:
        """Where further metrics may be added."""
        return self._registry

    def count_request(self, protocol: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        counter = self._by_status.get((protocol, status))
        if counter is None:  # looked up once: `labels` formats and locks
            counter = self._by_status[protocol, status] = self._requests.labels(protocol, str(status))
            self._by_protocol[protocol] = self._seconds.labels(protocol)
        counter.inc()
        self._by_protocol[protocol].observe(seconds)

    def batches(self, model: str) -> Callable[[int, float], None]:
        """Return a function that is told the texts and seconds of each batch."""
        texts_total = self._texts.labels(model)
        sizes, times = self._batch_texts.labels(model), self._batch_seconds.labels(model)

        def on_batch(texts: int, seconds: float) -> None:
            texts_total.inc(texts)
            sizes.observe(texts)
            times.observe(seconds)

        return on_batch

    def watch_queue(self, model: str, *, waiting_texts: Callable[[], int], idle_threads: Callable[[], int]) -> None:
        """Read a queue's length, and how many threads have nothing to do, whenever somebody asks."""
        self._queue.labels(model).set_function(waiting_texts)
        self._idle.labels(model).set_function(idle_threads)

    def count_cut(self, model: str, texts: int) -> None:
        """Count texts that were cut."""
        self._cut.labels(model).inc(texts)

    def count_cache(self, model: str, *, hits: int, misses: int) -> None:
        """Count texts that were looked up."""
        self._cache.labels(model, "hit").inc(hits)
        self._cache.labels(model, "miss").inc(misses)
        counts = self._looked_up.setdefault(model, [0, 0])
        counts[0] += hits
        counts[1] += misses
        self._cache_rate.labels(model).set(counts[0] / max(1, sum(counts)))

    def count_reload(self, model: str, *, done: bool) -> None:
        """Count a reload."""
        self._reloads.labels(model, "done" if done else "failed").inc()

    def text(self) -> bytes:
        """Return them all in Prometheus' text format."""
        return generate_latest(self._registry)

"""Measuring latency, throughput, cold start and memory, so that two classifiers can be compared.

What is compared takes turns within one run, because absolute times move by a third from run to run. Raw samples are
kept. A percentile is given only where there are samples enough for it.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from distill.classifier import Classifier
from distill.errors import PotstillError, SettingsError
from distill.progress import Reporter, SilentReporter
from export.settings import BenchSettings

# MLPerf LoadGen's rule: so many samples before a percentile may be given.
MIN_SAMPLES_P90 = 64
MIN_SAMPLES_P99 = 662
NOISY_SPREAD = 0.25
PROBE_TIMEOUT_S = 300.0
PROBE_TEXTS = 200
WARMUP_CALLS = 5
SETTLED = 0.9
"""A classifier is warm when a repetition takes more than this share of the fastest one before it."""


@dataclass(frozen=True)
class Latency:
    """Times of single texts, tokenization inside, in milliseconds; one inner list per round."""

    rounds_ms: tuple[tuple[float, ...], ...]

    @property
    def samples_ms(self) -> np.ndarray:
        """Every sample of every round."""
        return np.concatenate([np.asarray(samples) for samples in self.rounds_ms])

    @property
    def round_medians_ms(self) -> list[float]:
        """The median of each round."""
        return [float(np.median(samples)) for samples in self.rounds_ms]

    @property
    def p50_ms(self) -> float:
        """Median of the rounds' medians."""
        return float(np.median(self.round_medians_ms))

    @property
    def p90_ms(self) -> float | None:
        """90th percentile; None below 64 samples."""
        return self._percentile(90, MIN_SAMPLES_P90)

    @property
    def p99_ms(self) -> float | None:
        """99th percentile; None below 662 samples."""
        return self._percentile(99, MIN_SAMPLES_P99)

    @property
    def spread(self) -> float:
        """How far the rounds' medians are apart, as a share of the median."""
        return (max(self.round_medians_ms) - min(self.round_medians_ms)) / self.p50_ms

    def _percentile(self, percent: int, least: int) -> float | None:
        samples = self.samples_ms
        return float(np.percentile(samples, percent)) if len(samples) >= least else None


@dataclass(frozen=True)
class ProcessFigures:
    """What a fresh process takes: seconds from its start to its first answer, and its peak memory."""

    cold_start_s: float
    peak_rss_bytes: int


def measure_latency(
    classifiers: Mapping[str, Classifier],
    texts: Sequence[str],
    settings: BenchSettings,
    *,
    reporter: Reporter | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Latency]:
    """Time single texts, the classifiers taking turns in each round.

    Args:
        classifiers: Name -> what is timed; tokenization is inside each.
        texts: Real texts; each round uses the next `texts_per_round` of them, the same for every classifier.
        settings: Rounds and warm-up.
        reporter: Told of progress.
        clock: Seconds.

    Raises:
        SettingsError: There is no text.
    """
    if not texts:
        raise SettingsError("there is no text to measure with")
    rounds: dict[str, list[tuple[float, ...]]] = {name: [] for name in classifiers}
    with (reporter or SilentReporter()).task("latency", settings.rounds * len(classifiers)) as advance:
        for round_number in range(settings.rounds):
            calls = [[text] for text in _turn_of(texts, round_number, settings.texts_per_round)]
            for name, classifier in classifiers.items():
                seconds = settings.warmup_s if round_number == 0 else settings.warmup_s / 10
                _warm_up(classifier, calls, seconds, clock, is_first=round_number == 0)
                rounds[name].append(tuple(_timed_ms(classifier, call, clock) for call in calls))
                advance(1)
    return {name: Latency(tuple(samples)) for name, samples in rounds.items()}


def measure_throughput(
    classifiers: Mapping[str, Classifier],
    texts: Sequence[str],
    settings: BenchSettings,
    *,
    reporter: Reporter | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, tuple[float, ...]]:
    """Return texts per second of each round, texts given `batch_size` at a time in their own order."""
    rates: dict[str, list[float]] = {name: [] for name in classifiers}
    with (reporter or SilentReporter()).task("throughput", settings.throughput_rounds * len(classifiers)) as advance:
        for round_number in range(settings.throughput_rounds):
            chosen = _turn_of(texts, round_number, settings.throughput_texts)
            batches = [chosen[start : start + settings.batch_size] for start in range(0, len(chosen), settings.batch_size)]
            for name, classifier in classifiers.items():
                _warm_up(classifier, batches, settings.warmup_s / 2, clock, is_first=round_number == 0)
                taken_ms = sum(_timed_ms(classifier, batch, clock) for batch in batches)
                rates[name].append(len(chosen) / taken_ms * 1000)
                advance(1)
    return {name: tuple(samples) for name, samples in rates.items()}


def measure_process(bundle_path: Path, runtime: str, texts: Sequence[str], *, repeats: int = 3) -> ProcessFigures:
    """Start a fresh process that answers with this bundle; medians of `repeats` starts.

    Args:
        bundle_path: The bundle.
        runtime: "fp32", "int8" or "pytorch".
        texts: What it answers; the first is the one waited for.
        repeats: Processes started, one after another.

    Raises:
        PotstillError: The process died or did not answer in time.
    """
    runs = [_probe(bundle_path, runtime, texts[:PROBE_TEXTS]) for _ in range(repeats)]
    return ProcessFigures(
        cold_start_s=float(np.median([run.cold_start_s for run in runs])),
        peak_rss_bytes=int(np.median([run.peak_rss_bytes for run in runs])),
    )


def summary_of(latency: Latency, rates: Sequence[float]) -> dict[str, Any]:
    """Return the figures of one row: percentiles, rate, and whether the machine was too noisy to trust them."""
    return {
        "p50_ms": latency.p50_ms,
        "p90_ms": latency.p90_ms,
        "p99_ms": latency.p99_ms,
        "latency_spread": latency.spread,
        "noisy": latency.spread > NOISY_SPREAD,
        "texts_per_second": float(np.median(rates)),
    }


def ratio_of_medians(slow: Latency, fast: Latency) -> tuple[float, float, float]:
    """Return how many times faster `fast` is: the median over rounds of the ratio of medians, the least and the most."""
    ratios = [a / b for a, b in zip(slow.round_medians_ms, fast.round_medians_ms, strict=True)]
    return float(np.median(ratios)), min(ratios), max(ratios)


def _probe(bundle_path: Path, runtime: str, texts: Sequence[str]) -> ProcessFigures:
    command = [sys.executable, "-m", "export.measure.probe", str(bundle_path.resolve()), runtime]
    lines = "\n".join(" ".join(text.split()) for text in texts)
    with tempfile.TemporaryFile("w+", encoding="utf-8") as given, tempfile.TemporaryFile("w+", encoding="utf-8") as complaints:
        given.write(lines)
        given.seek(0)
        started = time.perf_counter()
        with subprocess.Popen(command, stdin=given, stdout=subprocess.PIPE, stderr=complaints, text=True) as process:
            printed = cast(IO[str], process.stdout)
            watchdog = threading.Timer(PROBE_TIMEOUT_S, process.kill)
            watchdog.daemon = True  # Ctrl-C must not wait for it
            watchdog.start()
            # This process sleeps in the read meanwhile: nothing competes with what is measured.
            answered = printed.readline().strip() == "answered"
            cold_start_s = time.perf_counter() - started
            rest = printed.read()
            watchdog.cancel()
        complaints.seek(0)
        if not answered or process.returncode != 0:
            raise PotstillError(
                f"a process that answers with {bundle_path} died, or took more than {PROBE_TIMEOUT_S:g} s: "
                f"{complaints.read().strip()[-300:]}"
            )
    return ProcessFigures(cold_start_s, json.loads(rest)["peak_rss_bytes"])


def _turn_of(texts: Sequence[str], round_number: int, count: int) -> list[str]:
    start = round_number * count
    return [texts[index % len(texts)] for index in range(start, start + count)]


def _warm_up(
    classifier: Classifier, calls: Sequence[Sequence[str]], seconds: float, clock: Callable[[], float], *, is_first: bool
) -> None:
    """Answer the kind of calls that will be timed, for this many seconds; the first time also until that is no faster.

    What is made on first use (a second session, threads, caches) is different for single texts and for batches.
    """
    until, fastest, settled = clock() + seconds, math.inf, not is_first
    while seconds and (clock() < until or not settled):
        taken = sum(_timed_ms(classifier, call, clock) for call in calls[:WARMUP_CALLS])
        settled, fastest = settled or taken > SETTLED * fastest, min(taken, fastest)


def _timed_ms(classifier: Classifier, texts: Sequence[str], clock: Callable[[], float]) -> float:
    started = clock()
    classifier.predict_logits(texts)
    return (clock() - started) * 1000

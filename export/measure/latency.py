"""Latency, throughput, cold start and memory of classifiers that are compared with each other.

The classifiers take turns within one run, because absolute times change by a third from run to run. All samples are kept. A
percentile is reported only with enough samples for it.
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
from numpy.typing import NDArray

from distill.classifier import Classifier
from distill.errors import PotstillError, SettingsError
from distill.progress import Reporter, SilentReporter
from export.settings import BenchSettings

MIN_SAMPLES_P90 = 64
MIN_SAMPLES_P99 = 662
MIN_SAMPLES = {90: MIN_SAMPLES_P90, 99: MIN_SAMPLES_P99}
"""Fewest samples for a percentile, by the rule of MLPerf LoadGen."""

NOISY_SPREAD = 0.25
PROBE_TIMEOUT_S = 300.0
PROBE_TEXTS = 200
WARMUP_CALLS = 5
SETTLED = 0.9
"""A classifier is warm when a repetition takes more than this share of the fastest one before it."""


@dataclass(frozen=True)
class Latency:
    """Times of single texts in milliseconds, tokenization included; one inner tuple per round."""

    rounds_ms: tuple[tuple[float, ...], ...]

    @property
    def samples_ms(self) -> NDArray[np.float64]:
        """The samples of all rounds."""
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
        return percentile(self.samples_ms, 90)

    @property
    def p99_ms(self) -> float | None:
        """99th percentile; None below 662 samples."""
        return percentile(self.samples_ms, 99)

    @property
    def spread(self) -> float:
        """Range of the medians of the rounds, as a share of their median."""
        return (max(self.round_medians_ms) - min(self.round_medians_ms)) / self.p50_ms


@dataclass(frozen=True)
class ProcessFigures:
    """Figures of a new process: seconds from its start to its first answer, and its peak memory."""

    cold_start_s: float
    peak_rss_bytes: int


def percentile(samples: Sequence[float] | NDArray[np.float64], percent: int) -> float | None:
    """Return a percentile of the samples; None below the sample count that LoadGen requires for it."""
    return float(np.percentile(samples, percent)) if len(samples) >= MIN_SAMPLES.get(percent, 1) else None


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
        classifiers: Classifiers by name; the time of a text includes tokenization.
        texts: Real texts; each round uses the next `texts_per_round` of them, the same for every classifier.
        settings: Rounds and warmup.
        reporter: Shows progress.
        clock: Returns seconds.

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
    """Return texts per second of each round, with `batch_size` texts per call in their own order."""
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
    """Start a new process that answers with this bundle, `repeats` times, and return the medians.

    Args:
        bundle_path: The bundle.
        runtime: "fp32", "int8" or "pytorch".
        texts: Texts to answer; the cold start ends with the answer to the first.
        repeats: Number of processes, one after the other.

    Raises:
        PotstillError: The process died or did not answer in time.
    """
    runs = [_probe(bundle_path, runtime, texts[:PROBE_TEXTS]) for _ in range(repeats)]
    return ProcessFigures(
        cold_start_s=float(np.median([run.cold_start_s for run in runs])),
        peak_rss_bytes=int(np.median([run.peak_rss_bytes for run in runs])),
    )


def summary_of(latency: Latency, rates: Sequence[float]) -> dict[str, Any]:
    """Return the figures of one row: percentiles, rate, and whether the machine was too noisy to rely on them."""
    return {
        "p50_ms": latency.p50_ms,
        "p90_ms": latency.p90_ms,
        "p99_ms": latency.p99_ms,
        "latency_spread": latency.spread,
        "noisy": latency.spread > NOISY_SPREAD,
        "texts_per_second": float(np.median(rates)),
    }


def ratio_of_medians(slow: Latency, fast: Latency) -> tuple[float, float, float]:
    """Return how many times faster `fast` is: median, minimum and maximum over rounds of the ratio of medians."""
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
            # This process sleeps in the read, so that it does not compete with the measured process.
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
    """Repeat calls like those that will be timed, for this many seconds; the first time also until they get no faster.

    Single texts and batches create different things on first use: a second session, threads, caches.
    """
    until, fastest, settled = clock() + seconds, math.inf, not is_first
    while seconds and (clock() < until or not settled):
        taken = sum(_timed_ms(classifier, call, clock) for call in calls[:WARMUP_CALLS])
        settled, fastest = settled or taken > SETTLED * fastest, min(taken, fastest)


def _timed_ms(classifier: Classifier, texts: Sequence[str], clock: Callable[[], float]) -> float:
    started = clock()
    classifier.predict_logits(texts)
    return (clock() - started) * 1000

"""Latency, throughput, cold start and memory of classifiers that are compared with each other.

The classifiers take turns within one run, because absolute times change by a third from run to run. All samples are kept. A
percentile is reported only with enough samples for it.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.classifier import Classifier
from distill.errors import PotstillError, SettingsError
from distill.progress import Reporter, SilentReporter
from distill.texts import TextInput, joined
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
    def spread(self) -> float:
        """Range of the medians of the rounds, as a share of their median."""
        return (max(self.round_medians_ms) - min(self.round_medians_ms)) / self.p50_ms

    def percentile_ms(self, percent: int) -> float | None:
        """Return a percentile of all samples; None below the sample count that LoadGen requires for it."""
        samples = self.samples_ms
        return float(np.percentile(samples, percent)) if len(samples) >= MIN_SAMPLES[percent] else None


@dataclass(frozen=True)
class ProcessFigures:
    """Figures of a new process: seconds from its start to its first answer, and its peak memory."""

    cold_start_s: float
    peak_rss_bytes: int


def measure_latency(
    classifiers: Mapping[str, Classifier],
    texts: Sequence[TextInput],
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
    rounds = _rounds_of(texts, settings.rounds, settings.texts_per_round, batch_size=1)
    timed = _timed_rounds(
        classifiers, rounds, (settings.warmup_s, settings.warmup_s / 10), title="latency", reporter=reporter, clock=clock
    )
    return {name: Latency(tuple(rounds_ms)) for name, rounds_ms in timed.items()}


def measure_throughput(
    classifiers: Mapping[str, Classifier],
    texts: Sequence[TextInput],
    settings: BenchSettings,
    *,
    reporter: Reporter | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, tuple[float, ...]]:
    """Return texts per second of each round, with `batch_size` texts per call in their own order."""
    rounds = _rounds_of(texts, settings.throughput_rounds, settings.throughput_texts, batch_size=settings.batch_size)
    timed = _timed_rounds(
        classifiers, rounds, (settings.warmup_s / 2, settings.warmup_s / 2), title="throughput", reporter=reporter, clock=clock
    )
    return {
        name: tuple(settings.throughput_texts / sum(batches_ms) * 1000 for batches_ms in rounds_ms)
        for name, rounds_ms in timed.items()
    }


def measure_process(bundle_path: Path, runtime: str, texts: Sequence[TextInput], *, repeats: int = 3) -> ProcessFigures:
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


def speed_figures(
    latency: Latency, rates: Sequence[float], *, teacher: Latency | None = None, process: ProcessFigures | None = None
) -> dict[str, Any]:
    """Return the speed figures of a row for JSON, all samples included.

    The ratio says how many times faster than the teacher: its median and its range over the rounds.

    Args:
        latency: Times of single texts.
        rates: Texts per second of each throughput round.
        teacher: Times that the ratios refer to; None: no ratios.
        process: Figures of a new process; None: not measured.
    """
    ratios = [a / b for a, b in zip(teacher.round_medians_ms, latency.round_medians_ms, strict=True)] if teacher else []
    return {
        "p50_ms": latency.p50_ms,
        "p90_ms": latency.percentile_ms(90),
        "p99_ms": latency.percentile_ms(99),
        "latency_spread": latency.spread,
        "noisy": latency.spread > NOISY_SPREAD,
        "texts_per_second": float(np.median(rates)),
        "p50_ratio_teacher": float(np.median(ratios)) if ratios else None,
        "p50_ratio_teacher_range": [min(ratios), max(ratios)] if ratios else None,
        **(asdict(process) if process else {"cold_start_s": None, "peak_rss_bytes": None}),
        "latency_rounds_ms": [[round(sample, 4) for sample in samples] for samples in latency.rounds_ms],
        "texts_per_second_rounds": list(rates),
    }


def _probe(bundle_path: Path, runtime: str, texts: Sequence[TextInput]) -> ProcessFigures:
    """Run the process; this one sleeps meanwhile, so that it does not compete with it."""
    lines = "\n".join(" ".join(joined(text).split()) for text in texts)
    started = time.monotonic()  # the clock of the system, the same in both processes
    try:
        done = subprocess.run(
            [sys.executable, "-m", "export.measure.probe", str(bundle_path.resolve()), runtime],
            input=lines.encode(),
            capture_output=True,
            timeout=PROBE_TIMEOUT_S,
            check=True,
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as exc:
        raise PotstillError(
            f"a process that answers with {bundle_path} died, or took more than {PROBE_TIMEOUT_S:g} s: "
            f"{(exc.stderr or b'').decode(errors='replace').strip()[-300:]}"
        ) from exc
    found = json.loads(done.stdout)
    return ProcessFigures(found["answered_at"] - started, found["peak_rss_bytes"])


def _rounds_of(
    texts: Sequence[TextInput], rounds: int, texts_per_round: int, *, batch_size: int
) -> list[list[list[TextInput]]]:
    """Return the batches of each round; each round uses the next texts, and they begin again after the last."""
    endless = cycle(texts)
    chosen = [list(islice(endless, texts_per_round)) for _ in range(rounds)]
    return [[each[start : start + batch_size] for start in range(0, len(each), batch_size)] for each in chosen]


def _timed_rounds(
    classifiers: Mapping[str, Classifier],
    rounds: Sequence[Sequence[Sequence[TextInput]]],
    warmup_s: tuple[float, float],
    *,
    title: str,
    reporter: Reporter | None,
    clock: Callable[[], float],
) -> dict[str, list[tuple[float, ...]]]:
    """Return the milliseconds of each batch by classifier and round; the classifiers take turns in each round.

    Args:
        classifiers: Classifiers by name.
        rounds: Batches of texts of each round.
        warmup_s: Seconds of warmup before a turn in the first round, and in the later ones.
        title: Shown with the progress.
        reporter: Shows progress.
        clock: Returns seconds.
    """
    found: dict[str, list[tuple[float, ...]]] = {name: [] for name in classifiers}
    with (reporter or SilentReporter()).task(title, len(rounds) * len(classifiers)) as advance:
        for number, batches in enumerate(rounds):
            for name, classifier in classifiers.items():
                _warm_up(classifier, batches, warmup_s[number > 0], clock, is_first=number == 0)
                found[name].append(tuple(_timed_ms(classifier, batch, clock) for batch in batches))
                advance(1)
    return found


def _warm_up(
    classifier: Classifier, calls: Sequence[Sequence[TextInput]], seconds: float, clock: Callable[[], float], *, is_first: bool
) -> None:
    """Repeat calls like those that will be timed, for this many seconds; the first time also until they get no faster.

    Single texts and batches create different things on first use: a second session, threads, caches.
    """
    until, fastest, settled = clock() + seconds, math.inf, not is_first
    while seconds and (clock() < until or not settled):
        taken = sum(_timed_ms(classifier, call, clock) for call in calls[:WARMUP_CALLS])
        settled, fastest = settled or taken > SETTLED * fastest, min(taken, fastest)


def _timed_ms(classifier: Classifier, texts: Sequence[TextInput], clock: Callable[[], float]) -> float:
    started = clock()
    classifier.predict_logits(texts)
    return (clock() - started) * 1000

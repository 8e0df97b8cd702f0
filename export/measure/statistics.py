"""What may be said of samples: medians with bootstrap intervals, paired ratios, percentiles where there are enough.

Pure functions of numbers; measures nothing. The unit of resampling is the process: two of one bundle differ, by where their
memory happens to lie, in more than the rounds of either tell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.errors import SettingsError
from export.measure.latency import MIN_SAMPLES_P90, MIN_SAMPLES_P99, NOISY_SPREAD

RESAMPLES = 2000
MIN_PROCESSES = 3
BUSY_PROCESSORS = 0.1
"""What other programs may take, in processors, before a row is marked."""

Array = NDArray[np.float64]
Rounds = Sequence[Sequence[float]]


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval."""

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        """Return it as a result file keeps it."""
        return {"value": self.value, "low": self.low, "high": self.high}


def median_estimate(processes: Sequence[Sequence[float]], *, seed: int) -> Estimate:
    """Return the median of all samples; the interval comes from drawing whole processes with replacement.

    Args:
        processes: Samples of each process of a row, all above 0.
        seed: Seed of the draws.

    Raises:
        SettingsError: There are fewer than three processes.
    """
    _require_processes(len(processes))
    samples = [np.log(np.asarray(each, dtype=float)) for each in processes]
    medians = [np.median(np.concatenate([samples[index] for index in draw])) for draw in _draws(len(samples), seed)]
    every = np.concatenate([np.asarray(each, dtype=float) for each in processes])
    return _estimate(float(np.log(np.median(every))), medians, len(samples), seen_as=np.exp)


def ratio_estimate(reference: Rounds, other: Rounds, *, process_of: Sequence[int], seed: int) -> Estimate:
    """Return how many times faster `other` is than `reference`, both having answered the same texts in each round.

    Args:
        reference: Times by round, text by text.
        other: Times of the same texts.
        process_of: By round, which process of either answered.
        seed: Seed of the draws.

    Raises:
        SettingsError: They do not pair, or there are fewer than three processes.
    """
    logs = np.log(ratios_of(reference, other, process_of=process_of))
    return mean_estimate(logs, seed=seed, seen_as=np.exp)


def ratios_of(reference: Rounds, other: Rounds, *, process_of: Sequence[int]) -> Array:
    """Return by process how many times faster `other` was, shape (processes,).

    Of each round the median over its texts of the ratio of the two times; of a process's rounds the mean, on the scale of
    logarithms.

    Raises:
        SettingsError: They do not pair.
    """
    if [len(each) for each in reference] != [len(each) for each in other]:
        raise SettingsError("the two have not answered the same texts in the same rounds; their times do not pair")
    logs = np.array([np.median(np.log(np.asarray(a) / np.asarray(b))) for a, b in zip(reference, other, strict=True)])
    numbers = np.asarray(process_of)
    return np.exp([logs[numbers == number].mean() for number in dict.fromkeys(process_of)])


def mean_estimate(values: Sequence[float] | Array, *, seed: int, seen_as: Callable[[Any], Any] = np.asarray) -> Estimate:
    """Return the mean of one value a process, with its interval, `seen_as` another scale.

    Raises:
        SettingsError: There are fewer than three processes.
    """
    _require_processes(len(values))
    given = np.asarray(values, dtype=float)
    means = given[_draws(len(given), seed)].mean(axis=1)
    return _estimate(float(given.mean()), means, len(given), seen_as=seen_as)


def samples_by_process(rounds: Rounds, process_of: Sequence[int]) -> list[list[float]]:
    """Return the samples of all rounds of each process."""
    found: dict[int, list[float]] = {}
    for number, samples in zip(process_of, rounds, strict=True):
        found.setdefault(number, []).extend(samples)
    return list(found.values())


def percentile(rounds: Rounds, percent: int) -> float | None:
    """Return the 90th or 99th percentile of all samples; None where there are too few for it (LoadGen: 64 and 662)."""
    least = {90: MIN_SAMPLES_P90, 99: MIN_SAMPLES_P99}[percent]
    samples = np.concatenate([np.asarray(each, dtype=float) for each in rounds])
    return float(np.percentile(samples, percent)) if len(samples) >= least else None


def spread(rounds: Rounds) -> float:
    """Return how far the middle four fifths of the rounds' medians are apart, as a share of their median."""
    medians = np.array([np.median(each) for each in rounds])
    low, high = np.percentile(medians, [10, 90])
    return float((high - low) / np.median(medians))


def marks_of(*, spread: float, steady: bool, others_processors: float | None, samples: int) -> list[str]:
    """Return what must be said of a row before its figures, in words; nothing is as it should be."""
    marks = []
    if spread > NOISY_SPREAD:
        marks.append(f"unsteady: its rounds differ by {spread:.0%}")
    if not steady:
        marks.append("not warm: its times had not become steady when the warm-up ended")
    if others_processors is not None and others_processors > BUSY_PROCESSORS:
        marks.append(f"busy machine: other programs took {others_processors:.1f} processors meanwhile")
    if samples < MIN_SAMPLES_P90:
        marks.append(f"few samples: {samples}, no percentile above the median")
    return marks


def _estimate(value: float, drawn: Sequence[float] | Array, processes: int, *, seen_as: Callable[[Any], Any]) -> Estimate:
    """Return a figure with the interval of Student's t around it, its standard error that of the draws.

    Of so few processes the percentiles of a bootstrap end at the smallest and largest of them. Its standard error is right
    but for the share (n - 1) / n of the variance that n draws have (Hesterberg, 2015, "What Teachers Should Know About the
    Bootstrap", sections 4.2 and 4.3).
    """
    from scipy import stats

    error = float(np.std(drawn)) * np.sqrt(processes / (processes - 1))
    half = float(stats.t.ppf(0.975, processes - 1)) * error
    return Estimate(float(seen_as(value)), float(seen_as(value - half)), float(seen_as(value + half)))


def _draws(processes: int, seed: int) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, processes, (RESAMPLES, processes))


def _require_processes(processes: int) -> None:
    if processes < MIN_PROCESSES:
        raise SettingsError(
            f"an interval needs at least {MIN_PROCESSES} processes of a row, got {processes}; give --processes "
            f"{MIN_PROCESSES} or more, in cold-start, where a round is a process, --rounds {MIN_PROCESSES}"
        )

"""What may be said of samples: estimates over processes, paired ratios, percentiles if there are enough samples.

Pure functions of numbers; measures nothing. The unit of an interval is the process: two of one program differ, by where their
memory happens to be, in more than the rounds of either show. Of a tail it is the round, because slow moments come together.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from distill.errors import SettingsError, requires
from distill.evaluation.intervals import Estimate, mean_estimate
from export.settings import MIN_PROCESSES

MIN_SAMPLES = {50: 1, 90: 64, 99: 662}
"""Fewest samples for a percentile, by the rule of MLPerf LoadGen."""

NOISY_SPREAD = 0.25
BUSY_PROCESSORS = 0.1
"""What other programs may take, in processors, before a row is marked."""

STOLEN_SHARE = 0.01
"""What the host may give to others of the processors' time before a row is marked."""

LONG_TAIL = 3.0
"""How many times the median the 99th percentile may be before a row is marked."""

RESAMPLES = 1000

Array = NDArray[np.float64]
Rounds = Sequence[Sequence[float] | Array]


def over_processes(values: Sequence[float] | Array) -> Estimate:
    """Return the geometric mean of one value a process, with Student's t interval on the scale of logarithms.

    Raises:
        SettingsError: There are fewer than three processes.
    """
    if len(values) < MIN_PROCESSES:
        raise SettingsError(f"an interval needs at least {MIN_PROCESSES} processes of a row, got {len(values)}; use more")
    found = mean_estimate(np.log(values))
    return Estimate(*(float(np.exp(each)) for each in (found.value, found.low, found.high)))


def medians_of(rounds: Rounds, process_of: Sequence[int]) -> Array:
    """Return the median of the samples of each process, shape (processes,)."""
    found: dict[int, list[float]] = {}
    for number, samples in zip(process_of, rounds, strict=True):
        found.setdefault(number, []).extend(samples)
    return np.array([np.median(samples) for samples in found.values()])


def ratios_of(reference: Rounds, other: Rounds, process_of: Sequence[int]) -> Array:
    """Return by process how many times faster `other` was, both having answered the same texts in each round.

    For each round the median over its texts of the ratio of the two times; for a process the geometric mean of its rounds.

    Raises:
        SettingsError: They do not pair.
    """
    if [len(each) for each in reference] != [len(each) for each in other]:
        raise SettingsError("the two have not answered the same texts in the same rounds; their times do not pair")
    logs = np.array([np.median(np.log(np.asarray(a) / np.asarray(b))) for a, b in zip(reference, other, strict=True)])
    numbers = np.asarray(process_of)
    return np.exp([logs[numbers == number].mean() for number in dict.fromkeys(process_of)])


def percentile(samples: Sequence[float] | Array, percent: int) -> float | None:
    """Return a percentile; None if there are too few samples for it."""
    return float(np.percentile(samples, percent)) if len(samples) >= MIN_SAMPLES[percent] else None


def tail(rounds: Rounds, percent: int) -> Estimate | None:
    """Return a percentile of all samples with a bootstrap interval that draws whole rounds; None if there are too few.

    Of one round, the interval is the percentile itself.
    """
    value = percentile(np.concatenate([np.asarray(each, dtype=float) for each in rounds]), percent)
    if value is None or len(rounds) < 2:
        return None if value is None else Estimate(value, value, value)
    with requires("intervals of percentiles"):
        from scipy.stats import bootstrap

    def of_drawn(places: NDArray[np.int64]) -> float:
        return float(np.percentile(np.concatenate([rounds[place] for place in places]), percent))

    places = (np.arange(len(rounds)),)
    drawn = bootstrap(places, of_drawn, vectorized=False, n_resamples=RESAMPLES, method="percentile", rng=0)
    return Estimate(value, float(drawn.confidence_interval.low), float(drawn.confidence_interval.high))


def spread(rounds: Rounds) -> float:
    """Return how far the middle four fifths of the rounds' medians are apart, as a share of their median."""
    medians = np.array([np.median(each) for each in rounds])
    low, high = np.percentile(medians, [10, 90])
    return float((high - low) / np.median(medians))


def marks_of(
    rounds: Rounds, *, steady: bool = True, others_processors: float | None = None, stolen_share: float | None = None
) -> list[str]:
    """Return what must be said of a row before its figures; nothing if all is as it should be."""
    apart, marks = spread(rounds), []
    if apart > NOISY_SPREAD:
        marks.append(f"unsteady: its rounds differ by {apart:.0%}")
    if not steady:
        marks.append("not warm: its times had not become steady when the warm-up ended")
    if others_processors is not None and others_processors > BUSY_PROCESSORS:
        marks.append(f"busy machine: other programs took {others_processors:.1f} processors meanwhile")
    if stolen_share is not None and stolen_share > STOLEN_SHARE:
        marks.append(f"stolen time: the host gave {stolen_share:.0%} of the processors' time to others")
    samples = np.concatenate([np.asarray(each, dtype=float) for each in rounds])
    p99 = percentile(samples, 99)
    if p99 is not None and p99 > LONG_TAIL * np.median(samples):
        marks.append(f"long tail: the 99th percentile is {p99 / np.median(samples):.1f} times the median")
    return marks

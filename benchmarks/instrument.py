"""What may be said of samples: medians with bootstrap intervals, paired ratios, percentiles where there are enough.

Pure functions of numbers; measures nothing. The unit of resampling is the round: within one, samples share the machine's
mood.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.errors import SettingsError
from export.measure import MIN_SAMPLES_P90, MIN_SAMPLES_P99, NOISY_SPREAD

RESAMPLES = 2000
MIN_ROUNDS = 8
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


def median_estimate(rounds: Rounds, *, seed: int) -> Estimate:
    """Return the median of all samples; the interval comes from drawing whole rounds with replacement.

    Raises:
        SettingsError: There are fewer than eight rounds.
    """
    _require_rounds(len(rounds))
    samples = _same_length(rounds)
    drawn = _draws(len(rounds), seed)
    if samples is None:
        medians = [np.median(np.concatenate([np.asarray(rounds[index]) for index in draw])) for draw in drawn]
    else:
        medians = [np.median(samples[draw]) for draw in drawn]
    every = np.concatenate([np.asarray(each, dtype=float) for each in rounds])
    low, high = np.percentile(medians, _expanded(len(rounds)))
    return Estimate(float(np.median(every)), float(low), float(high))


def ratio_estimate(reference: Rounds, other: Rounds, *, seed: int) -> Estimate:
    """Return how many times faster `other` is than `reference`, both having answered the same texts in each round.

    Of each round the median over its texts of the ratio of the two times; of those the mean, on the scale of logarithms.

    Args:
        reference: Times by round, text by text.
        other: Times of the same texts.
        seed: Seed of the draws.

    Raises:
        SettingsError: They do not pair, or there are fewer than eight rounds.
    """
    if [len(each) for each in reference] != [len(each) for each in other]:
        raise SettingsError("the two have not answered the same texts in the same rounds; their times do not pair")
    logs = np.array([np.median(np.log(np.asarray(a) / np.asarray(b))) for a, b in zip(reference, other, strict=True)])
    return mean_estimate(logs, seed=seed, seen_as=np.exp)


def mean_estimate(values: Sequence[float] | Array, *, seed: int, seen_as: Callable[[Any], Any] = np.asarray) -> Estimate:
    """Return the mean of one value a round, with its interval, `seen_as` another scale.

    Raises:
        SettingsError: There are fewer than eight rounds.
    """
    _require_rounds(len(values))
    given = np.asarray(values, dtype=float)
    means = given[_draws(len(given), seed)].mean(axis=1)
    low, high = np.percentile(means, _expanded(len(given)))
    return Estimate(float(seen_as(given.mean())), float(seen_as(low)), float(seen_as(high)))


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


def _expanded(rounds: int) -> tuple[float, float]:
    """Return the percentiles that make an interval of 95 % from few rounds.

    A bootstrap of n draws varies (n - 1) / n as much as the data, and knows nothing of Student's t: the percentiles are
    widened for both (Hesterberg, 2015, "What Teachers Should Know About the Bootstrap", section 4.2).
    """
    from scipy import stats

    tail = float(stats.norm.cdf(np.sqrt(rounds / (rounds - 1)) * stats.t.ppf(0.025, rounds - 1)))
    return 100 * tail, 100 * (1 - tail)


def _draws(rounds: int, seed: int) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, rounds, (RESAMPLES, rounds))


def _same_length(rounds: Rounds) -> Array | None:
    return np.array(rounds, dtype=float) if len({len(each) for each in rounds}) == 1 else None


def _require_rounds(rounds: int) -> None:
    if rounds < MIN_ROUNDS:
        raise SettingsError(f"an interval needs at least {MIN_ROUNDS} rounds, got {rounds}; give --rounds {MIN_ROUNDS} or more")

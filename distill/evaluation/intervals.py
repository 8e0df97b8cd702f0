"""95 % intervals: of figures over several seeds and one set of test texts, of one macro-F1, of a share.

A `Bootstrap` computes every figure of every arm on the same texts, the same resamples of them, and seed by seed.
Arithmetic on figures keeps these pairs:

    bootstrap = Bootstrap(labels, num_labels=2, num_seeds=3)
    gain = (bootstrap.macro_f1(student) - bootstrap.macro_f1(control)).estimate()
    kept = (bootstrap.macro_f1(student) / bootstrap.macro_f1(teacher)).estimate()

Knows nothing of models or training. `benchmarks/harness/interval_simulation.py` measures how often they contain the true value.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.errors import DatasetError, SettingsError, requires
from distill.labels import task_of_labels

SAMPLES = 2000
MACRO_F1_SAMPLES = 1000

OfCounts = Callable[..., NDArray[np.float64]]
"""A metric of the arguments of `macro_f1_of_counts`: hits, true, given."""

_CHUNK_VALUES = 8 * 2**20  # draws in memory at a time


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Figure:
    """A figure of each seed; the figure itself is their mean.

    Attributes:
        seeds: As observed, shape (seeds,).
        draws: In each resample of the texts, shape (samples, seeds).
        is_share: Whether the figure is between 0 and 1, so that its interval is, too.
    """

    seeds: NDArray[np.float64]
    draws: NDArray[np.float64]
    is_share: bool = False

    @property
    def value(self) -> float:
        """The mean over seeds, as observed."""
        return float(self.seeds.mean())

    @property
    def samples(self) -> NDArray[np.float64]:
        """The mean over seeds in each resample of the texts, shape (samples,)."""
        means: NDArray[np.float64] = self.draws.mean(axis=1)
        return means

    def __sub__(self, other: Figure) -> Figure:
        """Return the difference, paired by seed and resample."""
        return Figure(self.seeds - other.seeds, self.draws - other.draws)

    def __truediv__(self, other: Figure) -> Figure:
        """Return the ratio of means; the divisor must not be 0 in any resample.

        A seed's part in it is linear (the delta method), so that the mean over seeds is the ratio of the means.
        """
        return Figure(_ratio(self.seeds, other.seeds), _ratio(self.draws, other.draws))

    def estimate(self) -> Estimate:
        """Return the figure with its 95 % interval: distances sqrt(t^2 * seed variance + text distance^2) from the mean.

        Seed variance is that of the mean: s^2 / S, from the spread s of the S seeds' figures, and t is Student's with
        S - 1 degrees of freedom. A bootstrap over seeds is too narrow: 3 seeds cannot show how far a fourth may lie.

        Text distances are those of the 2.5 % and 97.5 % percentiles of the bootstrap over texts. How the texts interact
        with a seed is in both parts, because it also makes the seeds' figures differ. So the text distances are scaled to the
        covariance between seeds, which excludes the interaction.

        With one seed the interval is over texts alone. The interval of a share is clipped to 0 and 1.
        """
        low, high = np.percentile(self.samples, [2.5, 97.5])
        below, above = max(0.0, self.value - low), max(0.0, high - self.value)
        num_seeds = len(self.seeds)
        if num_seeds == 1:
            return Estimate(self.value, self.value - below, self.value + above)
        with requires("intervals over seeds"):
            from scipy.stats import t
        seed_part = t.ppf(0.975, num_seeds - 1) ** 2 * self.seeds.var(ddof=1) / num_seeds
        together = self.samples.var()
        apart = self.draws.var(axis=0).mean()  # together = covariance + (apart - covariance) / S
        covariance = max(0.0, (num_seeds * together - apart) / (num_seeds - 1))
        shared = covariance / together if together else 0.0
        lower, upper = np.sqrt(seed_part + shared * np.square((below, above)))
        ends = np.clip((self.value - lower, self.value + upper), *((0, 1) if self.is_share else (-np.inf, np.inf)))
        # Rounded, so that the last bits do not move an end of exactly 0 past it.
        return Estimate(self.value, *(round(float(end), 12) for end in ends))


def _ratio(above: NDArray[np.float64], below: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each seed's part in mean(above) / mean(below), over the last axis."""
    divisor: NDArray[np.float64] = below.mean(axis=-1, keepdims=True)
    ratio: NDArray[np.float64] = above.mean(axis=-1, keepdims=True) / divisor
    return ratio + (above - ratio * below) / divisor


def mean_estimate(values: Sequence[float] | NDArray[np.float64]) -> Estimate:
    """Return the mean of one value a run with Student's t interval; of one run, or of equal values, the mean itself."""
    given = np.asarray(values, dtype=float)
    mean = float(given.mean())
    if not np.ptp(given):
        return Estimate(mean, mean, mean)
    with requires("intervals over seeds"):
        from scipy.stats import ttest_1samp
    interval = ttest_1samp(given, 0.0).confidence_interval(0.95)
    return Estimate(mean, float(interval.low), float(interval.high))


class Bootstrap:
    """Resamples of one set of texts, shared by all seeds of all arms that answered them."""

    def __init__(
        self, labels: NDArray[np.int64], *, num_labels: int, num_seeds: int, seed: int = 0, samples: int = SAMPLES
    ) -> None:
        """Fix the resamples; the texts are drawn on demand, the same each time.

        Args:
            labels: True class ids, shape (texts,), or zeros and ones, shape (texts, labels).
            num_labels: Number of labels.
            num_seeds: Training runs of each arm.
            seed: Seed of the draws.
            samples: Number of resamples.

        Raises:
            DatasetError: There is no text.
            SettingsError: There is no run.
        """
        if not len(labels):
            raise DatasetError("no texts to compare on; name labelled texts with --test FILE")
        if num_seeds < 1:
            raise SettingsError(f"num_seeds must be at least 1, got {num_seeds}")
        self.num_seeds = num_seeds
        self._task = task_of_labels(labels)
        self._labels_shape = labels.shape
        self._true = self._task.indicator(labels, num_labels)
        self._samples = samples
        self._seed = seed

    def macro_f1(self, predicted: NDArray[np.int64]) -> Figure:
        """Return the mean macro-F1 of an arm over its seeds.

        Args:
            predicted: Class ids, shape (seeds, texts), or zeros and ones, shape (seeds, texts, labels). A single run, such as
                that of the teacher, may leave out the first axis and is used for every seed.

        Raises:
            SettingsError: The shape is different.
        """
        return self.share_of_counts(predicted, macro_f1_of_counts)

    def share_of_counts(self, predicted: NDArray[np.int64], of_counts: OfCounts) -> Figure:
        """Return the mean over seeds of a metric from 0 to 1 that follows from counts by label.

        Args:
            predicted: As for `macro_f1`.
            of_counts: The metric, called like `macro_f1_of_counts`.
        """
        given = self._runs(predicted)
        hits = given & self._true
        return Figure(
            of_counts(hits=hits.sum(axis=1), true=self._true.sum(axis=0), given=given.sum(axis=1)),
            of_counts(hits=self._resampled_sums(hits), true=self._resampled_true, given=self._resampled_sums(given)),
            is_share=True,
        )

    def agreement(self, first: NDArray[np.int64], second: NDArray[np.int64]) -> Figure:
        """Return the mean share of texts with equal predictions of two arms, seed by seed.

        In multi-label data it is the share of (text, label) pairs. Both arguments are as for `macro_f1`.
        """
        same = self._task.equal(self._runs(first), self._runs(second))
        return Figure(same.mean(axis=(1, 2)), self._resampled_sums(same).mean(axis=2) / len(self._true), is_share=True)

    def _runs(self, predicted: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which labels each run predicts for each text, shape (seeds, texts, labels)."""
        wanted = (self.num_seeds, *self._labels_shape)
        if predicted.shape == self._labels_shape:
            predicted = np.broadcast_to(predicted, wanted)
        if predicted.shape != wanted:
            raise SettingsError(f"predictions have shape {predicted.shape}, expected {wanted}: seeds, then texts")
        return self._task.indicator(predicted, self._true.shape[1])

    @cached_property
    def _resampled_true(self) -> NDArray[np.float64]:
        return self._resampled_sums(self._true[None])

    def _resampled_sums(self, values: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Sum over the drawn texts; from shape (seeds, texts, columns) to (samples, seeds, columns)."""
        runs, texts, columns = values.shape
        flat = values.transpose(1, 0, 2).reshape(texts, runs * columns).astype(np.float32)
        # float32 is exact: sums of 0 and 1 below 2^24.
        sums = np.concatenate([weights @ flat for weights in self._text_weights()])
        return sums.reshape(self._samples, runs, columns).astype(np.float64)

    def _text_weights(self) -> Iterator[NDArray[np.float32]]:
        """Yield how often each text is drawn, shape (some samples, texts); the same at each call."""
        texts = len(self._true)
        generator = np.random.default_rng([self._seed, 0])
        step = max(1, _CHUNK_VALUES // texts)
        for start in range(0, self._samples, step):
            count = min(step, self._samples - start)
            rows = generator.integers(0, texts, (count, texts)) + texts * np.arange(count)[:, None]
            yield np.bincount(rows.ravel(), minlength=count * texts).reshape(count, texts).astype(np.float32)


def macro_f1_interval(true: NDArray[np.bool_], given: NDArray[np.bool_], *, seed: int) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of macro-F1 over texts (1,000 resamples, percentile method).

    Args:
        true: Which labels each text has, shape (texts, labels).
        given: Which labels are predicted; same shape.
        seed: Seed of the resamples.
    """
    # Drawing texts with replacement is drawing the number of texts of each kind: one multinomial draw per resample.
    kinds, counts = np.unique(np.hstack([true, given]), axis=0, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(len(true), counts / len(true), size=MACRO_F1_SAMPLES).astype(np.float64)
    had, got = np.hsplit(kinds, 2)
    scores = macro_f1_of_counts(hits=drawn @ (had & got), true=drawn @ had, given=drawn @ got)
    low, high = np.percentile(scores, [2.5, 97.5]).tolist()
    return low, high


def macro_f1_of_counts(*, hits: NDArray[Any], true: NDArray[Any], given: NDArray[Any]) -> NDArray[np.float64]:
    """Return the mean over labels of F1 = 2 hits / (true + given), 0 for a label that no text has and none is given.

    Args:
        hits: Number of texts that have a label and are given it, shape (..., labels).
        true: Number of texts that have it; same shape.
        given: Number of texts that are given it; same shape.
    """
    either = true + given
    f1 = np.divide(2 * hits, either, out=np.zeros(np.shape(hits)), where=either > 0)
    means: NDArray[np.float64] = f1.mean(axis=-1)
    return means


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of a share observed in `count` trials (Wilson, 1927)."""
    with requires("intervals of shares"):
        from scipy.stats import binomtest
    interval = binomtest(round(share * count), count).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def share_bound(hits: int, count: int, *, confidence: float) -> float:
    """Return the lower Clopper-Pearson bound of a share: with this confidence, the true share is at least that."""
    with requires("bounds of shares"):
        from scipy.stats import binomtest
    return float(binomtest(hits, count, alternative="greater").proportion_ci(confidence, method="exact").low)


def most_misses(count: int, share: float, *, confidence: float) -> int:
    """Return how many misses in `count` trials still bound the share of hits at this one or above; -1 where none do."""
    return (
        bisect_left(range(count + 1), 1, key=lambda misses: share_bound(count - misses, count, confidence=confidence) < share)
        - 1
    )

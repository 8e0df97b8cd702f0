"""Whether one way of training is better than another: figures over several seeds and one set of test texts.

A `Bootstrap` draws texts and seeds with replacement, once; every figure of every arm is computed on the same draws, so
the difference of two figures is a paired one. Arithmetic on figures keeps the pairs:

    bootstrap = Bootstrap(labels, num_labels=2, num_seeds=3)
    gain = (bootstrap.macro_f1(student) - bootstrap.macro_f1(control)).estimate()
    kept = (bootstrap.macro_f1(student) / bootstrap.macro_f1(teacher)).estimate()

numpy only; knows no model, and nothing of how an arm was trained.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.errors import DatasetError, SettingsError
from distill.evaluation.metrics import macro_f1_of_counts
from distill.labels import indicator

SAMPLES = 2000

_CHUNK_VALUES = 8 * 2**20  # draws in memory at a time


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Figure:
    """A figure as observed, and what it is in each resample, shape (samples,)."""

    value: float
    samples: NDArray[np.float64]

    def __sub__(self, other: Figure) -> Figure:
        return Figure(self.value - other.value, self.samples - other.samples)

    def __truediv__(self, other: Figure) -> Figure:
        """Return the ratio of means; the divisor must not be 0 in any resample."""
        return Figure(self.value / other.value, self.samples / other.samples)

    def estimate(self) -> Estimate:
        """Return the figure with its 95 % percentile interval."""
        low, high = np.percentile(self.samples, [2.5, 97.5])
        return Estimate(self.value, float(low), float(high))


def mean_of(figures: Sequence[Figure]) -> Figure:
    """Return the mean of figures of one bootstrap, draw by draw.

    Raises:
        SettingsError: There is none.
    """
    if not figures:
        raise SettingsError("the mean of no figures is nothing; name at least one")
    return Figure(float(np.mean([figure.value for figure in figures])), np.mean([figure.samples for figure in figures], axis=0))


class Bootstrap:
    """Resamples of one set of texts and of the seeds, shared by all arms that answered them.

    A resample draws texts, the same for every seed, and seeds, the same for every arm (crossed factors, each drawn on its
    own; Owen, 2007, "The pigeonhole bootstrap"). The mean of S seeds drawn with replacement varies only (S - 1) / S as much
    as the mean of S new seeds, a third too little at S = 3, so its deviation is scaled by sqrt(S / (S - 1)) (Davison and
    Hinkley, 1997, "Bootstrap methods and their application"). With one seed the interval tells of the texts alone.
    """

    def __init__(
        self, labels: NDArray[np.int64], *, num_labels: int, num_seeds: int, seed: int = 0, samples: int = SAMPLES
    ) -> None:
        """Draw the seeds; the texts are drawn on demand, the same each time.

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
            raise DatasetError("there is no text to compare on; name labelled ones with --test FILE")
        if num_seeds < 1:
            raise SettingsError(f"num_seeds must be at least 1, got {num_seeds}")
        self.num_seeds = num_seeds
        self._one_label_a_text = labels.ndim == 1
        self._true = indicator(labels, num_labels)
        self._samples = samples
        self._seed = seed
        drawn = np.random.default_rng([seed, 1]).integers(0, num_seeds, (samples, num_seeds))
        shares = (drawn[:, :, None] == np.arange(num_seeds)).mean(axis=1)
        inflated = np.sqrt(num_seeds / (num_seeds - 1)) if num_seeds > 1 else 1.0
        self._seed_weights = 1 / num_seeds + inflated * (shares - 1 / num_seeds)  # shape (samples, seeds); rows sum to 1

    def macro_f1(self, predicted: NDArray[np.int64]) -> Figure:
        """Return the mean macro-F1 of an arm over its seeds.

        Args:
            predicted: Class ids, shape (seeds, texts), or zeros and ones, shape (seeds, texts, labels). One run that
                stands for every seed, such as a single teacher, may come without the first axis.

        Raises:
            SettingsError: The shape is another.
        """
        given = self._runs(predicted)
        hits = given & self._true
        observed = macro_f1_of_counts(hits=hits.sum(axis=1), true=self._true.sum(axis=0), given=given.sum(axis=1))
        resampled = macro_f1_of_counts(
            hits=self._resampled_sums(hits), true=self._resampled_sums(self._true[None]), given=self._resampled_sums(given)
        )
        return self._over_seeds(observed, resampled)

    def agreement(self, first: NDArray[np.int64], second: NDArray[np.int64]) -> Figure:
        """Return the mean share of equal answers of two arms, seed by seed.

        Of texts; with several labels a text, of (text, label) decisions. Both as for `macro_f1`.
        """
        same = self._runs(first) == self._runs(second)
        if self._one_label_a_text:
            same = same.all(axis=2, keepdims=True)
        return self._over_seeds(same.mean(axis=(1, 2)), self._resampled_sums(same).mean(axis=2) / len(self._true))

    def _runs(self, predicted: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which labels each run gives each text, shape (seeds, texts, labels)."""
        texts, num_labels = self._true.shape
        wanted = (self.num_seeds, texts) if self._one_label_a_text else (self.num_seeds, texts, num_labels)
        if predicted.shape == wanted[1:]:
            predicted = np.broadcast_to(predicted, wanted)
        if predicted.shape != wanted:
            raise SettingsError(f"predictions have shape {predicted.shape}, wanted {wanted}: seeds, then texts")
        given: NDArray[np.bool_] = (
            predicted[:, :, None] == np.arange(num_labels) if self._one_label_a_text else predicted.astype(bool)
        )
        return given

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

    def _over_seeds(self, observed: NDArray[Any], resampled: NDArray[Any]) -> Figure:
        """Average over seeds: observed (seeds,), resampled (samples, seeds)."""
        return Figure(float(observed.mean()), (self._seed_weights * resampled).sum(axis=1))


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of a share seen in `count` trials (Wilson, 1927)."""
    z = 1.959964
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return max(0.0, centre - half), min(1.0, centre + half)

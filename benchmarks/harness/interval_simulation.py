"""How often the intervals over seeds and texts contain the true value, and how wide they are: a simulation."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from statistics import NormalDist
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from distill.evaluation.intervals import Bootstrap

Mix = Literal["seeds", "equal", "texts"]
"""Where the variance of a figure comes from."""

SEED_TO_TEXT: Final[dict[Mix, float]] = {"seeds": 10.0, "equal": 1.0, "texts": 0.1}
"""Variance of the mean over seeds that is due to the seeds, divided by that due to the texts."""

FigureName = Literal["macro_f1", "gain", "retention"]
COMBINED: Final[dict[FigureName, Callable[[Any, Any], Any]]] = {
    "macro_f1": lambda first, _: first,
    "gain": operator.sub,
    "retention": operator.truediv,
}
"""The figure of two arms: macro-F1 of the first, its difference to the second's, or its ratio to the second's."""

NORMAL = NormalDist()

EASE = (3.3, 2.8)  # of the two arms: about 85 and 81 % of the texts are right
EASE_SPREAD = 3.0  # between texts, where a run's own chance at a text has 1: runs of one arm mostly err on the same texts
COMMON_EASE = 0.8  # share of the spread that both arms have in common


class Coverage(NamedTuple):
    """What one cell of the simulation found.

    Attributes:
        coverage: Share of the nominal 95 % intervals that hold the truth.
        width_ratio: Mean width, divided by that of an oracle that knows `spread`: 2 * 1.96 * spread.
        spread: Standard deviation of the figure over the trials.
    """

    coverage: float
    width_ratio: float
    spread: float


def simulated_coverage(
    num_seeds: int,
    mix: Mix,
    *,
    figure: FigureName = "gain",
    trials: int = 1000,
    texts: int = 500,
    samples: int = 200,
    seed: int = 0,
) -> Coverage:
    """Draw two arms on new texts and with new seeds in each trial, and look whether the interval holds the truth.

    A run is right on a text where ease of the text + skill of the run + chance > 0, all three normal; the truth is exact.

    Args:
        num_seeds: Seeds of each arm, paired.
        mix: Whether seeds or texts make most of the variance.
        figure: Which is estimated.
        trials: Number of intervals.
        texts: Texts of a trial.
        samples: Resamples of an interval.
        seed: Seed of everything drawn.
    """
    generator = np.random.default_rng([seed, num_seeds, texts])
    skill_spread = _skill_spread(num_seeds, SEED_TO_TEXT[mix], figure=figure, texts=texts)
    truth = COMBINED[figure](*_accuracies(skill_spread))
    estimates = []
    for trial in range(trials):
        labels = generator.integers(0, 2, texts)
        bootstrap = Bootstrap(labels, num_labels=2, num_seeds=num_seeds, seed=trial, samples=samples)
        right = _right(generator, num_seeds, texts, skill_spread)
        arms = [bootstrap.macro_f1(np.where(arm, labels, 1 - labels)) for arm in right]
        estimates.append(COMBINED[figure](*arms).estimate())
    low, value, high = np.array([(each.low, each.value, each.high) for each in estimates]).T
    spread = float(value.std(ddof=1))
    return Coverage(
        coverage=float(np.mean((low <= truth) & (truth <= high))),
        width_ratio=float((high - low).mean() / (2 * NORMAL.inv_cdf(0.975) * spread)),
        spread=spread,
    )


def _right(generator: np.random.Generator, num_seeds: int, texts: int, skill_spread: float) -> list[NDArray[np.bool_]]:
    """Return for each arm which runs are right on which texts, shape (seeds, texts)."""
    common = generator.normal(size=texts)
    arms = []
    for ease in EASE:
        spread = np.sqrt(COMMON_EASE) * common + np.sqrt(1 - COMMON_EASE) * generator.normal(size=texts)
        skill = generator.normal(0, skill_spread, (num_seeds, 1))
        arms.append(ease + EASE_SPREAD * spread + skill + generator.normal(size=(num_seeds, texts)) > 0)
    return arms


def _accuracies(skill_spread: float) -> list[float]:
    """Return the true accuracy of each arm; labels are balanced and errors symmetric, so it is the true macro-F1."""
    spread = math.sqrt(EASE_SPREAD**2 + skill_spread**2 + 1)
    return [NORMAL.cdf(ease / spread) for ease in EASE]


def _skill_spread(num_seeds: int, seed_to_text: float, *, figure: FigureName, texts: int) -> float:
    """Return the spread of skill under which the variance due to seeds is `seed_to_text` times that due to texts."""
    first, second = _accuracies(0.0)
    # How the figure and each arm's accuracy change with small changes of accuracy and skill.
    weights = {"macro_f1": (1.0, 0.0), "gain": (1.0, -1.0), "retention": (1.0, -first / second)}[figure]
    spread = math.sqrt(EASE_SPREAD**2 + 1)
    slopes = [weight * NORMAL.pdf(ease / spread) / spread for weight, ease in zip(weights, EASE, strict=True)]
    runs = np.tensordot(weights, _right(np.random.default_rng(1), 2, 100_000, 0.0), axes=1)
    text_variance = np.cov(runs)[0, 1] / texts  # two runs have the texts in common, and nothing else
    return float(np.sqrt(seed_to_text * text_variance * num_seeds / np.sum(np.square(slopes))))

"""Which form to deploy: budgets, which scores count as equal, and what is preferred among equals.

Pure functions over forms and scores; they know no model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from distill.evaluation.intervals import Figure
from distill.settings import Unsure
from export.fitting.reporting.result import Budget
from export.settings import Prefer

MEGABYTE: Final = 1_000_000

EQUAL_WITHIN: Final = 0.005
"""A form is not traded for a faster one that scores lower by more, even where the texts are too few to be sure."""

NEAR_WITHIN: Final = 0.005
"""In nats: a form that is farther from the teacher by less is as near, however sure the difference is."""


@dataclass(frozen=True)
class Costs:
    """What a form takes: the median milliseconds of one text, and the bytes to ship."""

    ms: float
    size_bytes: int


def exceeded(costs: Costs, budget: Budget) -> tuple[str, ...]:
    """Return the budgets of time and size that a form does not keep."""
    over_ms = budget.max_ms is not None and costs.ms > budget.max_ms
    over_mb = budget.max_mb is not None and costs.size_bytes > budget.max_mb * MEGABYTE
    return ("max_ms",) * over_ms + ("max_mb",) * over_mb


def nearest(costs: Mapping[str, Costs], budget: Budget) -> tuple[str, ...]:
    """Return the forms that come nearest to a budget that none keeps: the fastest and the smallest, each once."""
    fastest = min(costs, key=lambda name: costs[name].ms)
    smallest = min(costs, key=lambda name: costs[name].size_bytes)
    wanted = {"max_ms": fastest, "max_mb": smallest}
    binding = [name for name in wanted if any(name in exceeded(each, budget) for each in costs.values())]
    return tuple(dict.fromkeys(wanted[name] for name in binding))


def survivors(scores: Mapping[str, float], speeds: Mapping[str, float], *, keep: int) -> tuple[str, ...]:
    """Return the best of a round of successive halving, from the best; of equal scores the faster.

    Args:
        scores: Validation score by recipe.
        speeds: Milliseconds by recipe.
        keep: How many stay.
    """
    return tuple(sorted(scores, key=lambda name: (-scores[name], speeds[name]))[:keep])


@dataclass(frozen=True, eq=False)
class Validated:
    """How good a form is on the validation texts; figures of several forms are from one bootstrap.

    Attributes:
        score: By the metric of the run.
        distances: Cross-entropy of its probabilities from the teacher's, both calibrated, in nats, shape (texts,).
        kept: Share of the teacher's macro-F1, whatever the metric is.
    """

    score: Figure
    distances: NDArray[np.float64]
    kept: float


def broken(form: Validated, costs: Costs, budget: Budget) -> tuple[str, ...]:
    """Return the budgets that a trained form does not keep."""
    keeps_too_little = budget.min_kept is not None and form.kept < budget.min_kept
    return exceeded(costs, budget) + ("min_kept",) * keeps_too_little


def chosen(forms: Mapping[str, Validated], costs: Mapping[str, Costs], prefer: Prefer) -> str:
    """Return the form to deploy.

    Among the forms that count as equal to the best, the fastest or the smallest; with `quality`, the best.

    Args:
        forms: What the validation texts say of each.
        costs: What each takes, as measured.
        prefer: What decides among equals.
    """
    best = best_form(forms, costs)
    if prefer == "quality":
        return best
    equals = [name for name in forms if are_equal(forms[best], forms[name])]
    by: Callable[[str], tuple[float, float]] = (
        (lambda name: (costs[name].ms, costs[name].size_bytes))
        if prefer == "speed"
        else (lambda name: (costs[name].size_bytes, costs[name].ms))
    )
    return min(equals, key=by)


def best_form(forms: Mapping[str, Validated], costs: Mapping[str, Costs]) -> str:
    """Return the nearest to the teacher of the forms whose score is at most one standard error below the highest.

    Of two good students, a wrong label counts for one and against the other by chance. What the teacher thinks of a text does
    not, and its probabilities say more of each text than a label.
    """
    highest = max(forms.values(), key=lambda form: form.score.value)
    good = [name for name, form in forms.items() if is_at_most_one_error(highest.score - form.score)]
    return min(good, key=lambda name: (forms[name].distances.mean(), costs[name].ms))


def are_equal(best: Validated, other: Validated) -> bool:
    """Return whether nothing says that a form is worse than the best.

    Its score is lower by at most `EQUAL_WITHIN` and one standard error, and its distance from the teacher is larger by at most
    `NEAR_WITHIN` or one standard error, paired over texts.
    """
    score, farther = best.score - other.score, other.distances - best.distances
    is_as_near = farther.mean() <= max(NEAR_WITHIN, farther.std() / np.sqrt(len(farther)))
    return score.value <= EQUAL_WITHIN and is_at_most_one_error(score) and bool(is_as_near)


def is_at_most_one_error(difference: Figure) -> bool:
    """Return whether a difference of two figures is at most its standard error."""
    return difference.value <= standard_error(difference)


def standard_error(difference: Figure) -> float:
    """Return the standard error over texts of a difference of figures of one bootstrap, which are paired."""
    return float(difference.samples.std())


def way_of_unsure(figures: Mapping[Unsure, Figure]) -> Unsure:
    """Return the way with the best score among those that beat `keep` by more than one standard error, paired over texts.

    Args:
        figures: Of one student, taught each way, from one bootstrap.
    """
    gains = {way: figure - figures["keep"] for way, figure in figures.items()}
    better = [way for way, gain in gains.items() if not is_at_most_one_error(gain)]
    return max(better, key=lambda way: gains[way].value, default="keep")

"""Which form to deploy: budgets, which scores count as equal, and what is preferred among equals.

Pure functions over forms and scores; they know no model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from distill.evaluation.intervals import Figure
from distill.settings import Unsure
from export.fitting.reporting.result import Budget
from export.settings import Prefer

MEGABYTE: Final = 1_000_000

EQUAL_WITHIN: Final = 0.005
"""A form is not traded for a faster one that scores lower by more, even where the texts are too few to be sure."""


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


@dataclass(frozen=True)
class Validated:
    """How good a form is on the validation texts; figures of several forms are from one bootstrap.

    Attributes:
        score: By the metric of the run.
        agreement: How often it decides as the teacher does.
        kept: Share of the teacher's macro-F1, whatever the metric is.
    """

    score: Figure
    agreement: Figure
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
    best = max(forms, key=lambda name: (forms[name].score.value, -costs[name].ms))
    if prefer == "quality":
        return best
    equals = [name for name in forms if are_equal(forms[best], forms[name])]
    by: Callable[[str], tuple[float, float]] = (
        (lambda name: (costs[name].ms, costs[name].size_bytes))
        if prefer == "speed"
        else (lambda name: (costs[name].size_bytes, costs[name].ms))
    )
    return min(equals, key=by)


def are_equal(best: Validated, other: Validated) -> bool:
    """Return whether nothing says that a form is worse than the best.

    Its score is lower by at most `EQUAL_WITHIN`, and score and agreement by at most one standard error, paired over texts. The
    agreement tells forms apart that the score cannot: a wrong label counts for one form and against the other by chance,
    what the teacher decides does not.
    """
    score, agreement = best.score - other.score, best.agreement - other.agreement
    return score.value <= EQUAL_WITHIN and all(each.value <= standard_error(each) for each in (score, agreement))


def standard_error(difference: Figure) -> float:
    """Return the standard error over texts of a difference of figures of one bootstrap, which are paired."""
    return float(difference.samples.std())


def way_of_unsure(figures: Mapping[Unsure, Figure]) -> Unsure:
    """Return the way with the best score among those that beat `keep` by more than one standard error, paired over texts.

    Args:
        figures: Of one student, taught each way, from one bootstrap.
    """
    gains = {way: figure - figures["keep"] for way, figure in figures.items()}
    better = [way for way, gain in gains.items() if gain.value > standard_error(gain)]
    return max(better, key=lambda way: gains[way].value, default="keep")

"""Which form is chosen: budgets, equal scores, what is preferred, and who survives a round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from distill.evaluation.intervals import Figure
from export.fitting.choose import Costs, Validated, broken, chosen, exceeded, nearest, survivors
from export.fitting.reporting.result import Budget
from export.settings import Prefer

COSTS = {"static": Costs(0.1, 8_000_000), "narrow": Costs(0.3, 3_000_000), "2-layers": Costs(0.8, 7_000_000)}


Forms = Mapping[str, Validated]


def figure(value: float, *, spread: float) -> Figure:
    """Return a score that is `spread` lower in one resample of the texts and higher in another."""
    return Figure(np.array([value]), np.array([[value - spread], [value + spread]]))


def forms(static: float, narrow: float, two: float, *, spread: float, agreements: Sequence[float] = (0.9, 0.9, 0.9)) -> Forms:
    """Return forms of which only the scores of 2-layers change with the texts, so that every difference has this error."""
    scores = (figure(static, spread=0), figure(narrow, spread=0), figure(two, spread=spread))
    agreement = (figure(agreements[0], spread=0), figure(agreements[1], spread=0), figure(agreements[2], spread=0.01))
    return {name: Validated(score, agreed, 1.0) for name, score, agreed in zip(COSTS, scores, agreement, strict=True)}


@pytest.mark.parametrize(
    ("prefer", "spread", "expected"),
    [
        ("speed", 0.002, "2-layers"),  # narrow is 0.003 below the best, more than an error
        ("speed", 0.004, "narrow"),
        ("speed", 0.2, "narrow"),  # static is 0.006 below: too much, however unsure it is
        ("size", 0.004, "narrow"),
        ("quality", 0.2, "2-layers"),
    ],
)
def test_among_equals_the_preferred_is_chosen(prefer: Prefer, spread: float, expected: str) -> None:
    assert chosen(forms(0.794, 0.797, 0.8, spread=spread), COSTS, prefer) == expected


def test_speed_and_size_differ_in_what_they_choose_among_equals() -> None:
    near = forms(0.796, 0.797, 0.8, spread=0.2)
    assert [chosen(near, COSTS, prefer) for prefer in ("speed", "size", "quality")] == ["static", "narrow", "2-layers"]


def test_a_form_that_agrees_less_with_the_teacher_is_not_equal() -> None:
    # One error of the agreement is 0.01: static is two below, narrow one.
    assert (
        chosen(forms(0.8, 0.8, 0.8, spread=0.2, agreements=(0.88, 0.8901, 0.9)), COSTS, "speed") == "static"
    )  # it is the best
    assert chosen(forms(0.799, 0.8, 0.801, spread=0.2, agreements=(0.88, 0.8901, 0.9)), COSTS, "speed") == "narrow"
    assert chosen(forms(0.799, 0.8, 0.801, spread=0.2, agreements=(0.95, 0.8, 0.9)), COSTS, "speed") == "static"


def test_a_budget_is_exceeded_above_it_only() -> None:
    costs = Costs(0.5, 4_000_000)
    assert exceeded(costs, Budget()) == ()
    assert exceeded(costs, Budget(max_ms=0.5, max_mb=4.0)) == ()
    assert exceeded(costs, Budget(max_ms=0.49, max_mb=4.0)) == ("max_ms",)
    assert exceeded(costs, Budget(max_ms=0.49, max_mb=3.9)) == ("max_ms", "max_mb")


def test_a_trained_form_breaks_the_budgets_of_its_costs_and_of_what_it_keeps() -> None:
    exact = figure(0.8, spread=0)
    form = Validated(exact, exact, kept=0.96)
    assert broken(form, Costs(0.5, 4_000_000), Budget(max_ms=0.4, max_mb=4.0, min_kept=0.97)) == ("max_ms", "min_kept")
    assert broken(form, Costs(0.5, 4_000_000), Budget(max_ms=0.5, min_kept=0.96)) == ()


def test_what_comes_nearest_is_fastest_or_smallest_by_the_budget_that_binds() -> None:
    assert nearest(COSTS, Budget(max_ms=0.05)) == ("static",)
    assert nearest(COSTS, Budget(max_mb=2.0)) == ("narrow",)
    assert nearest(COSTS, Budget(max_ms=0.05, max_mb=2.0)) == ("static", "narrow")


def test_the_best_survive_and_of_equal_ones_the_faster() -> None:
    speeds = {name: each.ms for name, each in COSTS.items()}
    assert survivors({"static": 0.7, "narrow": 0.8, "2-layers": 0.8}, speeds, keep=2) == ("narrow", "2-layers")
    assert survivors({"static": 0.9, "narrow": 0.8, "2-layers": 0.8}, speeds, keep=2) == ("static", "narrow")

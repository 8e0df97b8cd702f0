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


def forms(static: float, narrow: float, two: float, *, spread: float, farther: Sequence[float] = (0.002, 0.001, 0)) -> Forms:
    """Return forms of which only the scores of 2-layers change with the texts, so that every difference has this error.

    Of 16 texts, half are 0.08 farther from the teacher and half nearer than `farther` says, but for 2-layers: a mean
    difference from it has a standard error of 0.02.
    """
    scores = (figure(static, spread=0), figure(narrow, spread=0), figure(two, spread=spread))
    texts = (np.array([0.08, -0.08] * 8), np.array([0.08, -0.08] * 8), np.zeros(16))
    distances = [0.4 + more + each for more, each in zip(farther, texts, strict=True)]
    return {name: Validated(score, each, 1.0) for name, score, each in zip(COSTS, scores, distances, strict=True)}


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


@pytest.mark.parametrize(
    ("farther", "expected"),
    [
        ((0.019, 0.019, 0), "static"),  # one error is 0.02
        ((0.021, 0.019, 0), "narrow"),
        ((0.021, 0.021, 0), "2-layers"),
        ((0.0, 0.021, 0.001), "static"),  # the nearest
    ],
)
def test_a_form_that_is_farther_from_the_teacher_is_not_equal(farther: Sequence[float], expected: str) -> None:
    assert chosen(forms(0.8, 0.8, 0.8, spread=0.2, farther=farther), COSTS, "speed") == expected


def test_the_best_is_the_nearest_to_the_teacher_of_those_within_an_error_of_the_highest_score() -> None:
    farther = (0.0, 0.1, 0.2)
    assert chosen(forms(0.79, 0.795, 0.8, spread=0.006, farther=farther), COSTS, "quality") == "narrow"
    assert chosen(forms(0.79, 0.795, 0.8, spread=0.011, farther=farther), COSTS, "quality") == "static"
    assert chosen(forms(0.79, 0.795, 0.8, spread=0.004, farther=farther), COSTS, "quality") == "2-layers"


def test_a_small_distance_counts_for_nothing_however_sure_it_is() -> None:
    wide, narrow = (Validated(figure(0.8, spread=0), np.full(9, 0.4 + more), 1.0) for more in (0.0, 0.004))
    costs = {"narrow/int8": Costs(0.3, 5_000_000), "narrow/int4": Costs(0.3, 3_000_000)}
    assert chosen({"narrow/int8": wide, "narrow/int4": narrow}, costs, "size") == "narrow/int4"
    far = Validated(figure(0.8, spread=0), np.full(9, 0.406), 1.0)
    assert chosen({"narrow/int8": wide, "narrow/int4": far}, costs, "size") == "narrow/int8"


def test_a_budget_is_exceeded_above_it_only() -> None:
    costs = Costs(0.5, 4_000_000)
    assert exceeded(costs, Budget()) == ()
    assert exceeded(costs, Budget(max_ms=0.5, max_mb=4.0)) == ()
    assert exceeded(costs, Budget(max_ms=0.49, max_mb=4.0)) == ("max_ms",)
    assert exceeded(costs, Budget(max_ms=0.49, max_mb=3.9)) == ("max_ms", "max_mb")


def test_a_trained_form_breaks_the_budgets_of_its_costs_and_of_what_it_keeps() -> None:
    exact = figure(0.8, spread=0)
    form = Validated(exact, np.array([0.4]), kept=0.96)
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

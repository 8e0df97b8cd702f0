"""Which bundle to deploy for a time budget, and how sure that is: from the rows of `single-stream`, nothing else.

`choices.jinja` says it in words. Validation texts choose; what is said of the chosen one is measured on the test texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from benchmarks.harness.answers import digits
from benchmarks.harness.scenario import Result, Row, value_of
from distill.evaluation.intervals import Bootstrap, Estimate, Figure

BUDGETS_MS = (0.25, 0.5, 1.0, 2.0, 5.0, 10.0)
By = Literal["p50_ms", "p99_ms"]


@dataclass(frozen=True)
class Choice:
    """The best bundle within a budget.

    Attributes:
        budget_ms: Milliseconds.
        row: The row with the highest macro-F1 on validation texts that keeps the budget, of equal ones the fastest; None if
            none does.
        keeping: How many bundles keep it.
        sure: Share of resamples of the validation texts in which it is the best of those that keep the budget.
        not_told_apart: Others that keep it whose macro-F1 differs by less than its 95 % interval, best first.
        just_over: Rows whose median may lie on either side of the budget: its interval holds the budget.
        fastest: The fastest of those not told apart, where it is faster than the chosen one.
        fastest_less: By how much the fastest one's macro-F1 on validation texts is below the chosen one's.
    """

    budget_ms: float
    row: Row | None = None
    keeping: int = 0
    sure: float = 0.0
    not_told_apart: tuple[str, ...] = ()
    just_over: tuple[str, ...] = ()
    fastest: Row | None = None
    fastest_less: Estimate | None = None


def choices_of(result: Result, *, by: By) -> list[Choice]:
    """Return a choice for each budget; nothing if the result has no answers to validation texts.

    Args:
        result: Of `single-stream`; only bundles that ship a graph can be chosen.
        by: What must keep the budget: the upper end of the median's interval, or the 99th percentile.
    """
    able = [row for row in result["rows"] if "validation_predicted" in row]
    if not able:
        return []
    truth = np.asarray(result["validation_truth"], dtype=np.int64)
    bootstrap = Bootstrap(truth, num_labels=int(truth.max()) + 1, num_seeds=1)
    scores = {row["name"]: bootstrap.macro_f1(digits(row["validation_predicted"])) for row in able}
    return [_choice(budget, able, scores, by) for budget in BUDGETS_MS]


def _choice(budget_ms: float, rows: Sequence[Row], scores: Mapping[str, Figure], by: By) -> Choice:
    edge = tuple(row["name"] for row in rows if row["p50_ms"]["low"] <= budget_ms < row["p50_ms"]["high"])
    most_ms = {row["name"]: row["p50_ms"]["high"] if by == "p50_ms" else value_of(row["p99_ms"]) for row in rows}
    keep = {row["name"]: row for row in rows if (most_ms[row["name"]] or np.inf) <= budget_ms}
    if not keep:
        return Choice(budget_ms, just_over=edge)
    best, *others = sorted(keep, key=lambda name: (-scores[name].value, keep[name]["p50_ms"]["value"]))
    drawn = np.array([scores[name].samples for name in (best, *others)])
    less = {name: (scores[best] - scores[name]).estimate() for name in others}
    near = [name for name, difference in less.items() if difference.low <= 0]
    fastest = min((best, *near), key=lambda name: keep[name]["p50_ms"]["value"])
    return Choice(
        budget_ms,
        keep[best],
        keeping=len(keep),
        sure=float((drawn.argmax(axis=0) == 0).mean()),
        not_told_apart=tuple(near),
        just_over=edge,
        fastest=None if fastest == best else keep[fastest],
        fastest_less=less.get(fastest),
    )

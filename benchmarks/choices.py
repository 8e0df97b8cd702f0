"""Which bundle to deploy for a time budget, and how sure that is: from the rows of `single-stream`, nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from distill.proof import Bootstrap, Figure

BUDGETS_MS = (0.25, 0.5, 1.0, 2.0, 5.0, 10.0)
SURE = 0.95

Row = Mapping[str, Any]
By = Literal["p50_ms", "p99_ms"]


@dataclass(frozen=True)
class Choice:
    """The best bundle within a budget.

    Attributes:
        budget_ms: Milliseconds.
        name: The row with the highest macro-F1 that keeps the budget, of equal ones the fastest; None where none does.
        macro_f1: Its macro-F1.
        sure: Share of resamples of the test texts in which it is the best of those that keep the budget.
        not_told_apart: Others that keep it whose macro-F1 differs by less than its 95 % interval, best first.
        fastest: The fastest of those, where it is faster than the chosen one, with its median and what it ships.
        just_over: Rows whose median may lie on either side of the budget: its interval holds the budget.
    """

    budget_ms: float
    name: str | None
    macro_f1: float | None
    sure: float | None
    not_told_apart: tuple[str, ...]
    just_over: tuple[str, ...]
    fastest: str | None = None


def choices_of(rows: Sequence[Row], truth: Sequence[int], *, by: By, seed: int = 0) -> list[Choice]:
    """Return a choice for each budget.

    Args:
        rows: Rows of `single-stream`; only bundles that ship a graph can be chosen.
        truth: True class ids of the texts that were answered.
        by: What must keep the budget: the upper end of the median's interval, or the 99th percentile.
        seed: Seed of the resamples.
    """
    able = [row for row in rows if "failed" not in row and row["kind"] == "bundle" and row["settings"].get("form") != "pytorch"]
    bootstrap = Bootstrap(np.asarray(truth, dtype=np.int64), num_labels=int(max(truth)) + 1, num_seeds=1, seed=seed)
    scores = {row["name"]: bootstrap.macro_f1(predicted_of(row)) for row in able}
    return [_choice(budget, able, scores, by) for budget in BUDGETS_MS]


def predicted_of(row: Row) -> Any:
    """Return the class ids that a row gave, shape (texts,)."""
    return np.array([int(each) for each in row["predicted"]], dtype=np.int64)


def _choice(budget_ms: float, rows: Sequence[Row], scores: Mapping[str, Figure], by: By) -> Choice:
    keep = [row["name"] for row in rows if _keeps(row, budget_ms, by)]
    edge = tuple(row["name"] for row in rows if row["p50_ms"]["low"] <= budget_ms < row["p50_ms"]["high"])
    if not keep:
        return Choice(budget_ms, None, None, None, (), edge)
    by_name = {row["name"]: row for row in rows}
    order = sorted(keep, key=lambda name: (-scores[name].value, by_name[name]["p50_ms"]["value"]))
    best = order[0]
    drawn = np.array([scores[name].samples for name in order])
    near = []
    for name in order[1:]:
        difference = (scores[best] - scores[name]).estimate()
        if difference.low <= 0:
            near.append(name)
    fastest = min((best, *near), key=lambda name: by_name[name]["p50_ms"]["value"])
    return Choice(
        budget_ms,
        best,
        scores[best].value,
        float((drawn.argmax(axis=0) == 0).mean()),
        tuple(near),
        edge,
        None if fastest == best else _shown(by_name[fastest]),
    )


def _shown(row: Row) -> str:
    size = "" if row["size_bytes"] is None else f", {row['size_bytes'] / 1e6:.1f} MB"
    return f"{row['name']} (median {row['p50_ms']['value']:.2f} ms{size})"


def _keeps(row: Row, budget_ms: float, by: By) -> bool:
    if by == "p99_ms":
        return row["p99_ms"] is not None and bool(row["p99_ms"] <= budget_ms)
    return bool(row["p50_ms"]["high"] <= budget_ms)


def words_of(choice: Choice) -> str:
    """Return a choice in words, with how sure it is."""
    if choice.name is None:
        return "none of the bundles keeps it"
    sure = f"macro-F1 {choice.macro_f1:.3f}; best in {choice.sure:.0%} of resamples of the test texts"
    if not choice.not_told_apart:
        return f"{choice.name}: {sure}; every other within the budget is worse beyond its interval"
    several = ", ".join(choice.not_told_apart)
    faster = f", of which {choice.fastest} is the fastest" if choice.fastest else ", of which none is faster"
    return f"{choice.name}: {sure}; not told apart from {several}{faster}"

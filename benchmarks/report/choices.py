"""Which bundle to deploy for a time budget, and how sure that is: from the rows of `single-stream`, nothing else.

Validation texts choose; what is said of the chosen one is measured on the test texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from benchmarks.harness.scenario import Result, Row, value_of
from distill.evaluation.intervals import Bootstrap, Estimate, Figure

BUDGETS_MS = (0.25, 0.5, 1.0, 2.0, 5.0, 10.0)
FAIRLY_SURE = 0.8
"""Share of resamples from which on a choice among several that cannot be told apart is called so."""

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
    row: Row | None
    keeping: int
    sure: float | None
    not_told_apart: tuple[str, ...]
    just_over: tuple[str, ...]
    fastest: Row | None = None
    fastest_less: Estimate | None = None

    @property
    def name(self) -> str | None:
        """Return what is chosen."""
        return None if self.row is None else str(self.row["name"])


def choices_of(result: Result, *, by: By, seed: int = 0) -> list[Choice]:
    """Return a choice for each budget; nothing if the result has no answers to validation texts.

    Args:
        result: Of `single-stream`; only bundles that ship a graph can be chosen.
        by: What must keep the budget: the upper end of the median's interval, or the 99th percentile.
        seed: Seed of the resamples.
    """
    able = [row for row in result["rows"] if "validation_predicted" in row]
    if not able:
        return []
    truth = np.asarray(result["validation_truth"], dtype=np.int64)
    bootstrap = Bootstrap(truth, num_labels=int(truth.max()) + 1, num_seeds=1, seed=seed)
    scores = {row["name"]: bootstrap.macro_f1(class_ids(row["validation_predicted"])) for row in able}
    return [_choice(budget, able, scores, by) for budget in BUDGETS_MS]


def class_ids(predicted: Sequence[Any]) -> Any:
    """Return the class ids that a row gave, shape (texts,)."""
    return np.array([int(each) for each in predicted], dtype=np.int64)


def _choice(budget_ms: float, rows: Sequence[Row], scores: Mapping[str, Figure], by: By) -> Choice:
    keep = [row["name"] for row in rows if _keeps(row, budget_ms, by)]
    edge = tuple(row["name"] for row in rows if row["p50_ms"]["low"] <= budget_ms < row["p50_ms"]["high"])
    if not keep:
        return Choice(budget_ms, None, 0, None, (), edge)
    by_name = {row["name"]: row for row in rows}
    order = sorted(keep, key=lambda name: (-scores[name].value, _median_ms(by_name[name])))
    best = order[0]
    drawn = np.array([scores[name].samples for name in order])
    less = {name: (scores[best] - scores[name]).estimate() for name in order[1:]}
    near = [name for name, difference in less.items() if difference.low <= 0]
    fastest = min((best, *near), key=lambda name: _median_ms(by_name[name]))
    return Choice(
        budget_ms,
        by_name[best],
        len(keep),
        float((drawn.argmax(axis=0) == 0).mean()),
        tuple(near),
        edge,
        None if fastest == best else by_name[fastest],
        less.get(fastest),
    )


def _median_ms(row: Row) -> float:
    return float(row["p50_ms"]["value"])


def _keeps(row: Row, budget_ms: float, by: By) -> bool:
    if by == "p99_ms":
        tail = value_of(row["p99_ms"])
        return tail is not None and tail <= budget_ms
    return bool(row["p50_ms"]["high"] <= budget_ms)


def words_of(choice: Choice) -> str:
    """Return a choice in a line, with how sure it is."""
    if choice.row is None:
        return "none of the bundles keeps it"
    said = f"{choice.name}: test macro-F1 {choice.row['macro_f1']:.3f}, best in {_of_hundred(choice)}"
    if not choice.not_told_apart:
        return f"{said}; every other within the budget is worse beyond its interval"
    others = len(choice.not_told_apart)
    said = f"{said}; {others} other{'s' if others > 1 else ''} cannot be told from it"
    return f"{said}, the fastest {_shown(choice.fastest)}" if choice.fastest else f"{said}, none is faster"


def answer_of(choice: Choice) -> list[tuple[str, str]]:
    """Return what somebody with a budget wants to know of a choice: questions and answers; nothing where none keeps it."""
    row = choice.row
    if row is None:
        return []
    median = row["p50_ms"]
    p99 = value_of(row["p99_ms"])
    tail = f"99 of 100 texts took at most {p99:.2f} ms; the" if p99 is not None else "The"
    low, high = row["macro_f1_interval"]
    kept = row["retention"]
    of_reference = (
        f", {kept['value']:.1%} of {row['reference']}'s ({kept['low']:.1%} to {kept['high']:.1%})" if kept is not None else ""
    )
    times = row["p50_ratio"]
    faster = f" and is {times['value']:.1f} ({times['low']:.1f} to {times['high']:.1f}) times as fast" if times else ""
    ships = "" if row["size_bytes"] is None else f" It ships {row['size_bytes'] / 1e6:.1f} MB{faster}."
    return [
        (
            "Does it keep the budget?",
            f"{tail} median was {median['value']:.2f} ms (95 % interval {median['low']:.2f} to {median['high']:.2f}), "
            "on one thread of this machine, tokenization inside.",
        ),
        (
            "How good is it?",
            f"Test macro-F1 {row['macro_f1']:.3f} ({low:.3f} to {high:.3f}){of_reference}.{ships}",
        ),
        ("How sure is it that it is the best choice?", _sureness(choice)),
    ]


def _sureness(choice: Choice) -> str:
    if choice.keeping == 1:
        return "It is the only bundle that keeps the budget."
    said = (
        f"{_word(choice)}: of the {choice.keeping} bundles that keep the budget it was the best in {_of_hundred(choice)} "
        "of the validation texts."
    )
    if not choice.not_told_apart:
        return f"{said} Every other one is worse, beyond its 95 % interval."
    said = f"{said} These texts cannot tell it from {', '.join(choice.not_told_apart)}."
    if choice.fastest is None or choice.fastest_less is None:
        return f"{said} None of them is faster."
    less = choice.fastest_less
    return (
        f"{said} The fastest of those is {_shown(choice.fastest)}: take it if time or size counts more, for it may give "
        f"{100 * max(0.0, less.high):.1f} points of macro-F1 away, or win {100 * max(0.0, -less.low):.1f} (95 % interval)."
    )


def _word(choice: Choice) -> str:
    if not choice.not_told_apart:
        return "Sure"
    return "Fairly sure" if (choice.sure or 0.0) >= FAIRLY_SURE else "Not sure"


def _of_hundred(choice: Choice) -> str:
    return f"{round(100 * (choice.sure or 0))} of 100 resamples"


def _shown(row: Row) -> str:
    size = "" if row["size_bytes"] is None else f", {row['size_bytes'] / 1e6:.1f} MB"
    return f"{row['name']} (median {_median_ms(row):.2f} ms{size})"

"""Two result files of one scenario side by side: what changed beyond noise, and whether anything got worse.

Machines and days differ, so what is compared first is each row's ratio to the reference of its own run; only where a
scenario has none, plain figures. Quality is compared text by text.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from benchmarks.harness.answers import digits
from benchmarks.harness.results import read_result_file
from benchmarks.harness.scenario import Row
from distill.errors import PotstillError
from distill.evaluation.intervals import Bootstrap
from export.measure.tables import estimate_of

Kind = Literal["time", "quality", "memory"]
COMPARED: dict[str, tuple[str, bool, Kind]] = {
    "single-stream": ("p50_ratio", True, "time"),
    "offline": ("rate_ratio", True, "time"),
    "cold-start": ("cold_start_s", False, "time"),
    "memory": ("peak_rss_bytes", False, "memory"),
}
"""By scenario a figure of its rows, whether more is better, and what it is; a ratio to the reference if there is one."""


@dataclass(frozen=True)
class Change:
    """One figure of one row in two results.

    Attributes:
        row: The row's name.
        figure: The figure's.
        before: Its value in the first.
        after: Its value in the second.
        better_by: Change, above 0 if the second is better: of quality the difference, of the rest relative.
        beyond_noise: Whether the two intervals, or the paired one, rule out that nothing changed.
        kind: Of the figure; each has a tolerance of its own.
    """

    row: str
    figure: str
    before: float
    after: float
    better_by: float
    beyond_noise: bool
    kind: Kind

    def regression(self, tolerance: Mapping[Kind, float]) -> bool:
        """Whether it got worse beyond noise and past the tolerance of its kind."""
        return self.beyond_noise and self.better_by < -tolerance[self.kind]


def compare_files(first: Path, second: Path) -> tuple[list[Change], list[str]]:
    """Return what both results tell of the same rows, and notes on what could not be compared.

    Raises:
        PotstillError: One is not whole, was edited, or they are of different scenarios, texts, labels or schemas.
    """
    before, after = read_result_file(first), read_result_file(second)
    for name in ("schema", "scenario", "test_fingerprint", "labels"):
        if before.get(name) != after.get(name):
            raise PotstillError(
                f"{first} and {second} cannot be compared: {name} is {reprlib.repr(before.get(name))} in the one and "
                f"{reprlib.repr(after.get(name))} in the other"
            )
    if before["scenario"] not in COMPARED:
        raise PotstillError(f"{first} is of the scenario {before['scenario']!r}; compare knows {', '.join(COMPARED)}")
    changes = list[Change]()
    here, there = before["environment"], after["environment"]
    alike = all(here.get(name) == there.get(name) for name in ("cpu", "cpus_available", "versions"))
    notes = [] if alike else ["the two were measured on different machines or versions"]
    olds, news = ({row["name"]: row for row in result["rows"]} for result in (before, after))
    for name in olds | news:
        old, new = olds.get(name), news.get(name)
        if old is None or new is None:
            notes.append(f"{name} is only in the {'second' if old is None else 'first'}")
        elif "failed" in old or "failed" in new:
            notes.append(f"{name} was left out in the {'second' if 'failed' in new else 'first'}")
            changes += [] if "failed" in old else [Change(name, "measured", 1.0, 0.0, -1.0, True, "time")]
        else:
            changes += [_quality(old, new, before["truth"]), *_speed(old, new, before["scenario"])]
    return changes, notes


def _quality(old: Row, new: Row, truth: Sequence[int]) -> Change:
    if not old["num_texts"] == new["num_texts"] == len(truth):
        raise PotstillError(f"{old['name']} answered {old['num_texts']} texts in the one and {new['num_texts']} in the other")
    bootstrap = Bootstrap(np.asarray(truth, dtype=np.int64), num_labels=max(truth) + 1, num_seeds=1)
    better = (bootstrap.macro_f1(digits(new["predicted"])) - bootstrap.macro_f1(digits(old["predicted"]))).estimate()
    told = better.low > 0 or better.high < 0
    return Change(old["name"], "macro_f1", old["macro_f1"], new["macro_f1"], better.value, told, "quality")


def _speed(old: Row, new: Row, scenario: str) -> list[Change]:
    name, more_is_better, kind = COMPARED[scenario]
    if old.get(name) is None or new.get(name) is None or old.get("reference") == old["name"]:
        return []  # of the reference the ratio is 1 in both
    a, b = estimate_of(old, name), estimate_of(new, name)
    better = b.value / a.value - 1 if more_is_better else a.value / b.value - 1
    return [Change(old["name"], name, a.value, b.value, better, b.low > a.high or b.high < a.low, kind)]

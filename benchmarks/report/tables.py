"""Rows of the speed scenarios as Markdown: one column for each figure of a row, and the words that come before any figure.

A figure that is to be shown everywhere is one entry of `COLUMNS`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from benchmarks.harness.scenario import Columns, Result, Row, table_of, value_of
from export.measure.tables import ABSENT


@dataclass(frozen=True)
class Column:
    """A column of a table or of the report.

    Attributes:
        head: Its head.
        means: What it means, for the report.
        name: The row's figure.
        pattern: How it is formatted.
        unit: It is divided by this.
        after: Is put behind it.
        scenario: Where the report takes it from.
        is_timed: Whether it is a time or rate, which what does no work has none of.
        brief: Whether Markdown tables show it, too.
    """

    head: str
    means: str
    name: str
    pattern: str
    unit: float = 1
    after: str = ""
    scenario: str = "single-stream"
    is_timed: bool = False
    brief: bool = True

    def value(self, row: Row | None) -> float | None:
        """Return the figure of a row; None if it has none."""
        if row is None or (self.is_timed and row["settings"].get("floor") == "majority"):
            return None
        return value_of(row.get(self.name))

    def shown(self, row: Row | None, *, interval: bool = False) -> str:
        """Return the cell of a row, on request with its interval."""
        value = self.value(row)
        if row is None or value is None:
            return ABSENT
        cell, found = f"{value / self.unit:{self.pattern}}{self.after}", row[self.name]
        ends = (found["low"], found["high"]) if isinstance(found, Mapping) else row.get(f"{self.name}_interval")
        if not interval or ends is None:
            return cell
        low, high = (f"{end / self.unit:{self.pattern}}" for end in ends)
        return f"{cell} ({low} to {high})"


COLUMNS = (
    Column("macro-F1", "with its 95 % interval over the test texts", "macro_f1", ".4f"),
    Column("kept %", "share of the reference's macro-F1, with its paired 95 % interval", "retention", ".1f", 0.01),
    Column("agrees %", "share of texts with the reference's label", "agreement", ".1f", 0.01, brief=False),
    Column("ECE", "expected calibration error, 15 bins", "expected_calibration_error", ".3f"),
    Column("p50 ms", "median time of one text with its 95 % interval", "p50_ms", ".3f", is_timed=True),
    Column("p90 ms", "nine of ten texts are faster", "p90_ms", ".3f", is_timed=True, brief=False),
    Column("p99 ms", "99 of 100 texts are faster", "p99_ms", ".3f", is_timed=True),
    Column("faster", "times faster than the reference in the same rounds", "p50_ratio", ".2f", after="x", is_timed=True),
    Column(
        "texts/s",
        "many texts at once on all processors, with its 95 % interval",
        "texts_per_second",
        ",.0f",
        scenario="offline",
        is_timed=True,
    ),
    Column("faster", "of many texts at once", "rate_ratio", ".2f", after="x", scenario="offline", is_timed=True),
    Column("ships MB", "what must be shipped to answer", "size_bytes", ".1f", 1e6),
    Column("first answer s", "from starting a process to its first answer", "cold_start_s", ".2f", scenario="cold-start"),
    Column("ready MB", "memory when it can answer", "ready_rss_bytes", ",.0f", 1e6, scenario="memory", brief=False),
    Column("after all texts MB", "memory after all texts", "used_rss_bytes", ",.0f", 1e6, scenario="memory", brief=False),
    Column("peak MB", "most memory that its processes held", "peak_rss_bytes", ",.0f", 1e6, scenario="memory"),
    Column("requests/s", "highest rate that keeps the bound", "requests_per_second", ",.0f", scenario="server"),
    Column("ready in s", "what training or converting a peer took", "prepared_s", ",.0f", brief=False),
)


def speed_table(result: Result) -> str:
    """Return what must be said first, the rows as a table, and what was measured on."""
    rows = result["rows"]
    there = [row for row in rows if "failed" not in row]
    shown = [column for column in COLUMNS if column.brief and any(column.name in row for row in there)]
    reference = next((row["reference"] for row in there if row.get("reference")), "the first row")
    heads = {"faster": f"faster than {reference}"}
    columns: Columns = [
        ("row", lambda row: row["name"]),
        *((heads.get(each.head, each.head), partial(each.shown, interval=each.name == "macro_f1")) for each in shown),
        ("note", notes_of),
    ]
    table = table_of(rows, columns, gone="failed", left=(0, len(columns) - 1))
    return "\n\n".join([table, " ".join([*first_words(there), f"{result['reads']}."])])


def notes_of(row: Row) -> str:
    """Return what is marked on a row, in a word each."""
    return "; ".join(mark.partition(":")[0] for mark in row.get("marks", ()))


def first_words(rows: Sequence[Row]) -> list[str]:
    """Return what must be said before any figure: rows that are unsteady, a busy machine, rows that failed."""
    by_mark: dict[str, list[str]] = {}
    for row in rows:
        for mark in row.get("marks", ()):
            by_mark.setdefault(mark.partition(":")[0], []).append(row["name"])
    lines = [f"Read with care, {kind}: {', '.join(names)}." for kind, names in by_mark.items()]
    return lines + [f"Left out, {row['name']}: {row['failed']}." for row in rows if "failed" in row]

"""The report: one HTML page, from the result files of the speed scenarios, that needs no other file and no network.

Pictures are SVG by matplotlib (some 200 kB), not a plotting script (1 to 5 MB inlined): they need no script to be seen, and
print. The table is sorted by a few lines of script; without it, it is a table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from benchmarks.harness.results import FOLDER, read_result
from benchmarks.report.choices import answer_of, choices_of, words_of
from benchmarks.report.pictures import quality_against_size, quality_against_time, spread_of_times
from benchmarks.report.tables import ABSENT, first_words
from distill.errors import PotstillError
from distill.storage import write_atomically

SCENARIOS = ("single-stream", "offline", "cold-start", "memory")
ONE_MS = 1.0
_TEMPLATE = Path(__file__).with_name("report.html.jinja")

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Cell:
    """A cell of the table: what is shown, and what it is sorted by."""

    shown: str
    sort: float | str


@dataclass(frozen=True)
class Column:
    """A column of the table: its head, what it means, and where its figure stands in the rows of a scenario."""

    head: str
    means: str
    scenario: str
    name: str
    pattern: str
    unit: float = 1


COLUMNS = (
    Column("macro-F1", "with its 95 % interval over the test texts", "single-stream", "macro_f1", ".4f"),
    Column(
        "kept %", "share of the reference's macro-F1, with its paired 95 % interval", "single-stream", "retention", ".1f", 0.01
    ),
    Column("agrees %", "share of texts with the reference's label", "single-stream", "agreement", ".1f", 0.01),
    Column("ECE", "expected calibration error, 15 bins", "single-stream", "expected_calibration_error", ".3f"),
    Column("p50 ms", "median time of one text with its 95 % interval", "single-stream", "p50_ms", ".3f"),
    Column("p90 ms", "nine of ten texts are faster", "single-stream", "p90_ms", ".3f"),
    Column("p99 ms", "99 of 100 texts are faster", "single-stream", "p99_ms", ".3f"),
    Column(
        "faster",
        "times faster than the reference in the same rounds, with its 95 % interval",
        "single-stream",
        "p50_ratio",
        ".1f",
    ),
    Column("texts/s", "many texts at once on all processors, with its 95 % interval", "offline", "texts_per_second", ",.0f"),
    Column("ships MB", "what must be shipped to answer", "single-stream", "size_bytes", ".1f", 1e6),
    Column("first answer s", "from starting a process to its first answer", "cold-start", "cold_start_s", ".2f"),
    Column("peak MB", "most memory that its processes held", "memory", "peak_rss_bytes", ",.0f", 1e6),
    Column("ready in s", "what training or converting a peer took", "single-stream", "prepared_s", ",.0f"),
)


def write_report(*, folder: Path = FOLDER, out: Path | None = None) -> Path:
    """Write `report.html` from the results in a folder and return its path.

    Raises:
        PotstillError: There is no single-stream result, or the results are of different texts.
    """
    path = out or folder / "report.html"
    write_atomically(path, html_of(results_in(folder)))
    return path


def results_in(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the results that a report is made of, by scenario; `single-stream` must be there.

    Raises:
        PotstillError: It is not, or another was measured on other texts.
    """
    found = {"single-stream": read_result("single-stream", folder=folder)}
    for name in SCENARIOS[1:]:
        if (folder / f"{name}.json").exists():
            found[name] = read_result(name, folder=folder)
    texts = found["single-stream"]["test_fingerprint"]
    for name, result in found.items():
        if result["test_fingerprint"] != texts:
            raise PotstillError(f"{name}.json and single-stream.json are of different texts; run both on the same --test")
    return found


def html_of(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the page."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    single = results["single-stream"]
    rows = single["rows"]
    medians = choices_of(rows, single["truth"], by="p50_ms")
    tails = choices_of(rows, single["truth"], by="p99_ms")
    tail, median = (next(choice for choice in each if choice.budget_ms == ONE_MS) for each in (tails, medians))
    shown = [column for column in COLUMNS if column.scenario in results]
    return template.render(
        single=single,
        results=results,
        first_words={name: _first_words(result["rows"]) for name, result in results.items()},
        tail=tail,
        answer=answer_of(tail),
        median_words=words_of(median),
        choices=[(median.budget_ms, words_of(median), words_of(tail)) for median, tail in zip(medians, tails, strict=True)],
        just_over=[(each.budget_ms, ", ".join(each.just_over)) for each in medians if each.just_over],
        against_time=quality_against_time(rows),
        against_size=quality_against_size(rows),
        spread=spread_of_times(rows),
        columns=shown,
        table=[(row["name"], row["kind"], _cells(row["name"], shown, results)) for row in rows if "failed" not in row],
        failed=[row for row in rows if "failed" in row],
        sources=[(row["name"], row["source"], row["settings"]) for row in rows if "failed" not in row],
        reference=next((row["reference"] for row in rows if row.get("reference")), "the first row"),
    )


def _first_words(rows: Sequence[Row]) -> list[str]:
    """Return what must be said first; why rows were left out stands further down."""
    gone = ", ".join(row["name"] for row in rows if "failed" in row)
    said = first_words([row for row in rows if "failed" not in row])
    return [*said, f"Left out: {gone}; the reason stands below."] if gone else said


def _cells(name: str, columns: Sequence[Column], results: Mapping[str, Mapping[str, Any]]) -> list[Cell]:
    return [_cell(_row_of(results[column.scenario], name), column) for column in columns]


def _row_of(result: Mapping[str, Any], name: str) -> Row | None:
    return next((row for row in result["rows"] if row["name"] == name and "failed" not in row), None)


def _cell(row: Row | None, column: Column) -> Cell:
    found = None if row is None else row.get(column.name)
    if row is None or found is None or (column.name in _TIMES and row["settings"].get("floor") == "majority"):
        return Cell(ABSENT, "")
    value, interval = (found["value"], (found["low"], found["high"])) if isinstance(found, Mapping) else (found, None)
    interval = row["macro_f1_interval"] if column.name == "macro_f1" else interval
    shown = format(value / column.unit, column.pattern)
    if interval is not None:
        low, high = (format(each / column.unit, column.pattern) for each in interval)
        shown = f"{shown} ({low} to {high})"
    return Cell(shown, value)


# What does no work, like always giving one label, has no time worth reading.
_TIMES = frozenset({"p50_ms", "p90_ms", "p99_ms", "p50_ratio", "texts_per_second"})

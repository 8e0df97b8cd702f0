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
from benchmarks.harness.scenario import Result, Row, value_of
from benchmarks.report.choices import answer_of, choices_of, words_of
from benchmarks.report.pictures import quality_against_size, quality_against_time, spread_of_times
from benchmarks.report.tables import ABSENT, COLUMNS, Column, first_words
from distill.errors import PotstillError
from distill.storage import write_atomically

SCENARIOS = ("single-stream", "offline", "cold-start", "memory")
ONE_MS = 1.0
_TEMPLATE = Path(__file__).with_name("report.html.jinja")


@dataclass(frozen=True)
class Cell:
    """A cell of the table: what is shown, and what it is sorted by."""

    shown: str
    sort: float | str


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
    medians, tails = choices_of(single, by="p50_ms"), choices_of(single, by="p99_ms")
    tail, median = (next((choice for choice in each if choice.budget_ms == ONE_MS), None) for each in (tails, medians))
    shown = [column for column in COLUMNS if column.scenario in results]
    return template.render(
        single=single,
        results=results,
        sessions={name: sessions_of(result) for name, result in results.items()},
        first_words={name: _first_words(result["rows"]) for name, result in results.items()},
        tail=tail,
        answer=answer_of(tail) if tail else [],
        median_words=words_of(median) if median else "",
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


def _cells(name: str, columns: Sequence[Column], results: Mapping[str, Result]) -> list[Cell]:
    rows = [_row_of(results[column.scenario], name) for column in columns]
    values = [None if row is None else value_of(row.get(column.name)) for row, column in zip(rows, columns, strict=True)]
    shown = [column.shown(row, interval=True) for row, column in zip(rows, columns, strict=True)]
    return [Cell(cell, "" if cell == ABSENT or value is None else value) for cell, value in zip(shown, values, strict=True)]


def _row_of(result: Mapping[str, Any], name: str) -> Row | None:
    return next((row for row in result["rows"] if row["name"] == name and "failed" not in row), None)


def sessions_of(result: Result) -> list[Mapping[str, Any]]:
    """Return the distinct sessions in which the rows were measured."""
    found = result.get("sessions", [row["session"] for row in result["rows"] if "session" in row])
    return [session for place, session in enumerate(found) if session not in found[:place]]

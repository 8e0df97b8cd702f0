"""The report: one HTML page, from the result files of the speed scenarios, that needs no other file and no network.

Pictures are SVG by matplotlib (some 200 kB), not a plotting script (1 to 5 MB inlined): they need no script to be seen, and
print. The table is sorted by a few lines of script; without it, it is a table.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from benchmarks.harness.pieces import processor_of
from benchmarks.harness.results import FOLDER, read_result
from benchmarks.harness.scenario import Result, scenarios
from benchmarks.report.choices import choices_of
from benchmarks.report.circumstances import circumstances_of
from benchmarks.report.pictures import quality_against, spread_of_times
from benchmarks.report.tables import COLUMNS, first_words
from distill.errors import PotstillError
from distill.storage import write_atomically

SCENARIOS = ("single-stream", "offline", "cold-start", "memory")
ONE_MS = 1.0
TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
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
    there = [name for name in SCENARIOS if name == "single-stream" or (folder / f"{name}.json").exists()]
    found = {name: read_result(name, folder=folder) for name in there}
    for name, result in found.items():
        if result["test_fingerprint"] != found["single-stream"]["test_fingerprint"]:
            raise PotstillError(f"{name}.json and single-stream.json are of different texts; run both on the same --test")
    return found


def html_of(results: Mapping[str, Result]) -> str:
    """Return the page; a result that another kind of processor gave is left out, and named."""
    single = results["single-stream"]
    here = {name for name, each in results.items() if processor_of(each["environment"]) == processor_of(single["environment"])}
    elsewhere, results = results.keys() - here, {name: each for name, each in results.items() if name in here}
    rows = [row for row in single["rows"] if "failed" not in row]
    choices = list(zip(choices_of(single, by="p50_ms"), choices_of(single, by="p99_ms"), strict=True))
    median, tail = next((each for each in choices if each[0].budget_ms == ONE_MS), (None, None))
    return TEMPLATES.get_template("report.html.jinja").render(
        single=single,
        results=results,
        circumstances={name: circumstances_of(result, scenarios()[name]) for name, result in results.items()},
        elsewhere=sorted(elsewhere),
        sessions={name: sessions_of(result) for name, result in results.items()},
        first_words=first_words,
        tail=tail,
        median=median,
        choices=choices,
        against_time=quality_against("p50_ms", rows),
        against_size=quality_against("size_bytes", rows),
        spread=spread_of_times(rows),
        columns=[column for column in COLUMNS if column.scenario in results],
        rows=rows,
        found={name: {row["name"]: row for row in result["rows"] if "failed" not in row} for name, result in results.items()},
        failed=[row for row in single["rows"] if "failed" in row],
        reference=next((row["reference"] for row in rows if row.get("reference")), "the first row"),
    )


def sessions_of(result: Result) -> list[Mapping[str, Any]]:
    """Return the distinct sessions in which the rows were measured."""
    found = result.get("sessions", [row["session"] for row in result["rows"] if "session" in row])
    return [session for place, session in enumerate(found) if session not in found[:place]]

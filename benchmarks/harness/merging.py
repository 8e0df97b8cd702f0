"""Results that several runs make: what an earlier run measured stays beside what a later one did.

A result that says what is `missing` is such a result. Rows that are compared by their times are of one run: a later run's rows
of one kind (`measured`) take the place of all earlier ones of that kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.harness.pieces import CIRCUMSTANCES, processor_of
from benchmarks.harness.results import changed_code, read_result
from distill.progress import Reporter

Result = Mapping[str, Any]


def earlier_result(scenario: str, folder: Path, *, decided_by: tuple[str, ...], reporter: Reporter) -> Result | None:
    """Return the result that is there, each row with its circumstances; None if there is none or other code made it."""
    if not (folder / f"{scenario}.json").is_file():
        return None
    result = read_result(scenario, folder=folder)
    if changed := changed_code(result, decided_by):
        reporter.say(f"earlier rows left out, {len(result['rows'])}: other code made them, see {', '.join(changed)}")
        return None
    environment = result["environment"]
    made = {"measured_on": result["measured_on"], **{name: environment.get(name) for name in CIRCUMSTANCES}}
    return {**result, "rows": [{**row, "made": row.get("made", made)} for row in result["rows"]]}


def merged(result: Result, earlier: Result | None) -> Result:
    """Return a result with the rows of an earlier one that it does not have, if both say what is missing.

    Args:
        result: Just measured.
        earlier: Of the same code; its rows have their circumstances, and those of another kind of processor are left out.
    """
    if earlier is None or "missing" not in result or "missing" not in earlier:
        return result
    here, rows = processor_of(result["environment"]), result["rows"]
    known, kinds = {_identity(row) for row in rows}, {row.get("measured") for row in rows} - {None}
    kept = [
        row
        for row in earlier["rows"]
        if processor_of(row["made"]) == here and row.get("measured") not in kinds and _identity(row) not in known
    ]
    missing = [name for name in result["missing"] if name in earlier["missing"]] if kept else result["missing"]
    return {**result, "rows": [*kept, *rows], "missing": missing}


def _identity(row: Result) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in ("measured", "name", "seed", "precision"))

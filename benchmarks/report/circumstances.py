"""The line below a block, a picture or a report: machine, commit, date and command, and whether the code changed since."""

from __future__ import annotations

from benchmarks.harness.results import changed_code
from benchmarks.harness.scenario import Result, Scenario

NAMED = 3
"""Folders with changed code that are named; the others are counted."""


def circumstances_of(result: Result, scenario: Scenario) -> str:
    """Return machine, commit, date and command of a result, and whether the code that decides it has changed since."""
    environment, cpus = result["environment"], result["environment"]["cpus_available"]
    dirty = " with uncommitted changes" if environment.get("git_dirty") else ""
    return (
        f"Measured on {result['measured_on']} at commit {(environment['git_commit'] or 'unknown')[:10]}{dirty}, on "
        f"{cpus} processor{'' if cpus == 1 else 's'} ({environment['cpu']}, {environment['int8_instruction_set']}), by "
        f"`{result['command']}`.{_earlier(result)}{_old(changed_code(result, scenario.decided_by))}"
    )


def _earlier(result: Result) -> str:
    """Return when and by which commits the rows were made that are not of the run that wrote the result."""
    runs = [(row["made"]["measured_on"], row["made"]["git_commit"]) for row in result["rows"] if "made" in row]
    others = dict.fromkeys(run for run in runs if run != (result["measured_on"], result["environment"]["git_commit"]))
    said = ", ".join(f"on {day} at {(commit or 'an unknown commit')[:10]}" for day, commit in sorted(others, key=str))
    return f" Some rows were measured {said}." if said else ""


def _old(changed: list[str]) -> str:
    if not changed:
        return ""
    rooms = list(dict.fromkeys("/".join(path.split("/")[:2]) for path in changed))
    more = f" and {len(rooms) - NAMED} more" if len(rooms) > NAMED else ""
    return f" **Old:** the code that decides it has changed since ({', '.join(rooms[:NAMED])}{more})."

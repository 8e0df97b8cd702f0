"""The commands that measure nothing: what there is to measure, the report page, and two results side by side."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from benchmarks.harness.candidates import FLOORS, FORMS, PEERS
from benchmarks.harness.environments import FOLDER as ENVIRONMENTS
from benchmarks.harness.environments import REQUIREMENTS
from benchmarks.harness.results import FOLDER
from benchmarks.report.compare import compare_files
from benchmarks.report.page import write_report
from distill.cli.terminal import print_cells

REGRESSION = 1


def register(app: App) -> None:
    """Give the app the commands of this module."""
    app.command(list_rows, name=["list", "--list"])
    app.command(report)
    app.command(compare)


def list_rows() -> None:
    """Say what can be a row, and which peers are installed.

    Example: python -m benchmarks list
    """
    rows = [["--bundles PATH[:FORM]", f"a bundle; forms {', '.join(FORMS)}", "-"]]
    rows += [["--floors", name, "-"] for name in FLOORS]
    for name in PEERS:
        needs = ", ".join(REQUIREMENTS.get(name, ())) or "nothing more than the harness"
        there = name not in REQUIREMENTS or (ENVIRONMENTS / name / ".installed").exists()
        rows.append([f"--peers {name}", needs, "installed" if there else "installs when asked for"])
    rows += [["--external NAME=CMD", "a command: texts in, labels out, line by line", "-"]]
    rows += [["--url NAME=URL", 'an address that answers {"inputs": text} with labels and scores', "-"]]
    for row, what, state in rows:
        print(f"{row:<32} {what}{'' if state == '-' else f' ({state})'}")


def report(
    *,
    results: Annotated[Path, Parameter(help="folder of the result files")] = FOLDER,
    out: Annotated[Path | None, Parameter(help="the page; without it RESULTS/report.html")] = None,
) -> None:
    """Write one HTML page from the results of single-stream and, where they are there, offline, cold-start and memory.

    Example: python -m benchmarks report
    """
    print(write_report(folder=results, out=out))


def compare(
    first: Annotated[Path, Parameter(help="a result file")],
    second: Annotated[Path, Parameter(help="a later one of the same scenario and texts")],
    /,
    *,
    tolerance: Annotated[
        float, Parameter(help="share by which a figure may get worse, beyond noise, without exit code 1")
    ] = 0.05,
) -> None:
    """Say what changed beyond noise between two results; exit with 1 where something got worse past the tolerance.

    Example: python -m benchmarks compare before.json after.json --tolerance 0.1
    """
    changes, notes = compare_files(first, second)
    for note in notes:
        print(f"note: {note}")
    told = [change for change in changes if change.beyond_noise]
    cells = [
        [each.row, each.figure, f"{each.before:.4g}", f"{each.after:.4g}", f"{each.better_by:+.1%}", _word(each.better_by)]
        for each in told
    ]
    if cells:
        print_cells(("row", "figure", "before", "after", "better by", ""), cells)
    print(f"{len(told)} of {len(changes)} figures changed beyond noise")
    worse = [change for change in changes if change.regression(tolerance)]
    if worse:
        named = ", ".join(f"{change.row} {change.figure}" for change in worse)
        print(f"worse by more than {tolerance:.0%}: {named}", file=sys.stderr)
        sys.exit(REGRESSION)


def _word(better_by: float) -> str:
    return "better" if better_by > 0 else "worse"

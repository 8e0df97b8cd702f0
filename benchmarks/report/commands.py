"""The commands that measure nothing: what there is to measure, the report page, and two results side by side."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from benchmarks.harness.candidates import RowSettings
from benchmarks.harness.environments import FOLDER as ENVIRONMENTS
from benchmarks.harness.environments import is_installed
from benchmarks.harness.peer import peers
from benchmarks.harness.results import FOLDER, read_result, rewrite_result
from benchmarks.harness.scenario import scenarios
from benchmarks.report.compare import Kind, compare_files
from benchmarks.report.page import write_report
from benchmarks.report.pages import fill_pages, same_figures
from distill.cli.terminal import print_cells


def list_rows() -> None:
    """Say what can be a row, and which peers are installed.

    Example: python -m benchmarks list
    """
    for name, field in RowSettings.model_fields.items():
        print(f"--{name:<10} {field.description}")
    for name, peer in peers().items():
        needs = ", ".join(peer.packages) or "nothing more than the harness"
        there = not peer.packages or is_installed(ENVIRONMENTS / name, peer.packages)
        print(f"--peers {name:<22} {needs} ({'installed' if there else 'installs when asked for'})")


def readme() -> None:
    """Make the blocks and the pictures in the READMEs and in docs/ again from the result files.

    Example: python -m benchmarks readme
    """
    fill_pages()


def refigure() -> None:
    """Compute the figures of all result files again from their rows, after a change of how they are computed.

    Example: python -m benchmarks refigure
    """
    for name, scenario in scenarios().items():
        if (FOLDER / f"{name}.json").is_file():
            result = read_result(name)
            figures = scenario.figures(result)
            if not same_figures(figures, result["figures"]):
                print(rewrite_result({**result, "figures": figures}))
    fill_pages()


def report(
    *,
    results: Annotated[Path, Parameter(help="folder of the result files")] = FOLDER,
    out: Annotated[Path | None, Parameter(help="page to write; default: report.html in RESULTS")] = None,
) -> None:
    """Write one HTML page from the results of single-stream and, where they are there, offline, cold-start and memory.

    Example: python -m benchmarks report
    """
    print(write_report(folder=results, out=out))


def compare(
    first: Annotated[Path, Parameter(help="a result file")],
    second: Annotated[Path, Parameter(help="a later result file of the same scenario and texts")],
    /,
    *,
    time: Annotated[
        float, Parameter(help="share by which a time or rate may get worse beyond noise, such as 0.05 for 5 %")
    ] = 0.05,
    quality: Annotated[float, Parameter(help="macro-F1 that may be lost, beyond noise")] = 0.005,
    memory: Annotated[float, Parameter(help="share by which memory may grow, such as 0.05 for 5 %")] = 0.05,
) -> None:
    """Say what changed beyond noise between two results; exit with 1 if something got worse past its tolerance.

    Example: python -m benchmarks compare before.json after.json --time 0.1
    """
    changes, notes = compare_files(first, second)
    for note in notes:
        print(f"note: {note}")
    told = [change for change in changes if change.beyond_noise]
    if told:
        cells = [[each.row, each.figure, f"{each.before:.4g}", f"{each.after:.4g}", f"{each.better_by:+.2%}"] for each in told]
        print_cells(("row", "figure", "before", "after", "better by"), cells)
    print(f"{len(told)} of {len(changes)} figures changed beyond noise")
    tolerance: dict[Kind, float] = {"time": time, "quality": quality, "memory": memory}
    worse = [change for change in changes if change.regression(tolerance)]
    if worse:
        named = ", ".join(f"{each.row} {each.figure} by more than {tolerance[each.kind]:g}" for each in worse)
        print(f"worse: {named}", file=sys.stderr)
        sys.exit(1)

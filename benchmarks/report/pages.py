"""Blocks and pictures in the READMEs and in docs/, made from result files and kept between markers.

Each block ends with machine, commit, date and command, and says so if the code that decides it has changed since. A single
figure in prose is generated too: `<!-- demo.p50_ratio_teacher:.1f -->10.8<!-- / -->`.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from benchmarks.harness.results import FOLDER, read_result
from benchmarks.harness.scenario import Result, Scenario, scenarios
from benchmarks.report.circumstances import circumstances_of
from benchmarks.report.page import write_report
from distill.errors import PotstillError
from distill.storage import write_atomically
from export.measure.drawing import GREY
from export.measure.workers import ROOT

INLINE = re.compile(r"<!-- ([\w-]+)\.(\w+):(\S+) -->.*?<!-- / -->")
HEIGHT_PT = 14


def filled(page: str, *, folder: Path = FOLDER) -> str:
    """Return a page with each part between markers generated from its result file.

    Args:
        page: The page; for a scenario that it shows, `<!-- NAME -->` and `<!-- /NAME -->` once each, in this order.
        folder: Where the result files are.

    Raises:
        PotstillError: One marker of a pair is missing, or a result file is not as the harness wrote it.
    """
    for name, scenario in scenarios().items():
        start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        if page.count(start) or page.count(end):
            before, _, rest = page.partition(start)
            _, _, after = rest.partition(end)
            if page.count(start) != 1 or page.count(end) != 1 or end in before:
                raise PotstillError(f"the page needs one {start} and, after it, one {end}")
            result = checked(scenario, folder)
            page = f"{before}{start}\n{scenario.table(result)}\n\n{circumstances_of(result, scenario)}\n{end}{after}"
    return INLINE.sub(lambda found: _figure(found, folder), page)


def fill_pages(root: Path = ROOT, *, folder: Path = FOLDER) -> None:
    """Write the blocks of all pages, and the pictures of the results that exist."""
    pages = {path: filled(path.read_text(encoding="utf-8"), folder=folder) for path in pages_of(root)}
    for name, scenario in scenarios().items():
        if scenario.picture is not None and (folder / f"{name}.json").is_file():
            result = checked(scenario, folder)
            write_atomically(folder / f"{name}.svg", stamped(scenario.picture(result), circumstances_of(result, scenario)))
    if (folder / "single-stream.json").is_file():
        write_report(folder=folder)
    for path, page in pages.items():
        write_atomically(path, page)


def pages_of(root: Path = ROOT) -> list[Path]:
    """Return the pages that may show results: all but the decisions, which are dated trials with their own circumstances."""
    decisions = root / "docs" / "project" / "decisions"
    pages = {root / "README.md", *root.glob("*/README.md"), *root.glob("docs/**/*.md")}
    return sorted(path for path in pages if path.is_file() and decisions not in path.parents)


def checked(scenario: Scenario, folder: Path) -> Result:
    """Return a result whose figures are those of its rows.

    Raises:
        PotstillError: They are not.
    """
    result = read_result(scenario.name, folder=folder)
    if not same_figures(scenario.figures(result), result["figures"]):
        raise PotstillError(
            f"the figures in {folder / f'{scenario.name}.json'} are not those of its rows; run `python -m benchmarks "
            f"{scenario.name}`, or `python -m benchmarks refigure` if only their computation changed"
        )
    return result


def same_figures(found: Any, kept: Any) -> bool:
    """Whether two sets of figures are equal, but for the last digits, which depend on the libraries."""
    return found.keys() == kept.keys() and all(
        math.isclose(found[name], kept[name], rel_tol=1e-6, abs_tol=1e-9) for name in found
    )


def stamped(svg: str, words: str) -> str:
    """Return a picture with a line of words below it, without the command."""
    words = words.partition(", by `")[0] + (". Old: its code has changed since" if "**Old:**" in words else "")
    height = float(re.search(r'viewBox="0 0 \S+ (\S+)"', svg).group(1))  # type: ignore[union-attr]
    taller = svg.replace(f'height="{height:g}pt"', f'height="{height + HEIGHT_PT:g}pt"', 1)
    taller = re.sub(r'viewBox="0 0 (\S+) \S+"', rf'viewBox="0 0 \1 {height + HEIGHT_PT:g}"', taller, count=1)
    text = f'<text x="6" y="{height + 8:g}" style="font: 7px sans-serif; fill: {GREY}">{words}</text>'
    return taller.replace("</svg>", f"{text}\n</svg>")


def _figure(found: re.Match[str], folder: Path) -> str:
    name, figure, pattern = found.groups()
    figures = read_result(name, folder=folder)["figures"]
    if figure not in figures:
        raise PotstillError(f"{name}.json has no figure {figure!r}; there are {', '.join(figures)}")
    return f"<!-- {name}.{figure}:{pattern} -->{figures[figure]:{pattern}}<!-- / -->"

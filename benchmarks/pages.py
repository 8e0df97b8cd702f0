"""Tables in the READMEs, made from result files and kept between markers."""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.results import FOLDER, demo_figures, read_result
from distill.errors import PotstillError
from distill.storage import write_atomically
from export.tables import markdown_of, verdict_of

README = Path(__file__).parent.parent / "README.md"
COLUMNS = ("classifier", "runs on", "macro-F1", "95 % interval", "kept", "p50 ms", "faster", "texts/s", "ships MB")


def filled(page: str, *, folder: Path = FOLDER) -> str:
    """Return a page with each part between markers made anew from its result file.

    Args:
        page: The page, with `<!-- demo -->` and `<!-- /demo -->` once each, in this order.
        folder: Where the result files stand.

    Raises:
        PotstillError: A marker is missing, or the result file is not as the harness wrote it.
    """
    start, end = "<!-- demo -->", "<!-- /demo -->"
    if page.count(start) != 1 or page.count(end) != 1 or page.index(start) > page.index(end):
        raise PotstillError(f"the page needs one {start} and, after it, one {end}")
    result = read_result("demo", folder=folder)
    if result["figures"] != demo_figures(result["rows"]):
        raise PotstillError(f"the figures in {folder / 'demo.json'} are not those of its rows; run `python -m benchmarks demo`")
    environment = result["environment"]
    circumstances = (
        f"Measured by `{result['command']}` on {environment['cpus_available']} processors ({environment['cpu']}, "
        f"{environment['int8_instruction_set']}), one seed, {result['rows'][0]['num_texts']:,} held-out movie sentences; "
        "times are of one text with tokenization, on one thread."
    )
    content = f"{markdown_of(result['rows'], columns=COLUMNS)}\n\n{verdict_of(result['rows'])} {circumstances}"
    return re.sub(f"{start}.*{end}", lambda _: f"{start}\n{content}\n{end}", page, flags=re.DOTALL)


def fill_readme() -> None:
    """Write the README's table and its picture anew."""
    from export.report import picture_of

    page = filled(README.read_text(encoding="utf-8"), folder=FOLDER)
    write_atomically(FOLDER / "demo.svg", picture_of(read_result("demo", folder=FOLDER)["rows"]))
    write_atomically(README, page)

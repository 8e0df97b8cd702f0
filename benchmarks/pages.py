"""Tables in the READMEs, made from result files and kept between markers."""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.results import read_result
from distill.errors import PotstillError
from distill.storage import write_atomically
from export.tables import markdown_of, verdict_of

README = Path(__file__).parent.parent / "README.md"
COLUMNS = ("classifier", "runs on", "macro-F1", "95 % interval", "kept", "p50 ms", "faster", "texts/s", "ships MB")


def filled(page: str) -> str:
    """Return a page with each part between markers made anew from its result file.

    The markers are `<!-- demo -->` and `<!-- /demo -->`.

    Raises:
        PotstillError: A marker is missing its end, or the result file its figures.
    """
    start, end = "<!-- demo -->", "<!-- /demo -->"
    if page.count(start) != 1 or page.count(end) != 1:
        raise PotstillError(f"the page needs one {start} and one {end}")
    result = read_result("demo")
    environment = result["environment"]
    circumstances = (
        f"Measured by `{result['command']}` on {environment['cpus_available']} processors ({environment['cpu']}, "
        f"{environment['int8_instruction_set']}), one seed, 2,000 held-out movie sentences; "
        "times are of one text with tokenization, on one thread."
    )
    content = f"{markdown_of(result['rows'], columns=COLUMNS)}\n\n{verdict_of(result['rows'])} {circumstances}"
    return re.sub(f"{start}.*{end}", lambda _: f"{start}\n{content}\n{end}", page, flags=re.DOTALL)


def fill_readme() -> None:
    """Write the README's tables anew."""
    write_atomically(README, filled(README.read_text(encoding="utf-8")))

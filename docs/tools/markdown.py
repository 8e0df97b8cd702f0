"""Tables and code for the generated pages, escaped so that any text of the code is shown as it is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_SPECIAL = re.compile(r"([\\*_\[\]|])")


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(" ".join(cell.split()) for cell in line) + " |" for line in lines)


def plain(text: str) -> str:
    """Return text as prose: what is between backticks stays code, and nothing else is read as Markdown or HTML."""
    parts = text.split("`")
    return "".join(code(part) if number % 2 else _escaped(part) for number, part in enumerate(parts))


def code(text: str) -> str:
    """Return text as code that may be in a table."""
    return f"`{text}`".replace("|", "\\|") if text else ""


def _escaped(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", text).replace("&", "&amp;").replace("<", "&lt;")

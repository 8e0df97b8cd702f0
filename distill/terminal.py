"""How the command talks to a terminal: tables, JSON, stdin, and an error in one line.

Only this module and `distill.cli` print.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import cyclopts
import pydantic

from distill.errors import DatasetError, SettingsError


def stdin_lines() -> Iterator[str]:
    """Yield the lines of stdin that are not blank, without their ends.

    Raises:
        DatasetError: A line is not UTF-8.
    """
    for number, line in enumerate(sys.stdin.buffer, start=1):
        try:
            text = line.decode().strip()
        except UnicodeDecodeError as exc:
            raise DatasetError(
                f"stdin:{number}: not UTF-8 ({exc.reason} at byte {exc.start})", path="stdin", line=number
            ) from exc
        if text:
            yield text


def print_json(value: Mapping[str, Any]) -> None:
    """Print one JSON object on one line."""
    print(json.dumps(value, allow_nan=False))


def print_cells(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; where there is no terminal it is as wide as it needs to be."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for place, column in enumerate(columns):
        table.add_column(column, justify="left" if place < 2 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False)
    console.width = max(console.width, 40 + 12 * len(columns)) if not console.is_terminal else console.width
    console.print(table)


def fail(message: str, code: int) -> int:
    """Print an error on stderr and return its exit code."""
    print(f"potstill: {message}", file=sys.stderr)
    return code


def words_of(error: cyclopts.CycloptsError) -> str:
    """Return an error of the flags in one line; one of our own settings errors inside it speaks for itself."""
    inner = error.__cause__ or error.__context__
    if isinstance(inner, pydantic.ValidationError):
        for problem in inner.errors(include_url=False):
            own = problem.get("ctx", {}).get("error")
            if isinstance(own, SettingsError):
                return str(own)
    return f"{' '.join(str(error).split())}; see potstill --help"

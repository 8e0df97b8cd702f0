"""How the command talks to people: tables, JSON, stdin, the settings file, and an error in one line.

Only this module and `distill.cli.main` print.
"""

from __future__ import annotations

import json
import os
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cyclopts
import pydantic
from cyclopts.config import Dict

from distill.errors import SettingsError
from distill.progress import is_first_process

if TYPE_CHECKING:
    from distill.bundle import Bundle
    from distill.progress import Reporter


def settings_file(path: Path, *, commands: Sequence[str]) -> Dict:
    """Read a `--config` file: a table per command and nothing else; a misspelt table would be passed over in silence.

    Raises:
        SettingsError: It cannot be read, or holds something that is not the table of a command.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise SettingsError(f"cannot read {path} as TOML: {getattr(exc, 'strerror', None) or exc}; see --config") from exc
    for name, values in tables.items():
        if name not in commands or not isinstance(values, dict):
            known = ", ".join(f"[{command}]" for command in commands)
            raise SettingsError(f"{path}: {name!r} is not the table of a command; wanted keys below one of {known}")
    return Dict(tables, source=str(path))


def say_all(reporter: Reporter, notes: Sequence[str]) -> None:
    """Say each note of how the data was read."""
    for note in notes:
        reporter.say(note)


def print_made(bundle: Bundle, *, json: bool) -> None:
    """Print what a bundle became: its figures and files, or its manifest as JSON; once, however many processes made it."""
    if not is_first_process():
        return
    if json:
        print_json({"bundle": str(bundle.path), **bundle.manifest.model_dump(mode="json", by_alias=True)})
        return
    for name, quality in bundle.manifest.quality.items():
        print(f"{name}: {quality['split']} macro-F1 {quality['macro_f1']:.4f} on {quality['num_texts']} texts")
    print(f"sealed {bundle.path}: {', '.join(sorted(bundle.manifest.files))}")


def print_json(value: Mapping[str, Any]) -> None:
    """Print one JSON object on one line."""
    print(json.dumps(value, allow_nan=False))


def print_line(text: str) -> None:
    """Print a line, or a few, on stdout."""
    print(text)


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
    """Print an error on stderr and return its exit code; of several processes all but the first say which they are."""
    who = "" if is_first_process() else f"process {os.environ['RANK']}: "
    print(f"potstill: {who}{message}", file=sys.stderr)
    return code


def drop_stdout() -> None:
    """Where stdout takes nothing more, let what is still in its buffer go nowhere, so that Python ends in silence."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def words_of(error: cyclopts.CycloptsError) -> str:
    """Return an error of the flags in one line; one of our own settings errors inside it speaks for itself."""
    inner = error.__cause__ or error.__context__
    if isinstance(inner, pydantic.ValidationError):
        for problem in inner.errors(include_url=False):
            own = problem.get("ctx", {}).get("error")
            if isinstance(own, SettingsError):
                return str(own)
    return f"{' '.join(str(error).split()).rstrip('.')}; see potstill --help"

"""Output of the command: tables, JSON and one-line errors with exit codes; and its settings file."""

from __future__ import annotations

import json
import os
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cyclopts
from cyclopts.config import Dict

from distill.errors import PotstillError, SettingsError, StorageError, requires
from distill.progress import is_first_process

if TYPE_CHECKING:
    from distill.bundle import Bundle

INTERRUPTED = 130
Cells = tuple[Sequence[str], Sequence[Sequence[str]]]
"""Column names, and the rows of cells."""


def settings_file(path: Path, *, commands: Sequence[str]) -> Dict:
    """Read a `--config` file, which holds one table per command; cyclopts itself would ignore a misspelt table.

    Raises:
        SettingsError: The file is unreadable, or has a key that is not the table of a command.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise SettingsError(f"cannot read {path} as TOML: {getattr(exc, 'strerror', None) or exc}; see --config") from exc
    for name, values in tables.items():
        if name not in commands or not isinstance(values, dict):
            raise SettingsError(
                f"{path}: {name!r} is not the table of a command; put keys under one of [{'], ['.join(commands)}]"
            )
    return Dict(tables, source=str(path))


def print_made(bundle: Bundle, *, json: bool) -> None:
    """Print the quality and files of a new bundle, or its manifest as JSON; only the first of several processes prints."""
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


def print_report(report: Mapping[str, Any], *parts: str | Cells, json: bool) -> None:
    """Print the report as JSON, or else its lines and tables; empty ones are left out."""
    if json:
        print_json(report)
        return
    for part in parts:
        if isinstance(part, str):
            print(part, end="\n" if part else "")
        elif part[1]:
            print_cells(*part)


def print_cells(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; outside a terminal it is as wide as its content."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for place, column in enumerate(columns):
        table.add_column(column, justify="left" if place < 2 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False)
    if not console.is_terminal:
        unlimited = console.options.update(max_width=sys.maxsize)
        console.width = max(console.width, console.measure(table, options=unlimited).maximum)
    console.print(table)


@contextmanager
def exiting() -> Iterator[None]:
    """Turn an error of a command into a line on stderr and its exit code."""
    try:
        with requires("this command"):
            yield
        sys.stdout.flush()
    except cyclopts.CycloptsError as exc:
        sys.exit(fail(words_of(exc), SettingsError.exit_code))
    except PotstillError as exc:
        sys.exit(fail(str(exc), exc.exit_code))
    except BrokenPipeError:
        drop_stdout()  # the reader closed the pipe (`| head`)
    except OSError as exc:
        drop_stdout()
        sys.exit(fail(f"the system refused: {exc}", StorageError.exit_code))
    except KeyboardInterrupt:
        sys.exit(fail("interrupted; finished steps are kept, run the same command to resume", INTERRUPTED))


def fail(message: str, code: int) -> int:
    """Print an error on stderr and return its exit code; processes of a distributed run name their rank, except the first."""
    who = "" if is_first_process() else f"process {os.environ['RANK']}: "
    print(f"potstill: {who}{message}", file=sys.stderr)
    return code


def drop_stdout() -> None:
    """Discard buffered output if stdout is closed or full; otherwise Python reports another error at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def words_of(error: cyclopts.CycloptsError) -> str:
    """Return a flag error in one line; the message of a `SettingsError` inside it is returned unchanged."""
    from pydantic import ValidationError

    inner = error.__cause__ or error.__context__
    problems = inner.errors(include_url=False) if isinstance(inner, ValidationError) else []
    causes = (problem.get("ctx", {}).get("error") for problem in problems)
    own = next((cause for cause in causes if isinstance(cause, SettingsError)), None)
    return str(own or f"{' '.join(str(error).split()).rstrip('.')}; see potstill --help")

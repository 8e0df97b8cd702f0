"""Progress reporters: bars on a terminal, a line every ten seconds elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from distill.progress import Advance, LineReporter, Reporter, SilentReporter, is_first_process, spelled


class BarReporter:
    """Progress bars with elapsed and remaining time."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True, highlight=False)

    def say(self, text: str) -> None:
        """Print one line."""
        self._console.print(text, markup=False)

    @contextmanager
    def task(self, title: str, total: int) -> Iterator[Advance]:
        """Show a bar while the block runs."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("elapsed"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}", markup=False),
        )
        with Progress(*columns, console=self._console) as progress:
            task = progress.add_task(title, total=total, figures="")

            def advance(count: int = 1, **figures: float) -> None:
                shown: dict[str, Any] = {"figures": spelled(figures)} if figures else {}
                progress.update(task, advance=count, **shown)

            yield advance


def reporter_for_terminal() -> Reporter:
    """Return bars on a terminal, lines elsewhere, and nothing in all but the first process of a distributed run."""
    if not is_first_process():
        return SilentReporter()
    return BarReporter() if sys.stderr.isatty() else LineReporter()

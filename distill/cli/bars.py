"""Progress reporters: bars on a terminal, a line every ten seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from distill.progress import Advance, Reporter, SilentReporter, is_first_process


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
                shown: dict[str, Any] = {"figures": _spelled(figures)} if figures else {}
                progress.update(task, advance=count, **shown)

            yield advance


@dataclass(frozen=True, kw_only=True)
class LineReporter:
    """Prints progress as a line every `interval_s` seconds, for log files and CI."""

    clock: Callable[[], float] = time.monotonic
    interval_s: float = 10.0

    def say(self, text: str) -> None:
        """Print one line.

        Text and newline go in one write; otherwise an interrupt between the two would join this line and the next.
        """
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()

    @contextmanager
    def task(self, title: str, total: int) -> Iterator[Advance]:
        """Print count, elapsed and remaining time."""
        started = last = self.clock()
        done = 0
        first: tuple[float, int] | None = None

        def advance(count: int = 1, **figures: float) -> None:
            nonlocal done, last, first
            done += count
            now = self.clock()
            # The rate counts from the first call, which may report work that an earlier run did.
            first = first or (now, done)
            since, before = first if done > first[1] else (started, 0)
            if done and (now - last >= self.interval_s or done >= total):
                last = now
                left_s = (now - since) / (done - before) * max(total - done, 0)
                self.say(
                    f"{title}: {done}/{total}, {now - started:.0f} s gone, {left_s:.0f} s left  {_spelled(figures)}".rstrip()
                )

        yield advance


def reporter_for_terminal() -> Reporter:
    """Return bars on a terminal, lines elsewhere, and nothing in all but the first process of a distributed run."""
    if not is_first_process():
        return SilentReporter()
    return BarReporter() if sys.stderr.isatty() else LineReporter()


def _spelled(figures: dict[str, float]) -> str:
    return "  ".join(
        f"{name} {value:.4f}" if isinstance(value, float) else f"{name} {value}" for name, value in figures.items()
    )

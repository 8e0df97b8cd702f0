"""Progress of long jobs. Library code reports to a `Reporter`, by default to one that prints nothing."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

Advance = Callable[..., None]
"""`advance(count, **figures)`: called after each piece of work; the figures are shown next to the bar."""


class Reporter(Protocol):
    """Receives the progress of a job."""

    def say(self, text: str) -> None:
        """Report a message of one line."""

    def task(self, title: str, total: int) -> AbstractContextManager[Advance]:
        """Return a context manager with a progress bar of `total` pieces."""


class SilentReporter:
    """Discards everything; the default of library functions."""

    def say(self, text: str) -> None:
        """Discard the message."""

    @contextmanager
    def task(self, title: str, total: int) -> Iterator[Advance]:  # noqa: ARG002
        """Yield a function that does nothing."""
        yield lambda count=1, **figures: None  # noqa: ARG005


@dataclass(frozen=True, kw_only=True)
class LineReporter:
    """Prints messages, and progress as a line every `interval_s` seconds, on stderr: for notebooks, log files and CI."""

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
            if done and (now - last >= self.interval_s or (count and done >= total)):
                last = now
                left_s = (now - since) / (done - before) * max(total - done, 0)
                self.say(
                    f"{title}: {done}/{total}, {now - started:.0f} s gone, {left_s:.0f} s left  {spelled(figures)}".rstrip()
                )

        yield advance


def is_first_process() -> bool:
    """Return whether this is the only process of a run, or the first of those that a launcher started."""
    return int(os.environ.get("RANK", "0")) == 0


def spelled(figures: Mapping[str, float]) -> str:
    """Return the figures of a progress report in words."""
    return "  ".join(
        f"{name} {value:.4f}" if isinstance(value, float) else f"{name} {value}" for name, value in figures.items()
    )

"""Progress of long jobs. Library code reports to a `Reporter`; only the command creates one that prints."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
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


def is_first_process() -> bool:
    """Return whether this is the only process of a run, or the first of those that a launcher started."""
    return int(os.environ.get("RANK", "0")) == 0

"""How a long job tells where it is. Library code is given a `Reporter`; only the command makes one that prints."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

Advance = Callable[..., None]
"""Call `advance(count, **figures)` after each piece of work; the figures are shown beside the bar."""


class Reporter(Protocol):
    """Where progress goes."""

    def say(self, text: str) -> None:
        """Pass on one line for people."""
        ...

    def task(self, title: str, total: int) -> AbstractContextManager[Advance]:
        """Open a bar of `total` pieces for the length of a `with` block."""
        ...


class SilentReporter:
    """Says nothing; the default of every library function."""

    def say(self, text: str) -> None:
        """Drop the line."""

    @contextmanager
    def task(self, title: str, total: int) -> Iterator[Advance]:  # noqa: ARG002
        """Yield a function that does nothing."""
        yield _do_nothing


def is_first_process() -> bool:
    """Return whether this is the one process of a run, or the first of those that a launcher has started."""
    return int(os.environ.get("RANK", "0")) == 0


def _do_nothing(count: int = 1, **figures: float) -> None:
    """Take no notice of progress."""

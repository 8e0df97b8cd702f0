"""Where the time of a test run goes: one table by folder, and the slowest tests."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

SLOWEST = 10


def timing_lines(seconds: Mapping[str, float]) -> Iterator[str]:
    """Yield a line per folder, the slowest first, then the slowest tests.

    Args:
        seconds: Test id to its time in seconds, setup and teardown included. A shared fixture counts for the first test
            that needs it.
    """
    folders: dict[str, list[float]] = defaultdict(list)
    for test, taken in seconds.items():
        folders[str(PurePosixPath(test.split("::", 1)[0]).parent)].append(taken)
    yield f"{'seconds':>8}  {'tests':>5}  folder"
    for folder, times in sorted(folders.items(), key=lambda item: -sum(item[1])):
        yield f"{sum(times):8.1f}  {len(times):5}  {folder}"
    yield f"{sum(seconds.values()):8.1f}  {len(seconds):5}  all"
    yield f"{'seconds':>8}  slowest tests"
    for test, taken in sorted(seconds.items(), key=lambda item: -item[1])[:SLOWEST]:
        yield f"{taken:8.1f}  {test}"

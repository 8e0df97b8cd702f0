"""Processes that the harness starts: none outlives it.

Each leads a group of its own, so that what it starts itself ends with it, and the group is ended with the block that started
it. A harness that is told to stop leaves those blocks as it does after Ctrl-C.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

STOPPING = (signal.SIGTERM, signal.SIGHUP)
_STOPPED = 128  # plus the signal's number: the exit code that shells know


def stop_by_leaving() -> None:
    """Let SIGTERM and SIGHUP end this process through its `finally` blocks; what ignores them, as under nohup, still does."""
    for number in STOPPING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _leave)


def _leave(number: int, frame: FrameType | None) -> None:
    del frame
    for each in STOPPING:
        signal.signal(each, signal.SIG_IGN)  # a second one must not break off the ending of the children
    raise SystemExit(_STOPPED + number)


@contextmanager
def child(command: Sequence[str], *, grace_s: float = 0.0, **surroundings: Any) -> Iterator[subprocess.Popen[Any]]:
    """Start a process and yield it; its whole group has ended when the block has, however the block ends.

    Args:
        command: What to start.
        grace_s: Seconds between SIGTERM and SIGKILL; 0 kills at once.
        surroundings: Further arguments of `subprocess.Popen`.
    """
    with subprocess.Popen(command, start_new_session=True, **surroundings) as process:
        try:
            yield process
        finally:
            if grace_s:
                with suppress(ProcessLookupError, subprocess.TimeoutExpired):
                    os.killpg(process.pid, signal.SIGTERM)
                    process.wait(grace_s)
            if hasattr(os, "killpg"):
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # though the first has ended: others of its group may live
            else:
                process.kill()  # a system without process groups


def run_child(
    command: Sequence[str], *, given: str | None = None, timeout_s: float | None = None, **surroundings: Any
) -> subprocess.CompletedProcess[str]:
    """Run a process to its end and return what it said.

    Args:
        command: What to run.
        given: Its standard input; None leaves it empty.
        timeout_s: Seconds after which its group is killed.
        surroundings: Further arguments of `subprocess.Popen`.

    Raises:
        subprocess.TimeoutExpired: It took longer.
    """
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with child(command, **{**pipes, **surroundings}) as process:
        said, complained = process.communicate(given, timeout=timeout_s)
    return subprocess.CompletedProcess(list(command), process.returncode, said, complained)

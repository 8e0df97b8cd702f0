"""Several processes as `torchrun` and `accelerate launch` start them, but forked off one that has torch loaded already."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_program(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a program that calls `exit_codes`; not in this process, whose threads a fork would not copy."""
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )


def exit_codes(work: Callable[[int], object], *, processes: int) -> list[int]:
    """Run `work` in so many processes, each with its number, and return how each ended; below 0 by which signal."""
    port = str(free_port())
    children = []
    for rank in range(processes):
        child = os.fork()
        if child == 0:
            if processes > 1:
                os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(processes))
                os.environ.update(LOCAL_WORLD_SIZE=str(processes), MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
            os._exit(_code_of(work, rank))
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def _code_of(work: Callable[[int], object], rank: int) -> int:
    try:
        work(rank)
    except SystemExit as exc:
        return exc.code if isinstance(exc.code, int) else 0 if exc.code is None else 1
    except BaseException:  # noqa: BLE001  (a child must not return into its parent's program)
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0

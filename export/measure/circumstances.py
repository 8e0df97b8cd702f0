"""What a measurement was taken under: the machine, its limits, and what else ran on it meanwhile.

Names no user, host or path.
"""

from __future__ import annotations

import os
import resource
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from distill.machine import describe_environment

_FLAGS = frozenset(
    {"avx", "avx2", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8", "amx_bf16", "fma", "sse4_2"}
    | {"hypervisor", "asimddp", "i8mm", "bf16"}
)


@dataclass(frozen=True)
class Session:
    """One stretch of measuring.

    Attributes:
        seconds: How long it took.
        load_before: Load average of a minute when it began.
        others_processors: Processors that programs other than the harness took on average; None where unknown.
        stolen_share: Share of the processors' time that the host gave to others; None where unknown.
        cpu: The one processor that all rows were bound to; None where they were not.
    """

    seconds: float
    load_before: float | None
    others_processors: float | None
    stolen_share: float | None
    cpu: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as a result file keeps it."""
        return asdict(self)


class Watch:
    """Looks at the processors' clocks when a session begins and when it ends; works not at all in between."""

    def __init__(self, *, cpu: int | None = None, stat: Path = Path("/proc/stat")) -> None:
        self._cpu = cpu
        self._stat = stat
        self._load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        self._started = time.perf_counter()
        self._before = self._clocks()
        self._ours = _our_seconds()

    def session(self) -> Session:
        """Return what happened since; the processes of the session must have ended."""
        seconds = time.perf_counter() - self._started
        after = self._clocks()
        if self._before is None or after is None:
            return Session(seconds, self._load, None, None, self._cpu)
        busy, stolen, total = (b - a for a, b in zip(self._before, after, strict=True))
        others = max(0.0, busy - (_our_seconds() - self._ours)) / seconds
        return Session(seconds, self._load, others, stolen / total if total else 0.0, self._cpu)

    def _clocks(self) -> tuple[float, float, float] | None:
        """Return busy, stolen and all seconds of all processors since boot."""
        try:
            words = self._stat.read_text().splitlines()[0].split()
        except (OSError, IndexError):
            return None
        user, nice, system, idle, wait, hard, soft, stolen = (int(word) / os.sysconf("SC_CLK_TCK") for word in words[1:9])
        busy = user + nice + system + hard + soft
        return busy, stolen, busy + idle + wait + stolen


def circumstances() -> dict[str, Any]:
    """Return the circumstances of a run as plain values, beside those that every result file has."""
    return {
        **describe_environment(),
        "cpu_flags": sorted(_FLAGS & _flags()),
        "affinity": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "governor": _first_line(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
    }


def cpu_for(threads: int) -> int | None:
    """Return the processor that rows of one thread are bound to: the last one, as systems use the first for their own work.

    On two processors that differ, in cache or in what else they do, two processes of one program differ, too. Returns None
    for rows of several threads, and where the system binds no processes.
    """
    return max(os.sched_getaffinity(0)) if threads == 1 and hasattr(os, "sched_setaffinity") else None


def _our_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def _flags() -> frozenset[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(word for line in lines if line.startswith(("flags", "Features")) for word in line.split(":")[1].split())


def _first_line(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None

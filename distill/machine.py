"""The machine of a run: available processors, instruction sets, and the environment recorded in every result file."""

from __future__ import annotations

import math
import os
import platform
import subprocess
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

INT8_WITHOUT_SATURATION = frozenset({"amx_int8", "avx512_vnni", "avx_vnni", "i8mm", "asimddp"})
"""Instruction sets that add products of bytes in 32 bits; the others add them in 16 bits, which can saturate."""

_BEST_INT8_FIRST = ("amx_int8", "avx512_vnni", "avx_vnni", "avx512bw", "avx2", "i8mm", "asimddp")
_PACKAGES = ("potstill", "torch", "transformers", "tokenizers", "onnx", "onnxruntime", "numpy", "scikit-learn")
_ROOT = Path(__file__).parent.parent


def available_cpus(root: Path = Path("/")) -> int:
    """Return the number of processors that this process may use, at least 1.

    Args:
        root: Root of the file system with `sys/fs/cgroup` and `proc/self/cgroup`; tests pass another folder.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    # With a quota of 1.5 processors, two threads run for three quarters of each period; rounding up keeps them busy.
    return max(1, min(allowed, math.ceil(cgroup_quota_cpus(root) or allowed)))


def cgroup_quota_cpus(root: Path = Path("/")) -> float | None:
    """Return the smallest CPU quota of this process's cgroup and its parents, in processors; None if there is no quota."""
    quotas = [quota for folder in _cgroup_folders(root) if (quota := _quota_of(folder)) is not None]
    return min(quotas, default=None)


def instruction_set(root: Path = Path("/")) -> str:
    """Return the best int8 instruction set of this processor; the quality of int8 graphs depends on it.

    Without VNNI, sums of products of unsigned and signed bytes saturate at 16 bits (microsoft/onnxruntime #6004).
    """
    flags = _processor_flags(root)
    return next((name for name in _BEST_INT8_FIRST if name in flags), platform.machine() or "unknown")


def multiplies_bf16_faster(root: Path = Path("/")) -> bool:
    """Return whether this processor multiplies bfloat16 faster than fp32: with AMX, or with AVX-512 on AMD (since Zen 4).

    The same instructions of AVX-512 on an Intel processor made training slower.
    """
    flags = _processor_flags(root)
    return "amx_bf16" in flags or ("avx512_bf16" in flags and "AuthenticAMD" in _read(root / "proc/cpuinfo"))


def machine_name() -> str:
    """Return what timings of this machine depend on: processor, instructions, how many CPUs this process may use."""
    return f"{_cpu_name()}, {instruction_set()}, {available_cpus()} CPUs"


def describe_environment() -> dict[str, Any]:
    """Return the environment as JSON values; what is unknown is None."""
    return {
        "cpu": _cpu_name(),
        "cpus_available": available_cpus(),
        "cpus_host": os.cpu_count(),
        "cgroup_quota_cpus": cgroup_quota_cpus(),
        "int8_instruction_set": instruction_set(),
        "load_average_1m": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "memory_bytes": _memory_bytes(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: found.version for name in _PACKAGES if (found := next(iter(distributions(name=name)), None))},
        "git_commit": _git("rev-parse", "HEAD"),
        "git_dirty": None if (changes := _git("status", "--porcelain")) is None else bool(changes),
    }


def _processor_flags(root: Path) -> frozenset[str]:
    lines = _read(root / "proc/cpuinfo").splitlines()
    return frozenset(
        flag for line in lines if line.startswith(("flags", "Features")) for flag in line.partition(":")[2].split()
    )


def _cgroup_folders(root: Path) -> list[Path]:
    base = root / "sys/fs/cgroup"
    folders = [base, base / "cpu", base / "cpu,cpuacct"]
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers or "cpu" in controllers.split(","):  # version 2 has no controllers
            inner = Path(path.lstrip("/"))
            folders += [base / controllers / parent for parent in (inner, *inner.parents)]
    return folders


def _quota_of(folder: Path) -> float | None:
    # Version 2: "max 100000" or "150000 100000". Version 1: one file each; a quota of -1 is none.
    version_1 = f"{_read(folder / 'cpu.cfs_quota_us')} {_read(folder / 'cpu.cfs_period_us')}"
    words = (_read(folder / "cpu.max") or version_1).split()
    return None if len(words) != 2 or words[0] == "max" or int(words[0]) <= 0 else int(words[0]) / int(words[1])


def _cpu_name() -> str:
    lines = _read(Path("/proc/cpuinfo")).splitlines()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _memory_bytes() -> int | None:
    known = "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {})
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if known else None


def _read(path: Path) -> str:
    """Return the content of a file of the system, "" if this system does not have it."""
    try:
        return path.read_text()
    except OSError:
        return ""


def _git(*arguments: str) -> str | None:
    """Return what git prints about this checkout; None if potstill is installed as a package, or git is missing."""
    if not (_ROOT / ".git").exists():
        return None
    try:
        done = subprocess.run(["git", "-C", str(_ROOT), *arguments], capture_output=True, text=True, check=True)  # noqa: S607
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()

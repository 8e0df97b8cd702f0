"""The machine a run is on: usable processors, instruction set, and the facts that go into every result file."""

from __future__ import annotations

import math
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


def available_cpus(root: Path = Path("/")) -> int:
    """Return the processors this process may use at once, at least 1.

    Args:
        root: Where `sys/fs/cgroup` and `proc/self/cgroup` stand; another folder in tests.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    quota = cgroup_quota_cpus(root)
    if quota is None:
        return allowed
    # A quota of 1.5 processors runs two threads for three quarters of each period; rounding up keeps them busy.
    return max(1, min(allowed, math.ceil(quota)))


def cgroup_quota_cpus(root: Path = Path("/")) -> float | None:
    """Return the tightest CPU quota of this process's cgroup and its parents in processors; None is no quota."""
    quotas = [quota for folder in _cgroup_folders(root) if (quota := _quota_of(folder)) is not None]
    return min(quotas, default=None)


INT8_WITHOUT_SATURATION = frozenset({"amx_int8", "avx512_vnni", "avx_vnni", "i8mm", "asimddp"})
"""Instruction sets that add products of bytes at 32 bits; the others do at 16 and can saturate."""


def instruction_set(root: Path = Path("/")) -> str:
    """Return the best int8 instruction set of this processor, as its quality figures depend on it.

    Without VNNI, products of unsigned by signed bytes saturate at 16 bits (microsoft/onnxruntime #6004).
    """
    flags = _processor_flags(root)
    for name in ("amx_int8", "avx512_vnni", "avx_vnni", "avx512bw", "avx2", "i8mm", "asimddp"):
        if name in flags:
            return name
    return platform.machine() or "unknown"


def multiplies_bf16_faster(root: Path = Path("/")) -> bool:
    """Return whether products of bfloat16 run on a unit of their own here (AMX), faster than those of fp32.

    AVX-512's bfloat16 alone does not count: training was slower with it than without.
    """
    return "amx_bf16" in _processor_flags(root)


def _processor_flags(root: Path) -> frozenset[str]:
    try:
        lines = (root / "proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(
        flag for line in lines if line.startswith(("flags", "Features")) for flag in line.partition(":")[2].split()
    )


def _cgroup_folders(root: Path) -> list[Path]:
    base = root / "sys/fs/cgroup"
    folders = [base, base / "cpu", base / "cpu,cpuacct"]
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return folders
    for line in lines:
        _, controllers, path = line.split(":", 2)
        top = base if not controllers else base / controllers
        if controllers and "cpu" not in controllers.split(","):
            continue
        inner = Path(path.lstrip("/"))
        folders += [top / parent for parent in (inner, *inner.parents)]
    return folders


def _quota_of(folder: Path) -> float | None:
    version_2 = _words_of(folder / "cpu.max")  # "max 100000" or "150000 100000"
    if version_2:
        quota, period = version_2
        return None if quota == "max" else int(quota) / int(period)
    version_1 = _words_of(folder / "cpu.cfs_quota_us") + _words_of(folder / "cpu.cfs_period_us")
    if len(version_1) != 2 or int(version_1[0]) <= 0:
        return None
    return int(version_1[0]) / int(version_1[1])


def _words_of(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []


_PACKAGES = ("potstill", "torch", "transformers", "tokenizers", "onnx", "onnxruntime", "numpy", "scikit-learn")
_ROOT = Path(__file__).parent.parent


def describe_environment() -> dict[str, Any]:
    """Return the circumstances as plain values; what cannot be known is None."""
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
        "versions": {name: found for name in _PACKAGES if (found := _version_of(name))},
        "git_commit": _git("rev-parse", "HEAD"),
        "git_dirty": None if (changes := _git("status", "--porcelain")) is None else bool(changes),
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _memory_bytes() -> int | None:
    names = getattr(os, "sysconf_names", {})
    if "SC_PHYS_PAGES" not in names:
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    """Ask git about the checkout this package runs from; None when it is installed, or git is not there."""
    if not (_ROOT / ".git").exists():
        return None
    try:
        done = subprocess.run(["git", "-C", str(_ROOT), *arguments], capture_output=True, text=True, check=True)  # noqa: S607
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()

"""The circumstances of a run: machine, limits, load and versions, as they go into every result file.

Names no user, host or path.
"""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from distill.cpus import available_cpus, cgroup_quota_cpus, instruction_set

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

"""The parent's side of the pipe: one process per candidate, asked in turn; at most one works at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from benchmarks.peers.protocol import Job, Logits
from distill.errors import PotstillError

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 900.0


class PeerError(PotstillError):
    """A peer cannot be installed, will not start, or died."""


@dataclass(frozen=True)
class Singles:
    """Answers to single texts: milliseconds of each, and their logits, shape (texts, labels)."""

    ms: tuple[float, ...]
    logits: Logits


@dataclass(frozen=True)
class Many:
    """Answers to many texts at once: seconds for all, and their logits, shape (texts, labels)."""

    seconds: float
    logits: Logits


class Worker:
    """A candidate in a process of its own."""

    def __init__(self, name: str, process: subprocess.Popen[str], complaints: IO[str]) -> None:
        self.name = name
        self._process = process
        self._complaints = complaints
        self.about: dict[str, Any] = self._read()

    def single(self, texts: Sequence[str], *, warmup: int) -> Singles:
        """Time texts one at a time, after `warmup` of them unmeasured."""
        reply = self._ask({"mode": "single", "texts": list(texts), "warmup": warmup})
        return Singles(tuple(reply["ms"]), np.array(reply["logits"]))

    def many(self, texts: Sequence[str], *, warmup: int) -> Many:
        """Time all texts in one call, after `warmup` of them unmeasured."""
        reply = self._ask({"mode": "many", "texts": list(texts), "warmup": warmup})
        return Many(reply["seconds"], np.array(reply["logits"]))

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            given = cast(IO[str], self._process.stdin)
            given.write(json.dumps(request) + "\n")
            given.flush()
        except BrokenPipeError as exc:
            raise self._death() from exc
        return self._read()

    def _read(self) -> dict[str, Any]:
        watchdog = threading.Timer(TIMEOUT_S, self._process.kill)
        watchdog.daemon = True
        watchdog.start()
        line = cast(IO[str], self._process.stdout).readline()  # asleep: nothing competes with what is measured
        watchdog.cancel()
        if not line:
            raise self._death()
        return dict(json.loads(line))

    def _death(self) -> PeerError:
        self._process.wait()
        self._complaints.seek(0)
        lines = [line.strip() for line in self._complaints.read().splitlines() if line.strip()]
        return PeerError(f"{self.name} stopped with code {self._process.returncode}: {lines[-1] if lines else 'no word'}")


@contextmanager
def started(name: str, job: Job, *, python: Path | None = None) -> Iterator[Worker]:
    """Start `benchmarks.peers.<name>` and yield it once it is ready; it ends with the block.

    Args:
        name: Module of the peer.
        job: What it gets ready with.
        python: Its interpreter; None is this one.

    Raises:
        PeerError: It died or took more than 15 minutes.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    said = {
        "bundle": str(job.bundle.resolve()),
        "folder": str(job.folder.resolve()),
        "threads": job.threads,
        "calibration": list(job.calibration),
        "max_length": job.max_length,
    }
    threads = {name: str(job.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")}
    command = [str(python or sys.executable), "-m", f"benchmarks.peers.{name}", json.dumps(said)]
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as complaints,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
            cwd=ROOT,
            env={**os.environ, **threads, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true", "PYTHONWARNINGS": "ignore"},
        ) as process,
    ):
        try:
            yield Worker(name, process, complaints)
        finally:
            process.kill()

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

from distill.errors import PotstillError
from distill.texts import TextInput
from export.measure.children import child, run_child
from export.measure.protocol import PREPARE, Job, Logits, prepared_seconds

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 900.0
PREPARING_S = 7200.0


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


@dataclass(frozen=True)
class Settled:
    """How a warm-up went: seconds, calls, and whether the times had become steady."""

    settled_s: float
    steady: bool
    calls: int


@dataclass(frozen=True)
class Memory:
    """What a candidate's processes hold now and held at most; None where the system does not say."""

    rss_bytes: int | None
    peak_rss_bytes: int | None


class Worker:
    """A candidate in a process of its own."""

    def __init__(self, name: str, process: subprocess.Popen[str], complaints: IO[str], *, timeout_s: float = TIMEOUT_S) -> None:
        self.name = name
        self._process = process
        self._complaints = complaints
        self._timeout_s = timeout_s
        self.about: dict[str, Any] = self._read()

    def single(self, texts: Sequence[TextInput], *, warmup: int) -> Singles:
        """Time texts one at a time, after `warmup` of them unmeasured."""
        reply = self._ask({"mode": "single", "texts": list(texts), "warmup": warmup})
        return Singles(tuple(reply["ms"]), np.array(reply["logits"]))

    def many(self, texts: Sequence[TextInput]) -> Many:
        """Time all texts in one call."""
        reply = self._ask({"mode": "many", "texts": list(texts)})
        return Many(reply["seconds"], np.array(reply["logits"]))

    def settle(self, texts: Sequence[TextInput], kind: str, *, most_s: float, window_s: float) -> Settled:
        """Let it answer, `single` texts or `many` at once, until its times are steady, `most_s` seconds at most."""
        asked = {"mode": "settle", "kind": kind, "texts": list(texts), "most_s": most_s, "window_s": window_s}
        return Settled(**self._ask(asked))

    def memory(self) -> Memory:
        """Ask what its processes hold."""
        return Memory(**self._ask({"mode": "memory"}))

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            given = cast(IO[str], self._process.stdin)
            given.write(json.dumps(request) + "\n")
            given.flush()
        except BrokenPipeError as exc:
            raise self._death() from exc
        return self._read()

    def _read(self) -> dict[str, Any]:
        late = threading.Event()

        def give_up() -> None:
            late.set()
            self._process.kill()

        watchdog = threading.Timer(self._timeout_s, give_up)
        watchdog.daemon = True
        watchdog.start()
        line = cast(IO[str], self._process.stdout).readline()  # asleep: nothing competes with what is measured
        watchdog.cancel()
        if late.is_set():
            self._process.wait()
            raise PeerError(f"{self.name} did not answer within {self._timeout_s:g} s")
        if not line:
            raise self._death()
        return _object_of(self.name, line)

    def _death(self) -> PeerError:
        self._process.wait()
        self._complaints.seek(0)
        return PeerError(f"{self.name} stopped with code {self._process.returncode}: {last_word(self._complaints.read())}")


def _object_of(name: str, line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise PeerError(f"{name} answered {line.strip()[:80]!r}, wanted one JSON object a line")
    return found


@contextmanager
def started(
    module: str,
    job: Job,
    *,
    name: str | None = None,
    python: Path | None = None,
    timeout_s: float = TIMEOUT_S,
    cpu: int | None = None,
) -> Iterator[Worker]:
    """Start a process that opens what a module opens, and yield it once it is ready; it ends with the block.

    Args:
        module: Has `open_peer(job)`.
        job: What it gets ready with.
        name: Its name in errors; None is the module's.
        python: Its interpreter; None is this one.
        timeout_s: Seconds that it may take to get ready, and for each answer.
        cpu: The processor that it and what it starts are bound to; None is all.

    Raises:
        PeerError: It died, took too long, or answered something else than JSON.
    """
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as complaints,
        child(
            _command(module, job, python),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            **_surroundings(job),
        ) as process,
    ):
        if cpu is not None:
            os.sched_setaffinity(process.pid, {cpu})  # threads inherit it: Python itself has not begun by now
        yield Worker(name or module, process, complaints, timeout_s=timeout_s)


def prepare(module: str, job: Job, *, python: Path | None = None, timeout_s: float = PREPARING_S) -> float:
    """Let a module's `prepare(job)` train or convert into its folder, unless it has; return the seconds that took then.

    Raises:
        PeerError: It failed or took too long.
    """
    done = prepared_seconds(job)
    if done is not None:
        return done
    command, name = [*_command(module, job, python), PREPARE], module.rpartition(".")[2]
    try:
        ran = run_child(command, timeout_s=timeout_s, **_surroundings(job))
    except subprocess.TimeoutExpired as exc:
        raise PeerError(f"{name} was not ready after {timeout_s:g} s") from exc
    if ran.returncode:
        raise PeerError(f"{name} cannot get ready: {last_word(ran.stderr)}")
    return float(_object_of(name, ran.stdout)["prepared_s"])


def _command(module: str, job: Job, python: Path | None) -> list[str]:
    job.folder.mkdir(parents=True, exist_ok=True)
    return [str(python or sys.executable), "-m", "export.measure.protocol", module, job.to_json()]


def _surroundings(job: Job) -> dict[str, Any]:
    threads = {name: str(job.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")}
    quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true", "PYTHONWARNINGS": "ignore"}
    return {"text": True, "cwd": ROOT, "env": {**os.environ, **threads, **quiet}}


def last_word(complaints: str) -> str:
    """Return the last line that a process wrote, shortened."""
    lines = [line.strip() for line in complaints.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no word"

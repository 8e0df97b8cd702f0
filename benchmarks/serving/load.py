"""The parent's side of the load generator: start it, sleep meanwhile, read the samples, and say what may be said of them."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from benchmarks.serving.generator import LOST, REFUSED, STARTED, TIMED_OUT, Load
from distill.errors import PotstillError
from export.measure.children import child
from export.measure.statistics import MIN_SAMPLES, percentile, tail
from export.measure.workers import ROOT


@dataclass(frozen=True)
class Samples:
    """Every request of one load, in the order of their starts; times on one clock, in seconds.

    Attributes:
        due_s: When each should have started; in a closed loop, when it did.
        sent_s: When it was sent.
        free_s: When it could have been: it was due, and a connection was free.
        ended_s: When its answer was whole.
        status: HTTP status, or `LOST`, `TIMED_OUT`, `REFUSED`.
        answer: Number of its body in `bodies`.
        bodies: The distinct bodies; number 0 is empty.
        wall_s: From the first start to the last answer.
        cpu_s: Processor time of the generator in it.
    """

    due_s: NDArray[np.float64]
    sent_s: NDArray[np.float64]
    free_s: NDArray[np.float64]
    ended_s: NDArray[np.float64]
    status: NDArray[np.int64]
    answer: NDArray[np.int64]
    bodies: tuple[bytes, ...]
    wall_s: float
    cpu_s: float

    @classmethod
    def from_json(cls, text: str) -> Samples:
        """Read what a generator wrote."""
        found = json.loads(text)
        columns: dict[str, Any] = {name: np.array(values) for name, values in found["columns"].items()}
        return cls(**columns, **found["spent"], bodies=tuple(body.encode("latin-1") for body in found["bodies"]))

    @cached_property
    def latency_ms(self) -> NDArray[np.float64]:
        """From when each request was due to its whole answer, in milliseconds."""
        return (self.ended_s - self.due_s) * 1000

    @property
    def requests_per_second(self) -> float:
        """Answers with status 200 a second."""
        return self.count(200) / self.wall_s

    def count(self, *statuses: int) -> int:
        """Return how many requests ended with one of these."""
        return int(np.isin(self.status, statuses).sum())

    @property
    def failed(self) -> int:
        """Requests that ended with anything but status 200."""
        return len(self.status) - self.count(200)

    @property
    def lost(self) -> int:
        """Requests that were sent and never answered."""
        return self.count(LOST, TIMED_OUT)

    def statuses(self) -> dict[str, int]:
        """Return how often each status came, by name."""
        names = {LOST: "lost", TIMED_OUT: "timed_out", REFUSED: "refused"}
        found, counts = np.unique(self.status, return_counts=True)
        return {names.get(int(status), str(status)): int(count) for status, count in zip(found, counts, strict=True)}

    def latency(self, status: int = 200) -> dict[str, float | int | None]:
        """Return count and percentiles of the requests that ended so; None where there are too few samples for one."""
        return percentiles(self.latency_ms[self.status == status])

    def generator(self) -> dict[str, float]:
        """Return what the generator took itself: microseconds a request, its share of one processor, and how late it was."""
        late_ms = (self.sent_s - self.free_s) * 1000
        return {
            "us_per_request": self.cpu_s / max(1, len(self.due_s)) * 1e6,
            "processor_share": self.cpu_s / self.wall_s,
            "late_p99_ms": float(np.percentile(late_ms, 99)) if len(late_ms) else 0.0,
        }


def percentiles(*rounds: NDArray[np.float64]) -> dict[str, float | int | None]:
    """Return count, p50, p90 and p99 with its 95 % interval, in milliseconds; None if there are too few samples for one.

    Args:
        rounds: Latencies in the order of their starts. The unit of the interval is the round, or, of a single round, each
            tenth of it: slow moments come together.
    """
    values = np.concatenate(rounds)
    found: dict[str, float | int | None] = {f"p{each}_ms": percentile(values, each) for each in MIN_SAMPLES}
    p99 = tail(list(rounds) if len(rounds) > 1 else np.array_split(values, 10), 99)
    ends = {} if p99 is None else {"p99_low_ms": p99.low, "p99_high_ms": p99.high}
    return {"count": len(values), **found, **ends}


@dataclass(frozen=True)
class RunningLoad:
    """A load under way, and what its generator says."""

    process: subprocess.Popen[str]
    said: IO[str]

    def wait(self) -> Samples:
        """Sleep until it is done and return its samples.

        Raises:
            PotstillError: The generator died.
        """
        said = self.said.read()
        if code := self.process.wait():
            raise PotstillError(f"the load generator stopped with code {code}")
        return Samples.from_json(said)


@contextmanager
def running(load: Load) -> Iterator[RunningLoad]:
    """Start a load and yield it once the first requests are under way; it is killed if the block is left early."""
    with tempfile.TemporaryFile() as given:
        given.write(TypeAdapter(Load).dump_json(load))
        given.seek(0)
        command = [sys.executable, "-m", "benchmarks.serving.generator"]
        with child(command, stdin=given, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
            under_way = RunningLoad(process, cast("IO[str]", process.stdout))
            if under_way.said.readline() != STARTED:
                raise PotstillError(f"the load generator stopped with code {process.wait()} before it started")
            yield under_way


def run(load: Load) -> Samples:
    """Run a load and return its samples."""
    with running(load) as under_way:
        return under_way.wait()


def post(path: str, body: bytes, *lines: str) -> bytes:
    """Return a whole POST request with a JSON body; `lines` are further ones of its head."""
    usual = ("Host: 127.0.0.1", "Content-Type: application/json", f"Content-Length: {len(body)}")
    return "\r\n".join((f"POST {path} HTTP/1.1", *usual, *lines, "", "")).encode() + body

"""Measuring rows: candidates start together, take turns in every round, and end; a row that fails says why.

A scenario says what a turn is. The order of turns is drawn anew for every two rounds, there and back. A row is several
processes, one after the other: what two of them differ by is part of how sure a figure is. On one thread all have the same
processor. Rows are kept one by one, so an interrupted run goes on with those that are missing; the reference is measured
again with them, and ratios refer to it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from benchmarks.harness.candidates import CONVERTERS, PREPARED, WITHOUT_ADAPTER, Candidate, Task
from benchmarks.harness.environments import python_of
from benchmarks.harness.weights import write_portable
from distill.errors import SettingsError
from distill.progress import Reporter
from distill.settings import Settings
from distill.storage import write_atomically
from export.measure.circumstances import Session, Watch, cpu_for
from export.measure.protocol import Logits
from export.measure.statistics import MIN_PROCESSES
from export.measure.workers import PeerError, Settled, Worker, prepare, started

PROCESSES = 4
STARTS, TURNS = 0, 1


class SpeedSettings(Settings):
    """How much is measured, and how."""

    rounds: int = Field(0, ge=0, description="rounds; in each, every row takes its turn; 0 is what the scenario has")
    processes: int = Field(
        PROCESSES, ge=MIN_PROCESSES, description="processes of a row, one after the other; each has its share of the rounds"
    )
    texts: int = Field(0, ge=0, description="test texts that are answered and timed; 0 takes all")
    threads: int = Field(0, ge=0, description="threads of a row; 0 is one in single-stream and all processors in offline")
    settle_s: float = Field(8.0, gt=0, description="seconds of warm-up at most; it ends when the times are steady")
    window_s: float = Field(0.25, gt=0, description="seconds of a window of the warm-up; three in a row must agree")
    timeout_s: float = Field(300.0, gt=0, description="seconds a row may take to get ready, and for a turn")
    order: Literal["random", "alternating"] = Field("random", description="order of the turns in a round")
    together: int = Field(32, ge=2, description="rows that run in one session, the reference among them")
    seed: int = Field(0, ge=0, description="seed of orders and intervals")


CONVERTING_S = 900.0
QUICK = {"rounds": 8, "processes": MIN_PROCESSES, "texts": 80, "settle_s": 1.0}
"""What --quick sets: enough to see that it works, too little to keep."""


@dataclass
class Turns:
    """What one candidate did in a session.

    Attributes:
        about: What its processes said of themselves.
        settled: How the warm-up of each process went.
        ms: Times by round, in milliseconds.
        process_of: By round, the number of the process that answered.
        logits: Answers by the index of the text.
    """

    about: dict[str, Any]
    settled: list[Settled] = field(default_factory=list)
    ms: list[list[float]] = field(default_factory=list)
    process_of: list[int] = field(default_factory=list)
    logits: dict[int, Any] = field(default_factory=dict)

    def all_logits(self) -> Logits:
        """Return the answers in the order of the texts, shape (texts, labels)."""
        return np.array([self.logits[index] for index in sorted(self.logits)], dtype=np.float32)


Turn = Callable[[Worker, Turns, int], None]
"""Lets a worker answer in one round and notes times and answers."""


@dataclass(frozen=True)
class Measured:
    """A session's outcome: turns by name, reasons of those that failed by name."""

    turns: dict[str, Turns]
    failed: dict[str, str]
    session: Session


def measure_together(
    candidates: Sequence[Candidate],
    task: Task,
    settings: SpeedSettings,
    *,
    threads: int,
    turn: Turn,
    warm: Sequence[str],
    reporter: Reporter,
) -> Measured:
    """Start all candidates, let them take turns, and end them; one that fails drops out with its reason.

    Args:
        candidates: Ready to start; the first is the reference.
        task: What they are measured on.
        settings: Rounds, warm-up, limits.
        threads: Threads of each.
        turn: What is done in a turn.
        warm: Texts of the warm-up.
        reporter: Told of progress.
    """
    cpu = cpu_for(threads)
    watch = Watch(cpu=cpu)
    by_name = {candidate.name: candidate for candidate in candidates}
    turns: dict[str, Turns] = {}
    failed: dict[str, str] = {}
    with reporter.task("rounds", settings.rounds * len(candidates)) as advance:
        for process, rounds in enumerate(shares(settings.rounds, settings.processes)):
            with ExitStack() as stack:
                workers: dict[str, Worker] = {}
                for name in in_turn(list(by_name), process, settings, what=STARTS):
                    if name not in failed:
                        with dropping(name, failed, reporter):
                            start = opened(by_name[name], task, threads=threads, timeout_s=settings.timeout_s, cpu=cpu)
                            worker = stack.enter_context(start)
                            found = turns.setdefault(name, Turns(worker.about))
                            found.settled.append(worker.settle(warm, most_s=settings.settle_s, window_s=settings.window_s))
                            workers[name] = worker
                for number in rounds:
                    for name in in_turn(list(by_name), number, settings, what=TURNS):
                        if name not in failed:
                            with dropping(name, failed, reporter):
                                turn(workers[name], turns[name], number)
                                turns[name].process_of.append(process)
                        advance(1)
    return Measured({name: found for name, found in turns.items() if name not in failed}, failed, watch.session())


def shares(rounds: int, processes: int) -> list[range]:
    """Return which rounds each process of a row has, as evenly as may be.

    Raises:
        SettingsError: There are fewer rounds than processes.
    """
    if rounds < processes:
        raise SettingsError(f"{processes} processes need at least as many rounds, got {rounds}; give --rounds {processes}")
    edges = [rounds * number // processes for number in range(processes + 1)]
    return [range(first, last) for first, last in pairwise(edges)]


def make_ready(candidates: Sequence[Candidate], task: Task, *, reporter: Reporter) -> dict[str, str]:
    """Install, convert and train what is not there yet; return the reasons of those that cannot be, by name."""
    failed: dict[str, str] = {}
    for candidate in candidates:
        with dropping(candidate.name, failed, reporter):
            python = python_of(candidate.environment) if candidate.environment else None
            if candidate.module in WITHOUT_ADAPTER:
                raise PeerError(f"{candidate.name} loads here, and has no adapter: nowhere could one be tried")
            if candidate.kind == "peer" and candidate.module in PREPARED:
                reporter.say(f"{candidate.name} gets ready")
                prepare(candidate.module, task.job(candidate, threads=1), python=python)
            if candidate.module in CONVERTERS and not (stamp := task.folder(candidate) / "converted").exists():
                reporter.say(f"{candidate.name} converts the weights")
                write_portable(candidate.bundle, task.folder(candidate).parent)
                with opened(candidate, task, threads=1, timeout_s=CONVERTING_S):
                    stamp.touch()
    return failed


@contextmanager
def opened(candidate: Candidate, task: Task, *, threads: int, timeout_s: float, cpu: int | None = None) -> Iterator[Worker]:
    """Yield a candidate's process, ready to answer, bound to a processor or not.

    Raises:
        PeerError: It cannot be installed, died, or took too long.
    """
    python = python_of(candidate.environment) if candidate.environment else None
    job = task.job(candidate, threads=threads)
    with started(candidate.module, job, python=python, timeout_s=timeout_s, cpu=cpu) as worker:
        yield worker


def dealt(lengths: Sequence[int], rounds: int, *, seed: int) -> list[list[int]]:
    """Deal texts to rounds so that each round gets short and long ones alike; every text is dealt once.

    Args:
        lengths: Length of each text.
        rounds: Number of rounds.
        seed: Seed of who gets which.

    Returns:
        Indices of texts by round.
    """
    draw = np.random.default_rng(seed)
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    hands: list[list[int]] = [[] for _ in range(rounds)]
    for start in range(0, len(order), rounds):
        several = order[start : start + rounds]
        for index, place in zip(several, draw.permutation(rounds), strict=False):
            hands[place].append(index)
    for hand in hands:
        draw.shuffle(hand)
    return hands


class KeptRows:
    """Finished rows in a folder, one file each, named by what was measured and how; the rest is still to do."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, digest: str) -> dict[str, Any] | None:
        """Return a finished row, or None."""
        try:
            return dict(json.loads((self._folder / f"{digest}.json").read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return None

    def write(self, digest: str, row: dict[str, Any]) -> None:
        """Keep a row."""
        self._folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self._folder / f"{digest}.json", json.dumps(row, allow_nan=False))


def grouped(candidates: Iterable[Candidate], size: int) -> list[list[Candidate]]:
    """Return candidates in groups of at most `size`."""
    every = list(candidates)
    return [every[start : start + size] for start in range(0, len(every), size)]


@contextmanager
def dropping(name: str, failed: dict[str, str], reporter: Reporter) -> Iterator[None]:
    """Note the reason where a candidate fails in this block, and go on with the others."""
    try:
        yield
    except (PeerError, ValueError, KeyError, TypeError) as exc:  # the last three: an answer that is not one
        failed[name] = str(exc) if isinstance(exc, PeerError) else f"its answer cannot be used: {exc}"
        reporter.say(f"{name} is left out: {failed[name]}")


def in_turn(names: Sequence[str], number: int, settings: SpeedSettings, *, what: int) -> list[str]:
    """Return the order of a round: one for even numbers and back for the odd ones, so that none is early more often.

    Args:
        names: Who takes a turn.
        number: Of the round.
        settings: Whether the order is that of the names or drawn anew for every two rounds, and with which seed.
        what: Which draws: of starts, or of rounds.
    """
    if settings.order == "random":
        names = [names[index] for index in np.random.default_rng([settings.seed, what, number // 2]).permutation(len(names))]
    return list(names) if number % 2 == 0 else list(names)[::-1]

"""Taking turns: contenders start together, warm up, answer the same texts in every round, and end.

The one way of timing, of `potstill bench` and `potstill fit` as of every benchmark. A contender is several processes, one after
the other: by what two of them differ is part of how sure a figure is. Each warms up for the kind of work that is timed. The
order of turns is drawn for every two rounds, forward and back. On one thread all have the same processor. Times include
tokenization; all samples are kept.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np

from distill.errors import SettingsError
from distill.progress import Reporter
from distill.texts import TextInput
from export.measure.circumstances import Session, Watch, cpu_for
from export.measure.protocol import Job, Logits
from export.measure.workers import PeerError, Settled, Worker, started
from export.settings import TurnSettings

Kind = Literal["single", "many"]
"""One text at a time, or all at once."""

WARM_TEXTS = 20
STARTS, TURNS = 0, 1


@dataclass(frozen=True)
class Contender:
    """What is started to take turns.

    Attributes:
        name: Unlike any other's.
        module: Has `open_peer(job)`.
        job: What that gets ready with.
        python: Interpreter of its environment; None is this one.
    """

    name: str
    module: str
    job: Job
    python: Path | None = None

    def start(self, *, timeout_s: float, cpu: int | None = None) -> AbstractContextManager[Worker]:
        """Return a new process of it, ready to answer within the block.

        Raises:
            PeerError: It died, or took too long.
        """
        return started(self.module, self.job, name=self.name, python=self.python, timeout_s=timeout_s, cpu=cpu)


@dataclass
class Turns:
    """What one contender did.

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

    @property
    def steady(self) -> bool:
        """Whether the times of every process had become steady."""
        return all(each.steady for each in self.settled)

    def all_logits(self) -> Logits:
        """Return the answers in the order of the texts, shape (texts, labels)."""
        return np.array([self.logits[index] for index in sorted(self.logits)], dtype=np.float32)


@dataclass(frozen=True)
class Measured:
    """The outcome: turns by name, reasons of those that failed by name, and what happened on the machine meanwhile."""

    turns: dict[str, Turns]
    failed: dict[str, str]
    session: Session

    def required(self) -> dict[str, Turns]:
        """Return the turns of all.

        Raises:
            PeerError: One failed.
        """
        for name, reason in self.failed.items():
            raise PeerError(f"{name}: {reason}")
        return self.turns


def take_turns(
    contenders: Sequence[Contender],
    texts: Sequence[TextInput],
    hands: Sequence[Sequence[int]],
    kind: Kind,
    settings: TurnSettings,
    *,
    reporter: Reporter,
) -> Measured:
    """Start all contenders, let them take turns, and end them; one that fails drops out with its reason.

    Args:
        contenders: Who.
        texts: All texts.
        hands: By round, the indices of the texts that each answers in its turn.
        kind: Whether those are answered one at a time, or all at once.
        settings: Processes, warm-up, limits.
        reporter: Told of progress.

    Raises:
        SettingsError: There is no text, or there are fewer rounds than processes.
    """
    if not texts:
        raise SettingsError("there is no text to measure with")
    cpu = cpu_for(max(each.job.threads for each in contenders))
    watch, turns = Watch(cpu=cpu), dict[str, Turns]()
    failed: dict[str, str] = {}
    by_name = {each.name: each for each in contenders}
    warm = warm_texts(texts) if kind == "single" else [texts[index] for index in hands[0]]
    title = {"single": "latency", "many": "throughput"}[kind]
    with reporter.task(title, len(hands) * len(contenders)) as advance:
        for process, rounds in enumerate(shares(len(hands), settings.processes)):
            with ExitStack() as stack:
                workers: dict[str, Worker] = {}
                for name in _in_turn(list(by_name), process, settings, what=STARTS):
                    if name not in failed:
                        with dropping(name, failed, reporter):
                            workers[name] = stack.enter_context(by_name[name].start(timeout_s=settings.timeout_s, cpu=cpu))
                            found = turns.setdefault(name, Turns(workers[name].about))
                            found.settled.append(
                                workers[name].settle(warm, kind, most_s=settings.settle_s, window_s=settings.window_s)
                            )
                advance(0)  # the expected time counts from here: starting the processes takes longer than many rounds
                for number in rounds:
                    for name in _in_turn(list(by_name), number, settings, what=TURNS):
                        if name not in failed:
                            with dropping(name, failed, reporter):
                                _turn(workers[name], turns[name], texts, hands[number], kind)
                                turns[name].process_of.append(process)
                        advance(1)
    return Measured({name: found for name, found in turns.items() if name not in failed}, failed, watch.session())


def _turn(worker: Worker, turns: Turns, texts: Sequence[TextInput], hand: Sequence[int], kind: Kind) -> None:
    chosen = [texts[index] for index in hand]
    if kind == "single":
        answered = worker.single(chosen, warmup=min(5, len(hand)))
        turns.ms.append(list(answered.ms))
        turns.logits |= dict(zip(hand, answered.logits, strict=True))
    else:
        at_once = worker.many(chosen)
        turns.ms.append([1000 * at_once.seconds])
        turns.logits |= dict(zip(hand, at_once.logits, strict=True))


@dataclass(frozen=True)
class Fresh:
    """What a fresh process took; memory is None where the system does not say.

    Attributes:
        first_answer_s: From its start to its first answer, imports and loading included.
        ready_rss_bytes: Memory that it held after that.
        alone_rss_bytes: After every text, one at a time.
        used_rss_bytes: After all texts at once as well.
        peak_rss_bytes: At most.
        logits: Answers, one text at a time.
        about: What it said of itself.
    """

    first_answer_s: float
    ready_rss_bytes: int | None
    alone_rss_bytes: int | None
    used_rss_bytes: int | None
    peak_rss_bytes: int | None
    logits: Logits
    about: dict[str, Any]


def fresh_process(contender: Contender, texts: Sequence[TextInput], *, timeout_s: float, at_once: bool = True) -> Fresh:
    """Start a process, let it answer, and return what it took.

    Args:
        contender: Which.
        texts: Answered one at a time, the first of them first.
        timeout_s: Seconds that it may take to get ready, and for each request.
        at_once: Whether all texts are then answered at once, too.

    Raises:
        PeerError: It died, or took too long.
    """
    began = time.perf_counter()
    with contender.start(timeout_s=timeout_s) as worker:
        worker.single(texts[:1], warmup=0)
        seconds = time.perf_counter() - began
        ready = worker.memory()
        answered = worker.single(texts, warmup=0)
        used = alone = worker.memory()
        if at_once:
            worker.many(texts)
            used = worker.memory()
        memory = (ready.rss_bytes, alone.rss_bytes, used.rss_bytes, used.peak_rss_bytes)
        return Fresh(seconds, *memory, answered.logits.astype(np.float32), worker.about)


def shares(rounds: int, processes: int) -> list[range]:
    """Return which rounds each process of a row has, as evenly as may be.

    Raises:
        SettingsError: There are fewer rounds than processes.
    """
    if rounds < processes:
        raise SettingsError(f"{processes} processes need at least as many rounds, got {rounds}; give --rounds {processes}")
    edges = [rounds * number // processes for number in range(processes + 1)]
    return [range(first, last) for first, last in pairwise(edges)]


def dealt(texts: Sequence[TextInput], rounds: int, *, seed: int) -> list[list[int]]:
    """Deal texts to rounds so that each round gets short and long ones alike; every text is dealt once.

    Returns:
        Indices of texts by round.
    """
    draw = np.random.default_rng(seed)
    order = sorted(range(len(texts)), key=lambda index: _length(texts[index]))
    hands: list[list[int]] = [[] for _ in range(rounds)]
    for start in range(0, len(order), rounds):
        several = order[start : start + rounds]
        for index, place in zip(several, draw.permutation(rounds), strict=False):
            hands[place].append(index)
    for hand in hands:
        draw.shuffle(hand)
    return hands


def next_texts(count: int, rounds: int, per_round: int) -> list[list[int]]:
    """Return hands in which each round has the next of `count` texts, from the first again after the last."""
    return [[index % count for index in range(number * per_round, (number + 1) * per_round)] for number in range(rounds)]


def warm_texts(texts: Sequence[TextInput], count: int = WARM_TEXTS) -> list[TextInput]:
    """Return texts of all lengths: the shortest, the longest and some between."""
    order = sorted(texts, key=_length)
    step = max(1, len(order) // count)
    return order[::step][:count]


@contextmanager
def dropping(name: str, failed: dict[str, str], reporter: Reporter) -> Iterator[None]:
    """Note the reason if a contender fails in this block, and go on with the others."""
    try:
        yield
    except (PeerError, ValueError, KeyError, TypeError) as exc:  # the last three: an answer that is not one
        failed[name] = str(exc) if isinstance(exc, PeerError) else f"its answer cannot be used: {exc}"
        reporter.say(f"{name} is left out: {failed[name]}")


def in_order(names: Sequence[str], number: int, settings: TurnSettings) -> list[str]:
    """Return the order in which fresh processes of a round are started."""
    return _in_turn(names, number, settings, what=STARTS)


def _in_turn(names: Sequence[str], number: int, settings: TurnSettings, *, what: int) -> list[str]:
    """Return the order of a round: one for even numbers and back for the odd ones, so that none is early more often."""
    if settings.order == "random":
        names = [names[index] for index in np.random.default_rng([settings.seed, what, number // 2]).permutation(len(names))]
    return list(names) if number % 2 == 0 else list(names)[::-1]


def _length(text: TextInput) -> int:
    return len(text) if isinstance(text, str) else sum(map(len, text))


def slowed(contender: Contender, share: float, *, name: str) -> Contender:
    """Return a contender that is held back by a share of every answer's time, to test the instrument."""
    return replace(contender, name=name, job=replace(contender.job, slowdown=share))

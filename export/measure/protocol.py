"""The child's side of the pipe: a peer answers requests, one JSON object a line, and takes its own times.

The parent sleeps in a read meanwhile, so that nothing competes with what is measured. Runs in the peer's interpreter:
imports nothing but numpy and the standard library. `python -m export.measure.protocol MODULE JOB` calls the module's
`open_peer(job)`; with a third argument, its `prepare(job)`. Requests, by `mode`: `single` and `many` answer texts and say how
long that took, `settle` answers until the times are steady, `memory` says what the process holds.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TextIO

import numpy as np

Logits = np.ndarray
BATCH = 32
PREPARE = "prepare"
"""Second argument of a peer that shall train or convert, and end."""

STEADY = 0.03
WINDOWS = {"single": 3, "many": 2}
"""Windows of a warm-up that must agree, by kind of work."""


@dataclass(frozen=True)
class Peer:
    """A classifier ready to answer.

    Attributes:
        one: A text to its logits, shape (labels,), tokenization inside.
        many: Texts to logits, shape (texts, labels), in the texts' order, in batches of the peer's own choice.
        settings: What was set, for the row.
        source: Where those settings come from.
        size_bytes: Graph or weights on disk; None where it is not files of its own.
        gives: "logits", or "labels" where it says no more than which; its logits are then 1 for that label and 0 else.
        processes: Ids of processes of its own, whose memory counts too.
    """

    one: Callable[[str], Logits]
    many: Callable[[Sequence[str]], Logits]
    settings: dict[str, Any]
    source: str
    size_bytes: int | None = None
    gives: str = "logits"
    processes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Job:
    """What a peer is given to get ready.

    Attributes:
        bundle: The folder of what it runs: a bundle, or a graph with its tokenizer.
        folder: An empty or earlier filled folder of the peer's own.
        threads: Threads it may use.
        calibration: Texts that are neither measured nor tested on.
        max_length: Tokens kept of a text.
        labels: Label names, in the order of the logits.
        teacher: The teacher's folder, for a peer that distils.
        data: A JSON file with the texts to train on: `train`, `train_labels`, `validation`, `validation_labels` (ids).
        slowdown: Share by which every answer is held back, to see that the instrument finds it.
        options: What only this peer knows, such as a command or an address.
    """

    bundle: Path
    folder: Path
    threads: int
    calibration: tuple[str, ...] = ()
    max_length: int = 0
    labels: tuple[str, ...] = ()
    teacher: Path | None = None
    data: Path | None = None
    slowdown: float = 0.0
    options: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the job as the child reads it; paths are made absolute."""
        said = {name: str(value.resolve()) if isinstance(value, Path) else value for name, value in vars(self).items()}
        return json.dumps(said)

    @staticmethod
    def from_json(text: str) -> Job:
        """Return the job that the parent wrote."""
        given = json.loads(text)
        for name in ("bundle", "folder", "teacher", "data"):
            given[name] = None if given[name] is None else Path(given[name])
        return Job(**given | {name: tuple(given[name]) for name in ("calibration", "labels")})

    def training_texts(self) -> dict[str, Any]:
        """Return the texts to train on, with their label ids."""
        if self.data is None:
            raise ValueError("it has to be trained, and no training texts were named; give --train")
        return dict(json.loads(self.data.read_text(encoding="utf-8")))


def in_length_order(texts: Sequence[str], answer: Callable[[list[str]], Logits], *, batch: int = BATCH) -> Logits:
    """Answer texts in batches of like length and return the logits in the order of the texts."""
    order = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
    parts = [answer([texts[index] for index in order[start : start + batch]]) for start in range(0, len(order), batch)]
    return in_place(order, np.concatenate(parts))


def in_place(order: Sequence[int], logits: Logits) -> Logits:
    """Return rows given in `order` in the order of the texts."""
    answers = np.empty_like(logits)
    answers[np.asarray(order)] = logits
    return answers


def main(module: str, given: str, *prepare: str) -> None:
    """Get ready with a job, then answer the requests on stdin until it closes; or only prepare, and say how long that took."""
    # What libraries print of their own accord must not stand among the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    job, own = Job.from_json(given), importlib.import_module(module)
    if prepare:
        _say(answers, {"prepared_s": _prepared(job, own.prepare)})
        return
    peer = _slowed(own.open_peer(job), job.slowdown)
    about = {"settings": peer.settings, "source": peer.source, "size_bytes": peer.size_bytes, "gives": peer.gives}
    _say(answers, about)
    for line in sys.stdin:
        _say(answers, _answer(peer, json.loads(line)))


def prepared_seconds(job: Job) -> float | None:
    """Return the seconds that getting a peer ready took; None where that is not done."""
    stamp = job.folder / "prepared.json"
    return float(json.loads(stamp.read_text())["prepared_s"]) if stamp.exists() else None


def _prepared(job: Job, prepare: Callable[[Job], None]) -> float:
    done = prepared_seconds(job)
    if done is not None:
        return done
    job.folder.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    prepare(job)
    seconds = time.perf_counter() - started
    (job.folder / "prepared.json").write_text(json.dumps({"prepared_s": seconds}))
    return seconds


def _slowed(peer: Peer, share: float) -> Peer:
    if not share:
        return peer

    def held_back(answer: Callable[[Any], Logits], given: Any) -> Logits:
        started = time.perf_counter()
        logits = answer(given)
        until = started + (time.perf_counter() - started) * (1 + share)
        while time.perf_counter() < until:  # asleep, the processor would slow down and the next answer with it
            pass
        return logits

    return replace(peer, one=lambda text: held_back(peer.one, text), many=lambda texts: held_back(peer.many, texts))


def _answer(peer: Peer, request: dict[str, Any]) -> dict[str, Any]:
    if request["mode"] == "memory":
        return memory_of((os.getpid(), *peer.processes))
    if request["mode"] == "settle":
        texts, kind = _texts(request), request["kind"]
        answer, calls = (peer.one, texts) if kind == "single" else (peer.many, [texts])
        return settle(answer, calls, windows=WINDOWS[kind], most_s=request["most_s"], window_s=request["window_s"])
    return _single(peer, request) if request["mode"] == "single" else _many(peer, request)


def _texts(request: dict[str, Any]) -> list[Any]:
    """Return the texts of a request; a pair of texts is a tuple again."""
    return [tuple(text) if isinstance(text, list) else text for text in request["texts"]]


def settle(
    answer: Callable[[Any], Logits],
    calls: Sequence[Any],
    *,
    windows: int,
    most_s: float,
    window_s: float,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """Repeat calls until the medians of consecutive windows are within 3 % of each other, or the time is up.

    Args:
        answer: What is called.
        calls: Its arguments, repeated in their order; a window ends after a whole pass.
        windows: How many must agree.
        most_s: Seconds at most, but for the first `windows` passes of a single call.
        window_s: Seconds of a window at least.
        clock: Seconds.

    Returns:
        `settled_s`, `steady`, and `calls`.
    """
    began = clock()
    medians: list[float] = []
    count = 0
    while True:
        window = clock()
        times: list[float] = []
        while not times or clock() - window < window_s:
            for call in calls:
                started = clock()
                answer(call)
                times.append(clock() - started)
                if len(calls) > 1 and clock() - began > most_s:
                    return {"settled_s": clock() - began, "steady": False, "calls": count + len(times)}
        count += len(times)
        medians = [*medians, float(np.median(times))][-windows:]
        steady = len(medians) == windows and max(medians) <= (1 + STEADY) * min(medians)
        if steady or (len(medians) == windows and clock() - began > most_s):
            return {"settled_s": clock() - began, "steady": steady, "calls": count}


def memory_of(processes: Sequence[int]) -> dict[str, int | None]:
    """Return the memory that processes and what they started hold now and held at most, in bytes; None off Linux."""
    if not Path("/proc/self/status").exists():
        return {"rss_bytes": None, "peak_rss_bytes": None}
    everyone = _with_children(processes)
    return {
        "rss_bytes": sum(status_bytes(process, "VmRSS:") for process in everyone),
        "peak_rss_bytes": sum(status_bytes(process, "VmHWM:") for process in everyone),
    }


def _with_children(processes: Sequence[int]) -> list[int]:
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:  # it ended meanwhile
                continue
    found = list(dict.fromkeys(processes))
    for process in found:
        found += [child for child, parent in parents.items() if parent == process and child not in found]
    return found


def status_bytes(process: int, key: str) -> int:
    """Return what `/proc/PID/status` says of a process under a key, such as `VmHWM:`; 0 once it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(key)), 0)


def _single(peer: Peer, request: dict[str, Any]) -> dict[str, Any]:
    texts = _texts(request)
    for text in texts[: request["warmup"]]:
        peer.one(text)
    times, logits = [], []
    for text in texts:
        started = time.perf_counter()
        answer = peer.one(text)
        times.append((time.perf_counter() - started) * 1000)
        logits.append(np.asarray(answer, dtype=float).tolist())
    return {"ms": times, "logits": logits}


def _many(peer: Peer, request: dict[str, Any]) -> dict[str, Any]:
    texts = _texts(request)
    started = time.perf_counter()
    logits = peer.many(texts)
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "logits": np.asarray(logits, dtype=float).tolist()}


def _say(answers: TextIO, reply: dict[str, Any]) -> None:
    answers.write(json.dumps(reply) + "\n")
    answers.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])

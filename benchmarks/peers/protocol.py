"""The child's side of the pipe: a peer answers requests, one JSON object a line, and takes its own times.

The parent sleeps in a read meanwhile, so that nothing competes with what is measured. Runs in the peer's interpreter:
imports nothing but numpy and the standard library.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np

Logits = np.ndarray
BATCH = 32


@dataclass(frozen=True)
class Peer:
    """A classifier ready to answer.

    Attributes:
        one: A text to its logits, shape (labels,), tokenization inside.
        many: Texts to logits, shape (texts, labels), in the texts' order, in batches of the peer's own choice.
        settings: What was set, for the row.
        source: Where those settings come from.
        size_bytes: Graph or weights on disk; None where it is not files of its own.
    """

    one: Callable[[str], Logits]
    many: Callable[[Sequence[str]], Logits]
    settings: dict[str, Any]
    source: str
    size_bytes: int | None = None


@dataclass(frozen=True)
class Job:
    """What a peer is given to get ready.

    Attributes:
        bundle: The student's (or teacher's) folder.
        folder: An empty or earlier filled folder of the peer's own.
        threads: Threads it may use.
        calibration: Texts that are neither measured nor tested on.
        max_length: Tokens kept of a text.
    """

    bundle: Path
    folder: Path
    threads: int
    calibration: tuple[str, ...]
    max_length: int


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


def serve(open_peer: Callable[[Job], Peer]) -> None:
    """Get ready with the job given as the first argument, then answer the requests on stdin until it closes."""
    # What libraries print of their own accord must not stand among the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    given = json.loads(sys.argv[1])
    job = Job(
        bundle=Path(given["bundle"]),
        folder=Path(given["folder"]),
        threads=given["threads"],
        calibration=tuple(given["calibration"]),
        max_length=given["max_length"],
    )
    peer = open_peer(job)
    _say(answers, {"settings": peer.settings, "source": peer.source, "size_bytes": peer.size_bytes})
    for line in sys.stdin:
        request = json.loads(line)
        reply = _single(peer, request) if request["mode"] == "single" else _many(peer, request)
        _say(answers, reply)


def _single(peer: Peer, request: dict[str, Any]) -> dict[str, Any]:
    texts = request["texts"]
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
    texts = request["texts"]
    if request["warmup"]:
        peer.many(texts[: request["warmup"]])
    started = time.perf_counter()
    logits = peer.many(texts)
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "logits": np.asarray(logits, dtype=float).tolist()}


def _say(answers: TextIO, reply: dict[str, Any]) -> None:
    answers.write(json.dumps(reply) + "\n")
    answers.flush()

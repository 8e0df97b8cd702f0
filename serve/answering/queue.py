"""Micro-batching: requests that wait while the engine is busy are answered together.

Knows nothing of HTTP or ONNX. Requests wait in a bounded queue; idle threads take batches from it at once, so no request
is delayed to form a batch. Large requests are taken in portions, in turn with the others. A batch that takes too long is
given up.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple, cast

from distill.classifier import TextInput
from serve.answering.admission import Admission
from serve.answering.engine import Engine, RowAnswer
from serve.answering.workers import Crew, Worker
from serve.errors import Reason, Refusal

logger = logging.getLogger(__name__)

CHARS_PER_TOKEN = 4
"""In plain English; only used to form batches, the runtime counts exactly."""

PORTION_TOKENS = 128
"""Tokens that a request may put into one batch before the next request has its turn."""


@dataclass(eq=False)
class Pending:
    """A request in the queue.

    Attributes:
        texts: At least one.
        engine: Answers all its texts.
        future: Receives the answers.
        cost: Estimated tokens of each text.
        is_wanted: Returns whether the client still waits.
        answers: Answers so far, in the order of the texts.
        missing: Texts without an answer.
        since: `time.perf_counter()` when it entered the queue.
        taken: Texts already taken into a batch.
    """

    texts: Sequence[TextInput]
    engine: Engine
    future: asyncio.Future[list[RowAnswer]]
    cost: list[int]
    is_wanted: Callable[[], bool]
    answers: list[RowAnswer | None]
    missing: int
    since: float
    taken: int = 0


class Portion(NamedTuple):
    """Texts `start` to `stop` of one request in a batch, and their estimated tokens."""

    request: Pending
    start: int
    stop: int
    tokens: int


class Computed(NamedTuple):
    """What a batch was and took.

    Attributes:
        texts: How many.
        tokens: How many, estimated.
        seconds: To tokenize and compute it.
        waits_s: How long each request waited in the queue whose first texts are in it.
    """

    texts: int
    tokens: int
    seconds: float
    waits_s: Sequence[float]


class Batcher:
    """A bounded queue and the threads that empty it."""

    def __init__(
        self,
        *,
        threads: int,
        max_queue: int,
        max_batch_tokens: int,
        timeout_s: float = 10.0,
        on_batch: Callable[[Computed], object] = lambda _: None,
        on_replaced: Callable[[], object] = lambda: None,
    ) -> None:
        """Start the threads.

        Args:
            threads: Batches computed at once.
            max_queue: Texts that may wait.
            max_batch_tokens: Estimated tokens of a batch.
            timeout_s: Longest time that a batch may take; its thread is replaced then.
            on_batch: Receives what each batch was and took, in the thread that computed it.
            on_replaced: Called for each thread that is replaced.
        """
        self.admission = Admission(threads=threads, max_queue=max_queue)
        self.idle_threads = 0
        self._max_batch_tokens = max_batch_tokens
        self._on_batch = on_batch
        self._waiting: deque[Pending] = deque()
        self._ready = threading.Condition(threading.Lock())
        self._closed = False
        self._will_wake = False
        self._crew: Crew[list[Portion]] = Crew(
            self._work, threads=threads, limit_s=timeout_s, on_lost=_give_up, on_replaced=on_replaced
        )

    @property
    def is_answering(self) -> bool:
        """Whether a thread is there that computes; False when all of them hang."""
        return self._crew.is_answering

    async def submit(
        self, texts: Sequence[TextInput], engine: Engine, *, deadline_s: float, is_wanted: Callable[[], bool] = lambda: True
    ) -> list[RowAnswer]:
        """Return the answers in the order of the texts.

        Args:
            texts: At least one.
            engine: Answers all texts, even when a reload replaces it meanwhile.
            deadline_s: Seconds until the answer is no longer wanted.
            is_wanted: Returns whether the client is still connected; called from other threads.

        Raises:
            Refusal: The queue is full, or the deadline passed.
        """
        loop, count = asyncio.get_running_loop(), len(texts)
        costs = [_estimated_tokens(text, engine.max_length) for text in texts]
        self.admission.refuse_if_full(count, tokens=sum(costs), deadline_s=deadline_s)
        request = Pending(texts, engine, loop.create_future(), costs, is_wanted, [None] * count, count, time.perf_counter())
        timer = loop.call_later(deadline_s, _expire, request.future)  # costs less than `asyncio.timeout`
        with self._ready:
            self._waiting.append(request)
            self.admission.count(count, sum(costs))
        if not self._will_wake:
            self._will_wake = True
            loop.call_soon(self._wake)
        try:
            answers = await request.future
        finally:
            timer.cancel()
        if loop.time() >= timer.when():  # a busy event loop may deliver an answer after the deadline
            raise late()
        return answers

    def close(self) -> None:
        """Let the threads end when the queue is empty, and wait for them."""
        with self._ready:
            self._closed = True
            self._ready.notify_all()
        self._crew.close()

    def _wake(self) -> None:
        """Wake one thread for all requests that the event loop read in one turn: they form one batch."""
        self._will_wake = False
        with self._ready:
            self._ready.notify()

    def _work(self, worker: Worker[list[Portion]]) -> None:
        while not worker.is_replaced and (batch := self._next_batch()):
            worker.begin(batch)
            started = time.perf_counter()
            answers = _answered(batch)
            if not worker.is_given_up:
                self._record(batch, started, time.perf_counter() - started)
            _hand_over(batch, answers)
            worker.end()

    def _record(self, batch: list[Portion], started: float, seconds: float) -> None:
        texts, tokens = sum(portion.stop - portion.start for portion in batch), sum(portion.tokens for portion in batch)
        self.admission.learn(texts, tokens, seconds)
        waits_s = [started - request.since for request, start, *_ in batch if not start]
        self._on_batch(Computed(texts, tokens, seconds, waits_s))

    def _next_batch(self) -> list[Portion]:
        """Wait for work and return a batch for one engine; empty when closed."""
        with self._ready:
            self.idle_threads += 1
            while not (batch := self._take()) and (self._waiting or not self._closed):
                self._ready.wait()
            self.idle_threads -= 1
            return batch

    def _take(self) -> list[Portion]:
        batch: list[Portion] = []
        # At most this thread's share among the idle ones: otherwise it takes everything and the others stay idle.
        room = min(self._max_batch_tokens, -(-self.admission.waiting_tokens // self.idle_threads))
        unfinished: list[Pending] = []
        while self._waiting and room > 0:
            request = self._waiting[0]
            if request.future.done() or not request.is_wanted():
                self._waiting.popleft()
                self.admission.count(request.taken - len(request.texts), -sum(request.cost[request.taken :]))
                # The request, and a shutdown, would otherwise wait for its deadline.
                _hand_over([Portion(request, 0, 0, 0)], [Refusal(Reason.GONE, "the client disconnected")])
                continue
            if batch and request.engine is not batch[0].request.engine:
                break
            self._waiting.popleft()
            portion = _portion_of(request, room)
            room -= portion.tokens
            batch.append(portion)
            self.admission.count(portion.start - portion.stop, -portion.tokens)
            if request.taken < len(request.texts):
                unfinished.append(request)
        self._waiting.extend(unfinished)
        if self._waiting:
            self._ready.notify()
        return batch


def late() -> Refusal:
    """Return the refusal of a request whose deadline has passed."""
    return Refusal(Reason.LATE, "the answer was not ready by the deadline")


def _expire(future: asyncio.Future[list[RowAnswer]]) -> None:
    if not future.done():
        future.set_exception(late())


def _portion_of(request: Pending, room: int) -> Portion:
    """Take the next texts of a request: at least one, and more while they fit."""
    start, spent, limit = request.taken, 0, min(PORTION_TOKENS, room)
    while request.taken < len(request.texts) and (not spent or spent + request.cost[request.taken] <= limit):
        spent += request.cost[request.taken]
        request.taken += 1
    return Portion(request, start, request.taken, spent)


def _estimated_tokens(text: TextInput, max_length: int) -> int:
    chars = len(text) if isinstance(text, str) else sum(map(len, text))
    return min(max_length, chars // CHARS_PER_TOKEN + 2)


def _answered(batch: list[Portion]) -> list[list[RowAnswer] | Exception]:
    """Return each portion's answers, or its error: a text that cannot be answered fails only its own request."""
    texts = [text for request, start, stop, _ in batch for text in request.texts[start:stop]]
    try:
        answers = iter(batch[0].request.engine.answer(texts))
    except BaseException as exc:  # an error belongs to a request; the thread must go on
        if len(batch) > 1:
            return [_answered([portion])[0] for portion in batch]
        if isinstance(exc, Exception):
            return [exc]
        # A panic of a native library is no Exception, and would end the thread and the task that waits for the answer.
        logger.exception("computing a batch failed in a native library")
        return [Refusal(Reason.NOT_READY, "computing the answer failed")]
    return [list(islice(answers, portion.stop - portion.start)) for portion in batch]


def _give_up(batch: list[Portion]) -> None:
    """Refuse the requests of a batch that takes too long or whose thread died."""
    _hand_over(batch, [Refusal(Reason.NOT_READY, "computing the answer took too long", retry_after_s=1)] * len(batch))


def _hand_over(batch: list[Portion], answers: Sequence[list[RowAnswer] | Exception]) -> None:
    """Deliver the answers or errors of a batch from another thread than the event loop's."""
    with suppress(RuntimeError):  # the event loop is closed: nobody waits
        batch[0].request.future.get_loop().call_soon_threadsafe(_deliver, batch, answers)


def _deliver(batch: list[Portion], answers: Sequence[list[RowAnswer] | Exception]) -> None:
    """Put the answers of a batch together; a request is answered when none of its texts is missing."""
    for (request, start, stop, _), answer in zip(batch, answers, strict=True):
        if request.future.done():
            continue
        if isinstance(answer, Exception):
            request.future.set_exception(answer)
            continue
        request.answers[start:stop] = answer
        request.missing -= len(answer)
        if not request.missing:
            request.future.set_result(cast(list[RowAnswer], request.answers))

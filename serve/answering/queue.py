"""Micro-batching: requests that wait while the engine is busy are answered together.

Knows nothing of HTTP or ONNX. A request waits until a thread has read its texts, a portion at a time, and then, as token ids,
until they are computed. Clients take turns in both, and so do the requests of one client: a large one is taken in portions.
Idle threads take batches at once, so no request is delayed to form a batch. One that takes too long is given up.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import islice
from typing import Literal, NamedTuple

from distill.classifier import TextInput
from distill.errors import PotstillError
from distill.settings import LongTexts
from serve.answering.admission import TURN_TOKENS, Admission, busy
from serve.answering.engine import Engine, RowAnswer
from serve.answering.reading import READ_CHARS, Outcome, Pending, Portion, portion_to_read, read
from serve.answering.turns import Turns
from serve.answering.workers import Crew, Worker
from serve.errors import Reason, Refusal, error_of, without_frames


class Computed(NamedTuple):
    """What a batch was and took.

    Attributes:
        texts: How many.
        tokens: How many, padding aside.
        seconds: To compute it.
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
            max_batch_tokens: Tokens of a batch.
            timeout_s: Longest time that a batch, or reading a portion, may take; its thread is replaced then.
            on_batch: Receives what each batch was and took, in the thread that computed it.
            on_replaced: Called for each thread that is replaced.
        """
        self.admission = Admission(threads=threads, max_queue=max_queue)
        self.idle_threads = 0
        self._max_batch_tokens = max_batch_tokens
        self._on_batch = on_batch
        self._unread: Turns[Pending] = Turns()
        self._waiting: Turns[Pending] = Turns()
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
        self,
        texts: Sequence[TextInput],
        engine: Engine,
        *,
        client: str = "",
        long_texts: LongTexts | Literal["refuse"] = "truncate",
        deadline_s: float,
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> list[RowAnswer]:
        """Return the answers in the order of the texts.

        Args:
            texts: At least one.
            engine: Answers all texts, even when a reload replaces it meanwhile.
            client: Who asks; clients take turns.
            long_texts: What happens to texts with more tokens than the engine reads.
            deadline_s: Seconds until the answer is no longer wanted.
            is_wanted: Returns whether the client is still connected; called from other threads.

        Raises:
            Refusal: The queue is full, the deadline passed, or a text has too many tokens.
            DatasetError: A text cannot be encoded.
            SettingsError: The model takes no pairs.
        """
        loop, tokens = asyncio.get_running_loop(), self.admission.estimate(len(texts))
        self.admission.refuse_if_full(client, len(texts), tokens=tokens, deadline_s=deadline_s)
        request = Pending(
            texts,
            client,
            engine,
            long_texts,
            loop.create_future(),
            is_wanted,
            time.monotonic() + deadline_s,
            time.perf_counter(),
        )
        timer = loop.call_later(deadline_s, _expire, request.future)  # costs less than `asyncio.timeout`
        with self._ready:
            self._unread.add(client, request)
            self._book(request, len(texts), tokens)
            self._make_room()
        if not self._will_wake:
            self._will_wake = True
            loop.call_soon(self._wake)
        try:
            answers = await request.future
        finally:
            timer.cancel()
            # A refusal holds this frame, and the request holds the refusal: the cycle would keep a replaced engine for long.
            del request
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

    def _make_room(self) -> None:
        """Refuse the last requests of the client with the most texts, where another client has put too many in the queue."""
        while client := self.admission.greediest():
            request = self._unread.drop_last(client) or self._waiting.drop_last(client)
            if request is None:  # it is being read
                return
            self._book(request, 0, 0)
            if not request.future.done():
                request.future.set_exception(busy(self.admission.expected_wait_s(client)))

    def _work(self, worker: Worker[list[Portion]]) -> None:
        while not worker.is_replaced and self._has_work():
            self._take_turn(worker)  # a function of its own: a thread that waits must not hold an engine that was replaced

    def _take_turn(self, worker: Worker[list[Portion]]) -> None:
        """Read a portion, if one waits, then compute a batch."""
        if unread := self._take_unread():
            worker.begin(unread)
            self._queue_read(unread, read(unread))
            worker.end()
        if not worker.is_replaced and (batch := self._take()):
            worker.begin(batch)
            started = time.perf_counter()
            answers = _answered(batch)
            if not worker.is_given_up:
                self._record(batch, started, time.perf_counter() - started)
            _hand_over(batch, answers)
            worker.end()

    def _record(self, batch: list[Portion], started: float, seconds: float) -> None:
        texts, tokens = sum(portion.stop - portion.start for portion in batch), sum(portion.cost for portion in batch)
        self.admission.learn(texts, tokens, seconds)
        waits_s = [started - request.since for request, start, *_ in batch if not start]
        self._on_batch(Computed(texts, tokens, seconds, waits_s))

    def _has_work(self) -> bool:
        """Wait for work; False when closed and there is none."""
        with self._ready:
            self.idle_threads += 1
            while not (self._unread or self._waiting or self._closed):
                self._ready.wait()
            self.idle_threads -= 1
            return bool(self._unread or self._waiting)

    def _take_unread(self) -> list[Portion]:
        """Return texts to read, for one engine; their requests are in no line until then."""
        with self._ready:
            portions: list[Portion] = []
            room = READ_CHARS
            while room > 0 and (request := self._first(self._unread)):
                if portions and request.engine is not portions[0].request.engine:
                    break
                portion = portion_to_read(request, room)
                if portions and portion.cost > room:  # those before it would wait until it is read
                    break
                portions.append(portion)
                room -= portion.cost
                self._unread.end_turn(portion.cost, is_done=True)
                self._book(request, 0, 0)
            if self._unread:
                self._ready.notify()
            return portions

    def _queue_read(self, portions: list[Portion], outcomes: list[Outcome]) -> None:
        """Put requests whose texts are all read in the queue, if they can be answered in time, and the others back."""
        with self._ready:
            for portion, (error, num_chars) in zip(portions, outcomes, strict=True):
                request = portion.request
                if num_chars != portion.cost:
                    self._unread.charge(request.client, num_chars - portion.cost)
                if error is None and not request.is_read:
                    self._unread.add(request.client, request)
                    self._book(request, len(request.texts), self.admission.estimate(len(request.texts)))
                elif error := error or self._error_of_entering(request):
                    _hand_over([portion], [error])

    def _error_of_entering(self, request: Pending) -> Refusal | None:
        """Let a request into the queue at its exact cost, or return why not.

        Only one that costs more than was expected, by more than a turn, is judged again.
        """
        rows, tokens = len(request.rows), sum(len(row.ids) for row in request.rows)
        if tokens > self.admission.estimate(len(request.texts)) + TURN_TOKENS:
            try:
                self.admission.refuse_if_full(request.client, rows, tokens=tokens, deadline_s=request.due - time.monotonic())
            except Refusal as refusal:
                return refusal
        self._book(request, rows, tokens)
        self._waiting.add(request.client, request)
        return None

    def _first(self, turns: Turns[Pending]) -> Pending | None:
        """Return the request whose turn it is; those that nobody waits for leave."""
        while turns:
            request = turns.first()
            if not request.future.done() and request.is_wanted():
                return request
            turns.end_turn(0, is_done=True)
            self._book(request, 0, 0)
            # The request, and a shutdown, would otherwise wait for its deadline.
            _hand_over([Portion(request, 0, 0, 0)], [Refusal(Reason.GONE, "the client disconnected")])
        return None

    def _book(self, request: Pending, texts: int, tokens: int) -> None:
        """Let admission count so much of a request."""
        before, request.booked = request.booked, (texts, tokens)
        self.admission.count(request.client, texts - before[0], tokens - before[1])

    def _take(self) -> list[Portion]:
        """Return a batch for one engine; empty if nothing is there to compute."""
        with self._ready:
            batch: list[Portion] = []
            # At most this thread's share among the idle ones: otherwise it takes everything and the others stay idle.
            room = min(self._max_batch_tokens, -(-self.admission.waiting_tokens // (self.idle_threads + 1)))
            while (not batch or room > 0) and (request := self._first(self._waiting)):
                if batch and request.engine is not batch[0].request.engine:
                    break
                portion = _portion_of(request, room)
                batch.append(portion)
                room -= portion.cost
                texts, tokens = request.booked
                self._book(request, texts - (portion.stop - portion.start), tokens - portion.cost)
                self._waiting.end_turn(portion.cost, is_done=request.taken == len(request.rows))
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
    """Take the next rows of a request: at least one, and more while they fit."""
    start, spent, limit = request.taken, 0, min(TURN_TOKENS, room)
    while request.taken < len(request.rows) and (not spent or spent + len(request.rows[request.taken].ids) <= limit):
        spent += len(request.rows[request.taken].ids)
        request.taken += 1
    return Portion(request, start, request.taken, spent)


def _answered(batch: list[Portion]) -> list[list[RowAnswer] | Exception]:
    """Return each portion's answers, or its error: a text that cannot be answered fails only its own request."""
    rows = [row for request, start, stop, _ in batch for row in request.rows[start:stop]]
    try:
        answers = iter(batch[0].request.engine.answer(rows))
    except BaseException as exc:  # noqa: BLE001  # an error belongs to a request; the thread must go on
        return [error_of(exc)] if len(batch) == 1 else [_answered([portion])[0] for portion in batch]
    return [list(islice(answers, portion.stop - portion.start)) for portion in batch]


def _give_up(batch: list[Portion]) -> None:
    """Refuse the requests of a batch that takes too long or whose thread died."""
    _hand_over(batch, [Refusal(Reason.NOT_READY, "computing the answer took too long", retry_after_s=1)] * len(batch))


def _hand_over(batch: list[Portion], answers: Sequence[list[RowAnswer] | Exception]) -> None:
    """Deliver the answers or errors of a batch from another thread than the event loop's."""
    for answer in answers:
        if isinstance(answer, Refusal | PotstillError):  # others are logged with their frames
            without_frames(answer)
    with suppress(RuntimeError):  # the event loop is closed: nobody waits
        batch[0].request.future.get_loop().call_soon_threadsafe(_deliver, batch, answers)


def _deliver(batch: list[Portion], answers: Sequence[list[RowAnswer] | Exception]) -> None:
    """Put the answers of a batch together; a request is answered when none of its rows is missing."""
    for (request, start, stop, _), answer in zip(batch, answers, strict=True):
        if request.future.done():
            continue
        if isinstance(answer, Exception):
            request.future.set_exception(answer)
            continue
        request.answers[start:stop] = answer
        request.missing -= len(answer)
        if not request.missing:
            request.future.set_result(request.result())

"""Micro-batching: what waits while the engine is busy is answered together.

Knows nothing of HTTP or ONNX. Requests wait in a bounded queue; threads take batches from it the moment they are free,
so that a request is never delayed for the sake of a batch. Large requests are taken in portions, in turn with the others.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import cast

from distill.classifier import TextInput
from serve.answering.engine import Engine, RowAnswer
from serve.errors import Reason, Refusal

CHARS_PER_TOKEN = 4
"""Of plain English; only to join texts, the runtime counts exactly."""

PORTION_TOKENS = 128
"""What a request may put into one batch before the next one has its turn."""

WAIT_SHARE = 1 / 6
"""Of its deadline a request may be expected to wait; the rest is for what is under way, the event loop, and wrong estimates."""


@dataclass(eq=False)
class Pending:
    """A request's texts on their way through the queue."""

    texts: Sequence[TextInput]
    engine: Engine
    future: asyncio.Future[list[RowAnswer]]
    cost: list[int]
    is_wanted: Callable[[], bool]
    taken: int = 0
    answers: list[RowAnswer | None] = field(default_factory=list)
    missing: int = 0

    @property
    def waiting_tokens(self) -> int:
        """Estimated tokens of the texts that are in no batch yet."""
        return sum(self.cost[self.taken :])

    @property
    def is_over(self) -> bool:
        """Nobody waits for it any more."""
        return self.future.done() or not self.is_wanted()


@dataclass(frozen=True)
class Portion:
    """Texts of one asked in a batch."""

    asked: Pending
    start: int
    stop: int

    @property
    def texts(self) -> Sequence[TextInput]:
        """Return them."""
        return self.asked.texts[self.start : self.stop]

    @property
    def tokens(self) -> int:
        """Return how many they are, estimated."""
        return sum(self.asked.cost[self.start : self.stop])


class Batcher:
    """A bounded queue and the threads that empty it."""

    def __init__(
        self,
        *,
        threads: int,
        max_queue: int,
        max_batch_tokens: int,
        on_batch: Callable[[int, float], object] | None = None,
    ) -> None:
        """Start the threads.

        Args:
            threads: Batches computed at once.
            max_queue: Texts that may wait.
            max_batch_tokens: Estimated tokens of a batch.
            on_batch: Told the texts and the seconds of each batch, in the thread that computed it.
        """
        self._max_queue = max_queue
        self._max_batch_tokens = max_batch_tokens
        self._on_batch = on_batch
        self._waiting: deque[Pending] = deque()
        self._waiting_texts = 0
        self._waiting_tokens = 0
        self._let_in = 0
        self._ready = threading.Condition(threading.Lock())
        self._closed = False
        self._idle_threads = 0
        self._will_wake = False
        self._seconds_per_token = 0.0
        self._tokens_per_text = 0.0
        self._threads = [threading.Thread(target=self._work, name=f"potstill-{n}", daemon=True) for n in range(threads)]
        for thread in self._threads:
            thread.start()

    @property
    def waiting_texts(self) -> int:
        """Texts in the queue."""
        return self._waiting_texts

    @property
    def idle_threads(self) -> int:
        """Threads that compute nothing."""
        return self._idle_threads

    def expected_wait_s(self, tokens: float = 0) -> float:
        """Return how long a request of so many tokens that came now would wait, by what the last batches took."""
        return (self._waiting_tokens + tokens) * self._seconds_per_token / len(self._threads)

    def refuse_if_full(self, texts: int, *, tokens: float, deadline_s: float) -> None:
        """Refuse what could not be answered in time.

        Raises:
            Refusal: The queue is full, or its expected wait takes too much of the deadline.
        """
        wait = self.expected_wait_s(tokens)
        # A large request into an empty queue is taken whatever its size: nothing it waits for would make it smaller.
        if self._waiting_texts and (self._waiting_texts + texts > self._max_queue or wait > WAIT_SHARE * deadline_s):
            raise Refusal(Reason.OVERLOADED, "the server is busy; try again later", retry_after_s=max(1, round(wait)))

    def let_in(self, *, deadline_s: float) -> None:
        """Refuse a request of which only the head is known, where one text more could not be answered in time.

        Those let in are counted until the event loop's next turn, in which they queue up: of a burst that is read at once
        each would else find the room that there is for one.

        Raises:
            Refusal: As `refuse_if_full`.
        """
        coming = self._let_in + 1
        self.refuse_if_full(coming, tokens=coming * self._tokens_per_text, deadline_s=deadline_s)
        if not self._let_in:
            asyncio.get_running_loop().call_soon(self._forget_let_in)
        self._let_in = coming

    def _forget_let_in(self) -> None:
        self._let_in = 0

    async def submit(
        self, texts: Sequence[TextInput], engine: Engine, *, deadline_s: float, is_wanted: Callable[[], bool] = lambda: True
    ) -> list[RowAnswer]:
        """Return the answers, in the texts' order.

        Args:
            texts: At least one.
            engine: Who answers; all texts are answered by it, whatever is swapped in meanwhile.
            deadline_s: Seconds until nobody wants the answer.
            is_wanted: Tells whether the client is still there; asked from other threads.

        Raises:
            Refusal: The queue is full, or the deadline passed.
        """
        loop = asyncio.get_running_loop()
        costs = [_estimated_tokens(text, engine.max_length) for text in texts]
        tokens = sum(costs)
        self.refuse_if_full(len(texts), tokens=tokens, deadline_s=deadline_s)
        asked = Pending(texts, engine, loop.create_future(), costs, is_wanted, answers=[None] * len(texts), missing=len(texts))
        due = time.monotonic() + deadline_s
        timer = loop.call_later(deadline_s, _end, asked.future, late())
        with self._ready:
            self._waiting.append(asked)
            self._waiting_texts += len(texts)
            self._waiting_tokens += tokens
        if not self._will_wake:
            self._will_wake = True
            loop.call_soon(self._wake)
        try:
            answers = await asked.future
        finally:
            timer.cancel()
        if time.monotonic() > due:  # a loop that was busy hands an answer out before the timer has its say
            raise late()
        return answers

    def close(self) -> None:
        """Let the threads end when the queue is empty, and wait for them."""
        with self._ready:
            self._closed = True
            self._ready.notify_all()
        for thread in self._threads:
            thread.join()

    def _wake(self) -> None:
        """Wake a thread, once for all requests that the event loop read in one turn: they make one batch, not many."""
        self._will_wake = False
        with self._ready:
            self._ready.notify()

    def _work(self) -> None:
        while batch := self._next_batch():
            started = time.perf_counter()
            answers = _answered(batch)
            texts, tokens = _texts_in(batch), sum(portion.tokens for portion in batch)
            seconds = time.perf_counter() - started
            self._seconds_per_token = _followed(self._seconds_per_token, seconds / tokens)
            self._tokens_per_text = _followed(self._tokens_per_text, tokens / texts)
            if self._on_batch is not None:
                self._on_batch(texts, seconds)
            try:
                batch[0].asked.future.get_loop().call_soon_threadsafe(_deliver, batch, answers)
            except RuntimeError:  # the loop is closed: nobody waits
                return

    def _next_batch(self) -> list[Portion]:
        """Wait for work and return a batch of one engine's texts; empty when closed."""
        with self._ready:
            self._idle_threads += 1
            while True:
                batch = self._take()
                if batch or (self._closed and not self._waiting):
                    self._idle_threads -= 1
                    return batch
                self._ready.wait()

    def _take(self) -> list[Portion]:
        batch: list[Portion] = []
        # Its share among those that compute nothing: one would else take it all, and the others wait for the next to come.
        room = min(self._max_batch_tokens, -(-self._waiting_tokens // self._idle_threads))
        unfinished: list[Pending] = []
        while self._waiting and room > 0:
            asked = self._waiting[0]
            if asked.is_over:
                self._waiting.popleft()
                self._waiting_texts -= len(asked.texts) - asked.taken
                self._waiting_tokens -= asked.waiting_tokens
                _leave(asked)
                continue
            if batch and asked.engine is not batch[0].asked.engine:
                break
            self._waiting.popleft()
            start, spent = asked.taken, 0
            while asked.taken < len(asked.texts) and (
                not spent or spent + asked.cost[asked.taken] <= min(PORTION_TOKENS, room)
            ):
                spent += asked.cost[asked.taken]
                asked.taken += 1
            room -= spent
            batch.append(Portion(asked, start, asked.taken))
            if asked.taken < len(asked.texts):
                unfinished.append(asked)
        self._waiting_texts -= _texts_in(batch)
        self._waiting_tokens -= sum(portion.tokens for portion in batch)
        self._waiting.extend(unfinished)
        if self._waiting:
            self._ready.notify()
        return batch


def late() -> Refusal:
    """Return the refusal of a request whose deadline has passed."""
    return Refusal(Reason.LATE, "the answer was not ready by the deadline")


def _texts_in(batch: Sequence[Portion]) -> int:
    return sum(portion.stop - portion.start for portion in batch)


def _followed(before: float, seen: float) -> float:
    """Return a mean of the last ten or so, the first one alone."""
    return before + 0.1 * (seen - before) if before else seen


def _estimated_tokens(text: TextInput, max_length: int) -> int:
    chars = len(text) if isinstance(text, str) else len(text[0]) + len(text[1])
    return min(max_length, chars // CHARS_PER_TOKEN + 2)


def _leave(asked: Pending) -> None:
    """End a request whose client went away: it would wait for its deadline, and an orderly end for it."""
    with suppress(RuntimeError):  # the loop is closed: nobody waits
        asked.future.get_loop().call_soon_threadsafe(_end, asked.future, Refusal(Reason.GONE, "the client went away"))


def _end(future: asyncio.Future[list[RowAnswer]], refusal: Refusal) -> None:
    if not future.done():
        future.set_exception(refusal)


def _answered(batch: list[Portion]) -> list[list[RowAnswer] | Exception]:
    """Return each portion's answers, or what went wrong with it: a text that cannot be answered is its own request's loss."""
    try:
        together = batch[0].asked.engine.answer([text for portion in batch for text in portion.texts])
    except Exception as exc:  # noqa: BLE001  # a worker: what fails belongs to a request, not to the thread
        return [exc] if len(batch) == 1 else [_answered([portion])[0] for portion in batch]
    at = iter(together)
    return [list(islice(at, portion.stop - portion.start)) for portion in batch]


def _deliver(batch: list[Portion], answers: list[list[RowAnswer] | Exception]) -> None:
    """Hand out a batch's answers, in the event loop."""
    for portion, answer in zip(batch, answers, strict=True):
        asked = portion.asked
        if asked.future.done():
            continue
        if isinstance(answer, Exception):
            asked.future.set_exception(answer)
            continue
        asked.answers[portion.start : portion.stop] = answer
        asked.missing -= len(answer)
        if not asked.missing:
            asked.future.set_result(cast(list[RowAnswer], asked.answers))

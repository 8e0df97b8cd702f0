"""Admission: how much waits, how long a new request would wait, and the refusal of what cannot be answered in time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from serve.errors import Reason, Refusal

WAIT_SHARE = 1 / 6
"""Refuse a request when its expected wait exceeds this share of its deadline.

The rest is for running batches, the event loop, and wrong estimates.
"""


@dataclass(eq=False)
class Admission:
    """Admission to one queue.

    Attributes:
        threads: How many threads empty the queue.
        max_queue: Texts that may wait.
        waiting_texts: Texts in the queue.
        waiting_tokens: Their estimated tokens.
        let_in_now: Requests let in by their heads that are not in the queue yet.
        seconds_per_token: Moving mean over the last batches.
        tokens_per_text: Moving mean over the last batches.
    """

    threads: int
    max_queue: int
    waiting_texts: int = 0
    waiting_tokens: int = 0
    let_in_now: int = 0
    seconds_per_token: float = 0.0
    tokens_per_text: float = 0.0

    def count(self, texts: int, tokens: int) -> None:
        """Count texts that enter the queue, or with negative numbers leave it; the caller holds the queue's lock."""
        self.waiting_texts += texts
        self.waiting_tokens += tokens

    def learn(self, texts: int, tokens: int, seconds: float) -> None:
        """Update the estimates from one batch."""
        self.seconds_per_token = _moving_mean(self.seconds_per_token, seconds / tokens)
        self.tokens_per_text = _moving_mean(self.tokens_per_text, tokens / texts)

    def expected_wait_s(self, tokens: float = 0) -> float:
        """Return how long a new request of this many tokens would wait, estimated from the last batches."""
        return (self.waiting_tokens + tokens) * self.seconds_per_token / self.threads

    def refuse_if_full(self, texts: int, *, tokens: float, deadline_s: float) -> None:
        """Refuse a request that could not be answered in time.

        Raises:
            Refusal: The queue is full, or the expected wait takes too much of the deadline.
        """
        wait = self.expected_wait_s(tokens)
        # An empty queue admits a request of any size: waiting would not make it smaller.
        if self.waiting_texts and (self.waiting_texts + texts > self.max_queue or wait > WAIT_SHARE * deadline_s):
            raise Refusal(Reason.OVERLOADED, "the server is busy; try again later", retry_after_s=max(1, round(wait)))

    def let_in(self, *, deadline_s: float) -> None:
        """Refuse a request by its head alone, when one more text could not be answered in time.

        Requests let in are counted until the event loop's next turn, when they are in the queue: otherwise each request of
        a burst that is read at once would find the same free place.

        Raises:
            Refusal: As in `refuse_if_full`.
        """
        coming = self.let_in_now + 1
        self.refuse_if_full(coming, tokens=coming * self.tokens_per_text, deadline_s=deadline_s)
        if not self.let_in_now:
            asyncio.get_running_loop().call_soon(setattr, self, "let_in_now", 0)
        self.let_in_now = coming


def _moving_mean(before: float, seen: float) -> float:
    """Return an exponential moving mean over about ten values; the first value counts fully."""
    return before + 0.1 * (seen - before) if before else seen

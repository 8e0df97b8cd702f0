"""Admission: how much waits, how long a new request would wait, and the refusal of what cannot be answered in time."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from serve.errors import Reason, Refusal

WAIT_SHARE = 1 / 6
"""Refuse a request when its expected wait exceeds this share of its deadline.

The rest is for running batches, the event loop, and wrong estimates.
"""

TURN_TOKENS = 128
"""Tokens that a request may put into a batch before another client, or another request of the same client, has its turn."""


@dataclass(eq=False)
class Admission:
    """Admission to one queue, whose clients are served in turn.

    Attributes:
        threads: How many threads empty the queue.
        max_queue: Texts that may wait.
        waiting_texts: Texts and windows of long texts in the queue.
        waiting_tokens: Their tokens; an estimate for those that have not been read yet.
        texts_of: Texts in the queue by client.
        tokens_of: Tokens in the queue by client.
        let_in_now: Requests let in by their heads that are not in the queue yet, by client.
        seconds_per_token: Moving mean over the last batches.
        tokens_per_text: Moving mean over the last batches.
    """

    threads: int
    max_queue: int
    waiting_texts: int = 0
    waiting_tokens: int = 0
    texts_of: Counter[str] = field(default_factory=Counter)
    tokens_of: Counter[str] = field(default_factory=Counter)
    let_in_now: Counter[str] = field(default_factory=Counter)
    seconds_per_token: float = 0.0
    tokens_per_text: float = 0.0

    def count(self, client: str, texts: int, tokens: int) -> None:
        """Count texts that enter the queue, or with negative numbers leave it; the caller holds the queue's lock."""
        self.waiting_texts += texts
        self.waiting_tokens += tokens
        self.texts_of[client] += texts
        self.tokens_of[client] += tokens
        if not self.texts_of[client]:
            del self.texts_of[client], self.tokens_of[client]

    def learn(self, texts: int, tokens: int, seconds: float) -> None:
        """Update the estimates from one batch."""
        self.seconds_per_token = _moving_mean(self.seconds_per_token, seconds / tokens)
        self.tokens_per_text = _moving_mean(self.tokens_per_text, tokens / texts)

    def estimate(self, texts: int) -> int:
        """Return how many tokens texts have that have not been read."""
        return round(texts * self.tokens_per_text)

    def expected_wait_s(self, client: str, tokens: float = 0) -> float:
        """Return how long a new request of this many tokens would wait, estimated from the last batches.

        Before it come the other requests of its client, and of each other client as much, and the turn that has begun.
        """
        own = self.tokens_of[client] + tokens
        num_others = len(self.texts_of) - (client in self.texts_of)
        others = min(self.waiting_tokens - self.tokens_of[client], num_others * (own + TURN_TOKENS))
        return (own + others) * self.seconds_per_token / self.threads

    def refuse_if_full(self, client: str, texts: int, *, tokens: float, deadline_s: float) -> None:
        """Refuse a request that could not be answered in time.

        A full queue still takes requests of clients that have less than their share of it; `greediest` makes room.

        Raises:
            Refusal: The client's share of the queue is full, or the expected wait takes too much of the deadline.
        """
        wait = self.expected_wait_s(client, tokens)
        num_clients = len(self.texts_of) + (client not in self.texts_of)
        is_full = self.waiting_texts + texts > self.max_queue and self.texts_of[client] + texts > self.max_queue // num_clients
        # An empty queue admits a request of any size: waiting would not make it smaller.
        if self.waiting_texts and (is_full or wait > WAIT_SHARE * deadline_s):
            raise busy(wait)

    def let_in(self, client: str, *, deadline_s: float) -> None:
        """Refuse a request by its head alone, when one more text could not be answered in time.

        Requests let in are counted until the event loop's next turn, when they are in the queue: otherwise each request of
        a burst that is read at once would find the same free place.

        Raises:
            Refusal: As in `refuse_if_full`.
        """
        coming = self.let_in_now[client] + 1
        self.refuse_if_full(client, coming, tokens=coming * self.tokens_per_text, deadline_s=deadline_s)
        if not self.let_in_now:
            asyncio.get_running_loop().call_soon(self.let_in_now.clear)
        self.let_in_now[client] = coming

    def greediest(self) -> str | None:
        """Return the client with the most texts if there are too many in the queue, and it is not alone."""
        if self.waiting_texts <= self.max_queue or len(self.texts_of) < 2:
            return None
        return max(self.texts_of, key=self.texts_of.__getitem__)


def busy(wait_s: float) -> Refusal:
    """Return the refusal of a request that finds no room, or loses it to a client that has less."""
    return Refusal(Reason.OVERLOADED, "the server is busy; try again later", retry_after_s=max(1, round(wait_s)))


def _moving_mean(before: float, seen: float) -> float:
    """Return an exponential moving mean over about ten values; the first value counts fully."""
    return before + 0.1 * (seen - before) if before else seen

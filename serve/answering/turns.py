"""Whose turn it is: clients share by what they take, and the requests of one client take turns."""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from typing import Generic, TypeVar

Request = TypeVar("Request")

MOST_REMEMBERED = 1024
"""Clients without a request whose place is remembered."""


class Turns(Generic[Request]):
    """Requests that wait. Next is the client that has taken least since it has been waiting; not thread-safe.

    A client that comes begins where the one whose turn it is stands: it waits for at most one turn of each other client, and
    cannot save turns up. One that comes again is no further than its last turn took it (start-time fair queueing, Goyal et
    al., 1996).
    """

    def __init__(self) -> None:
        self._lines: dict[str, deque[Request]] = {}
        # Where a client stands, and when it came there, because of several that stand at one place the first goes first.
        self._places: list[tuple[float, int, str]] = []
        # Where those that have left would stand, if that is ahead of everyone.
        self._ahead: dict[str, float] = {}
        self._now = 0.0
        self._arrivals = itertools.count()

    def __bool__(self) -> bool:
        """Return whether a request waits."""
        return bool(self._lines)

    def add(self, client: str, request: Request) -> None:
        """Put a request behind the others of its client."""
        if client not in self._lines:
            self._lines[client] = deque()
            place = max(self._now, self._ahead.pop(client, 0.0))
            heapq.heappush(self._places, (place, next(self._arrivals), client))
        self._lines[client].append(request)

    def first(self) -> Request:
        """Return the request whose turn it is."""
        return self._lines[self._places[0][2]][0]

    def end_turn(self, cost: float, *, is_done: bool) -> None:
        """Record what the first request took in its turn; it leaves, or goes behind the others of its client."""
        self._now, _, client = self._places[0]
        line = self._lines[client]
        request = line.popleft()
        if not is_done:
            line.append(request)
        if line:
            heapq.heapreplace(self._places, (self._now + cost, next(self._arrivals), client))
        else:
            heapq.heappop(self._places)
            self._leave(client, self._now + cost)

    def charge(self, client: str, cost: float) -> None:
        """Record that a turn that has ended took so much more than was expected, or less; nobody saves turns up so."""
        if client not in self._lines:
            self._leave(client, max(self._now, self._ahead.get(client, 0.0)) + cost)
            return
        self._places = [
            (max(self._now, place + cost) if name == client else place, came, name) for place, came, name in self._places
        ]
        heapq.heapify(self._places)

    def drop_last(self, client: str) -> Request | None:
        """Remove and return the last request of a client; None if it has none."""
        line = self._lines.get(client)
        if line is None:
            return None
        request = line.pop()
        if not line:
            self._leave(client, next(place for place, _, name in self._places if name == client))
            self._places = [place for place in self._places if place[2] != client]
            heapq.heapify(self._places)
        return request

    def _leave(self, client: str, place: float) -> None:
        """Remember where a client without a request would stand."""
        self._lines.pop(client, None)
        self._ahead[client] = place
        if len(self._ahead) > MOST_REMEMBERED:
            self._ahead = {name: place for name, place in self._ahead.items() if place > self._now}
        if len(self._ahead) > MOST_REMEMBERED:
            self._ahead.clear()

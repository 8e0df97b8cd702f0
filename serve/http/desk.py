"""Large bodies are read in a thread, one at a time and in turn by client: reading one takes up to a tenth of a second."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

from serve.answering.turns import Turns

Result = TypeVar("Result")

LARGE_BYTES = 64 * 1024
"""The event loop reads a smaller body itself, in a few milliseconds at most."""


class _Place(NamedTuple):
    may_read: asyncio.Future[None]
    size: int


class Desk:
    """Where bodies are read."""

    def __init__(self) -> None:
        """Start no thread until one is needed."""
        self._thread = ThreadPoolExecutor(1, "potstill-bodies")
        self._turns: Turns[_Place] = Turns()
        self._is_busy = False

    async def read(self, read: Callable[[], Result], *, client: str, size: int) -> Result:
        """Return what `read` returns; it is called in the event loop if the body is small, else in the thread in its turn."""
        if size < LARGE_BYTES:
            return read()
        loop = asyncio.get_running_loop()
        if self._is_busy:
            place = _Place(loop.create_future(), size)
            self._turns.add(client, place)
            await place.may_read
        self._is_busy = True
        try:
            return await loop.run_in_executor(self._thread, read)
        finally:
            self._next()

    def close(self) -> None:
        """Let the thread end."""
        self._thread.shutdown()

    def _next(self) -> None:
        """Let the next body be read; the desk stays busy until then, so that none that just came goes before it."""
        self._is_busy = False
        while self._turns and not self._is_busy:
            place = self._turns.first()
            self._turns.end_turn(place.size, is_done=True)
            if not place.may_read.cancelled():
                place.may_read.set_result(None)
                self._is_busy = True

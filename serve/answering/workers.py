"""The threads that compute: one that hangs or dies is replaced. Knows nothing of texts, requests or models."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

logger = logging.getLogger(__name__)

LOOK_S = 1.0
"""Seconds between two looks at the workers, at most."""

Work = TypeVar("Work")


class Worker(Generic[Work]):
    """One thread and what it computes.

    Attributes:
        thread: The thread; daemonic, so that one that hangs does not keep the process.
        is_dead: It ended by an exception.
        is_given_up: It hangs or died, and what it computes is not waited for.
        is_replaced: Another worker has its place; the thread ends when it comes back.
    """

    def __init__(self, run: Callable[[Worker[Work]], object], name: str) -> None:
        """Start the thread."""
        self.is_dead = self.is_given_up = self.is_replaced = False
        self._run = run
        self._lock = threading.Lock()
        self._work: Work | None = None
        self._since = 0.0
        self.thread = threading.Thread(target=self._main, name=name, daemon=True)
        self.thread.start()

    def begin(self, work: Work) -> None:
        """Record what is computed from now on."""
        with self._lock:
            self._work, self._since = work, time.monotonic()

    def end(self) -> None:
        """Record that it is computed."""
        with self._lock:
            self._work, self.is_given_up = None, False

    def give_up(self, limit_s: float) -> Work | None:
        """Return what it has computed for longer than the limit, or was computing when it died; each work only once."""
        with self._lock:
            if self._work is None or self.is_given_up or not (self.is_dead or time.monotonic() - self._since > limit_s):
                return None
            self.is_given_up = True
            return self._work

    def _main(self) -> None:
        try:
            self._run(self)
        except BaseException:  # a panic of a native library is no Exception
            logger.exception("a worker died")
            self.is_dead = True


class Crew(Generic[Work]):
    """A number of workers, and a thread that looks after them.

    Attributes:
        is_answering: At least one worker is idle or within the limit. Without any, only a new process helps: so many threads
            hang that no more are started.
    """

    def __init__(
        self,
        run: Callable[[Worker[Work]], object],
        *,
        threads: int,
        limit_s: float,
        on_lost: Callable[[Work], object],
        on_replaced: Callable[[], object],
    ) -> None:
        """Start the threads.

        Args:
            run: What each thread does; it calls `begin` and `end`, and returns when its worker is replaced.
            threads: How many; as many more may hang before replacements end.
            limit_s: Longest time between `begin` and `end`.
            on_lost: Receives what a worker that hangs or died was computing.
            on_replaced: Called for each replacement.
        """
        self.is_answering = True
        self._run, self._limit_s, self._on_lost, self._on_replaced = run, limit_s, on_lost, on_replaced
        self._hanging: list[Worker[Work]] = []
        self._workers = [Worker(run, f"potstill-{place}") for place in range(threads)]
        self._is_closing = threading.Event()
        self._watch = threading.Thread(target=self._look_on, name="potstill-watch", daemon=True)
        self._watch.start()

    def close(self) -> None:
        """Wait for the threads, for one that hangs no longer than the limit."""
        self._is_closing.set()
        self._watch.join()
        until = time.monotonic() + self._limit_s
        for worker in self._workers:
            worker.thread.join(0 if worker.is_given_up else max(0.0, until - time.monotonic()))

    def _look_on(self) -> None:
        while not self._is_closing.wait(min(LOOK_S, self._limit_s / 4)):
            self._look()

    def _look(self) -> None:
        """Give up what takes too long, and replace the workers that do not come back."""
        self._hanging = [worker for worker in self._hanging if worker.thread.is_alive()]
        for place, worker in enumerate(self._workers):
            work = worker.give_up(self._limit_s)
            if work is not None:
                logger.error("a worker hangs or died; its requests get 503")
                self._on_lost(work)
            if worker.is_dead or (worker.is_given_up and len(self._hanging) < len(self._workers)):
                worker.is_replaced = True
                self._hanging.append(worker)
                self._on_replaced()  # before the new thread answers: whoever reads the count then finds it
                self._workers[place] = Worker(self._run, worker.thread.name)
        self.is_answering = not all(worker.is_given_up for worker in self._workers)

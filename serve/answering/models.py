"""A served model: its current engine, queue and cache, and reloading without interruption."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from queue import SimpleQueue
from typing import Literal, cast

from distill.classifier import TextInput
from distill.errors import SettingsError
from distill.settings import LongTexts
from export.trust.pins import TrustSettings
from serve.answering.engine import Engine, RowAnswer
from serve.answering.metrics import Metrics
from serve.answering.queue import Batcher
from serve.errors import Reason, Refusal, error_of, without_frames
from serve.settings import LimitSettings, ServeSettings

logger = logging.getLogger(__name__)


class AnswerCache:
    """Answers by the digest of their text; drops the least recently used. Not thread-safe."""

    def __init__(self, entries: int) -> None:
        self._entries = entries
        self._answers: OrderedDict[bytes, RowAnswer] = OrderedDict()

    @staticmethod
    def key_of(text: TextInput, version: str, long_texts: str) -> bytes:
        """Return the digest of what decides an answer; lengths keep the parts of a pair apart."""
        parts = (long_texts, *((text,) if isinstance(text, str) else text))
        content = b"".join(len(part).to_bytes(8, "big") + part.encode("utf-8", "surrogatepass") for part in parts)
        return hashlib.blake2b(content, digest_size=16, key=version.encode()).digest()

    def get(self, key: bytes) -> RowAnswer | None:
        """Return the answer; None when it is not cached."""
        if key in self._answers:
            self._answers.move_to_end(key)
        return self._answers.get(key)

    def put(self, key: bytes, answer: RowAnswer) -> None:
        """Store an answer; a full cache drops the least recently used one."""
        self._answers[key] = answer
        if len(self._answers) > self._entries:
            self._answers.popitem(last=False)


@dataclass(frozen=True)
class ModelSource:
    """How to open a model.

    Attributes:
        name: Its name in routes and metrics.
        path: The folder of its bundle.
        limits: Limits of its requests.
        open: Opens an engine from a folder and runs its self-check.
        watch: Called once with the server's metrics, to register more.
    """

    name: str
    path: Path
    limits: LimitSettings
    open: Callable[[Path], Engine]
    watch: Callable[[Metrics], object] = lambda _: None

    @classmethod
    def of_bundle(cls, name: str, path: Path, limits: LimitSettings, trust: TrustSettings = TrustSettings()) -> ModelSource:
        """Return the source of a single bundle; `trust` is required again of every bundle that a reload opens."""
        return cls(name, path, limits, partial(Engine.open, precision=limits.precision, trust=trust))


class Model:
    """One model that requests can name.

    Attributes:
        name: Its name in routes and metrics.
        limits: Limits of its requests.
        engine: Answers new requests; a reload replaces it.
        batcher: Its queue.
    """

    def __init__(self, source: ModelSource, settings: ServeSettings, metrics: Metrics, *, threads: int) -> None:
        """Open the bundle and start the threads; raises what opening raises."""
        self.name = source.name
        self.limits = source.limits
        self._source = source
        self._metrics = metrics
        self.engine = source.open(source.path)
        source.watch(metrics)
        self._cache = AnswerCache(self.limits.cache_entries) if self.limits.cache_entries else None
        self._reloading = asyncio.Lock()
        self._reloads_waiting = 0
        self._reload_timeout_s = settings.reload_timeout_s
        self._to_open: SimpleQueue[tuple[Path, Future[Engine]]] = SimpleQueue()
        self._opener: threading.Thread | None = None
        self._is_opening = False
        self.batcher = Batcher(
            threads=threads,
            max_queue=self.limits.max_queue,
            max_batch_tokens=settings.max_batch_tokens,
            timeout_s=settings.batch_timeout_s,
            on_batch=partial(metrics.count_batch, self.name),
            on_replaced=metrics.replaced.labels(self.name).inc,
        )
        metrics.answering.labels(self.name).set_function(lambda: self.batcher.is_answering)
        metrics.queue.labels(self.name).set_function(lambda: self.batcher.admission.waiting_texts)
        metrics.queue_tokens.labels(self.name).set_function(lambda: self.batcher.admission.waiting_tokens)
        metrics.queue_clients.labels(self.name).set_function(lambda: len(self.batcher.admission.texts_of))
        metrics.idle.labels(self.name).set_function(lambda: self.batcher.idle_threads)

    def require_answering(self) -> None:
        """Refuse what would wait for workers that hang."""
        if not self.batcher.is_answering:
            raise Refusal(Reason.NOT_READY, "the model does not answer", retry_after_s=1)

    def require_acceptable(self, texts: Sequence[TextInput]) -> None:
        """Refuse too long and empty texts."""
        for part in chain.from_iterable((text,) if isinstance(text, str) else text for text in texts):
            if not part:
                raise Refusal(Reason.INVALID, "a text is empty")
            if len(part) > self.limits.max_text_chars:
                raise Refusal(
                    Reason.INVALID, f"a text has {len(part)} characters; at most {self.limits.max_text_chars} are accepted"
                )

    async def answer(
        self,
        engine: Engine,
        texts: Sequence[TextInput],
        *,
        client: str,
        truncate: bool | None,
        deadline_s: float,
        is_wanted: Callable[[], bool],
    ) -> list[RowAnswer]:
        """Return the answers in the order of the texts; cached ones do not go through the queue.

        Args:
            engine: Answers all texts.
            texts: At least one.
            client: Who asks.
            truncate: Whether long texts are cut; None: as the limits say.
            deadline_s: Seconds until the answer is no longer wanted.
            is_wanted: Returns whether the client is still connected.
        """
        long_texts = _long_texts(truncate, self.limits.long_texts)
        submit = partial(
            self.batcher.submit, engine=engine, client=client, long_texts=long_texts, deadline_s=deadline_s, is_wanted=is_wanted
        )
        if self._cache is None:
            return await submit(texts)
        keys = [AnswerCache.key_of(text, engine.version, long_texts) for text in texts]
        answers = [self._cache.get(key) for key in keys]
        missing = [place for place, answer in enumerate(answers) if answer is None]
        self._metrics.count_cache(self.name, hits=len(texts) - len(missing), misses=len(missing))
        if missing:
            for place, answer in zip(missing, await submit([texts[place] for place in missing]), strict=True):
                answers[place] = answer
                self._cache.put(keys[place], answer)
        return cast(list[RowAnswer], answers)

    async def reload(self, path: Path | None = None) -> Engine:
        """Open a bundle while the old one answers, then replace it; on failure the old one stays.

        One reload runs and one waits, at most.

        Args:
            path: Folder of the new bundle; None reads the current folder again.

        Raises:
            PotstillError: The new bundle is damaged or not trusted, fails its self-check, or has other labels, another task or
                another precision; or a reload waits already.
            OSError: It cannot be read, or not in time.
        """
        if self._reloads_waiting > 1:
            raise SettingsError("a reload is under way and another one waits; try again later")
        self._reloads_waiting += 1
        try:
            return await self._reload(path)
        finally:
            self._reloads_waiting -= 1

    async def _reload(self, path: Path | None) -> Engine:
        async with self._reloading:
            folder = path or self._source.path
            try:
                fresh = await self._opened(folder)
                _require_same_kind(fresh, self.engine)
            except Exception as exc:
                self._metrics.reloads.labels(self.name, "failed").inc()
                logger.warning("reload of %s failed, still serving version %s: %s", self.name, self.engine.version, exc)
                raise
            self._source = replace(self._source, path=folder)
            self.engine = fresh
            self._metrics.reloads.labels(self.name, "done").inc()
            logger.info("reloaded %s: version %s", self.name, fresh.version)
            return fresh

    async def _opened(self, folder: Path) -> Engine:
        """Open a bundle in a daemonic thread: one that hangs keeps neither the server nor the process."""
        if self._is_opening:
            raise SettingsError("an earlier reload still hangs; restart the server")
        if self._opener is None:
            # One thread for all reloads: memory that the allocator keeps for a thread is used again.
            self._opener = threading.Thread(target=self._open_in_turn, name="potstill-reload", daemon=True)
            self._opener.start()
        found: Future[Engine] = Future()
        found.set_running_or_notify_cancel()
        self._is_opening = True
        self._to_open.put((folder, found))
        async with asyncio.timeout(self._reload_timeout_s):
            return await asyncio.wrap_future(found)

    def _open_in_turn(self) -> None:
        while True:
            folder, found = self._to_open.get()
            try:
                opened = self._source.open(folder)
            except BaseException as exc:  # noqa: BLE001  # raised where the result is awaited
                self._is_opening = False
                found.set_exception(without_frames(error_of(exc)))
            else:
                self._is_opening = False
                found.set_result(opened)
                del opened
            del found  # it holds the engine


def _long_texts(truncate: bool | None, limit: LongTexts | Literal["refuse"]) -> LongTexts | Literal["refuse"]:
    """Return what happens to long texts of a request; in windows nothing is cut, so that one that forbids cutting gets them."""
    if truncate is None or (not truncate and limit == "windows"):
        return limit
    return "truncate" if truncate else "refuse"


def _require_same_kind(fresh: Engine, served: Engine) -> None:
    found, kept = fresh.kind(), served.kind()
    for name, value in kept.items():
        if found[name] != value:
            raise SettingsError(
                f"the new bundle has {name} {found[name]}, the served one has {value}; serve it under another name or restart "
                "the server"
            )

"""The server: uvicorn with limits of time and size on what arrives, and an orderly end. Knows sockets and signals."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from types import FrameType
from typing import Any

from distill.errors import requires
from serve.http.app import ANSWER, IS_WANTED, App, Receive, Scope, Send, headers_of
from serve.http.protocols.base import Headers, Reply
from serve.settings import ServeSettings

with requires("serving"):
    import uvicorn
    from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

logger = logging.getLogger(__name__)

Application = Callable[[Scope, Receive, Send], Awaitable[None]]

EarlyRefusal = Callable[[str, str, Headers], tuple[Reply, str] | None]

MAX_HEAD_BYTES = 32 * 1024
BACKLOG = 2048
GC_THRESHOLDS = (20_000, 20, 100)
"""Objects made and not freed before a young collection, and how many of one generation before the next is collected."""
LAST_ANSWERS_S = 0.3
"""After the last new connection: how long those that are open may still ask before idle ones are closed."""


class Connection(HttpToolsProtocol):
    """uvicorn's connection, which also knows since when a head is arriving, how long it is, and whether the client is there."""

    def __init__(self, *arguments: Any, refuse: EarlyRefusal | None = None, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._refuse = refuse
        self._is_refused = False
        self.waits_since: float | None = None
        self.is_there = True
        self._has_asked = False
        self._head_bytes = 0
        self._cycles: deque[RequestResponseCycle] = deque()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a first request."""
        super().connection_made(transport)
        self.waits_since = time.monotonic()

    def connection_lost(self, exc: Exception | None) -> None:
        """Remember that nobody is there, and tell every request that is not answered yet."""
        self.is_there = False
        super().connection_lost(exc)
        # uvicorn tells the last one only: pipelined ones before it would write to a closed connection, and log a traceback.
        for cycle in self._cycles:
            if not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()

    def on_message_begin(self) -> None:
        """Begin to read a head."""
        super().on_message_begin()
        self._has_asked = True
        self.waits_since = time.monotonic()
        self._head_bytes = 0
        self.scope[IS_WANTED] = self._is_wanted  # type: ignore[literal-required]

    def on_url(self, url: bytes) -> None:
        """Read a piece of the URL, within the limit."""
        self._count_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Read a header, within the limit."""
        self._count_head(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Refuse at once what there is no time for; hand the rest to the application, which limits the time of the body."""
        self.waits_since = None
        self._is_refused = self._was_refused()
        if self._is_refused:
            return
        super().on_headers_complete()
        while self._cycles and self._cycles[0].response_complete:
            self._cycles.popleft()
        if self.cycle is not None:
            self._cycles.append(self.cycle)
            # uvicorn 0.34 leaves a client's wish to close to its own sending of the answer.
            self.cycle.keep_alive = self.cycle.keep_alive and self.parser.should_keep_alive()
            if self._refuse is not None:
                self.scope[ANSWER] = partial(self._answer, self.cycle)  # type: ignore[literal-required]

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body, or pass over that of a request that was refused."""
        if not self._is_refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Take the end of a body."""
        if not self._is_refused:
            super().on_message_complete()

    def _was_refused(self) -> bool:
        """Ask at the door, and say no on the connection itself: without a task, without the application's messages."""
        if self._refuse is None or (self.cycle is not None and not self.cycle.response_complete):
            return False  # an answer may stand before this one
        if not self.parser.should_keep_alive() or self.parser.get_http_version() != "1.1" or self.transport.is_closing():
            return False
        path = self.url.partition(b"?")[0].decode("latin-1")
        refused = self._refuse(self.parser.get_method().decode("latin-1"), path, dict(self.headers))
        if refused is None:
            return False
        reply, request_id = refused
        self._write(reply.status, headers_of(reply, request_id), reply.body)
        self.on_response_complete()
        return True

    def _answer(self, cycle: RequestResponseCycle, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> bool:
        """Answer a request in one write: uvicorn's two are two system calls, and wake the client twice."""
        if self.flow.write_paused or cycle.response_started:
            return False
        if cycle.disconnected:
            return True
        if (b"connection", b"close") in headers:
            cycle.keep_alive = False
        elif not cycle.keep_alive:
            headers = [*headers, (b"connection", b"close")]
        self._write(status, headers, b"" if cycle.scope["method"] == "HEAD" else body)
        cycle.response_started = cycle.response_complete = True
        cycle.message_event.set()
        if not cycle.keep_alive:
            self.transport.close()
        cycle.on_response()
        return True

    def _write(self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> None:
        lines = [name + b": " + value for name, value in (*self.server_state.default_headers, *headers)]
        self.transport.write(STATUS_LINE[status] + b"\r\n".join(lines) + b"\r\n\r\n" + body)

    def give_up_if_slow(self, now: float, *, head_s: float, idle_s: float) -> None:
        """Close a connection whose head has been arriving for too long, or that has never asked anything for longer still."""
        if self.waits_since is None or self.transport.is_closing():
            return
        waited_s = now - self.waits_since
        # Nothing is said to who has not asked: it would be taken for the answer to a request that is on its way just then.
        if self._has_asked and waited_s > head_s:
            self.transport.write(b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
            self.transport.close()
        elif not self._has_asked and waited_s > idle_s:
            self.transport.close()

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES:
            raise ValueError("the head is too long")  # the parser turns it into its own error, uvicorn that into 400

    def _is_wanted(self) -> bool:
        return self.is_there


class Server(uvicorn.Server):
    """uvicorn's server, with the signals of this one."""

    def __init__(self, app: App, settings: ServeSettings, *, wrapped: Application | None = None) -> None:
        """Take the application, and what is called in its place where something stands around it."""
        super().__init__(
            uvicorn.Config(
                wrapped or app,
                host=settings.host,
                port=settings.port,
                http=partial(Connection, refuse=None if wrapped else app.refused_at_the_door),  # type: ignore[arg-type]
                loop="uvloop" if sys.platform != "win32" else "asyncio",
                ws="none",
                proxy_headers=False,
                lifespan="off",
                access_log=False,
                log_config=None,
                server_header=False,
                date_header=True,
                backlog=BACKLOG,
                timeout_keep_alive=max(1, round(settings.keep_alive_s)),
                timeout_graceful_shutdown=max(1, round(settings.shutdown_s)),
                ssl_certfile=settings.tls_certificate,
                ssl_keyfile=settings.tls_key,
            )
        )
        self._app = app
        self._settings = settings
        self._loop: asyncio.AbstractEventLoop | None = None
        self._reloads: set[asyncio.Task[None]] = set()
        self.was_forced = False

    async def startup(self, sockets: Any = None) -> None:
        """Listen, and reload on SIGHUP."""
        await super().startup(sockets)
        self._loop = asyncio.get_running_loop()
        if hasattr(signal, "SIGHUP"):
            try:
                self._loop.add_signal_handler(signal.SIGHUP, self._reload)
            except (RuntimeError, ValueError):
                logger.debug("not in the main thread: SIGHUP does not reload")

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: what uvicorn does, and once a second close connections whose head does not come."""
        if counter % 10 == 0:
            now = time.monotonic()
            for connection in list(self.server_state.connections):
                if isinstance(connection, Connection):
                    connection.give_up_if_slow(now, head_s=self._settings.body_timeout_s, idle_s=self._settings.keep_alive_s)
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End in order on the first signal: not ready, then no more connections, then done; at once on the second."""
        if self._app.is_draining:
            self.was_forced = self.should_exit = self.force_exit = True
            return
        self._app.is_draining = True
        logger.info("ending: not ready any more, connections are taken for another %.1f s", self._settings.drain_s)
        if self._loop is None:
            self.should_exit = True
        else:
            self._loop.call_soon_threadsafe(self._loop.call_later, self._settings.drain_s, self._stop)

    async def shutdown(self, sockets: Any = None) -> None:
        """Take no more connections; answer once more on those there are, and say that it is the last time; then close them."""
        # Not told to close before this, clients keep their connections, so that none is in the queue of the listening
        # socket, whose end resets them. One that is closed while idle may have a request on its way.
        self._app.is_closing = True
        for server in self.servers:
            server.close()
        if self.server_state.connections and not self.force_exit:
            await asyncio.sleep(LAST_ANSWERS_S)
        await super().shutdown(sockets)

    def _stop(self) -> None:
        self.should_exit = True

    def _reload(self) -> None:
        task = asyncio.get_running_loop().create_task(self._app.reload_all())
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

    @property
    def url(self) -> str:
        """Where it listens, once it does."""
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        return f"{'https' if self.config.is_ssl else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"

    def _log_started_message(self, listeners: Any) -> None:
        logger.info("serving %s on %s", ", ".join(self._app.models), self.url)


def leave_out_of_collections() -> None:
    """Let the garbage collector look only at what comes from now on, and more seldom.

    A full collection of all modules' objects stops every thread for 25 ms; counting references frees nearly all that
    requests leave behind.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def run(app: App, settings: ServeSettings) -> int:
    """Serve until a signal; return 0, or 1 when a second signal cut it short."""
    leave_out_of_collections()
    if settings.telemetry:
        from serve.http.tracing import Traced, provider_from_environment

        provider = provider_from_environment()
        server = Server(app, settings, wrapped=Traced(app, provider))
        server.run()
        provider.shutdown()
    else:
        server = Server(app, settings)
        server.run()
    if server.was_forced:
        return 1
    app.close()
    return 0

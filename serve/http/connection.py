"""One HTTP connection: uvicorn's, with limits on time and size of the head, early refusals, and answers in one write."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from distill.errors import requires
from serve.http.asgi import ANSWER, IS_WANTED, headers_of
from serve.http.protocols.base import Headers, Reply

with requires("serving"):
    from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

EarlyRefusal = Callable[[str, str, Headers], tuple[Reply, str] | None]
"""From method, path and headers to a refusal and the request's id; None lets the request through."""

MAX_HEAD_BYTES = 32 * 1024


class Connection(HttpToolsProtocol):
    """uvicorn's connection, which also knows how long and how large a head is, and whether the client is still connected."""

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
        """Start waiting for the first request."""
        super().connection_made(transport)
        self.waits_since = time.monotonic()

    def connection_lost(self, exc: Exception | None) -> None:
        """Record that the client is gone, and end every request that is not answered yet."""
        self.is_there = False
        super().connection_lost(exc)
        # uvicorn ends the last one only: earlier pipelined requests would write to a closed connection and log a traceback.
        for cycle in self._cycles:
            if not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()

    def on_message_begin(self) -> None:
        """Start reading a head."""
        super().on_message_begin()
        self._has_asked = True
        self.waits_since = time.monotonic()
        self._head_bytes = 0
        self.scope[IS_WANTED] = lambda: self.is_there  # type: ignore[literal-required]

    def on_url(self, url: bytes) -> None:
        """Read a piece of the URL within the size limit."""
        self._count_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Read a header within the size limit."""
        self._count_head(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Refuse early, or pass the request to the application, which limits the time of the body."""
        self.waits_since = None
        self._is_refused = self._was_refused()
        if self._is_refused:
            return
        super().on_headers_complete()
        while self._cycles and self._cycles[0].response_complete:
            self._cycles.popleft()
        if self.cycle is not None:
            self._cycles.append(self.cycle)
            # uvicorn 0.34 looks at the client's `connection: close` only when it sends the answer itself.
            self.cycle.keep_alive = self.cycle.keep_alive and self.parser.should_keep_alive()
            if self._refuse is not None:
                self.scope[ANSWER] = partial(self._answer, self.cycle)  # type: ignore[literal-required]

    def on_body(self, body: bytes) -> None:
        """Receive a piece of a body; that of a refused request is dropped."""
        if not self._is_refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Receive the end of a body."""
        if not self._is_refused:
            super().on_message_complete()

    def _was_refused(self) -> bool:
        """Refuse the request on the connection itself, without a task and without ASGI messages, if it must be refused."""
        parser, path = self.parser, self.url.partition(b"?")[0].decode("latin-1")
        is_earlier_due = self.cycle is not None and not self.cycle.response_complete
        if self._refuse is None or is_earlier_due or self.transport.is_closing():
            return False
        if not parser.should_keep_alive() or parser.get_http_version() != "1.1":
            return False
        refused = self._refuse(parser.get_method().decode("latin-1"), path, dict(self.headers))
        if refused is not None:
            reply, request_id = refused
            self._write(reply.status, headers_of(reply, request_id), reply.body)
            self.on_response_complete()
        return refused is not None

    def _answer(self, cycle: RequestResponseCycle, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> bool:
        """Answer a request in one write: uvicorn makes two system calls, which wake the client twice."""
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

    def close_if_slow(self, *, head_s: float, idle_s: float) -> None:
        """Close a connection whose head takes longer than `head_s`, or that has sent nothing for `idle_s`."""
        limit_s = head_s if self._has_asked else idle_s
        if self.waits_since is None or time.monotonic() - self.waits_since <= limit_s or self.transport.is_closing():
            return
        # No 408 to a client that has sent nothing: it would take it as the answer to a request it is just sending.
        if self._has_asked:
            self.transport.write(b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
        self.transport.close()

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES:
            raise ValueError("the head is too long")  # the parser raises its own error, which uvicorn answers with 400

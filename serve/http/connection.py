"""One HTTP/1.1 connection on httptools' parser, bounded from the first byte of a message to its end.

Bytes, time and unread answers have limits on every route and for every refusal. Nothing is read while an answer is computed
or waits to be read by the client, so a client that pipelines costs no more than what one read returned.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Protocol, cast

from distill.errors import requires
from serve.errors import Reason, Refusal
from serve.http.call import Call, Message, path_of
from serve.http.crowd import Crowd, address_of
from serve.http.protocols.base import Headers, Reply
from serve.settings import NetworkSettings

with requires("serving"):
    import httptools
    from uvicorn.server import ServerState

logger = logging.getLogger(__name__)

SLICE_BYTES = 1024
"""Bytes parsed at once, except in a body of known length: the parser cannot stop after a message, so this bounds how many
requests it finds while one is answered."""
MAX_HEAD_BYTES = 32 * 1024
"""Bytes of a head, and bytes between two pieces of a body: trailers and extensions of chunks."""
MAX_HEADERS = 100
MAX_UNSENT_BYTES = 64 * 1024
"""Bytes of answers that wait for the client before the next request is looked at."""
FEW_CHUNKS = 1024
"""Chunks of a body that may be of any size; more must have `CHUNK_BYTES` on average, because parsing a chunk costs as much as
hundreds of bytes."""
CHUNK_BYTES = 64
LINGER_S = 1.0
"""Seconds in which the rest of a refused body is still taken: a client whose connection closes while it sends sees a reset
instead of the answer."""

STATUS_LINES = {status.value: b"HTTP/1.1 %d %s\r\n" % (status, status.phrase.encode()) for status in HTTPStatus}
STATUS_LINES[Reason.GONE.value] = b"HTTP/1.1 499 Client Closed Request\r\n"


class Answering(Protocol):
    """The application, as a connection sees it."""

    @property
    def is_closing(self) -> bool:
        """Whether clients are told to close their connections."""

    def judge(self, method: str, path: str, headers: Headers, peer: str) -> Call:
        """Read a head; the call has a reply if the head alone decides it."""

    def refuse(self, call: Call, refusal: Refusal) -> Reply:
        """Return the refusal of a call that was not answered yet."""

    async def answer(self, call: Call, body: bytearray, is_wanted: Callable[[], bool]) -> Reply:
        """Return the answer to a call with its body, which is emptied when it is read; never raises."""

    def headers_of(self, call: Call, reply: Reply) -> list[tuple[bytes, bytes]]:
        """Return the headers of an answer."""


class Connection(asyncio.BufferedProtocol):
    """One connection.

    Attributes:
        address: Of the peer; empty for a unix socket.
        waits_since: `time.monotonic()` since which the client owes bytes, or has not read its answer; None if it owes nothing.
    """

    def __init__(self, app: Answering, *, crowd: Crowd, state: ServerState, settings: NetworkSettings) -> None:
        """Make the protocol of one connection; `state` is that of uvicorn's server."""
        self._app, self._crowd, self._state, self._settings = app, crowd, state, settings
        self.loop = asyncio.get_running_loop()
        self._parser: Any = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self.address = ""
        self.waits_since: float | None = None
        self._is_there = True
        self._message: Message | None = None
        self._queue: deque[Message] = deque()
        self._left_of_body = self._head_bytes = 0
        self._unparsed = b""
        self._is_busy = self._is_unread = self._is_paused = self._has_ended = self._takes_no_more = False
        self._last_words: Refusal | None = None

    # The transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a place among the connections, or close where there is none."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=MAX_UNSENT_BYTES)
        self.address = address_of(transport.get_extra_info("peername"))
        self._state.connections.add(self)  # type: ignore[arg-type]  # it calls `shutdown` of each
        self.waits_since = time.monotonic()
        if not self._crowd.enter(self):
            self.give_way()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Record that the client is gone: its requests leave the queue when their turn comes."""
        self._is_there, self._has_ended = False, True
        self._crowd.leave(self)
        self._state.connections.discard(self)
        self._queue.clear()
        self._message, self._unparsed = None, b""
        self._parser = None  # it refers to this protocol, and a cycle would wait for a garbage collection

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        """Return where to read into."""
        return self._crowd.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Parse what was read."""
        self._receive(self._crowd.buffer[:nbytes])

    def take(self, early: bytes) -> None:
        """Parse what was read before this protocol was that of the transport."""
        self._receive(memoryview(early))

    def eof_received(self) -> None:
        """Let the transport close: a client that ends its sending half cannot be told apart from one that left."""

    def pause_writing(self) -> None:
        """Stop reading and answering until the client has read."""
        self._is_unread = True
        if not self._is_busy:
            self.waits_since = time.monotonic()

    def resume_writing(self) -> None:
        """Go on after the client has read."""
        self._is_unread = False
        if not self._is_busy:
            self.waits_since = time.monotonic()
        self._go_on()

    def shutdown(self) -> None:
        """Close, after the answer that is being computed."""
        if self._is_busy or self._queue:
            self._takes_no_more = True
        else:
            self._end()

    def give_way(self) -> None:
        """Close at once, without an answer."""
        self._has_ended = True
        self._transport.abort()

    def close_if_late(self) -> None:
        """Close a connection that owes a request, the rest of one, or the reading of an answer for too long."""
        # A connection that has not sent anything is as good as an idle one.
        is_idle = not (self._message or self._is_unread or self._has_ended)
        limit_s = self._settings.keep_alive_s if is_idle else self._settings.body_timeout_s
        if self._is_busy or self.waits_since is None or time.monotonic() - self.waits_since <= limit_s:
            return
        message = self._message
        if self._has_ended or self._is_unread:
            self._transport.abort()
        elif message is None or message.is_answered:
            # No 408 to a client that has sent nothing: it would take it as the answer to a request it is just sending.
            self._end()
        elif message.call is None:
            self._fail(Refusal(Reason.TOO_SLOW, "the head did not arrive in time"))
        else:
            self._refuse(message, Refusal(Reason.TOO_SLOW, "the body did not arrive in time"))

    # Reading

    def _receive(self, data: memoryview) -> None:
        """Parse piece by piece, and keep the rest where a request is complete and its answer is due."""
        start = 0
        while start < len(data) and not self._has_ended:
            if self._is_busy or self._queue or self._is_unread:
                self._unparsed = bytes(data[start:])
                self._pause()
                return
            stop = start + max(SLICE_BYTES, self._left_of_body)
            self._parse(data[start:stop])
            start = stop
            if self._transport.get_write_buffer_size() > MAX_UNSENT_BYTES and start < len(data):  # refusals on the head
                self._unparsed = bytes(data[start:])
                self._pause()
                self.loop.call_soon(self._go_on)
                return

    def _parse(self, piece: memoryview) -> None:
        self._head_bytes += len(piece)
        try:
            self._parser.feed_data(piece)
        except httptools.HttpParserUpgrade:
            pass  # no protocol to upgrade to: the request was taken as the last one
        except httptools.HttpParserCallbackError:
            logger.exception("a request could not be taken")
            self._fail(Refusal(Reason.FAILED, "internal error"))
        except httptools.HttpParserError:
            if not (self._has_ended or self._takes_no_more or self._last_words):
                self._fail(Refusal(Reason.MALFORMED, "this is not an HTTP/1.1 request"))
        if self._head_bytes > MAX_HEAD_BYTES and not self._has_ended:
            self._fail(Refusal(Reason.HEAD_TOO_LARGE, f"the head is larger than {MAX_HEAD_BYTES} bytes"))

    def on_message_begin(self) -> None:
        """Start a message."""
        if self._has_ended or self._takes_no_more or self._last_words is not None:
            return
        self._message = Message()
        self.waits_since = time.monotonic()
        if self._crowd.waiting.pop(self, True) is None:
            self._crowd.waiting[self] = None  # at the end of the line

    def on_url(self, url: bytes) -> None:
        """Read a piece of the target."""
        if self._message is not None:
            self._message.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Read a header; trailers are ignored."""
        if self._message is None or self._message.method:
            return
        self._message.headers.append((name.lower(), value))
        if len(self._message.headers) == MAX_HEADERS + 1:
            self._fail(Refusal(Reason.HEAD_TOO_LARGE, f"the head has more than {MAX_HEADERS} headers"))

    def on_headers_complete(self) -> None:
        """Ask the application, unless an earlier answer is still due."""
        message, parser = self._message, self._parser
        if message is None:
            return
        message.method = parser.get_method().decode("ascii")
        message.is_last = parser.get_http_version() != "1.1" or not parser.should_keep_alive() or parser.should_upgrade()
        self.waits_since, self._head_bytes = time.monotonic(), 0
        if not (self._is_busy or self._queue or self._takes_no_more):
            self._judge(message)

    def on_chunk_header(self) -> None:
        """Count a chunk, and refuse a body of too many small ones."""
        message = self._message
        if message is not None:
            message.num_chunks += 1
            if message.num_chunks > FEW_CHUNKS + message.size / CHUNK_BYTES:
                self._refuse(message, Refusal(Reason.MALFORMED, "the body comes in too many small chunks"))

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body, or drop it where it is not read."""
        message = self._message
        if message is None:
            return
        self._head_bytes = 0
        self._left_of_body = max(0, self._left_of_body - len(body))
        message.size += len(body)
        if message.size > self._settings.max_body_bytes:
            self._refuse(message, too_large(self._settings.max_body_bytes))
        elif not message.is_answered and (message.call is None or message.call.takes_body):
            message.body += body
            self._crowd.hold(self, len(body))

    def on_message_complete(self) -> None:
        """Answer the message when its turn comes."""
        message = self._message
        self._message, self._head_bytes, self._left_of_body = None, 0, 0
        if message is None or self._takes_no_more:
            return
        self._takes_no_more = message.is_last
        if message.is_answered:
            self._rest(message)
        else:
            self._queue.append(message)
            self._next()

    # Answering

    def _judge(self, message: Message) -> None:
        """Let the application read the head, and answer at once where it needs no body."""
        headers = dict(message.headers)
        call = message.call = self._app.judge(message.method, path_of(message.target), headers, self.address)
        declared = headers.get(b"content-length", b"")
        awaits = headers.get(b"expect", b"").lower() == b"100-continue"
        if call.reply is not None:
            message.is_last = message.is_last or awaits  # a client that waits for 100 sends no body now
            self._write(message, call, call.reply)
        elif len(declared) > 15 or (declared.isdigit() and int(declared) > self._settings.max_body_bytes):
            self._refuse(message, too_large(self._settings.max_body_bytes))
        elif self._message is message:
            self._left_of_body = int(declared or 0)
            if awaits:
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _next(self) -> None:
        """Answer complete messages in their order until one needs time."""
        while self._queue and not (self._is_busy or self._is_unread or self._has_ended):
            message = self._queue.popleft()
            if message.call is None:
                self._judge(message)
            if message.is_answered or message.call is None:
                self._rest(message)
                continue
            self._is_busy, self.waits_since = True, None
            self._crowd.waiting.pop(self, None)
            task = self.loop.create_task(self._answer(message, message.call))
            self._state.tasks.add(task)
            task.add_done_callback(self._state.tasks.discard)
        if self._last_words is not None and not (self._is_busy or self._queue or self._has_ended):
            self._fail(self._last_words)

    async def _answer(self, message: Message, call: Call) -> None:
        body, message.body = message.body, bytearray()
        reply = await self._app.answer(call, body, self._is_wanted)
        self._is_busy = False
        if self._has_ended:
            return
        self._write(message, call, reply)
        self._rest(message)
        self._go_on()

    def _is_wanted(self) -> bool:
        return self._is_there

    def _rest(self, message: Message) -> None:
        """Wait for the next request after an answer, or end."""
        if message.is_last:
            self._end()
        else:
            self.waits_since = time.monotonic()
            self._crowd.waiting[self] = None

    def _go_on(self) -> None:
        """Answer what waits, then parse what was read, then read on."""
        if self._has_ended:
            return
        self._next()
        if self._unparsed and not (self._is_busy or self._queue or self._is_unread):
            data, self._unparsed = self._unparsed, b""
            self._receive(memoryview(data))
        if self._is_paused and not (self._unparsed or self._is_busy or self._queue or self._is_unread or self._has_ended):
            self._is_paused = False
            self._transport.resume_reading()

    def _pause(self) -> None:
        if not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()

    def _refuse(self, message: Message, refusal: Refusal) -> None:
        """Refuse a message whose body is too large or too slow, and close."""
        if message.is_answered:
            self._linger()
        elif message.call is None:  # it arrived while an earlier one was answered
            self._fail(refusal)
        else:
            message.is_last = True
            self._write(message, message.call, self._app.refuse(message.call, refusal))
            self._linger()

    def _fail(self, refusal: Refusal) -> None:
        """Refuse what is no request, after the answers that are due, and close."""
        self._message = None
        if self._is_busy or self._queue:
            self._last_words, self._unparsed = refusal, b""
            return
        body = refusal.message.encode()
        head = b"content-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        self._transport.write(b"".join([STATUS_LINES[refusal.reason.value], head, body]))
        self._linger()

    def _write(self, message: Message, call: Call, reply: Reply) -> None:
        """Write an answer in one piece: two system calls would wake the client twice."""
        message.is_answered = True
        message.body.clear()
        self._crowd.let_go(self)
        message.is_last = message.is_last or self._app.is_closing or (self._takes_no_more and not self._queue)
        headers = [*self._state.default_headers, *self._app.headers_of(call, reply)]
        if message.is_last:
            headers.append((b"connection", b"close"))
        lines = [name + b": " + value for name, value in headers]
        body = b"" if message.method == "HEAD" else reply.body
        self._transport.write(STATUS_LINES[reply.status] + b"\r\n".join(lines) + b"\r\n\r\n" + body)

    def _linger(self) -> None:
        """Take and drop what still comes for a moment, then close."""
        self._has_ended, self._message, self.waits_since = True, None, time.monotonic()
        self.loop.call_later(LINGER_S, self._transport.close)

    def _end(self) -> None:
        """Close once the answers are sent; `close_if_late` ends a client that does not read them."""
        self._has_ended, self._message, self.waits_since = True, None, time.monotonic()
        self._transport.close()


def too_large(limit: int) -> Refusal:
    """Return the refusal of a body that is larger than this many bytes."""
    return Refusal(Reason.TOO_LARGE, f"the body is larger than {limit} bytes")
